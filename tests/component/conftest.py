"""What component tests share: a key pair, images and releases, made once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_bench import Bench
from tests.support.dbus import private_bus
from tests.support.etcd import Etcd
from tests.support.releases import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A release engineer's desk."""
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """A real etcd of one member; whoever uses it has a prefix or a group of its own."""
    with Etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture
def bus_address(tmp_path: Path) -> Iterator[str]:
    """A private dbus-daemon."""
    with private_bus(tmp_path / "bus") as address:
        yield address


@pytest.fixture
def bench(tmp_path: Path, workshop: Workshop, bus_address: str) -> Iterator[Bench]:
    """A machine that runs 1.0.0 from slot A, and its server."""
    made = Bench(tmp_path, workshop, bus_address)
    try:
        yield made
    finally:
        made.close()
