"""The hooks around a reboot: pre-reboot.d before it, post-boot.d after it or when it doesn't come about.

What was begun is written down before the first hook runs, with the boot's id, so that a restart of the daemon or a
power cut between the two finds what is still to be done: each drained host is brought back, in the same boot or the
next one. That all hooks ended well is written down after them: without it they run once more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lockd import message_ids
from lockd.errors import ErrorCode, LocalError, RefusedError, Retry
from lockd.hooks import Outcome, programs, run_all
from lockd.local_settings import HookSettings
from updated.common.durable import read_bounded, remove_durably, write_atomic
from updated.common.log import get_logger

logger = get_logger("drain")

FILE_LIMIT = 4096
KEPT = ("LOCKD_VERSION_FROM", "LOCKD_VERSION_TO", "LOCKD_SLOT_TARGET")  # what the boot after it is told


class Drain:
    """One host's hooks; `boot_id` is of this boot."""

    def __init__(self, settings: HookSettings, path: Path, boot_id: str) -> None:
        self._settings, self._path, self._boot_id = settings, path, boot_id
        self._stored: dict[str, str] = {}
        self._done = False  # all of pre-reboot.d ended as it must
        self._drained_in = self._load()

    @property
    def drained(self) -> bool:
        """Whether hooks ran, or some of them, before a reboot that didn't come about yet."""
        return self._drained_in == self._boot_id

    @property
    def came_back(self) -> bool:
        """Whether this boot came after hooks ran, and those after the boot are still to run."""
        return self._drained_in not in ("", self._boot_id)

    async def before(self, env: Mapping[str, str]) -> None:
        """Run pre-reboot.d, unless it ran already.

        Raises:
            RefusedError: DRAIN_FAILED; a hook failed, and the policy is to stop then.
            LocalError: STATE; that it begins can't be written down.
        """
        if (self.drained and self._done) or not self._has_hooks():
            return
        self._store(env, done=False)
        outcomes = await self._run("pre-reboot", self._settings.pre_reboot_timeout_secs, env)
        failed = _failure(outcomes)
        if failed is None or self._settings.on_pre_reboot_failure == "ignore":
            self._store(env, done=True)
            return
        await self.cancel(env)
        raise RefusedError(
            ErrorCode.DRAIN_FAILED, f"pre-reboot.d/{failed.name} {failed.problem}: {failed.words or 'it said nothing'}",
            hint="Repair what it drains, or the hook; `hooks.on_pre_reboot_failure = \"ignore\"` reboots all the same.",
            retry=Retry.LATER,
        )  # fmt: skip

    async def cancel(self, env: Mapping[str, str]) -> str:
        """Bring the host back into service in the same boot, if it was drained; return what went wrong.

        With a policy of `stop`, a hook that fails is tried again the next time.
        """
        if not self.drained:
            return ""
        return self._ended(_failure(await self._run("cancelled", self._settings.post_boot_timeout_secs, env)))

    async def after(self, env: Mapping[str, str]) -> str:
        """Run post-boot.d if this boot came after a reboot of ours; return what stands against going on."""
        if not self.came_back:
            return ""
        full = {**env, **self._stored}
        return self._ended(_failure(await self._run("post-boot", self._settings.post_boot_timeout_secs, full)))

    def _ended(self, failed: Outcome | None) -> str:
        """Take in how post-boot.d ended: the host is in service again, or it isn't yet."""
        if failed is not None:
            logger.error(
                "post-boot-failed", message_id=message_ids.POST_BOOT_FAILED, hook=failed.name, problem=failed.problem,
                words=failed.words,
            )  # fmt: skip
            if self._settings.on_post_boot_failure == "stop":
                return f"post-boot.d/{failed.name} {failed.problem}: {failed.words or 'it said nothing'}"
        self._forget()
        return ""

    def _has_hooks(self) -> bool:
        try:
            return any(
                programs([one / name for one in self._settings.dirs]) for name in ("pre-reboot.d", "post-boot.d")
            )
        except OSError:
            return True  # running them says what is wrong

    async def _run(self, event: str, timeout_secs: float, env: Mapping[str, str]) -> list[Outcome]:
        folder = "pre-reboot.d" if event == "pre-reboot" else "post-boot.d"
        full = {**env, "LOCKD_EVENT": event, "LOCKD_TIMEOUT_SECS": str(int(timeout_secs))}
        folders = [one / folder for one in self._settings.dirs]
        stop = event == "pre-reboot" and self._settings.on_pre_reboot_failure == "stop"
        return await run_all(folders, timeout_secs=timeout_secs, env=full, until_failure=stop)

    def _load(self) -> str:
        try:
            document = json.loads(read_bounded(self._path, FILE_LIMIT))
            self._stored = {name: str(document["env"][name])[:200] for name in KEPT if name in document["env"]}
            self._done = document.get("done") is True
            return str(document["boot_id"])
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            logger.warning("drain-file-damaged", file=str(self._path), error=str(error))
            return "unknown"  # some boot's: to bring a host back twice does no harm

    def _store(self, env: Mapping[str, str], *, done: bool) -> None:
        kept = {name: env[name] for name in KEPT if name in env}
        document = {"boot_id": self._boot_id, "done": done, "env": kept}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(self._path, json.dumps(document).encode())
        except OSError as error:
            raise LocalError(
                ErrorCode.STATE, f"{self._path} can't be written: {error}", hint="Check state_dir.", retry=Retry.LATER
            ) from error
        self._drained_in, self._done = self._boot_id, done

    def _forget(self) -> None:
        self._drained_in, self._done = "", False
        try:
            remove_durably(self._path)
        except OSError as error:
            logger.warning("drain-file-stays", file=str(self._path), error=str(error))


def _failure(outcomes: list[Outcome]) -> Outcome | None:
    return next((outcome for outcome in outcomes if outcome.problem), None)
