"""What is put in the place of a latent step: the vectors that do(h_t := v) feeds.

d is d_model, u a draw from N(0, I), mu and mu_t the means of the calibration set. The first six
are those of Li et al. 2026 (arXiv:2602.08783); `gaussian` is a seventh of its released code; the
others are ours. Draws belong to (problem, step, seed), so a batch changes none.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import EditError, nearest
from interp.latent.calibration import Calibration
from interp.latent.state import Node, Slot

SIGMA = 0.5
"""Spread of noise relative to the mean norm over the root of d: the authors' default."""

Stratum = Literal["any", "same_answer", "other_answer", "same_position"]
"""Which calibration problems may give a donor: same or other answer *given* by the subject; slot 1
at the same position, which edits of keys and values need."""


@dataclass(frozen=True, eq=False)
class At:
    """Where an operator acts: one step of several rows, and what it may take from elsewhere."""

    step: int
    keys: tuple[str, ...]
    """Identifies each row's problem."""
    seed: int
    calibration: Calibration
    answers: tuple[str | None, ...]
    """What the subject answers to each row's problem without any edit."""
    positions: tuple[int, ...]
    """Logical position of slot 1 in each row."""

    def noise(self, like: Tensor) -> Tensor:
        """Draws from N(0, 1), one tensor of `like[0]`'s shape for each row.

        Each place of a node is drawn after the one before it, so a wider batch changes none.
        """
        _, width, d_model = like.shape
        draws = []
        for key in self.keys:
            source = _generator(key, self.step, self.seed)
            draws.append(
                torch.stack([torch.randn(d_model, generator=source) for _ in range(width)])
            )
        return torch.stack(draws).to(like)

    def donors(self, stratum: str, *, per_step: bool = True) -> tuple[int | None, ...]:
        """Row of the calibration set that gives to each row; None where the stratum is empty.

        The same for every step unless `per_step`. A chain in text that is over by this step gives
        nothing; one that gives its whole thought has every step.
        """
        step = self.step if per_step else 0
        nodes = self.calibration.nodes[self.step - 1 if per_step else -1]
        having = nodes.seen.any(1).nonzero()[:, 0].tolist()
        rows = zip(self.keys, self.answers, self.positions, strict=True)
        return tuple(
            self._donor(key, answer, position, stratum, step, having)
            for key, answer, position in rows
        )

    def _donor(
        self,
        key: str,
        answer: str | None,
        position: int,
        stratum: str,
        step: int,
        having: Sequence[int],
    ) -> int | None:
        """Draw one among those that have the step and fit, by key, step and seed alone."""
        bank = self.calibration
        fits: dict[str, Callable[[int], bool]] = {
            "any": lambda i: True,
            "same_answer": lambda i: bank.predictions[i] == answer,
            "other_answer": lambda i: bank.predictions[i] != answer,
            "same_position": lambda i: int(bank.positions[i]) == position,
        }
        found = [i for i in having if bank.problems[i].id != key and fits[stratum](i)]
        if not found:
            return None
        pick = torch.randint(len(found), (), generator=_generator(key, step, self.seed, "donor"))
        return found[int(pick)]


def _generator(*parts: object) -> torch.Generator:
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Operator(ABC):
    """A rule for the vectors of a step."""

    null = False
    """Whether it is meant to change nothing; any other that changes nothing is an error."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in records; tells parameters that are not the default."""

    @abstractmethod
    def node(self, node: Node, at: At) -> Node:
        """The node to feed in place of `node`. Must not write into it."""

    def slot(self, slot: Slot, at: At) -> Slot:
        """The keys and values for the step, of operators that have their own."""
        raise NotImplementedError(f"{self.name}: `require_slot` comes first")

    def require_slot(self, edge: str) -> None:
        """Refuse an operator without keys and values of its own, which an edge needs.

        Raises:
            EditError: it has none.
        """
        if type(self).slot is Operator.slot:
            raise EditError(
                f"{self.name} has no keys and values of its own for the edge {edge!r}: take the "
                "edge 'cache', or kv_mask or kv_swap."
            )

    def donors(self, at: At) -> tuple[int | None, ...] | None:
        """Row of the calibration set that gives to each row, for operators that take from it."""
        return None


