"""The planted induction circuit, as every method finds it.

    python -m experiments.planted_circuit

`interp.models.induction` wires two heads and five edges that an interchange between prompts can
show, among eight heads and all edges between them. Each method scores every head or edge; it names
those whose mean share of the gap is at least `THRESHOLD` in size. Precision and recall compare the
names with `CIRCUIT`; the margin divides the smallest share of a true one, on any pair, by the
largest of a false one.

Patching moves one head or edge alone, so a pair must give each true one an effect: `all` does in
the noise direction, `swap` in both. With attention as sharp as 40 nats a match its gradient is
gone, and the gradient at the base run sees no query and no key: attribution has the model whose
match is 6 nats, and so has patching once more for comparison.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

import interp
from interp.engine.model import Model
from interp.engine.sweep import At, sweep
from interp.metrics import LogitDiff
from interp.models import induction
from interp.models.induction import CIRCUIT, MATCH, N_HEADS, N_LAYERS
from interp.patching.attribution import attribute
from interp.patching.edges import eap
from interp.patching.path import Edge, all_edges, path_patch
from interp.patching.path_nodes import Receiver, Sender

RECORD = Path(__file__).parent / "records" / "planted_circuit.jsonl"
THRESHOLD = 0.01
"""The least share of the gap between the runs at which a head or edge is named."""
SOFT = 6.0
"""A match in nats at which gradients flow through attention."""
LENGTHS = (8, 11, 14)
"""Tokens of the pairs, one pair each: the batch is padded."""
STEPS = 8
"""Gradients along the path of integrated gradients."""

What = Literal["heads", "edges"]


@dataclass(frozen=True, eq=False)
class Prompts:
    """Pairs of one kind in one direction, ready to run."""

    base: list[list[int]]
    source: list[list[int]]
    metric: LogitDiff

    @classmethod
    def draw(cls, kind: str, direction: str) -> Prompts:
        """One pair of each of `LENGTHS`; noise starts from the clean prompts."""
        pairs = [induction.prompt_pair(kind, length=n, seed=n) for n in LENGTHS]
        clean, corrupted = (
            [list(getattr(p, end)) for p in pairs] for end in ("clean", "corrupted")
        )
        metric = LogitDiff([p.correct for p in pairs], [p.wrong for p in pairs])
        ends = (clean, corrupted) if direction == "noise" else (corrupted, clean)
        return cls(*ends, metric)


Shares = dict[str, Float[Tensor, " pair"]]
"""The share of the gap that each head or edge moves on each pair."""
Finder = Callable[[Model, Prompts], Shares]


def shares(names: Sequence[str], effects: Tensor, base: Tensor, source: Tensor) -> Shares:
    """Divide effects `[name, pair]` by the gap of each pair."""
    return dict(zip(names, (effects / (source - base)).double(), strict=True))


HEADS = tuple((layer, head) for layer in range(N_LAYERS) for head in range(N_HEADS))


def head_names() -> list[str]:
    """Every head as the circuit writes it."""
    return [f"a{layer}.h{head}" for layer, head in HEADS]


def patched_heads(model: Model, prompts: Prompts) -> Shares:
    """Activation patching of each head's z at every token."""
    cells = [At(f"{layer}.attn.z", heads=head) for layer, head in HEADS]
    found = sweep(
        model, prompts.base, cells, prompts.metric, source=prompts.source, say=None
    )  # fmt: skip
    assert found.source is not None
    return shares(head_names(), found.effect, found.base, found.source)


def attributed_heads(along: Any, steps: int = STEPS) -> Finder:
    """Attribution patching of each head's z, summed over tokens."""

    def find(model: Model, prompts: Prompts) -> Shares:
        sites = [f"{layer}.attn.z" for layer in range(N_LAYERS)]
        found = attribute(
            model, prompts.base, prompts.source, prompts.metric, sites, along=along, steps=steps
        )
        scores = torch.cat([found.by_head(site).sum(1).T for site in sites])
        return shares(head_names(), scores, found.base, found.source)

    return find


def patched_paths(model: Model, prompts: Prompts) -> Shares:
    """Path patching of every edge, along direct paths."""
    edges = all_edges(
        model, senders=("embed", "head", "mlp_out"), receivers=("q", "k", "v", "mlp", "logits")
    )
    found = path_patch(model, prompts.base, prompts.source, edges, prompts.metric, say=None)
    names = [edge_name(edge) for edge in edges]
    return shares(names, found.effect, found.base, found.source)


def attributed_edges(along: Any, steps: int = STEPS) -> Finder:
    """Edge attribution patching of every edge."""

    def find(model: Model, prompts: Prompts) -> Shares:
        found = eap(model, prompts.base, prompts.source, prompts.metric, along=along, steps=steps)
        scores = found.values[:, found.graph.exists].T
        return shares(found.graph.edges, scores, found.base, found.source)

    return find


def edge_name(edge: Edge) -> str:
    """Write an edge of path patching as the circuit does.

    >>> edge_name(Edge.of(("0.h2", "1.h1.k"))), edge_name(Edge.of(("embed", "1.mlp")))
    ('a0.h2->a1.h1<k>', 'input->m1')
    """
    (sender,), (receiver,) = edge.senders, edge.receivers
    return f"{_sender_name(sender)}->{_receiver_name(receiver)}"


