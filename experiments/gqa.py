"""What "the keys and values of head h" means where heads share them, against a Llama by hand.

    python -m experiments.gqa

tiny-llama has four query heads and two key-value heads. `attn.k` and `attn.v` of head h are those
of the group that h shares, before the rotation; `attn.k_each` and `attn.v_each` are the copy that
query head h alone reads, keys after the rotation. Every head of every layer is edited, in every
engine that has the site, and every head's path into every later key and value is patched. The judge
is the forward pass below, written with matrix products only. Weights are in float64, so that only
the parts that a Llama does in float32 whatever its weights are (norms, rotations) leave rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import interp
from interp.edits import Patch
from interp.engine.model import Model
from interp.metrics import LogitDiff
from interp.patching.path import path_patch
from interp.patching.path_nodes import Receiver, Sender

NAME, N_LAYERS, N_HEADS, D_HEAD = "tiny-llama", 3, 4, 8
GROUP = (0, 0, 1, 1)
"""The key-value head that each query head reads."""
ENGINES = ("torch", "transformer_lens", "nnsight")
PORTS = ("k", "v", "k_each", "v_each")
BASE = [5, 300, 41, 42, 7, 199, 260, 8, 12]
SOURCE = [5, 301, 99, 42, 31, 64, 150, 8, 77]
AT = (2, 5)
"""Where an edit acts."""
CORRECT, WRONG = 5, 6

Change = Callable[[Tensor], Tensor]
Changes = Mapping[tuple[int, str], Change]
"""What is done to `k`, `v`, `k_each` or `v_each` of a layer, each `[pos, head, d_head]`."""


# ---------------------------------------------------------------- by hand


@dataclass(eq=False)
class Pass:
    """One forward pass by hand."""

    logits: Float[Tensor, "pos d_vocab"] = field(default_factory=lambda: torch.empty(0))
    stream: list[Float[Tensor, "pos d_model"]] = field(default_factory=list)
    """What enters each layer."""
    z: list[Float[Tensor, "pos head d_head"]] = field(default_factory=list)


@torch.no_grad()
def by_hand(hf: Any, ids: Sequence[int], changes: Changes | None = None) -> Pass:
    """Run a Llama of the plain kind: grouped queries, rotary positions, gated MLP."""
    found, x = Pass(), hf.model.embed_tokens.weight[list(ids)]
    for layer, block in enumerate(hf.model.layers):
        found.stream.append(x)
        keys_values = projected(block, x, layer, changes or {})
        found.z.append(attended(block, x, *keys_values))
        x = x + found.z[-1].flatten(1) @ block.self_attn.o_proj.weight.T
        y, mlp = rms_norm(x, block.post_attention_layernorm), block.mlp
        gate, up = y @ mlp.gate_proj.weight.T, y @ mlp.up_proj.weight.T
        x = x + (gate * torch.sigmoid(gate) * up) @ mlp.down_proj.weight.T
    found.logits = rms_norm(x, hf.model.norm) @ hf.lm_head.weight.T
    return found


def projected(
    block: nn.Module, x: Float[Tensor, "pos d_model"], layer: int, changes: Changes
) -> tuple[Float[Tensor, "pos head d_head"], Float[Tensor, "pos head d_head"]]:
    """The key, rotated, and the value that each query head reads."""

    def changed(name: str, act: Tensor) -> Tensor:
        change = changes.get((layer, name))
        return act if change is None else change(act.clone())

    k, v = (changed(name, raw(block, x, name)) for name in ("k", "v"))
    group = list(GROUP)
    return changed("k_each", rotated(k)[:, group]), changed("v_each", v[:, group])


def raw(block: nn.Module, x: Float[Tensor, "pos d_model"], name: str) -> Tensor:
    """What one projection makes of the stream, `[pos, head, d_head]`, before the rotation."""
    weight = block.get_parameter(f"self_attn.{name}_proj.weight")
    return (rms_norm(x, block.input_layernorm) @ weight.T).unflatten(-1, (-1, D_HEAD))


def attended(block: nn.Module, x: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "pos head d_head"]:
    """What each query head takes from the values."""
    scores = torch.einsum("qhd,khd->hqk", rotated(raw(block, x, "q")), k) / D_HEAD**0.5
    later = torch.ones(len(x), len(x)).triu(1).bool()
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(later, -torch.inf).softmax(-1), v)


def rms_norm(x: Tensor, norm) -> Tensor:
    """Divide each token by its root mean square."""
    return norm.weight * x / (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()


def rotated(x: Float[Tensor, "pos head d_head"]) -> Float[Tensor, "pos head d_head"]:
    """Turn each pair (i, i + d_head / 2) by the position times 10000 ** (-2 i / d_head)."""
    half = x.shape[-1] // 2
    angle = torch.arange(len(x))[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def put(value: Tensor, head: int, positions: Sequence[int] | slice = slice(None)) -> Change:
    """A change that puts `value[pos]` into one head at some positions."""

    def change(act: Tensor) -> Tensor:
        at = positions if isinstance(positions, slice) else list(positions)
        act[at, head] = value[at]
        return act

    return change


def path_by_hand(
    hf: Any, base: Pass, source: Pass, sender: tuple[int, int], port: str, to: tuple[int, int]
) -> float:
    """The logit difference with one head's direct path into one later key or value patched."""
    (early, own), (late, head) = sender, to
    moved = torch.zeros_like(base.z[early])
    moved[:, own] = (source.z[early] - base.z[early])[:, own]
    with torch.no_grad():
        written = moved.flatten(1) @ hf.model.layers[early].self_attn.o_proj.weight.T
        new = raw(hf.model.layers[late], base.stream[late] + written, port.removesuffix("_each"))
    new = rotated(new) if port == "k_each" else new
    change = put(new[:, GROUP[head]], head if port.endswith("_each") else GROUP[head])
    return difference(by_hand(hf, BASE, {(late, port): change}).logits)


