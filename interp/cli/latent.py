"""`interp latent train|rollout|necessity|influence|commitment`: reasoning in latent steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from interp.cli.shared import Out, print_table, say, settings_of

SHAPE = ("locality", "span", "early_out", "late_in")
Edge = Literal["input", "kv", "both", "recurrence", "cache"]
Kind = (
    Literal["auto", "soft-thinking"]
    | Literal["coconut", "codi", "pause", "no_recurrence", "no_latents", "explicit"]
)


@dataclass(frozen=True, kw_only=True)
class LatentTrain:
    """Train a latent reasoner or one of its controls, and write a folder that `rollout` reads."""

    recipe: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="RECIPE")]]
    """A named recipe, such as cycle-coconut; a wrong name lists them."""
    out: Out
    """Folder of the weights, which must not be there yet."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Problems to train on; without it the recipe's own are generated."""
    seed: int = 0
    """Of the weights and the problems."""
    updates: int | None = None
    """Most updates; by default the recipe's."""
    held_out: int = 200
    """Problems that the trained model is scored on."""
    threads: int | None = None
    """Threads for arithmetic; by default torch's own choice."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import latent_train as job
        from interp.jobs.tts import set_threads

        set_threads(self.threads)
        done = job.train_subject(settings_of(self, job.Settings), console=console)
        print_table(console, ("subject", "accuracy", "n_problems"), done.accuracy)
        say(console, f"{done.updates} updates in {done.seconds:.0f} s of CPU time: {self.out}")
        return 0


@dataclass(frozen=True, kw_only=True)
class LatentRollout:
    """Run problems without any edit: answers, accuracy, and each step's nearest words."""

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A folder: of `interp latent train`, or of a published Coconut or CODI checkpoint."""
    out: Out
    """Folder of the records; the other commands build on it."""
    data: str = "cycle-hop"
    """A JSONL file of problems, or a generator: cycle-hop, cycle-hop-told (names the hops),
    arithmetic, prosqa, prontoqa."""
    n: int = 200
    """Problems to run."""
    calibration: int = 100
    """Problems kept apart for means and donors; of a file the last ones."""
    seed: int = 0
    """Of generated problems."""
    kind: Kind = "auto"
    """soft-thinking lets any chat model reason in mixtures of its tokens, without training; auto
    takes what the files say, the others say what a published checkpoint is run as."""
    steps: int | None = None
    """Steps of soft thinking (8), or of a published checkpoint (6)."""
    base: str | None = None
    """The base model of a checkpoint that holds updates only: a folder."""
    allow_pickle: bool = False
    """Read weights that are only there as a pickle (tensors alone, no code)."""
    lora_alpha: float | None = None
    """Scale of low-rank updates in a checkpoint that does not say it; CODI's published is 32."""
    token_rows: Literal["pad-bot-eot", "as-named"] | None = None
    """What the added embedding rows of a CODI checkpoint are, where its tokenizer disagrees."""
    dtype: str | None = None
    """By default that of the weights."""
    device: str = "cpu"
    """cpu, cuda or cuda:0."""
    threads: int | None = None
    """Threads for arithmetic; by default torch's own choice."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import latent_rollout as job
        from interp.jobs.latent_runs import Loading, Problems
        from interp.jobs.tts import set_threads

        set_threads(self.threads)
        done = job.rollout(
            settings_of(self, Loading),
            settings_of(self, Problems),
            out=self.out,
            console=console,
        )
        print_table(console, ("subject", "accuracy", "unparsable", "n_problems"), [done.accuracy])
        say(console, f"{done.marked} marked. Records and report: {done.store.folder}")
        return 3 if done.marked else 0


@dataclass(frozen=True, kw_only=True)
class _OnLatentRun:
    """A run of `interp latent rollout`, and its model."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """The folder that `interp latent rollout MODEL --out RUN` wrote."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the records; by default one of the command's name inside RUN."""
    model: str | None = None
    """The folder of the model, where the recorded one is not found."""
    rows: int = 512
    """Most rows of a pass: problems times edits that stand side by side."""
    device: str = "cpu"
    """cpu, cuda or cuda:0."""
    threads: int | None = None
    """Threads for arithmetic; by default torch's own choice."""

    def _where(self) -> Any:
        from interp.jobs.latent_parts import Where
        from interp.jobs.tts import set_threads

        set_threads(self.threads)
        return settings_of(self, Where)


