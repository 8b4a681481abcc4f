"""Claims about causal alignment: planted truth, published ranges, verdicts, twins, probes, cost.

`align-planted`, `align-twin` and `multiplication-probe` are measured now, on the committed
networks. `align-reference` reads the committed comparison and measures two of its cells again.
`align-verdicts` reads the evidence of the committed study and judges it again: fitting it takes too
long for a claim (`make align-figures`).
"""

from __future__ import annotations

import importlib.util
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import interp
from experiments import align_reference, align_study, multiplication
from experiments.align_reference import Group
from experiments.benchmarks.pyvene_alignment import (
    Fit,
    Rival,
    Work,
    batched,
    on_classifier,
    on_language_model,
    ours,
    runs,
    split,
    start,
    theirs,
)
from experiments.claims.core import Claim, Measured
from interp.alignment.evidence import Evidence
from interp.alignment.fitting import BUDGETS
from interp.alignment.language import LanguageSubject
from interp.alignment.subjects import LayerSubject
from interp.alignment.verdicts import IN_DISTRIBUTION, INVALID, NOT_FOUND, VACUOUS, WORDS, verdict
from interp.data.alignment_tasks import task_named
from interp.errors import InputError, StoreError
from interp.jobs.align_cells import Bench, row_of
from interp.jobs.align_worlds import Classifiers
from interp.models import classifiers
from interp.results import Store
from interp.stats import Interval, cluster_bootstrap, paired_difference

RECORDS = Path(__file__).parents[1] / "records"
NETS = RECORDS / "alignment_nets" / "equality"
SEEDS = (0, 1, 2)
LAYER = 15
"""Of SmolLM2's 30, counted from 0."""
RANK = 16
MISSING = "pyvene is not installed: pip install 'interp-workbench[bench]'"


def align_cost_mlp(goal: float = 4.0) -> Measured:
    """A rotation at layer 1 of equality networks: batches as in pyvene's tutorial, and small."""
    if not _installed():
        return Measured(MISSING, False)
    table: list[dict[str, Any]] = []
    for size, n_batches, epochs in ((6400, 60, 10), (512, 150, 8)):
        table += _seeds(
            f"equality, batch {size}",
            lambda seed, s=size, n=n_batches, e=epochs: _classifier(seed, s, n, e),
        )
    return _measured(table, goal, "equality networks, 8 dimensions a variable")


def align_cost_lm(goal: float = 5.0, *, name: str = "smollm2-135m", layer: int = LAYER) -> Measured:
    """A rank-16 rotation at the last token of a middle layer of SmolLM2."""
    if not _installed():
        return Measured(MISSING, False)
    model = interp.load(name)
    whole, accuracy = runs(model, 128, seed=0)
    train, test = split(whole, 80)

    def both(seed: int) -> tuple[Fit, Fit]:
        subject = LanguageSubject(model, f"{layer}.resid_post")
        batches, held_out = batched(train, 15, 16, seed), batched(test, 40, 16, 99)
        work = Work(subject, train, test, batches, held_out, RANK, 6, 5e-3)
        phi = start(work, subject.cut(test.inputs[:1]), seed)
        rival = on_language_model(model.hf, layer, phi, train.inputs.shape[1] - 1)
        return _both(work, rival, seed)

    about = f"{name} {layer}.resid_post, rank {RANK}; it continues {accuracy:.0%} of the runs"
    return _measured(_seeds("SmolLM2, batch 16", both), goal, about)


def _classifier(seed: int, size: int, n_batches: int, epochs: int) -> tuple[Fit, Fit]:
    task = task_named("equality")
    net = classifiers.load(NETS, classifiers.SEEDS[seed])
    train, test = (task.table("both_equality", n, seed, split=part)
                   for n, part in ((65_536, "train"), (16_384, "test")))  # fmt: skip
    layer = classifiers.site(1)
    subject = LayerSubject(net, layer)
    batches, held_out = batched(train, n_batches, size, seed), batched(test, 3, 6400, 99)
    work = Work(subject, train, test, batches, held_out, 8, epochs, 5e-3)
    rival = on_classifier(net, layer, start(work, subject.cut(test.inputs[:1]), seed))
    return _both(work, rival, seed)


def _both(work: Work, rival: Rival, seed: int) -> tuple[Fit, Fit]:
    """Take turns in who is first, as the first of a process warms it up."""
    if seed % 2:
        other = theirs(work, rival)
        return ours(work, seed), other
    own = ours(work, seed)
    return own, theirs(work, rival)


