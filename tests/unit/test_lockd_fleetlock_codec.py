"""The FleetLock protocol's words: ids, base URLs, requests, and what lock managers say instead of yes."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

import pytest

from lockd import fleetlock_codec as codec


def test_id_is_the_one_that_systemd_makes_for_zincati() -> None:
    """The id is what systemd derives for Zincati's application id, so a host that is moved over keeps its slot."""
    tool = ["systemd-id128", "machine-id", "--app-specific=de35106b6ec24688b63afddaa156679b"]
    done = subprocess.run(tool, capture_output=True, text=True, check=True, timeout=60)
    assert codec.zincati_id(Path("/etc/machine-id").read_text().strip()) == done.stdout.strip()


def test_id_is_a_random_uuid_of_its_own_for_each_host() -> None:
    """The id has the form of a random UUID, always the same for one host and another one for the next."""
    made = [codec.zincati_id(f"{number:032x}") for number in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    assert all(uuid.UUID(one).version == 4 for one in made)


@pytest.mark.parametrize("machine_id", ["", "web-7", "0123456789ABCDEF0123456789ABCDEF", "0" * 31, "0" * 33])
def test_id_needs_a_machine_id(machine_id: str) -> None:
    """What isn't a machine id of systemd's is refused rather than hashed."""
    with pytest.raises(ValueError, match="hexadecimal"):
        codec.zincati_id(machine_id)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://locks.example.org", "https://locks.example.org/"),
        ("http://127.0.0.1:3333/", "http://127.0.0.1:3333/"),
        ("https://example.org/fleet/", "https://example.org/fleet/"),
    ],
)
def test_base_url_gets_paths_behind_it(url: str, expected: str) -> None:
    """A base URL comes out with a slash at its end."""
    assert codec.check_base_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "locks.example.org",
        "ftp://x/",
        "https://x/fleet",
        "https://x/?a=b",
        "https://x/#a",
        "https://u:p@x/",
        "https:///",
    ],
)
def test_doubtful_base_url_is_refused(url: str) -> None:
    """A path without a slash at its end, which Zincati would cut, and everything else in doubt, is an error."""
    with pytest.raises(ValueError, match=r"slash|isn't|belong"):
        codec.check_base_url(url)


def test_request_survives_the_wire() -> None:
    """What is asked is what is read, in the protocol's own shape."""
    params = codec.Params("e0f3745b108f471cbd4883c6fbed8cdd", "mock-workers")
    body = codec.encode_request(params)
    assert json.loads(body) == {"client_params": {"id": params.machine_id, "group": "mock-workers"}}
    assert codec.decode_request(body) == params
    assert codec.decode_request(b'{"client_params":{"id":"a","group":"b","more":1},"other":[]}') == codec.Params(
        "a", "b"
    )


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "invalid_body"),
        (b"\xff", "invalid_body"),
        (b"[" * 4000, "invalid_body"),
        (b"[]", "invalid_body"),
        (b'{"client_params": 1}', "invalid_body"),
        (b'{"client_params": {"group": "a"}}', "invalid_client_id"),
        (b'{"client_params": {"id": "", "group": "a"}}', "invalid_client_id"),
        (b'{"client_params": {"id": "a/../b", "group": "a"}}', "invalid_client_id"),
        (b'{"client_params": {"id": 7, "group": "a"}}', "invalid_client_id"),
        (b'{"client_params": {"id": "a", "group": "a b"}}', "invalid_client_group"),
        (b'{"client_params": {"id": "a", "group": "a_b"}}', "invalid_client_group"),
        (b'{"client_params": {"id": "a", "group": "a\\n"}}', "invalid_client_group"),
    ],
)
def test_request_that_is_none_is_refused_by_kind(body: bytes, kind: str) -> None:
    """Each way in which a body can be wrong has its word, of a small set."""
    with pytest.raises(codec.RequestError) as caught:
        codec.decode_request(body)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("status", "body", "kind", "value"),
    [
        (500, b'{"kind":"failed_lock","value":"all 2 semaphore slots currently locked"}', "failed_lock", "all 2 sema"),
        (423, b'{"kind":"lock_held","value":"reboot lease unavailable, held by x"}', "lock_held", "reboot lease"),
        (400, b'{"kind":"unknown_group"}', "unknown_group", ""),
        (502, b"<html>Bad Gateway</html>", "http_502", "<html>Bad"),
        (500, b"", "http_500", "no reason given"),
        (500, b'{"kind":7}', "http_500", '{"kind":7}'),
        (500, b"[" * 10_000, "http_500", "[[["),
        (500, b'{"kind":"a\\u001b[2Jb","value":"x\\ny"}', "a [2Jb", "x y"),
    ],
)
def test_refusal_is_read_whatever_its_form(status: int, body: bytes, kind: str, value: str) -> None:
    """JSON labelled as anything, a proxy's page, nothing at all: a refusal with words, safe for terminals."""
    found = codec.read_refusal(status, body)
    assert (found.status, found.kind) == (status, kind)
    assert found.value.startswith(value)
    assert len(found.value) <= codec.TEXT_LIMIT
    assert found.text.isprintable()


def test_only_typhoons_word_means_that_nothing_is_held() -> None:
    """A 423 `lock_held` to somebody who gives back means that another host holds; any other no is a no."""
    assert codec.holds_nothing(codec.Refusal(423, "lock_held", ""))
    assert not codec.holds_nothing(codec.Refusal(423, "failed_lock", ""))
    assert not codec.holds_nothing(codec.Refusal(500, "lock_held", ""))
