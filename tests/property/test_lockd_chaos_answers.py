"""Answers of etcd that are wrong on their way: whatever a host makes of them, it doesn't reboot on them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import httpx
import pytest

from lockd.errors import LockdError
from lockd.semaphore import Identity, Semaphore
from lockd.store import EtcdStore
from lockd.tickets import Phase
from tests.support.campaign import scale
from tests.support.etcd import Etcd
from tests.support.moving_clock import MovingClock
from tests.support.mutations import MutatingTransport
from tests.support.quick_http import QuickTransport, patient_client

ANSWERS = scale(1_000, 50_000)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with Etcd(
        tmp_path_factory.mktemp("etcd"), "--auto-compaction-mode=revision", "--auto-compaction-retention=1000"
    ) as it:
        yield it


def host(endpoint: str, transport: httpx.AsyncBaseTransport, name: str) -> Semaphore:
    store = EtcdStore(patient_client(endpoint, transport), prefix="/lies", group="web", lease_ttl_secs=3600)
    return Semaphore(store, MovingClock(), Identity(name, "boot-1"))


@pytest.mark.timeout(scale(300, 7200))
async def test_mutated_answers_never_lead_to_a_reboot(etcd: Etcd) -> None:
    """With the slot taken by another host, no wrong answer makes this one go down, or fail in an unforeseen way."""
    honest = [host(etcd.endpoint, QuickTransport(), name) for name in ("other", "m1")]
    for limit in (2, 1):  # so that there is a document of settings to be spoiled too
        await honest[0].set_max(limit)
    assert await honest[0].commit(await honest[0].acquire("1", "2"), "1", "2")
    transport = MutatingTransport(random.Random(1))
    fooled = host(etcd.endpoint, transport, "m1")
    went_on = 0
    while transport.count < ANSWERS:
        try:
            standing = await fooled.acquire("1", "2")
            went_on += 1
            gone = await fooled.commit(standing, "1", "2")
        except LockdError:
            continue
        assert not gone, f"after {transport.count} wrong answers: {standing}"
        own = (await honest[1].read()).of("m1")
        if own is not None and own.claim.phase is not Phase.WAITING:  # it was made to believe in a higher max
            assert own.claim.phase is Phase.HELD
            assert await honest[1].give_back(own)
    assert went_on > 0, "every answer was refused: the steps after the first were never tried"
    for one in (*honest, fooled):
        await one.store.close()
