"""Failed-Step Fraction on a model that searches in words: does it go with wrong answers, and why?

    python -m experiments.failed_steps                       # smoke: 200 problems, two minutes
    python -m experiments.failed_steps --scale paper         # 400 problems, 64 chains each

writes `experiments/records/failed_steps`: `chains.jsonl` (a sampled chain a line), `edits.jsonl` (a
chain and arm a line), `summary.json` (what they say) and `manifest.json`. The model is that of
`experiments.train_dfs`; `interp.models.dfs` says why failed branches could hurt it.

**Correlation.** FSF against a right answer, within problems and pooled; the length of the search
beside it. **Selection.** The chain with the lowest FSF against one at random. **Editing.** Wrong
chains with at least two failed branches, up to the end of the last one (`cut` "branch") or to the
end of the search (`cut` "answer"): continued as they are, without the first or last failed branch,
and without as many tokens of good steps.

First and last are best compared at the cut "answer": at the cut "branch" the search goes on from
where the last branch stood, so without it the model may walk into it again. Only chains with a
long way and a short branch have as many tokens of good steps to take away, so comparisons with the
length control are of those alone; in a flawed search a step that has not failed may still be wrong.
A return to a step that is not above the current one is skipped, so that every chain with a step has
an FSF: leaving such chains out would leave out wrong ones.

Source: Feng et al. 2025, arXiv:2509.19284.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from experiments import train_dfs
from experiments.train_dfs import RECORDS as TRAINED
from experiments.train_dfs import load_trained
from interp.engine.model import Model
from interp.errors import InputError, UndefinedEffectError
from interp.models import dfs
from interp.models.dfs import PathProblem
from interp.results import manifest
from interp.stats import paired_difference
from interp.thinking import graph, span_edits, within
from interp.thinking.graph import StepGraph, failed_step_fraction, parse_trace
from interp.thinking.span_edits import ARMS, Arm, branch_arms, regenerate

RECORDS = Path(__file__).parent / "records" / "failed_steps"
CUTS = ("branch", "answer")
MOST_WORDS = 36
"""Longer starts of chains are not edited: they leave too little of the context to go on in."""
HELD_OUT = -2_000
"""Problems have seeds from here downwards. The model has not been trained or scored on them, and
settings and task were chosen on others (seeds -500 and -1,000)."""
ASSOCIATIONS = ("fsf", "fsf, chains without a flaw", "length")
"""Parts of the summary that are correlations with a right answer."""
PAIRS = (
    ("no-op", "unedited"),
    ("first", "unedited"),
    ("last", "unedited"),
    ("control first", "unedited"),
    ("control last", "unedited"),
    ("first", "control first"),
    ("last", "control last"),
    ("last", "first"),
)
"""Arms that are compared, chain by chain."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sample chains, correlate, select, edit."""

    scale: Literal["smoke", "paper"] = "smoke"
    """`paper` asks 400 problems with 64 chains each, whatever `problems` and `samples` say."""
    problems: int = 200
    """Held-out problems."""
    samples: int = 24
    """Chains of each problem."""
    edited: int = 8
    """Wrong chains of each problem that are edited."""
    continuations: int = 8
    """Continuations of each arm of an edited chain."""
    temperature: float = 1.0
    """Of chains and continuations; 1 is what the model believes, below 1 it slips less."""
    seed: int = 0
    """Of problems and of chains."""
    out: Path = RECORDS
    """Folder to write."""

    def __post_init__(self) -> None:
        for name in ("problems", "samples", "edited", "continuations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: give 1 or more.")

    @property
    def scaled(self) -> Config:
        """The settings with what the scale decides written out."""
        if self.scale == "smoke":
            return self
        return replace(self, problems=400, samples=64, edited=16, continuations=32)


@dataclass(frozen=True)
class ChainRow:
    """A sampled chain, as it is recorded."""

    problem: str
    sample: int
    text: str
    fsf: float | None
    """None where the chain has no step."""
    n_steps: int
    n_words: int
    correct: bool
    flaws: int
    """What the search did against its rules, strays included."""
    strays: int = 0
    """Returns to a node that the search is not below; they are skipped."""
    reason: str = ""
    """Why there is no graph."""


@dataclass(frozen=True)
class EditRow:
    """One arm of an edited chain."""

    problem: str
    sample: int
    cut: str
    arm: str
    removed: int
    """Tokens fewer than unedited."""
    n: int
    right: float | None
    """Share of continuations with a right answer; None where the arm cannot be made."""
    reason: str = ""


