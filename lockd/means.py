"""What the coordinator is given: the policy, and the means to act on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lockd.agent import AgentView
from lockd.local import Local
from lockd.semaphore import Semaphore
from lockd.windows import Blackout, Window
from updated.common.clock import Clock
from updated.common.notify import Notifier


class Agent(Protocol):
    """The update agent, as far as this room sees it."""

    async def look(self) -> AgentView:
        """Return what the agent says now."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """The part of the policy file that the gates look at."""

    strategy: str
    group: str
    windows: tuple[Window, ...] = ()
    blackouts: tuple[Blackout, ...] = ()
    min_remaining_secs: float = 0.0
    spread_secs: float = 0.0  # over which the hosts that waited for a window begin
    hold_file: Path = Path("/run/lockd/hold")
    reboot_retry_secs: float = 600.0


@dataclass(frozen=True, slots=True)
class Means:
    """What the coordinator works with; `semaphore` is None for strategies without tickets."""

    clock: Clock
    agent: Agent
    reboot: Callable[[], Awaitable[None]]
    semaphore: Semaphore | None
    fraction: Callable[[], float]  # spreads retries: 0 up to 1
    notifier: Notifier
    local: Local | None = None  # none: only the hold file is looked at
    settings_problem: Callable[[], str] = str  # why the policy can't be gone by for now; empty: it can
