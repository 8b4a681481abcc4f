"""What attention says of a step: cut it off from all that follows, and see which heads look back.

**Suppression.** For each step, no later token may attend to the step's tokens, at any layer and
head (weights of 0, rows that sum to 1 again). Two things are read, teacher forced on the same text:

    value        |log Pr(y*) - log Pr(y* | suppressed)|, in nats; larger = the step matters more
    links        from step i to each later step j, KL(clean || suppressed) of the next-token
                 distribution, in nats, a mean over the tokens of step j: a graph of steps
    control      the same with as many other earlier tokens hidden, drawn by a seed

The step's own tokens still read each other, and its content can reach later tokens through what
stood before it. Every edit brings its receipt: it must have reached every later token.

**Receiver heads.** A head gives each step the mean weight from the tokens of all steps at least
`gap` steps later. A head that narrows on few steps has a high kurtosis over steps; the heads with
the highest are the receiver heads, and a step's value is the mean weight that it receives from
them. This is a correlate: a head may look at a step and carry nothing from it.

Source: Bogdan et al. 2025, "Thought Anchors", arXiv:2506.19143 (attention suppression, receiver
heads; a gap of 4 and the 20 heads of highest kurtosis are theirs).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attention_edits import Knockout
from interp.engine.model import Model, Run
from interp.errors import InputError, InterpError, SilentEditError
from interp.sites import Site
from interp.thinking.dependency import Located, locate
from interp.thinking.relatives.readout import check_chain, wanted_steps
from interp.thinking.relatives.values import Marked, StepEffect, StepValue, difference
from interp.thinking.rules import Rules
from interp.thinking.score import Chain

SUPPRESSION, LINKS, RECEIVER = "attention_suppression", "attention_suppression_kl", "receiver_heads"
GAP, TOP = 4, 20
"""How many steps later a token must be, and how many heads are kept, in Thought Anchors."""

FEWEST = 4
"""Receiving steps that a chain needs to tell heads apart."""

_FLOATS = 2**27
"""Attention weights held in memory at once: half a gigabyte."""


# ----------------------------------------------------------------------------------- suppression


@dataclass(frozen=True)
class Link:
    """What hiding one step does to a later one."""

    id: str
    source: int
    target: int
    kl: float
    """Mean KL(clean || suppressed) over the target's tokens, in nats."""


@dataclass(frozen=True)
class Proof:
    """That a step was hidden."""

    id: str
    step: int
    change: float
    """L2 norm of the change of all attention weights, over layers, heads and later tokens."""


@dataclass(frozen=True)
class Suppressed:
    """What hiding each step of a chain does."""

    effects: tuple[StepEffect, ...]
    links: tuple[Link, ...]
    """From each suppressed step to each later one, in order."""
    proofs: tuple[Proof, ...]
    marked: tuple[Marked, ...]

    @property
    def values(self) -> list[StepValue]:
        """The size of each step's change of log Pr(y*), in nats."""
        return [
            StepValue(each.id, each.step, SUPPRESSION, abs(each.intact - each.changed))
            for each in self.effects
        ]

    @property
    def link_values(self) -> list[StepValue]:
        """The mean of each step's links; None for one that no step follows."""
        found = []
        for each in self.effects:
            out = [link.kl for link in self.links if link.source == each.step]
            why = None if out else "no later step"
            found.append(StepValue(each.id, each.step, LINKS, fmean(out) if out else None, why))
        return found


@dataclass(frozen=True)
class _Hidden:
    """Tokens that no query from `after` on may see."""

    step: int
    keys: tuple[int, ...]
    after: int


@dataclass(frozen=True)
class _Readings:
    """What one run says: the answer's log-probability and the KL at each token from the clean."""

    logprob: float
    kl: Float[Tensor, " pos"]
    change: float