def sample(model: Model, asked: Sequence[PathProblem], config: Config) -> list[ChainRow]:
    """Let the model search every problem `samples` times."""
    prompts = [problem.prompt for problem in asked]
    texts = regenerate(
        model,
        prompts,
        n=config.samples,
        max_new_tokens=_room(model, prompts),
        temperature=config.temperature,
        seed=config.seed,
    )
    pairs = zip(asked, texts, strict=True)
    return [_row(problem, i, text) for problem, each in pairs for i, text in enumerate(each)]


def _row(problem: PathProblem, sample: int, text: str) -> ChainRow:
    walked, fsf, reason = dfs.replay(problem, text), None, ""
    try:
        fsf = failed_step_fraction(_graph(text))
    except InputError as error:
        reason = str(error)
    return ChainRow(
        problem=problem.id,
        sample=sample,
        text=text,
        fsf=fsf,
        n_steps=walked.n_steps,
        n_words=len(text.split()),
        correct=walked.correct,
        flaws=len(walked.flaws),
        strays=walked.strays,
        reason=reason,
    )


def _graph(text: str) -> StepGraph:
    """The graph of a model's trace, which may slip."""
    return parse_trace(text, stray="skip")


def _room(model: Model, texts: Sequence[str]) -> int:
    """New tokens that fit after the longest text."""
    return dfs.N_CTX - max(len(row) for row in model.tokens(texts).prompt_ids)


# ------------------------------------------------------------------------------------------- edits


def edited_chains(
    chains: Iterable[ChainRow], cut: str, most: int
) -> list[tuple[ChainRow, str, StepGraph]]:
    """Choose wrong chains with two failed branches or more, and cut them.

    At most `most` of a problem, the first ones that qualify.
    """
    taken: dict[str, int] = {}
    chosen = []
    for chain in chains:
        if chain.correct or chain.fsf is None or taken.get(chain.problem, 0) >= most:
            continue
        steps = _graph(chain.text)
        if len(steps.failed_branches) < 2:
            continue
        start = _start(chain.text, steps, cut)
        if start is None or len(start.split()) > MOST_WORDS:
            continue
        taken[chain.problem] = taken.get(chain.problem, 0) + 1
        chosen.append((chain, start, _graph(start)))
    return chosen


def _start(text: str, graph: StepGraph, cut: str) -> str | None:
    """The start of a chain: up to its last return, or to the end of its search; None without."""
    if cut == "branch":
        return text[: graph.failed_branches[-1].end]
    before, said, _ = text.partition(f" {dfs.ANSWER}")
    return before if said else None


def edit(
    model: Model, asked: Sequence[PathProblem], chains: Sequence[ChainRow], config: Config
) -> list[EditRow]:
    """Continue every arm of every chosen chain."""
    by_id = {problem.id: problem for problem in asked}
    rows: list[EditRow] = []
    for cut in CUTS:
        chosen = edited_chains(chains, cut, config.edited)
        if not chosen:
            continue
        arms = [
            branch_arms(model.tokenizer, start, steps, seed=config.seed)
            for _, start, steps in chosen
        ]
        room = _room(model, [by_id[c.problem].prompt + start for c, start, _ in chosen])
        for i in range(len(ARMS)):
            of_arm = [each[i] for each in arms]
            rows += _continued(
                model, [(by_id[c.problem], c) for c, _, _ in chosen], of_arm, cut, room, config
            )
    return rows


def _continued(
    model: Model,
    chosen: Sequence[tuple[PathProblem, ChainRow]],
    arms: Sequence[Arm],
    cut: str,
    room: int,
    config: Config,
) -> list[EditRow]:
    """One arm of all chains; one that cannot be made is run empty, to keep everyone's streams."""
    starts = [arm.text or "" for arm in arms]
    prompts = [problem.prompt + start for (problem, _), start in zip(chosen, starts, strict=True)]
    texts = regenerate(
        model,
        prompts,
        n=config.continuations,
        max_new_tokens=room,
        temperature=config.temperature,
        seed=config.seed + 1,
    )
    rows = []
    for (problem, chain), arm, start, new in zip(chosen, arms, starts, texts, strict=True):
        right = [dfs.replay(problem, start + text).correct for text in new]
        rows.append(
            EditRow(
                problem=chain.problem,
                sample=chain.sample,
                cut=cut,
                arm=arm.name,
                removed=arm.removed,
                n=len(new),
                right=None if arm.text is None else float(np.mean(right)),
                reason=arm.reason,
            )
        )
    return rows