def _seeds(what: str, both: Callable[[int], tuple[Fit, Fit]]) -> list[dict[str, Any]]:
    """Fit with both for each seed, on one thread."""
    rows = []
    with one_thread():
        for seed in SEEDS:
            own, other = both(seed)
            rows.append(
                {
                    "work": what,
                    "seed": seed,
                    "ours CPU s": round(own.seconds, 2),
                    "pyvene CPU s": round(other.seconds, 2),
                    "ratio": round(other.seconds / own.seconds, 2),
                    "ours IIA": round(own.iia, 4),
                    "pyvene IIA": round(other.iia, 4),
                }
            )
    return rows


def _measured(table: Sequence[dict[str, Any]], goal: float, about: str) -> Measured:
    """Read the rows: in each kind of work the median ratio, and whether accuracies agree."""
    kinds = list(dict.fromkeys(row["work"] for row in table))
    texts, holds = [], True
    for kind in kinds:
        rows = [row for row in table if row["work"] == kind]
        ratio = statistics.median(row["ratio"] for row in rows)
        own, other = ([row[f"{name} IIA"] for row in rows] for name in ("ours", "pyvene"))
        agree = same_accuracy(own, other)
        holds = holds and ratio >= goal and agree
        texts.append(
            f"{kind}: {ratio:.1f}x less CPU time (IIA {_shown(own)} against {_shown(other)}, "
            f"{'not below' if agree else 'BELOW'} on the mean)"
        )
    return Measured(f"{'; '.join(texts)}; {about}; {len(SEEDS)} seeds", holds, tuple(table))


def same_accuracy(ours: Sequence[float], theirs: Sequence[float], *, margin: float = 0.01) -> bool:
    """Whether ours is not below theirs, on the mean over seeds, by more than a margin."""
    return paired_difference(ours, theirs, range(len(ours))).estimate >= -margin


def _shown(values: Sequence[float]) -> str:
    found: Interval = cluster_bootstrap(values, range(len(values)))
    return f"{found.estimate:.3f} [{found.low or 0:.3f}, {found.high or 0:.3f}]"


def _installed() -> bool:
    return importlib.util.find_spec("pyvene") is not None


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the block torch computes on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# ---------------------------------------------------------------- known answers and chance

PLANTED = ("and_or_and", "and_or")
"""Each planted at layer 2 of networks of its own; the other is the wrong algorithm there."""


def align_planted(n: int = 10) -> Measured:
    """Maps at layer 2 of all networks with a planted algorithm, for that one and for the other."""
    table: list[dict[str, Any]] = []
    with one_thread():
        for name, other in (PLANTED, PLANTED[::-1]):
            right, wrong = (_iia(_planted(name, each, "orthogonal"), n) for each in (name, other))
            neurons = _iia(_planted(name, name, "identity"), n)
            table += [
                {
                    "planted": name,
                    "net": net,
                    "right": right[net],
                    "wrong": wrong[net],
                    "gap": right[net] - wrong[net],
                    "right, neurons": neurons[net],
                }
                for net in right
            ]
    return planted_measured(table)


def planted_measured(table: Sequence[dict[str, Any]]) -> Measured:
    """Read the rows: per planted algorithm the means, and the least gap of a network."""
    texts, holds = [], True
    for name in dict.fromkeys(row["planted"] for row in table):
        rows = [row for row in table if row["planted"] == name]
        right, gap, neurons = (fmean(r[what] for r in rows) for what in MEANS)
        least = min(row["gap"] for row in rows)
        holds &= right >= 0.99 and gap >= 0.25 and least >= 0.20 and neurons >= 0.90
        texts.append(
            f"{name} planted: right {right:.4f}, {gap:.3f} above wrong (at least {least:.3f} in "
            f"each of {len(rows)}), single neurons {neurons:.3f}"
        )
    return Measured("; ".join(texts), holds, tuple(table))


MEANS = ("right", "gap", "right, neurons")


def align_twin(n: int = 5) -> Measured:
    """A rotation on networks before any training: at every layer what guessing gives."""
    group = Group("progression", "equality", "orthogonal", ("both_equality",), kind="twin")
    with one_thread():
        table = [
            {"layer": row["site"], "net": row["net"], "IIA": row["iia"], "train": row["train_iia"]}
            for row in _rows(group, n)
        ]
    off = max(abs(row["IIA"] - 0.5) for row in table)
    means = {at: fmean(r["IIA"] for r in table if r["layer"] == at) for at in group.layers}
    said = ", ".join(f"layer {at} {mean:.3f}" for at, mean in means.items())
    text = f"{said}; the farthest of {len(table)} is {off:.3f} from .5"
    return Measured(text, off <= 0.02, tuple(table))