@dataclass(frozen=True)
class Identity(Operator):
    """The step's own vectors: every number of it must be exactly 0."""

    null = True

    @property
    def name(self) -> str:
        """`identity`."""
        return "identity"

    def node(self, node: Node, at: At) -> Node:
        """The same bits in new tensors."""
        return Node(node.vectors.clone(), node.seen.clone())

    def slot(self, slot: Slot, at: At) -> Slot:
        """The same keys and values in new tensors."""
        return Slot(tuple((k.clone(), v.clone()) for k, v in slot.layers), slot.seen.clone())


@dataclass(frozen=True)
class Rule(Operator):
    """An operator that is a formula of the step's vectors."""

    label: str
    formula: Callable[[Tensor, At], Tensor]
    """From vectors `[batch width d_model]` to new ones of that shape, or one that broadcasts."""

    @property
    def name(self) -> str:
        """The label."""
        return self.label

    def node(self, node: Node, at: At) -> Node:
        """The formula's vectors; which of them are seen stays."""
        made = self.formula(node.vectors, at).to(node.vectors)
        return Node(made.expand_as(node.vectors).clone(), node.seen)


def zero() -> Operator:
    """v = 0: the paper's main operator, far from any real latent."""
    return Rule("zero", lambda h, at: torch.zeros_like(h))


def mean() -> Operator:
    """v = mu."""
    return Rule("mean", lambda h, at: at.calibration.mean())


def mean_step() -> Operator:
    """v = mu_t."""
    return Rule("mean_step", lambda h, at: _fit(at.calibration.mean_step(at.step), h))


def gaussian_h(sigma: float = SIGMA) -> Operator:
    """v = h_t + s u, with s = sigma * mean norm / sqrt(d)."""
    _checked("gaussian_h", sigma)
    return Rule(
        _label("gaussian_h", sigma, SIGMA), lambda h, at: h + _spread(sigma, h, at) * at.noise(h)
    )


def gaussian(sigma: float = SIGMA) -> Operator:
    """v = s u: nothing but noise."""
    _checked("gaussian", sigma)
    return Rule(_label("gaussian", sigma, SIGMA), lambda h, at: _spread(sigma, h, at) * at.noise(h))


def gaussian_mu(sigma: float = SIGMA) -> Operator:
    """v = mu + sigma |mu| / sqrt(d) u."""
    _checked("gaussian_mu", sigma)

    def formula(h: Tensor, at: At) -> Tensor:
        mu = at.calibration.mean()
        return mu + sigma * mu.norm() / math.sqrt(h.shape[-1]) * at.noise(h)

    return Rule(_label("gaussian_mu", sigma, SIGMA), formula)


def gaussian_mu_step(sigma: float = SIGMA) -> Operator:
    """v = mu_t + sigma |mu_t| / sqrt(d) u."""
    _checked("gaussian_mu_step", sigma)

    def formula(h: Tensor, at: At) -> Tensor:
        mu = _fit(at.calibration.mean_step(at.step), h)
        return mu + sigma * mu.norm(dim=-1, keepdim=True) / math.sqrt(h.shape[-1]) * at.noise(h)

    return Rule(_label("gaussian_mu_step", sigma, SIGMA), formula)


def noise_norm(sigma: float = SIGMA) -> Operator:
    """v = |h_t| unit(h_t + s u): noise that keeps the norm."""
    _checked("noise_norm", sigma)

    def formula(h: Tensor, at: At) -> Tensor:
        return _with_norm(h + _spread(sigma, h, at) * at.noise(h), h)

    return Rule(_label("noise_norm", sigma, SIGMA), formula)


