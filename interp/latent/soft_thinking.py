"""Soft Thinking: a chat model reasons in mixtures of its own token embeddings, without training.

Source: Zhang et al. 2025, arXiv:2505.15778, section 3. A step's node is the concept token
h_t = sum_i p_i E[i] over the likeliest next tokens, so it never leaves the convex hull of the
embeddings. A row ends where the likeliest token closes the thought, or after a run of steps of low
entropy ("cold stop"); its later nodes are empty. The paper's models have 32B weights and more;
small ones gain little, and are there to be looked into.

Ids and weights of a step stay beside its vector (`Mixture`), so an edit can be one of weights
(`interp.latent.token_mix`) and a record can say what was thought.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from interp.engine.loading import load
from interp.errors import InputError
from interp.latent.hf import HFSubject
from interp.latent.layout import Layout
from interp.latent.state import Closed, Memory, Node, State
from interp.models.tokens import chat

NUMBER = r"\A[^\d]*?(-?\d+(?:,\d{3})*(?:\.\d+)?)"
"""The first number of a text: a chat model writes on after its answer."""
THINK_END = "</think>"
"""Tag that closes a thought, in models that have one."""
ANSWER_TOKENS = 16
"""Tokens that are decoded for an answer."""

Embed = Callable[[Int[Tensor, "batch n"]], Float[Tensor, "batch n d_model"]]
"""Input vectors of tokens: a subject's `embed`."""


