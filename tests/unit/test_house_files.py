"""What holds for every file of this tree."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = 400  # a longer file has two subjects
GENERATED = {"updated/payload/update_metadata_pb2.py"}
# put together here, so that this file doesn't hold them itself
REGISTRIES = [".".join(name) for name in (("pypi", "org"), ("pythonhosted", "org"), ("docker", "io"), ("ghcr", "io"))]
FORBIDDEN = re.compile("|".join([*map(re.escape, REGISTRIES), r"/(?:home|root|Users)/[\w.]", "/wo" + "rk/"]))


def tree() -> Iterator[Path]:
    """Yield every file that is tracked, or would be if it were added now."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in sorted(set(filter(None, listed.stdout.split("\0")))):
        if (ROOT / name).is_file():
            yield ROOT / name


def texts() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every file that is text."""
    for path in tree():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            yield str(path.relative_to(ROOT)), data.decode(errors="replace")


def test_no_file_is_too_long() -> None:
    """No Python file has more than 400 lines."""
    sizes = {name: text.count("\n") for name, text in texts() if name.endswith(".py") and name not in GENERATED}
    assert len(sizes) > 50, "the tree wasn't found"
    assert {name: lines for name, lines in sizes.items() if lines > LINES} == {}


def test_no_file_names_a_registry_or_somebodys_home() -> None:
    """No file names a package registry's host or a path of one developer's machine."""
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("line", [f"https://{REGISTRIES[0]}/simple", "/ho" + "me/me/x.py", "/ro" + "ot/.cache"])
def test_the_search_finds_them(line: str) -> None:
    """The search for hosts and homes finds what it is for."""
    assert FORBIDDEN.search(line)


def test_every_package_says_what_it_does() -> None:
    """Each package and module of the product opens with a docstring."""
    silent = [
        name
        for name, text in texts()
        if name.startswith(("updated/", "lockd/"))
        and name.endswith(".py")
        and name not in GENERATED
        and not text.lstrip().startswith('"""')
    ]
    assert silent == []


def test_lock_files_carry_hashes() -> None:
    """Every pinned package of both lock files has at least one SHA-256, so that pip takes no other file."""
    for name in ("requirements.lock", "requirements-dev.lock"):
        entries = re.split(r"^(?=\S)", (ROOT / name).read_text(), flags=re.MULTILINE)
        pinned = [entry for entry in entries if "==" in entry.split("\n")[0]]
        assert len(pinned) > 10
        assert [entry.split("==")[0] for entry in pinned if "--hash=sha256:" not in entry] == []


def test_the_development_lock_holds_the_other() -> None:
    """Every version that a host would run is the version that the tests ran."""
    pins = {
        name: set(re.findall(r"^([\w.-]+==[\w.]+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-dev.lock")
    }
    assert pins["requirements.lock"] <= pins["requirements-dev.lock"]
