"""Answers as bytes, in both directions (pure), and what an answer comes to.

Real servers differ: three encodings of SHA-256, packages before or after actions, the postinstall action second,
refusals with status 200, braces around the application's id. All of that is read; what is refused is refused by name.
"""

from __future__ import annotations

import base64
import binascii
import re

from updated.common.text import decimal, printable
from updated.common.urls import is_download_url, without_user
from updated.errors import ErrorCode, RefusedError, RemoteError, Retry
from updated.omaha.messages import Manifest, NoUpdate, Offer, Package
from updated.omaha.xml import Element, XmlError, escape, parse_xml

Response = Element  # a parsed answer; `decide` says what it comes to

SHA1_BYTES, SHA256_BYTES = 20, 32
MAX_PAYLOAD_BYTES = 64 * 1024**3
NAME = re.compile(r"[A-Za-z0-9_+~@=,-][A-Za-z0-9._+~@=,-]{0,254}")  # as long as a file's may be
VERSION = re.compile(r"[!-~]{1,128}")  # ends in the state file, the history, D-Bus and on terminals
URL_LENGTH = 2048  # characters
MOST_URLS = 16  # codebases that are taken from an answer
LONGEST_INTERVAL_SECS = 2**31 - 1
MOST_FAILURES, USUAL_FAILURES = 100, 10  # per URL
QUOTED = 80  # characters of an answer that an error repeats
REFUSALS = {  # Nebraska's app status, in words
    "error-updatesDisabled": "updates are disabled for this group",
    "error-maxUpdatesPerPeriodLimitReached": "as many hosts as the group allows per period were updated",
    "error-maxConcurrentUpdatesLimitReached": "as many hosts as the group allows are updating at this moment",
    "error-maxTimedOutUpdatesLimitReached": "too many hosts of the group timed out while updating",
    "error-updateInProgressOnInstance": "the server believes that this host is updating already",
    "error-noPackageFound": "the channel has no release",
    "error-instanceRegistrationFailed": "the server can't register this host (is its version a semantic one?)",
    "error-failedToRetrieveUpdatePackageInfo": "the server doesn't know this product or channel",
    "error-unknownApplication": "the server doesn't know this product",
    "error-unknownApplicationOrGroup": "the server doesn't know this product or channel",
    "error-invalidAppId": "the server takes this product for malformed",
    "restricted": "the server restricts this product",
}


def parse_response(body: bytes) -> Response:
    """Read an answer.

    Raises:
        RemoteError: OMAHA_EMPTY_RESPONSE, OMAHA_TOO_LARGE, OMAHA_DTD, OMAHA_XML_PARSE.
    """
    if not body.strip():
        raise _bad(ErrorCode.OMAHA_EMPTY_RESPONSE, "the update server's answer is empty")
    try:
        root = parse_xml(body)
    except XmlError as error:
        code = ErrorCode.OMAHA_XML_PARSE
        if error.too_large:
            code = ErrorCode.OMAHA_TOO_LARGE
        elif error.doctype:
            code = ErrorCode.OMAHA_DTD
        raise _bad(code, f"the update server's answer can't be read: {error}") from error
    if root.name != "response":
        raise _bad(
            ErrorCode.OMAHA_XML_PARSE,
            f"the update server answered with <{printable(root.name, 40)}>, no Omaha response",
        )
    return root


def decide(response: Response, *, appid: str, current_version: str) -> Offer | NoUpdate:
    """Say what an answer comes to for this product.

    Raises:
        RemoteError: OMAHA_WRONG_APP, OMAHA_RESPONSE_INVALID, PACKAGE_NAME.
        RefusedError: OMAHA_REFUSED; the server says no, in its own words.
    """
    app = _our_app(response, appid)
    check = app.first("updatecheck")
    _refuse_if_told(app, check)
    if check is None:
        raise _invalid("it has no updatecheck")
    interval = decimal(check.get("PollInterval"), LONGEST_INTERVAL_SECS)
    status = check.get("status")
    if status == "noupdate":
        return NoUpdate(interval)
    if status != "ok":
        raise _invalid(f"its updatecheck has the status {_quoted(status)}")
    offer = _offer(check, interval)
    if offer.version == current_version:
        return NoUpdate(interval, f"the server offers {offer.version}, which runs already")
    return offer


def _our_app(response: Response, appid: str) -> Element:
    apps = list(response.all("app"))
    for app in apps:
        if _bare(app.get("appid")) == _bare(appid):
            return app
    names = ", ".join(printable(app.get("appid"), QUOTED) for app in apps[:5]) or "none"
    raise _bad(ErrorCode.OMAHA_WRONG_APP, f"the update server answered for another product ({names}), not for {appid}")


def _bare(appid: str) -> str:
    return appid.strip("{}").lower()


def _refuse_if_told(app: Element, check: Element | None) -> None:
    status = app.get("status")
    of_check = check.get("status") if check is not None else ""
    if status in ("ok", "noupdate", "") and not of_check.startswith("error-"):
        return
    told = status if status not in ("ok", "") else of_check
    raise RefusedError(
        ErrorCode.OMAHA_REFUSED,
        f"the update server says no: {REFUSALS.get(told, 'an error of its own')} ({printable(told, QUOTED)})",
        hint="Look at the group's policy on the update server; the agent asks again by itself.",
        retry=Retry.LATER,
    )


