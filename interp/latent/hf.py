"""Latent reasoning on a Hugging Face causal model: one forward call, and what subjects share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.layout import Layout, Target
from interp.latent.state import Closed, Layers, Memory, Node, State
from interp.latent.subject import Forced, Subject

MAX_NEW_TOKENS = 64
"""Of a decoded answer, as in Coconut's evaluation on GSM8K."""


class HFSubject(Subject):
    """A causal language model whose steps are vectors at its input.

    Prompts are padded at the left, so that first steps stand in one column; the mask hides padding
    and positions do not count it, so a row's numbers do not depend on its batch.

    Args:
        hf: the model, in eval mode; float32 on CPU.
        tokenizer: holds the markers of `layout` as single tokens.
        n_steps: T.
        layout: the recipe's templates.
        name: for messages and records.
    """

    width: int = 1
    """Most vectors of a node."""

    def __init__(
        self, hf: PreTrainedModel, tokenizer: Any, *, n_steps: int, layout: Layout, name: str
    ) -> None:
        self.hf, self.tokenizer, self.layout = hf, tokenizer, layout
        self.n_steps, self.name = n_steps, name
        self.close_ids = layout.close_ids(tokenizer)

    @abstractmethod
    def produce(
        self, hidden: Float[Tensor, "batch d_model"], memory: Memory, alive: Bool[Tensor, " batch"]
    ) -> Node:
        """Make the next step's node from the last output and what can be seen.

        Rows that are not `alive` have ended: they get a node without vectors.
        """

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.hf.device

    def embed(self, ids: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n d_model"]:
        """Input vectors of tokens."""
        embedding: Any = self.hf.get_input_embeddings()
        return embedding(ids)

    def head(self, hidden: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n vocab"]:
        """Log-probabilities over the vocabulary of final states, float32 or wider."""
        unembed: Any = self.hf.get_output_embeddings()
        logits = unembed(hidden)
        wide = torch.promote_types(logits.dtype, torch.float32)
        return torch.log_softmax(logits.to(wide), -1)

    def feed(
        self,
        vectors: Float[Tensor, "batch n d_model"],
        seen: Bool[Tensor, "batch n"],
        memory: Memory | None = None,
    ) -> tuple[Float[Tensor, "batch n d_model"], Memory]:
        """One forward call: return the output after the final norm, and the memory with these.

        The memory given is not written to: the cache library appends by making new tensors.
        """
        places = seen.long().cumsum(1) - 1
        if memory is None:
            memory = Memory((), seen[:, :0], torch.zeros_like(places[:, 0]))
        mask = torch.cat([memory.seen, seen], 1)
        cache = DynamicCache(list(memory.layers)) if memory.layers else DynamicCache()
        base: Any = self.hf.base_model
        hidden = base(
            inputs_embeds=vectors.to(self.hf.dtype),
            attention_mask=mask.long(),
            position_ids=(memory.next[:, None] + places).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden, Memory(
            _layers(cache), mask, memory.next + seen.sum(1), memory.slots, memory.origin
        )

    def prefill(self, problems: Sequence[LatentProblem]) -> State:
        """Read the prompts up to the start marker; return (h_1, C_0), one row a problem.

        Raises:
            InputError: no problems, or a prompt that leaves no room in the model's context.
        """
        if not problems:
            raise InputError("There is no problem to run: give at least one.")
        prompts = [self.layout.prompt_ids(self.tokenizer, problem) for problem in problems]
        self._require_room(problems, prompts)
        ids, seen = _padded(prompts, self.device, left=True)
        hidden, memory = self.feed(self.embed(ids), seen)
        return self.begin(hidden[:, -1], memory)

    def begin(self, hidden: Float[Tensor, "batch d_model"], memory: Memory) -> State:
        """The state behind a prompt: (h_1, C_0)."""
        alive = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
        return State(0, self.produce(hidden, memory, alive), memory)

    def step(self, state: State, node: Node | None = None) -> State:
        """Consume `node`, by default the state's own; return (h_{t+1}, C_t)."""
        node = node or state.node
        first = state.memory.seen.shape[1]
        hidden, memory = self.feed(node.vectors, node.seen, state.memory)
        slots = (*state.memory.slots, (first, first + node.vectors.shape[1]))
        memory = Memory(memory.layers, memory.seen, memory.next, slots, memory.origin)
        counts = node.seen.sum(1)
        last = hidden[torch.arange(len(hidden), device=hidden.device), (counts - 1).clamp(min=0)]
        return State(state.consumed + 1, self.produce(last, memory, counts > 0), memory)

    def close(self, state: State) -> Closed:
        """Feed the end marker, leaving the state's own node unconsumed."""
        ids = torch.tensor(self.close_ids, device=self.device).expand(state.rows, -1)
        hidden, memory = self.feed(
            self.embed(ids), torch.ones_like(ids, dtype=torch.bool), state.memory
        )
        return Closed(state.consumed, hidden[:, -1], memory)

    def force(self, closed: Closed, targets: Sequence[Target]) -> Forced:
        """Read the log-probabilities of one target a row, each token given those before it."""
        ids, seen = _padded([list(t.ids) for t in targets], self.device, left=False)
        places = torch.arange(ids.shape[1], device=self.device)
        spans = torch.tensor([t.answer for t in targets], device=self.device)
        answer = (places >= spans[:, :1]) & (places < spans[:, 1:])
        hidden = closed.hidden[:, None]
        if ids.shape[1] > 1:
            rest, _ = self.feed(self.embed(ids[:, :-1]), seen[:, :-1], closed.memory)
            hidden = torch.cat([hidden, rest], 1)
        return Forced(self.head(hidden), ids, seen, answer)

    @torch.no_grad()
    def decode(self, closed: Closed, max_new_tokens: int | None = None) -> list[str]:
        """Write greedily until the end of text; return the new text of each row."""
        ends = self._ends()
        hidden, memory = closed.hidden, closed.memory
        alive = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
        written: list[list[int]] = [[] for _ in range(len(hidden))]
        ids = self.head(hidden).argmax(-1)
        room = self._room(memory, max_new_tokens or MAX_NEW_TOKENS)
        for i in range(int(room.max())):
            if i:
                states, memory = self.feed(self.embed(ids[:, None]), alive[:, None], memory)
                ids = self.head(states[:, -1]).argmax(-1)
            alive = alive & ~torch.isin(ids, ends)
            for row in alive.nonzero()[:, 0].tolist():
                written[row].append(int(ids[row]))
            alive = alive & (room > i + 1)  # a row without room for this token writes no more
            if not alive.any():
                break
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in written]

    def target(self, answer: str) -> Target:
        """The tokens that state this answer, as the model was trained to write it."""
        return self.layout.target_of(self.tokenizer, answer)

    def read(self, text: str) -> str | None:
        """The answer in a decoded text, or None where it holds none."""
        return self.layout.read(text)

    def check_problem(self, problem: LatentProblem) -> None:
        """Refuse a problem that it cannot run or score, without running.

        Raises:
            InputError: no question or answer, or more tokens than the model reads.
        """
        super().check_problem(problem)
        self._require_room([problem], [self.layout.prompt_ids(self.tokenizer, problem)])

    def _ends(self) -> Tensor:
        own = self.hf.config.eos_token_id  # one id, several, or none
        several = own if isinstance(own, list | tuple) else [own]
        ends = {self.tokenizer.eos_token_id, *several} - {None}
        return torch.tensor(sorted(ends), device=self.device)

    def _room(self, memory: Memory, wanted: int) -> Int[Tensor, " batch"]:
        """How many tokens each row can write: the first needs no place of its own."""
        most = getattr(self.hf.config, "max_position_embeddings", None)
        if most is None:
            return torch.full_like(memory.next, wanted)
        return (most - memory.next + 1).clamp(max=wanted)

    def _require_room(self, problems: Sequence[LatentProblem], prompts: Sequence[Any]) -> None:
        room = getattr(self.hf.config, "max_position_embeddings", None)
        for problem, prompt in zip(problems, prompts, strict=True):
            needed = len(prompt) + self.n_steps * self.width + len(self.close_ids)
            if problem.answer:  # all of the target but its last token is fed
                needed += len(self.target(problem.answer).ids) - 1
            if room is not None and needed > room:
                raise InputError(
                    f"Problem {problem.id!r} takes {needed} tokens with its steps and answer, and "
                    f"{self.name} reads {room}: leave it out, or shorten its question."
                )


def _layers(cache: Any) -> Layers:
    return tuple((layer.keys, layer.values) for layer in cache.layers)


def _padded(
    rows: Sequence[Sequence[int]], device: torch.device, *, left: bool
) -> tuple[Int[Tensor, "batch n"], Bool[Tensor, "batch n"]]:
    """Token ids in a rectangle, and which of them are real."""
    width = max(len(row) for row in rows)
    pads = [[0] * (width - len(row)) for row in rows]
    cells = [[*pad, *row] if left else [*row, *pad] for row, pad in zip(rows, pads, strict=True)]
    real = [[False] * len(pad) + [True] * (width - len(pad)) for pad in pads]
    seen = real if left else [flags[::-1] for flags in real]
    return torch.tensor(cells, device=device), torch.tensor(seen, device=device)
