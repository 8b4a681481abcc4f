"""What `interp tts steer-test` is asked for, and what it refuses before the first trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from interp.directions import Direction
from interp.engine.model import Model
from interp.errors import InputError
from interp.jobs.tts_direction import SetSettings
from interp.jobs.tts_runs import ScoredRun
from interp.thinking.steer_arms import layer_of
from interp.thinking.steer_items import Item
from interp.thinking.steer_layers import Split, split_problems

RandomLayers = Literal["all", "chosen"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the numbers of the steering tests."""

    sets: SetSettings = field(default_factory=SetSettings)
    draws: int = 1
    items: int = 200
    items_per_problem: int | None = None
    share: float = 0.5
    layers: tuple[int, ...] = ()
    random_layers: RandomLayers = "all"
    bins: bool = True
    checks: bool = True
    exact: bool = False

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise InputError(f"--draws {self.draws}: take at least 1 draw of the perturbation.")
        if self.random_layers not in get_args(RandomLayers):
            raise InputError(f"--random-layers {self.random_layers}: write all or chosen.")
        for name in ("items", "items_per_problem"):
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} {value}: keep at least 1 item.")
        if not 0 < self.share < 1:
            raise InputError(
                f"--share {self.share}: the selection problems are a share above 0 and below 1."
            )


def require_problems(run: ScoredRun, settings: Settings, direction: Path | None) -> None:
    """Refuse what can have no result, before a model is loaded.

    Raises:
        InputError: fewer than 2 chains, chains that give no direction, or no file of one.
    """
    n = len(run.chains)
    if n < 2:
        raise InputError(
            f"{run.store.folder} holds {n} scored chain, and the layer is chosen on other problems "
            "than it is reported on: score at least 2 problems, better 40."
        )
    if direction is None:
        settings.sets.sets(run.chains)
    elif not direction.is_file():
        raise InputError(
            f"There is no file {direction}: give the direction.safetensors that `interp tts "
            "direction` wrote."
        )


def require_fresh(problems: set[str], seen: set[str]) -> None:
    """Refuse a direction that was made from every problem.

    Raises:
        InputError: none is left to test it on.
    """
    if problems <= seen:
        raise InputError(
            f"The direction was made from all {len(problems)} problems that could have items, so "
            "none is left to test it on: give one of another run, or leave --direction out to have "
            "it fitted on the selection problems."
        )


def require_rows(model: Model, layers: Sequence[int]) -> None:
    """Refuse a layer that the model does not have; the last counts as the final output.

    Raises:
        InputError: a layer below 0 or above the number of blocks, or one named twice.
    """
    last = model.sizes.n_layers
    for layer in layers:
        if not 0 <= layer <= last:
            raise InputError(
                f"--layers {layer}: {model.name} has the inputs of blocks 0 to {last - 1}, and "
                f"{last} for the final output."
            )
    if len(set(layers)) < len(layers):
        raise InputError(f"--layers {' '.join(map(str, layers))}: name each layer once.")


def kept(directions: Sequence[Direction], layers: Sequence[int]) -> list[Direction]:
    """The directions at some layers; all of them where none is named.

    Raises:
        InputError: there is no direction at any of them.
    """
    found = [each for each in directions if not layers or layer_of(each.site) in layers]
    if not found:
        told = " ".join(str(layer_of(each.site)) for each in directions)
        raise InputError(
            f"--layers {' '.join(map(str, layers))}: the direction exists at layers {told} alone; "
            "elsewhere the two sets have one mean."
        )
    return found


def problems_of(notes: Mapping[str, Any]) -> set[str]:
    """The problems that a saved direction was made from, by its notes."""
    return {*notes.get("true_by_problem", {}), *notes.get("decorative_by_problem", {})}


def split_without(items: Sequence[Item], seen: set[str], settings: Settings) -> dict[str, Split]:
    """Split the problems of some items; those that a given direction has seen are never tested.

    Raises:
        InputError: fewer than 2 problems, or the direction has seen all of them.
    """
    fresh = [item for item in items if item.problem not in seen]
    if items:
        require_fresh({item.problem for item in items}, seen)
    if len({item.problem for item in fresh}) == 1 and len(fresh) < len(items):
        dealt: dict[str, Split] = {fresh[0].problem: "test"}
    else:
        dealt = split_problems(fresh, settings.sets.seed, settings.share)
    return {item.problem: "select" for item in items} | dealt  # type: ignore[return-value]
