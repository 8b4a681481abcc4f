"""The study of alignment on one subject: maps, algorithms, twins, rivals, every guard, a verdict.

    python -m experiments.align_study --subject equality --algorithms both_equality
    python -m experiments.align_study --subject ioi --size standard

**Subjects.** `equality`: networks trained on the task, all layers, twins at each of them.
`planted-and-or-and` and `planted-and-or`: networks with one algorithm planted at layer 2, tested
for the planted algorithm and for the other. `ioi`: a small transformer that completes sentences,
scored on names that no map was fitted on. `ioi-smollm2`: SmolLM2-135M on the sentences that it
completes right, where a vector of the last token begins to say which pattern the names have, and
three layers before. `product-two-digit`, `product-sft`, `product-auxiliary`
and `product-icot`: networks that multiply, tested for the running sum of a middle digit and for the
carry into it, each the other's rival; scored on first numbers that no map was fitted on.

**Records.** A run is one `interp align` of one algorithm, in OUT/SUBJECT-ALGORITHM. A second start
goes on where the first stopped. Copies for the repository hold the tables and no maps.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_type_hints

import tyro
from rich.console import Console
from rich.table import Table

from experiments.parts import RECORDS, require_folder, shown
from experiments.study import condense
from interp.alignment.evidence import Evidence
from interp.alignment.fitting import Budget
from interp.errors import InputError, InterpError, nearest
from interp.jobs import align
from interp.jobs.align import Settings
from interp.jobs.tts import set_threads
from interp.results import Store

Size = Literal["smoke", "standard", "paper"]
NETS = RECORDS / "alignment_nets"
SHOWN = ("algorithm", "map", "site", "size", "iia", "twin", "baseline", "verdict")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Networks, what they are tested for, and with which maps."""

    task: str
    algorithms: tuple[str, ...]
    """One run each."""
    maps: tuple[str, ...]
    sites: tuple[str, ...] | None = None
    """None means all of the task."""
    weights: Path | str
    """Folder of classifiers; folder, registry name or id of a language model."""
    twins_everywhere: bool = False
    sizes: tuple[int, ...] | None = None
    """None means half of the width shared by the variables."""
    is_large: bool = False
    """Whether a pass costs so much that only prompts that the model solves are worth it."""
    updates: int | None = None
    """Most updates of a fit; None means those of the size."""

    @property
    def is_language_model(self) -> bool:
        """Whether the subject is a decoder of tokens."""
        return self.task in ("ioi", "multiplication")


def _planted(kind: str) -> Subject:
    return Subject(
        task="distributive",
        algorithms=("and_or_and", "and_or"),
        maps=("identity", "orthogonal", "revnet-10x24"),
        sites=("2",),
        weights=NETS / kind,
    )


def _product(recipe: str) -> Subject:
    """The running sum of a middle digit, and the carry into it."""
    k = 2 if recipe == "two_digit" else 4
    return Subject(
        task="multiplication",
        algorithms=(f"chat_{k}", f"r_{k - 1}"),
        maps=("orthogonal", "revnet-8x64"),
        sites=("0.resid_post", "1.resid_mid"),
        weights=RECORDS / "multiplication" / recipe,
    )


SUBJECTS: Mapping[str, Subject] = {
    "equality": Subject(
        task="equality",
        algorithms=("both_equality", "left_equality"),
        maps=("identity", "orthogonal", "revnet-10x16"),
        weights=NETS / "equality",
        twins_everywhere=True,
    ),
    "planted-and-or-and": _planted("planted_and_or_and"),
    "planted-and-or": _planted("planted_and_or"),
    "ioi": Subject(
        task="ioi",
        algorithms=("pattern", "answer_name"),
        maps=("orthogonal", "revnet-8x64"),
        sites=("1.resid_post", "2.resid_post"),
        weights=RECORDS / "ioi",
    ),
    "ioi-smollm2": Subject(
        task="ioi",
        algorithms=("pattern",),
        maps=("orthogonal",),
        sites=("18.resid_post", "21.resid_post"),
        weights="smollm2-135m",
        sizes=(32,),
        is_large=True,
        updates=150,
    ),
    **{
        f"product-{recipe.replace('_', '-')}": _product(recipe)
        for recipe in ("two_digit", "sft", "auxiliary", "icot")
    },
}


