"""What hosts would refuse for its size is not built: large images get larger chunks, or the build says what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.releases import Workshop
from updated.errors import ErrorCode, LocalError
from updated.payload.limits import LIMITS
from updated.release import build as built
from updated.release.build import BuildRequest

GIB, KIB = 1024**3, 1024


@pytest.mark.parametrize(
    ("image", "kernel", "chunk_kib"),
    [(4096, 0, 64), (4 * GIB, 0, 64), (4 * GIB, 1, 128), (4 * GIB + 1, 0, 128), (8 * GIB, 0, 128), (9 * GIB, 9, 256)],
)
def test_chunks_of_large_images_are_larger(tmp_path: Path, image: int, kernel: int, chunk_kib: int) -> None:
    """64 KiB up to 4 GiB of images, then doubled: never more chunks than hosts take operations."""
    paths = [tmp_path / "image", tmp_path / "kernel"]
    for path, size in zip(paths, (image, kernel), strict=True):
        with path.open("wb") as file:
            file.truncate(size)
    request = BuildRequest(
        image=paths[0], product="p", channel="c", version="1", rollback_index=1, key=tmp_path, out=tmp_path,
        kernel=paths[1] if kernel else None,
    )  # fmt: skip
    assert next(iter(built._lengths(request, None)["root"])) == min(chunk_kib * KIB, image)
    assert next(iter(built._lengths(replace(request, chunk_kib=4), None)["root"])) == 4 * KIB


@pytest.mark.parametrize(
    ("changes", "limits", "hint"),
    [
        ({"chunk_kib": 64}, {"operations": 20}, "--chunk-kib"),
        ({"chunk_kib": 64}, {"manifest_bytes": 33_000}, "--chunk-kib"),
        ({"major": 1}, {"operations": 3}, "--major"),
        ({"old": True}, {"extents": 3}, "--old"),
    ],
)
def test_payload_that_no_host_takes_is_not_built(
    tmp_path: Path,
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    limits: dict[str, int],
    hint: str,
) -> None:
    """Too many operations, extents or bytes of manifest: the build ends with what to do, and leaves no payload."""
    monkeypatch.setattr(built, "LIMITS", replace(LIMITS, **limits))
    if "old" in changes:
        changes = {"old": workshop.image("1.0.0")}
    with pytest.raises(LocalError, match="hosts take up to") as caught:
        workshop.build(tmp_path, "1.1.0", **changes)
    assert caught.value.code is ErrorCode.USAGE
    assert hint in caught.value.hint
    assert not list(tmp_path.glob("*.payload"))


def test_chunks_that_fit_are_found(tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no size given the same limit is met."""
    monkeypatch.setattr(built, "LIMITS", replace(LIMITS, operations=20))
    workshop.build(tmp_path, "1.1.0")
    assert list(tmp_path.glob("*.payload"))
