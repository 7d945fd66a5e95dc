"""Answers that real servers gave, and answers that no server should give."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updated.errors import ErrorCode, RefusedError, RemoteError, UpdateError
from updated.omaha.messages import App, Event, Manifest, NoUpdate, Offer, Package, Request
from updated.omaha.request import encode_request, parse_request
from updated.omaha.response import decide, encode_response, parse_response
from updated.omaha.version import compare
from updated.omaha.xml import MAX_BYTES, escape

EXCHANGES = Path(__file__).parents[2] / "fixtures/omaha"
APPID = "e96281a6-d1af-4bde-9a0a-97b76e56dc57"
PAYLOAD_SHA256 = bytes.fromhex("6476A302CF5B6611B488716A244B09C594F63C0A8BEBA2A100CF6497C601F387")


def answer(case: str) -> Offer | NoUpdate:
    """Decide on a recorded answer, as the host of the recorded request would."""
    sent = parse_request((EXCHANGES / case / "request.xml").read_bytes())
    return decide(
        parse_response((EXCHANGES / case / "response.xml").read_bytes()),
        appid=sent.app.appid,
        current_version=sent.app.version,
    )


def test_nebraska_offers_an_update() -> None:
    """Nebraska's offer: size, base64 hash of the postinstall action, codebase and name joined."""
    offer = answer("neb-update-available")
    assert isinstance(offer, Offer)
    assert (offer.version, offer.size) == ("2191.5.0", 465881871)
    base = "https://update.release.flatcar-linux.net/amd64-usr/2191.5.0/"
    assert offer.urls == (base + "flatcar_production_update.gz",)
    assert offer.sha256 is not None
    assert offer.sha256.hex().startswith("2c8900295658d8")
    assert offer.disable_backoff


def test_nebraska_has_nothing_newer() -> None:
    """The same version is no update."""
    assert answer("neb-noupdate-same-version") == NoUpdate()


def test_nebraska_says_that_updates_are_disabled() -> None:
    """A policy's no with status 200 becomes a refusal that says why (fedora-coreos-tracker#83: silence confuses)."""
    with pytest.raises(RefusedError, match="updates are disabled") as caught:
        answer("neb-updates-disabled")
    assert caught.value.code is ErrorCode.OMAHA_REFUSED


@pytest.mark.parametrize("case", ["goomaha-update", "npy-update"])
def test_other_servers_offers_come_to_the_same(case: str) -> None:
    """go-omaha's base64 and required=false, nebraska.py's upper-case hex, second action and braces: one offer."""
    offer = answer(case)
    assert isinstance(offer, Offer)
    assert (offer.version, offer.name, offer.size, offer.sha256) == ("4459.2.1", "update.gz", 1048576, PAYLOAD_SHA256)
    assert offer.urls[0].endswith("/update.gz")


@pytest.mark.parametrize("case", sorted(path.name for path in EXCHANGES.iterdir()))
def test_our_request_says_what_update_engines_does(case: str) -> None:
    """A request that is read and written again has the same app, ping, check and event."""
    sent = parse_request((EXCHANGES / case / "request.xml").read_bytes())
    assert parse_request(encode_request(sent)) == sent
    assert sent.events == (Event(3, 2, None, "0.0.0.0"),)


GOOD = encode_response(
    appid=APPID,
    check_status="ok",
    manifest=Manifest("2.0", ("http://127.0.0.1:1/",), (Package("x.payload", 10, b"\1" * 20, b"\2" * 32),)),
).decode()


def decided(text: str | bytes, **changes: str) -> Offer | NoUpdate:
    body = text.encode() if isinstance(text, str) else text
    return decide(parse_response(body), **{"appid": APPID, "current_version": "1.0", **changes})


