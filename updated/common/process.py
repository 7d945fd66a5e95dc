"""The one place that starts other programs: an argument list, a deadline, never a shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OUTPUT_LIMIT = 64 * 1024  # bytes kept of each stream; a hook that talks more is cut, not believed
GRACE_SECS = 5.0  # between SIGTERM and SIGKILL


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended; `returncode` is -N when signal N ended it."""

    returncode: int
    stdout: str
    stderr: str
    timed_out: bool = False


async def run(argv: Sequence[str], *, timeout_secs: float, env: Mapping[str, str] | None = None) -> Completed:
    """Run a program to its end, or to its deadline, in a process group of its own.

    At the deadline the whole group gets SIGTERM, and SIGKILL five seconds later, so that nothing it started
    lives on.

    Raises:
        OSError: the program can't be started.
    """
    child = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=None if env is None else dict(env),
        start_new_session=True,
    )
    reading = asyncio.gather(_read(child.stdout), _read(child.stderr))
    timed_out = False
    try:
        async with asyncio.timeout(timeout_secs):
            out, err = await asyncio.shield(reading)
            await child.wait()
    except TimeoutError:
        timed_out = True
        await _end_group(child)
        out, err = await reading
    except BaseException:  # cancelled: leave no orphan behind
        _signal_group(child, signal.SIGKILL)
        await child.wait()
        reading.cancel()
        raise
    returncode = child.returncode if child.returncode is not None else -signal.SIGKILL
    return Completed(returncode, out.decode(errors="replace"), err.decode(errors="replace"), timed_out)


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    kept = bytearray()
    while stream is not None and (piece := await stream.read(65536)):
        kept += piece[: OUTPUT_LIMIT - len(kept)]
    return bytes(kept)


async def _end_group(child: asyncio.subprocess.Process) -> None:
    _signal_group(child, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GRACE_SECS):
            await child.wait()
    _signal_group(child, signal.SIGKILL)
    await child.wait()


def _signal_group(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # the whole group is gone already
        os.killpg(child.pid, number)
