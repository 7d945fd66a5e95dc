"""Reads a disk's partition table from the better of its two copies, and writes both, crash-safe.

Writing order: backup entries, backup header, flush, primary entries, primary header, flush. A cut in the first half
leaves the primary whole, a cut in the second half the backup, and each is a complete table, old or new.
"""

from __future__ import annotations

from dataclasses import dataclass

from updated.errors import ErrorCode, LocalError
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

MBR_SIZE, MBR_ENTRIES, PROTECTIVE = 512, 446, 0xEE  # bytes, offset of four entries of 16, the type that says "GPT"
PRIMARY_ENTRIES_LBA = 2  # where the specification has them, when a damaged primary doesn't tell


@dataclass(frozen=True, slots=True)
class Found:
    """What a disk has: the copy that a boot loader goes by, the other good copy, and what is wrong with either."""

    table: Table
    other: Table | None
    primary_damage: str | None
    backup_damage: str | None

    @property
    def copies(self) -> tuple[Table, ...]:
        """All good copies; they differ when a cut came between the two writes of a change."""
        return (self.table, self.other) if self.other else (self.table,)


def read_table(disk: Disk) -> Found:
    """Read the table; the primary copy counts when both are good.

    Raises:
        LocalError: GPT_INVALID; neither copy is good.
        OSError: the disk can't be read.
    """
    problems = []
    for sector_size in (disk.sector_size,) if disk.sector_size else SECTOR_SIZES:
        primary, primary_damage = _try_copy(disk, sector_size, 1)
        backup, backup_damage = _try_copy(disk, sector_size, disk.size // sector_size - 1)
        table = primary or backup
        if table is not None:
            return Found(table, backup if primary else None, primary_damage, backup_damage)
        problems.append(f"primary: {primary_damage}; backup: {backup_damage}")
    if _has_only_mbr(disk):
        raise LocalError(
            ErrorCode.GPT_INVALID,
            "the disk has an MBR and no GUID partition table",
            hint="Slots are found by the labels and ids of a GPT; build the image with one.",
        )
    raise invalid(f"the disk has no good partition table ({problems[0]})")


def _has_only_mbr(disk: Disk) -> bool:
    """Tell a disk with a table of the old kind from one whose GPT is damaged: that one has a protective MBR."""
    if disk.size < MBR_SIZE:
        return False
    sector = disk.read(0, MBR_SIZE)
    types = {sector[at + 4] for at in range(MBR_ENTRIES, MBR_SIZE - 2, 16)} - {0}
    return sector[-2:] == b"\x55\xaa" and bool(types) and PROTECTIVE not in types


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
        LocalError: GPT_INVALID; there is no room for both, or what is read back isn't what was written.
        OSError: the disk can't be written.
    """
    last = disk.size // table.sector_size - 1
    array = encode_entries(table)
    sectors = -(-len(array) // table.sector_size)
    primary_entries = table.header.entries_lba if table.header.my_lba == 1 else PRIMARY_ENTRIES_LBA
    _check_room(table.header, primary_entries, last - sectors, sectors)
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
    if len(again.copies) < len(order) or any(copy.entries != table.entries for copy in again.copies):
        damage = f"primary: {again.primary_damage}; backup: {again.backup_damage}"
        raise invalid(f"the partition table reads back differently ({damage})")


def _check_room(header: Header, primary_entries: int, backup_entries: int, sectors: int) -> None:
    """Refuse to write where partitions may be: on a disk that shrank, or whose table lies elsewhere than usual."""
    if primary_entries < PRIMARY_ENTRIES_LBA or primary_entries + sectors > header.first_usable:
        raise invalid(f"the primary's entries at {primary_entries} reach into the first usable sector")
    if backup_entries <= header.last_usable:
        raise invalid(f"partitions may reach to sector {header.last_usable}, into the place of the backup table")
