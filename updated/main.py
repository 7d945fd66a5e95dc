"""The agent daemon: reads settings, wires the real means together, runs until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from updated.agent.context import Context, Means
from updated.agent.guarded_boot import GuardedBoot
from updated.agent.loop import Agent
from updated.agent.machine import Event, State
from updated.agent.memory import Store
from updated.agent.presence import stay_on_bus
from updated.common import cli, log, notify
from updated.common.clock import SystemClock
from updated.common.errors import OperatorError
from updated.common.inhibit import Inhibitor
from updated.config import Loaded, Settings, load
from updated.confirm.reboot import reboot_by_command, reboot_by_logind
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.wiring import boot_control, host_paths

logger = log.get_logger("main")

# what stays as it is until a person acts; a disk or a state directory may still come
PERMANENT = frozenset({ErrorCode.CONFIG, ErrorCode.SLOT_NOT_FOUND, ErrorCode.GPT_INVALID})
ONCE_EXIT = {"idle": 0, "need-reboot": 12}


def main() -> None:
    """Run the `updated` command."""
    cli.run(_main, exit_code=exit_code)


def exit_code(error: OperatorError) -> cli.Exit:
    """Return the exit code that an error means to a script, and to systemd, which doesn't start 78 again."""
    if isinstance(error, RefusedError):
        return cli.Exit.REFUSED
    if error.code in PERMANENT:
        return cli.Exit.CONFIG
    return cli.Exit.UNREACHABLE if error.code is ErrorCode.UNREACHABLE else cli.Exit.FAILED


def _main() -> int:
    arguments = _parser().parse_args()
    loaded = _load(arguments)
    log.configure(loaded.settings.log_level)
    if arguments.once:
        return asyncio.run(_run_once(loaded.settings))
    return asyncio.run(_run(loaded.settings, lambda: _load(arguments).settings))


def _load(arguments: argparse.Namespace) -> Loaded:
    loaded = load(arguments.config, os.environ)
    for key in loaded.unknown:
        logger.warning("unknown-setting", key=key, file=loaded.layers.origin[key])
    return loaded


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "updated",
        "Keeps this host's operating system up to date: polls, verifies, writes the inactive slot, confirms.",
        "updated --once    # one check and, if there is a release, one install; exits as `update-ctl check`",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="read this file instead of the system's")
    parser.add_argument("--once", action="store_true", help="one check and at most one install, no D-Bus")
    return parser


def make_means(settings: Settings) -> Means:
    """Wire the real clock, boot loader data, state directory and reboot.

    Raises:
        LocalError: the disk with the slots can't be found.
    """
    paths = host_paths(settings.host)
    return Means(
        settings=settings,
        clock=SystemClock(),
        boot=GuardedBoot(boot_control(settings.slots, paths), Inhibitor(settings.bus_address, "updated")),
        host=paths,
        store=Store(settings.state_dir),
        fraction=random.SystemRandom().random,
        reboot=_reboot(settings),
    )


def _reboot(settings: Settings) -> Callable[[Callable[[], None]], Awaitable[None]]:
    command = settings.health.reboot_command
    if command:
        return lambda alive: reboot_by_command(command, alive)
    return lambda alive: reboot_by_logind(settings.bus_address, alive)


async def _run(settings: Settings, read: Callable[[], Settings]) -> int:
    notifier = notify.from_environment(os.environ)
    agent = Agent(Context(make_means(settings)), notifier)
    agent.when_reloaded(lambda: _reread(agent, read()))
    try:
        await _run_on_bus(agent, notifier)
    except ExceptionGroup as group:
        raise known_error(group) from group
    finally:
        notifier.stopping()
    return cli.Exit.DONE


def _reread(agent: Agent, settings: Settings) -> Means:
    return dataclasses.replace(agent.context.means, settings=settings, reboot=_reboot(settings))


async def _run_on_bus(agent: Agent, notifier: notify.Notifier) -> None:
    """Serve until a signal; systemd hears of readiness only once the agent knows its slots and its state.

    The bus is looked for first, so that a second agent finds the first one's names taken before it does anything.
    """
    agent.when_recalled(notifier.ready)
    looked = asyncio.Event()
    means = agent.context.means
    async with asyncio.TaskGroup() as tasks:
        presence = tasks.create_task(stay_on_bus(agent, means.settings.bus_address, means.clock, looked.set))
        work = tasks.create_task(_work(agent, looked))
        _on_signals(presence, work, reload=lambda: tasks.create_task(_reload(agent)))
    logger.info("stopped")


async def _work(agent: Agent, looked: asyncio.Event) -> None:
    await looked.wait()
    await agent.run()


async def _reload(agent: Agent) -> None:
    with contextlib.suppress(LocalError):  # it was logged, and the old settings stay
        await agent.reload()


def known_error(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first error of our own in a group of tasks, so that it is reported as such; else the group."""
    known: Exception | None = group.subgroup(OperatorError)
    while isinstance(known, ExceptionGroup):
        known = known.exceptions[0]
    return known or group


def _on_signals(*tasks: asyncio.Task[None], reload: Callable[[], object]) -> None:
    def stop() -> None:
        for task in tasks:
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)


async def _run_once(settings: Settings) -> int:
    agent = Agent(Context(make_means(settings)), notify.from_environment(os.environ))
    work = asyncio.create_task(agent.run())
    try:
        await _settled(agent, work)
        if agent.view.state is State.IDLE:
            agent.ask(Event.ASKED_UPDATE)
            await _settled(agent, work)
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    if agent.view.last_error and agent.view.state is not State.NEED_REBOOT:
        error = agent.view.last_error
        cli.report_text(error["message"], error["name"], error["hint"])
        return 13
    return ONCE_EXIT.get(agent.view.state.value, 13)


async def _settled(agent: Agent, work: asyncio.Task[None]) -> None:
    """Wait until the agent has settled, or has failed."""
    waiting = asyncio.create_task(agent.settled())
    done, _ = await asyncio.wait({waiting, work}, return_when=asyncio.FIRST_COMPLETED)
    if work in done:
        waiting.cancel()
        work.result()


if __name__ == "__main__":
    main()
