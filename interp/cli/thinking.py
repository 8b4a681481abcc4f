"""`interp demo` and `interp tts`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from interp.cli.shared import OnModel, Out, settings_of


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Score the steps of generated problems and patch a prompt pair on a real model; a report."""

    out: Out = Path("runs/demo")
    """Folder of the records and the report."""
    model: str = "smollm2-135m"
    """A registry name, folder or Hugging Face id; see `interp models`."""
    problems: int = 4
    """How many word problems the model answers."""
    seeds: int = 2
    """Draws of the perturbation."""
    seed: int = 0
    """Which problems and prompt pair are generated."""
    threads: int | None = None
    """Threads for arithmetic; by default torch's own choice."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs.demo import demo
        from interp.jobs.tts import set_threads

        set_threads(self.threads)
        done = demo(
            model=self.model,
            out=self.out,
            problems=self.problems,
            seeds=self.seeds,
            seed=self.seed,
            console=console,
        )
        console.print(f"\nReport: {done.report}\n", soft_wrap=True, markup=False)
        for place, finding in enumerate(done.findings, start=1):
            console.print(f"{place}. {finding}", soft_wrap=True, markup=False, highlight=False)
        return 3 if done.marked else 0


@dataclass(frozen=True, kw_only=True)
class Tts(OnModel):
    """Score every step of chains of thought with the True-Thinking Score, controls beside it."""

    input: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="INPUT.jsonl")]]
    """One problem a line: {"id", "question", "cot"?, "answer"?, "checks"?}; without `cot` the model
    writes one. `answer` is the gold answer, alone or after `####`; `checks` lists the steps that
    verify others, which are else known by their first words."""
    out: Out
    """Folder of the records; a run that was stopped goes on there."""
    seeds: int = 5
    """Draws of the perturbation."""
    preset: str = "default"
    """default, paper or released-code: cue, closing, offsets and splitting."""
    target: Literal["own", "gold"] = "own"
    """Which answer is scored: the model's own after its full chain, or the given one."""
    think: Literal["open", "close"] = "open"
    """Whether a think block is closed before the cue."""
    control_seeds: int = 1
    """For how many of the seeds the controls (null rewrite, random step) are computed."""
    limit: int | None = None
    """Score only the first rows."""
    max_new_tokens: int | None = None
    """The longest chain that the model writes; by default 256, for reasoning models 8192."""
    temperature: float | None = None
    """How chains are sampled; by default 0 (greedy), for reasoning models what they ask for."""
    top_p: float | None = None
    """Sample from the smallest set of tokens with at least this probability."""
    exact: bool = False
    """One plain forward pass a cell instead of the shared token tree."""
    audit: bool = False
    """Add audit.jsonl: the exact token ids and log-probability of every cell."""
    memory_gib: float = 2.0
    """Memory for the activations of one forward pass; weights and cache come on top."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import tts
        from interp.models.reasoning import writing

        tts.set_threads(self.threads)
        told = (self.temperature, self.top_p, self.max_new_tokens)
        chosen = [a if b is None else b for a, b in zip(writing(self.model), told, strict=True)]
        names = ("temperature", "top_p", "max_new_tokens")
        command = replace(self, **dict(zip(names, chosen, strict=True)))
        outcome = tts.tts(
            self.input,
            model=self.model,
            out=self.out,
            settings=settings_of(command, tts.Settings),
            limit=self.limit,
            dtype=self.dtype,
            device=self.device,
            memory_gib=self.memory_gib,
            console=console,
        )
        _print_outcome(outcome, console)
        return 3 if outcome.marked else 0


def _print_outcome(outcome, console: Console) -> None:
    from interp.jobs.runs import rows
    from interp.results import report_stats

    chains, steps = rows(outcome.store, "chains"), rows(outcome.store, "steps")
    for finding in report_stats.findings(report_stats.scored_rows(chains, steps)):
        console.print(f"{finding.title} {finding.detail}", soft_wrap=True, markup=False)
    for warning in outcome.warnings:
        console.print(f"Warning: {warning}", soft_wrap=True, markup=False)
    console.print(f"{outcome.scored} chains scored, {outcome.marked} marked.", markup=False)
    for chain in chains:
        if chain["status"] == "marked":
            line = f"  marked {chain['id']}: {chain['reason']}"
            console.print(line, soft_wrap=True, markup=False)
    console.print(f"Records and report: {outcome.store.folder}", soft_wrap=True, markup=False)