def rotate(degrees: float = 45.0) -> Operator:
    """v = |h_t| (cos a h + sin a u), h and u unit and u orthogonal to h: the norm stays.

    Raises:
        EditError: the angle is not in (0, 180].
    """
    if not 0 < degrees <= 180:
        raise EditError(f"rotate({degrees}): give an angle above 0 and up to 180 degrees.")
    angle = math.radians(degrees)

    def formula(h: Tensor, at: At) -> Tensor:
        unit = _unit(h)
        noise = at.noise(h)
        across = _unit(noise - (noise * unit).sum(-1, keepdim=True) * unit)
        return _with_norm(math.cos(angle) * unit + math.sin(angle) * across, h)

    return Rule(_label("rotate", degrees, 0.0), formula)


def remove_dir(basis: Float[Tensor, "rank d_model"], strength: float = 1.0) -> Operator:
    """v = h_t less `strength` times its part in the span of `basis`.

    Raises:
        EditError: the rows of the basis are not independent directions.
    """
    rows = basis if basis.ndim == 2 else basis[None]
    frame, upper = torch.linalg.qr(rows.T.double())
    least = 1e-9 * upper.abs().max().clamp(min=1e-30)
    if len(rows) > rows.shape[1] or bool((upper.diagonal().abs() <= least).any()):
        raise EditError(
            f"remove_dir: the {len(rows)} rows of the basis are not independent directions: drop "
            "those that are zero or a sum of others."
        )

    def formula(h: Tensor, at: At) -> Tensor:
        wide = h.double()
        return wide - strength * (wide @ frame) @ frame.T

    return Rule(_label(f"remove_dir_{len(rows)}", strength, 1.0), formula)


def constant(vector: Float[Tensor, " d_model"], label: str = "constant") -> Operator:
    """v = one vector for all, such as a pause token's embedding."""
    return Rule(label, lambda h, at: vector)


def class_mean(
    vectors: Mapping[str, Float[Tensor, "step d_model"]], to: Mapping[str, str] | str
) -> Operator:
    """v = mean latent of a named class at this step, made from other problems.

    Args:
        vectors: for each class, its mean at every step.
        to: the class for all rows, or for each row's problem by its id.

    Raises:
        EditError: `to` names a class without a mean.
    """
    named = {to} if isinstance(to, str) else set(to.values())
    for name in sorted(named - set(vectors)):
        known = ", ".join(sorted(vectors))
        raise EditError(f"class_mean: there is no class {name!r}; there are {known}.")

    def formula(h: Tensor, at: At) -> Tensor:
        if not isinstance(to, str) and (missing := set(at.keys) - set(to)):
            raise EditError(
                f"class_mean: problem {min(missing)!r} has no class in `to`: name one for each."
            )
        rows = [vectors[to if isinstance(to, str) else to[key]][at.step - 1] for key in at.keys]
        return torch.stack(rows)[:, None].to(h)

    return Rule("class_mean", formula)


