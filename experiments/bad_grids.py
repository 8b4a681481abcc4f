"""Wrong grid files, and the sentence that each one gives.

    python -m experiments.bad_grids [--json]

Each makes one mistake that a user makes: a misspelt field, a value of the wrong type, an axis that
does nothing, two cells that are the same. Each must end in an `InputError` before anything runs;
the exit status is 1 where one does not. The experiment lies here and needs no model, so it also
serves to try a sweep: `experiment: experiments.bad_grids:EXPERIMENT`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.markup import escape
from rich.table import Table

from experiments.refusals import tell
from interp.errors import InputError
from interp.sweeps.experiment import Experiment, Made
from interp.sweeps.grid import read_grid

# ---------------------------------------------------------------- an experiment without a model


@dataclass(frozen=True, kw_only=True)
class Config:
    """How fast a signal decays through the layers of a network that is two numbers."""

    model: str
    """Its name; `deep` has 12 layers, any other 4."""
    layer: int = 0
    """From 0, in the layers that the model has."""
    sites: tuple[str, ...] = ("resid_post",)
    """One row each."""
    rate: float = 0.5
    """What a layer leaves of the signal, above 0."""
    preset: Literal["default", "paper"] = "default"
    """`paper` counts the layer itself as well."""
    input: Path | None = None
    """A file of signals; 1 without one."""
    exact: bool = False
    """Changes nothing."""
    seed: int = 0
    """Is added to the signal."""

    def __post_init__(self) -> None:
        layers = 12 if self.model == "deep" else 4
        if not 0 <= self.layer < layers:
            raise InputError(
                f"{self.model!r} has no layer {self.layer}: its layers are 0 to {layers - 1}."
            )
        if self.rate <= 0:
            raise InputError(f"The rate {self.rate} leaves no signal: give one above 0.")


def identity(config: Config) -> Mapping[str, object]:
    """What identifies the subject: its name, as it has no weights."""
    return {"name": config.model}


def group(config: Config) -> tuple[str, ...]:
    """Cells of one model share it."""
    return (config.model,)


def load(config: Config) -> int:
    """The subject: how many more layers count."""
    return 1 if config.preset == "paper" else 0


def run(subject: int, config: Config) -> Made:
    """One row a site: what is left of the signal after the layers."""
    left = (1 + config.seed) * config.rate ** (config.layer + subject)
    return Made({"left": [{"site": site, "left": left} for site in config.sites]})


EXPERIMENT = Experiment(
    name="decay",
    config=Config,
    identity=identity,
    group=group,
    load=load,
    run=run,
    code=(Path(__file__),),
    unit="site",
)

# ---------------------------------------------------------------- wrong grids


@dataclass(frozen=True)
class Wrong:
    """One grid file with a mistake."""

    mistake: str
    text: str | bytes | None
    """What the file holds; None where there is none."""
    file: str = "grid.yaml"


@dataclass(frozen=True)
class Found:
    """How reading a wrong grid ended."""

    mistake: str
    error: str
    """The class of the error; empty where the grid was accepted."""
    sentence: str

    @property
    def holds(self) -> bool:
        """Whether it was refused as it should be."""
        return self.error == "InputError" and bool(self.sentence)


def grid(*lines: str, base: str = "base: {model: flat}") -> str:
    """A grid of the experiment above, which is right but for the lines."""
    return "\n".join(["experiment: experiments.bad_grids:EXPERIMENT", base, *lines]) + "\n"


def product(**axes: str) -> str:
    """One line that multiplies axes, as flow YAML."""
    return "axes: {product: {" + ", ".join(f"{k}: {v}" for k, v in axes.items()) + "}}"


LAYERS = product(layer="[0, 1]")


def wrong_files() -> list[Wrong]:
    """Files that are not there, no text, or no YAML."""
    return [
        Wrong("no file", None),
        Wrong("an empty file", "# later\n"),
        Wrong("no text", b"\xff\xfe\x00\x01"),
        Wrong("a character that is no text", "experiment: tts\nbase: {model: a\x00b}\n"),
        Wrong("a name that is no folder", grid(LAYERS), file="my grid.yaml"),
        Wrong("indented with a tab", "experiment: tts\nbase:\n\tmodel: flat\n"),
        Wrong("a bracket left open", grid("axes: {product: {layer: [0, 1}}")),
        Wrong("a key written twice", grid("tries: 2", LAYERS, "tries: 3")),
        Wrong("a key that is a number", grid("axes: {product: {1: [0, 1]}}")),
        Wrong("an alias", grid("axes: {product: {layer: &a [0, 1], seed: *a}}")),
        Wrong("a tag", grid("axes: {product: {layer: !!python/tuple [0, 1]}}")),
        Wrong("two documents", grid(LAYERS) + "---\n" + grid(LAYERS)),
        Wrong("a list for a grid", "- experiment: tts\n"),
    ]


def wrong_parts() -> list[Wrong]:
    """Parts of a grid that are misspelt, missing or of another type."""
    return [
        Wrong("a misspelt part", grid(LAYERS, "seed: [0, 1]")),
        Wrong("no experiment", "base: {model: flat}\n"),
        Wrong("a misspelt experiment", "experiment: tss\n"),
        Wrong("a module that is not there", "experiment: my.module:EXPERIMENT\n"),
        Wrong("no Experiment", "experiment: experiments.bad_grids:LAYERS\n"),
        Wrong("a list for base", grid(LAYERS, base="base: [model, flat]")),
        Wrong("no axes below axes", grid("axes: {}")),
        Wrong("a misspelt kind of axis", grid("axes: {prodct: {layer: [0, 1]}}")),
        Wrong("one value for a list", grid(product(layer="1"))),
        Wrong("a mapping for list", grid("axes: {list: {layer: [0, 1]}}")),
        Wrong("tries: 0", grid(LAYERS, "tries: 0")),
        Wrong("tries: true", grid(LAYERS, "tries: true")),
        Wrong("seconds: -1", grid(LAYERS, "seconds: -1")),
        Wrong("seconds: ten", grid(LAYERS, "seconds: ten")),
        Wrong("memory_gib: .inf", grid(LAYERS, "memory_gib: .inf")),
    ]


def wrong_fields() -> list[Wrong]:
    """Fields that the experiment has not, and values that a field does not take."""
    return [
        Wrong("a misspelt field in base", grid(LAYERS, base="base: {modle: flat}")),
        Wrong("a misspelt field in product", grid(product(layr="[0, 1]"))),
        Wrong("a misspelt field in zip", grid("axes: {zip: {layer: [0, 1], sed: [0, 1]}}")),
        Wrong("a misspelt field in list", grid("axes: {list: [{layer: 0}, {laier: 1}]}")),
        Wrong("a misspelt field in exclude", grid(LAYERS, "exclude: [{layers: 1}]")),
        Wrong("a field that is needed", grid(LAYERS, base="base: {exact: true}")),
        Wrong("a number in quotes", grid(product(layer="[0, '1']"))),
        Wrong("true for a whole number", grid(product(layer="[0, true]"))),
        Wrong("1.0 for a whole number", grid(product(layer="[0, 1.0]"))),
        Wrong("yes for true", grid(LAYERS, base="base: {model: flat, exact: yes}")),
        Wrong("a number for text", grid(LAYERS, base="base: {model: 7}")),
        Wrong("a misspelt choice", grid(product(preset="[default, papr]"))),
        Wrong("text for a list", grid(LAYERS, base="base: {model: flat, sites: embed}")),
        Wrong("NaN", grid(product(rate="[0.5, .nan]"))),
        Wrong("a number beyond floats", grid(product(rate="[0.5, 1e999]"))),
        Wrong("a value the configuration refuses", grid(product(layer="[0, 9]"), "seeds: 3")),
    ]


def wrong_cells() -> list[Wrong]:
    """Axes that do nothing, cells that are the same, and too few or too many of them."""
    huge = ", ".join(map(str, range(1001)))
    return [
        Wrong("an axis of one value", grid(product(layer="[1]"))),
        Wrong("an axis of no value", grid(product(layer="[]"))),
        Wrong("a value twice", grid(product(layer="[0, 1, 0]"))),
        Wrong("0.5 and 5e-1", grid(product(rate="[0.5, 5e-1]"))),
        Wrong("a base value replaced", grid(product(model="[flat, deep]"))),
        Wrong("a field in two axes", grid("axes: {product: {seed: [0, 1]}}", "seeds: 2")),
        Wrong("zip of two lengths", grid("axes: {zip: {layer: [0, 1], seed: [0, 1, 2]}}")),
        Wrong("a constant in zip", grid("axes: {zip: {layer: [0, 1], seed: [5, 5]}}")),
        Wrong("equal rows in list", grid("axes: {list: [{layer: 1}, {layer: 1, rate: 0.5}]}")),
        Wrong("a seed twice", grid("seeds: [0, 1, 1]")),
        Wrong("no seed", grid("seeds: 0")),
        Wrong("a misspelt exclusion", grid(product(preset="[default, paper]"), _out("papr"))),
        Wrong("an exclusion of no cell", grid(LAYERS, "exclude: [{layer: 3}]")),
        Wrong("an exclusion of all", grid(LAYERS, "exclude: [{model: flat}]")),
        Wrong("an exclusion of all but one", grid(LAYERS, "exclude: [{layer: 1}]", "seeds: 2")),
        Wrong("an exclusion of nothing", grid(LAYERS, "exclude: [{}]")),
        Wrong("a million cells", grid(product(seed=f"[{huge}]", rate=f"[{huge[3:]}]"))),
        Wrong("several mistakes", grid(LAYERS, "tries: 0", "seconds: true")),
    ]


def _out(preset: str) -> str:
    return f"exclude: [{{preset: {preset}}}]"


def read(wrong: Wrong) -> Found:
    """Read one wrong grid in a folder of its own, and note how it ended."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if wrong.text is not None:
            data = wrong.text if isinstance(wrong.text, bytes) else wrong.text.encode()
            Path(wrong.file).write_bytes(data)
        try:
            read_grid(wrong.file)
        except InputError as error:
            return Found(wrong.mistake, "InputError", str(error))
        except Exception as error:  # what this program is there to find
            return Found(wrong.mistake, type(error).__name__, str(error))
    return Found(wrong.mistake, "", "accepted")


def rows() -> list[Found]:
    """Read every wrong grid."""
    return [read(w) for w in [*wrong_files(), *wrong_parts(), *wrong_fields(), *wrong_cells()]]


def table(found: Sequence[Found]) -> Table:
    """Lay the rows out: the mistake, and what it is answered with."""
    drawn = Table("grid with", "sentence", "refused", show_lines=True)
    for row in found:
        refused = "yes" if row.holds else f"NO: {row.error or 'accepted'}"
        drawn.add_row(*map(escape, (row.mistake, row.sentence, refused)))
    return drawn


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, or with `--json` a line a grid; exit 1 where one is not refused."""
    tell(rows, argv, module="bad_grids", told="wrong grids are refused.", lay=table)


if __name__ == "__main__":
    main()