@torch.no_grad()
def suppress(
    model: Model,
    chain: Chain,
    rules: Rules,
    *,
    only: Iterable[int] | None = None,
    seed: int = 0,
    control: bool = True,
    batch: int = 4,
) -> Suppressed:
    """Hide each step from every later token, at all layers and heads, and read what changes.

    A step that cannot be located or hidden is marked; the others are kept.

    Args:
        only: steps to hide; None for all.
        seed: of the control's tokens.
        control: also hide as many other tokens before the step's end (all there are, where there
            are fewer), never the first token of the text; doubles the cost.
        batch: steps a forward pass (memory: their attention weights and logits).

    Raises:
        InputError: the chain has no steps or not those of `only`, a batch below 1, or a chain that
            cannot be located.
        SiteError: the engine has no attention patterns.
    """
    check_chain(chain)
    wanted = wanted_steps(chain, only)
    if batch < 1:
        raise InputError(f"batch={batch}: hide at least 1 step a forward pass.")
    model.check_sites([Site.parse("0.attn.pattern")])
    where = locate(model, chain, rules)
    located = [step for step in wanted if step in where.steps]
    marked = [_mark(chain, step, where.lost[step]) for step in wanted if step in where.lost]
    cases = [_hidden(where, step) for step in located]
    others = [_others(where, case, seed, chain.problem.id) for case in cases] if control else []
    clean = _clean(model, where)
    found, reasons = _read_all(model, where, clean, cases, batch)
    controls, _ = _read_all(model, where, clean, [each for each in others if each], batch)
    marked += [_mark(chain, step, why) for step, why in reasons.items()]
    base = _answer_logprob(where, clean)
    return Suppressed(
        tuple(_effect(chain, step, base, found[step], controls.get(step)) for step in found),
        tuple(_links(chain, where, found)),
        tuple(Proof(chain.problem.id, step, each.change) for step, each in found.items()),
        tuple(sorted(marked, key=lambda mark: mark.step)),
    )


def _mark(chain: Chain, step: int, reason: str) -> Marked:
    return Marked(chain.problem.id, step, 0, SUPPRESSION, reason)


def _hidden(where: Located, step: int) -> _Hidden:
    first, stop = where.steps[step]
    return _Hidden(step, tuple(range(first, stop)), stop)


def _others(where: Located, case: _Hidden, seed: int, name: str) -> _Hidden | None:
    """As many other tokens before the step's end, without the first of the text."""
    pool = [pos for pos in range(1, case.after) if pos not in case.keys]
    n = min(len(case.keys), len(pool))
    keys = random.Random(repr((seed, name, case.step, "others"))).sample(pool, n)
    return _Hidden(case.step, tuple(sorted(keys)), case.after) if keys else None


def _clean(model: Model, where: Located) -> Float[Tensor, "pos d_vocab"]:
    return _logprobs(model.run(list(where.ids)).logits[0])


def _logprobs(logits: Float[Tensor, "pos d_vocab"]) -> Float[Tensor, "pos d_vocab"]:
    exact = torch.promote_types(logits.dtype, torch.float32)
    return torch.log_softmax(logits, dim=-1, dtype=exact)


def _answer_logprob(where: Located, logprobs: Float[Tensor, "pos d_vocab"]) -> float:
    first, stop = where.answer
    return float(sum(float(logprobs[pos - 1, where.ids[pos]]) for pos in range(first, stop)))


def _read_all(
    model: Model,
    where: Located,
    clean: Float[Tensor, "pos d_vocab"],
    cases: Sequence[_Hidden],
    batch: int,
) -> tuple[dict[int, _Readings], dict[int, str]]:
    """Run the cases in batches; where a batch is refused, one by one, to tell which it was."""
    found: dict[int, _Readings] = {}
    reasons: dict[int, str] = {}
    for start in range(0, len(cases), batch):
        group = cases[start : start + batch]
        try:
            found |= _read(model, where, clean, group)
        except InterpError as error:
            if len(group) == 1:
                reasons[group[0].step] = str(error)
                continue
            alone, why = _read_all(model, where, clean, group, 1)
            found |= alone
            reasons |= why
    return found, reasons


def _read(
    model: Model, where: Located, clean: Float[Tensor, "pos d_vocab"], group: Sequence[_Hidden]
) -> dict[int, _Readings]:
    """One forward pass: each row is the same text with other keys hidden."""
    edits = [
        Knockout(
            f"{layer}.attn.pattern",
            positions=tuple(range(case.after, len(where.ids))),
            keys=case.keys,
            rows=row,
        )
        for row, case in enumerate(group)
        for layer in range(model.sizes.n_layers)
    ]
    run = model.run([list(where.ids)] * len(group), edits=edits)
    found = {}
    for row, case in enumerate(group):
        logprobs = _logprobs(run.logits[row])
        kl = (clean.exp() * (clean - logprobs)).sum(-1)
        change = _proved(run, row, range(case.after, len(where.ids)))
        found[case.step] = _Readings(_answer_logprob(where, logprobs), kl, change)
    return found