@dataclass(frozen=True)
class Resample(Operator):
    """h_t of another problem at the same step: a donor swap.

    Its keys and values are those that the donor's own run left at that step; they hold positions,
    so edits of them need the stratum `same_position`. A row without a donor keeps its own.
    """

    stratum: str = "any"
    """A `Stratum`."""
    draw: int = 0
    """Another number, another donor."""
    whole: bool = False
    """Whether all steps of a row take from one donor; for edits of several steps."""

    def __post_init__(self) -> None:
        if self.stratum not in get_args(Stratum):
            known = get_args(Stratum)
            raise EditError(
                f"Resample: there is no stratum {self.stratum!r}; there are {', '.join(known)}."
                f"{nearest(self.stratum, known)}"
            )

    @property
    def name(self) -> str:
        """`resample`, with the stratum and draw where they are not the default."""
        words = ["swap" if self.whole else "resample"]
        words += [self.stratum] if self.stratum != "any" else []
        return "_".join([*words, *([str(self.draw)] if self.draw else [])])

    def donors(self, at: At) -> tuple[int | None, ...]:
        """Row of the calibration set that gives to each row."""
        drawn = At(
            at.step,
            at.keys,
            at.seed * 1009 + self.draw,
            at.calibration,
            at.answers,
            at.positions,
        )
        return drawn.donors(self.stratum, per_step=not self.whole)

    def node(self, node: Node, at: At) -> Node:
        """The donors' vectors."""
        bank = at.calibration.nodes[at.step - 1]
        given = self.donors(at)
        theirs = bank.take([i or 0 for i in given])
        width = max(node.vectors.shape[1], theirs.vectors.shape[1])
        mine, theirs = _widen(node, width), _widen(theirs, width)
        has = torch.tensor([i is not None for i in given], device=node.seen.device)
        return Node(
            torch.where(has[:, None, None], theirs.vectors.to(mine.vectors), mine.vectors),
            torch.where(has[:, None], theirs.seen, mine.seen),
        )

    def require_slot(self, edge: str) -> None:
        """Refuse donors that may stand at another position.

        Raises:
            EditError: they may.
        """
        if self.stratum != "same_position":
            raise EditError(
                f"{self.name} cannot swap keys and values: they hold positions, so take donors "
                'with Resample("same_position").'
            )

    def slot(self, slot: Slot, at: At) -> Slot:
        """The donors' keys and values.

        Raises:
            EditError: donors may stand at another position.
        """
        self.require_slot("kv")
        given = self.donors(at)
        theirs = at.calibration.slots[at.step - 1].take([i or 0 for i in given])
        has = torch.tensor([i is not None for i in given], device=slot.seen.device)
        pick = has[:, None, None, None]
        layers = tuple(
            (torch.where(pick, k, own_k), torch.where(pick, v, own_v))
            for (k, v), (own_k, own_v) in zip(theirs.layers, slot.layers, strict=True)
        )
        return Slot(layers, torch.where(has[:, None], theirs.seen, slot.seen))


@dataclass(frozen=True)
class Interpolate(Operator):
    """v = (1 - a) h_t + a v', with v' from another operator; on the sphere where `sphere`.

    Dose curves are made of several a. On the sphere the direction turns from h_t to v' along the
    arc between them, and the norm goes from one to the other in a straight line.
    """

    toward: Operator
    amount: float
    sphere: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= 1:
            raise EditError(f"Interpolate({self.amount}): the amount lies between 0 and 1.")

    @property
    def null(self) -> bool:  # type: ignore[override]
        """An amount of 0 is the identity."""
        return self.amount == 0

    @property
    def name(self) -> str:
        """`resample@0.5`; `resample@0.5s` on the sphere."""
        return f"{self.toward.name}@{self.amount:g}{'s' if self.sphere else ''}"

    def donors(self, at: At) -> tuple[int | None, ...] | None:
        """Those of the other operator."""
        return self.toward.donors(at)

    def node(self, node: Node, at: At) -> Node:
        """Vectors between the step's own and the other operator's."""
        other = self.toward.node(node, at)
        width = max(node.vectors.shape[1], other.vectors.shape[1])
        mine, theirs = _widen(node, width), _widen(other, width)
        if self.amount in (0, 1):
            return theirs if self.amount else mine
        h, v = mine.vectors, theirs.vectors
        a = self.amount
        mixed = _arc(h, v, a) if self.sphere else (1 - a) * h + a * v
        both = (mine.seen & theirs.seen)[..., None]
        vectors = torch.where(both, mixed, torch.where(theirs.seen[..., None], v, h))
        return Node(vectors, mine.seen | theirs.seen)


@dataclass(frozen=True)
class HideSlot(Operator):
    """Later positions do not see the step at all; the vector that it feeds stays (`kv_mask`)."""

    @property
    def name(self) -> str:
        """`kv_mask`."""
        return "kv_mask"

    def node(self, node: Node, at: At) -> Node:
        """The step's own vectors."""
        return node

    def slot(self, slot: Slot, at: At) -> Slot:
        """The same keys and values, seen by nobody."""
        return Slot(slot.layers, torch.zeros_like(slot.seen))


