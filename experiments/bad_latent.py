"""Wrong calls and commands about latent reasoning, and the sentence that each one gives.

    python -m experiments.bad_latent [--json]

Every call makes one mistake that a user makes with checkpoints, problems, operators, influence,
commitment and training. Each must end in an `InterpError` (on the command line in exit status 2
without a traceback) before a prompt is run and with nothing written. Bad rows among good ones are
another matter: they are marked with the reason and the rest is run (exit status 3).
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

import interp.results as results
from experiments.bad_chains import scored_run, write_rows
from experiments.refusals import Ended, Found, Wrong, called, judged, ran, tell, undone, wrongs
from experiments.train_latent import RECORDS
from interp.data import latent_rows
from interp.data.arithmetic_chains import ArithmeticChains
from interp.data.cycle_hop import CycleHop
from interp.data.latent_problems import LatentProblem
from interp.jobs import latent_rollout
from interp.jobs.latent_runs import Loading, Problems
from interp.latent.accuracy import accuracy
from interp.latent.calibration import Calibration, calibrate
from interp.latent.commitment import Rules, commitment
from interp.latent.early_stop import early_stop
from interp.latent.hf import HFSubject
from interp.latent.influence import influence
from interp.latent.interventions import Do, Lane, base_run, check, readings
from interp.latent.layout import Layout
from interp.latent.loading import load_checkpoint
from interp.latent.necessity import necessity, summary
from interp.latent.noise import Noise
from interp.latent.nulls import ShuffledDonor, permutation_test
from interp.latent.operators import (
    Interpolate,
    Operator,
    Resample,
    class_mean,
    gaussian,
    named,
    remove_dir,
    rotate,
    zero,
)
from interp.latent.probes import ProbeSettings
from interp.latent.released import released_early_stop
from interp.latent.saved import load_subject, save_subject
from interp.latent.shape import graph, matrix
from interp.latent.similarity import similarity
from interp.latent.soft_thinking import Mixing, load_soft_thinking
from interp.latent.subjects import Coconut, NoLatents
from interp.latent.token_mix import give_weights, temper
from interp.latent.training.presets import preset
from interp.latent.training.recipe import Recipe
from interp.models import tiny

QUIET = Console(file=io.StringIO())
TASK = CycleHop()
LAYOUT = Layout(prompt="{question}<start>", close="<end>", step="{step}", target="{answer}")
N, CALIBRATION = 3, 3

# ---------------------------------------------------------------- what the calls are made on


def row(problem: LatentProblem, **more: Any) -> dict[str, Any]:
    """A problem as a row of a file."""
    made = {"id": problem.id, "question": problem.question, "answer": problem.answer}
    return {**made, "steps": list(problem.steps), **more}


GOOD = [row(problem) for problem in TASK.draw(8, seed=1)]
LONG = " ".join(["a"] * 80)


@cache
def materials() -> Path:
    """A folder with runs, checkpoints and files, good and bad; made once."""
    folder = Path(tempfile.mkdtemp(prefix="bad-latent-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    trained = shutil.copytree(RECORDS / "coconut", folder / "coconut")
    rolled(folder / "run", trained)
    twin = shutil.copytree(trained, folder / "other")
    weights = load_file(twin / "model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, twin / "model.safetensors")
    save_subject(control(), folder / "control")
    rolled(folder / "controlled", folder / "control")
    scored_run(folder / "scores", 1)
    write_saved(folder, trained)
    for name, (tensors, home) in CHECKPOINTS.items():
        write_checkpoint(folder / name, tensors(), home=home)
    write_loose(folder)
    for name, data in FILES.items():
        (folder / f"{name}.jsonl").write_bytes(data)
    return folder


def rolled(out: Path, model: Path) -> None:
    """Run a few problems of cycle-hop."""
    problems = Problems(data="cycle-hop", n=N, calibration=CALIBRATION)
    latent_rollout.rollout(Loading(model=str(model)), problems, out=out, console=QUIET)


def lines(*rows: Any) -> bytes:
    """Rows as JSONL; a row that is text stands as it is."""
    texts = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    return "".join(f"{text}\n" for text in texts).encode()


FILES: dict[str, bytes] = {
    "problems": lines(*GOOD),
    "empty": b"",
    "blank": b"\n\n",
    "prose": b"What is a?\n",
    "binary": b"\xff\xfe\x00\x01",
    "unanswered": lines(*({k: v for k, v in each.items() if k != "answer"} for each in GOOD)),
    "stepless": lines(*({**each, "steps": []} for each in GOOD)),
    "misspelt": lines(*({**each, "question": "", "qestion": "a"} for each in GOOD)),
    "long": lines(*({**each, "question": f"{LONG} {i}"} for i, each in enumerate(GOOD))),
    "overlap": lines(*({**each, "id": str(i)} for i, each in enumerate([GOOD[0]] * 6))),
    "array": b'[{"question": "a"',
}

# ---------------------------------------------------------------- checkpoints


@cache
def state() -> Mapping[str, Tensor]:
    """Weights of a tiny GPT-2 with three rows more than its tokenizer has tokens."""
    hf = tiny.build("tiny-gpt2")
    found: dict[str, Tensor] = {}
    for name, tensor in hf.state_dict().items():
        more = torch.zeros(3, tensor.shape[-1])
        grown = name.endswith(("wte.weight", "lm_head.weight"))
        found[name] = torch.cat([tensor, more]) if grown else tensor
    return found


def prefixed(prefix: str, **more: Tensor) -> dict[str, Tensor]:
    """The weights under a prefix, and others."""
    return {prefix + name: tensor for name, tensor in state().items()} | more


def without(name: str) -> dict[str, Tensor]:
    """Coconut's keys without one."""
    return {k: v for k, v in prefixed("base_causallm.").items() if not k.endswith(name)}