HOSTILE = {
    "empty": (b"", ErrorCode.OMAHA_EMPTY_RESPONSE),
    "a web page": (b"<!-- proxy --><html><body>log in</body></html>", ErrorCode.OMAHA_XML_PARSE),
    "no XML": (b"upstream timed out", ErrorCode.OMAHA_XML_PARSE),
    "cut off": (GOOD[:-20].encode(), ErrorCode.OMAHA_XML_PARSE),
    "not UTF-8": (GOOD.replace("x.payload", "x\udcff").encode(errors="surrogateescape"), ErrorCode.OMAHA_XML_PARSE),
    "UTF-16": (GOOD.encode("utf-16"), ErrorCode.OMAHA_XML_PARSE),
    "a DTD": (b'<!DOCTYPE response [<!ENTITY a "b">]><response>&a;</response>', ErrorCode.OMAHA_DTD),
    "an external DTD": (b'<!DOCTYPE response SYSTEM "http://127.0.0.1/x"><response/>', ErrorCode.OMAHA_DTD),
    "an instruction": (b"<?php x ?><response/>", ErrorCode.OMAHA_XML_PARSE),
    "too large": (b"<response>" + b" " * MAX_BYTES + b"</response>", ErrorCode.OMAHA_TOO_LARGE),
    "too deep": (b"<response>" + b"<a>" * 50 + b"</a>" * 50 + b"</response>", ErrorCode.OMAHA_TOO_LARGE),
    "too many": (b"<response>" + b"<a/>" * 5000 + b"</response>", ErrorCode.OMAHA_TOO_LARGE),
    "another root": (b"<request/>", ErrorCode.OMAHA_XML_PARSE),
    "another product": (GOOD.replace(APPID, "other").encode(), ErrorCode.OMAHA_WRONG_APP),
    "no app": (b'<response protocol="3.0"></response>', ErrorCode.OMAHA_WRONG_APP),
    "a path as name": (GOOD.replace("x.payload", "../x").encode(), ErrorCode.PACKAGE_NAME),
    "a hidden path": (GOOD.replace("x.payload", "%2e%2e%2fx").encode(), ErrorCode.PACKAGE_NAME),
    "a backslash": (GOOD.replace("x.payload", "..\\x").encode(), ErrorCode.PACKAGE_NAME),
    "no name": (GOOD.replace("x.payload", "").encode(), ErrorCode.PACKAGE_NAME),
    "no size": (GOOD.replace('size="10"', "").encode(), ErrorCode.OMAHA_RESPONSE_INVALID),
    "a negative size": (GOOD.replace('size="10"', 'size="-1"').encode(), ErrorCode.OMAHA_RESPONSE_INVALID),
    "a size of zero": (GOOD.replace('size="10"', 'size="0"').encode(), ErrorCode.OMAHA_RESPONSE_INVALID),
    "another scheme": (GOOD.replace("http://127", "file://127").encode(), ErrorCode.OMAHA_RESPONSE_INVALID),
    "a user in the URL": (GOOD.replace("http://127", "http://a@127").encode(), ErrorCode.OMAHA_RESPONSE_INVALID),
    "a word as port": (GOOD.replace("http://127", "http://x:y/127").encode(), ErrorCode.OMAHA_RESPONSE_INVALID),
    "a port too high": (GOOD.replace("http://127", "http://x:65536/127").encode(), ErrorCode.OMAHA_RESPONSE_INVALID),
    "no URL": (re.sub(r"<url .*?</url>", "", GOOD).encode(), ErrorCode.OMAHA_RESPONSE_INVALID),
    "no version": (GOOD.replace('version="2.0"', "").encode(), ErrorCode.OMAHA_RESPONSE_INVALID),
    "no status": (GOOD.replace('updatecheck status="ok"', "updatecheck").encode(), ErrorCode.OMAHA_RESPONSE_INVALID),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_answer_has_its_error(case: str) -> None:
    """Every answer that is no good has a pinned code and a sentence for the operator."""
    body, code = HOSTILE[case]
    with pytest.raises(RemoteError) as caught:
        decided(body)
    assert caught.value.code is code
    assert caught.value.hint


def test_offer_of_the_running_version_is_no_update() -> None:
    """A server that offers what runs already is told no, so that a host doesn't install in circles."""
    found = decided(GOOD, current_version="2.0")
    assert isinstance(found, NoUpdate)


def test_poll_interval_is_read_with_and_without_an_update() -> None:
    """PollInterval counts in both cases, and nonsense in it counts as none."""
    for wanted, text in ((600, "600"), (None, "soon"), (None, "-5")):
        assert decided(GOOD.replace("<updatecheck", f'<updatecheck PollInterval="{text}"')).poll_interval_secs == wanted


@given(st.text(max_size=40))
def test_attribute_values_survive_escaping(text: str) -> None:
    """Any text in an attribute comes back, but for characters that XML can't hold (Flatcar#1424: quotes)."""
    read = parse_request(encode_request(Request(App(appid="a", version=text, track="t")))).app.version
    kept = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "?", text)
    assert read == kept
    assert '"' not in escape(text)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_an_error_or_a_decision(body: bytes) -> None:
    """No answer, however mad, raises anything but our own errors."""
    with contextlib.suppress(UpdateError):
        decided(body)


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=3))
def test_mutated_answer_never_escapes_the_checks(at: int, change: bytes) -> None:
    """A mutated offer is refused, or still names a plain file below an http URL."""
    raw = GOOD.encode()
    try:
        found = decided(raw[:at] + change + raw[at + len(change) :])
    except UpdateError:
        return
    if isinstance(found, Offer):
        assert re.fullmatch(r"[A-Za-z0-9_+~@=,-][A-Za-z0-9._+~@=,-]*", found.name)
        assert all(url.startswith(("http://", "https://")) and url.endswith("/" + found.name) for url in found.urls)
        assert found.size > 0


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.9", "1.10"),
        ("1.0-rc1", "1.0"),
        ("1.0-rc1", "1.0-rc2"),
        ("1.0", "1.0.1"),
        ("2191.4.0", "2191.5.0"),
        ("9", "10"),
    ],
)
def test_versions_have_an_order(older: str, newer: str) -> None:
    """Numbers count by value and a pre-release comes before its release."""
    assert (compare(older, newer), compare(newer, older), compare(newer, newer)) == (-1, 1, 0)


def test_versions_that_are_the_same() -> None:
    """Trailing zeros and build numbers make no difference."""
    assert compare("1.0", "1.0.0") == compare("1.0+build5", "1.0") == 0
