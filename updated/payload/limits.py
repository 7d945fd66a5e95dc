"""How much a payload may ask of us, in one place.

The manifest of a real 768 MiB image in 64 KiB operations is about 0.7 MiB, of a full 4 GiB one 3.8 MiB; an image larger
than that is built in larger operations. As objects, 4 MiB of the smallest extents would cost 85 MiB. Hence these.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds; sizes in bytes."""

    manifest_bytes: int = 4 * 1024 * 1024
    operations: int = 65536
    extents: int = 262144  # of a whole manifest, sources and destinations
    partitions: int = 64
    packages: int = 64
    operation_bytes: int = 64 * 1024 * 1024  # data, source or destination of one operation, for they are held in memory
    file_bytes: int = 256 * 1024 * 1024  # of a partition that goes into a file (a kernel), which has no medium's bound
    image_bytes: int = 1 << 50  # far beyond any medium, and every offset below it is one that a file can have
    signature_bytes: int = 64 * 1024
    signatures: int = 8
    text_bytes: int = 256  # a name, a version
    xz_memory_bytes: int = 128 * 1024 * 1024
    zstd_window_bytes: int = 128 * 1024 * 1024


LIMITS = Limits()
