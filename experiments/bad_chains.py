"""Wrong calls and commands about chains of thought, and the sentence that each one gives.

    python -m experiments.bad_chains [--json]

Every call makes one mistake that a user makes with scores, directions, steering tests, prunings,
relatives and step graphs. Each must end in an `InterpError` (on the command line in exit status 2
without a traceback) before a prompt is run and with nothing written. Bad rows among good ones are
another matter: they are marked with the reason and the rest is scored (exit status 3).
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file

import interp
import interp.results as results
from experiments.refusals import Ended, Found, Wrong, called, judged, ran, tell, undone, wrongs
from interp.directions import load_all, save_all
from interp.engine.model import Model
from interp.jobs import tts, tts_direction, tts_runs
from interp.models import planted
from interp.steering.directions import given
from interp.thinking import checks, direction, graph, prune
from interp.thinking.dependency import dependency, layout
from interp.thinking.relatives import regenerate, whole
from interp.thinking.relatives.agreement import agreement
from interp.thinking.relatives.attention import receiver_heads, suppress
from interp.thinking.relatives.resample import resample
from interp.thinking.relatives.values import StepValue
from interp.thinking.rules import Rules, preset
from interp.thinking.score import Problem, prepare
from interp.thinking.scored import ScoredChain
from interp.thinking.sets import Sets, choose_sets
from interp.thinking.spans import token_span
from interp.thinking.steer_arms import direction_arm, drop_step
from interp.thinking.steer_bins import bin_directions
from interp.thinking.steer_items import Items, make_items
from interp.thinking.steer_layers import split_problems
from interp.thinking.steer_test import steer

MODEL = "planted-steps"
QUIET = Console(file=io.StringIO())
SEED = 2
SCORING = tts.Settings(seeds=1, control_seeds=0)
SETS: dict[str, Any] = {"true_from": 0.4, "lowest": 0.3}
"""A step of the planted model scores 0.5 at most: one leg is 1, the other 0."""

# ---------------------------------------------------------------- what the calls are made on


def problems(n: int) -> list[dict[str, str]]:
    """Rows of `n` planted chains."""
    found = planted.chains(n, seed=SEED)
    return [{"id": each.id, "question": each.question, "cot": each.chain} for each in found]


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """Write rows as JSONL; a row that is text stands as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def scored_run(out: Path, n: int, *, model: str = MODEL, rows: Sequence[Any] | None = None) -> Path:
    """Score `n` planted chains, or some rows, into the folder `out`."""
    with tempfile.TemporaryDirectory() as folder:
        data = write_rows(Path(folder) / "rows.jsonl", problems(n) if rows is None else rows)
        tts.tts(
            data,
            model=model,
            out=out,
            settings=SCORING,
            limit=None,
            dtype=None,
            device="cpu",
            memory_gib=2.0,
            console=QUIET,
        )
    return out