def _proved(run: Run, row: int, later: Sequence[int]) -> float:
    """Require that each layer's edit reached every later token; return the norm of the change."""
    receipts = [each for each in run.receipt.edits if each.edit.rows == (row,)]
    due = {(row, pos) for pos in later}
    for each in receipts:
        if missed := sorted(due - set(each.tokens)):
            raise SilentEditError(f"{each.edit} did not reach token {missed[0][1]} of its run.")
    return sum(each.change**2 for each in receipts) ** 0.5


def _effect(
    chain: Chain, step: int, base: float, found: _Readings, control: _Readings | None
) -> StepEffect:
    return StepEffect(
        chain.problem.id,
        step,
        seed=0,
        measure=SUPPRESSION,
        intact=base,
        changed=found.logprob,
        effect=difference(base, found.logprob),
        control=None if control is None else difference(base, control.logprob),
    )


def _links(chain: Chain, where: Located, found: dict[int, _Readings]) -> Iterator[Link]:
    for source, reading in found.items():
        for target, (first, stop) in where.steps.items():
            if target > source:
                kl = float(reading.kl[first:stop].mean())
                yield Link(chain.problem.id, source, target, kl)


# -------------------------------------------------------------------------------- receiver heads


@dataclass(frozen=True)
class ReceiverHead:
    """A head and how much it narrows on few steps."""

    layer: int
    head: int
    kurtosis: float
    """Excess kurtosis of the weight that steps receive, a mean over chains; 0 for a Gaussian."""
    n_chains: int


@dataclass(frozen=True)
class Receivers:
    """The receiver heads of some chains, and what each step receives from them."""

    heads: tuple[ReceiverHead, ...]
    """The highest kurtosis first."""
    values: tuple[StepValue, ...]
    marked: tuple[Marked, ...]
    """Chains (step -1) that could not be read."""


def receiver_heads(
    model: Model,
    chains: Sequence[Chain],
    rules: Rules,
    *,
    choose_on: Sequence[Chain] | None = None,
    gap: int = GAP,
    top: int = TOP,
) -> Receivers:
    """Find the receiver heads, and the mean attention that each step receives from them.

    Args:
        choose_on: the chains on which heads are chosen; None takes `chains` themselves, so that
            heads and values come from the same text.
        gap: how many steps later a token must be to count; the last `gap` steps have no value.
        top: how many heads to keep, or all where the model has fewer.

    Raises:
        SiteError: the engine has no attention patterns.
        InputError: no chain, a setting below 1, or no chain long enough to rank heads on. A chain
            that cannot be read is marked; the others are kept.
    """
    if not chains or (choose_on is not None and not choose_on):
        raise InputError("There is no chain: give at least one to read attention on.")
    if gap < 1 or top < 1:
        raise InputError(f"gap={gap}, top={top}: give whole numbers from 1.")
    model.check_sites([Site.parse("0.attn.pattern")])
    marked: list[Marked] = []
    read = _received_all(model, chains, rules, gap, marked)
    chosen = read if choose_on is None else _received_all(model, choose_on, rules, gap, marked)
    heads = rank_heads([weights for _, _, weights in chosen])[:top]
    values = [value for each in read for value in _values(*each, heads)]
    return Receivers(tuple(heads), tuple(values), tuple(marked))


Received = tuple[Chain, list[int], Float[Tensor, "layer head step"]]
"""A chain, its located steps, and the weight that all but the last `gap` of them receive."""


def _received_all(
    model: Model, chains: Sequence[Chain], rules: Rules, gap: int, marked: list[Marked]
) -> list[Received]:
    found = []
    for chain in chains:
        try:
            check_chain(chain)
            where = locate(model, chain, rules)
            spans = list(where.steps.values())
            weights = _received_in(model, where.ids[: spans[-1][1]] if spans else (), spans, gap)
            found.append((chain, list(where.steps), weights))
        except InputError as error:
            marked.append(Marked(chain.problem.id, -1, 0, RECEIVER, str(error)))
    return found


