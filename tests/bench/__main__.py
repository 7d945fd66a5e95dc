"""`make bench`: the product against its peers on this machine, as one table.

    python -m tests.bench [--rows full,cpu] [--runs 3] [--json FILE] [--directory DIR]

Exits with 1 when a goal that must be reached wasn't.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.images import pair
from tests.bench.lab import Images, Lab
from tests.bench.rows import GOALS, Rows
from tests.bench.table import Row, as_json, machine, render
from tests.bench.tools import BenchError

DIRECTORY = Path(__file__).parents[2] / "build/bench"
FEWEST_RUNS = 3  # for a figure that counts


def main() -> int:
    """Measure, print, and return the exit code."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that slots and servers are removed then too
    notes: dict[str, object] = {}

    def find_images() -> Images:
        found = pair(arguments.directory / "images")
        notes["images"] = {key: fact for key, fact in found.facts.items() if key != "made_from"}
        return Images(found.old, found.new)

    with Lab(arguments.directory, arguments.runs, find_images) as lab:
        rows = measure(Rows(lab), arguments.rows, notes)
    text = "\n".join(f"{key}: {value}" for key, value in {**notes, **machine(), "runs": arguments.runs}.items())
    print(f"\n{render(rows)}\n\n{text}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(as_json(rows, {"runs": arguments.runs, "notes": notes}), indent=1) + "\n")
    return 0 if all(row.met for row in rows) else 1


def measure(rows: Rows, keys: Sequence[str], notes: dict[str, object]) -> list[Row]:
    """Measure rows; one that can't be measured doesn't keep the others from it."""
    found = []
    for goal in GOALS:
        if goal.key not in keys:
            continue
        print(f"{goal.key}: {goal.figure}", flush=True)
        try:
            found.append(Row(goal, rows.measure(goal.key)))
        except (BenchError, AssertionError, OSError) as error:
            print(f"  failed: {error}", flush=True)
            found.append(Row(goal, None, f"{type(error).__name__}: {error}"))
    notes.update(rows.notes)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    every = [goal.key for goal in GOALS]
    parser.add_argument("--rows", type=_keys, default=every, metavar="KEY,...", help=f"of {', '.join(every)}")
    parser.add_argument("--runs", type=int, default=FEWEST_RUNS, metavar="N", help="medians of that many")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there too")
    parser.add_argument(
        "--directory", type=Path, default=Path(os.environ.get("BENCH_DIR") or DIRECTORY), metavar="DIR",
        help="keeps images and builds between runs; default: $BENCH_DIR, or build/bench",
    )  # fmt: skip
    return parser


def _keys(text: str) -> list[str]:
    keys = [key for key in text.split(",") if key]
    unknown = set(keys) - {goal.key for goal in GOALS}
    if unknown or not keys:
        raise argparse.ArgumentTypeError(f"there is no row {', '.join(sorted(unknown))}")
    return keys


if __name__ == "__main__":
    raise SystemExit(main())