@dataclass(frozen=True)
class Mixing:
    """How a distribution over the vocabulary becomes a mixture, and when a row has thought enough.

    Raises:
        InputError: a value outside its range.
    """

    temperature: float = 0.6
    top_k: int = 15
    """Most tokens of a mixture; the paper tries 5 to 30."""
    top_p: float = 0.95
    """Of those, the fewest whose share reaches this."""
    calm: float = 0.01
    """Entropy in nats below which a step is calm, of the whole distribution at the temperature."""
    patience: int = 256
    """Calm steps in a row after which a row ends."""

    def __post_init__(self) -> None:
        rules = {
            "temperature": (self.temperature > 0, "above 0"),
            "top_k": (self.top_k >= 1, "1 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "calm": (self.calm >= 0, "0 or more"),
            "patience": (self.patience >= 1, "1 or more"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise InputError(f"{name}={getattr(self, name)}: give a number {rule}.")


@dataclass(frozen=True, eq=False, kw_only=True)
class Mixture(Node):
    """A node that knows which tokens it mixes."""

    ids: Int[Tensor, "batch top"]
    """Likeliest tokens, the likeliest first."""
    weights: Float[Tensor, "batch top"]
    """Their weights: a sum of 1 a row, 0 for those that top-p leaves out."""
    entropy: Float[Tensor, " batch"]
    """Of the whole distribution at the temperature, in nats."""

    def take(self, rows: Sequence[int] | Int[Tensor, " taken"]) -> Mixture:
        """Some of the rows, in the order given."""
        index = torch.as_tensor(rows, device=self.vectors.device)
        return Mixture(**{name: values[index] for name, values in vars(self).items()})

    def tokens(self, tokenizer: Any) -> list[list[tuple[str, float]]]:
        """For each row, its tokens and their weights; none for a row that has ended."""
        rows = zip(self.ids.tolist(), self.weights.tolist(), self.seen[:, 0].tolist(), strict=True)
        return [
            [
                (tokenizer.decode([i]), w)
                for i, w in zip(ids, weights, strict=True)
                if w > 0 and seen
            ]
            for ids, weights, seen in rows
        ]


@dataclass(frozen=True, eq=False, kw_only=True)
class Thought(Memory):
    """A memory that counts how long each row has been calm."""

    run: Int[Tensor, " batch"]
    """Calm steps in a row, up to the one that is known and not yet consumed."""

    def take(self, rows: Sequence[int] | Int[Tensor, " taken"]) -> Thought:
        """Some of the rows, in the order given."""
        index = torch.as_tensor(rows, device=self.seen.device)
        return Thought(**vars(_plain(self).take(index)), run=self.run[index])


def top_mixture(
    logits: Float[Tensor, "batch vocab"], mixing: Mixing
) -> tuple[Int[Tensor, "batch top"], Float[Tensor, "batch top"]]:
    """Ids and weights of a concept token: temperature, then top-k, then top-p of what is left.

    >>> logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    >>> ids, weights = top_mixture(logits, Mixing(temperature=1.0, top_k=3, top_p=0.8))
    >>> ids.tolist(), [[round(w, 3) for w in row] for row in weights.tolist()]
    ([[0, 1, 2]], [[0.625, 0.375, 0.0]])
    """
    top = torch.topk(logits / mixing.temperature, min(mixing.top_k, logits.shape[-1]))
    share = top.values.softmax(-1)
    before = share.cumsum(-1) - share
    kept = torch.where(before < mixing.top_p, share, torch.zeros_like(share))
    return top.indices, kept / kept.sum(-1, keepdim=True)


def mixed(
    embed: Embed, ids: Int[Tensor, "batch top"], weights: Float[Tensor, "batch top"]
) -> Float[Tensor, "batch 1 d_model"]:
    """sum_i w_i E[i], as a node of one vector."""
    vectors = embed(ids)
    return (weights[..., None].to(vectors) * vectors).sum(1, keepdim=True)


class SoftThinking(HFSubject):
    """h_t is the mean of the likeliest next tokens' embeddings, weighted by their probability.

    Args:
        hf: any causal language model, best one trained to reason; in eval mode.
        tokenizer: its tokenizer.
        n_steps: T, the most steps; a row that ends earlier has empty nodes from there on.
        layout: see `chat_layout`.
        name: for messages and records.
        mixing: temperature, top-k, top-p and when to stop.
        ends: tokens that close a thought when they are the likeliest; by default `</think>`,
            where the tokenizer has it, and the end of text.

    Raises:
        InputError: an end that is not one token.
    """

    convention = (
        "h_t is the mixture of next tokens that the position before slot t expects, fed as slot "
        "t's input; a row that has ended feeds nothing; C_t has consumed t slots"
    )

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: Any,
        *,
        n_steps: int,
        layout: Layout,
        name: str,
        mixing: Mixing | None = None,
        ends: Sequence[str] | None = None,
    ) -> None:
        super().__init__(hf, tokenizer, n_steps=n_steps, layout=layout, name=name)
        self.mixing = mixing or Mixing()
        self.end_ids = self._end_ids(ends)

    def _end_ids(self, ends: Sequence[str] | None) -> Int[Tensor, " ends"]:
        """Ids of the tokens that close a thought."""
        if ends is None:
            tags, found = (
                [THINK_END][: _one_token(self.tokenizer, THINK_END)],
                self._ends().tolist(),
            )
        else:
            tags, found = list(ends), []
        for tag in tags:
            if not _one_token(self.tokenizer, tag):
                raise InputError(
                    f"{tag!r} is not one token of the tokenizer, so no step can be it: name a "
                    "special token that closes a thought, or none."
                )
            found.append(self.tokenizer(tag, add_special_tokens=False).input_ids[0])
        return torch.tensor(found, dtype=torch.long, device=self.device)

    def produce(
        self, hidden: Float[Tensor, "batch d_model"], memory: Memory, alive: Bool[Tensor, " batch"]
    ) -> Mixture:
        """The concept token; none where a thought is closed."""
        logprobs = self.head(hidden)
        ids, weights = top_mixture(logprobs, self.mixing)
        spread = torch.log_softmax(logprobs / self.mixing.temperature, -1)
        return Mixture(
            vectors=mixed(self.embed, ids, weights),
            seen=(alive & ~torch.isin(ids[:, 0], self.end_ids.to(ids.device)))[:, None],
            ids=ids,
            weights=weights,
            entropy=torch.special.entr(spread.exp()).sum(-1),
        )

    def begin(self, hidden: Float[Tensor, "batch d_model"], memory: Memory) -> State:
        """The state behind a prompt: (h_1, C_0)."""
        none = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
        return self._settled(super().begin(hidden, memory), none)

    def step(self, state: State, node: Node | None = None) -> State:
        """Consume `node`, by default the state's own; return (h_{t+1}, C_t).

        Raises:
            InputError: the state is of another subject.
        """
        if not isinstance(state.memory, Thought):
            raise InputError("This state is not from SoftThinking: begin with its own `prefill`.")
        return self._settled(super().step(state, node), state.memory.run)

    def drawn(self, state: State, temperature: float, gumbel: Callable[[int], Tensor]) -> Mixture:
        """The state's next mixture with other weights, softmax((log w + g) / temperature).

        A low temperature draws one of the mixture's tokens, each with its own weight's probability.

        Args:
            state: whose node is drawn around.
            temperature: above 0.
            gumbel: `gumbel(n)` gives standard Gumbel draws `[batch n]`.
        """
        own = as_mixture(state.node)
        high = (own.weights.log() + gumbel(own.weights.shape[1]).to(own.weights)) / temperature
        weights = high.softmax(-1)  # what has weight 0 keeps it
        return replace(own, weights=weights, vectors=mixed(self.embed, own.ids, weights))

    def decode(self, closed: Closed, max_new_tokens: int | None = None) -> list[str]:
        """Write greedily for a few tokens: the answer comes first."""
        return super().decode(closed, max_new_tokens or ANSWER_TOKENS)

    def _settled(self, state: State, run: Int[Tensor, " batch"]) -> State:
        """Count calm steps on, and end rows that have had enough of them."""
        node, memory = as_mixture(state.node), state.memory
        run = torch.where(node.entropy < self.mixing.calm, run + 1, torch.zeros_like(run))
        seen = node.seen & (run < self.mixing.patience)[:, None]
        kept = Thought(**vars(_plain(memory)), run=run)
        return replace(state, node=replace(node, seen=seen), memory=kept)


def chat_layout(
    tokenizer: Any,
    *,
    ask: str = "",
    cue: str = "The final answer is",
    pattern: str = NUMBER,
    system: str | None = None,
) -> Layout:
    """Templates for a chat model: its own chat template, and a cue for the answer.

    Args:
        tokenizer: one without a template gets `Question: ...` and `Answer:`.
        ask: put behind the question, such as " Answer with a number."
        cue: fed when the thought is over, behind `</think>` where the tokenizer has it.
        pattern: finds the answer in what is then written; by default the first number.
        system: a system message; by default the template's own.
    """
    tag = f"{THINK_END}\n\n" if _one_token(tokenizer, THINK_END) else "\n"
    return Layout(
        prompt=chat(tokenizer, "{question}" + ask, system=system),
        close=tag + cue,
        step="{step}\n",
        target=" {answer}",
        mark="",
        pattern=pattern,
        eos=False,
    )


def load_soft_thinking(
    name: str = "smollm2-135m",
    *,
    n_steps: int = 16,
    ask: str = "",
    mixing: Mixing | None = None,
) -> SoftThinking:
    """Load a chat model by name, and let it think softly.

    Raises:
        ModelError: there is no such model.
        InputError: it has no tokenizer.
    """
    model = load(name)
    if model.tokenizer is None:
        raise InputError(f"{name} has no tokenizer, so it reads no question: name a chat model.")
    return SoftThinking(
        model.hf,
        model.tokenizer,
        n_steps=n_steps,
        layout=chat_layout(model.tokenizer, ask=ask),
        name=f"soft thinking on {name}",
        mixing=mixing,
    )


def as_mixture(node: Node) -> Mixture:
    """The node with its tokens.

    Raises:
        InputError: it has none.
    """
    if not isinstance(node, Mixture):
        raise InputError(
            "This node is not a mixture of tokens: take one that SoftThinking made, from its own "
            "`prefill` or `step`."
        )
    return node


def _plain(memory: Memory) -> Memory:
    return Memory(**{name: getattr(memory, name) for name in Memory.__dataclass_fields__})


def _one_token(tokenizer: Any, text: str) -> bool:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id