def _planted(planted: str, tested: str, family: str) -> Group:
    folder = f"planted_{planted}"
    return Group(folder, folder, family, (tested,), layers=("2",))


def _iia(group: Group, n: int) -> dict[int, float]:
    """Test IIA of each network."""
    return {row["net"]: row["iia"] for row in _rows(group, n)}


def _rows(group: Group, n: int) -> list[dict[str, Any]]:
    """Fit a group's cells to the first committed networks at the smoke budget."""
    networks = Classifiers(group.task, n, align_reference.NETS / group.nets)
    bench = Bench(networks, BUDGETS["smoke"])
    about = {"experiment": group.experiment, "nets": group.nets}
    return [{**about, **row_of(bench, fit)[0]} for fit in group.fits(networks.nets)]


# ---------------------------------------------------------------- published ranges

NEEDED = ("orthogonal", "revnet", "planted", "untrained")
"""Parts of `experiments.align_reference` that the comparison needs."""
AGAIN = (
    Group("final", "equality", "orthogonal", ("both_equality",), layers=("1",)),
    Group("planted_and_or", "planted_and_or", "orthogonal", ("and_or",), layers=("2",)),
)
"""Cells that are measured now, at the smoke budget."""


def align_reference_ranges(
    folder: Path = RECORDS / "align_reference", *, again: Sequence[Group] = AGAIN, n: int = 5
) -> Measured:
    """The recorded cells, and two measured now, beside the range over the authors' networks."""
    reference = align_reference.published()
    try:
        stored = {part: Store.open(folder / part).rows("align_fits") for part in NEEDED}
    except StoreError as error:
        return Measured(f"{error} Make it with python -m experiments.align_reference.", False)
    with one_thread():
        fresh = [row for group in again for row in _rows(group, n)]
    then = [c for rows in stored.values() for c in align_reference.compare(rows, reference)]
    return reference_measured(then, align_reference.compare(fresh, reference))


def reference_measured(then: Sequence[dict], now: Sequence[dict]) -> Measured:
    """Read the comparison: every cell must be inside."""
    known = [row for row in then if row["inside"] is not None]
    astray = [row for row in known if not row["inside"]]
    text = (
        f"{len(known) - len(astray)} of {len(known)} recorded cells inside the authors' range; now "
        + ", ".join(f"{r['algorithm']} at layer {r['layer']} {_ranged(r)}" for r in now)
    )
    if astray:
        text += "; outside: " + "; ".join(f"{' '.join(_cell(r))} {_ranged(r)}" for r in astray)
    holds = bool(known) and bool(now) and not astray and all(row["inside"] for row in now)
    table = tuple({name: row[name] for name in COMPARED} for row in (*then, *now))
    return Measured(text, holds, table)


COMPARED = ("experiment", "algorithm", "map", "layer", "n_nets", "iia", "published")
COMPARED += ("published_low", "published_high", "inside")


