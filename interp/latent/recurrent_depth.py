"""Reasoning in depth: one block applied again and again to the states of all positions.

The model has the parts of Huginn (Geiping et al. 2025, arXiv:2502.05171, sections 3 and 4), small:

    e   = prelude(embeddings)
    s_0 = a fixed draw of a truncated normal
    s_i = core(adapter([s_{i-1}; e]))      recurrence i, the same weights each time
    answer = head(coda(s_r)) at the last position of the prompt

Step i of the subject is recurrence i: its node holds s_i at every position, so `Do.places` are
positions of the prompt. A recurrence leaves nothing behind but the state that it hands on, so a
step has one edge, `input`.

With `again="hard"` a decider says after the first pass which positions are hard, and only those
are iterated again, as in Think-at-Hard (Fu et al. 2025, arXiv:2511.08577, section 3): from step 2
on a node has vectors at those positions alone (`seen`), and the others keep the state of pass 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from interp.data.latent_problems import LatentProblem
from interp.errors import EditError, InputError, StoreError, nearest
from interp.latent.layout import Layout, Target
from interp.latent.state import Closed, Memory, Node, Slot, State
from interp.latent.subject import Forced, Subject

Again = Literal["always", "hard", "never"]
"""Which positions are iterated after the first pass: all, those found hard, or none."""
THRESHOLD = 0.8
"""Probability from which a position counts as hard, as in Think-at-Hard."""
CONFIG, WEIGHTS = "config.json", "model.safetensors"
SPREAD = (2 / 5) ** 0.5
"""Standard deviation of s_0, cut at three of it, as in Huginn."""


@dataclass(frozen=True, kw_only=True)
class RecurrentDepthConfig:
    """Sizes of the model; the MLPs are twice as wide as the residual stream."""

    model_type: ClassVar = "recurrent_depth"
    tie_word_embeddings: ClassVar = False

    d_vocab: int
    d_model: int = 64
    n_heads: int = 4
    n_ctx: int = 32
    n_prelude: int = 1
    n_core: int = 1
    n_coda: int = 1
    n_steps: int = 4
    """Recurrences that the model was trained for."""

    def save_pretrained(self, folder: Path) -> None:
        """Write `config.json`."""
        text = json.dumps({"model_type": self.model_type, **asdict(self)}, indent=2)
        (folder / CONFIG).write_text(f"{text}\n")


class Block(nn.Module):
    """Causal attention and an MLP with a norm before and behind each, as in Huginn."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norms = nn.ModuleList(nn.RMSNorm(d_model) for _ in range(4))
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.up = nn.Linear(d_model, 2 * d_model)
        self.down = nn.Linear(2 * d_model, d_model)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Mix positions, each with itself and those before it, then each with its MLP."""
        x = self.norms[1](x + self._attend(self.norms[0](x)))
        inner = nn.functional.gelu(self.up(self.norms[2](x)))
        made: Tensor = self.norms[3](x + self.down(inner))
        return made

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        z = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(z.transpose(1, 2).flatten(2))


class RecurrentDepthModel(nn.Module):
    """Prelude, adapter, core and coda, and a small MLP that decides which states are hard."""

    def __init__(self, config: RecurrentDepthConfig) -> None:
        super().__init__()
        self.config = config
        d, heads = config.d_model, config.n_heads
        self.embed = nn.Embedding(config.d_vocab, d)
        self.embed_pos = nn.Embedding(config.n_ctx, d)
        self.prelude = nn.Sequential(*(Block(d, heads) for _ in range(config.n_prelude)))
        self.adapter = nn.Linear(2 * d, d, bias=False)
        self.core = nn.Sequential(*(Block(d, heads) for _ in range(config.n_core)))
        self.coda = nn.Sequential(*(Block(d, heads) for _ in range(config.n_coda)))
        self.head = nn.Linear(d, config.d_vocab, bias=False)
        self.decider = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, 1))

    def read_in(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The prompt as every recurrence sees it: e."""
        places = torch.arange(ids.shape[1], device=ids.device)
        made: Tensor = self.prelude(self.embed(ids) + self.embed_pos(places))
        return made

    def first(self, n_pos: int, seed: int) -> Float[Tensor, "pos d_model"]:
        """s_0 at the first `n_pos` positions: the same for every prompt, and for every batch."""
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(self.config.n_ctx, self.config.d_model, generator=generator)
        return (SPREAD * draw.clamp(-3, 3))[:n_pos].to(self.embed.weight)

    def recur(
        self, state: Float[Tensor, "batch pos d_model"], prompt: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """One recurrence: s_i of s_{i-1} and e."""
        made: Tensor = self.core(self.adapter(torch.cat([state, prompt], -1)))
        return made

    def hardness(self, state: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos"]:
        """Probability that what is read at a position is not yet right."""
        made: Tensor = self.decider(state)[..., 0].sigmoid()
        return made


def load_model(folder: Path) -> RecurrentDepthModel:
    """Read a model from `config.json` and `model.safetensors`, on the CPU, in eval mode.

    Raises:
        StoreError: a file is missing, or holds another model.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise StoreError(f"{folder} lacks {name}: name a folder of a recurrent-depth model.")
    config = json.loads((folder / CONFIG).read_text())
    kind = config.pop("model_type", None)
    if kind != RecurrentDepthConfig.model_type:
        raise StoreError(
            f"{folder} holds a model of type {kind!r}, not 'recurrent_depth': load it as that."
        )
    with torch.random.fork_rng(devices=[]):
        model = RecurrentDepthModel(RecurrentDepthConfig(**config))
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise StoreError(f"The weights in {folder} are not those of its config: {reason}") from None
    return model.eval()


@dataclass(frozen=True, eq=False, kw_only=True)
class Depth(Memory):
    """The prompt as the core sees it, and the states after the recurrences consumed."""

    prompt: Float[Tensor, "batch pos d_model"]
    """e."""
    states: Float[Tensor, "batch pos d_model"]
    """s_t at every position, t the recurrences consumed."""
    going: Bool[Tensor, "batch pos"]
    """Which positions the next recurrence changes."""

    def take(self, rows: Sequence[int] | Int[Tensor, " taken"]) -> Depth:
        """Some of the rows, in the order given."""
        index = torch.as_tensor(rows, device=self.seen.device)
        kept = Memory((), self.seen, self.next, self.slots).take(index)
        mine = {name: getattr(self, name)[index] for name in ("prompt", "states", "going")}
        return Depth(**vars(kept), **mine)

    def slot(self, step: int) -> Slot:
        """No keys and values: none outlive a recurrence."""
        return Slot((), self.seen[:, :0])


class RecurrentDepth(Subject):
    """A recurrent-depth model whose recurrences are steps.

    Prompts are padded at the right, so place p of a node is position p of the prompt, and causal
    attention alone keeps padding away from every row.

    Args:
        model: in eval mode.
        tokenizer: every answer is one of its tokens.
        layout: gives the prompt and how an answer is written; no end marker is fed.
        name: for messages and records.
        n_steps: T; by default what the model was trained for.
        seed: of s_0.
        again: which positions are iterated after the first pass.
        threshold: probability from which `again="hard"` iterates a position.

    Raises:
        InputError: a number of steps below 0, or a setting that does not exist.
    """

    convention = (
        "step t is recurrence t at all positions; h_t = s_t is made by recurrence t of s_{t-1} and "
        "consumed when it becomes the state of C_t; closing C_t reads coda(s_t) at the last "
        "position of the prompt"
    )
    edges = ("input",)

    def __init__(
        self,
        model: RecurrentDepthModel,
        tokenizer: Any,
        *,
        layout: Layout | None = None,
        name: str = "recurrent-depth",
        n_steps: int | None = None,
        seed: int = 0,
        again: Again = "always",
        threshold: float = THRESHOLD,
    ) -> None:
        if again not in get_args(Again):
            known = get_args(Again)
            raise InputError(
                f"again={again!r}: positions are iterated {', '.join(known)}."
                f"{nearest(again, known)}"
            )
        self.n_steps = model.config.n_steps if n_steps is None else n_steps
        if self.n_steps < 0:
            raise InputError(f"n_steps={n_steps}: give 0 recurrences or more.")
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.layout = layout or Layout(
            prompt="{question}", close="", step="{step}", target="{answer}", mark="", eos=False
        )
        self.seed, self.again, self.threshold = seed, again, threshold

    def prefill(self, problems: Sequence[LatentProblem]) -> State:
        """Read the prompts and make s_0 and s_1; return (h_1, C_0), one row a problem.

        Raises:
            InputError: no problems, or a prompt longer than the model reads.
        """
        if not problems:
            raise InputError("There is no problem to run: give at least one.")
        ids, seen = self._padded(self._prompts(problems))
        prompt = self.model.read_in(ids)
        states = self.model.first(ids.shape[1], self.seed).expand_as(prompt)
        memory = Depth((), seen, seen.sum(1), prompt=prompt, states=states, going=seen)
        return self._state(0, memory)

    def step(self, state: State, node: Node | None = None) -> State:
        """Take the states of `node`, by default the state's own; return (h_{t+1}, C_t).

        Positions that the node leaves out keep the state that they have.

        Raises:
            EditError: the node is of prompts of another length.
        """
        memory, node = _depth(state.memory), node or state.node
        self._require_fit(memory, node, whole=self.again == "always" or state.consumed == 0)
        width = memory.seen.shape[1]
        more = max(0, width - node.vectors.shape[1])
        vectors = nn.functional.pad(node.vectors, (0, 0, 0, more))[:, :width]
        seen = nn.functional.pad(node.seen, (0, more))[:, :width]
        states = torch.where(seen[..., None], vectors.to(memory.states), memory.states)
        slots = (*memory.slots, (0, 0))
        return self._state(state.consumed + 1, replace(memory, states=states, slots=slots))

    def close(self, state: State) -> Closed:
        """Read the states out with the coda, leaving the state's own node unconsumed."""
        memory = _depth(state.memory)
        made = self.model.coda(memory.states)
        rows = torch.arange(state.rows, device=made.device)
        return Closed(state.consumed, made[rows, memory.next - 1], memory)

    def force(self, closed: Closed, targets: Sequence[Target]) -> Forced:
        """Read the log-probabilities of one target a row.

        Raises:
            InputError: a target of more than one token.
        """
        for target in targets:
            self._require_one(target)
        logits = self.model.head(closed.hidden)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        ids = torch.tensor([target.ids for target in targets], device=logits.device)
        real = torch.ones_like(ids, dtype=torch.bool)
        return Forced(torch.log_softmax(wide, -1)[:, None], ids, real, real)

    @torch.no_grad()
    def decode(self, closed: Closed, max_new_tokens: int | None = None) -> list[str]:
        """The likeliest token of each row; an answer is one token, so the number is not used."""
        ids = self.model.head(closed.hidden).argmax(-1)
        return [self.tokenizer.decode([i], skip_special_tokens=True) for i in ids.tolist()]

    def target(self, answer: str) -> Target:
        """The token that states this answer.

        Raises:
            InputError: it takes more than one.
        """
        return self._require_one(self.layout.target_of(self.tokenizer, answer))

    def read(self, text: str) -> str | None:
        """The answer in a decoded text, or None where it holds none."""
        return self.layout.read(text)

    def check_problem(self, problem: LatentProblem) -> None:
        """Refuse a problem that it cannot run or score, without running.

        Raises:
            InputError: no question, an answer of several tokens, or more tokens than it reads.
        """
        super().check_problem(problem)
        self._prompts([problem])

    def _prompts(self, problems: Sequence[LatentProblem]) -> list[list[int]]:
        prompts = [self.layout.prompt_ids(self.tokenizer, problem) for problem in problems]
        for problem, prompt in zip(problems, prompts, strict=True):
            if len(prompt) > self.model.config.n_ctx:
                raise InputError(
                    f"Problem {problem.id!r} takes {len(prompt)} tokens, and {self.name} reads "
                    f"{self.model.config.n_ctx}: leave it out, or shorten its question."
                )
        return prompts

    def _state(self, consumed: int, memory: Depth) -> State:
        """(h_{t+1}, C_t): the next recurrence, at the positions that go on."""
        if consumed == 1:
            memory = replace(memory, going=memory.seen & self._go_on(memory.states))
        made = self.model.recur(memory.states, memory.prompt)
        return State(consumed, Node(made, memory.going), memory)

    def _go_on(self, states: Float[Tensor, "batch pos d_model"]) -> Bool[Tensor, "batch pos"]:
        """Which positions are iterated again, from their states after the first pass."""
        if self.again == "hard":
            return self.model.hardness(states) >= self.threshold
        return torch.full(states.shape[:2], self.again == "always", device=states.device)

    def _require_fit(self, memory: Depth, node: Node, *, whole: bool) -> None:
        """Refuse vectors at positions that a prompt lacks; a `whole` node leaves none out."""
        width = memory.seen.shape[1]
        given = nn.functional.pad(node.seen, (0, max(0, width - node.seen.shape[1])))
        beyond = given[:, width:].any(1) | (given[:, :width] & ~memory.seen).any(1)
        short = (memory.seen & ~given[:, :width]).any(1) & whole
        if bool((beyond | short).any()):
            row = int((beyond | short).nonzero()[0, 0])
            raise EditError(
                f"Row {row} has {int(memory.next[row])} positions, and the states given to it are "
                f"those of {int(given[row].sum())}: take donors with prompts of the same length "
                '(Resample("same_position")).'
            )

    def _require_one(self, target: Target) -> Target:
        if len(target.ids) != 1:
            raise InputError(
                f"{self.name} answers in one token, and a target has {len(target.ids)}: give "
                "answers of one token, with a layout that adds no template and no end of text."
            )
        return target

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width = max(len(row) for row in rows)
        cells = [[*row, *[0] * (width - len(row))] for row in rows]
        seen = [[place < len(row) for place in range(width)] for row in rows]
        device = self.model.embed.weight.device
        return torch.tensor(cells, device=device), torch.tensor(seen, device=device)


def _depth(memory: Memory) -> Depth:
    if not isinstance(memory, Depth):
        raise InputError("This state is not of a recurrent-depth model: begin with its `prefill`.")
    return memory
