"""Find and cut the path of a planted spurious pixel in a small vision network.

    python -m experiments.spurious_path

A net of two convolutions (8 and 16 filters) learns four shapes on 16x16 images. In training one
corner is lit, the one that belongs to the class; where the corner is random, accuracy falls. Path
effects, averaged over training images, find which filters carry the corner and in which part of
their maps; cutting the edges of those parts brings accuracy back. Beside it stand the controls: the
reference equal to the own value, the same cut in other blocks, the same images with no corner lit,
and a net trained on random corners. The method is our reading of arXiv:2305.08950, whose numbers
are not comparable.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
import tyro
from jaxtyping import Float, Int
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from interp.patching import modules
from interp.patching.modules import CausalGraph, Edge, Test, Unit

SIZE, N_CLASSES, BLOCKS = 16, 4, 4
LAYERS = ("0", "3", "7")
"""The two convolutions and the head, by their names in `network`."""
Cells = tuple[int, int, int, int]
CORNERS = ((0, 0), (0, SIZE - 1), (SIZE - 1, 0), (SIZE - 1, SIZE - 1))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train, find the path of the corner, cut it; on images that are made here."""

    train: int = 10_000
    """Training images."""
    test: int = 1000
    """Images of each test set."""
    probe: int = 400
    """Training images over which path effects are averaged."""
    match: float = 1.0
    """Share of training images whose lit corner is that of their class; the rest draw one."""
    noise: float = 0.2
    """Standard deviation of the pixel noise; a shape's pixels are 1."""
    bright: float = 3.0
    """How bright the lit corner is."""
    epochs: int = 6
    min_ace: float = 0.05
    """Smallest path effect kept, in nats of the class's logit."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.match <= 1 or min(self.train, self.test, self.probe, self.epochs) < 1:
            raise ValueError("--match is a share; images and epochs are at least 1.")


@dataclass(frozen=True)
class Images:
    """Images, their classes, and which corner is lit in each."""

    x: Float[Tensor, "image 1 row column"]
    y: Int[Tensor, " image"]
    corner: Int[Tensor, " image"]


def shapes() -> Float[Tensor, "class 5 5"]:
    """Return a square's outline, a cross, a diagonal cross and a triangle."""
    ends, line = [0, -1], torch.arange(5)
    square, plus, cross, triangle = (torch.zeros(5, 5) for _ in range(N_CLASSES))
    square[ends], square[:, ends] = 1.0, 1.0
    plus[2], plus[:, 2] = 1.0, 1.0
    cross[line, line], cross[line, 4 - line] = 1.0, 1.0
    for row in range(5):
        triangle[row, 2 - row // 2 : 3 + row // 2] = 1.0
    return torch.stack([square, plus, cross, triangle])


def images(n: int, *, match: float, noise: float, bright: float, seed: int) -> Images:
    """Draw images: a shape somewhere off the corners' blocks, one lit corner, noise."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(N_CLASSES, (n,), generator=rng)
    drawn = torch.randint(N_CLASSES, (n,), generator=rng)
    corner = torch.where(torch.rand(n, generator=rng) < match, y, drawn)
    place = torch.randint(5, 7, (n, 2), generator=rng).tolist()
    drawings = shapes()
    x = noise * torch.randn(n, 1, SIZE, SIZE, generator=rng)
    for i, (row, column) in enumerate(place):
        x[i, 0, row : row + 5, column : column + 5] += drawings[y[i]]
        x[i, 0, *CORNERS[int(corner[i])]] += bright
    return Images(x, y, corner)


def network(seed: int) -> nn.Sequential:
    """Return the untrained net: 8 and 16 filters, one pooling after each, a linear head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * (SIZE // 4) ** 2, N_CLASSES),
        )


def trained(data: Images, *, epochs: int, seed: int) -> nn.Sequential:
    """Train with Adam, batches of 100."""
    model, rng = network(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.y), generator=rng).split(100):
            loss = nn.functional.cross_entropy(model(data.x[rows]), data.y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def graphs(model: nn.Module, probe: Images, config: Config) -> tuple[CausalGraph, ...]:
    """Find each class's graph over that class's own images, maps in 4 x 4 blocks."""
    test = Test(measure="logit", min_ace=config.min_ace, n_flips=4999, n_boot=200, seed=config.seed)
    mean = modules.reference(model, probe.x, LAYERS[:-1])
    return tuple(
        modules.causal_graph(
            model,
            probe.x[probe.y == target],
            units_to_test(model),
            LAYERS[-1],
            target=target,
            reference=mean,
            test=test,
        )
        for target in range(N_CLASSES)
    )


def units_to_test(model: nn.Module) -> dict[str, tuple[Unit, ...]]:
    """Return the parts of the first convolution's maps, and the second one's filters."""
    return {
        LAYERS[0]: modules.units(model, LAYERS[0], blocks=BLOCKS, map_size=(SIZE, SIZE)),
        LAYERS[1]: modules.units(model, LAYERS[1]),
    }


def astray(unit: Unit) -> bool:
    """Whether a part of a map sees no shape: shapes and their halo lie in rows and columns 4-11.

    This is what an auditor knows of the images; where a shortcut lies is not told.
    """
    top, _, left, _ = unit.cells or (4, 0, 4, 0)
    return not (4 <= top < 12 and 4 <= left < 12)


def path_mass(graph: CausalGraph) -> dict[Cells, float]:
    """Add up |ACE| over the kept filters of each block that sees no shape, in nats."""
    mass: dict[Cells, float] = {}
    for effect in graph.effects.get(LAYERS[0], ()):
        cells = effect.unit.cells
        if effect.kept and cells and astray(effect.unit):
            mass[cells] = mass.get(cells, 0.0) + abs(effect.ace)
    return mass


def block_of(cell: tuple[int, int]) -> Cells:
    """Return the block of a map that holds a cell."""
    step = SIZE // BLOCKS
    row, column = (place // step * step for place in cell)
    return row, row + step, column, column + step


def spurious_edges(found: Sequence[CausalGraph]) -> tuple[Edge, ...]:
    """Return the graphs' edges that start in a part of a map that sees no shape."""
    every = (edge for graph in found for edge in graph.edges)
    return tuple(
        dict.fromkeys(e for e in every if e.source.layer == LAYERS[0] and astray(e.source))
    )


def moved(cut: Sequence[Edge], seed: int) -> tuple[Edge, ...]:
    """Return the control: the same filters and consumers, the blocks drawn among the others."""
    rng = random.Random(seed)
    touched = {edge.source.cells for edge in cut}
    starts = range(0, SIZE, SIZE // BLOCKS)
    blocks = {block_of((row, column)) for row in starts for column in starts}
    others = sorted(blocks - touched)
    rng.shuffle(others)
    places = cycle(others)
    place = {cells: next(places) for cells in sorted(cells for cells in touched if cells)}
    return tuple(
        Edge(Unit(e.source.layer, e.source.index, place[e.source.cells]), e.consumer)
        for e in cut
        if e.source.cells
    )


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Yield one row for each class's path, then one for each kind of cut, then the controls."""
    draw = {"noise": config.noise, "bright": config.bright}
    train = images(config.train, match=config.match, seed=config.seed, **draw)
    model = trained(train, epochs=config.epochs, seed=config.seed)
    probe = Images(*(part[: config.probe] for part in (train.x, train.y, train.corner)))
    found = graphs(model, probe, config)
    yield from map(path_row, found)
    mean = modules.reference(model, probe.x, LAYERS[:-1])
    sets = {
        "matched": images(config.test, match=1.0, seed=config.seed + 1, **draw),
        "random": images(config.test, match=0.0, seed=config.seed + 2, **draw),
        "unlit": images(
            config.test, match=0.0, seed=config.seed + 2, noise=config.noise, bright=0.0
        ),
    }
    tested, head = units_to_test(model), modules.units(model, LAYERS[-1])
    cuts: dict[str, Sequence[Edge]] = {
        "nothing": (),
        "spurious path": spurious_edges(found),
        "control: other blocks": moved(spurious_edges(found), config.seed),
        "all but the graphs": modules.other_edges(found, tested, head),
        "the graphs": [edge for graph in found for edge in graph.edges],
    }
    for name, cut in cuts.items():
        yield {"row": "accuracy", "cut": name, "edges": len(set(cut))} | {
            on: modules.accuracy(model, data.x, data.y, cut=cut, reference=mean)
            for on, data in sets.items()
        }
    fair = trained(
        images(config.train, match=0.0, seed=config.seed, **draw),
        epochs=config.epochs,
        seed=config.seed,
    )
    yield {"row": "accuracy", "cut": "net trained on random corners", "edges": 0} | {
        on: modules.accuracy(fair, data.x, data.y, reference={}) for on, data in sets.items()
    }
    yield own_value_row(model, probe, spurious_edges(found))


def path_row(graph: CausalGraph) -> dict[str, Any]:
    """Say where a class's path outside the shapes lies, and where it was planted."""
    mass, planted = path_mass(graph), block_of(CORNERS[graph.target])
    total = sum(mass.values())
    return {
        "row": "path",
        "target": graph.target,
        "strongest": max(mass, key=mass.__getitem__) if mass else None,
        "planted": planted,
        "share": mass.get(planted, 0.0) / total if total else 0.0,
        "kept": tuple(len(graph.kept(layer)) for layer in LAYERS[:-1]),
    }


def own_value_row(model: nn.Module, probe: Images, cut: Sequence[Edge]) -> dict[str, Any]:
    """Return the placebo: the largest change of a logit when the reference is the own value."""
    own = modules.reference(model, probe.x, LAYERS[:-1], "own")
    with torch.no_grad():
        clean = model(probe.x)
    patched = modules.patch_edges(model, probe.x, cut, reference=own).output
    return {"row": "placebo", "largest_change": float((patched - clean).abs().max())}


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Lay rows of one kind out."""
    out = Table(title=title)
    names = [name for name in rows[0] if name != "row"]
    for name in names:
        out.add_column(name)
    for row in rows:
        cells = (row[name] for name in names)
        out.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells))
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Run and print."""
    console = Console()
    rows = list(run(tyro.cli(Config, args=argv, description=__doc__)))
    for kind in dict.fromkeys(row["row"] for row in rows):
        console.print(table([row for row in rows if row["row"] == kind], kind))


if __name__ == "__main__":
    main()
