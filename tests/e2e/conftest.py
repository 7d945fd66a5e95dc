"""What the tests of whole machines share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fixtures.image.slot import SystemRelease, slot_image
from tests.e2e.releases import FIRST
from tests.support.nspawn import NspawnHost
from tests.support.nspawn_able import needs_machine
from tests.support.nspawn_group import TicketGroup
from tests.support.nspawn_server import ReleaseServer
from tests.support.verdicts import Scenario
from tests.support.vm.site import Site, serving

MakeHost = Callable[..., NspawnHost]
BOOTING_SECS = 600.0  # a test of whole machines; the first one makes the root, too
StartRow = Callable[[str, str], Scenario]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, and say so, what boots a machine where none can be booted."""
    booting = [item for item in items if "nspawn_host" in getattr(item, "fixturenames", ())]
    if booting:
        mark = needs_machine()
        for item in booting:
            item.add_marker(mark)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(BOOTING_SECS))


@pytest.fixture
def nspawn_host(tmp_path: Path) -> Iterator[MakeHost]:
    """Make a machine that has a release in slot A; off, and whatever it left behind gone after the test."""
    with ExitStack() as stack:
        made: list[NspawnHost] = []

        def make(release: SystemRelease = FIRST, *, read_only_etc: bool = False) -> NspawnHost:
            image = slot_image(release)
            host = NspawnHost(tmp_path / f"host-{len(made)}", image, read_only_etc=read_only_etc)
            made.append(host)
            return stack.enter_context(host)

        yield make


@pytest.fixture
def ticket_group(tmp_path: Path) -> Iterator[TicketGroup]:
    """A group of hosts with one reboot slot."""
    with TicketGroup(tmp_path / "group") as running:
        yield running


@pytest.fixture
def release_server(tmp_path: Path) -> Iterator[ReleaseServer]:
    """The product's server, without a release."""
    with ReleaseServer(tmp_path / "releases") as running:
        yield running


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """The operator of virtual machines: a server without a release."""
    with serving(tmp_path / "site") as running:
        yield running