def codi(**more: Tensor) -> dict[str, Tensor]:
    """CODI's keys, with a projection that is whole."""
    d = tiny.D_MODEL
    square, line = torch.zeros(d, d), torch.zeros(d)
    keys = {f"prj.{place}.{kind}": value for place in (1, 3)
            for kind, value in (("weight", square), ("bias", line))}  # fmt: skip
    return prefixed("codi.", **keys, **{"prj.ln.weight": line, "prj.ln.bias": line}, **more)


LAYER = "transformer.h.0.attn.c_attn"


def lora(*sides: str, adapter: str = "default") -> dict[str, Tensor]:
    """Sides of a low-rank pair."""
    shapes = {"A": (2, tiny.D_MODEL), "B": (3 * tiny.D_MODEL, 2)}
    return {f"codi.{LAYER}.lora_{s}.{adapter}.weight": torch.zeros(shapes[s]) for s in sides}


Tensors = Callable[[], Mapping[str, Tensor]]
CHECKPOINTS: dict[str, tuple[Tensors, bool]] = {
    "bare": (lambda: prefixed("base_causallm."), False),
    "plain": (lambda: prefixed(""), True),
    "both": (lambda: prefixed("base_causallm.") | prefixed("codi."), True),
    "missing": (lambda: without("ln_f.weight"), True),
    "unexpected": (lambda: prefixed("base_causallm.", **{"head.w": torch.zeros(1)}), True),
    "misfit": (
        lambda: prefixed("base_causallm.") | {"base_causallm.transformer.ln_f.bias": torch.ones(5)},
        True,
    ),
    "fewer-rows": (
        lambda: {f"base_causallm.{k}": v for k, v in tiny.build("tiny-gpt2").state_dict().items()},
        True,
    ),
    "half-lora": (lambda: codi(**lora("A")), True),
    "two-adapters": (lambda: codi(**lora("A", "B"), **lora("A", "B", adapter="new")), True),
    "scaleless": (lambda: codi(**lora("A", "B")), True),
    "half-projection": (
        lambda: {k: v for k, v in codi().items() if not k.startswith("prj.3")},
        True,
    ),
}
"""Checkpoints that are refused: what they hold, and whether a configuration lies beside it."""


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], *, home: bool) -> None:
    """Write a folder of weights, with the configuration and tokenizer of its base."""
    folder.mkdir()
    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, folder / "w.safetensors")
    if home:
        write_home(folder)