# ------------------------------------------------------------------------------------- conclusions


def summarise(chains: Sequence[ChainRow], edits: Sequence[EditRow]) -> dict[str, Any]:
    """Return what the records say: correlations, selection, and differences between arms."""
    known = [chain for chain in chains if chain.fsf is not None]
    sound = [chain for chain in known if not chain.flaws]
    return {
        "chains": len(chains),
        "chains without a graph": len(chains) - len(known),
        "chains with a stray return": sum(chain.strays > 0 for chain in chains),
        "chains without a flaw": len(sound),
        "share right": float(np.mean([chain.correct for chain in chains])),
        "mean fsf": float(np.mean([_fsf(chain) for chain in known])),
        "fsf": associated(known, _fsf),
        "fsf, chains without a flaw": associated(sound, _fsf),
        "length": associated(known, _length),
        "selection": selected(known, _fsf),
        "selection by length": selected(known, _length),
        "arms": arms_of(edits),
        "edits": [
            {"cut": cut, "arm": a, "against": b, **found}
            for cut in CUTS
            for a, b in PAIRS
            if (found := difference(edits, cut, a, b)) is not None
        ],
    }


def _fsf(chain: ChainRow) -> float:
    return chain.fsf or 0.0


def _length(chain: ChainRow) -> int:
    """In words, the answer included."""
    return chain.n_words


Statistic = Callable[[ChainRow], float]


def associated(chains: Sequence[ChainRow], statistic: Statistic) -> dict[str, Any] | None:
    """How a statistic goes with a right answer; None where nothing varies within a problem."""
    try:
        return asdict(within.association(*_columns(chains, statistic)))
    except (InputError, UndefinedEffectError):
        return None


def selected(chains: Sequence[ChainRow], statistic: Statistic) -> dict[str, Any]:
    """What keeping each problem's chain with the lowest value gains."""
    return asdict(within.select_lowest(*_columns(chains, statistic)))


def _columns(
    chains: Sequence[ChainRow], statistic: Statistic
) -> tuple[list[float], list[bool], list[str]]:
    return (
        [statistic(chain) for chain in chains],
        [chain.correct for chain in chains],
        [chain.problem for chain in chains],
    )


def arms_of(edits: Sequence[EditRow]) -> list[dict[str, Any]]:
    """What every arm is like by itself; arms that lack chains are no fair comparison."""
    rows = []
    for cut, arm in product(CUTS, ARMS):
        of_arm = [row for row in edits if (row.cut, row.arm) == (cut, arm)]
        right = [row.right for row in of_arm if row.right is not None]
        if right:
            removed = float(np.mean([row.removed for row in of_arm if row.right is not None]))
            rows.append(
                {
                    "cut": cut,
                    "arm": arm,
                    "chains": len(right),
                    "share right": float(np.mean(right)),
                    "tokens removed": removed,
                }
            )
    return rows


def difference(edits: Sequence[EditRow], cut: str, a: str, b: str) -> dict[str, Any] | None:
    """How much more often arm `a` is right than `b`, over chains that have both; None without."""
    asked = sum((row.cut, row.arm) == (cut, a) for row in edits)
    sides = [
        {
            (row.problem, row.sample): row.right
            for row in edits
            if (row.cut, row.arm) == (cut, arm) and row.right is not None
        }
        for arm in (a, b)
    ]
    both = [key for key in sides[0] if key in sides[1]]
    if not both:
        return None
    first, second = ([side[k] for k in both] for side in sides)
    gain = paired_difference(first, second, [problem for problem, _ in both])
    return {"gain": asdict(gain), "chains": len(both), "left out": asked - len(both)}


def simulated(seed: int = 0) -> list[dict[str, Any]]:
    """The estimator on both simulated arms: 100 problems with 64 chains each."""
    rows = []
    for arm in ("causal", "confounded"):
        drawn = within.simulate(arm, seed=seed)
        found = within.association(drawn.fsf, drawn.correct, drawn.problems)
        rows.append({"arm": arm, **asdict(found)})
    return rows


