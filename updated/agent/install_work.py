"""The work on the other slot: install a release into it, arm it, un-mark it again."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

from updated.agent import message_ids, talk
from updated.agent.by_hand import Given
from updated.agent.context import Context
from updated.agent.machine import Event
from updated.agent.sources import Copy, open_copies
from updated.common.log import get_logger
from updated.confirm.rollback import Pending
from updated.errors import LocalError, RemoteError, Retry, UpdateError
from updated.install.checkpoint import Journal
from updated.install.keys import read_keyring
from updated.install.packages import PackagePlan
from updated.install.pipeline import Installed, InstallRequest, Progress, install
from updated.install.stream import check_cancelled
from updated.omaha.protocol import Offer
from updated.payload.trust import TrustPolicy
from updated.slots.boot import Contents
from updated.slots.layout import Slot

PULSE_SECS = 1.0  # pieces come far more often than a watchdog looks

log = get_logger("install")


class InstallWork:
    """Effects that change the inactive slot."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._installed: Installed | None = None
        self._journal = Journal(context.means.settings.state_dir / "install")
        self._downloaded = False
        self._cancelled = threading.Event()
        self.on_downloaded: Callable[[], None] = lambda: None

    async def install(self, offer: Offer, given: Given | None = None) -> tuple[Event, ...]:
        """Fetch, verify and write the offered release, or the given one, into the other slot; what was given is closed.

        Raises:
            UpdateError: why not; the target slot can't be booted then, the running one is untouched.
        """
        context, loop = self._context, asyncio.get_running_loop()
        self._downloaded = False
        try:
            request = self._request(offer)
        except UpdateError:
            if given is not None:
                given.close()
            raise
        try:
            self._installed = await asyncio.to_thread(
                self._run, request, (offer, given), lambda seen: _post(loop, self._observe, seen), self._pulse(loop)
            )
        except asyncio.CancelledError:
            self._cancelled.set()  # the thread stops at its next look
            raise
        await asyncio.sleep(0)  # lets the last observation in before the events below
        self._note_downloaded()
        if given is None:
            context.memory.queue_event(talk.DOWNLOAD_FINISHED)
        return (Event.VERIFIED,)

    def _request(self, offer: Offer) -> InstallRequest:
        context = self._context
        settings = context.means.settings
        _, booted = context.known()
        return InstallRequest(
            offer_sha256=offer.sha256,
            offer_size=offer.size or None,
            keyring=read_keyring(settings.trust.keys_dir),
            policy=TrustPolicy(
                product=settings.server.product,
                channels=(settings.server.channel,),
                rollback_floor=context.means.store.floor(),
                allow_legacy_payloads=settings.trust.allow_legacy_payloads,
                allow_unsigned_metadata=settings.trust.allow_unsigned_metadata,
                allow_version_1=settings.trust.allow_version_1,
                failed_versions=frozenset(context.memory.failed_versions),
            ),
            now=context.means.clock.now(),
            offer_version=offer.version,
            file_targets=context.means.boot.files_of(self._other_slot()),
            file_sources=context.means.boot.files_of(booted),
            skip_boot_files=settings.slots.skip_boot_files,
            journal=self._journal,
        )

    def _run(
        self,
        request: InstallRequest,
        what: tuple[Offer, Given | None],
        observe: Callable[[Progress], None],
        alive: Callable[[], None],
    ) -> Installed:
        """Install from the first place that has a good copy; runs in a thread."""
        with open_copies(*what, self._context.means.settings, self._cancelled.wait, alive) as copies:
            for number, copy in enumerate(copies[:-1]):
                try:
                    return self._install_from(copy, request, observe)
                except UpdateError as error:
                    if error.retry is not Retry.OTHER_SOURCE or (isinstance(error, RemoteError) and error.everywhere):
                        raise
                    log.warning("bad-copy", url=what[0].urls[number], code=error.name, message=error.message)
            return self._install_from(copies[-1], request, observe)

    def _install_from(self, copy: Copy, request: InstallRequest, observe: Callable[[Progress], None]) -> Installed:
        means, packages = self._context.means, self._context.means.settings.packages
        return install(
            dataclasses.replace(
                request, packages=PackagePlan(copy.sibling, _of_slot(packages.dir, self._other_slot()), packages.wanted)
            ),
            source=copy.payload(),
            boot=means.boot,
            host=means.host,
            observe=observe,
            cancelled=self._cancelled,
        )

    def _pulse(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Return what a download calls again and again: it feeds the watchdog, and ends a download that is cancelled.

        A mirror that is silent isn't a daemon that hangs: its tries are bounded, and the next mirror may be a good one.
        """
        monotonic, told = self._context.means.clock.monotonic, -PULSE_SECS

        def alive() -> None:
            nonlocal told
            check_cancelled(self._cancelled)
            if monotonic() - told >= PULSE_SECS:
                told = monotonic()
                loop.call_soon_threadsafe(self._context.beat)

        return alive

    def _other_slot(self) -> Slot:
        _, booted = self._context.known()
        (other,) = [slot for slot in self._context.means.boot.slots() if slot.partuuid != booted.partuuid]
        return other

    def _observe(self, seen: Progress) -> None:
        view = self._context.view
        self._context.beat()
        if seen.phase == "downloading":
            view.bytes_done, view.bytes_total, view.bytes_reused = seen.bytes_done, seen.bytes_total, seen.bytes_reused
        else:
            self._note_downloaded()
        self._context.on_progress()

    def _note_downloaded(self) -> None:
        if not self._downloaded:
            self._downloaded = True
            self.on_downloaded()

    async def arm(self) -> tuple[Event, ...]:
        """Remember what is about to be tried, then make the boot loader try it.

        The intent is remembered first: a slot that boots and that nobody remembers would never be confirmed. `armed`
        follows once the boot loader's data are written, so that a cut in between isn't taken for a rollback.

        Raises:
            LocalError: STATE or BOOT_CONTROL.
        """
        context, installed = self._context, self._installed
        if installed is None:
            raise AssertionError("arm follows an install")
        self._journal.clear()
        facts, _ = context.known()
        by_hand = context.view.by_hand
        context.memory.pending = Pending(
            version_from=facts.version,
            version_to=installed.version,
            slot=installed.slot.name,
            partuuid=installed.slot.partuuid,
            rollback_index=installed.identity.rollback_index if installed.identity else 0,
            boot_id=facts.boot_id,
            armed_at=context.now(),
            by_hand=by_hand,
        )
        context.memory.slots.pop(installed.slot.partuuid, None)  # what booted well from there is written over
        context.means.store.forget_bad_boots()
        context.save()
        contents = Contents(installed.version, installed.files, installed.root_hash)
        tries = context.means.settings.slots.tries
        await context.patiently(asyncio.to_thread(context.means.boot.arm, installed.slot, tries, contents))
        context.memory.pending = dataclasses.replace(context.memory.pending, armed=True)
        if by_hand is None:
            context.memory.queue_event(talk.installed_event(context.means.settings.server.product))
        where = f"slot {installed.slot.name}" + (f", by hand from {by_hand}" if by_hand else "")
        context.memory.note(context.now(), "installed", installed.version, where)
        context.memory.last_error = context.memory.backoff = None
        try:
            context.save()
        except LocalError:  # what is told to have failed must not boot, nor be taken for a rollback at the next one
            context.memory.pending = None
            await context.patiently(asyncio.to_thread(context.means.boot.unmark, installed.slot))
            raise
        context.view.version_new, context.view.slot_target = installed.version, installed.slot.name
        log.info(
            "armed", message_id=message_ids.UPDATE_ARMED, version=installed.version, running=facts.version, how=where
        )
        return (Event.ARMED,)

    async def disarm(self) -> tuple[Event, ...]:
        """Give an armed update up: nothing boots its slot any more.

        Raises:
            LocalError: STATE or BOOT_CONTROL.
        """
        context = self._context
        pending = context.memory.pending
        if pending is not None:
            await context.patiently(asyncio.to_thread(context.means.boot.unmark, self._other_slot()))
            context.memory.note(context.now(), "given-up", pending.version_to, "reset by an operator")
            context.memory.pending = None
            context.save()
        context.view.version_new = context.view.slot_target = context.view.by_hand = None
        return (Event.DISARMED,)


def _post(loop: asyncio.AbstractEventLoop, observe: Callable[[Progress], None], seen: Progress) -> None:
    """Carry an observation from the install's thread to the loop's."""
    loop.call_soon_threadsafe(observe, seen)


def _of_slot(path: Path | None, slot: Slot) -> Path | None:
    """Return what a path in the settings is for a slot."""
    return None if path is None else Path(str(path).replace("{slot}", slot.name.lower()))
