"""A frozen network cut at one site: states up to it, answers after it.

`Subject.cut` runs each distinct input once to the site and keeps the states there; `Cut.finish`
runs only what comes after, for as many changed states as one likes, with gradients to them. What
lies before the site is never run again and never trained.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from interp.data.counterfactuals import inputs_hash
from interp.errors import ModelError, SiteError, nearest

ROWS = 65_536
"""Inputs that are run to the site at once, so that memory does not grow with the table."""
PAIRS = 16_384
"""Changed states that a small network finishes at once."""

Finish = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Cut:
    """The states of some inputs at a site, and the rest of the network behind it."""

    site: str
    """As records write it."""
    states: Float[Tensor, "input d"]
    """What the network has at the site on each input."""
    _finish: Finish
    chunk: int = PAIRS
    """How many changed states are finished at once; fewer where logits or caches are large."""
    inputs: str | None = None
    """The hash of the inputs (`interp.data.counterfactuals.inputs_hash`): pairs must be of them."""

    @property
    def d(self) -> int:
        """The width of the site."""
        return self.states.shape[1]

    def finish(
        self, states: Float[Tensor, "pair d"], rows: Int[Tensor, " pair"]
    ) -> Float[Tensor, "pair answer"]:
        """Return the logits of changed states; `rows` are the inputs that they stand in."""
        return self._finish(states, rows)

    def clean(self) -> Float[Tensor, "input answer"]:
        """Return the network's own logits on every input, without gradients."""
        rows = torch.arange(len(self.states), device=self.states.device)
        with torch.no_grad():
            parts = [self.finish(self.states[part], part) for part in rows.split(ROWS)]
        return torch.cat(parts)


class Subject(ABC):
    """A frozen network at one site."""

    site: str

    @abstractmethod
    def cut(self, inputs: Shaped[Tensor, "input ..."]) -> Cut:
        """Run each input once to the site."""

    @abstractmethod
    def weights(self) -> Iterable[Tensor]:
        """Every weight of the network: fitting checks that none has changed."""


class LayerSubject(Subject):
    """A classifier that is a `nn.Sequential`, cut after one of its children.

    Args:
        net: the network; it maps inputs `[n, ...]` to logits `[n, answer]`.
        layer: the child's name in the Sequential, such as "3"; its output is the site.

    Raises:
        SiteError: there is no such child; or, when run, it returned no `[n, d]`.
        ModelError: the network drops out or normalises by batch, and is in training mode.
    """

    def __init__(self, net: nn.Sequential, layer: str) -> None:
        names = [name for name, _ in net.named_children()]
        if layer not in names:
            raise SiteError(
                f"The network has no layer {layer!r}; its layers: {', '.join(names)}."
                f"{nearest(str(layer), names)}"
            )
        _require_settled(net)
        at = names.index(layer) + 1
        self.site, self.net = layer, net
        self._head, self._tail = net[:at], net[at:]
        self._after = tuple(self._tail.parameters())

    def cut(self, inputs: Shaped[Tensor, "input ..."]) -> Cut:
        """Run each input once to the layer; what follows is run for changed states alone."""
        with torch.no_grad():
            states = torch.cat([self._head(part) for part in inputs.split(ROWS)])
        _require_flat(self.site, states, len(inputs))

        def finish(changed: Tensor, rows: Tensor) -> Tensor:
            with frozen(self._after):
                return self._tail(changed)

        return Cut(self.site, states, finish, inputs=inputs_hash(inputs))

    def weights(self) -> Iterable[Tensor]:
        """Return the network's weights."""
        return self.net.parameters()


class ModuleSubject(Subject):
    """Any classifier, cut at the output of one of its modules, which must be a tensor `[n, d]`.

    What follows is not known, so `finish` runs the whole network with the module's output
    replaced: the same numbers at the price of a full forward pass.

    Raises:
        SiteError: there is no such module; or, when run, it returned no `[n, d]` or ran not once.
        ModelError: the network drops out or normalises by batch, and is in training mode.
    """

    def __init__(self, net: nn.Module, path: str) -> None:
        names = [name for name, _ in net.named_modules() if name]
        if path not in names:
            raise SiteError(f"The network has no module {path!r}.{nearest(path, names)}")
        _require_settled(net)
        self.site, self.net = path, net

    def cut(self, inputs: Shaped[Tensor, "input ..."]) -> Cut:
        """Run each input once and keep what the module returned."""
        kept: list[Tensor] = []
        with torch.no_grad():
            for part in inputs.split(ROWS):
                self._run(part, lambda out: kept.append(out) or out)
        states = torch.cat(kept)

        def finish(changed: Tensor, rows: Tensor) -> Tensor:
            with frozen(self.net.parameters()):
                return self._run(inputs[rows], lambda out: changed.to(out))

        return Cut(self.site, states, finish, inputs=inputs_hash(inputs))

    def weights(self) -> Iterable[Tensor]:
        """Return the network's weights."""
        return self.net.parameters()

    def _run(self, inputs: Tensor, at_site: Callable[[Tensor], Tensor]) -> Tensor:
        fired = 0

        def hook(module: nn.Module, args: object, out: object) -> Tensor:
            nonlocal fired
            fired += 1
            return at_site(_require_flat(self.site, out, len(inputs)))

        handle = self.net.get_submodule(self.site).register_forward_hook(hook)
        try:
            logits = self.net(inputs)
        finally:
            handle.remove()
        if fired != 1:
            raise SiteError(
                f"{self.site!r} ran {fired} times in one pass, so what is changed there is not "
                "clear: choose a module that runs once."
            )
        return logits


def _require_flat(site: str, out: object, n: int) -> Tensor:
    if isinstance(out, Tensor) and out.ndim == 2 and len(out) == n:
        return out
    shape = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
    raise SiteError(
        f"{site!r} returned {shape} for {n} inputs: a site must return a tensor [n, d]; choose "
        "another module."
    )


def _require_settled(net: nn.Module) -> None:
    for name, module in net.named_modules():
        if module.training and isinstance(module, _DropoutNd | _BatchNorm):
            raise ModelError(
                f"{name!r} ({type(module).__name__}) is in training mode, where one input gives "
                "different states in different passes: call .eval() first."
            )


@contextmanager
def frozen(weights: Iterable[Tensor]) -> Iterator[None]:
    """Inside the block no weight of these collects a gradient; after it as before."""
    trained = [weight for weight in weights if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
