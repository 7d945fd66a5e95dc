"""The one place that starts other programs: an argument list, a deadline, never a shell."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

OUTPUT_LIMIT = 64 * 1024  # bytes kept of each stream; a hook that talks more is cut, not believed
GRACE_SECS = 5.0  # between SIGTERM and SIGKILL
LEFT_SECS = 1.0  # after SIGKILL, for the rest of the output; who left the group and holds the pipes isn't waited for
STREAM_LIMIT = 64 * 1024  # bytes that asyncio reads ahead
ALIVE_SECS = 1.0  # between two signs of life of who waits for a program; a watchdog looks far less often


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended; `returncode` is -N when signal N ended it."""

    returncode: int
    stdout: str
    stderr: str
    timed_out: bool = False


async def run(
    argv: Sequence[str],
    *,
    timeout_secs: float,
    env: Mapping[str, str] | None = None,
    alive: Callable[[], None] | None = None,
) -> Completed:
    """Run a program to its end, or to its deadline, in a process group of its own.

    At the deadline the whole group gets SIGTERM, and SIGKILL five seconds later, so that nothing it started
    lives on. What left the group by a session of its own may live on, but isn't waited for.

    Args:
        argv: the program and its arguments.
        timeout_secs: its deadline.
        env: its whole environment; None for this process's own.
        alive: called once a second while the program runs within its deadline: who waits for a program that
            is bounded isn't hanging, whatever the program does.

    Raises:
        OSError: the program can't be started.
    """
    transport, child = await _started(argv, env)
    out, err = bytearray(), bytearray()
    ending = asyncio.ensure_future(_to_its_end(child, out, err))
    try:
        ended = await _wait_until(ending, timeout_secs, alive)
        if ended:
            ending.result()
        else:
            await _end_group(child, ending)
    except BaseException:  # cancelled: leave no orphan behind
        await _kill_group(child, ending)
        raise
    finally:
        ending.cancel()
        await _close(transport)
    returncode = child.returncode if child.returncode is not None else -signal.SIGKILL
    return Completed(returncode, out.decode(errors="replace"), err.decode(errors="replace"), timed_out=not ended)


async def _wait_until(ending: asyncio.Future[None], timeout_secs: float, alive: Callable[[], None] | None) -> bool:
    """Wait for the end, at most until the deadline, with a sign of life every second; tell whether it came."""
    left = timeout_secs
    while alive is not None and left > ALIVE_SECS:
        alive()
        ended, _ = await asyncio.wait([ending], timeout=ALIVE_SECS)
        if ended:
            return True
        left -= ALIVE_SECS
    ended, _ = await asyncio.wait([ending], timeout=left)
    return bool(ended)


async def _started(
    argv: Sequence[str], env: Mapping[str, str] | None
) -> tuple[asyncio.SubprocessTransport, asyncio.subprocess.Process]:
    """Start it; a cancellation waits for that, since in the middle of it the child and its pipes would be nobody's."""
    starting = asyncio.ensure_future(_start(argv, env))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            transport, child = await starting
            _signal_group(child, signal.SIGKILL)
            await _close(transport)
        raise


async def _close(transport: asyncio.SubprocessTransport) -> None:
    transport.close()
    await asyncio.sleep(0)  # the pipes are closed at the loop's next turn, and it may have no other


async def _start(
    argv: Sequence[str], env: Mapping[str, str] | None
) -> tuple[asyncio.SubprocessTransport, asyncio.subprocess.Process]:
    """Start it as asyncio.create_subprocess_exec does, which doesn't hand out the transport that closes the pipes."""
    loop = asyncio.get_running_loop()
    try:
        transport, protocol = await loop.subprocess_exec(
            lambda: asyncio.subprocess.SubprocessStreamProtocol(limit=STREAM_LIMIT, loop=loop),
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=None if env is None else dict(env),
            start_new_session=True,
        )
    except ValueError as error:  # a null character, or half of a surrogate pair
        what = "an argument or its environment holds what no program can be given"
        raise OSError(errno.EINVAL, what, argv[0]) from error
    return transport, asyncio.subprocess.Process(transport, protocol, loop)


async def _to_its_end(child: asyncio.subprocess.Process, out: bytearray, err: bytearray) -> None:
    await asyncio.gather(_read(child.stdout, out), _read(child.stderr, err))
    await child.wait()


async def _read(stream: asyncio.StreamReader | None, kept: bytearray) -> None:
    while stream is not None and (piece := await stream.read(65536)):
        kept += piece[: OUTPUT_LIMIT - len(kept)]


async def _end_group(child: asyncio.subprocess.Process, ending: asyncio.Future[None]) -> None:
    _signal_group(child, signal.SIGTERM)
    await asyncio.wait([ending], timeout=GRACE_SECS)
    await _kill_group(child, ending)


async def _kill_group(child: asyncio.subprocess.Process, ending: asyncio.Future[None]) -> None:
    _signal_group(child, signal.SIGKILL)
    await asyncio.wait([ending], timeout=LEFT_SECS)


def _signal_group(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it is gone already, or became somebody else's
        os.killpg(child.pid, number)