def write_home(folder: Path) -> None:
    """Write the configuration and tokenizer of the base model."""
    folder.mkdir(exist_ok=True)
    tiny.build("tiny-gpt2").config.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)


def write_loose(folder: Path) -> None:
    """Folders whose files are no whole checkpoint."""
    for name in ("nothing", "pickled", "prose-pickle", "cut", "two-files", "shards"):
        write_home(folder / name)
    torch.save(prefixed("base_causallm."), folder / "pickled" / "checkpoint_1")
    torch.save({"model": "words"}, folder / "prose-pickle" / "checkpoint_1")
    data = (folder / "bare" / "w.safetensors").read_bytes()
    (folder / "cut" / "w.safetensors").write_bytes(data[:-99])
    for name in ("two-files/a", "two-files/b", "shards/w-00001-of-00002"):
        (folder / f"{name}.safetensors").write_bytes(data)


ABOUT: dict[str, Callable[[dict[str, Any]], str]] = {
    "about-prose": lambda about: "a coconut",
    "about-kind": lambda about: json.dumps({**about, "kind": "coconutt"}),
    "about-lacks": lambda about: json.dumps({k: v for k, v in about.items() if k != "n_steps"}),
    "about-layout": lambda about: json.dumps({**about, "layout": {"promt": "{question}"}}),
    "about-codi": lambda about: json.dumps({**about, "kind": "codi", "projection": {"d_inner": 4}}),
}
"""What `latent.json` says instead, in folders that are otherwise whole."""


def write_saved(folder: Path, trained: Path) -> None:
    """Folders of ours with a mistake."""
    told = json.loads((trained / "latent.json").read_text())
    for name, change in ABOUT.items():
        shutil.copytree(trained, folder / name)
        (folder / name / "latent.json").write_text(change(told))
    shutil.copytree(trained, folder / "no-weights")
    (folder / "no-weights" / "model.safetensors").unlink()


# ---------------------------------------------------------------- subjects


@cache
def subject() -> HFSubject:
    """The trained one."""
    return load_subject(materials() / "coconut")


@cache
def control() -> HFSubject:
    """One without latents."""
    return NoLatents(tiny.build("tiny-gpt2"), TASK.tokenizer(), layout=LAYOUT, name="a control")


@cache
def problems() -> tuple[list[LatentProblem], list[LatentProblem]]:
    """Problems to score, and others."""
    drawn = TASK.draw(N + CALIBRATION, seed=0)
    return list(drawn[:N]), list(drawn[N:])


@cache
def bank() -> Calibration:
    """Means and donors of the trained subject."""
    return calibrate(subject(), problems()[1])


@cache
def edges() -> tuple[dict[str, Any], ...]:
    """Rows of W, to be summarised wrongly."""
    return tuple(influence(subject(), problems()[0], bank(), operators=("zero", "mean")).rows)


def warm() -> None:
    """Make all this before anything is counted."""
    assert materials() and bank().n_steps and edges() and base()


@cache
def base() -> Any:
    """A clean run."""
    return base_run(subject(), problems()[0])


# ---------------------------------------------------------------- calls from Python


def wrong_checkpoints() -> list[Wrong]:
    """Folders that hold no checkpoint of a known form, and options that contradict them."""

    def load(name: str, **more: Any) -> object:
        return load_checkpoint(materials() / name, **more)

    kinds: dict[str, Callable[[], object]] = {
        name: lambda name=name: load(name)
        for name in (*CHECKPOINTS, "nowhere", "nothing", "pickled", "cut", "two-files", "shards")
    }
    calls: dict[str, Callable[[], object]] = {
        **kinds,
        "a folder of ours": lambda: load("coconut"),
        "kind='coconutt'": lambda: load("plain", kind="coconutt"),
        "kind='codi' without projection": lambda: load("plain", kind="codi"),
        "kind='pause' of CODI": lambda: load("half-projection", kind="pause"),
        "official_mask of Coconut": lambda: load("missing", official_mask=True),
        "a base without a tokenizer": lambda: load("bare", base=materials() / "run"),
    }
    return wrongs("load_checkpoint", calls)


