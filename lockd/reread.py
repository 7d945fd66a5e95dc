"""The settings in force, and whether the files that they were made of are still those on the disk.

Absence isn't permission, and neither is a change that wasn't understood: from the moment when a file changes until the
new settings are in force, and as long as they are wrong, `problem` says what is the matter and nothing reboots.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lockd.config import Loaded, load, named_file, paths_read
from lockd.errors import LockdError
from updated.common.fingerprint import Fingerprint, fingerprint


class SettingsReader:
    """Reads the layers of settings, again and again."""

    def __init__(self, config: Path | None, environ: Mapping[str, str]) -> None:
        self._config, self._environ = config, environ
        self._explicit = named_file(config, environ)
        self._paths: list[Path] = []
        self._read_as: Fingerprint = ()
        self._wrong = ""
        self._doubt = ""  # of the settings in force
        self._wanted = False  # somebody asked for it, whatever the files look like

    def read(self) -> Loaded:
        """Read and check all of them; what is wrong with them is remembered as well.

        They are read once to know which files they are made of, and again, so that a change in between isn't missed.

        Raises:
            LockdError: they are wrong; as `lockd.config.load`.
        """
        self._wanted = False
        try:
            self._paths = paths_read(self._explicit, load(self._config, self._environ).settings)
            self._read_as = fingerprint(self._paths)
            loaded = load(self._config, self._environ)
        except LockdError as error:
            self._read_as = fingerprint(self._paths)
            self.blame(error)
            raise
        self._wrong = ""
        self._doubt = loaded.doubt
        return loaded

    def blame(self, error: LockdError) -> None:
        """These settings can't be put in force, for this reason."""
        self._wrong = f"{error.message} [{error.name}]"

    def check(self) -> None:
        """Read and check the settings, and leave those in force as they are.

        Raises:
            LockdError: they are wrong.
        """
        load(self._config, self._environ)

    def ask(self) -> None:
        """Somebody wants them read again, changed or not."""
        self._wanted = True

    def is_stale(self) -> bool:
        """Tell whether they are to be read again; a folder that got a new drop-in has changed, too."""
        return self._wanted or self._read_as != fingerprint(self._paths)

    def problem(self) -> str:
        """Return why nothing may be decided by the settings in force; empty when all is well."""
        if self.is_stale():
            return "the settings on the disk changed, and aren't in force yet"
        if self._wrong:
            return f"the settings are wrong, and those of before aren't valid any more: {self._wrong}"
        return self._doubt and f"the policy may not be all of it: {self._doubt}"
