"""What keeps a machine from booting containers is named, and never skipped over where they are required."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import nspawn_able


@pytest.fixture(autouse=True)
def looked_anew() -> Iterator[None]:
    """Forget what was found before, and what is found here."""
    nspawn_able.obstacle.cache_clear()
    yield
    nspawn_able.obstacle.cache_clear()


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root the tests are skipped, and the reason says what isn't tested and what would help."""
    monkeypatch.delenv("REQUIRE_MACHINES", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    mark = nspawn_able.needs_machine().mark
    assert mark.args == (True,)
    assert mark.kwargs["reason"] == (
        "NOT TESTED HERE: a booted system in systemd-nspawn; it needs root (sudo make test)"
    )


def test_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that isn't there is named, with what installs it."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(nspawn_able, "PROGRAMS", ("sh", "no-such-program"))
    assert nspawn_able.obstacle() == "needs no-such-program (./bootstrap.sh test installs them on Debian)"


def test_required_machines_are_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """With REQUIRE_MACHINES=1 nothing is skipped: what can't boot here fails."""
    monkeypatch.setenv("REQUIRE_MACHINES", "1")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert nspawn_able.needs_machine().mark.args == (False,)
