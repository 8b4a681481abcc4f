"""Wrong calls of the intervention primitives, and the sentence that each one gives.

    python -m experiments.bad_input [--json]

Every call makes one mistake that a user makes: a typo, a site or head or token that is not there,
a file that is missing, empty or half bad. Each must end in an `InterpError` (on the command line
in exit status 2 without a traceback) before a prompt is run and with nothing written. Forward
passes on the fixed probe text are not counted: they look at the model's architecture.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

import interp
from experiments.refusals import Ended, Found, Wrong, called, judged, tell, watched
from interp.attention_edits import Knockout, ReplacePattern, ScaleAttention
from interp.data.pairs import PromptPair
from interp.directions import Direction
from interp.edits import Patch, Swap, ZeroAblate
from interp.engine.model import Model
from interp.engine.sweep import At, sweep
from interp.metrics import LogitDiff, Rank
from interp.patching.ablation import Reference, ablate
from interp.patching.activation import patch
from interp.patching.attribution import attribute
from interp.patching.circuits import Circuit, curve, random_edges, select_edges
from interp.patching.edges import Graph, eap
from interp.patching.path import path_patch
from interp.sites import Each
from interp.steering.directions import fit, given
from interp.steering.dose import Measure, study

MODEL = "tiny-llama"
"""Three layers, four query heads, two key-value heads, d_model 32."""
CLEAN, CORRUPTED = "Mary saw the dog and John", "Mary saw the cat and John"
PAIR = PromptPair(CLEAN, CORRUPTED, " dog", " cat")
DIFF = LogitDiff(5, 6)


# ---------------------------------------------------------------- calls from Python


@cache
def subject() -> Model:
    """The model that the calls from Python are given."""
    return interp.load(MODEL)


def wrong_sweeps() -> list[Wrong]:
    """Wrong cells, metrics, sources and positions of a sweep."""

    def run(
        model: Model, *cells: Any, base: Any = CLEAN, metric: Any = DIFF, **more: Any
    ) -> object:
        return sweep(model, base, list(cells), metric, say=None, **more)

    zero = ZeroAblate("1.mlp_out")
    return [
        Wrong("sweep", "no cell", lambda m: run(m)),
        Wrong("sweep", "ZeroAblate('1.mpl_out')", lambda m: run(m, ZeroAblate("1.mpl_out"))),
        Wrong("sweep", "ZeroAblate('3.mlp_out') of 3 layers", lambda m: run(m, _zero("3.mlp_out"))),
        Wrong("sweep", "positions=99", lambda m: run(m, _zero("1.mlp_out", positions=99))),
        Wrong("sweep", "positions=-1", lambda m: run(m, _zero("1.mlp_out", positions=-1))),
        Wrong("sweep", "positions='new'", lambda m: run(m, _zero("1.mlp_out", positions="new"))),
        Wrong("sweep", "heads=4 of 4", lambda m: run(m, _zero("1.attn.z", heads=4))),
        Wrong("sweep", "heads=1 at mlp_out", lambda m: run(m, _zero("1.mlp_out", heads=1))),
        Wrong("sweep", "units=9999", lambda m: run(m, _zero("1.mlp_out", units=9999))),
        Wrong("sweep", "rows=1 of one prompt", lambda m: run(m, _zero("1.mlp_out", rows=1))),
        Wrong("sweep", "Each for two of one", lambda m: run(m, _zero("1.mlp_out", positions=TWO))),
        Wrong("sweep", "At without a source", lambda m: run(m, At("1.mlp_out"))),
        Wrong("sweep", "two sources, one base", lambda m: run(m, AT, source=[CLEAN, CORRUPTED])),
        Wrong("sweep", "a shorter source", lambda m: run(m, AT, source="Mary saw")),
        Wrong("sweep", "an empty prompt", lambda m: run(m, zero, base=[[]])),
        Wrong("sweep", "token 99999", lambda m: run(m, zero, base=[[1, 99999]])),
        Wrong("sweep", "logits='all'", lambda m: run(m, zero, logits="all")),
        Wrong("sweep", "logits=99", lambda m: run(m, zero, logits=99)),
        Wrong("sweep", "memory_gib=0", lambda m: run(m, zero, memory_gib=0)),
        Wrong("sweep", "a metric of one number", lambda m: run(m, zero, metric=_one_number)),
        Wrong("sweep", "LogitDiff(5, 99999)", lambda m: run(m, zero, metric=LogitDiff(5, 99999))),
        Wrong("sweep", "LogitDiff([5, 6], 7), 1 prompt", lambda m: run(m, zero, metric=MANY)),
    ]


AT = At("1.mlp_out")
TWO = Each(((0,), (1,)))
MANY = LogitDiff([5, 6], 7)


def _zero(site: str, **where: Any) -> ZeroAblate:
    return ZeroAblate(site, **where)


def _one_number(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return logits.sum()


def wrong_patches() -> list[Wrong]:
    """Wrong pairs, places, directions and metrics of activation patching."""

    def run(model: Model, pair: Any = PAIR, places: Any = (AT,), **more: Any) -> object:
        options = {"direction": "denoise", "say": None, **more}
        return patch(model, pair, places, **options)

    return [
        Wrong("patch", "direction='denoising'", lambda m: run(m, direction="denoising")),
        Wrong("patch", "metric='logit_dif'", lambda m: run(m, metric="logit_dif")),
        Wrong("patch", "no place", lambda m: run(m, places=[])),
        Wrong("patch", "no pair", lambda m: run(m, [])),
        Wrong("patch", "At('1.mlp_uot')", lambda m: run(m, places=[At("1.mlp_uot")])),
        Wrong("patch", "At('7.mlp_out') of 3", lambda m: run(m, places=[At("7.mlp_out")])),
        Wrong("patch", "At(positions=99)", lambda m: run(m, places=[At("1.mlp_out", 99)])),
        Wrong("patch", "At(heads=7)", lambda m: run(m, places=[At("1.attn.z", heads=7)])),
        Wrong("patch", "prompts of two lengths", lambda m: run(m, _pair(corrupted="Mary saw"))),
        Wrong(
            "patch", "an answer of many tokens", lambda m: run(m, _pair(correct=" dogs and cats"))
        ),
        Wrong("patch", "exact=True, positions=-2", lambda m: run(m, places=[_back()], exact=True)),
        Wrong("patch", "memory_gib=-1", lambda m: run(m, memory_gib=-1.0)),
        Wrong("patch", "clean = corrupted", lambda m: run(m, _pair(corrupted=CLEAN)), needs=2),
    ]


def _pair(**changed: str) -> PromptPair:
    return PromptPair(**{**vars(PAIR), **changed})


def _back() -> At:
    return At("1.mlp_out", positions=-2)


def wrong_paths() -> list[Wrong]:
    """Wrong ends, edges, ways through and prompts of path patching."""

    def run(model: Model, *edges: Any, source: Any = CORRUPTED, **more: Any) -> object:
        metric = more.pop("metric", DIFF)
        return path_patch(model, CLEAN, source, list(edges), metric, say=None, **more)

    fine = ("0.h1", "logits")
    return [
        Wrong("path_patch", "no edge", lambda m: run(m)),
        Wrong("path_patch", "one string for an edge", lambda m: run(m, "0.h1->logits")),
        Wrong("path_patch", "('0.g1', 'logits')", lambda m: run(m, ("0.g1", "logits"))),
        Wrong("path_patch", "('0.h1', 'logit')", lambda m: run(m, ("0.h1", "logit"))),
        Wrong("path_patch", "('0.h1', '2.h1.x')", lambda m: run(m, ("0.h1", "2.h1.x"))),
        Wrong("path_patch", "('2.h1', '1.h0.q')", lambda m: run(m, ("2.h1", "1.h0.q"))),
        Wrong("path_patch", "('0.h9', 'logits')", lambda m: run(m, ("0.h9", "logits"))),
        Wrong("path_patch", "('0.h1', '7.h0.q')", lambda m: run(m, ("0.h1", "7.h0.q"))),
        Wrong("path_patch", "('0.h1@99', 'logits')", lambda m: run(m, ("0.h1@99", "logits"))),
        Wrong("path_patch", "('0.h1@lst', 'logits')", lambda m: run(m, ("0.h1@lst", "logits"))),
        Wrong("path_patch", "through='mlp'", lambda m: run(m, fine, through="mlp")),
        Wrong("path_patch", "logits='all'", lambda m: run(m, fine, logits="all")),
        Wrong("path_patch", "a shorter source", lambda m: run(m, fine, source="Mary saw")),
        Wrong("path_patch", "memory_gib=0", lambda m: run(m, fine, memory_gib=0)),
        Wrong(
            "path_patch", "LogitDiff(5, 99999)", lambda m: run(m, fine, metric=LogitDiff(5, 99999))
        ),
    ]


def wrong_scores() -> list[Wrong]:
    """Wrong calls of attribution, edge attribution and circuits."""

    def score(model: Model, source: Any = CORRUPTED, metric: Any = DIFF, **more: Any) -> object:
        return eap(model, CLEAN, source, metric, **more)

    def nodes(model: Model, *sites: str, **more: Any) -> object:
        return attribute(model, CLEAN, CORRUPTED, DIFF, sites, **more)

    return [
        Wrong("attribute", "'1.attn.w'", lambda m: nodes(m, "1.attn.w")),
        Wrong("attribute", "no site", lambda m: nodes(m)),
        Wrong("attribute", "'1.attn.pattern'", lambda m: nodes(m, "1.attn.pattern")),
        Wrong("attribute", "along='input'", lambda m: nodes(m, "1.attn.z", along="input")),
        Wrong("attribute", "logits=99", lambda m: nodes(m, "1.attn.z", logits=99)),
        Wrong("eap", "steps=0", lambda m: score(m, steps=0)),
        Wrong("eap", "along='input'", lambda m: score(m, along="input")),
        Wrong("eap", "rule='middle'", lambda m: score(m, rule="middle")),
        Wrong("eap", "Rank has no gradient", lambda m: score(m, metric=Rank(5))),
        Wrong("eap", "a shorter source", lambda m: score(m, source="Mary saw")),
        Wrong("eap", "LogitDiff(5, 99999)", lambda m: score(m, metric=LogitDiff(5, 99999))),
        Wrong("circuits", "fractions=(0.5, 2)", lambda m: _curve(m, fractions=(0.5, 2.0))),
        Wrong("circuits", "n_random=0", lambda m: _curve(m, n_random=0)),
        Wrong("circuits", "by='best'", lambda m: _curve(m, by="best")),
        Wrong("circuits", "n=-1", lambda m: select_edges(GRAPH, torch.zeros(4, 6), -1)),
        Wrong("circuits", "'a0.h0->a0.h0<q>'", lambda m: GRAPH.find("a0.h0->a0.h0<q>")),
        Wrong("circuits", "a file that is no JSON", lambda m: Circuit.from_json("{half")),
        Wrong("circuits", "a file without edges", lambda m: Circuit.from_json('{"cfg": {}}')),
        Wrong("circuits", "a score of NaN", lambda m: Circuit.from_json(_half_bad())),
    ]


GRAPH = Graph(n_layers=1, n_heads=1, d_model=4, parallel=False)


def _curve(model: Model, **more: Any) -> object:
    circuit = random_edges(GRAPH, 3)
    return curve(model, CLEAN, CORRUPTED, DIFF, circuit, **more)


def _half_bad() -> str:
    """A graph file whose second edge has a score that is no number."""
    data = json.loads(random_edges(GRAPH, 3).to_json())
    data["edges"]["input->m0"]["score"] = "high"
    return json.dumps(data)


def wrong_edits() -> list[Wrong]:
    """Wrong edits of attention patterns, and wrong interchanges in a subspace."""

    def run(model: Model, edit: Callable[[], Any]) -> object:
        return model.run(CLEAN, edits=[edit()])

    at = "1.attn.pattern"
    eye, source = torch.eye(64), torch.zeros(1, 64, 64)
    edits: dict[str, Callable[[], Any]] = {
        "Knockout('1.attn.z')": lambda: Knockout("1.attn.z", keys=0),
        "Knockout(keys=-1)": lambda: Knockout(at, keys=-1),
        "Knockout(keys=99)": lambda: Knockout(at, keys=99),
        "Knockout(positions=1, keys=3)": lambda: Knockout(at, positions=1, keys=3),
        "Knockout(positions=0, keys=0)": lambda: Knockout(at, positions=0, keys=0),
        "Knockout(units=0)": lambda: Knockout(at, keys=0, units=0),
        "Knockout(heads=4)": lambda: Knockout(at, keys=0, positions=2, heads=4),
        "ScaleAttention(factor=-1)": lambda: ScaleAttention(at, keys=0, factor=-1.0),
        "ScaleAttention(factor=nan)": lambda: ScaleAttention(at, keys=0, factor=float("nan")),
        "ReplacePattern(kind='unifrom')": lambda: ReplacePattern(at, kind=_typo()),
        "ReplacePattern() of nothing": lambda: ReplacePattern(at),
        "ReplacePattern(seed=-1)": lambda: ReplacePattern(at, kind="random", seed=-1),
        "ReplacePattern(source of 1 token)": lambda: ReplacePattern(
            at, source=source[None, :, :1, :1]
        ),
        "Swap() of nothing": lambda: Swap("1.resid_post", source=source),
        "Swap(basis not orthonormal)": lambda: Swap(
            "1.resid_post", source=source, basis=2 * eye[:2]
        ),
        "Swap(block=(5,)) of 2 rows": lambda: Swap(
            "1.resid_post", source=source, basis=eye[:2], block=5
        ),
        "Swap(basis of 64, d_model 32)": lambda: Swap(
            "1.resid_post", source=source[..., :32], basis=eye[:2]
        ),
        "Patch(source of 3 entries)": lambda: Patch("1.resid_post", source=source[..., :3]),
    }
    return [Wrong("edits", call, lambda m, make=make: run(m, make)) for call, make in edits.items()]


def _typo() -> Any:
    return "unifrom"


def wrong_ablations() -> list[Wrong]:
    """Wrong kinds, references and places of ablation."""

    def run(model: Model, kind: Any, places: Any = (AT,), **more: Any) -> object:
        return ablate(model, CLEAN, places, DIFF, kind=kind, say=None, **more)

    reference, short = Reference("numbers", [CORRUPTED]), Reference("short", ["Mary"])
    late = [At("1.mlp_out", positions=8)]
    return [
        Wrong("ablate", "kind='men'", lambda m: run(m, "men")),
        Wrong("ablate", "mean without a reference", lambda m: run(m, "mean")),
        Wrong("ablate", "zero with a reference", lambda m: run(m, "zero", reference=reference)),
        Wrong("ablate", "no place", lambda m: run(m, "zero", [])),
        Wrong("ablate", "At('9.mlp_out') of 3", lambda m: run(m, "zero", [At("9.mlp_out")])),
        Wrong("ablate", "zero at position 99", lambda m: run(m, "zero", [At("1.mlp_out", 99)])),
        Wrong(
            "ablate", "optimal, steps=0", lambda m: run(m, "optimal", reference=reference, steps=0)
        ),
        Wrong("ablate", "a short reference", lambda m: run(m, "resample", late, reference=short)),
    ]


def wrong_directions() -> list[Wrong]:
    """Wrong fits, loads, doses and studies of steering."""

    def fitted(model: Model, site: str = "1.resid_post", **more: Any) -> object:
        negative = more.pop("negative", ["One four", "Two two"])
        return fit(model, ["One two", "Two four"], negative, site, **more)

    def studied(model: Model, **more: Any) -> object:
        direction = given(model, "1.resid_post", torch.ones(model.sizes.d_model))
        options = {"coefficients": (1.0,), "n_random": 3, **more}
        texts = options.pop("neutral", ["One two three", "Two four six"])
        prompts = ["One two", "Two four", "One four", "Two two"]
        return study(model, direction, prompts, texts, Measure(metric=DIFF), **options)

    return [
        Wrong("fit", "method='mean'", lambda m: fitted(m, method="mean")),
        Wrong("fit", "'1.resid_pots'", lambda m: fitted(m, "1.resid_pots")),
        Wrong("fit", "'1.attn.q' has no d_model", lambda m: fitted(m, "1.attn.q")),
        Wrong("fit", "'9.resid_post' of 3", lambda m: fitted(m, "9.resid_post")),
        Wrong("fit", "position=99", lambda m: fitted(m, position=99)),
        Wrong("fit", "batch_size=0", lambda m: fitted(m, batch_size=0)),
        Wrong("fit", "3 texts against 2 for pairs", lambda m: fitted(m, **UNPAIRED)),
        Wrong("given", "a vector of 3 entries", lambda m: given(m, "1.resid_post", torch.ones(3))),
        Wrong("given", "a vector of zeros", lambda m: given(m, "1.resid_post", torch.zeros(32))),
        Wrong("study", "a dose of 0", lambda m: studied(m, coefficients=(0.0, 1.0))),
        Wrong("study", "no dose", lambda m: studied(m, coefficients=())),
        Wrong("study", "n_random=1", lambda m: studied(m, n_random=1)),
        Wrong("study", "max_damage=-1", lambda m: studied(m, max_damage=-1.0)),
        Wrong("study", "positions=99", lambda m: studied(m, positions=99)),
        Wrong("study", "positions='new'", lambda m: studied(m, positions="new")),
        Wrong("study", "mode='ad'", lambda m: studied(m, mode="ad")),
        Wrong("study", "a neutral text of one token", lambda m: studied(m, neutral=[[5], [6, 7]])),
        Wrong("Direction.load", "no such file", lambda m: Direction.load("nowhere.safetensors")),
        Wrong("Direction.load", "an empty file", lambda m: _loaded(b"")),
        Wrong("Direction.load", "a truncated file", lambda m: _loaded(_saved(m)[:-7])),
        Wrong("Direction.load", "a changed byte", lambda m: _loaded(_flipped(_saved(m)))),
        Wrong("Direction.load", "another model's", lambda m: _loaded(_saved(m), _other())),
    ]


UNPAIRED = {"method": "pca_of_differences", "negative": ["One four", "Two two", "Two"]}


def _loaded(data: bytes, model: Model | None = None) -> Direction:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "direction.safetensors"
        path.write_bytes(data)
        return Direction.load(path, model)


def _saved(model: Model) -> bytes:
    (direction,) = given(model, "1.resid_post", torch.ones(model.sizes.d_model))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "direction.safetensors"
        direction.save(path)
        return path.read_bytes()


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _other() -> Model:
    return interp.load("tiny-gpt2")


PYTHON = (
    *wrong_sweeps(), *wrong_patches(), *wrong_paths(), *wrong_scores(), *wrong_edits(),
    *wrong_ablations(), *wrong_directions(),
)  # fmt: skip


# ---------------------------------------------------------------- commands

GOOD = json.dumps(vars(PAIR))
CONTRASTS = (
    '{"positive": "Mary saw the big dog", "negative": "Mary saw the small dog"}',
    '{"positive": "Tom had a big cat", "negative": "Tom had a small cat"}',
    '{"prompt": "Anna took the", "toward": " big", "away": " small"}',
    '{"prompt": "Paul put the", "toward": " big", "away": " small"}',
    '{"prompt": "Dan got the", "toward": " big", "away": " small"}',
    '{"prompt": "Amy had the", "toward": " big", "away": " small"}',
    '{"neutral": "The first number is not the next"}',
    '{"neutral": "Then he gave it to the bird"}',
)
FILES: dict[str, str | bytes] = {
    "pairs": GOOD + "\n",
    "empty": "",
    "blank": "\n\n",
    "prose": "Mary saw the dog.\n",
    "binary": b"\xff\xfe\x00\x01",
    "typo": GOOD.replace("corrupted", "corupted") + "\n",
    "uneven": GOOD.replace("the cat", "a very big cat") + "\n",
    "long": GOOD.replace(' dog"}', ' dogs and cats"}').replace('" dog"', '" dogs and cats"') + "\n",
    "contrasts": "\n".join(CONTRASTS) + "\n",
    "no-neutral": "\n".join(CONTRASTS[:-2]) + "\n",
    "half-bad-contrasts": "\n".join([*CONTRASTS, '{"positive": "alone"}']) + "\n",
    "cut-contrasts": "\n".join(CONTRASTS)[:-9] + "\n",
}
"""What a file that a command is given holds, by name."""

ON_PAIRS = (
    "--model tiny-lama",
    "--dtype float23",
    "--device cudaa",
    "--pairs 0",
    "--pairs one",
    "--seed x",
    "--threads 0",
    "--outt x",
    "missing.jsonl",
    *(f"{name}.jsonl" for name in ("empty", "blank", "prose", "binary", "typo", "uneven", "long")),
    "--out pairs.jsonl",
    "--out .",
)
"""Mistakes that can be made with every command on prompt pairs."""

COMMANDS: dict[str, tuple[str, ...]] = {
    "patch": (
        *ON_PAIRS,
        "--components resid_prex",
        "--components mlp_out --by head",
        "--by postion",
        "--direction denoising",
        "--metric logit_dif",
        "--layers 99",
        "--layers -1",
        "--layers x",
        "--memory-gib 0",
        "--memory-gib much",
        "--exakt",
    ),
    "path": (
        *ON_PAIRS,
        "--senders haeds",
        "--senders 0.h9",
        "--senders 9.h0",
        "--senders 0.h0@99",
        "--senders logits",
        "--receivers 2.h1.x",
        "--receivers 9.h1.q",
        "--receivers 0.h1.q --senders 2.h0",
        "--receivers logits 2.mlp",
        "--through mlp",
        "--direction noising",
        "--freeze-norm",
        "--memory-gib -1",
    ),
    "circuit": (
        *ON_PAIRS,
        "pairs.jsonl",
        "--pairs 1",
        "--along input",
        "--steps 0",
        "--edges 0",
        "--by best",
        "--verify 0",
        "--random 0",
    ),
    "steer": (
        "contrasts.jsonl --model tiny-lama",
        "contrasts.jsonl --out pairs.jsonl",
        "contrasts.jsonl --method mean",
        "contrasts.jsonl --layers 99",
        "contrasts.jsonl --layers -1",
        "contrasts.jsonl --doses 0",
        "contrasts.jsonl --doses nan",
        "contrasts.jsonl --doses 1 1",
        "contrasts.jsonl --doses x",
        "contrasts.jsonl --positions first",
        "contrasts.jsonl --random 1",
        "contrasts.jsonl --max-damage -1",
        "--texts 1",
        "--seed x",
        "missing.jsonl",
        *(f"{name}.jsonl" for name in ("empty", "prose", "binary", "no-neutral")),
        *(f"{name}.jsonl" for name in ("half-bad-contrasts", "cut-contrasts")),
    ),
}
"""By command, the wrong words; each is run on tiny-llama, in a folder with `FILES`."""


def ended(command: str, words: str, *, model: str = MODEL) -> Ended:
    """Run `python -m interp.cli` in this process, in a folder of its own with `FILES`."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        for file, text in FILES.items():
            data = text if isinstance(text, bytes) else text.encode()
            Path(f"{file}.jsonl").write_bytes(data)
        given = [] if "--model" in words else ["--model", model]
        given += [] if "--out" in words else ["--out", "run"]
        return watched(["interp", command, *words.split(), *given])


def rows() -> list[Found]:
    """Make every wrong call."""
    model = subject()
    assert model.book  # found by a short pass of its own
    found = [called(wrong, model) for wrong in PYTHON]
    given = [(name, words) for name, many in COMMANDS.items() for words in many]
    return found + [judged(name, words, ended(name, words)) for name, words in given]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, or with `--json` a line a call; exit 1 where one is not refused."""
    told = "wrong calls are refused, with nothing run or written."
    tell(rows, argv, module="bad_input", told=told)


if __name__ == "__main__":
    main()