NAMED: Mapping[str, Callable[[], Operator]] = MappingProxyType(
    {
        "identity": Identity,
        "zero": zero,
        "mean": mean,
        "mean_step": mean_step,
        "gaussian_h": gaussian_h,
        "gaussian": gaussian,
        "gaussian_mu": gaussian_mu,
        "gaussian_mu_step": gaussian_mu_step,
        "resample": Resample,
        "swap": lambda: Resample(whole=True),
        "rotate": rotate,
        "noise_norm": noise_norm,
        "kv_mask": HideSlot,
        "kv_swap": lambda: Resample("same_position"),
    }
)
"""Operators that need no argument, by the name that a command is given."""
PAPER = ("zero", "mean", "mean_step", "gaussian_h", "gaussian_mu", "gaussian_mu_step")
"""The paper's six."""
DEFAULT = ("zero", "mean_step", "resample", "rotate")
"""In every report, with `identity` beside them."""


def named(name: str) -> Operator:
    """Return the operator of a name.

    `rotate:30`, `noise_norm:0.1` and `resample:other_answer` give the one argument of an operator.

    Raises:
        EditError: there is no such operator, or its argument is of the wrong kind.
    """
    word, _, argument = name.partition(":")
    if word not in NAMED:
        raise EditError(
            f"There is no operator {word!r}; there are {', '.join(NAMED)}.{nearest(word, NAMED)}"
        )
    if not argument:
        return NAMED[word]()
    if word in ("resample", "swap"):
        return Resample(argument, whole=word == "swap")
    takes = {
        "rotate": rotate,
        "noise_norm": noise_norm,
        "gaussian": gaussian,
        "gaussian_h": gaussian_h,
        "gaussian_mu": gaussian_mu,
        "gaussian_mu_step": gaussian_mu_step,
    }
    try:
        return takes[word](float(argument))
    except KeyError:
        raise EditError(f"{name!r}: {word} takes no argument; write {word!r}.") from None
    except ValueError:
        raise EditError(f"{name!r}: {argument!r} is no number; write such as rotate:30.") from None


def _checked(name: str, sigma: float) -> None:
    if not (math.isfinite(sigma) and sigma > 0):
        raise EditError(f"{name}({sigma:g}): a spread is a finite number above 0, such as {SIGMA}.")


def _label(name: str, value: float, default: float) -> str:
    return name if value == default else f"{name}_{value:g}"


def _spread(sigma: float, h: Tensor, at: At) -> float:
    return sigma * at.calibration.norm() / math.sqrt(h.shape[-1])


def _unit(x: Tensor) -> Tensor:
    wide = x.double()
    return wide / wide.norm(dim=-1, keepdim=True).clamp(min=1e-30)


def _with_norm(direction: Tensor, h: Tensor) -> Tensor:
    return _unit(direction) * h.double().norm(dim=-1, keepdim=True)


def _arc(h: Tensor, v: Tensor, amount: float) -> Tensor:
    a, b = _unit(h), _unit(v)
    angle = torch.acos((a * b).sum(-1, keepdim=True).clamp(-1, 1))
    straight = angle.sin() < 1e-9
    sines = torch.where(straight, torch.ones_like(angle), angle.sin())
    turned = (torch.sin((1 - amount) * angle) * a + torch.sin(amount * angle) * b) / sines
    direction = torch.where(straight, a, turned)
    norms = (1 - amount) * h.double().norm(dim=-1, keepdim=True)
    norms = norms + amount * v.double().norm(dim=-1, keepdim=True)
    return (direction * norms).to(h)


def _fit(mean: Tensor, h: Tensor) -> Tensor:
    """A mean by place at the width of `h`; places beyond it get zeros."""
    width = h.shape[1]
    return torch.nn.functional.pad(mean[:width], (0, 0, 0, max(0, width - len(mean))))


def _widen(node: Node, width: int) -> Node:
    more = width - node.vectors.shape[1]
    vectors = torch.nn.functional.pad(node.vectors, (0, 0, 0, more))
    return Node(vectors, torch.nn.functional.pad(node.seen, (0, more)))
