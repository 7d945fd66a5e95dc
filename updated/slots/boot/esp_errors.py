"""What an operator reads when the entries on the ESP can't be used as they are."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from updated.errors import ErrorCode, LocalError
from updated.slots.boot.efivars import LoaderFacts
from updated.slots.boot.entries import Menu
from updated.slots.layout import Slot


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Let what the file system refuses be an error of ours; `what` is `read` or `written`.

    Raises:
        LocalError: BOOT_READ_ONLY, NO_SPACE, BOOT_FILES.
    """
    try:
        yield
    except OSError as error:
        raise boot_files_error(what, error) from error


def boot_files_error(what: str, error: OSError) -> LocalError:
    """Return the error for a boot loader's file that can't be read or written."""
    said = f"the boot loader's files can't be {what}: {error.filename or 'its file system'}: {error.strerror or error}"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return LocalError(
            ErrorCode.BOOT_READ_ONLY,
            said,
            hint="Mount that file system read-write (fstab, or a systemd mount unit), and let the agent's sandbox write"
            " there: a drop-in of updated.service with ReadWritePaths= of its mount point (docs/boot-loaders.md).",
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LocalError(ErrorCode.NO_SPACE, said, hint="Remove what isn't needed from the boot loader's file system.")
    return LocalError(
        ErrorCode.BOOT_FILES, said, hint="Look at the file system and the kernel's log (`dmesg`); `fsck` may mend it."
    )


def no_esp() -> LocalError:
    """Return the error for a host whose ESP isn't mounted."""
    return LocalError(
        ErrorCode.BOOT_FILES,
        "no FAT file system is mounted where systemd-boot's entries could be (slots.esp, /efi, /boot/efi, /boot)",
        hint="Mount the ESP, or name its mount point in slots.esp.",
    )


def no_entry(slot: Slot) -> LocalError:
    """Return the error for a slot that should have an entry."""
    return LocalError(
        ErrorCode.BOOT_ENTRY,
        f"no boot entry starts slot {slot.name}: none names {slot.partuuid} or the label {slot.label}, none is called"
        f" slot-{slot.name.lower()}",
        hint="`bootctl list` shows the entries; docs/boot-loaders.md says what an image's own entry has to have.",
    )


def bad_entry(slot: Slot, error: ValueError) -> LocalError:
    """Return the error for a slot that no entry can be made for."""
    return LocalError(
        ErrorCode.BOOT_ENTRY,
        f"slot {slot.name} can't get a boot entry from the running slot's: {error}",
        hint="docs/boot-loaders.md says what the running slot's entry has to have; `bootctl list` shows it.",
    )


def outranked(slot: Slot, why: str) -> LocalError:
    """Return the error for a slot that would not be booted, or not be fallen back from."""
    return LocalError(
        ErrorCode.BOOT_OUTRANKED,
        f"arming slot {slot.name} would not make it the next to boot, or nothing would lead back from it: {why}",
        hint="Remove that entry or setting: see `bootctl list`, `bootctl set-default ''`, `bootctl set-oneshot ''`, and"
        " the line `default` of loader.conf.",
    )


def refuse_mismatch(menu: Menu, facts: LoaderFacts, running: Slot) -> None:
    """Refuse to go on while an entry is called one slot's and boots the other, or another slot's entry was booted.

    Raises:
        LocalError: BOOT_MISMATCH.
    """
    wrong = next((entry for entry in menu.entries if entry.contradicts), None)
    if wrong is not None:
        raise _mismatch(f"the entry {wrong.name} is called slot {wrong.named_for}'s and boots slot {wrong.slot}'s root")
    booted = [entry for entry in menu.entries if facts.selected and entry.name.identity == facts.selected]
    if booted and all(entry.slot != running.name for entry in booted):
        whose = f"slot {booted[0].slot}" if booted[0].slot else "neither slot"
        raise _mismatch(f"the boot loader booted {facts.selected} of {whose}, and the root is slot {running.name}'s")


def _mismatch(why: str) -> LocalError:
    return LocalError(
        ErrorCode.BOOT_MISMATCH,
        f"boot entry and root disagree: {why}",
        hint="Each entry has to name its own slot's root (PARTUUID, PARTLABEL or root hash). Correct the entry and boot"
        " again; until then nothing is confirmed, armed or removed.",
    )
