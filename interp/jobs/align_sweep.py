"""The experiment `align` of a sweep: one cell fits one map to one network, or to a random twin.

Axes are what one likes: sites, maps, sizes, algorithms, networks, seeds, models, revisions. A cell
gives its IIA on test pairs and what stands in its row of `align_fits`; verdicts need all guards and
are the business of `interp align`. A twin is an axis like any other: `kind: [trained, twin]`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import interp.results as results
from interp.alignment.families import parsed
from interp.alignment.fitting import BUDGETS, Budget
from interp.errors import InputError, nearest
from interp.jobs import runs
from interp.jobs.align_cells import Bench, Fit, row_of
from interp.jobs.align_worlds import world
from interp.models.identity import model_identity
from interp.sweeps.experiment import Experiment, Made


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """One map, fitted to one network under one algorithm."""

    task: str
    """equality, distributive, ioi or multiplication."""
    site: str
    """A layer of a small network (1, 2, 3) or a site of a decoder (1.resid_post)."""
    algorithm: str | None = None
    """None: the task's first."""
    map: str = "orthogonal"
    """A family, such as orthogonal or revnet-10x16."""
    size: int | None = None
    """Coordinates of each variable; None: half of the width shared by the variables."""
    kind: Literal["trained", "twin"] = "trained"
    """The network, or its twin with random weights."""
    net: int = 0
    """Which small network, or which twin, counted from 0."""
    seed: int = 0
    """Of the map's start and of the order of pairs."""
    budget: Literal["smoke", "standard", "paper"] = "smoke"
    """1,000 updates of 512 pairs, 5,000 of 512, or 10,000 of 6,400."""
    updates: int | None = None
    """Most updates, in place of the budget's."""
    folder: Path | None = None
    """Trained small networks; None: they are trained in each worker, about 10 s each."""
    nets: int = 5
    """How many networks, or twins, there are."""
    model: str | None = None
    """The decoder of ioi or multiplication."""
    revision: str | None = None
    """Its checkpoint."""
    dtype: Literal["float32", "float64"] | None = None
    """Of the decoder and the map; None: float32."""
    solved_only: bool = False
    """Keep only prompts that the decoder completes right."""

    def __post_init__(self) -> None:
        parsed(self.map)
        for name, least in (("size", 1), ("updates", 1), ("nets", 1), ("net", 0), ("seed", 0)):
            said = getattr(self, name)
            if said is not None and said < least:
                raise InputError(f"{name} {said}: give at least {least}.")
        if self.net >= self.nets:
            raise InputError(f"net {self.net}: there are {self.nets}, counted from 0.")

    @property
    def spent(self) -> Budget:
        """The budget with what the configuration changes."""
        own = BUDGETS[self.budget]
        return own if self.updates is None else replace(own, steps=self.updates)


SHARED = ("task", "folder", "nets", "model", "revision", "dtype", "solved_only")
"""Fields that say which networks and inputs a worker loads."""


def load_bench(config: AlignConfig) -> Bench:
    """Load the networks of a cell, with the tables and cuts that cells of them share.

    Raises:
        InputError: options that say nothing of the task.
        ModelError: no such model.
    """
    about = {name: getattr(config, name) for name in SHARED if name != "task"}
    return Bench(world(config.task, **about), config.spent)


def fit_cell(bench: Bench, config: AlignConfig) -> Made:
    """Fit and score one cell: the table `align_fits`, one row.

    Raises:
        InputError: the task lacks the algorithm, the site or the size.
    """
    about = bench.world
    algorithm = about.algorithms[0] if config.algorithm is None else config.algorithm
    n = len(about.variables(algorithm))
    size = config.size or (about.width // 2 if n <= 2 else about.width // n)
    if config.site not in about.sites:
        raise InputError(
            f"site {config.site}: {about.name} has the sites {', '.join(about.sites)}."
            f"{nearest(config.site, about.sites)}"
        )
    nets = about.nets if config.kind == "trained" else about.twins
    if config.net >= len(nets):
        raise InputError(
            f"net {config.net}: there is one network and {len(about.twins)} twins; of the network "
            "write net 0, and vary the seed."
        )
    what = Fit(
        net=nets[config.net],
        kind=config.kind,
        algorithm=algorithm,
        map=config.map,
        site=config.site,
        size=size,
        map_seed=config.seed,
    )
    row, _ = row_of(bench, what)
    spent = {"cpu_seconds": row.pop("cpu_seconds")}  # a time is no result
    return Made({"align_fits": [row]}, spent)


def _identity(config: AlignConfig) -> dict[str, object]:
    """Hashes of the networks; those that are trained in a worker the code identifies."""
    if config.model is not None:
        return {"model": model_identity(config.model, config.dtype or "float32", config.revision)}
    if config.folder is None:
        return {}
    path = config.folder / "nets.safetensors"
    if not path.is_file():
        raise InputError(f"folder {config.folder}: it holds no nets.safetensors; give networks.")
    return {"networks": {"sha256": results.file_hash(path)}}


def _group(config: AlignConfig) -> tuple[str, ...]:
    return tuple(str(getattr(config, name)) for name in (*SHARED, "budget", "updates"))


align: Experiment = Experiment(
    name="align",
    config=AlignConfig,
    identity=_identity,
    group=_group,
    load=load_bench,
    run=fit_cell,
    code=(*runs.CODE, Path(__file__)),
    places=frozenset({"folder"}),
    headline=("align_fits", "iia"),
)
"""One cell fits one map."""