def fsf_exact(n: int = 1000, samples: int = 4) -> tuple[str, bool]:
    """Whether the parsed FSF is the true one: of random oracle traces, and of the model's own.

    The oracle counts failed steps in its recursion; a model's chain is walked again against the
    tree, where failed are the steps that are not on the way at the end. A stray return must be
    found by both.
    """
    oracle_wrong = 0
    for i, problem in enumerate(dfs.problems(n, seed=HELD_OUT - 1)):
        search = dfs.oracle(problem, seed=i)
        oracle_wrong += failed_step_fraction(parse_trace(search.text)) != search.fsf
    asked = dfs.problems(100, seed=HELD_OUT - 2)
    chains = sample(load_trained(), asked, Config(problems=100, samples=samples))
    by_id = {problem.id: problem for problem in asked}
    model_wrong = sum(not _agrees(by_id[chain.problem], chain) for chain in chains)
    graphs = sum(chain.fsf is not None for chain in chains)
    text = (
        f"{oracle_wrong} of {n} oracle traces and {model_wrong} of {len(chains)} traces of the "
        f"trained model differ ({graphs} have a graph, {sum(c.flaws > 0 for c in chains)} a flaw)"
    )
    return text, oracle_wrong == 0 and model_wrong == 0 and graphs > len(chains) / 2


def _agrees(problem: PathProblem, chain: ChainRow) -> bool:
    """Whether graph and walk find the same failed-step fraction and the same strays."""
    walked = dfs.replay(problem, chain.text)
    if chain.fsf is None:
        return walked.fsf is None
    return (chain.fsf, _graph(chain.text).strays) == (walked.fsf, walked.strays)


def write(folder: Path, name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as lines of JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, allow_nan=False) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def describe(config: Config, flags: Sequence[str]) -> manifest.Manifest:
    """Make the manifest of a run that begins now."""
    trained = manifest.read_manifest(TRAINED / "manifest.json")
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    methods = (dfs, train_dfs, graph, span_edits, within)
    return manifest.collect(
        experiment="failed_steps",
        settings=settings,
        model={"name": "experiments/records/dfs", **trained.model},
        data={"problems": f"problems({config.problems}, seed={HELD_OUT - config.seed})"},
        seeds=[config.seed],
        device="cpu",
        code=manifest.source_hash([__file__, *(str(each.__file__) for each in methods)]),
        command=["python", "-m", "experiments.failed_steps", *flags],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Sample, edit, summarise and write; the manifest comes last."""
    flags = sys.argv[1:] if argv is None else argv
    config, console = tyro.cli(Config, args=flags, description=__doc__).scaled, Console()
    torch.set_num_threads(1)
    made = describe(config, list(flags))
    begun, model = time.process_time(), load_trained()
    asked = dfs.problems(config.problems, seed=HELD_OUT - config.seed)
    chains = sample(model, asked, config)
    edits = edit(model, asked, chains, config)
    found = summarise(chains, edits) | {"simulated": simulated()}
    made.spent.update(cpu_seconds=round(time.process_time() - begun, 1))
    write(config.out, "chains.jsonl", map(asdict, chains))
    write(config.out, "edits.jsonl", map(asdict, edits))
    manifest.write_json(config.out / "summary.json", found)
    manifest.write_manifest(config.out / "manifest.json", made)
    console.print(*tables(found))


def tables(found: dict[str, Any]) -> list[Table]:
    """Lay out correlations and differences."""
    first = Table("chains", "within problems", "pooled", title="FSF and a right answer")
    rows = [(f"the model's, {name}", found[name]) for name in ASSOCIATIONS]
    rows += [(f"simulated, {each['arm']}", each) for each in found["simulated"]]
    for name, each in rows:
        if each is not None:
            first.add_row(name, *(_interval(each[key]) for key in ("within", "pooled")))
    second = Table("cut", "arm", "against", "gain", "chains", title="More right answers")
    for key in ("selection", "selection by length"):
        gain = found[key]["gain"]
        second.add_row("", f"{key}, lowest", "random", _interval(gain), str(gain["n_units"]))
    for each in found["edits"]:
        row = (
            each["cut"],
            each["arm"],
            each["against"],
            _interval(each["gain"]),
            str(each["chains"]),
        )
        second.add_row(*row)
    return [first, second]


def _interval(each: dict[str, Any]) -> str:
    if each["low"] is None:
        return f"{each['estimate']:+.3f}"
    return f"{each['estimate']:+.3f} [{each['low']:+.3f}, {each['high']:+.3f}]"


if __name__ == "__main__":
    main()