@torch.no_grad()
def _received_in(
    model: Model, ids: Sequence[int], spans: Sequence[tuple[int, int]], gap: int
) -> Float[Tensor, "layer head step"]:
    """What each step receives, at every head; layers in groups that fit into memory."""
    _require_steps(len(spans), gap)
    sizes = model.sizes
    size = max(1, _FLOATS // (sizes.n_heads * len(ids) ** 2))
    found = []
    for start in range(0, sizes.n_layers, size):
        stop = min(start + size, sizes.n_layers)
        sites = [f"{layer}.attn.pattern" for layer in range(start, stop)]
        run = model.run(list(ids), capture=sites, logits="last")
        found += [received(run.acts[site][0], spans, gap=gap) for site in sites]
    return torch.stack([each.cpu() for each in found])


def _require_steps(n_steps: int, gap: int) -> None:
    """Refuse a chain without a step that is looked at from `gap` steps later."""
    if n_steps <= gap:
        raise InputError(
            f"A chain of {n_steps} located steps has none with a step {gap} later, so no step "
            f"receives anything: give chains of at least {gap + 1} steps, or a smaller gap."
        )


def received(
    pattern: Float[Tensor, "head pos_q pos_k"],
    spans: Sequence[tuple[int, int]],
    *,
    gap: int = GAP,
) -> Float[Tensor, "head step"]:
    """Return the mean weight from all tokens of steps at least `gap` later to a token of each step.

    A mean over pairs of tokens, so that a long step receives no more for its length. The last
    `gap` steps have none: the answer has `len(spans) - gap` columns.

    >>> uniform = torch.tensor([[[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]]])
    >>> received(uniform, [(0, 1), (1, 2), (2, 3)], gap=2)
    tensor([[0.2000]])
    """
    exact = torch.promote_types(pattern.dtype, torch.float32)
    columns = []
    for step, (first, stop) in enumerate(spans[: len(spans) - gap]):
        later = [pos for span in spans[step + gap :] for pos in range(*span)]
        columns.append(pattern[:, later, first:stop].to(exact).mean((1, 2)))
    return torch.stack(columns, dim=1)


def kurtosis(values: Float[Tensor, "*head step"]) -> Float[Tensor, "*head"]:
    """Return the excess kurtosis over the last axis: fourth central moment / variance² - 3.

    Population moments. Values that agree to one part in a million have no shape but rounding and
    get -3, the lowest number there is.

    >>> kurtosis(torch.tensor([[0.0, 0, 0, 4], [0, 0, 4, 4], [1, 1, 1, 1]]))
    tensor([-0.6667, -2.0000, -3.0000])
    """
    values = values.double()
    middle = values.mean(-1, keepdim=True)
    off = values - middle
    variance = off.square().mean(-1)
    flat = variance.sqrt() <= 1e-6 * middle[..., 0].abs()
    shape = off.pow(4).mean(-1) / variance.square().where(~flat, 1.0)
    return (shape.where(~flat, 0.0) - 3).float()


def rank_heads(weights: Sequence[Float[Tensor, "layer head _"]]) -> list[ReceiverHead]:
    """Order all heads by their mean kurtosis over chains, the highest first.

    `weights` holds for each chain what its steps receive, `[layer, head, step]`; the number of
    steps may differ. Chains with fewer than 4 receiving steps do not count: the kurtosis of
    three values is -1.5 whatever they are.

    Raises:
        InputError: no chain is left to rank on.
    """
    long = [each for each in weights if each.shape[-1] >= FEWEST]
    if not long:
        raise InputError(
            f"No chain has {FEWEST} steps that receive attention, so heads cannot be ranked: give "
            "longer chains, or a smaller gap."
        )
    mean = torch.stack([kurtosis(each) for each in long]).mean(0)
    heads = [
        ReceiverHead(layer, head, float(value), len(long))
        for layer, row in enumerate(mean)
        for head, value in enumerate(row)
    ]
    return sorted(heads, key=lambda each: (-each.kurtosis, each.layer, each.head))


def _values(
    chain: Chain,
    steps: Sequence[int],
    weights: Float[Tensor, "layer head step"],
    heads: Sequence[ReceiverHead],
) -> Iterator[StepValue]:
    n = weights.shape[-1]
    mean = torch.stack([weights[each.layer, each.head] for each in heads]).mean(0)
    for place, step in enumerate(steps):
        value = float(mean[place]) if place < n else None
        why = None if place < n else "too near the end of the chain: no token far enough behind it"
        yield StepValue(chain.problem.id, step, RECEIVER, value, why)
