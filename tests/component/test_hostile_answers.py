"""A lying update server, or whoever is on the line: a real agent goes on, remembers little, shows nothing odd."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_bench import Bench
from tests.support.omaha_double import OmahaDouble, Said, offer
from tests.support.processes import run_tool

STATE_MOST = 64 * 1024  # bytes of a state file after many lies; its limit is 1 MiB
PAGE = b"<!DOCTYPE html>\n<html><head><title>Moved</title></head><body>nginx</body></html>\n"
ODD = "\x1b]0;owned\x07\x1b[2J\u202e\u009b31m"  # sets a terminal's title, wipes it, turns the direction of writing


@pytest.fixture
def liar(bench: Bench) -> Iterator[OmahaDouble]:
    """What the agent asks instead of its server."""
    config = bench.machine.root / "updated.toml"
    with OmahaDouble() as made:
        bench.machine.stop()
        config.write_text(re.sub(r'url = ".*"', f'url = "{made.url}/"', config.read_text()))
        bench.machine.start()
        bench.machine.wait_status("confirmed boot", {"boot_confirmed": True})
        yield made


def state_file(bench: Bench) -> bytes:
    return (bench.machine.root / "state/state.json").read_bytes()


def assert_harmless(bench: Bench, text: str) -> None:
    """See that nothing in what a command, the log or D-Bus shows does anything to a terminal or is long."""
    for line in text.splitlines():
        assert line.isprintable(), ascii(line)
        assert len(line) < 3000


def test_number_of_thousands_of_digits_ends_no_daemon(bench: Bench, liar: OmahaDouble) -> None:
    """Wherever an answer has a number, one of 400 or 100,000 digits is an error or counts as none; the agent lives."""
    assert bench.machine.updated is not None
    for digits in (400, 5000):
        number = "9" * digits
        for answer in (
            offer(poll=number),
            offer(size=number),
            offer(failures=number),
            offer(poll="\u0669" * digits),
            offer(version=number),
            offer(poll="-" + number, failures="1e" + number),
            b'<response><app appid="org.example.test-os" status="ok"><updatecheck status="noupdate" PollInterval="'
            + number.encode()
            + b'"/></app></response>',
        ):
            liar.said = Said(body=answer)
            assert bench.machine.ctl("update", "--wait").returncode in (0, 1, 10)
            assert bench.machine.updated.child.poll() is None, bench.machine.updated.log.read_text()[-3000:]
    assert bench.machine.status()["state"] == "idle"
    assert "Traceback" not in bench.machine.updated.log.read_text()


def test_texts_of_an_answer_dont_outgrow_the_state_file(bench: Bench, liar: OmahaDouble) -> None:
    """After a hundred lies with texts of hundreds of kilobytes the state file is small, and the next start reads it."""
    large = "9" * 200_000
    answers = [
        offer(version=large),
        offer(version="9" * 7000),
        offer(codebases=(f"http://127.0.0.1:1/{large}/",)),
        offer(codebases=tuple(f"http://127.0.0.1:1/{number}/" for number in range(1500))),
        offer(name=large),
        offer(name="n" * 7000),
        offer(status=large),
        offer(status="error-" + "x" * 7000),
        b"<" + large.encode() + b"/>",
    ]
    location = {"Location": "http://x/" + "A" * 60_000}
    liar.files = {"/x.payload": Said(302, location)}
    for number in range(18):
        liar.said = Said(body=answers[number % len(answers)])
        bench.machine.ctl("update", "--wait")
        liar.said = Said(body=offer(codebases=(liar.url + "/",), size=100_000))  # the mirror's turn
        bench.machine.ctl("update", "--wait")
    assert len(state_file(bench)) < STATE_MOST
    assert_harmless(bench, (bench.machine.root / "updated.log").read_text())
    history = json.loads(bench.machine.ctl("history", "--json").stdout)
    bench.machine.stop()
    bench.machine.start()
    assert json.loads(bench.machine.ctl("history", "--json").stdout)[: len(history)] == history
    assert not list((bench.machine.root / "state").glob("*.damaged"))
    assert "state-damaged" not in (bench.machine.root / "updated.log").read_text()


def test_escapes_in_an_answer_reach_no_terminal(bench: Bench, liar: OmahaDouble) -> None:
    """What a server, a mirror or a page on the way wrote is printable in commands, the log, the state and on D-Bus."""
    encoded = "".join(f"&#{ord(char)};" for char in ODD if char not in "\x1b\x07").encode()
    marked = offer(version="VERSION", status="STATUS", name="NAME", codebases=("http://127.0.0.1:1/BASE/",))
    seen = ""
    for mark in (b"VERSION", b"STATUS", b"NAME", b"BASE"):
        text = marked if mark == b"STATUS" else marked.replace(b'"STATUS"', b'"ok"')
        liar.said = Said(body=text.replace(mark, encoded + b"&#10;owned"))
        for command in (["update", "--wait"], ["explain"], ["status", "--json"]):
            done = bench.machine.ctl(*command)
            seen += done.stdout + done.stderr
    for said in (
        Said(503, {"Retry-After": "\x9b31m"}, PAGE),
        Said(302, {"Location": "http://x/\x9b31m"}),
        Said(200, {}, b"<p\xc2\x9b31m\xe2\x80\xae/>"),
    ):
        liar.said = said
        for command in (["check"], ["explain"]):
            done = bench.machine.ctl(*command)
            seen += done.stdout + done.stderr
    assert_harmless(bench, seen)
    assert_harmless(bench, (bench.machine.root / "updated.log").read_text())
    assert json.dumps(json.loads(state_file(bench)), ensure_ascii=False).isprintable()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            Said(301, {"Location": "https://updates.example.org/v1/update/"}, PAGE),
            ["301", "https://updates.example.org/v1/update/", "http-redirect"],
        ),
        (
            Said(308, {"Location": "https://u:hush@updates.example.org/?k=hush"}),
            ["308", "https://updates.example.org/"],
        ),
        (Said(403, {}, PAGE), ["403", "http-status"]),
        (Said(407, {}, PAGE), ["407", "http-status", "prox"]),
        (Said(429, {"Retry-After": "120"}, b"slow down"), ["429", "120"]),
        (Said(503, {"Retry-After": "3600"}, PAGE), ["503", "3600", "http-status"]),
        (Said(502, {}, b'<?xml version="1.0"?><error/>'), ["502", "http-status"]),
        (Said(200, {}, b"<html><body>log in</body></html>"), ["html", "omaha-xml-parse"]),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Said) else "",
)
def test_page_of_a_proxy_is_told_as_its_status(bench: Bench, liar: OmahaDouble, said: Said, words: list[str]) -> None:
    """An HTML page under an error or a redirect is told by its status, its Location and its Retry-After."""
    liar.said = said
    done = bench.machine.ctl("update", "--wait")
    assert done.returncode == 1
    for word in words:
        assert word in done.stderr
    assert "hush" not in done.stderr + json.dumps(bench.machine.status())


def test_refusal_of_omaha_counts_under_any_status(bench: Bench, liar: OmahaDouble) -> None:
    """A server that says its no in Omaha's words under an error status is understood as with 200."""
    no = b'<?xml version="1.0"?><response><app appid="org.example.test-os" status="error-updatesDisabled"/></response>'
    liar.said = Said(500, {}, no)
    done = bench.machine.ctl("update", "--wait")
    assert (done.returncode, "updates are disabled" in done.stderr) == (3, True), done.stderr


