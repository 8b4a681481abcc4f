"""Wrong calls and commands about alignment, and the sentence that each one gives.

    python -m experiments.bad_alignment [--json]

Every call makes one mistake that a user makes with algorithms, maps, tables, sites, networks and
`interp align`. Each must end in an `InterpError` (on the command line in exit status 2 without a
traceback) before a network is run or trained, with nothing written or lost.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import interp.results as results
from experiments.refusals import Ended, Found, Wrong, called, judged, tell, undone, wrongs
from interp.alignment import saved
from interp.alignment.families import build
from interp.alignment.fitting import Budget
from interp.alignment.fixed import UserMap
from interp.alignment.maps import Identity
from interp.alignment.subjects import LayerSubject
from interp.causal_models import CausalModel, Variable
from interp.data.alignment_tasks import task_named
from interp.data.counterfactuals import distinguishing, require_apart
from interp.jobs.align_worlds import Classifiers
from interp.models.classifiers import MANIFEST, NETS, load_classifiers, mlp

RECORDS = Path(__file__).parent / "records" / "alignment_nets"

# ---------------------------------------------------------------- what the calls are made on


@cache
def materials() -> Path:
    """A folder with networks, maps and runs, good and bad; made once."""
    folder = Path(tempfile.mkdtemp(prefix="bad-alignment-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in ("equality", "distributive", *DAMAGES):
        kind = name if name == "distributive" else "equality"
        shutil.copytree(RECORDS / kind, folder / name)
    for name, damage in DAMAGES.items():
        damage(folder / name)
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("what I did\n")
    (folder / "diary").mkdir()
    (folder / "diary" / "monday.txt").write_text("nothing\n")
    saved.save(Identity(16, {"left": (0,), "right": (1,)}), folder / "map", site="1", model="a")
    begin_run(folder / "run")
    return folder


def begin_run(out: Path) -> None:
    """Write a run of another kind, of one cell."""
    about: dict[str, Any] = {"settings": {"task": "another"}, "model": {"name": "m"}, "data": {}}
    manifest = results.collect(experiment="align", **about, seeds=[0], device="cpu", code="0" * 32)
    store = results.Store.begin(out, manifest)
    key = {"align": {"net": 1}}
    store.write(results.cell_key(key), key, {"align_fits": [{"iia": 0.5}]}, {"seconds": 1.0})


def cut(folder: Path) -> None:
    """Lose the end of the weights."""
    path = folder / NETS
    path.write_bytes(path.read_bytes()[:-9])


def flip(folder: Path) -> None:
    """Change one bit of the weights."""
    data = bytearray((folder / NETS).read_bytes())
    data[-5] ^= 1
    (folder / NETS).write_bytes(bytes(data))


def seedless(folder: Path) -> None:
    """Name no seed in the manifest."""
    about = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**about, "seeds": []}))


DAMAGES: Mapping[str, Callable[[Path], object]] = {
    "cut": cut,
    "flipped": flip,
    "seedless": seedless,
    "prose": lambda folder: (folder / MANIFEST).write_text("three networks"),
    "no-weights": lambda folder: (folder / NETS).unlink(),
    "no-manifest": lambda folder: (folder / MANIFEST).unlink(),
}
"""Folders of networks, and what is wrong with each."""


# ---------------------------------------------------------------- calls from Python


def same(left: Tensor, right: Tensor) -> Tensor:
    """Whether two values are equal."""
    return left == right


def wrong_algorithms() -> list[Wrong]:
    """Causal models that are no acyclic graph of known variables."""

    def model(*variables: Variable, output: str = "out") -> object:
        return CausalModel("mine", ("a", "b"), variables, output)

    def var(name: str, *parents: str) -> Variable:
        return Variable(name, parents, same)

    def reads_text() -> object:
        return Variable("out", "ab", same)  # type: ignore[arg-type]

    out = var("out", "a", "b")
    calls: dict[str, Callable[[], object]] = {
        "a cycle of two": lambda: model(var("x", "y", "a"), var("y", "x", "a"), var("out", "x")),
        "a variable that reads itself": lambda: model(var("out", "out", "a")),
        "an unknown parent": lambda: model(var("out", "a", "c")),
        "a name twice": lambda: model(out, out),
        "an output that is not computed": lambda: model(out, output="answer"),
        "a variable that reads nothing": lambda: var("out"),
        "parents as a text": reads_text,
    }
    return wrongs("CausalModel", calls)


class OneWay(nn.Module):
    """A map without an inverse."""

    def forward(self, states: Tensor) -> Tensor:
        """Return the states."""
        return states


class Narrow(OneWay):
    """A map whose inverse loses a coordinate."""

    def inverse(self, latents: Tensor) -> Tensor:
        """Return all but the last."""
        return latents[:, :-1]


def wrong_maps() -> list[Wrong]:
    """Maps that cannot be, or not for these variables."""
    two = ("left", "right")
    blocks = {"left": (0,), "right": (1,)}
    calls: dict[str, Callable[[], object]] = {
        "a map without an inverse": lambda: UserMap(OneWay(), 4, blocks),
        "an inverse that loses a coordinate": lambda: UserMap(Narrow(), 4, blocks),
        "blocks that overlap": lambda: Identity(4, {"left": (0, 1), "right": (1, 2)}),
        "a block outside": lambda: Identity(4, {"left": (0,), "right": (4,)}),
        "build('orthogonl')": lambda: build("orthogonl", 4, two, 1),
        "build('revnet-0x4')": lambda: build("revnet-0x4", 4, two, 1),
        "size 3 of 2 variables at 4": lambda: build("orthogonal", 4, two, 3),
        "size 0": lambda: build("orthogonal", 4, two, 0),
        "pca without states": lambda: build("pca", 4, two, 1),
        "load of no map": lambda: saved.load(materials() / "equality"),
        "load for another width": lambda: saved.load(materials() / "map", d=24),
        "load for another site": lambda: saved.load(materials() / "map", site="2"),
        "load for another network": lambda: saved.load(materials() / "map", model="b"),
        "Budget(steps=0)": lambda: Budget(steps=0),
    }
    return wrongs("maps", calls)


def wrong_tables() -> list[Wrong]:
    """Inputs that vary nothing or stand in two splits, and rivals that are none."""
    task = task_named("equality")

    def table(split: str = "train", algorithm: str = "both_equality") -> Any:
        return task.table(algorithm, 16, 1, split=split)

    def constant() -> object:
        plain = table()
        return replace(plain, values={**plain.values, "left": torch.ones(16, dtype=torch.bool)})

    def leak() -> object:
        train, test = table(), table("test")
        inputs = torch.cat([test.inputs[1:], train.inputs[:1]])
        return require_apart(train, replace(test, inputs=inputs))

    calls: dict[str, Callable[[], object]] = {
        "a variable that no input varies": constant,
        "a train/test leak": leak,
        "a split against one of another width": lambda: require_apart(
            table(), task_named("distributive").table("and_or", 16, 1, split="test")
        ),
        "a split 'tst'": lambda: table("tst"),
        "3 inputs": lambda: task.table("both_equality", 3, 1),
        "0 pairs": lambda: table().pairs(0, 1),
        "an algorithm as its own rival": lambda: distinguishing(table(), table(), 4, 0),
        "a rival of other inputs": lambda: distinguishing(table(), table("test"), 4, 0),
        "task_named('equalty')": lambda: task_named("equalty"),
        "rivals of 'both'": lambda: task.rivals("both"),
    }
    return wrongs("tables", calls)


def wrong_networks() -> list[Wrong]:
    """Sites that a network lacks, and folders that hold no networks of the task."""

    def load(name: str) -> Callable[[], object]:
        return lambda: load_classifiers(materials() / name)

    calls: dict[str, Callable[[], object]] = {
        "a site that the model lacks": lambda: LayerSubject(mlp(4, 4, 3, 2, 0), "7"),
        "layer 4 of 3": lambda: Classifiers("equality", 2).subject(4287, "twin", "4"),
        "a network of width 0": lambda: mlp(0, 4, 3, 2, 0),
        **{f"networks, {name}": load(name) for name in (*DAMAGES, "empty", "nowhere")},
        "networks of another kind": lambda: load_classifiers(
            materials() / "equality", kind="distributive"
        ),
    }
    return wrongs("networks", calls)


PYTHON = (*wrong_algorithms(), *wrong_maps(), *wrong_tables(), *wrong_networks())

# ---------------------------------------------------------------- commands

COMMANDS: tuple[str, ...] = (
    "",
    "equalty",
    "equality distributive",
    "equality --algorithm both_equalty",
    "equality --algorithm and_or",
    "equality --rivals left_equality",
    "equality --rivals first_arguments first_arguments",
    "equality --rivals",
    "equality --maps orthogonl",
    "equality --maps revnet-10x0",
    "equality --maps revnet-LxH",
    "equality --maps orthogonal orthogonal",
    "equality --maps",
    "equality --maps difference --sizes 1",
    "equality --maps difference",
    "equality --sites 4",
    "equality --sites 1.resid_post",
    "equality --sites 1 1",
    "equality --sites",
    "equality --sizes 9",
    "equality --sizes 0",
    "equality --sizes -2",
    "equality --sizes x",
    "equality --sizes 4 4",
    "equality --sizes",
    "equality --budget smok",
    "equality --nets 1",
    "equality --nets 11",
    "equality --nets x",
    "equality --updates 0",
    "equality --updates x",
    "equality --threads 0",
    "equality --waive-rival ''",
    "equality --waive-rival ' '",
    "equality --waive-rival reason --rivals first_arguments",
    "equality --model tiny-llama",
    "equality --folder distributive",
    "equality --folder equality --nets 11",
    *(f"equality --folder {name}" for name in (*DAMAGES, "empty", "nowhere", "notes.txt", "run")),
    "distributive --folder equality",
    "distributive --algorithm both_equality",
    "ioi",
    "ioi --folder equality",
    "ioi --model nowhere",
    "ioi --model equality",
    "ioi --model tiny-llama",
    "equality --folder equality --out run",
    "equality --folder equality --out diary",
    "equality --folder equality --out notes.txt",
    "equality --folder equality --out equality",
    "equality --outt x",
)
"""The wrong words behind `interp align`; each is run in the folder `materials`."""


@contextlib.contextmanager
def worked() -> Iterator[list[str]]:
    """Inside the block, notes each run of a classifier and each update of weights."""
    seen: list[str] = []

    def ran(module: nn.Module, given: object) -> None:
        if isinstance(module, nn.Sequential):
            seen.append("run")

    def learnt(*_: Any, **__: Any) -> None:
        seen.append("update")

    handle = nn.modules.module.register_module_forward_pre_hook(ran)
    try:
        with mock.patch.object(torch.Tensor, "backward", learnt):
            yield seen
    finally:
        handle.remove()


def words_of(text: str) -> list[str]:
    """The words of a command; quotes hold an empty one or a blank.

    >>> words_of("equality --waive-rival ''")
    ['equality', '--waive-rival', '']
    """
    given = shlex.split(text)
    return given if "--out" in given else [*given, "--out", "made"]


def ended(text: str) -> Ended:
    """Run a command in this process, in the folder `materials`; what it wrote is undone."""
    with worked() as seen:
        end = undone(materials(), ["interp", "align", *words_of(text)])
    return replace(end, forwards=end.forwards + len(seen))


def commanded(text: str) -> Found:
    """Give the command one wrong argument and note how it ended."""
    return judged("align", text, ended(text))


def asked(wrong: Wrong) -> Found:
    """Make one wrong call from Python; a network that it runs counts as a forward pass."""
    with worked() as seen:
        found = called(wrong)
    return replace(found, forwards=found.forwards + len(seen))


# ---------------------------------------------------------------- the table


def rows() -> list[Found]:
    """Make every wrong call."""
    assert materials()
    return [*map(asked, PYTHON), *map(commanded, COMMANDS)]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, or with `--json` a line a call; exit 1 where one is not refused."""
    told = "are refused, with nothing run, trained, written or lost."
    tell(rows, argv, module="bad_alignment", told=told)


if __name__ == "__main__":
    main()