@dataclass(frozen=True, kw_only=True)
class OfSentences(Settings):
    """Settings on a language model: a step costs much more there, so it gets less data."""

    @property
    def spent(self) -> Budget:
        """The budget with a quarter of the batch and fewer inputs."""
        own = super().spent
        less = {"batch": own.batch // 4, "inputs": own.inputs // 8}
        return replace(own, **less, held_out=own.held_out // 10)


@dataclass(frozen=True, kw_only=True)
class OfLarge(OfSentences):
    """Settings on a model of which an update takes the better part of a second."""

    @property
    def spent(self) -> Budget:
        """An eighth of the batch, and four times as many looks at the validation pairs."""
        own = super().spent
        return replace(own, batch=own.batch // 2, check_every=own.check_every // 4)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One subject at one size."""

    subject: str = "equality"
    """equality, planted-and-or-and, planted-and-or, ioi, ioi-smollm2, or product-two-digit and its
    like."""
    size: Size = "smoke"
    """The budget of a fit: 1,000 updates of 512 pairs, 5,000 of 512, or 10,000 of 6,400; a quarter
    of the pairs for a language model, an eighth for SmolLM2."""
    algorithms: tuple[str, ...] | None = None
    """Which of the subject's; by default all, one after the other."""
    nets: int = 5
    """Networks and random twins; for a language model, map seeds and twins."""
    updates: int | None = None
    """Most updates of a fit, in place of the size's (of ioi-smollm2: 150)."""
    model: Path | None = None
    """Folder of the weights; by default the subject's own."""
    threads: int = 1
    """Threads for arithmetic."""
    out: Path = Path("runs") / "align_study"
    """Folder in which each run gets one."""
    records: Path | None = None
    """Folder for a small copy of the finished records, one folder a run."""

    def __post_init__(self) -> None:
        if self.subject not in SUBJECTS:
            raise InputError(
                f"There is no subject {self.subject!r}; there are: {', '.join(SUBJECTS)}."
                f"{nearest(self.subject, SUBJECTS)}"
            )
        own = SUBJECTS[self.subject].algorithms
        for name in self.algorithms or ():
            if name not in own:
                raise InputError(
                    f"--algorithms {name}: {self.subject} is tested for {', '.join(own)}."
                    f"{nearest(name, own)}"
                )
        if self.algorithms is not None and len(set(self.algorithms)) != len(self.algorithms):
            raise InputError(f"--algorithms {' '.join(self.algorithms)}: name each once.")
        for flag, folder in (("--out", self.out), ("--records", self.records)):
            if folder is not None:
                require_folder(flag, folder)
        if self.algorithms == ():
            raise InputError("--algorithms: name at least one, or leave it out for all.")

    @property
    def asked(self) -> tuple[str, ...]:
        """The algorithms that are tested."""
        return self.algorithms or SUBJECTS[self.subject].algorithms


def run_name(subject: str, algorithm: str) -> str:
    """Return the folder of a run.

    >>> run_name("equality", "both_equality")
    'equality-both_equality'
    """
    return f"{subject}-{algorithm}"


def settings(config: Config, algorithm: str) -> Settings:
    """Return what one run asks of `interp align`."""
    subject = SUBJECTS[config.subject]
    weights = config.model or subject.weights
    made: type[Settings] = Settings
    if subject.is_language_model:
        made = OfLarge if subject.is_large else OfSentences
    asked = made(
        task=subject.task,
        algorithm=algorithm,
        maps=subject.maps,
        sites=subject.sites,
        sizes=subject.sizes,
        budget=config.size,
        updates=subject.updates if config.updates is None else config.updates,
        nets=config.nets,
        twins_everywhere=subject.twins_everywhere,
    )
    named = weights if isinstance(weights, str) else shown(weights)
    if subject.is_language_model:
        return replace(asked, model=named, solved_only=subject.is_large)
    return replace(asked, folder=Path(named))


def run(config: Config, console: Console) -> list[dict[str, Any]]:
    """Make every run that is not finished yet; return the verdicts of all, a row each.

    Raises:
        InputError: settings that `interp align` refuses.
        ModelError, StoreError: weights that cannot be had, or a folder of other settings.
    """
    set_threads(config.threads)
    found: list[dict[str, Any]] = []
    for algorithm in config.asked:
        name = run_name(config.subject, algorithm)
        console.print(name)
        done = align.align(settings(config, algorithm), out=config.out / name, console=console)
        found += [{**row, "subject": config.subject} for row in done.verdicts]
        if config.records is not None:
            condense(done.store.folder, config.records / name)
    return found


# ---------------------------------------------------------------- what a run recorded


def evidence_of(row: Mapping[str, Any]) -> Evidence:
    """Return the evidence of a row of `align_verdicts`, to be judged again without a model.

    Raises:
        InputError: it lacks a part that evidence has.
    """
    try:
        return _built(Evidence, json.loads(row["evidence"]))
    except KeyError as error:
        raise InputError(
            f"The evidence on {row['algorithm']} under {row['map']} has no {error}: another "
            "version wrote it. Make the study again."
        ) from None


def _built(hint: Any, plain: Any) -> Any:
    """Plain values as a type says that they are: dataclasses, mappings, tuples, unions of these."""
    made: Callable[..., Any] = hint
    inner = get_args(hint)
    if isinstance(hint, UnionType):
        return None if plain is None else _built(_fitting(inner, plain), plain)
    if isinstance(plain, Mapping) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return made(**{f.name: _built(hints[f.name], plain[f.name]) for f in fields(hint)})
    if isinstance(plain, Mapping) and inner:
        return {name: _built(inner[1], each) for name, each in plain.items()}
    if isinstance(plain, list):
        return tuple(_built(inner[0], each) for each in plain)
    return plain


def _fitting(kinds: Sequence[Any], plain: Any) -> Any:
    """The member of a union whose fields the values have; the first one for plain values."""
    if isinstance(plain, Mapping):
        for kind in kinds:
            if is_dataclass(kind) and {f.name for f in fields(kind)} <= set(plain):
                return kind
    return kinds[0]


# ---------------------------------------------------------------- what a run cost


def costs(store: Store) -> list[dict[str, Any]]:
    """Return what fits cost, by map and kind, and what the guards of each verdict cost.

    CPU seconds; `each` is the mean of a fit.
    """
    groups: dict[tuple[str, str], list[float]] = {}
    for row in store.rows("align_fits"):
        groups.setdefault((row["map"], row["kind"]), []).append(row["cpu_seconds"])
    rows: list[dict[str, Any]] = [
        {"map": name, "what": f"{kind} fits", "n": len(spent), **_spent(spent)}
        for (name, kind), spent in groups.items()
    ]
    for cell in store.cells():
        judged = cell["identity"].get("align verdict")
        if judged:
            spent = [float(cell["spent"]["seconds"])]
            rows.append({"map": judged["map"], "what": "guards", "n": 1, **_spent(spent)})
    return rows


def _spent(seconds: Sequence[float]) -> dict[str, float]:
    return {"seconds": round(sum(seconds), 1), "each": round(sum(seconds) / len(seconds), 2)}


def laid(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Lay out rows as a table; numbers with at most three decimals."""
    table = Table(*rows[0], title=title)
    for row in rows:
        shortened = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
        table.add_row(*shortened)
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study of one subject; exit 2 on bad input."""
    console = Console()
    try:
        config = tyro.cli(Config, args=argv, description=__doc__)
        rows = run(config, console)
    except InterpError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    console.print(laid([{name: row[name] for name in SHOWN} for row in rows], config.subject))
    for algorithm in config.asked:
        name = run_name(config.subject, algorithm)
        console.print(laid(costs(Store.open(config.out / name)), f"{name}: CPU seconds"))


if __name__ == "__main__":
    main()