def wrong_folders() -> list[Wrong]:
    """Folders that `save_subject` did not write so, and subjects that it cannot write."""

    def load(name: str) -> object:
        return load_subject(materials() / name)

    class Mine(Coconut):
        """A kind that nobody knows."""

    def own() -> object:
        mine = Mine(subject().hf, subject().tokenizer, n_steps=2, layout=LAYOUT, name="mine")
        return save_subject(mine, materials() / "mine")

    names = (*ABOUT, "no-weights", "nowhere", "run", "plain")
    calls: dict[str, Callable[[], object]] = {n: lambda n=n: load(n) for n in names}
    return wrongs("load_subject", {**calls, "save_subject of another kind": own})


def wrong_operators() -> list[Wrong]:
    """Operators, edges, steps and lanes that do not exist."""

    def lanes(*dos: Do) -> object:
        return check(subject(), [Lane(dos)], bank())

    made = zero()
    embed = subject_embed
    calls: dict[str, Callable[[], object]] = {
        **{f"named({name!r})": lambda name=name: named(name)
           for name in ("zro", "", "zero:1", "rotate:x", "rotate:0", "rotate:-30", "rotate:nan",
                        "noise_norm:-1", "gaussian:0", "resample:other", "swap:same")},
        "rotate(181)": lambda: rotate(181.0),
        "gaussian(inf)": lambda: gaussian(float("inf")),
        "remove_dir of zeros": lambda: remove_dir(torch.zeros(1, 4)),
        "class_mean of nobody": lambda: class_mean({"a": torch.zeros(4, 4)}, "b"),
        "Interpolate(amount=2)": lambda: Interpolate(made, 2.0),
        "ShuffledDonor('words')": lambda: ShuffledDonor("words"),
        "temper(0)": lambda: temper(embed, 0.0),
        "give_weights({})": lambda: give_weights(embed, {}),
        "give_weights({1: -1})": lambda: give_weights(embed, {1: -1.0}),
        "edge='inptu'": lambda: Do(1, made, "inptu"),
        "step 0": lambda: lanes(Do(0, made)),
        "step 9": lambda: lanes(Do(9, made)),
        "step -1": lambda: lanes(Do(-1, made)),
        "steps 2, 1": lambda: lanes(Do(2, made), Do(1, made)),
        "steps 1, 1": lambda: lanes(Do(1, made), Do(1, made)),
        "a lane of nothing": lambda: lanes(),
        "no lane": lambda: list(readings(subject(), base(), [], bank())),
        "zero on kv": lambda: lanes(Do(1, made, "kv")),
        "resample on kv": lambda: lanes(Do(1, Resample(), "kv")),
        "kv_mask on input": lambda: lanes(Do(1, named("kv_mask"))),
    }  # fmt: skip
    return wrongs("operators", calls)


def subject_embed(ids: Tensor) -> Tensor:
    """Input vectors of tokens."""
    return subject().embed(ids)