@cache
def materials() -> Path:
    """A folder with runs and files, good and bad, that the commands are given; made once."""
    folder = Path(tempfile.mkdtemp(prefix="bad-chains-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    scored_run(folder / "run", 4)
    scored_run(folder / "one", 1)
    scored_run(folder / "ignores", 2, model="planted-ignores")
    scored_run(folder / "unscored", 0, rows=[{"id": "a", "question": "?", "cot": " "}])
    _write_directions(folder)
    write_rows(folder / "problems.jsonl", problems(2))
    for name, text in FILES.items():
        (folder / name).write_bytes(text)
    return folder


FILES = {
    "empty.jsonl": b"",
    "prose.jsonl": b"We start with 17 apples.\n",
    "binary.jsonl": b"\xff\xfe\x00\x01",
    "empty.safetensors": b"",
}


def _write_directions(folder: Path) -> None:
    """The run's direction, and files that are almost one."""
    tts_direction.find(
        folder / "run",
        model=None,
        out=None,
        settings=tts_direction.SetSettings(**SETS, shuffled=1),
        dtype=None,
        device="cpu",
        console=QUIET,
    )
    whole = folder / "run" / "direction" / "direction.safetensors"
    data = whole.read_bytes()
    (folder / "cut.safetensors").write_bytes(data[:-7])
    (folder / "flipped.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    save_file({"x": torch.zeros(1)}, folder / "tensors.safetensors")
    found, _ = load_all(whole)
    ids = [row["id"] for row in problems(4)]
    save_all(folder / "all.safetensors", found, {"true_by_problem": dict.fromkeys(ids, 1)})
    llama = interp.load("tiny-llama")
    others = given(llama, "1.resid_post", torch.ones(llama.sizes.d_model))
    save_all(folder / "other.safetensors", others)


@cache
def run() -> tts_runs.ScoredRun:
    """The run of four chains, read back."""
    return tts_runs.open_run(materials() / "run")


@cache
def thinker() -> Model:
    """The model that was scored."""
    return interp.load(MODEL)


@cache
def items() -> Items:
    """The items of the steering tests of the run."""
    return make_items(thinker(), run().chains, Rules())


def warm() -> None:
    """Make all this before anything is counted."""
    assert thinker().book  # found by a short pass of its own
    assert materials() and run().chains and items().all


# ---------------------------------------------------------------- calls from Python


def wrong_problems() -> list[Wrong]:
    """Wrong rules, spans and answers of a problem."""
    text = "We take 17. Then 27."

    def problem(rules: Rules | None = None, **more: Any) -> object:
        given = {"id": "a", "question": "What?", "cot": text, **more}
        return prepare(thinker(), Problem(**given), rules or Rules())

    calls: dict[str, Callable[[], object]] = {
        "preset('papr')": lambda: preset("papr"),
        "no question": lambda: problem(question=" "),
        "a chain of spaces": lambda: problem(cot="  \n "),
        "spans with a hole": lambda: problem(spans=((0, 3), (12, 20))),
        "spans that overlap": lambda: problem(spans=((0, 11), (8, 20))),
        "a span past the end": lambda: problem(spans=((0, 11), (12, 99))),
        "an empty span": lambda: problem(spans=((0, 11), (12, 12))),
        "target='gold' without one": lambda: problem(Rules(target="gold")),
        "think='close' without a block": lambda: problem(Rules(think="close")),
    }
    return wrongs("problems", calls)


def wrong_sets() -> list[Wrong]:
    """Chains and settings that give no two sets, and sets that give no direction."""

    def sets(chains: Sequence[ScoredChain] | None = None, **more: Any) -> Sets:
        return choose_sets(run().chains if chains is None else chains, **{**SETS, **more})

    def changed(**more: Any) -> list[ScoredChain]:
        return [
            replace(each, scores=tuple(replace(score, **more) for score in each.scores))
            for each in run().chains
        ]

    def fit(found: Sets, chains: Sequence[ScoredChain] | None = None) -> object:
        return direction.fit(thinker(), run().chains if chains is None else chains, found)

    def apart() -> Sets:
        """True steps at the start, decorative ones at the end: no label can move."""
        found = sets(match=False)
        first = tuple(replace(step, position=0.0) for step in found.true)
        last = tuple(replace(step, position=1.0) for step in found.decorative)
        return replace(found, true=first, decorative=last)

    def lone() -> Sets:
        return replace(sets(), true=sets().true[:1])

    def blind() -> Sequence[ScoredChain]:
        return tts_runs.open_run(materials() / "ignores").chains

    calls: dict[str, Callable[[], object]] = {
        "true_from=1.5": lambda: sets(true_from=1.5),
        "decorative_to=0.6": lambda: sets(decorative_to=0.6),
        "bins=0": lambda: sets(bins=0),
        "per_problem=0": lambda: sets(per_problem=0),
        "most=1": lambda: sets(most=1),
        "no chain": lambda: sets([]),
        "no step with a number": lambda: sets(changed(op="drop")),
        "no true step": lambda: sets(blind()),
        "no decorative step": lambda: sets(changed(tts=0.5)),
        "no two steps that match": lambda: sets(run().chains[:1], bins=100),
        "two chains of one id": lambda: sets([*run().chains, run().chains[0]]),
        "fit on other chains": lambda: fit(sets(), run().chains[:1]),
        "fit of one true step": lambda: fit(lone()),
        "no step to read": lambda: direction.activations(thinker(), run().chains, []),
        "shuffled, nothing to shuffle": lambda: direction.shuffled_labels(apart(), 0),
        "bins=((0.5, 0.2),)": lambda: bin_directions(thinker(), run().chains, ((0.5, 0.2),)),
    }
    return wrongs("sets", calls)


def wrong_directions() -> list[Wrong]:
    """Files that hold no direction of this model, and arms without one."""

    def load(name: str) -> object:
        return load_all(materials() / name, thinker())

    def arm(*places: str, of: Model | None = None) -> object:
        model = of or thinker()
        vector = torch.ones(model.sizes.d_model)
        found = [given(model, place, vector)[0] for place in places]
        return direction_arm(thinker(), found)

    text = "We take 17. Then 27."
    calls: dict[str, Callable[[], object]] = {
        "load_all, no such file": lambda: load("nowhere.safetensors"),
        "load_all, an empty file": lambda: load("empty.safetensors"),
        "load_all, a truncated file": lambda: load("cut.safetensors"),
        "load_all, a changed byte": lambda: load("flipped.safetensors"),
        "load_all, other tensors": lambda: load("tensors.safetensors"),
        "load_all, another model's": lambda: load("other.safetensors"),
        "an arm of no direction": lambda: arm(),
        "an arm of another model": lambda: arm("0.resid_pre", of=interp.load("tiny-llama")),
        "an arm at attn_out": lambda: arm("0.attn_out"),
        "an arm with two at one layer": lambda: arm("0.resid_pre", "0.resid_pre"),
        "token_span of nothing": lambda: token_span(thinker().tokenizer, text, 3, 3),
        "token_span past the end": lambda: token_span(thinker().tokenizer, text, 3, 99),
        "token_span in a token": lambda: token_span(thinker().tokenizer, text, 1, 2),
    }
    return wrongs("directions", calls)


def wrong_tests() -> list[Wrong]:
    """Items that are none, splits and trials without sense."""

    def make(chains: Sequence[ScoredChain] | None = None, **more: Any) -> object:
        return make_items(thinker(), run().chains if chains is None else chains, Rules(), **more)

    def trials(arms: Sequence[Any], some: Sequence[Any] | None = None, **more: Any) -> object:
        found = items().all if some is None else some
        return steer(thinker(), found, arms, Rules(), **more)

    def halves(n: int, **more: Any) -> object:
        names = sorted({item.problem for item in items().all})[:n]
        return split_problems([i for i in items().all if i.problem in names], **more)

    calls: dict[str, Callable[[], object]] = {
        "make_items(most=0)": lambda: make(most=0),
        "make_items(per_problem=-1)": lambda: make(per_problem=-1),
        "make_items(seeds=(9,))": lambda: make(seeds=(9,)),
        "make_items, two of one id": lambda: make([run().chains[0]] * 2),
        "items of one problem": lambda: halves(1),
        "split_problems(share=1)": lambda: halves(3, share=1.0),
        "steer nothing": lambda: trials([drop_step()], []),
        "steer without an arm": lambda: trials([]),
        "steer, one arm twice": lambda: trials([drop_step()] * 2),
        "steer, one item twice": lambda: trials([drop_step()], [items().all[0]] * 2),
        "steer(layers=[9])": lambda: trials([drop_step()], layers=[9]),
        "segments(longest=0)": lambda: checks.segments(run().chains, longest=0),
        "a check of no problem": lambda: checks.segments(run().chains, {"nobody": (0,)}),
        "a check at no step": lambda: checks.segments(run().chains, {run().chains[0].id: (99,)}),
    }
    return wrongs("steering tests", calls)


def wrong_prunings() -> list[Wrong]:
    """Fractions, methods and chains that make no pruning."""

    def plan(**more: Any) -> object:
        return prune.prunings(run().chains[0], **more)

    def unscored() -> object:
        chain = run().chains[0]
        return prune.prunings(replace(chain, scores=chain.scores[:1]))

    def twice() -> object:
        return prune.prune(thinker(), [run().chains[0]] * 2, Rules())

    calls: dict[str, Callable[[], object]] = {
        "fractions=()": lambda: plan(fractions=()),
        "fractions=(1.5,)": lambda: plan(fractions=(1.5,)),
        "fractions=(nan,)": lambda: plan(fractions=(float("nan"),)),
        "methods=('tss',)": lambda: plan(methods=("tss",)),
        "n_random=-1": lambda: plan(n_random=-1),
        "nothing to prune by": lambda: plan(methods=(), n_random=0),
        "a step without a score": unscored,
        "no chain": lambda: prune.prune(thinker(), [], Rules()),
        "two chains of one id": twice,
    }
    return wrongs("prune", calls)


def wrong_relatives() -> list[Wrong]:
    """Wrong settings of what stands beside the score."""

    def on(method: Callable[..., object], **more: Any) -> object:
        return method(thinker(), run().chains[0].chain, Rules(), **more)

    def noise(**more: Any) -> object:
        chain = run().chains[0].chain
        return dependency(thinker(), [layout(thinker(), chain, Rules(), by="step")], **more)

    value = StepValue("a", 0, "tts", 0.5)
    calls: dict[str, Callable[[], object]] = {
        "add_mistake(seeds=())": lambda: on(regenerate.add_mistake, seeds=()),
        "add_mistake(max_new_tokens=0)": lambda: on(regenerate.add_mistake, max_new_tokens=0),
        "add_mistake(only=[99])": lambda: on(regenerate.add_mistake, only=[99]),
        "leave_one_out(only=[-1])": lambda: on(whole.leave_one_out, only=[-1]),
        "resample(n=1)": lambda: on(resample, n=1),
        "resample(similar=2)": lambda: on(resample, similar=2.0),
        "resample(max_new_tokens=9999)": lambda: on(resample, max_new_tokens=9999),
        "suppress(batch=0)": lambda: on(suppress, batch=0),
        "receiver_heads of nothing": lambda: receiver_heads(thinker(), [], Rules()),
        "layout(by='word')": lambda: on(layout, by="word"),
        "dependency(seeds=())": lambda: noise(seeds=()),
        "dependency(share=2)": lambda: noise(share=2.0),
        "dependency(mask=99999)": lambda: noise(mask=99999),
        "dependency(longest=0)": lambda: noise(longest=0),
        "agreement of one measure": lambda: agreement([value]),
        "agreement, a value twice": lambda: agreement([value, value]),
        "a value of NaN": lambda: replace(value, value=float("nan")),
        "summarise of nothing": lambda: whole.summarise([]),
    }
    return wrongs("relatives", calls)


def wrong_graphs() -> list[Wrong]:
    """Steps that are no tree, and traces that go back nowhere."""

    def made(*steps: tuple[str, str | None], failed: Sequence[str] = ()) -> object:
        return graph.graph(steps, failed=failed)

    def span(start: int, end: int) -> object:
        return graph.StepGraph((graph.StepNode("a", None, start=start, end=end),))

    calls: dict[str, Callable[[], object]] = {
        "no step": lambda: made(),
        "an id twice": lambda: made(("a", None), ("a", "a")),
        "an unknown parent": lambda: made(("start", None), ("b", "strat")),
        "a cycle": lambda: made(("a", None), ("b", "c"), ("c", "b")),
        "a step above itself": lambda: made(("a", "a")),
        "two first steps": lambda: made(("a", None), ("b", None)),
        "an unknown failed step": lambda: made(("a", None), failed=["b"]),
        "a sound step below a failed one": lambda: made(("a", None), ("b", "a"), failed=["a"]),
        "a span that ends before it starts": lambda: span(5, 3),
        "an empty trace": lambda: graph.parse_trace(" "),
        "a trace that goes back to Z": lambda: graph.parse_trace("A B backtrack Z C"),
        "a trace that ends in a mark": lambda: graph.parse_trace("A B backtrack"),
    }
    return wrongs("step graph", calls)


PYTHON = (
    *wrong_problems(), *wrong_sets(), *wrong_directions(), *wrong_tests(), *wrong_prunings(),
    *wrong_relatives(), *wrong_graphs(),
)  # fmt: skip

# ---------------------------------------------------------------- commands

ON_RUN = (
    "",
    "nowhere",
    ".",
    "problems.jsonl",
    "run/direction",
    "unscored",
    "run --model tiny-llama",
    "run --model planted-stesp",
    "run --model planted-ignores",
    "run --dtype float64",
    "run --dtype float23",
    "run --device cudaa",
    "run --threads 0",
    "run --out problems.jsonl",
    "run --out .",
    "run --out run",
    "run --outt x",
)
"""Mistakes that can be made with every command on a run."""
ON_SETS = (
    "ignores",
    "run --true-from 1.5",
    "run --true-from 0.5 --decorative-to 0.5",
    "run --decorative-to -1",
    "run --lowest 0.001",
    "run --per-problem 0",
    "run --most 1",
    "run --shuffled 0",
    "run --random 3",
    "run --random -1",
    "run --seed x",
)
"""Mistakes with the sets of steps."""
FITTED = "run --direction run/direction/direction.safetensors"
COMMANDS: dict[str, tuple[str, ...]] = {
    "tts": (
        "diretcion run",
        "steer-tst run",
        "missing.jsonl --out x",
        *(f"{name}.jsonl --out x" for name in ("empty", "prose", "binary")),
        "problems.jsonl",
        "problems.jsonl --out x --preset papr",
        "problems.jsonl --out x --target silver",
        "problems.jsonl --out x --think ajar",
        "problems.jsonl --out x --seeds 0",
        "problems.jsonl --out x --control-seeds -1",
        "problems.jsonl --out x --limit 0",
        "problems.jsonl --out x --top-p 2",
        "problems.jsonl --out x --memory-gib 0",
        "problems.jsonl --out problems.jsonl",
    ),
    "tts direction": (*ON_RUN, *ON_SETS),
    "tts steer-test": (
        *ON_RUN,
        *ON_SETS,
        "one",
        "run --layers 9",
        "run --layers -1",
        "run --layers 1 1",
        "run --layers x",
        f"{FITTED} --layers 0",
        "run --share 0",
        "run --share 1",
        "run --draws 0",
        "run --items 0",
        "run --items-per-problem 0",
        "run --random-layers some",
        *(f"run --direction {name}.safetensors" for name in ("nowhere", "empty", "cut", "flipped")),
        *(f"run --direction {name}.safetensors" for name in ("tensors", "other", "all")),
        "run --direction run",
    ),
    "tts prune": (
        *ON_RUN,
        "run --fractions 2",
        "run --fractions -0.5",
        "run --fractions nan",
        "run --fractions x",
        "run --fractions 0.25 --export 0.25 --random -1",
        "run --export 0.3",
        "run --export-method best",
    ),
    "tts compare": (
        *ON_RUN,
        "run --measures earl",
        "run --measures",
        "run --measures early early",
        "run --rollouts 1",
        "run --max-new-tokens 0",
    ),
}
"""By command, the wrong words; each is run in the folder `materials`."""


def ended(command: str, words: str) -> Ended:
    """Run a command in this process, in the folder `materials`; what it wrote is undone."""
    given = ["--model", MODEL] if command == "tts" and "--" in words else []
    given += [] if "--out" in words or command == "tts" else ["--out", "made"]
    return undone(materials(), ["interp", *command.split(), *words.split(), *given])


def commanded(command: str, words: str) -> Found:
    """Give one command one wrong argument and note how it ended."""
    return judged(command, words, ended(command, words))


# ---------------------------------------------------------------- bad rows among good ones

GOOD = {"question": "What is the total?", "cot": "We start with 17 apples. Then we add 27 pears."}
BAD_ROWS: dict[str, Any] = {
    "broken JSON": '{"id": "half", "question": "What',
    "a list": "[1, 2]",
    "no question": {"id": "a", "cot": "17."},
    "an empty chain": {**GOOD, "id": "b", "cot": "  "},
    "a chain that is a number": {**GOOD, "id": "c", "cot": 17},
    "a misspelt field": {"id": "d", "question": "What?", "anwser": "88", "cto": "17."},
    "spans with a hole": {**GOOD, "id": "e", "spans": [[0, 5], [20, 30]]},
    "spans that are words": {**GOOD, "id": "f", "spans": ["all"]},
    "a span past the end": {**GOOD, "id": "g", "spans": [[0, 999]]},
    "an id twice": {**GOOD, "id": "good"},
    "a chain too long": {**GOOD, "id": "h", "cot": "Note that 57 is a nice number. " * 200},
    "only a closed think block": {**GOOD, "id": "i", "cot": "<think></think> 88"},
}
"""Rows that are marked; the others of the file are scored."""


def marks() -> dict[str, str | None]:
    """For each bad row why it is marked; None where it is not, or the good row is lost."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_rows(Path("rows.jsonl"), [{**GOOD, "id": "good"}, *BAD_ROWS.values()])
        argv = ["interp", "tts", "rows.jsonl", "--model", MODEL, "--out", "x", "--seeds", "1"]
        status, _, err = ran(argv)
        rows = results.Store.open(Path("x")).rows("chains")
    fine = status == 3 and not err and rows[0]["status"] == "scored"
    told = [row["reason"] if row["status"] == "marked" and fine else None for row in rows[1:]]
    return dict(zip(BAD_ROWS, told, strict=True))


def marked() -> list[Found]:
    """The bad rows as rows of the table: refused one by one, not as a file."""
    part = "interp tts, a row"
    return [
        Found(part, name, "marked" if told else "", told or "not marked", 0)
        for name, told in marks().items()
    ]


# ---------------------------------------------------------------- the table


def rows() -> list[Found]:
    """Make every wrong call."""
    warm()
    found = [called(wrong) for wrong in PYTHON]
    found += [commanded(name, words) for name, many in COMMANDS.items() for words in many]
    return found + marked()


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, or with `--json` a line a call; exit 1 where one is not refused."""
    told = "are refused or marked, with nothing run or written."
    tell(rows, argv, module="bad_chains", told=told)


if __name__ == "__main__":
    main()
