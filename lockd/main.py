"""The lockd daemon: reads the policy, wires the real means together, runs until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
from pathlib import Path

from lockd.agent import AgentClient
from lockd.bus import serve
from lockd.config import Loaded, load
from lockd.coordinator import Coordinator, Means, Policy
from lockd.errors import ErrorCode, LocalError, RefusedError
from lockd.logind import choose_reboot
from lockd.machines import Machine
from lockd.registry import Registrar, Registry
from lockd.semaphore import Identity, Semaphore
from lockd.wiring import make_identity, make_local, make_registry, make_semaphore
from updated.common import bus as bus_room
from updated.common import cli, log, notify
from updated.common.clock import SystemClock
from updated.common.errors import OperatorError

logger = log.get_logger("main")


def main() -> None:
    """Run the `lockd` command."""
    cli.run(_main, exit_code=exit_code)


def exit_code(error: OperatorError) -> cli.Exit:
    """Return the exit code that an error means to a script."""
    if isinstance(error, RefusedError):
        return cli.Exit.REFUSED
    unreachable = (ErrorCode.UNREACHABLE, ErrorCode.ETCD_UNREACHABLE, ErrorCode.FLEETLOCK_UNREACHABLE)
    return cli.Exit.UNREACHABLE if error.code in unreachable else cli.Exit.FAILED


def _main() -> int:
    parser = cli.parser(
        "lockd",
        "Decides when this host may reboot: policy, windows, and the group's reboot tickets.",
        "LOCKD_CONFIG=./lockd.toml lockd",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="read this file instead of the system's")
    arguments: argparse.Namespace = parser.parse_args()
    loaded = load(arguments.config, os.environ)
    try:
        log.configure(loaded.settings.log_level)
    except ValueError as error:
        raise LocalError(ErrorCode.CONFIG, str(error), hint="Correct log_level in lockd.toml.") from error
    for key in loaded.unknown:
        logger.warning("unknown-setting", key=key, file=loaded.layers.origin[key])
    return asyncio.run(_run(loaded))


def make_policy(loaded: Loaded) -> Policy:
    """Return what the gates need of the settings."""
    settings = loaded.settings
    return Policy(
        strategy=settings.strategy,
        group=settings.group,
        windows=loaded.windows,
        blackouts=loaded.blackouts,
        spread_secs=settings.spread_secs,
        min_remaining_secs=settings.min_remaining_secs,
        hold_file=settings.hold_file,
        reboot_retry_secs=settings.reboot_retry_secs,
    )


async def _run(loaded: Loaded) -> int:
    settings, clock = loaded.settings, SystemClock()
    identity = make_identity(settings)
    semaphore, registry = make_semaphore(settings, clock), make_registry(settings)
    bus = await _connect(settings.bus_address)
    agent = AgentClient(bus, identity.boot_id)
    means = Means(
        clock=clock,
        agent=agent,
        reboot=choose_reboot(settings.reboot_command, bus),
        semaphore=semaphore,
        fraction=random.SystemRandom().random,
        notifier=notify.from_environment(os.environ),
        local=make_local(loaded, clock, bus, identity),
    )
    coordinator = Coordinator(make_policy(loaded), means, machine_id=identity.machine_id, boot_id=identity.boot_id)
    registrar = Registrar(registry, clock, lambda: _describe(coordinator, identity)) if registry else None
    try:
        await _serve(coordinator, agent, means.notifier, bus, registrar)
    finally:
        means.notifier.stopping()
        await _close(bus, semaphore, registry)
    return cli.Exit.DONE


def _describe(coordinator: Coordinator, identity: Identity) -> Machine:
    view = coordinator.view
    return Machine(view.machine_id, identity.host, view.version, view.slot, view.state, view.boot_id)


async def _serve(
    coordinator: Coordinator,
    agent: AgentClient,
    notifier: notify.Notifier,
    bus: bus_room.Bus,
    registrar: Registrar | None,
) -> None:
    await serve(coordinator, bus)
    await _listen(agent, coordinator)
    tasks = [asyncio.create_task(coordinator.run()), asyncio.create_task(_fail_when_lost(bus))]
    if registrar is not None:
        tasks.append(asyncio.create_task(registrar.run()))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _cancel, tasks)
    notifier.ready()
    logger.info("ready", strategy=coordinator.view.strategy, group=coordinator.view.group_name)
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        _cancel(tasks)
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        if not task.cancelled():
            task.result()
    logger.info("stopped")


def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


async def _connect(address: str | None) -> bus_room.Bus:
    try:
        return await bus_room.connect(address)
    except bus_room.BusError as error:
        raise LocalError(
            ErrorCode.UNREACHABLE, str(error), hint="Start dbus, or set bus_address / LOCKD_BUS_ADDRESS."
        ) from error


async def _listen(agent: AgentClient, coordinator: Coordinator) -> None:
    try:
        await agent.listen(coordinator.wake)
    except (bus_room.BusCallError, bus_room.BusError) as error:
        raise LocalError(
            ErrorCode.UNREACHABLE, f"the bus doesn't let lockd hear the update agent: {error}",
            hint="Install the D-Bus policy file, or look at the bus's own log; systemd starts lockd again by itself.",
        ) from error  # fmt: skip


async def _fail_when_lost(bus: bus_room.Bus) -> None:
    await bus.wait_closed()
    raise LocalError(
        ErrorCode.UNREACHABLE, "the connection to the bus broke", hint="systemd starts lockd again by itself."
    )


async def _close(bus: bus_room.Bus, semaphore: Semaphore | None, registry: Registry | None) -> None:
    await bus.close()
    if semaphore is not None:
        await semaphore.store.close()
    if registry is not None:
        await registry.close()


if __name__ == "__main__":
    main()
