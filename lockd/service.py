"""The daemon between its start and its end: one coordinator on one bus, made anew of settings that changed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from dataclasses import dataclass

from lockd import message_ids
from lockd.agent import AgentClient
from lockd.bus import NAME, serve
from lockd.config import Loaded
from lockd.coordinator import Coordinator, Means, Policy
from lockd.errors import ErrorCode, LocalError, LockdError
from lockd.inquiry import Inquiry
from lockd.logind import choose_reboot
from lockd.machines import Machine
from lockd.registry import Registrar, Registry
from lockd.reread import SettingsReader
from lockd.semaphore import Identity
from lockd.tickets import Phase
from lockd.wiring import make_identity, make_local, make_policy, make_registry, make_semaphore
from updated.common import bus as bus_room
from updated.common import log, notify
from updated.common.clock import Clock

logger = log.get_logger("service")

FIXED = ("bus_address", "boot_id_file")  # what a running daemon can't change


@dataclass(frozen=True, slots=True)
class Wired:
    """What one reading of the settings leads to."""

    loaded: Loaded
    policy: Policy
    means: Means
    identity: Identity
    registry: Registry | None

    async def close(self) -> None:
        """Close the connections to the store."""
        if self.means.semaphore is not None:
            await self.means.semaphore.store.close()
        if self.registry is not None:
            await self.registry.close()


class Service:
    """Runs until it is cancelled, or the bus is lost."""

    def __init__(self, reader: SettingsReader, loaded: Loaded, bus: bus_room.Bus, clock: Clock) -> None:
        self._reader, self._bus, self._clock = reader, bus, clock
        self._notifier = notify.from_environment(os.environ)
        self._wired = self._wire(loaded)
        identity = self._wired.identity
        self._agent = AgentClient(bus, identity.boot_id)
        self.coordinator = Coordinator(
            self._wired.policy, self._wired.means, machine_id=identity.machine_id, boot_id=identity.boot_id
        )
        self.inquiry = Inquiry(self._wired.policy, self._wired.means, self._wired.registry)
        self._registering: asyncio.Task[None] | None = None

    def _wire(self, loaded: Loaded) -> Wired:
        settings = loaded.settings
        identity = make_identity(settings)
        means = Means(
            clock=self._clock,
            agent=AgentClient(self._bus, identity.boot_id),
            reboot=choose_reboot(settings.reboot_command, self._bus),
            semaphore=make_semaphore(settings, self._clock),
            fraction=random.SystemRandom().random,
            notifier=self._notifier,
            local=make_local(loaded, self._clock, self._bus, identity),
            settings_problem=self._reader.problem,
        )
        return Wired(loaded, make_policy(loaded), means, identity, make_registry(settings))

    async def start(self) -> None:
        """Own the name on the bus, and hear the update agent.

        Raises:
            LocalError: BUSY or UNREACHABLE; another lockd owns the name, or the bus forbids it.
        """
        await serve(self.coordinator, self._bus, self.inquiry, self.reload)
        try:
            await self._agent.listen(self.coordinator.wake)
        except (bus_room.BusCallError, bus_room.BusError) as error:
            raise LocalError(
                ErrorCode.UNREACHABLE, f"the bus doesn't let lockd hear the update agent: {error}",
                hint="Install the D-Bus policy file, or look at the bus's own log; systemd starts lockd again.",
            ) from error  # fmt: skip
        self._register()
        self._notifier.ready()
        logger.info("ready", strategy=self._wired.policy.strategy, group=self._wired.policy.group)

    async def run(self) -> None:
        """Drive the coordinator; between two looks, take up settings that changed.

        Raises:
            LocalError: UNREACHABLE; the connection to the bus broke.
        """
        work = asyncio.ensure_future(self.coordinator.run(self.refresh))
        lost = asyncio.ensure_future(self._bus.wait_closed())
        try:
            await asyncio.wait([work, lost], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            raise LocalError(
                ErrorCode.UNREACHABLE, "the connection to the bus broke", hint="systemd starts lockd again by itself."
            )
        finally:
            work.cancel()
            lost.cancel()
            await asyncio.gather(work, lost, return_exceptions=True)

    async def stop(self) -> None:
        """End what runs beside, and close the connections to the store; the bus stays open."""
        self._notifier.stopping()
        await self.coordinator.dismiss()
        with contextlib.suppress(bus_room.BusError, bus_room.BusCallError):  # it is lost: then nobody waits either
            for _round_trip in range(
                2
            ):  # in the first, answers are put behind the question; after the second they are out
                await self._bus.owner(NAME)
        await self._unregister()
        await self.coordinator.leave()
        await self._wired.close()

    # ---- settings that change

    def reload(self) -> None:
        """Have the settings read again before the next look; the look begins now.

        Raises:
            LockdError: they are wrong; the host doesn't reboot until they are corrected.
        """
        self._reader.ask()
        self.coordinator.wake()
        self._reader.check()

    def reload_on_signal(self) -> None:
        """Do as `reload`; what is wrong is logged by the look."""
        with contextlib.suppress(LockdError):
            self.reload()

    async def refresh(self) -> None:
        """Put the settings on the disk in force, if they changed; wrong ones stop reboots and are told."""
        if not self._reader.is_stale():
            return
        fresh = self._wired_anew()
        if fresh is None:
            return
        before, self._wired = self._wired, fresh
        log.configure(fresh.loaded.settings.log_level)
        await self._unregister()
        await self._leave_store(before, fresh)
        await self.coordinator.adopt(fresh.policy, fresh.means, fresh.identity.machine_id)
        self.inquiry.adopt(fresh.policy, fresh.means, fresh.registry)
        await before.close()
        self._register()
        logger.info("settings-reread", strategy=fresh.policy.strategy, group=fresh.policy.group)
        if fresh.loaded.doubt:
            logger.error("policy-doubtful", message_id=message_ids.SETTINGS_WRONG, problem=fresh.loaded.doubt)

    def _wired_anew(self) -> Wired | None:
        wrong: LockdError
        try:
            return self._wire(self._take(self._reader.read()))
        except LockdError as error:
            wrong = error
        self._reader.blame(wrong)
        logger.error("settings-wrong", message_id=message_ids.SETTINGS_WRONG, error=wrong.message, hint=wrong.hint)
        return None

    def _take(self, loaded: Loaded) -> Loaded:
        """Return them if a running daemon can take them up.

        Raises:
            LocalError: CONFIG; it can't.
        """
        changed = [
            name for name in FIXED if getattr(loaded.settings, name) != getattr(self._wired.loaded.settings, name)
        ]
        if changed:
            raise LocalError(
                ErrorCode.CONFIG, f"{', '.join(changed)} changed, which a running lockd can't take up",
                hint="`systemctl restart lockd`.",
            )  # fmt: skip
        return loaded

    async def _leave_store(self, before: Wired, after: Wired) -> None:
        """Give back what waits or is held where the tickets were until now; a host that goes down keeps its slot."""
        semaphore = before.means.semaphore
        if semaphore is None or _place(before) == _place(after):
            return
        try:
            own = (await semaphore.look()).of(before.identity.machine_id)
            if own and own.claim.phase in (Phase.WAITING, Phase.HELD) and own.claim.boot_id == before.identity.boot_id:
                await semaphore.give_back(own)
            elif own is not None:
                logger.warning("ticket-left-behind", group=before.policy.group, phase=own.claim.phase.value)
        except LockdError as error:
            logger.warning("ticket-left-behind", group=before.policy.group, error=error.message)

    # ---- the register of machines

    def _register(self) -> None:
        if self._wired.registry is not None:
            registrar = Registrar(self._wired.registry, self._clock, self._describe)
            self._registering = asyncio.ensure_future(registrar.run())

    async def _unregister(self) -> None:
        if self._registering is not None:
            self._registering.cancel()
            await asyncio.gather(self._registering, return_exceptions=True)
            self._registering = None

    def _describe(self) -> Machine:
        view = self.coordinator.view
        return Machine(view.machine_id, self._wired.identity.host, view.version, view.slot, view.state, view.boot_id)


def _place(wired: Wired) -> tuple[object, ...]:
    """Return what says which ticket this host's is."""
    settings = wired.loaded.settings
    store = (settings.etcd.endpoints, settings.etcd.prefix, settings.fleetlock.base_url, settings.fleetlock.id)
    return (settings.strategy, settings.group, wired.identity.machine_id, *store, settings.local, settings.state_dir)
