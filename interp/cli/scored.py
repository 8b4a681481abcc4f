"""`interp tts direction|steer-test|prune|compare`: what is built on a run of `interp tts`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from interp.cli.shared import print_table, say, settings_of
from interp.jobs.tts_settings import CompareFields, SetFields
from interp.stats import FEW_CLUSTERS

RunFolder = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]


@dataclass(frozen=True, kw_only=True)
class _OnRun:
    """A run of `interp tts`, and the model that it scored."""

    run: RunFolder
    """The folder that `interp tts INPUT.jsonl --out RUN` wrote."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the records; by default one of the command's name inside RUN."""
    model: str | None = None
    """The model that was scored, where its recorded name does not find it: a folder or hub id."""
    dtype: str | None = None
    """By default the one that the scores were made in."""
    device: str = "cpu"
    """cpu, cuda or cuda:0."""
    threads: int | None = None
    """Threads for arithmetic; by default torch's own choice."""

    def _where(self, console: Console) -> dict[str, Any]:
        from interp.jobs.tts import set_threads

        set_threads(self.threads)
        about = {name: getattr(self, name) for name in ("model", "out", "dtype", "device")}
        return {**about, "console": console}


@dataclass(frozen=True, kw_only=True)
class _OnSets(SetFields, _OnRun):
    """How the two sets of steps are chosen."""


@dataclass(frozen=True, kw_only=True)
class TtsDirection(_OnSets):
    """The TrueThinking direction: mean of true steps less mean of decorative ones, every layer.

    Writes direction.safetensors, and beside it shuffled.safetensors and random.safetensors.
    """

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import tts_direction as job

        done = job.find(
            self.run, settings=settings_of(self, job.SetSettings), **self._where(console)
        )
        columns = ("site", "norm", "shuffled_norm", "shuffled_cosine", "next_cosine")
        print_table(console, columns, done.store.rows("direction"))
        _warn(console, done.warnings)
        say(console, f"Direction and controls: {done.store.folder}")
        say(
            console,
            "It is made from all problems of this run: test it on another run, or let "
            "`interp tts steer-test` fit one on half of these.",
        )
        return 0


@dataclass(frozen=True, kw_only=True)
class TtsSteerTest(_OnSets):
    """Engagement and disengagement tests: steer one step, see whether the answer turns.

    The layer is chosen on some problems and reported on others; shuffled, random, dropped and
    attention baselines stand beside the direction.
    """

    direction: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A direction.safetensors; by default one is fitted on the selection problems. Problems that a
    given one was made from are never test problems."""
    draws: int = 1
    """Draws of the perturbation to take items from."""
    items: int = 200
    """The most items in each test."""
    items_per_problem: int | None = None
    """The most items of a problem in each test."""
    share: float = 0.5
    """Share of the problems that the direction and the layer are chosen on."""
    layers: tuple[int, ...] = ()
    """Steer only these layers: block inputs from 0, the number of blocks for the final output."""
    random_layers: Literal["all", "chosen"] = "all"
    """Run the random directions at every layer, or (cheap) at the direction's chosen one alone."""
    bins: bool = True
    """Also fit and test a direction for each bin of scores."""
    checks: bool = True
    """Also test self-verification steps, and whether the direction restores them."""
    exact: bool = False
    """One plain forward pass for each item, layer and vector."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import tts_steer as job
        from interp.jobs.tts_direction import SetSettings

        given: dict[str, Any] = {"sets": settings_of(self, SetSettings)}
        for name in ("draws", "items", "items_per_problem", "share", "layers", "random_layers"):
            given[name] = getattr(self, name)
        settings = job.Settings(**given, bins=self.bins, checks=self.checks, exact=self.exact)
        done = job.test(
            self.run, direction=self.direction, settings=settings, **self._where(console)
        )
        columns = ("test", "arm", "layer", "flips", "unparsable", "shift", "difference", "n_items")
        rows = [row for row in done.rows if row["twin"] is None]
        print_table(console, (*columns, "n_problems"), rows)
        _warn(console, done.warnings)
        say(console, f"{done.marked} steps gave no item. Records and report: {done.store.folder}")
        return 0


@dataclass(frozen=True, kw_only=True)
class TtsPrune(_OnRun):
    """Keep-fraction curves by score, beside random prunings and the last steps; an export.

    Writes pruned.jsonl: the pruned chains whose answer stays, for training.
    """

    fractions: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Shares of the steps to keep."""
    random: int = 20
    """Random prunings of each chain and fraction."""
    seed: int = 0
    """Of the random prunings."""
    decode: bool = True
    """Read answers that are not the chain's own; --no-decode saves most of the time."""
    exact: bool = False
    """One plain forward pass a pruning instead of the shared token tree."""
    export: float = 0.5
    """The fraction whose chains are written to pruned.jsonl."""
    export_method: Literal["tts", "last", "random"] = "tts"
    """Which pruning is written."""
    export_all: bool = False
    """Also write chains whose answer changes."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import tts_prune as job

        names = ("fractions", "random", "seed", "decode", "exact")
        settings = job.Settings(**{name: getattr(self, name) for name in names})
        export = job.Export(
            fraction=self.export, method=self.export_method, only_same=not self.export_all
        )
        done = job.study(self.run, settings=settings, export=export, **self._where(console))
        columns = ("method", "fraction", "mean", "above_random", "above_last", "n_problems")
        rows = [row for row in done.points if row["measure"] == "same"]
        say(console, "Share of chains that keep their answer, with 95% intervals over problems:")
        print_table(console, columns, [_plain(row) for row in rows])
        _warn(console, _few(rows))
        say(console, f"{done.n_exported} chains: {done.exported}")
        say(console, f"{done.marked} marked. Records and report: {done.store.folder}")
        return 3 if done.marked else 0


@dataclass(frozen=True, kw_only=True)
class TtsCompare(CompareFields, _OnRun):
    """The score beside its relatives, step by step, and how far they agree.

    Measures: early (answering after each step), drop (leave one out), mistake, regenerate (a
    mistake, and the rest written again), paraphrase, attention (hide a step), receivers (heads),
    resample, whole (full chain against none), dependency (noise by distance).
    """

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import tts_compare as job

        done = job.compare(
            self.run, settings=settings_of(self, job.Settings), **self._where(console)
        )
        if done.table:
            say(console, "Rank correlation of steps within problems, 95% intervals over problems:")
            rows = [row for row in done.table if row["a"] == "tts"]
            print_table(console, ("a", "b", "rho", "chance", "n_problems", "n_steps"), rows)
            _warn(console, _few(rows))
            say(console, "All pairs: interp results, table agreement, or the report.")
        if done.chains:
            print_table(console, ("measure", "mean", "n_chains"), done.chains)
        say(console, f"{done.marked} marked. Records and report: {done.store.folder}")
        return 3 if done.marked else 0


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose interval `x` is `x`, `x_low`, `x_high`, not `x_estimate`."""
    return {name.removesuffix("_estimate"): value for name, value in row.items()}


def _few(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The warning of a table whose intervals are over too few problems."""
    counts = [row["n_problems"] for row in rows if row.get("n_problems")]
    if not counts or min(counts) >= FEW_CLUSTERS:
        return []
    return [f"an interval is over {min(counts)} problems: below {FEW_CLUSTERS} it is too narrow."]


def _warn(console: Console, warnings: Iterable[str]) -> None:
    for warning in warnings:
        say(console, f"Warning: {warning}")
