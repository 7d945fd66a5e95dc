"""What the coordinator asks of its own host: blockers, people, hooks, and since when it waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lockd.blockers import Blockers
from lockd.drain import Drain
from lockd.people import People
from lockd.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Local:
    """The rooms of this host; `env` tells the administrator's programs who and where they are."""

    blockers: Blockers
    people: People
    drain: Drain
    waiting: Waiting
    env: Mapping[str, str]

    async def stand_down(self, env: Mapping[str, str], *, still_waiting: bool) -> str:
        """The reboot isn't near any more: bring back what was drained; return what went wrong with that.

        The countdown is forgotten, too, unless the ticket is all that is waited for: people were told by then.
        """
        if not still_waiting:
            await self.people.reset()
        return await self.drain.cancel(env)
