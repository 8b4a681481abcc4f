"""`interp tts compare`: the True-Thinking Score beside its relatives, and how far they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import interp.results as results
from interp.engine.model import Model
from interp.errors import InputError, nearest
from interp.jobs import runs, tts_runs
from interp.jobs.tts_settings import CompareFields, require_seed
from interp.thinking.dependency import dependency, layout
from interp.thinking.relatives import early, regenerate, whole
from interp.thinking.relatives.agreement import agreement
from interp.thinking.relatives.attention import receiver_heads, suppress
from interp.thinking.relatives.resample import resample
from interp.thinking.relatives.values import ChainValue, StepValue
from interp.thinking.rules import Rules
from interp.thinking.score import Chain
from interp.thinking.scored import ScoredChain

Tables = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Settings(CompareFields):
    """What is computed beside the scores of a run; what is unknown or out of range is refused."""

    def __post_init__(self) -> None:
        require_seed(self.seed)
        for name in self.measures:
            if name not in (*MEASURES, *ACROSS):
                known = (*MEASURES, *ACROSS)
                raise InputError(
                    f"--measures {name}: there are {', '.join(known)}.{nearest(name, known)}"
                )
        if not self.measures or len(set(self.measures)) < len(self.measures):
            told = " ".join(self.measures) or "nothing"
            raise InputError(f"--measures {told}: name each measure once, and at least one.")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: take at least 1 chain, or all without it.")
        if self.rollouts < 2:
            raise InputError(f"--rollouts {self.rollouts}: a distribution needs at least 2.")
        if self.max_new_tokens < 1:
            raise InputError(f"--max-new-tokens {self.max_new_tokens}: write at least 1.")


@dataclass(frozen=True)
class Outcome:
    """What the command ended with."""

    store: results.Store
    table: tuple[dict[str, Any], ...]
    chains: tuple[dict[str, Any], ...]
    marked: int


def _early(model: Model, chain: Chain, rules: Rules, settings: Settings) -> Tables:
    curve = early.early_answering(model, chain, rules, exact=settings.exact)
    return {
        **_steps(curve.values, curve.controls, curve.marked),
        "chain_values": _rows(curve.chain_values),
        "early_points": _rows(curve.points),
    }


def _drop(model: Model, chain: Chain, rules: Rules, settings: Settings) -> Tables:
    found = whole.leave_one_out(model, chain, rules, seed=settings.seed, exact=settings.exact)
    return _steps(found.values, found.controls, found.marked)


def _mistake(model: Model, chain: Chain, rules: Rules, settings: Settings) -> Tables:
    return _mistaken(model, chain, rules, settings, regenerated=False)


def _regenerate(model: Model, chain: Chain, rules: Rules, settings: Settings) -> Tables:
    return _mistaken(model, chain, rules, settings, regenerated=True)


def _mistaken(
    model: Model, chain: Chain, rules: Rules, settings: Settings, *, regenerated: bool
) -> Tables:
    found = regenerate.add_mistake(
        model,
        chain,
        rules,
        regenerate=regenerated,
        seeds=(settings.seed,),
        max_new_tokens=settings.max_new_tokens,
        exact=settings.exact,
    )
    return _steps(found.values, found.controls, found.marked)


def _paraphrase(model: Model, chain: Chain, rules: Rules, settings: Settings) -> Tables:
    found = regenerate.paraphrase(
        model, chain, rules, regenerate=False, seed=settings.seed, exact=settings.exact
    )
    return _steps(found.values, found.controls, found.marked)


def _attention(model: Model, chain: Chain, rules: Rules, settings: Settings) -> Tables:
    found = suppress(model, chain, rules, seed=settings.seed)
    floors = [
        StepValue(each.id, each.step, f"{each.measure}:control", abs(each.control))
        for each in found.effects
        if each.control is not None
    ]
    return {
        **_steps([*found.values, *found.link_values], floors, found.marked),
        "step_links": _rows(found.links),
    }


def _resample(model: Model, chain: Chain, rules: Rules, settings: Settings) -> Tables:
    found = resample(
        model,
        chain,
        rules,
        n=settings.rollouts,
        seed=settings.seed,
        max_new_tokens=settings.max_new_tokens,
    )
    floors = [
        StepValue(each.id, each.step, "resampling_kl:control", each.kl_null)
        for each in found.importances
    ]
    return _steps(found.values, floors, found.marked)


def _whole(model: Model, chain: Chain, rules: Rules, settings: Settings) -> Tables:
    gap = whole.whole_chain_gap(model, chain, rules, exact=settings.exact)
    return {"chain_values": _rows(gap.values)}


def _dependency(model: Model, chain: Chain, rules: Rules, settings: Settings) -> Tables:
    found = dependency(
        model,
        [layout(model, chain, rules, by="step")],
        seeds=(settings.seed,),
        exact=settings.exact,
    )
    return {"dependency": _rows(found.rows)}


Measure = Callable[[Model, Chain, Rules, Settings], Tables]
MEASURES: dict[str, Measure] = {
    "early": _early,
    "drop": _drop,
    "mistake": _mistake,
    "regenerate": _regenerate,
    "paraphrase": _paraphrase,
    "attention": _attention,
    "resample": _resample,
    "whole": _whole,
    "dependency": _dependency,
}
"""What is computed chain by chain."""
ACROSS = ("receivers",)
"""What needs several chains at once."""


def compare(
    folder: Path,
    *,
    model: str | None,
    out: Path | None,
    settings: Settings,
    dtype: str | None,
    device: str,
    console: Console,
) -> Outcome:
    """Compute each measure on every chain of a run, and the table of how they agree."""
    run = tts_runs.open_run(folder)
    loaded = tts_runs.load_model(run, model, dtype=dtype, device=device)
    store = tts_runs.begin(run, loaded, "compare", out, asdict(settings))
    order: list[str] = []
    chains = run.chains[: settings.limit]
    with runs.progress(console) as bars:
        task = bars.add_task("chains", total=len(chains) * len(settings.measures))
        for chain in chains:
            for name in settings.measures:
                if name in MEASURES:
                    _cell(
                        store,
                        order,
                        chain.id,
                        name,
                        lambda n=name, c=chain.chain: _measured(
                            MEASURES[n], loaded, c, run.rules, settings
                        ),
                    )
                bars.advance(task)
        if "receivers" in settings.measures:
            _cell(store, order, "all", "receivers", lambda: _receivers(loaded, chains, run.rules))
    runs.finish(store, order)  # rows come back in this order
    table, means = _summary(store, order, chains)
    runs.finish(store, order)
    runs.write_report(store)
    marked = len(runs.rows(store, "compare_marked"))
    return Outcome(store, table, means, marked)


def _cell(
    store: results.Store, order: list[str], chain: str, name: str, make: Callable[[], Tables]
) -> None:
    identity = {"chain": chain, "measure": name, "settings": store.manifest.settings_hash}
    key = results.cell_key(identity)
    order.append(key)
    if not store.has(key):
        store.write(key, identity, {n: rows for n, rows in make().items() if rows}, {})


def _measured(
    measure: Measure, model: Model, chain: Chain, rules: Rules, settings: Settings
) -> Tables:
    """One measure on one chain; a chain that it cannot take is marked with the reason."""
    try:
        return measure(model, chain, rules, settings)
    except InputError as error:
        mark = {"id": chain.problem.id, "step": -1, "seed": settings.seed, "reason": str(error)}
        return {"compare_marked": [{**mark, "measure": measure.__name__.strip("_")}]}


def _receivers(model: Model, scored: Sequence[ScoredChain], rules: Rules) -> Tables:
    """Heads are chosen on one half of the chains and read on the other."""
    chains = [chain.chain for chain in scored]
    halves = [chains[0::2], chains[1::2]] if len(chains) > 1 else [chains]
    tables: dict[str, list[dict[str, Any]]] = {}
    for place, half in enumerate(halves):
        try:
            found = receiver_heads(model, half, rules, choose_on=halves[place - 1])
        except InputError as error:
            mark = {"id": "all", "step": -1, "seed": 0, "measure": "receivers"}
            return {"compare_marked": [{**mark, "reason": str(error)}]}
        part = _steps(found.values, (), found.marked)
        part["receiver_heads"] = [{"half": place, **row} for row in _rows(found.heads)]
        for name, rows in part.items():
            tables.setdefault(name, []).extend(rows)
    return tables


def _summary(
    store: results.Store, order: list[str], chains: Sequence[ScoredChain]
) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    """The table of agreement, with the score itself among the measures, and the chain measures."""
    values = [*score_values(chains), *map(_value, runs.rows(store, "step_values"))]
    several = len({value.measure for value in values}) > 1
    table = _rows(agreement(values)) if several else []
    gaps = [ChainValue(**row) for row in runs.rows(store, "chain_values")]
    means = _rows(whole.summarise(gaps)) if gaps else []
    if table or means:
        parts = {"agreement": table, "chain_means": means}
        _cell(store, order, "all", "summary", lambda: parts)
    return tuple(table), tuple(means)


def score_values(chains: Iterable[ScoredChain]) -> list[StepValue]:
    """The score and the size of each leg as measures beside the others."""
    return [
        StepValue(step.id, step.step, name, abs(getattr(step, name)))
        for name in ("tts", "nec", "suf")
        for chain in chains
        for step in chain.means
    ]


def _value(row: Mapping[str, Any]) -> StepValue:
    known: dict[str, Any] = {n: row.get(n) for n in ("id", "step", "measure", "value", "reason")}
    return StepValue(**known)


def _steps(
    values: Iterable[StepValue], floors: Iterable[StepValue], marked: Iterable[Any]
) -> Tables:
    """Values as rows, the control's beside each."""
    floor = {(each.id, each.step, each.measure.partition(":")[0]): each.value for each in floors}
    rows = [
        {**asdict(each), "control": floor.get((each.id, each.step, each.measure))}
        for each in values
    ]
    return {"step_values": rows, "compare_marked": _rows(marked)}


def _rows(several: Iterable[Any]) -> list[dict[str, Any]]:
    return [asdict(each) for each in several]