def _offer(check: Element, interval: int | None) -> Offer:
    manifest = check.first("manifest")
    packages = list(check.all("manifest/packages/package"))
    if manifest is None or not packages or not manifest.get("version"):
        raise _invalid("its offer has no manifest, version or package")
    if not VERSION.fullmatch(manifest.get("version")):
        raise _invalid(f"its offer has the version {_quoted(manifest.get('version'))}, which can't be one")
    # update_engine's rule, which servers count on: the first package is the payload, whatever `required` says
    main, *extra = [_package(package) for package in packages]
    action = next((a for a in check.all("manifest/actions/action") if a.get("event") == "postinstall"), None)
    given = action.attributes if action is not None else {}
    return Offer(
        version=manifest.get("version"),
        urls=_urls(check, main.name),
        name=main.name,
        size=main.size,
        sha256=_hash(given.get("sha256", ""), SHA256_BYTES) or main.sha256,
        sha1=main.sha1,
        disable_backoff=given.get("DisablePayloadBackoff") == "true",
        max_failures_per_url=decimal(given.get("MaxFailureCountPerUrl", ""), MOST_FAILURES) or USUAL_FAILURES,
        is_delta=given.get("IsDeltaPayload") == "true",
        extra_packages=tuple(extra),
        poll_interval_secs=interval,
    )


def _package(element: Element) -> Package:
    name = element.get("name")
    if not NAME.fullmatch(name):
        raise _bad(
            ErrorCode.PACKAGE_NAME, f"the update server names a package {_quoted(name)}, which is no plain file name"
        )
    size = decimal(element.get("size"), MAX_PAYLOAD_BYTES)
    if not size:
        raise _invalid(f"the package {name} has the size {_quoted(element.get('size'))}")
    return Package(name, size, _hash(element.get("hash"), SHA1_BYTES), _hash(element.get("hash_sha256"), SHA256_BYTES))


def _urls(check: Element, name: str) -> tuple[str, ...]:
    found = []
    for url in check.all("urls/url"):
        codebase = url.get("codebase")
        if len(codebase) > URL_LENGTH or not is_download_url(codebase):
            raise _invalid(f"{_quoted(without_user(codebase))} is no place to download from")
        found.append(codebase + ("" if codebase.endswith("/") else "/") + name)
    if not found:
        raise _invalid("it names no place to download from")
    return tuple(found[:MOST_URLS])


def _hash(text: str, length: int) -> bytes | None:
    """Read a hash in hex (either case) or base64; what is neither, like `not-used`, is none."""
    if len(text) == 2 * length and re.fullmatch(r"[0-9a-fA-F]+", text):
        return bytes.fromhex(text)
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == length else None


def encode_response(
    *,
    appid: str,
    app_status: str = "ok",
    check_status: str | None = None,
    manifest: Manifest | None = None,
    events: int = 0,
    ping: bool = False,
) -> bytes:
    """Write an answer.

    Args:
        appid: as the request had it.
        app_status: ok, or why not.
        check_status: ok, noupdate, an error; None when no updatecheck was asked for.
        manifest: the release, with check_status ok; its first package is the payload and has a SHA-256.
        events: how many were reported.
        ping: whether one was sent.
    """
    inner = '<ping status="ok"></ping>' if ping else ""
    if check_status is not None:
        inner += f'<updatecheck status="{escape(check_status)}">{_encode_offer(manifest)}</updatecheck>'
    inner += '<event status="ok"></event>' * events
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<response protocol="3.0" server="update-server">'
        '<daystart elapsed_seconds="0"></daystart>'
        f'<app appid="{escape(appid)}" status="{escape(app_status)}">{inner}</app></response>\n'
    ).encode()


def _encode_offer(manifest: Manifest | None) -> str:
    if manifest is None:
        return "<urls></urls>"
    urls = "".join(f'<url codebase="{escape(url)}"></url>' for url in manifest.codebases)
    packages = "".join(
        f'<package name="{escape(package.name)}" hash="{base64.b64encode(package.sha1 or b"").decode()}"'
        f' hash_sha256="{(package.sha256 or b"").hex()}" size="{package.size}"'
        f' required="{"true" if index == 0 else "false"}"></package>'
        for index, package in enumerate(manifest.packages)
    )
    digest = base64.b64encode(manifest.packages[0].sha256 or b"").decode()
    return (
        f'<urls>{urls}</urls><manifest version="{escape(manifest.version)}"><packages>{packages}</packages>'
        f'<actions><action event="postinstall" sha256="{digest}" DisablePayloadBackoff="true"></action></actions>'
        "</manifest>"
    )


def _quoted(text: str) -> str:
    return repr(printable(text, QUOTED))


def _invalid(what: str) -> RemoteError:
    return _bad(ErrorCode.OMAHA_RESPONSE_INVALID, f"the update server's answer is no good: {what}")


def _bad(code: ErrorCode, message: str) -> RemoteError:
    return RemoteError(
        code, message, hint="Look at server.url and at the update server; a proxy may be answering.", retry=Retry.LATER
    )
