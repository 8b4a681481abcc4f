"""How fast the records of a large sweep are listed and filtered: a store of synthetic cells, timed.

    python -m experiments.scan DIR [--cells 100000]

`build` writes the cells as a sweep would leave them (real files, real checksums) but waits for the
disk once at the end, not for each cell. `scan` reads them in a process of its own, in which torch
is never imported, and checks that it got what was asked for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from interp.results import index
from interp.results.cells import cell_key, packed, sealed

N_LAYERS = 32
N_SEEDS = 25

_SCAN = """
import json, sys, time
start = time.perf_counter()
from interp.results import index
loaded = time.perf_counter()
rows = index.about(sys.argv[1])
listed = time.perf_counter()
chosen = index.matching(rows, {"layer": 3, "seed": 1})
filtered, cpu = time.perf_counter(), time.process_time()
scores = index.table(sys.argv[1], "scores", chosen["key"].to_pylist())
read = time.perf_counter()
whole = index.table(sys.argv[1], "scores")
print(json.dumps({
    "cells": len(rows), "chosen": len(chosen), "rows": len(scores), "all_rows": len(whole),
    "import_seconds": loaded - start, "list_seconds": listed - loaded,
    "filter_seconds": filtered - listed, "rows_seconds": read - filtered,
    "all_rows_seconds": time.perf_counter() - read,
    "cpu_seconds": cpu, "torch": "torch" in sys.modules,
}))
"""


def config(i: int) -> dict[str, object]:
    """Return the configuration of the cell number `i`; every cell has another."""
    return {
        "model": ("tiny-gpt2", "tiny-llama", "planted")[i % 3],
        "layer": i // 3 % N_LAYERS,
        "seed": i // (3 * N_LAYERS) % N_SEEDS,
        "checkpoint": i // (3 * N_LAYERS * N_SEEDS),
        "sites": ["attn_out", "mlp_out"],
        "dtype": "float32",
    }


def build(folder: Path, cells: int) -> dict[str, float]:
    """Write a store of `cells` cells and its index; return the seconds that each took a cell."""
    start = time.perf_counter()
    for key, files in _cells(cells):
        place = folder / "cells" / key
        place.mkdir(parents=True)
        for name, data in files.items():
            (place / name).write_bytes(data)
    written = time.perf_counter()
    count = index.refresh(folder)
    if count != cells:
        raise RuntimeError(f"{count} of {cells} cells were packed.")
    now = time.perf_counter()
    return {"write_seconds": (written - start) / cells, "refresh_seconds": (now - written) / cells}


def scan(folder: Path) -> dict[str, float | bool]:
    """List and filter a store in a new process; return counts, seconds, and whether torch loaded.

    `import_seconds`, `list_seconds` and `filter_seconds` together are the listing and filtering;
    `cpu_seconds` is what these and the start of Python cost the processor, whoever else uses it;
    `rows_seconds` reads a table of the chosen cells, `all_rows_seconds` of all.
    """
    command = [sys.executable, "-c", _SCAN, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def seconds(measured: dict[str, float | bool]) -> float:
    """Return the seconds of listing and filtering, imports included."""
    return sum(measured[f"{part}_seconds"] for part in ("import", "list", "filter"))


def _cells(cells: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and files of each cell; the tables of 50 cells serve all, to be quick."""
    shared = []
    for n in range(50):
        identity = {"experiment": "scan", "config": config(n)}
        rows = [{"id": f"p{r}", "effect": n / (r + 1), "step": r} for r in range(3)]
        shared.append(packed(cell_key(identity), identity, {"scores": rows}, {"seconds": 0.5}))
    for i in range(cells):
        about, content = shared[i % len(shared)]
        identity = {"experiment": "scan", "config": config(i), "subject": {}, "code": "c0de"}
        key = cell_key(identity)
        whole = sealed(about | {"key": key, "identity": identity})
        yield key, {"scores.parquet": content["scores"], "cell.json": whole}


def main() -> None:
    """Build a store where there is none, scan it, and print what was measured."""
    parser = argparse.ArgumentParser(description="Time the listing of many records.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", type=int, default=100_000)
    arguments = parser.parse_args()
    built = {}
    if not arguments.folder.exists():
        built = build(arguments.folder, arguments.cells)
    measured = scan(arguments.folder)
    print(json.dumps({**built, **measured, "seconds": seconds(measured)}, indent=2))


if __name__ == "__main__":
    main()