@dataclass(frozen=True, kw_only=True)
class LatentNecessity(_OnLatentRun):
    """Which steps the answer needs: edit each, flip or not; stop after each, solved or not."""

    operators: tuple[str, ...] = ("zero", "mean_step", "resample", "rotate", "swap")
    """What is put in a step's place; the identity always runs beside. A wrong name lists them."""
    edge: Edge = "input"
    """What an edit reaches: the vector fed (input), keys and values (kv), both, or one path."""
    draws: int = 3
    """Donors of each problem."""
    seeds: int = 1
    """Draws of noise."""
    classes: int | None = None
    """How many answers there are; then the flips of random answers stand beside."""
    per_step: int = 1
    """Latent steps for each step in text, as the model was trained."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import latent_parts as job

        done = job.find_necessity(self._where(), settings_of(self, job.NecessitySettings), console)
        found = done.store.rows("necessity")
        say(console, "Share of problems whose answer flips, by the step that is edited:")
        rows, steps = by_step(found, "flip")
        print_table(console, ("operator", *steps, "n_problems"), rows)
        if self.classes:
            say(console, f"Answers drawn at random would flip {found[0]['ceiling']:.3g}.")
        null = [row["flip"] for row in found if row["operator"] == "identity"]
        null = max((flip for flip in null if flip is not None), default=None)
        say(console, f"Identity null: {null} flips (0.0 is right).")
        stops = ("k", "accuracy", "solved", "retention", "next_step", "n_problems")
        print_table(console, stops, done.store.rows("early_stop"))
        return _end(console, done)


@dataclass(frozen=True, kw_only=True)
class LatentInfluence(_OnLatentRun):
    """How a change at step t travels: W[t, s], its shape beside its nulls, its graph."""

    operators: tuple[str, ...] = ("zero", "mean_step", "resample", "rotate", "shuffled_donor")
    """What is put in a step's place; the identity always runs beside. A wrong name lists them."""
    edge: Edge = "input"
    """What an edit reaches: the vector fed (input), keys and values (kv), both, or one path."""
    seeds: int = 1
    """Draws of noise and donors."""
    target: Literal["answer", "next_step"] = "answer"
    """What a read-out forces: the answer, or the step in text that would follow."""
    per_step: int = 1
    """Latent steps for each step in text, for the target next_step."""
    preset: Literal["default", "released-code"] = "default"
    """released-code re-creates known faults to show what they alone give: a diagnostic."""
    threshold: float = 0.1
    """Edges of the graph exceed this share of the largest."""
    exact: bool = False
    """A full rollout for every edit and read-out instead of shared ones."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import latent_parts as job
        from interp.jobs.runs import rows as rows_of

        done = job.find_influence(self._where(), settings_of(self, job.InfluenceSettings), console)
        rows = rows_of(done.store, "influence_shape")  # none where a subject has one step
        print_table(console, ("operator", *SHAPE, "total", "n_problems"), by_metric(rows))
        null = next((row["identity_total"] for row in rows), None)
        say(console, f"Identity null: {null} nats over all t < s (0.0 is right).")
        if self.preset != "default":
            say(
                console,
                "DIAGNOSTIC: these read-outs are faulty on purpose; this is no result.",
            )
        return _end(console, done)


@dataclass(frozen=True, kw_only=True)
class LatentCommitment(_OnLatentRun):
    """When the model commits: noise inside the rollout, probes and read-outs on one scale."""

    samples: int = 40
    """Rollouts of each problem."""
    sigma: float = 0.1
    """Gaussian noise on every step, relative to its norm over the root of d_model."""
    dropout: float = 0.0
    """Dropout inside the rollout."""
    labels: Literal["two", "answer"] = "two"
    """Whether a probe tells a problem's two answers apart, or all."""
    shuffles: int = 20
    """Label shuffles of the control."""
    seed: int = 0
    """Of noise and shuffles."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import latent_parts as job

        done = job.find_commitment(
            self._where(), settings_of(self, job.CommitmentSettings), console
        )
        columns = ("source", "t", "bits", "accuracy", "gap", "n_problems")
        print_table(console, columns, done.store.rows("commitment"))
        probes = ("t", "bits", "shuffled_bits", "problem_bits", "rank")
        print_table(console, probes, done.store.rows("commitment_probes"))
        return _end(console, done)


def by_metric(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row an operator with a column a metric, and one of what equal edges would give."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["operator"] == "identity":
            continue
        mine = found.setdefault(row["operator"], {"operator": row["operator"]})
        mine |= {"total": row["total"], "n_problems": row["n_problems"]}
        for ending in ("", "_low", "_high"):
            mine[f"{row['metric']}{ending}"] = row[f"x{ending}"]
    uniform = {row["metric"]: row["uniform"] for row in rows}
    return [*found.values(), {"operator": "equal edges", **uniform}]


def by_step(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """A row an operator with a column a step, of a table with a row for each of both."""
    steps = sorted({row["steps"] for row in rows}, key=lambda steps: (len(steps), steps))
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["operator"] == "identity":
            continue
        mine = found.setdefault(row["operator"], {"operator": row["operator"]})
        mine["n_problems"] = row["n_problems"]
        for ending in ("", "_low", "_high"):
            mine[f"step {row['steps']}{ending}"] = row[f"{name}{ending}"]
    return list(found.values()), [f"step {steps}" for steps in steps]


def _end(console: Console, done: Any) -> int:
    tables: Iterable[str] = ("necessity", "early_stop", "influence_shape", "commitment")
    for warning in _warnings(done.store, tables):
        say(console, f"Warning: {warning}")
    say(console, f"{done.marked} marked. Records and report: {done.store.folder}")
    return 3 if done.marked else 0


def _warnings(store: Any, tables: Iterable[str]) -> list[str]:
    """What tables warn of, each once."""
    from interp.jobs.runs import rows

    found: Sequence[Mapping[str, Any]] = [row for name in tables for row in rows(store, name)]
    return list(dict.fromkeys(str(row["warning"]) for row in found if row.get("warning")))
