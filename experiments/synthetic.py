"""An experiment without a model, whose cells do exactly what they are told.

The tests, the chaos test and the speed claims of sweeps run on it: its cells burn a given number of
CPU seconds, write a few rows that only the configuration decides, and break in a chosen way.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from interp.errors import InputError
from interp.sweeps.experiment import Experiment, Made

Fault = Literal["", "raise", "once", "hang", "grow", "die", "exit", "input"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """One cell."""

    model: str = "a"
    """The subject: cells of one model share it."""
    seed: int = 0
    rows: int = 3
    burn: float = 0.0
    """CPU seconds that the cell takes."""
    loading: float = 0.0
    """CPU seconds that its subject takes to load."""
    fault: Fault = ""
    """How the cell breaks: it raises (`once`: only where the file `mark` is not there yet), never
    ends, takes all memory, kills its process, leaves Python, or refuses its input."""
    mark: Path | None = None

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise InputError(f"rows={self.rows}: a cell needs at least one row.")


def run(subject: str, config: Config) -> Made:
    """Burn, break or write rows."""
    burn(config.burn)
    FAULTS[config.fault](config)
    draw = random.Random(f"{subject} {config.seed}")
    rows = [{"id": f"p{i}", "score": draw.random(), "model": subject} for i in range(config.rows)]
    return Made({"scores": rows}, {"forwards": config.rows})


def burn(seconds: float) -> None:
    """Use CPU time of this thread."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def _raise(config: Config) -> None:
    print(f"the cell of seed {config.seed} is about to raise")
    raise RuntimeError(f"seed {config.seed} breaks")


def _once(config: Config) -> None:
    assert config.mark is not None
    mark = config.mark.with_name(f"{config.mark.name}-{config.seed}")
    if not mark.exists():
        mark.touch()
        _raise(config)


def _hang(config: Config) -> None:
    while True:
        time.sleep(0.01)


def _grow(config: Config) -> None:
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20) * 8))
        time.sleep(0.001)


def _die(config: Config) -> None:
    sys.stderr.write("the cell kills its process\n")
    os.kill(os.getpid(), signal.SIGKILL)


def _input(config: Config) -> None:
    raise InputError(f"seed {config.seed} is refused: give another.")


FAULTS = {
    "": lambda config: None,
    "raise": _raise,
    "once": _once,
    "hang": _hang,
    "grow": _grow,
    "die": _die,
    "exit": lambda config: sys.exit(3),
    "input": _input,
}


def load(config: Config) -> str:
    """Take the time that loading a model would."""
    burn(config.loading)
    return config.model


def identity(config: Config) -> Mapping[str, object]:
    """The model is its name."""
    return {"model": config.model}


EXPERIMENT = Experiment(
    name="synthetic",
    config=Config,
    identity=identity,
    group=lambda config: (config.model,),
    load=load,
    run=run,
    code=(Path(__file__),),
    places=frozenset({"mark"}),
    unit="id",
    headline=("scores", "score"),
)
