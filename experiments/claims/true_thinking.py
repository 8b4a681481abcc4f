"""Claims about the True-Thinking direction, its steering tests, and failed steps."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import fmean

from rich.console import Console

import interp
from experiments.claims.core import Claim, Measured
from experiments.failed_steps import fsf_exact
from interp.errors import InputError
from interp.jobs import tts, tts_steer
from interp.models import thinker
from interp.stats import auc
from interp.thinking.rules import Rules
from interp.thinking.score import Problem, StepScore, prepare, score_chain
from interp.thinking.scored import ScoredChain
from interp.thinking.sets import choose_sets

RECORDS = Path(__file__).parents[1] / "records"
THINKER, IGNORES = RECORDS / "thinker", RECORDS / "thinker_ignores"
HIGH = 0.5
"""A leg above this finds a step. In a sixth of the draws a shift brings two votes together, and
then no alternative is sufficient."""
POINTS = 0.30
"""How much more the direction must flip than a control: 30 points."""


def thinker_scores(folder: Path, n: int, seed: int) -> dict[str, list[StepScore]]:
    """The scores of the steps of some chains, by what each step is."""
    model, rules = interp.load(str(folder)), Rules()
    found: dict[str, list[StepScore]] = {}
    for each in thinker.chains(n, seed=seed):
        chain = prepare(model, Problem(each.id, each.question, each.chain), rules)
        for step in score_chain(model, chain, rules, seeds=(0, 1), control_seeds=0).steps:
            found.setdefault(each.kinds[step.step], []).append(step)
    return found


def thinker_auc() -> Measured:
    """On the trained thinker the score tells needed steps from decorative ones, and finds both."""
    found = thinker_scores(THINKER, 60, seed=21)
    idle = [step.tts for step in found["decorative"]]
    table, areas = [], {}
    for kind in ("needed", "used", "alternative", "decorative"):
        steps = found[kind]
        areas[kind] = auc([step.tts for step in steps], idle)
        legs = {leg: round(fmean(getattr(s, leg) for s in steps), 3) for leg in ("nec", "suf")}
        table.append({"kind": kind, "n": len(steps), **legs, "AUC": round(areas[kind], 3)})
    either = found["alternative"]
    by_necessity = fmean(abs(s.nec) > HIGH for s in either)
    by_sufficiency = fmean(s.suf > HIGH and abs(s.nec) <= HIGH for s in either)
    nec, suf = (fmean(getattr(s, leg) for s in either) for leg in ("nec", "suf"))
    needed = min(areas["needed"], areas["used"])
    text = (
        f"AUC {needed:.3f} for needed against decorative; alternatives: necessity {nec:.2f}, "
        f"sufficiency {suf:.2f}, {by_sufficiency:.0%} of {len(either)} found by sufficiency only, "
        f"{by_necessity:.0%} by necessity"
    )
    holds = needed >= 0.95 and by_sufficiency >= 0.8 and not by_necessity
    return Measured(text, holds, tuple(table))


def thinker_direction() -> Measured:
    """On problems that chose neither it nor its layer, the direction flips more than controls."""
    with tempfile.TemporaryDirectory() as folder:
        run = scored_run(Path(folder), THINKER, n=120, seed=22)
        done = tts_steer.test(
            run,
            model=str(THINKER),
            direction=None,
            out=None,
            settings=tts_steer.Settings(bins=False, checks=False),
            dtype=None,
            device="cpu",
            console=Console(quiet=True),
        )
    rows = [row for row in done.rows if row["twin"] is None]
    text, holds = [], True
    for test in ("engage", "disengage"):
        mine = {row["arm"]: row for row in rows if row["test"] == test}
        leads = [mine[arm]["difference"] for arm in ("shuffled", "random")]
        holds = holds and min(leads) >= POINTS
        said = [f"{arm} {mine[arm]['flips']:.0%}" for arm in ("direction", "shuffled", "random")]
        n = f"{mine['direction']['n_items']} items, {mine['direction']['n_problems']} problems"
        text.append(f"{test}: {', '.join(said)} ({n})")
    names = ("test", "arm", "layer", "flips", "flips_low", "flips_high", "unparsable", "difference")
    table = tuple({name: row[name] for name in names} for row in rows)
    return Measured("; ".join(text), holds, table)


def scored_run(folder: Path, model: Path, *, n: int, seed: int) -> Path:
    """Score the chains of the thinker's own data, and return the folder of the run."""
    rows = [
        {"id": each.id, "question": each.question, "cot": each.chain, "answer": each.answer}
        for each in thinker.chains(n, seed=seed)
    ]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tts.tts(
        data,
        model=str(model),
        out=folder / "run",
        settings=tts.Settings(seeds=2, control_seeds=0),
        limit=None,
        dtype=None,
        device="cpu",
        memory_gib=2.0,
        console=Console(quiet=True),
    )
    return folder / "run"


def thinker_ignored() -> Measured:
    """The model that ignores its chain scores nothing, and gives no direction, in words."""
    model, rules = interp.load(str(IGNORES)), Rules()
    scored = []
    for each in thinker.chains(40, seed=23):
        chain = prepare(model, Problem(each.id, each.question, each.chain), rules)
        steps = score_chain(model, chain, rules, seeds=(0, 1), control_seeds=0).steps
        scored.append(ScoredChain(chain, tuple(steps)))
    most = max(step.tts for chain in scored for step in chain.scores)
    try:
        choose_sets(scored)
        said = "a direction was made"
    except InputError as error:
        said = str(error)
    n = sum(len(chain.means) for chain in scored)
    text = f"largest score {most:.2g} of {n} steps; the direction: {said!r}"
    return Measured(text, most <= 0.005 and "no direction" in said)


def fsf() -> Measured:
    """The failed-step fraction that is parsed from a trace is the search's own."""
    text, holds = fsf_exact()
    return Measured(text, holds)


CLAIMS = (
    Claim("thinker-auc", "AUC at least 0.95; alternatives by sufficiency only", thinker_auc),
    Claim("thinker-direction", "flips 30 points more than controls", thinker_direction),
    Claim("thinker-ignored", "at most 0.005 everywhere, no direction", thinker_ignored),
    Claim("fsf-exact", "equal on every trace", fsf),
)
