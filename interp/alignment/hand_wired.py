"""A network wired by hand that computes an algorithm: which neurons hold which variable is known.

It answers whether (x1 = x2) = (x3 = x4) for four whole numbers. Layers have eight neurons, after
the ReLU; `w, x, y, z` are the inputs, all 0 or more:

    neuron    0           1           2           3           4  5  6  7
    layer 1   w - x       x - w       y - z       z - y       w  x  y  z
    layer 2   left        right       left        right       w  x  y  z
    layer 3   left-right  right-left  left        right       w  x  y  z

    left = 1 - (neuron 0 + neuron 1 of layer 1) = 1 if w = x, else 0; right likewise
    logits = (0, 1 - 2 (neuron 0 + neuron 1 of layer 3)): 1 where left = right, else -1

Nothing reads neurons 2 and 3 of layers 2 and 3: there the variables can be decoded, and are not
used. Nothing but their own copies reads neurons 4 to 7. So `BLOCKS` are right at layers 1 and 2,
`DECOYS` have no effect at all, and at layer 3 no set of neurons holds `left` apart from `right`:
neurons 0 and 1 are 0 both where both equalities hold and where neither does. Every number is whole,
so interventions are exact, not nearly so.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from interp.causal_models import CausalModel, Variable
from interp.data.counterfactuals import Table
from interp.errors import InputError
from interp.models.classifiers import mlp

VARIABLES = ("left", "right")
HIDDEN = 8

Neurons = Mapping[str, tuple[int, ...]]
BLOCKS: Mapping[str, Neurons] = MappingProxyType(
    {"1": {"left": (0, 1), "right": (2, 3)}, "3": {"left": (0,), "right": (1,)}}
)
"""Site, and the neurons that hold each variable there."""
DECOYS: Mapping[str, Neurons] = MappingProxyType(
    {site: {"left": (2,), "right": (3,)} for site in ("3", "5")}
)
"""Site, and neurons from which each variable can be read although nothing uses them."""


def both_equality() -> CausalModel:
    """Return the algorithm: left is x1 = x2, right is x3 = x4, and the label whether they agree.

    >>> one, two = torch.tensor([1]), torch.tensor([2])
    >>> both_equality().run({"x1": one, "x2": one, "x3": one, "x4": two})["label"].item()
    0
    """
    return CausalModel(
        "both equality of whole numbers",
        ("x1", "x2", "x3", "x4"),
        (
            Variable("left", ("x1", "x2"), torch.eq),
            Variable("right", ("x3", "x4"), torch.eq),
            Variable("label", VARIABLES, lambda left, right: (left == right).long()),
        ),
        "label",
    )


def table(n_values: int = 3) -> Table:
    """Return all inputs of four whole numbers from 0 to `n_values - 1`.

    Pairs: the left, the right or both variables, a third each; base and sources are any inputs.

    >>> len(table(3))
    81

    Raises:
        InputError: fewer than two values, so that no equality ever fails.
    """
    if n_values < 2:
        raise InputError(
            f"n_values={n_values}: give 2 or more, or every number equals every other."
        )
    rows = torch.cartesian_prod(*[torch.arange(n_values)] * 4)
    algorithm = both_equality()
    values = algorithm.run({f"x{i + 1}": rows[:, i] for i in range(4)})
    return Table(algorithm, VARIABLES, rows.float(), values, _draw)


@torch.no_grad()
def equality_net() -> nn.Sequential:
    """Return the network: inputs `[n, 4]`, logits `[n, 2]`, three hidden layers of eight neurons.

    >>> equality_net()(torch.tensor([[1.0, 1, 2, 2], [0, 1, 2, 2]])).tolist()
    [[0.0, 1.0], [0.0, -1.0]]
    """
    net = mlp(4, HIDDEN, 3, 2, seed=0)
    for weight in net.parameters():
        weight.zero_()
    for linear, entries, biases in _WIRING:
        weight, bias = (net.get_parameter(f"{linear}.{name}") for name in ("weight", "bias"))
        for row, columns in entries.items():
            for column, value in columns.items():
                weight[row, column] = value
        for row, value in biases.items():
            bias[row] = value
    return net.requires_grad_(False)


_COPIES = {4: {4: 1}, 5: {5: 1}, 6: {6: 1}, 7: {7: 1}}
_WIRING: tuple[tuple[str, dict[int, dict[int, int]], dict[int, int]], ...] = (
    (
        "0",
        {0: {0: 1, 1: -1}, 1: {0: -1, 1: 1}, 2: {2: 1, 3: -1}, 3: {2: -1, 3: 1}}
        | {4: {0: 1}, 5: {1: 1}, 6: {2: 1}, 7: {3: 1}},
        {},
    ),
    (
        "2",
        {0: {0: -1, 1: -1}, 1: {2: -1, 3: -1}, 2: {0: -1, 1: -1}, 3: {2: -1, 3: -1}} | _COPIES,
        {0: 1, 1: 1, 2: 1, 3: 1},
    ),
    ("4", {0: {0: 1, 1: -1}, 1: {0: -1, 1: 1}, 2: {2: 1}, 3: {3: 1}} | _COPIES, {}),
    ("6", {1: {0: -2, 1: -2}}, {1: 1}),
)
"""For each linear layer: the entries of each row of its weight, and its bias."""


def _draw(data: Table, n: int, stream: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    kind = torch.randint(0, 3, (n,), generator=stream)
    base = torch.randint(0, len(data), (n,), generator=stream)
    sources = torch.randint(0, len(data), (n, 2), generator=stream)
    return base, sources, torch.stack([kind != 1, kind != 0], dim=1)