def _sender_name(sender: Sender) -> str:
    named = {"embed": "input", "head": f"a{sender.layer}.h{sender.head}"}
    return named.get(sender.kind, f"m{sender.layer}")


def _receiver_name(receiver: Receiver) -> str:
    named = {"logits": "logits", "mlp": f"m{receiver.layer}"}
    return named.get(receiver.kind, f"a{receiver.layer}.h{receiver.head}<{receiver.kind}>")


@dataclass(frozen=True)
class Method:
    """A way to score every head or edge, and the model and pairs that it is given."""

    name: str
    what: What
    find: Finder
    settings: tuple[tuple[str, str, float], ...]
    """Kind of pairs, direction, and nats of a match."""


SHARP = (("all", "noise", MATCH), ("swap", "noise", MATCH), ("swap", "denoise", MATCH))
SMOOTH = (("swap", "noise", SOFT), ("swap", "denoise", SOFT))
METHODS = (
    Method("activation patching", "heads", patched_heads, SHARP + SMOOTH),
    Method("path patching", "edges", patched_paths, SHARP + SMOOTH),
    Method("attribution (gradient at base)", "heads", attributed_heads("none"), SMOOTH),
    Method("attribution (IG along inputs)", "heads", attributed_heads("inputs"), SMOOTH),
    Method("attribution (IG along activations)", "heads", attributed_heads("activations"), SMOOTH),
    Method("EAP", "edges", attributed_edges("none"), SMOOTH),
    Method("EAP-IG, inputs", "edges", attributed_edges("inputs"), SMOOTH),
    Method("EAP-IG, activations", "edges", attributed_edges("activations"), SMOOTH),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one method named on one kind of pairs."""

    method: str
    what: What
    pairs: str
    direction: str
    match: float
    """The score of a match in nats."""
    candidates: int
    """How many heads or edges were scored."""
    threshold: float
    named: tuple[str, ...]
    precision: float
    recall: float
    weakest: float
    """The smallest share of a true one, on any pair."""
    strongest: float
    """The largest share of a false one, on any pair."""

    @property
    def margin(self) -> float:
        """How many times the weakest true share is the strongest false one."""
        return self.weakest / self.strongest if self.strongest else float("inf")

    def record(self) -> dict[str, Any]:
        """Return the row as plain values for one line of JSON."""
        return asdict(self)


def truth(what: What) -> frozenset[str]:
    """The names of what is planted."""
    heads = (f"a{layer}.h{head}" for layer, head in CIRCUIT.heads)
    return frozenset(heads if what == "heads" else CIRCUIT.edges)


def judge(
    found: Mapping[str, Float[Tensor, " pair"]],
    true: frozenset[str],
    *,
    threshold: float = THRESHOLD,
) -> dict[str, Any]:
    """Compare shares with what is planted: the numbers of a row.

    >>> found = {"a": torch.tensor([0.5, 0.4]), "b": torch.tensor([0.001, 0.0])}
    >>> judged = judge(found, frozenset({"a", "c"}))
    >>> judged["named"], judged["precision"], judged["recall"], judged["weakest"]
    (('a',), 1.0, 0.5, 0.0)
    """
    named = tuple(name for name, each in found.items() if float(each.abs().mean()) >= threshold)
    right = len(true.intersection(named))
    sizes = {name: each.abs() for name, each in found.items()}
    zero = torch.zeros(1)
    weakest = min(float(sizes.get(name, zero).min()) for name in true)
    strongest = max((float(each.max()) for name, each in sizes.items() if name not in true))
    return {
        "candidates": len(found),
        "threshold": threshold,
        "named": named,
        "precision": right / len(named) if named else 0.0,
        "recall": right / len(true),
        "weakest": weakest,
        "strongest": strongest,
    }


def rows(methods: Sequence[Method] = METHODS) -> list[Row]:
    """Let every method score the planted model."""
    models: dict[float, Model] = {}
    found = []
    for method in methods:
        for kind, direction, match in method.settings:
            if match not in models:
                hf = induction.build(match=match)
                models[match] = interp.load(hf, tokenizer=induction.tokenizer())
            scores = method.find(models[match], Prompts.draw(kind, direction))
            about = {"pairs": kind, "direction": direction, "match": match}
            judged = judge(scores, truth(method.what))
            found.append(Row(method=method.name, what=method.what, **about, **judged))
    return found


def table(found: Sequence[Row]) -> Table:
    """Lay the rows out, the names of heads and edges below each other."""
    headings = ("method", "pairs", "match", "named", "of", "precision", "recall", "margin")
    drawn = Table(*headings, title="The planted induction circuit", show_lines=True)
    for row in found:
        drawn.add_row(
            row.method,
            f"{row.pairs}, {row.direction}",
            f"{row.match:g}",
            "\n".join(row.named),
            f"{row.candidates} {row.what}",
            f"{row.precision:.2f}",
            f"{row.recall:.2f}",
            f"{row.margin:.2g}",
        )
    return drawn


def main() -> None:
    """Print the table and write the record."""
    found = rows()
    Console(width=140).print(table(found))
    lines = [json.dumps(row.record(), allow_nan=False) for row in found]
    RECORD.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"Record: {RECORD}")


if __name__ == "__main__":
    main()
