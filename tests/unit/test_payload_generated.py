"""The generated protobuf modules: fresh, quiet, and decoded by the bounded decoder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOM = Path("updated/payload")


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["update_metadata_pb2.py", "update_metadata_pb2.pyi"])
def test_generated_module_is_fresh(tmp_path: Path, name: str) -> None:
    """What is committed is what `make proto` makes of the .proto."""
    outs = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    done = python("-m", "grpc_tools.protoc", "-I.", *outs, str(ROOM / "update_metadata.proto"))
    assert done.returncode == 0, done.stderr
    assert (ROOT / ROOM / name).read_text() == (tmp_path / ROOM / name).read_text()


def test_generated_module_loads_without_a_warning() -> None:
    """The generated code and the installed protobuf fit each other."""
    done = python("-W", "error", "-c", "import updated.payload.parse")
    assert (done.returncode, done.stderr) == (0, "")


def test_unbounded_decoder_is_refused() -> None:
    """With protobuf's pure Python decoder nothing is parsed: it has other limits than those that were measured."""
    done = python("-c", "import updated.payload.parse", PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python")
    assert done.returncode == 1
    assert "not with 'upb'" in done.stderr