def wrong_studies() -> list[Wrong]:
    """Wrong settings of what is measured, and problems that do not fit it."""
    scored = lambda: problems()[0]  # noqa: E731

    def need(*given: str | Operator, **more: Any) -> object:
        return necessity(subject(), scored(), bank(), given or ("zero",), **more)

    def flow(*given: str | Operator, **more: Any) -> object:
        return influence(subject(), scored(), bank(), operators=given or ("zero",), **more)

    def alone(problem: LatentProblem) -> object:
        return necessity(subject(), [problem], bank(), ("zero",))

    one = TASK.draw(1, seed=5)[0]
    short = lambda: replace(bank(), nodes=bank().nodes[:2])  # noqa: E731
    calls: dict[str, Callable[[], object]] = {
        "calibrate on one problem": lambda: calibrate(subject(), scored()[:1]),
        "calibrate on what is scored": lambda: calibrate(subject(), scored(), scored=scored()),
        "calibrate a control": lambda: calibrate(control(), scored()),
        "necessity of the calibration set": lambda: necessity(subject(), problems()[1], bank()),
        "necessity of a control": lambda: necessity(control(), scored(), bank()),
        "a calibration of 2 steps": lambda: necessity(subject(), scored(), short()),
        "necessity of no problem": lambda: necessity(subject(), [], bank()),
        "an id twice": lambda: necessity(subject(), [one, one], bank()),
        "a problem too long": lambda: alone(replace(one, question=LONG)),
        "a problem without question": lambda: alone(replace(one, question=" ")),
        "a problem without answer": lambda: alone(replace(one, answer="")),
        "necessity of 'identity' alone": lambda: need("identity"),
        "necessity(steps=[])": lambda: need(steps=[]),
        "necessity(steps=[9])": lambda: need(steps=[9]),
        "necessity(steps=[(2, 1)])": lambda: need(steps=[(2, 1)]),
        "necessity(seeds=())": lambda: need(seeds=()),
        "necessity(draws=())": lambda: need(draws=()),
        "necessity(rows=0)": lambda: need(rows=0),
        "summary(classes=1)": lambda: summary([], classes=1),
        "influence('zero', 'zero')": lambda: flow("zero", "zero"),
        "influence(seeds=())": lambda: flow(seeds=()),
        "influence(target='anser')": lambda: flow(target="anser"),
        "influence(slots_per_step=0)": lambda: flow(slots_per_step=0),
        "influence(edge='kv')": lambda: flow(edge="kv"),
        "influence of no problem": lambda: influence(subject(), [], bank()),
        "early_stop of a control": lambda: early_stop(control(), scored()),
        "early_stop(per_step=0)": lambda: early_stop(subject(), scored(), per_step=0),
        "accuracy of no problem": lambda: accuracy(subject(), []),
        "released_early_stop(placeholder='a b')": lambda: released_early_stop(
            subject(), scored(), placeholder="a b"
        ),
    }
    return wrongs("measures", calls)


def wrong_summaries() -> list[Wrong]:
    """Matrices, graphs and tests of nothing."""

    def of(name: str) -> Any:
        return matrix(edges(), name)

    calls: dict[str, Callable[[], object]] = {
        "matrix of 'zro'": lambda: of("zro"),
        "matrix of no row": lambda: matrix([], "zero"),
        "graph(threshold=1)": lambda: graph(of("zero"), threshold=1.0),
        "graph(threshold=-1)": lambda: graph(of("zero"), threshold=-1.0),
        "graph(direction='up')": lambda: graph(of("zero"), direction="up"),  # type: ignore[arg-type]
        "permutation_test(n=0)": lambda: permutation_test(edges(), "zero", n=0),
        "permutation_test of 'zro'": lambda: permutation_test(edges(), "zro"),
        "similarity of two sizes": lambda: similarity(of("zero"), fewer(of("mean"))),
    }
    return wrongs("summaries", calls)


def fewer(found: Any) -> Any:
    """A matrix with a step less."""
    return replace(found, items=found.items[:, :-1, :-1])


def wrong_commitments() -> list[Wrong]:
    """Noise, probes, rules and labels without sense."""

    def commit(of: HFSubject | None = None, **more: Any) -> object:
        noise = more.pop("noise", None)
        return commitment(of or subject(), problems()[0], noise, **more)

    calls: dict[str, Callable[[], object]] = {
        "Noise(sigma=-1)": lambda: Noise(sigma=-1.0),
        "Noise(dropout=1)": lambda: Noise(dropout=1.0),
        "Noise(temperature=-1)": lambda: Noise(temperature=-1.0),
        "silent noise": lambda: commit(noise=Noise(sigma=0.0)),
        "noise at step 9": lambda: commit(noise=Noise(steps=(9,))),
        "temperature of Coconut": lambda: commit(noise=Noise(temperature=0.5)),
        "n_samples=0": lambda: commit(n_samples=0),
        "labels='tow'": lambda: commit(labels="tow"),
        "commitment of a control": lambda: commit(control()),
        "ProbeSettings(l2=())": lambda: ProbeSettings(l2=()),
        "ProbeSettings(folds=1)": lambda: ProbeSettings(folds=1),
        "ProbeSettings(shuffles=0)": lambda: ProbeSettings(shuffles=0),
        "Rules(minority=2)": lambda: Rules(minority=2.0),
        "Rules(top_two=-1)": lambda: Rules(top_two=-1.0),
    }
    return wrongs("commitment", calls)


