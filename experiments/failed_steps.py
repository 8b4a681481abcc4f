"""Failed-Step Fraction on a model that searches in words: does it go with wrong answers, and why?

    python -m experiments.failed_steps                       # smoke: 40 problems, a minute
    python -m experiments.failed_steps --scale paper         # 100 problems, 64 chains each

writes `experiments/records/failed_steps`: `chains.jsonl` (a sampled chain a line), `edits.jsonl` (a
chain and arm a line) and `summary.json`. The model is `experiments.train_dfs`.

**Correlation.** FSF against a right answer, within problems and pooled; the length of the search
beside it. **Selection.** The chain with the lowest FSF against one at random. **Editing.** Wrong
chains with at least two failed branches, up to the end of the last one (`cut` "branch") or to the
end of the search (`cut` "answer"): continued as they are, without the first or last failed branch,
and without as many tokens of good steps. A chain that returns to a step that it is not below has no
graph; it is counted and left out.

**Found at smoke size.** On this model failed branches do not hurt: chains that failed more are
right slightly more often within a problem, and removing a failed branch makes wrong answers no
rarer. The model was trained briefly. Its answers look like guesses among the children of a node, of
which a failed branch rules one out; that reading is not tested. Published results for large models
point the other way.

Source: Feng et al. 2025, arXiv:2509.19284.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from experiments.train_dfs import load_trained
from interp.engine.model import Model
from interp.errors import InputError
from interp.models import dfs
from interp.models.dfs import PathProblem
from interp.stats import paired_difference
from interp.thinking import within
from interp.thinking.graph import StepGraph, failed_step_fraction, parse_trace
from interp.thinking.span_edits import ARMS, Arm, branch_arms, regenerate

RECORDS = Path(__file__).parent / "records" / "failed_steps"
CUTS = ("branch", "answer")
HELD_OUT = -1_000
"""Problems have seeds from here downwards: the model has not been trained or scored on them."""
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
    """`paper` asks 100 problems with 64 chains each, whatever `problems` and `samples` say."""
    problems: int = 40
    """Held-out problems."""
    samples: int = 16
    """Chains of each problem."""
    edited: int = 2
    """Wrong chains of each problem that are edited."""
    continuations: int = 8
    """Continuations of each arm of an edited chain."""
    temperature: float = 0.6
    """Of chains and continuations. The order of children is as random as at 1; slips are rarer."""
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
        return replace(self, problems=100, samples=64, edited=4, continuations=32)


@dataclass(frozen=True)
class ChainRow:
    """A sampled chain, as it is recorded."""

    problem: str
    sample: int
    text: str
    fsf: float | None
    """None where the chain has no graph."""
    n_steps: int
    n_words: int
    correct: bool
    flaws: int
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
        fsf = failed_step_fraction(parse_trace(text))
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
        reason=reason,
    )


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
        graph = parse_trace(chain.text)
        if len(graph.failed_branches) < 2:
            continue
        start = _start(chain.text, graph, cut)
        if start is None:
            continue
        taken[chain.problem] = taken.get(chain.problem, 0) + 1
        chosen.append((chain, start, parse_trace(start)))
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
            branch_arms(model.tokenizer, start, graph, seed=config.seed)
            for _, start, graph in chosen
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
    correct = [chain.correct for chain in known]
    names = [chain.problem for chain in known]
    fsf = [float(chain.fsf or 0.0) for chain in known]
    return {
        "chains": len(chains),
        "chains without a graph": len(chains) - len(known),
        "share right": float(np.mean([chain.correct for chain in chains])),
        "mean fsf": float(np.mean(fsf)),
        "fsf": asdict(within.association(fsf, correct, names)),
        "length": asdict(within.association([c.n_words for c in known], correct, names)),
        "selection": asdict(within.select_lowest(fsf, correct, names)),
        "selection by length": asdict(
            within.select_lowest([c.n_words for c in known], correct, names)
        ),
        "edits": [
            {"cut": cut, "arm": a, "against": b, **found}
            for cut in CUTS
            for a, b in PAIRS
            if (found := difference(edits, cut, a, b)) is not None
        ],
    }


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
    tree, where failed are the steps that are not on the way at the end. A chain that cannot be
    walked must have no graph either.
    """
    oracle_wrong = 0
    for i, problem in enumerate(dfs.problems(n, seed=HELD_OUT - 1)):
        search = dfs.oracle(problem, seed=i)
        oracle_wrong += failed_step_fraction(parse_trace(search.text)) != search.fsf
    asked = dfs.problems(100, seed=HELD_OUT - 2)
    chains = sample(load_trained(), asked, Config(problems=100, samples=samples))
    by_id = {problem.id: problem for problem in asked}
    model_wrong = sum(
        chain.fsf != dfs.replay(by_id[chain.problem], chain.text).fsf for chain in chains
    )
    graphs = sum(chain.fsf is not None for chain in chains)
    text = (
        f"{oracle_wrong} of {n} oracle traces and {model_wrong} of {len(chains)} traces of the "
        f"trained model differ ({graphs} have a graph, {sum(c.flaws > 0 for c in chains)} a flaw)"
    )
    return text, oracle_wrong == 0 and model_wrong == 0 and graphs > len(chains) / 2


def write(folder: Path, name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as lines of JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, allow_nan=False) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Sample, edit, summarise and write."""
    config, console = tyro.cli(Config, args=argv, description=__doc__).scaled, Console()
    torch.set_num_threads(1)
    begun, model = time.process_time(), load_trained()
    asked = dfs.problems(config.problems, seed=HELD_OUT - config.seed)
    chains = sample(model, asked, config)
    edits = edit(model, asked, chains, config)
    found = summarise(chains, edits) | {"simulated": simulated()}
    settings = {k: v for k, v in asdict(config).items() if k != "out"}
    found |= {"settings": settings, "cpu_seconds": round(time.process_time() - begun, 1)}
    write(config.out, "chains.jsonl", map(asdict, chains))
    write(config.out, "edits.jsonl", map(asdict, edits))
    (config.out / "summary.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    console.print(*tables(found))


def tables(found: dict[str, Any]) -> list[Table]:
    """Lay out correlations and differences."""
    first = Table("chains", "within problems", "pooled", title="FSF and a right answer")
    for name, each in [
        ("the model's, FSF", found["fsf"]),
        ("the model's, length", found["length"]),
    ]:
        first.add_row(name, *(_interval(each[key]) for key in ("within", "pooled")))
    for each in found["simulated"]:
        first.add_row(
            f"simulated, {each['arm']}", _interval(each["within"]), _interval(each["pooled"])
        )
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
