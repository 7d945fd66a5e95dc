"""What systemd-boot told through EFI variables: which entry it booted, whether it counts this boot, what it is set to.

Names and meaning after systemd's boot loader interface. A variable's file in efivarfs has four bytes of attributes,
then UTF-16 text with a NUL at its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from updated.slots.boot.bls import parse_name

LOADER = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"  # systemd's vendor GUID of these variables
LIMIT = 8192  # bytes of a variable that is looked at


@dataclass(frozen=True, slots=True)
class LoaderFacts:
    """What the variables say; what isn't set is empty."""

    selected: str = ""  # the entry that was booted, without its counter, in lower case
    count_path: str = ""  # the booted entry's file, `/`-separated, while its boots are counted
    default: str = ""  # an entry that is booted whatever the counters say
    one_shot: str = ""  # the same, for the next boot only


def read_loader_facts(sysfs: Path) -> LoaderFacts:
    """Read the variables; a machine without EFI or systemd-boot has none."""
    folder = sysfs / "firmware/efi/efivars"
    return LoaderFacts(
        selected=_identity(_text(folder, "LoaderEntrySelected")),
        count_path=_text(folder, "LoaderBootCountPath").replace("\\", "/"),
        default=_text(folder, "LoaderEntryDefault"),
        one_shot=_text(folder, "LoaderEntryOneShot"),
    )


def _text(folder: Path, name: str) -> str:
    try:
        with (folder / f"{name}-{LOADER}").open("rb") as file:
            data = file.read(LIMIT)
    except OSError:
        return ""  # it isn't set, or this is no EFI machine: both mean that nobody tells
    return data[4:].decode("utf-16-le", errors="replace").split("\0", 1)[0]


def _identity(entry: str) -> str:
    name = parse_name(entry)
    return name.identity if name else entry.lower()