def wrong_sources() -> list[Wrong]:
    """Recipes, generators, files and chat models that do not exist or make no sense."""

    def read(name: str) -> object:
        return latent_rows.read_latent(materials() / f"{name}.jsonl")

    bad = ("empty", "blank", "prose", "binary", "unanswered", "stepless", "array", "nowhere")
    files = {f"read_latent, {name}": lambda name=name: read(name) for name in bad}
    calls: dict[str, Callable[[], object]] = {
        **files,
        "CycleHop(n_nodes=2)": lambda: CycleHop(n_nodes=2),
        "CycleHop(hops=0)": lambda: CycleHop(hops=0),
        "ArithmeticChains(steps=(3, 1))": lambda: ArithmeticChains(steps=(3, 1)),
        "a data set 'gsm8k'": lambda: latent_rows.read_hub("gsm8k", "train.jsonl"),
        "preset('cycle-coconutt')": lambda: preset("cycle-coconutt"),
        "Recipe(kind='coconutt')": lambda: Recipe(kind="coconutt"),
        "Recipe(objective='distil')": lambda: Recipe(objective="distil"),
        "Recipe(updates=-1)": lambda: Recipe(updates=-1),
        "Recipe(batch=0)": lambda: Recipe(batch=0),
        "Recipe(mix=1)": lambda: Recipe(mix=1.0),
        "Mixing(temperature=0)": lambda: Mixing(temperature=0.0),
        "Mixing(top_k=0)": lambda: Mixing(top_k=0),
        "Mixing(top_p=2)": lambda: Mixing(top_p=2.0),
        "Mixing(patience=-1)": lambda: Mixing(patience=-1),
        "load_soft_thinking('smollm')": lambda: load_soft_thinking("smollm"),
    }
    return wrongs("sources", calls)


PYTHON = (
    *wrong_checkpoints(), *wrong_folders(), *wrong_operators(), *wrong_studies(),
    *wrong_summaries(), *wrong_commitments(), *wrong_sources(),
)  # fmt: skip

# ---------------------------------------------------------------- commands

NEGATIVE = ("0", "-1", "x")


def numbers(before: str, *flags: str) -> tuple[str, ...]:
    """A command with a flag that counts something given what is no count."""
    return tuple(f"{before} --{flag} {value}" for flag in flags for value in NEGATIVE)


