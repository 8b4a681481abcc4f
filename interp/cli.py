"""The command line: `interp demo|tts|results|report|check|models`.

Exit status: 0 done, 1 a check failed, 2 bad input (one sentence, no traceback), 3 done but some
rows were marked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.errors import InterpError

Out = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Run = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]


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
class Tts:
    """Score every step of chains of thought with the True-Thinking Score, controls beside it."""

    input: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="INPUT.jsonl")]]
    """One problem a line: {"id", "question", "cot"?, "answer"?}; without `cot` the model writes
    one. `answer` is the gold answer, alone or after `####`."""
    out: Out
    """Folder of the records; a run that was stopped goes on there."""
    model: str = "smollm2-135m"
    """A registry name, folder or Hugging Face id; see `interp models`."""
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
    max_new_tokens: int = 256
    """The longest chain that the model writes."""
    exact: bool = False
    """One plain forward pass a cell instead of the shared token tree."""
    audit: bool = False
    """Add audit.jsonl: the exact token ids and log-probability of every cell."""
    memory_gib: float = 2.0
    """Memory for the activations of one forward pass; weights and cache come on top."""
    dtype: str | None = None
    """float32, float64, bfloat16 or float16; by default that of the weights."""
    device: str = "cpu"
    """cpu, cuda or cuda:0."""
    threads: int | None = None
    """Threads for arithmetic; by default torch's own choice."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import tts

        tts.set_threads(self.threads)
        outcome = tts.tts(
            self.input,
            model=self.model,
            out=self.out,
            settings=tts.Settings(
                preset=self.preset,
                seeds=self.seeds,
                target=self.target,
                think=self.think,
                control_seeds=self.control_seeds,
                max_new_tokens=self.max_new_tokens,
                exact=self.exact,
                audit=self.audit,
            ),
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


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Patch activations of one run into another, place by place: what carries the answer?

    Each pair of prompts calls for two answers. Denoising puts the clean run's activation into the
    corrupted run, one place at a time, and asks how much of the clean answer comes back; noising
    asks how much is lost the other way round. Without a file the pairs are generated
    indirect-object sentences.
    """

    input: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="[PAIRS.jsonl]")]] = (
        None
    )
    """One pair a line: {"clean", "corrupted", "correct", "wrong"}; the answers are single tokens,
    with their leading space."""
    out: Out = Path("runs/patch")
    """Folder of the records and the report; a run that was stopped goes on there."""
    model: str = "smollm2-135m"
    """A registry name, folder or Hugging Face id; see `interp models`."""
    components: tuple[str, ...] = ("resid_pre",)
    """What to patch in each layer: resid_pre, attn_out, mlp_out, attn.z, attn.q, ..."""
    by: Literal["position", "head", "layer", "last"] = "position"
    """One place for each token, each head, each whole layer, or each layer's last token."""
    direction: Literal["denoise", "noise"] = "denoise"
    """Clean into corrupted, or corrupted into clean."""
    metric: str = "logit_diff"
    """logit_diff, prob, logprob, rank or kl."""
    layers: tuple[int, ...] = ()
    """Only these layers; by default all."""
    pairs: int = 4
    """How many pairs are generated where no file is given."""
    seed: int = 0
    """Which pairs are generated."""
    exact: bool = False
    """One plain forward pass a place instead of the shared computation."""
    memory_gib: float = 2.0
    """Memory for the activations of one forward pass; weights come on top."""
    dtype: str | None = None
    """float32, float64, bfloat16 or float16; by default that of the weights."""
    device: str = "cpu"
    """cpu, cuda or cuda:0."""
    threads: int | None = None
    """Threads for arithmetic; by default torch's own choice."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import patching
        from interp.jobs.tts import set_threads

        set_threads(self.threads)
        outcome = patching.run(
            self.input,
            model=self.model,
            out=self.out,
            settings=patching.Settings(
                components=self.components,
                by=self.by,
                direction=self.direction,
                metric=self.metric,
                layers=self.layers,
                pairs=self.pairs,
                seed=self.seed,
                exact=self.exact,
            ),
            dtype=self.dtype,
            device=self.device,
            memory_gib=self.memory_gib,
            console=console,
        )
        _print_places(outcome, console)
        return 3 if outcome.marked else 0


def _print_places(outcome, console: Console, top: int = 8) -> None:
    from interp.jobs.runs import rows

    ranked = sorted(outcome.rows, key=lambda row: -abs(row["effect"]))[:top]
    table = Table("place", "token", "effect", "95% interval over pairs", "share recovered")
    for row in ranked:
        low, high = row["effect_low"], row["effect_high"]
        span = "one pair: none" if low is None else f"{low:.3f} to {high:.3f}"
        share = "no gap" if row["recovered"] is None else f"{row['recovered']:.2f}"
        table.add_row(
            escape(row["place"]),
            escape(repr(row["token"] or "")),
            f"{row['effect']:.3f}",
            span,
            share,
        )
    console.print(table)
    first = outcome.rows[0]
    console.print(
        f"The {len(ranked)} places of {len(outcome.rows)} that move {first['metric']} most when "
        f"{first['direction']}d, over {first['pairs']} pairs. The null, a run patched with itself, "
        f"moves it by at most {max(row['null'] for row in outcome.rows):.2g}.",
        soft_wrap=True,
        markup=False,
    )
    for line in rows(outcome.store, "marked_pairs"):
        console.print(f"  marked {line['id']}: {line['reason']}", soft_wrap=True, markup=False)
    console.print(f"Records and report: {outcome.store.folder}", soft_wrap=True, markup=False)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Print the records of a run."""

    folder: Run
    """Folder of a run."""
    table: str = "steps"
    """Which table: steps, chains, patch, marked_steps or audit."""
    format: Literal["table", "jsonl", "csv"] = "table"
    """table for reading; jsonl or csv in full precision."""
    columns: tuple[str, ...] = ()
    """Only these columns, in this order."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.errors import InputError, nearest
        from interp.jobs.runs import table_names
        from interp.results import Store, render

        store = Store.open(self.folder)
        known = table_names(store)
        if self.table not in known:
            raise InputError(
                f"The run {self.folder} has no table {self.table!r}; it has: "
                f"{', '.join(known) or 'none yet'}.{nearest(self.table, known)}"
            )
        rows = store.rows(self.table)
        columns = self.columns
        if self.format == "table" and not columns:
            present = {name for row in rows for name in row}
            columns = tuple(c for c in DEFAULT_COLUMNS.get(self.table, ()) if c in present)
        text = render(rows, self.format, columns or None)
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return _warn_of_missing(store)


def _warn_of_missing(store) -> int:
    """Say on stderr that cells are gone; the exit status that goes with it."""
    from interp.jobs.runs import missing

    gone = missing(store)
    if not gone:
        return 0
    sys.stderr.write(
        f"interp: {gone} cells of this run are missing or damaged and not shown; start the command "
        "that made the run again to make them again.\n"
    )
    return 3


DEFAULT_COLUMNS = {
    "steps": ("id", "step", "seed", "op", "nec", "suf", "tts", "null_tts", "random_tts", "text"),
    "chains": ("id", "status", "answer", "gold", "correct", "n_steps", "n_tokens", "reason"),
    "patch": ("place", "token", "direction", "effect", "recovered", "change", "null", "pairs"),
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw a run's report again, from its records alone: one HTML file that works offline."""

    folder: Run
    """Folder of a run."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs.runs import write_report
        from interp.results import Store

        store = Store.open(self.folder)
        path = write_report(store)
        console.print(f"Report: {path}", soft_wrap=True, markup=False)
        return _warn_of_missing(store)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Check a model: identities of its sites, parity with Hugging Face, nothing left behind."""

    model: tyro.conf.Positional[str]
    """A registry name, folder or Hugging Face id; see `interp models`."""
    engine: str = "torch"
    """torch, transformer_lens or nnsight."""
    dtype: str | None = None
    """float32, float64, bfloat16 or float16; by default that of the weights."""
    device: str = "cpu"
    """cpu, cuda or cuda:0."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.engine.check import check, refusals
        from interp.engine.loading import load

        model = load(self.model, engine=self.engine, dtype=self.dtype, device=self.device)
        checks = check(model)
        table = Table("check", "largest error", "tolerance", "holds", "note")
        for each in checks:
            holds = "yes" if each.holds else "NO"
            numbers = (f"{each.error:.2g}", f"{each.tolerance:.2g}")
            table.add_row(escape(each.name), *numbers, holds, escape(each.note))
        console.print(
            f"{model.name}, engine {model.engine}, {len(model.sites)} sites", markup=False
        )
        console.print(table)
        for line in refusals(model):
            console.print(f"not here: {line}", soft_wrap=True, markup=False)
        held = all(each.holds for each in checks)
        worst = max(each.error for each in checks)
        verdict = "All identities hold" if held else "SOME IDENTITIES FAIL"
        console.print(f"{verdict}; the largest error is {worst:.2g}.", markup=False)
        return 0 if held else 1


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the names that can be loaded, and which can load here and now."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.models.registry import KNOWN, availability

        table = Table("name", "what", "loads here")
        for name, known in KNOWN.items():
            table.add_row(name, known.what, availability(name))
        console.print(table)
        console.print("Also: a local folder, or a Hugging Face id such as owner/name.")
        return 0


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Tts, tyro.conf.subcommand("tts")]
    | Annotated[Patch, tyro.conf.subcommand("patch")]
    | Annotated[Results, tyro.conf.subcommand("results")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Models, tyro.conf.subcommand("models")]
)


QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Set, unless the user set them, before any library is imported."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    command = tyro.cli(
        Command,
        prog="interp",
        description="Find out what inside a language model caused its answer, by intervening.",
        args=argv,
    )
    console = Console(stderr=False)
    try:
        status = command.main(console)
    except InterpError as error:
        sys.stderr.write(f"interp: {error}\n")
        status = error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interp: stopped; what was finished is kept, start again to go on.\n")
        status = 130
    except BrokenPipeError:
        status = 0
    sys.exit(status)


if __name__ == "__main__":
    main()
