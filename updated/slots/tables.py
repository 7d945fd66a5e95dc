"""Reads a disk's partition table from the better of its two copies, and writes both, crash-safe.

Writing order: backup entries, backup header, flush, primary entries, primary header, flush. A cut in the first half
leaves the primary whole, a cut in the second half the backup, and each is a complete table, old or new.
"""

from __future__ import annotations

from dataclasses import dataclass

from updated.slots.disk import Disk
from updated.slots.gpt import (
    SECTOR_SIZES,
    Header,
    Table,
    encode_entries,
    encode_header,
    invalid,
    parse_entries,
    parse_header,
)


@dataclass(frozen=True, slots=True)
class Found:
    """A table, and what is wrong with either copy (None: nothing)."""

    table: Table
    primary_damage: str | None
    backup_damage: str | None


def read_table(disk: Disk) -> Found:
    """Read the table; the primary copy counts when both are good.

    Raises:
        LocalError: GPT_INVALID; neither copy is good.
        OSError: the disk can't be read.
    """
    problems = []
    for sector_size in SECTOR_SIZES:
        primary, primary_damage = _try_copy(disk, sector_size, 1)
        backup, backup_damage = _try_copy(disk, sector_size, disk.size // sector_size - 1)
        table = primary or backup
        if table is not None:
            if primary and backup and primary.entries != backup.entries:
                backup_damage = "it differs from the primary"  # a cut between the two; the next change heals it
            return Found(table, primary_damage, backup_damage)
        problems.append(f"primary: {primary_damage}; backup: {backup_damage}")
    raise invalid(f"the disk has no good partition table ({problems[0]})")


def _try_copy(disk: Disk, sector_size: int, lba: int) -> tuple[Table | None, str | None]:
    if (lba + 1) * sector_size > disk.size or lba < 1:
        return None, "the disk is too small"
    try:
        header = parse_header(disk.read(lba * sector_size, sector_size), lba)
        _check_bounds(header, sector_size, disk.size)
        entries = parse_entries(header, disk.read(header.entries_lba * sector_size, header.entries_bytes))
    except ValueError as error:
        return None, str(error)
    return Table(header, entries, sector_size), None


def _check_bounds(header: Header, sector_size: int, size: int) -> None:
    if header.entries_lba * sector_size + header.entries_bytes > size:
        raise ValueError("its entries lie beyond the disk")


def write_table(disk: Disk, found: Found, table: Table) -> None:
    """Write both copies of `table` and read them back.

    Raises:
        LocalError: GPT_INVALID; what is read back isn't what was written.
        OSError: the disk can't be written.
    """
    last = disk.size // table.sector_size - 1
    array = encode_entries(table)
    sectors = -(-len(array) // table.sector_size)
    primary_entries = found.table.header.entries_lba if found.table.header.my_lba == 1 else 2
    # a good primary stays until the backup is whole; a damaged one can't be made worse, and the backup that we live
    # from then must not be the one that a cut tears
    order = [(last, 1, last - sectors), (1, last, primary_entries)]
    if found.primary_damage:
        order.reverse()
    for my_lba, alternate, entries_lba in order:
        disk.write(entries_lba * table.sector_size, array)
        disk.write(
            my_lba * table.sector_size,
            encode_header(table, my_lba=my_lba, alternate_lba=alternate, entries_lba=entries_lba),
        )
        disk.flush()
    again = read_table(disk)
    if again.primary_damage or again.backup_damage or again.table.entries != table.entries:
        damage = f"primary: {again.primary_damage}; backup: {again.backup_damage}"
        raise invalid(f"the partition table reads back differently ({damage})")