ON_RUN = (
    "",
    "nowhere",
    ".",
    "problems.jsonl",
    "coconut",
    "scores",
    "controlled",
    "run --model other",
    "run --model nowhere",
    "run --model run",
    "run --device cudaa",
    "run --out problems.jsonl",
    "run --out .",
    "run --out run",
    "run --outt x",
    *numbers("run", "threads", "rows"),
)
"""Mistakes that can be made with every command on a run."""
ON_OPERATORS = (
    "run --operators zro",
    "run --operators rotate:x",
    "run --operators",
    "run --operators zero zero",
    "run --operators zero --edge inptu",
    "run --operators zero --edge kv",
    "run --operators resample --edge both",
    "run --operators kv_mask",
    *numbers("run", "seeds", "per-step"),
)
"""Mistakes with edits."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "latent": ("", "rolout", "problems.jsonl"),
    "latent train": (
        "",
        "cycle-coconutt",
        "codi-gpt2",
        "cycle-pause --data nowhere.jsonl",
        "cycle-pause --data empty.jsonl",
        "cycle-pause --data problems.jsonl --held-out 8",
        "cycle-pause --out problems.jsonl",
        "cycle-pause --out run",
        "cycle-pause --seed -1",
        *numbers("cycle-pause", "updates", "held-out", "threads"),
    ),
    "latent rollout": (
        "",
        "nowhere",
        "a/b/c",
        *CHECKPOINTS,
        "pickled",
        "prose-pickle --allow-pickle",
        "cut",
        *ABOUT,
        "no-weights",
        "coconut --kind pause",
        "coconut --steps 2",
        "plain --kind codi",
        "coconut --base plain",
        "coconut --lora-alpha 32",
        "coconut --allow-pickle",
        "coconut --kind soft-thinkng",
        "tiny-llama --kind soft-thinking --base plain",
        "tiny-lama --kind soft-thinking",
        "coconut --token-rows pad",
        "coconut --data cycle-hopp",
        *(f"coconut --data {name}.jsonl" for name in FILES if name not in ("overlap", "problems")),
        "coconut --data overlap.jsonl --calibration 2",
        "coconut --data problems.jsonl --calibration 8",
        "coconut --data run",
        "coconut --calibration 1",
        "coconut --seed -1",
        "coconut --dtype float23",
        "coconut --device cudaa",
        "coconut --out problems.jsonl",
        "coconut --out .",
        "coconut --out run --seed 3",
        *numbers("coconut", "n", "calibration", "threads", "steps", "lora-alpha"),
    ),
    "latent necessity": (
        *ON_RUN,
        *ON_OPERATORS,
        "run --operators identity",
        "run --classes 1",
        *numbers("run", "draws", "classes"),
    ),
    "latent influence": (
        *ON_RUN,
        *ON_OPERATORS,
        "run --operators shuffled_donor:words",
        "run --target anser",
        "run --preset released",
        "run --preset released-code --exact",
        "run --threshold -0.1",
        "run --threshold 1",
        "run --threshold nan",
        "run --threshold x",
    ),
    "latent commitment": (
        *ON_RUN,
        "run --sigma -1",
        "run --sigma nan",
        "run --sigma 0",
        "run --sigma x",
        "run --dropout -0.1",
        "run --dropout 1",
        "run --labels tow",
        "run --seed -1",
        *numbers("run", "samples", "shuffles"),
    ),
}
"""By command, the wrong words; each is run in the folder `materials`."""


def ended(command: str, words: str) -> Ended:
    """Run a command in this process, in the folder `materials`; what it wrote is undone."""
    given = [] if "--out" in words or command == "latent" else ["--out", "made"]
    small = command == "latent rollout" and "--calibration" not in words
    given += ["--calibration", "3"] if small else []
    return undone(materials(), ["interp", *command.split(), *words.split(), *given])


def commanded(command: str, words: str) -> Found:
    """Give one command one wrong argument and note how it ended."""
    return judged(command, words, ended(command, words))


# ---------------------------------------------------------------- bad rows among good ones

BAD_ROWS: dict[str, Any] = {
    "broken JSON": '{"id": "half", "question": "What',
    "a list": "[1, 2]",
    "no question": {"id": "a", "answer": "b", "steps": ["b"]},
    "no answer": {"id": "b", "question": "a b", "steps": ["b"]},
    "an answer that is a list": {**GOOD[0], "id": "c", "question": "a c", "answer": ["b"]},
    "no steps": {"id": "d", "question": "a d", "answer": "b"},
    "a step that is a number": {**GOOD[0], "id": "e", "question": "a e", "steps": [1]},
    "an id twice": {**GOOD[0], "question": "a f"},
    "a calibration question": {**GOOD[7], "id": "g"},
    "a question too long": {**GOOD[0], "id": "h", "question": LONG},
}
"""Rows that are marked; the others of the file are run. First those that cannot be read."""


def marks() -> dict[str, str | None]:
    """For each bad row why it is marked; None where it is not, or a good row is lost."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_rows(Path("rows.jsonl"), [*GOOD[:4], *BAD_ROWS.values(), *GOOD[4:]])
        model = str(materials() / "coconut")
        argv = ["interp", "latent", "rollout", model, "--data", "rows.jsonl", "--out", "x"]
        status, _, err = ran([*argv, "--calibration", "3"])
        rows = results.Store.open(Path("x")).rows("latent_items")
    good = {each["id"] for each in rows if each["status"] == "run"}
    told = [each["reason"] for each in rows if each["status"] == "marked"]
    fine = status == 3 and not err and good == {each["id"] for each in GOOD}
    if not fine or len(told) != len(BAD_ROWS):
        return dict.fromkeys(BAD_ROWS)
    return dict(zip(BAD_ROWS, told, strict=True))


def marked() -> list[Found]:
    """The bad rows as rows of the table: refused one by one, not as a file."""
    part = "interp latent rollout, a row"
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
    tell(rows, argv, module="bad_latent", told=told)


if __name__ == "__main__":
    main()