def test_refused_download_is_reported_as_update_engine_does(bench: Bench, liar: OmahaDouble) -> None:
    """The event of a download that a mirror refused has 2000 plus the mirror's status as its code."""
    liar.said = Said(body=offer(codebases=(liar.url + "/",), size=100_000))
    liar.files = {"/x.payload": Said(403)}
    assert bench.machine.ctl("update", "--wait").returncode == 1
    bench.machine.ctl("check")
    assert any(b'eventtype="3" eventresult="0" errorcode="2403"' in body for body in liar.events)


def test_many_codebases_cost_one_request_each(bench: Bench, liar: OmahaDouble) -> None:
    """Of 1,500 codebases that lost the payload each that is taken is asked once, and no more than 16 are."""
    places = tuple(f"{liar.url}/{number}/" for number in range(1500))
    liar.said = Said(body=offer(codebases=places, size=100_000))
    assert bench.machine.ctl("update", "--wait").returncode == 1
    assert len(liar.fetched) == len(set(liar.fetched)) == 16


@pytest.mark.parametrize(
    "setting",
    [
        'url = "https://alice:hush@updates.example.org/v1/update/"',
        'url = "http://alice@updates.example.org/"',
        'proxy = "http://alice:hush@proxy.example.org:3128"',
        'url = "https://:hush@updates.example.org/"',
        'url = "https://alice:hu/sh:hush@updates.example.org/"',
    ],
)
def test_password_in_a_url_is_refused_and_never_shown(tmp_path: Path, setting: str) -> None:
    """`config check`, `config show` and the daemon refuse a user or a password in a URL, and none repeats it."""
    config = tmp_path / "updated.toml"
    config.write_text(f"state_dir = '{tmp_path}/state'\n[server]\n{setting}\n")
    for name, *arguments in (("update-ctl", "config", "check"), ("update-ctl", "config", "show"), ("updated",)):
        done = run_tool(name, *arguments, env={"UPDATED_CONFIG": str(config)})
        assert done.returncode != 0
        assert "hush" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert "server." in done.stderr