def _cell(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return row["experiment"], row["algorithm"], row["map"], row["layer"]


def _ranged(row: Mapping[str, Any]) -> str:
    return f"{row['iia']:.3f} ({row['published_low']:.3f} to {row['published_high']:.3f})"


# ---------------------------------------------------------------- verdicts


def align_verdicts(folder: Path = RECORDS / "align_study") -> Measured:
    """Judge the recorded evidence again, of networks with a planted algorithm and of twins."""
    table: list[dict[str, Any]] = []
    try:
        for name in PLANTED:
            for tested in PLANTED:
                run = align_study.run_name(f"planted-{name.replace('_', '-')}", tested)
                rows = Store.open(folder / run).rows("align_verdicts")
                table += [_judged(name, row) for row in rows]
    except (StoreError, InputError) as error:
        return Measured(f"{error} Make the study with make align-figures.", False)
    return verdicts_measured(table)


def _judged(planted: str, row: Mapping[str, Any]) -> dict[str, Any]:
    evidence = align_study.evidence_of(row)
    found = word_of(evidence)
    return {
        "planted": planted,
        "tested": row["algorithm"],
        "map": row["map"],
        "IIA": row["iia"],
        "verdict": found,
        "as recorded": found == row["verdict"],
        "twin": word_of(of_twin(evidence)),
    }


def word_of(evidence: Evidence) -> str:
    """Return the verdict in its fixed words; none where a guard is lacking."""
    try:
        return verdict(evidence).word
    except InputError:
        return "NO VERDICT"


def of_twin(evidence: Evidence) -> Evidence:
    """Return the same evidence with the random twin's scores as those that are judged."""
    twin = evidence.twin
    if twin is None:
        raise InputError(f"The evidence on {evidence.algorithm} has no twin to judge.")
    return replace(evidence, test=twin.test, train_iia=twin.train_iia, seeds=twin.seeds)


def verdicts_measured(table: Sequence[dict[str, Any]]) -> Measured:
    """Read the rows: what must be found, what must not, and nothing of a twin."""
    right = [r for r in table if r["tested"] == r["planted"] and r["map"] == "orthogonal"]
    wrong = [r for r in table if r["tested"] != r["planted"]]
    rotated = [r["verdict"] for r in wrong if r["map"] == "orthogonal"]
    deep = [r["verdict"] for r in wrong if _both_fit(r)]
    found = IN_DISTRIBUTION.format(map="orthogonal")
    holds = (
        len(right) == len(rotated) == 2
        and all(r["verdict"] == found for r in right)
        and set(rotated) <= {NOT_FOUND, VACUOUS}
        and deep == [VACUOUS]
        and all(r["as recorded"] for r in table)
        and {r["twin"] for r in table} <= {INVALID, NOT_FOUND, VACUOUS}
    )
    text = (
        f"planted right: {_words(r['verdict'] for r in right)}; wrong under orthogonal: "
        f"{_words(rotated)}; wrong under RevNet: {_words(deep)}; random twins judged in the "
        f"networks' place: {_words(r['twin'] for r in table)}"
    )
    return Measured(text, holds, tuple(table))


def _both_fit(row: Mapping[str, Any]) -> bool:
    """The published case in which a deep map fits the wrong algorithm as well as the right one."""
    return row["map"].startswith("revnet") and row["planted"] == "and_or"


def _words(found: Iterable[str]) -> str:
    counts = Counter(found)
    order = [*(word for word in counts if word not in WORDS), *WORDS]
    return ", ".join(f"{counts[word]} {word}" for word in order if counts[word]) or "none"


# ---------------------------------------------------------------- probes


def multiplication_probe(
    config: multiplication.Config | None = None, *, variable: str = "chat_2"
) -> Measured:
    """Probe the running sum in the network trained plainly and in that with an auxiliary loss."""
    config = config or multiplication.Config()
    table = []
    try:
        with one_thread():
            for name in ("sft", "auxiliary"):
                net = multiplication.network(name, config.trained)
                probes = multiplication.probes(net, config)
                table.append(next(row for row in probes if row["variable"] == variable))
    except StoreError as error:
        return Measured(f"{error} Train it with experiments.train_multiplication.", False)
    return probe_measured(table)


def probe_measured(table: Sequence[dict[str, Any]]) -> Measured:
    """Read both rows: the first must not beat the best baseline, the second must."""
    best = [min(row[name] for name in PROBE_BASELINES) for row in table]
    texts = [
        f"{row['network']}: error {row['error']:.2f}, best baseline {low:.2f}, {row['verdict']}"
        for row, low in zip(table, best, strict=True)
    ]
    plain, helped = table
    holds = plain["beyond low"] <= 0 < helped["beyond low"]
    return Measured(f"{plain['variable']}; {'; '.join(texts)}", holds, tuple(table))


PROBE_BASELINES = ("constant", "raw inputs", "untrained network")


CLAIMS = (
    Claim(
        "align-planted",
        "planted right >= .99, wrong .25 below on the mean and .20 in each, neurons >= .90",
        align_planted,
    ),
    Claim("align-reference", "every cell inside the authors' range", align_reference_ranges),
    Claim("align-verdicts", "planted right FOUND, wrong not; twins never FOUND", align_verdicts),
    Claim("align-twin", "random twins under a rotation: .50 within .02, every layer", align_twin),
    Claim(
        "multiplication-probe",
        "chat_2 beyond the baselines with the auxiliary loss only",
        multiplication_probe,
    ),
    Claim("align-cost-mlp", "at least 4x less CPU time than pyvene, IIA not below", align_cost_mlp),
    Claim("align-cost-lm", "at least 5x less CPU time than pyvene, IIA not below", align_cost_lm),
)
