"""Since when this host waits for its reboot, in a small file: a restart of the daemon doesn't cost it its turn."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from updated.common.clock import rfc3339
from updated.common.durable import read_bounded, remove_durably, write_atomic
from updated.common.log import get_logger

logger = get_logger("waiting")

FILE_LIMIT = 4096


class Waiting:
    """Remembers when the wait began."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._since = self._load()

    def begin(self, now: datetime) -> datetime:
        """Return since when the host waits: now, if it didn't; a beginning in the future is a clock that was wrong."""
        if self._since is None or self._since > now:
            self._since = now
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_atomic(self._path, json.dumps({"since": rfc3339(now)}).encode())
            except OSError as error:
                logger.warning("waiting-not-written", file=str(self._path), error=str(error))
        return self._since

    def end(self) -> None:
        """The host doesn't wait any more."""
        if self._since is None:
            return
        self._since = None
        try:
            remove_durably(self._path)
        except OSError as error:
            logger.warning("waiting-not-removed", file=str(self._path), error=str(error))

    def _load(self) -> datetime | None:
        try:
            since = datetime.fromisoformat(json.loads(read_bounded(self._path, FILE_LIMIT))["since"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            logger.warning("waiting-file-damaged", file=str(self._path), error=str(error))
            return None
        return since if since.tzinfo is not None else None