def difference(logits: Float[Tensor, "pos d_vocab"]) -> float:
    """The logit difference after the last token, in nats."""
    return float(logits[-1, CORRECT] - logits[-1, WRONG])


# ---------------------------------------------------------------- ours beside it


@dataclass(frozen=True)
class Row:
    """How far one kind of edit or path is from the forward pass by hand."""

    what: str
    """`edit` or `path`."""
    port: str
    engine: str
    cases: int
    difference: float
    """The largest: of a logit for edits, of the logit difference for paths, in nats."""
    effect: float
    """The smallest effect of a case in the same unit: what a difference is to be held against."""


def rows() -> list[Row]:
    """Compare every edit and every path."""
    found = []
    for engine in ENGINES:
        model = interp.load(NAME, engine=engine, dtype=torch.float64)
        for port in PORTS if engine == "torch" else PORTS[:2]:
            found.append(_row("edit", port, engine, list(_edits(model, port))))
    model = interp.load(NAME, dtype=torch.float64)
    return found + [_row("path", port, "torch", _paths(model, port)) for port in PORTS]


def _row(what: str, port: str, engine: str, cases: list[tuple[float, float]]) -> Row:
    worst, effects = max(case[0] for case in cases), [case[1] for case in cases]
    return Row(what, port, engine, len(cases), worst, min(effects))


def _edits(model: Model, port: str) -> Iterator[tuple[float, float]]:
    """For each layer and head the largest difference of a logit, and the largest effect."""
    draw = torch.Generator().manual_seed(3)
    plain = by_hand(model.hf, BASE).logits
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            value = 2 * torch.randn(len(BASE), D_HEAD, generator=draw).double()
            n = N_HEADS if port.endswith("_each") else max(GROUP) + 1
            source = value[None, :, None].expand(1, -1, n, -1)
            edit = Patch(f"{layer}.attn.{port}", source=source, positions=AT, heads=head)
            ours = model.run([BASE], edits=[edit]).logits[0]
            entry = head if port.endswith("_each") else GROUP[head]
            theirs = by_hand(model.hf, BASE, {(layer, port): put(value, entry, AT)}).logits
            yield float((ours - theirs).abs().max()), float((theirs - plain).abs().max())


def _paths(model: Model, port: str) -> list[tuple[float, float]]:
    """For each sender and each head of a later layer the difference and the effect."""
    kind, virtual = port.removesuffix("_each"), port.endswith("_each")
    ends = [
        ((early, own), (late, head))
        for early in range(N_LAYERS)
        for late in range(early + 1, N_LAYERS)
        for own in range(N_HEADS)
        for head in range(N_HEADS)
    ]
    edges = [(Sender("head", *a), Receiver(kind, *b, virtual=virtual)) for a, b in ends]
    found = path_patch(model, [BASE], [SOURCE], edges, LogitDiff(CORRECT, WRONG), say=None)
    base, other = (by_hand(model.hf, ids) for ids in (BASE, SOURCE))
    theirs = [path_by_hand(model.hf, base, other, a, port, b) for a, b in ends]
    ours = found.values[:, 0].tolist()
    plain = difference(base.logits)
    return [(abs(x - y), abs(y - plain)) for x, y in zip(ours, theirs, strict=True)]


def table(found: Sequence[Row]) -> Table:
    """Lay the rows out."""
    drawn = Table("what", "port", "engine", "cases", "largest difference", "smallest effect")
    for row in found:
        numbers = (str(row.cases), f"{row.difference:.1e}", f"{row.effect:.1e}")
        drawn.add_row(row.what, row.port, row.engine, *numbers)
    return drawn


if __name__ == "__main__":
    Console().print(table(rows()))
