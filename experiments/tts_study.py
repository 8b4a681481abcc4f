"""The whole True-Thinking method on one subject: scores, direction, steering, pruning, relatives.

    python -m experiments.tts_study --subject words                 # minutes on one core
    python -m experiments.tts_study --subject qwen3-4b --size paper --input gsm8k.jsonl \
        --device cuda

**Subjects.** `thinker` and `thinker-ignores` read generated chains, in which the part of every step
is known (`interp.models.thinker`). `words` is SmolLM2 writing its own chains on generated word
problems. `gsm8k` is SmolLM2 on the problems of a JSONL file, and every model of
`interp.models.reasoning` is a subject by its short name, on a file too.

**Records.** Everything lies in OUT/SUBJECT: the run of `interp tts`, and inside it the folders
`direction`, `steer-test`, `prune` and `compare`. A second start goes on where the first stopped.
What a subject cannot have (a model that ignores its chain has no direction) is left out, and the
sentence that says why is kept with the times in the notes of the run's manifest, under `study`.
`--records` writes a copy of the finished records in few small files, to be committed.

**Small models.** SmolLM2's scores are low: on word problems the highest is about 0.16. So its
direction is that of steps from 0.03 up against steps up to 0.01; the method asks for 0.9 and 0.005.
The warnings say how few they are.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from experiments.study import Part, Study, condense, make_part, table
from interp.data.rows import Row, read_rows
from interp.data.word_problems import word_problems
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError, InterpError, nearest
from interp.jobs import runs, tts, tts_compare, tts_direction, tts_prune, tts_steer
from interp.models import thinker
from interp.models.reasoning import REASONING, writing
from interp.results import Store, file_hash

Size = Literal["smoke", "paper"]

RECORDS = Path(__file__).parent / "records"
THINKERS = {"thinker": "thinker", "thinker-ignores": "thinker_ignores"}
"""The folders of the trained weights."""
GENERATED = (*THINKERS, "words")
"""Subjects that need no file of problems."""
SUBJECTS = (*GENERATED, "gsm8k", *REASONING)
SMALL = "smollm2-135m"

CHEAP = ("early", "drop", "mistake", "paraphrase", "attention", "receivers", "whole", "dependency")
"""Relatives for which the model writes nothing."""
ALL = (*tts_compare.MEASURES, *tts_compare.ACROSS)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One subject at one size."""

    subject: str = "thinker"
    """thinker, thinker-ignores, words, gsm8k, or a reasoning model such as qwen3-4b."""
    size: Size = "smoke"
    """smoke: minutes on one core. paper: 5 draws, every layer, all relatives; for a GPU."""
    input: Path | None = None
    """JSONL of problems, for gsm8k and the reasoning models."""
    limit: int | None = None
    """How many problems; by default what the size asks for."""
    seed: int = 1
    """Which chains or problems are generated."""
    model: str | None = None
    """Another model for the subject: a registry name, folder or Hugging Face id."""
    dtype: str | None = None
    """By default that of the weights."""
    device: str = "cpu"
    """cpu, cuda or cuda:0."""
    memory_gib: float = 2.0
    """Memory for the activations of a forward pass, in GiB."""
    threads: int | None = 1
    """Threads for arithmetic on the CPU."""
    out: Path = Path("runs") / "tts_study"
    """Folder in which the subject gets one."""
    records: Path | None = None
    """Folder for a small copy of the finished records, in a folder of the subject."""

    def __post_init__(self) -> None:
        if self.subject not in SUBJECTS:
            raise InputError(
                f"There is no subject {self.subject!r}; there are: {', '.join(SUBJECTS)}."
                f"{nearest(self.subject, SUBJECTS)}"
            )
        if self.input is None and self.subject not in GENERATED:
            raise InputError(
                f"{self.subject} has no problems of its own: name a JSONL file with --input."
            )
        if self.input is not None and self.subject in GENERATED:
            raise InputError(
                f"--input {self.input}: {self.subject} generates its problems; leave it out, or "
                "take gsm8k or a reasoning model."
            )
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: take at least 1 problem.")

    @property
    def folder(self) -> Path:
        """Where the subject's records are."""
        return self.out / self.subject

    @property
    def weights(self) -> str:
        """What to load."""
        if self.subject in THINKERS:
            return self.model or str(RECORDS / THINKERS[self.subject])
        return self.model or (self.subject if self.subject in REASONING else SMALL)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a size asks of a subject."""

    n: int
    """Problems."""
    scores: tts.Settings
    sets: tts_direction.SetSettings = field(default_factory=tts_direction.SetSettings)
    steer: tts_steer.Settings = field(default_factory=tts_steer.Settings)
    """Its sets are made of the selection problems alone."""
    every: int = 1
    """Steer every so many layers."""
    prune: tts_prune.Settings = field(default_factory=tts_prune.Settings)
    compare: tts_compare.Settings = field(default_factory=tts_compare.Settings)


def plan(subject: str, size: Size) -> Plan:
    """Return what a size asks of a subject.

    >>> plan("words", "smoke").every, plan("words", "paper").every
    (5, 1)
    """
    if size == "paper":
        return _paper(subject)
    return _thinker_smoke(subject) if subject in THINKERS else _small_smoke(subject)


def _thinker_smoke(subject: str) -> Plan:
    """Short chains and a tiny model: everything but what makes the model write."""
    return Plan(
        n=80 if subject == "thinker" else 40,
        scores=tts.Settings(seeds=3),
        compare=tts_compare.Settings(measures=CHEAP),
    )


def _small_smoke(subject: str) -> Plan:
    """Few items, every fifth layer, and random directions at the chosen layer alone.

    SmolLM2 has so few true steps that two thirds of its problems are needed to fit a direction.
    """
    known = REASONING.get(subject)
    sets = replace(_sets(subject), shuffled=2)
    return Plan(
        n=24 if subject == "words" else 12 if known is None else 4,
        scores=tts.Settings(seeds=2, **_written(subject, most=160 if known is None else 1024)),
        sets=sets,
        steer=tts_steer.Settings(
            sets=sets, items=8, share=0.5 if known else 0.67, random_layers="chosen"
        ),
        every=5,
        prune=tts_prune.Settings(fractions=(0.0, 0.5, 1.0), decode=False),
        compare=tts_compare.Settings(measures=CHEAP),
    )


def _paper(subject: str) -> Plan:
    small = subject in ("words", "gsm8k")
    sets = _sets(subject)
    return Plan(
        n=400 if subject in THINKERS else 150 if small else 100,
        scores=tts.Settings(seeds=5, **_written(subject)),
        sets=sets,
        steer=tts_steer.Settings(sets=sets),
        compare=tts_compare.Settings(
            measures=ALL, rollouts=20, max_new_tokens=256 if small else 1024
        ),
    )


def _sets(subject: str) -> tts_direction.SetSettings:
    """The default thresholds; lower ones for SmolLM2, whose scores are low."""
    if subject in ("words", "gsm8k"):
        return tts_direction.SetSettings(true_from=0.05, lowest=0.03, decorative_to=0.01)
    return tts_direction.SetSettings()


def _written(subject: str, most: int | None = None) -> dict[str, Any]:
    """How the model of a subject writes its chains."""
    temperature, top_p, longest = writing(subject)
    return {
        "temperature": temperature,
        "top_p": top_p,
        "max_new_tokens": min(longest, most or longest),
    }


# ---------------------------------------------------------------- parts


def rows_of(config: Config, n: int) -> tuple[list[Row], dict[str, str]]:
    """Return the rows of a subject, and the words for its manifest."""
    n = config.limit or n
    if config.input is not None:
        rows = read_rows(config.input, limit=n)
        about = {"path": config.input.name, "sha256": file_hash(config.input), "limit": str(n)}
        return rows, about
    if config.subject == "words":
        made = tts.generated_rows(word_problems(n, seed=config.seed))
        return made, {"problems": f"word_problems({n}, seed={config.seed})"}
    chains = thinker.chains(n, seed=config.seed)
    rows = [
        Row(
            each.id,
            each.question,
            each.chain,
            each.answer,
            checks=thinker.restated(thinker.lines(each.chain), int(each.guess)),
        )
        for each in chains
    ]
    return rows, {"chains": f"thinker.chains({n}, seed={config.seed}), checks as restated"}


def run(config: Config, console: Console) -> Study:
    """Run every part that is not finished yet, and note what became of each.

    Raises:
        InputError: no file of problems.
        ModelError: the model cannot be had.
        StoreError: the folder belongs to other settings.
    """
    asked = plan(config.subject, config.size)
    scores, n_layers = _scored(config, asked)
    found = [scores]
    steered = replace(asked.steer, layers=layers(n_layers, asked.every))
    for name, job in _jobs(config, replace(asked, steer=steered), console).items():
        console.print(f"{config.subject}: {name}")
        found.append(make_part(config.folder, name, job))
    study = Study(config.folder, tuple(found))
    runs.write_report(Store.open(config.folder))
    if config.records is not None:
        condense(config.folder, config.records / config.subject)
    return study


def layers(n_layers: int, every: int) -> tuple[int, ...]:
    """Return every so many layers, the final output where it falls so; nothing stands for all.

    >>> layers(6, 3), layers(6, 1)
    ((0, 3, 6), ())
    """
    return () if every == 1 else tuple(range(0, n_layers + 1, every))


def _scored(config: Config, asked: Plan) -> tuple[Part, int]:
    """Load the model and score every row; return the part and the number of layers."""
    rows, data = rows_of(config, asked.n)
    tts.refuse_file(config.folder)
    tts.set_threads(config.threads)
    begun = time.process_time()
    model = load(config.weights, dtype=config.dtype, device=config.device)
    tts.require_text(model)
    part = make_part(
        config.folder, "scores", lambda: _scores(config, asked, model, rows, data), begun
    )
    return part, model.sizes.n_layers


def _scores(
    config: Config, asked: Plan, model: Model, rows: Sequence[Row], data: Mapping[str, str]
) -> tuple[str, ...]:
    """Score every row; return the warnings."""
    store = runs.begin(
        model,
        experiment="tts_study",
        out=config.folder,
        settings={**asdict(asked.scores), "rules": asdict(asked.scores.rules)},
        data=data,
        seeds=range(asked.scores.seeds),
    )
    console = Console(quiet=True)
    done = tts.run(rows, model, store, asked.scores, memory_gib=config.memory_gib, console=console)
    marked = (f"{done.marked} of {len(rows)} chains are marked.",) if done.marked else ()
    return (*done.warnings, *marked)


def _jobs(
    config: Config, asked: Plan, console: Console
) -> dict[str, Callable[[], tuple[str, ...]]]:
    """What is built on the scores, by the folder that it lies in."""
    where: dict[str, Any] = {
        "model": config.weights,
        "out": None,
        "dtype": config.dtype,
        "device": config.device,
        "console": console,
    }
    run, export = config.folder, tts_prune.Export()
    return {
        "direction": lambda: tts_direction.find(run, settings=asked.sets, **where).warnings,
        "steer-test": lambda: (
            tts_steer.test(run, direction=None, settings=asked.steer, **where).warnings
        ),
        "prune": lambda: _marks(
            tts_prune.study(run, settings=asked.prune, export=export, **where).marked, "prunings"
        ),
        "compare": lambda: _marks(
            tts_compare.compare(run, settings=asked.compare, **where).marked, "measurements"
        ),
    }


def _marks(n: int, what: str) -> tuple[str, ...]:
    return (f"{n} {what} are marked.",) if n else ()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study of one subject; exit 2 on bad input."""
    console = Console()
    try:
        study = run(tyro.cli(Config, args=argv, description=__doc__), console)
    except InterpError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    console.print(table(study))


if __name__ == "__main__":
    main()
