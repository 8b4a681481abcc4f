"""`interp steer`: find a direction, and measure what it does beside what it breaks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

import interp.results as results
from interp.data.contrasts import Contrasts, moods, read_contrasts
from interp.directions import Direction
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError
from interp.jobs import runs
from interp.jobs.pairs import require_layers
from interp.jobs.tts import refuse_file
from interp.metrics import LogitDiff
from interp.patching.activation import one_token
from interp.steering.directions import Method, fit
from interp.steering.dose import FEWEST_TWINS, Measure, Study, study


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the numbers of a steering study."""

    method: Method = "difference_of_means"
    layers: tuple[int, ...] = ()
    doses: tuple[float, ...] = (-1.0, -0.5, 0.5, 1.0)
    positions: Literal["all", "last"] = "all"
    random: int = 8
    max_damage: float | None = None
    texts: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(f"--method {self.method}: write one of {', '.join(get_args(Method))}.")
        if self.positions not in ("all", "last"):
            raise InputError(f"--positions {self.positions}: write all or last.")
        told = " ".join(f"{dose:g}" for dose in self.doses)
        if not self.doses or 0 in self.doses or len(set(self.doses)) != len(self.doses):
            raise InputError(
                f"--doses {told}: give each dose once and leave out 0, which is always run as null."
            )
        if not all(map(isfinite, self.doses)):
            raise InputError(f"--doses {told}: give finite numbers.")
        if self.random < FEWEST_TWINS:
            raise InputError(
                f"--random {self.random}: a dose stands beside at least {FEWEST_TWINS} random "
                "directions."
            )
        if self.max_damage is not None and not self.max_damage >= 0:
            raise InputError(f"--max-damage {self.max_damage}: give nats a token from 0.")


@dataclass(frozen=True)
class Outcome:
    """What a study ended with."""

    store: results.Store
    rows: tuple[dict[str, Any], ...]
    direction: Path | None


def run(
    input: Path | None,
    *,
    model: str,
    out: Path,
    settings: Settings,
    dtype: str | None,
    device: str,
    console: Console,
) -> Outcome:
    """Fit directions, study their doses, and write records, the chosen direction and the report."""
    refuse_file(out)
    contrasts = (
        moods(settings.texts, seed=settings.seed) if input is None else read_contrasts(input)
    )
    loaded = load(model, dtype=dtype, device=device)
    require_layers(loaded, settings.layers)
    for text in (*contrasts.toward, *contrasts.away):
        one_token(loaded, text)
    store = runs.begin(
        loaded,
        experiment="steer",
        out=out,
        settings=asdict(settings),
        data=asdict(contrasts),
        seeds=[settings.seed],
    )
    identity = {"study": "doses", "settings": store.manifest.settings_hash}
    key = results.cell_key(identity)
    path = store.folder / "direction.safetensors"
    if not store.has(key):
        found, directions = _study(loaded, contrasts, settings, console)
        if found.chosen is not None:
            directions[found.chosen.direction].save(path)
        store.write(key, identity, {"doses": study_rows(found)}, {})
    runs.finish(store, [key])
    runs.write_report(store)
    rows = tuple(runs.rows(store, "doses"))
    return Outcome(store, rows, path if path.exists() else None)


def _study(
    model: Model, contrasts: Contrasts, settings: Settings, console: Console
) -> tuple[Study, list[Direction]]:
    toward, away = (
        [one_token(model, text) for text in texts] for texts in (contrasts.toward, contrasts.away)
    )
    n_layers = model.sizes.n_layers
    layers = settings.layers or tuple(range(0, n_layers, max(1, n_layers // 6)))
    sites = [f"{layer}.resid_post" for layer in layers]
    with runs.progress(console) as bars:
        task = bars.add_task("doses", total=None)
        directions = fit(
            model,
            list(contrasts.positive),
            list(contrasts.negative),
            sites,
            method=settings.method,
        )
        found = study(
            model,
            directions,
            list(contrasts.prompts),
            list(contrasts.neutral),
            Measure(metric=LogitDiff(toward, away)),
            coefficients=settings.doses,
            positions=settings.positions,
            n_random=settings.random,
            max_damage=settings.max_damage,
            seed=settings.seed,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    return found, directions


def study_rows(found: Study) -> list[dict[str, Any]]:
    """The records of a study, each with the null and whether it is the dose that was chosen."""
    chosen = found.chosen
    own = (None, None) if chosen is None else (chosen.direction, chosen.coefficient)
    null = {"noop_effect": found.noop_effect, "noop_damage": found.noop_damage}
    return [
        {**row, **null, "chosen": (row["direction"], row["coefficient"]) == own}
        for row in found.records()
    ]
