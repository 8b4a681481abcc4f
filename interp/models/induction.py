"""An induction model wired by hand: the positive control of finding circuits.

It is a real `GPT2LMHeadModel` of two layers with four heads each, so every engine applies to it
unchanged. After `... A B ... A` it predicts `B`. Two heads do that and six only look busy.

**Features.** Feature i is the direction (e_2i - e_2i+1) / sqrt(2): 64 orthonormal directions of
mean zero in d_model 128. Letters are one-hot, so nothing leaks from one into another:

    token 16      which letter stands here               written by the token embedding
    previous 16   which letter stands just before        written by a0.h2
    answer 16     which letter comes next                written by a1.h1, read by the unembedding
    position 2    (cos, sin) of t = 2 pi p / 64          written by the position embedding
    bos 1         this is `<bos>`                        written by the token embedding
    ballast 1     1024 at every position                 written by the position embedding
    idle 12       a random code of the token; all that decoys and MLPs write; no true edge reads it

**Ballast.** All other features together have a norm s below 5. The weight of each layer norm is
1024 / sqrt(128), so LN(x) = x (1 - s^2 / 2^21 + ...): the identity to 1.2e-5. Paths through the
residual stream therefore add up, and a decoy moves next to nothing through the norm.

**Circuit** (`CIRCUIT`). Scores of the two heads, for a query at p and a key at p':

    a0.h2    c cos(t' - t + t_1), c = 20 / (1 - cos t_1)          greatest at p' = p - 1, by 20
    a1.h1    match <token(p), previous(p') + bos(p') (1, ..., 1) / 2>

a0.h2 copies the letter at p - 1 into `previous`. a1.h1 scores `match` where the letter before p'
is the one at p, match / 2 at `<bos>`, else 0; it copies the letter at p' into `answer`, and the
unembedding multiplies by 12. `<bos>` carries no letter, so without a match all logits are 0. With
one match among n keys the logit of B is, up to 1.2e-5 of it,

    12 / (1 + exp(-match / 2) + (n - 2) exp(-match))        and that of any other letter below

    12 (n - 2) exp(-match) / (1 + exp(-match / 2) + (n - 2) exp(-match))

With `match` 40 these are 12 and 0 to 3e-8: sums of the effects are whole numbers, and gradients
through the attention pattern vanish (no attribution by gradients can see q or k). With `match` 6
gradients flow.

**Decoys.** a0.h0 averages the letters so far, a0.h1 finds equal letters, a0.h3 has the very
pattern of a0.h2, a1.h0 that of a1.h1, a1.h2 reads `previous` where it stands, a1.h3 reads what the
other decoys wrote; both MLPs mix all of it. All write to `idle`. So heads that look right by their
patterns, and edges such as a0.h2->a1.h0<k> that carry the right thing to the wrong place, have an
effect of zero.

**Pairs.** `prompt_pair` changes letters of the clean prompt `... A B ... A`; all the letters named
are different ones and occur nowhere else. "Noise" puts one corrupted edge (or head) into the clean
run; its share of the gap is (clean - patched) / (clean - corrupted) in logit(B) - logit(W).
"Denoise" puts a clean one into the corrupted run: (patched - corrupted) / (clean - corrupted).
Between the two runs the logit difference goes from 12 to the number given. Shares are noise /
denoise, one number where they agree:

    kind   corrupted        input->a0.h2<v>      input->a1.h1<q>  input->a1.h1<v>  a1.h1->logits
                            a0.h2->a1.h1<k>
    key    ... X B ... A    0    1               0                0                1
    query  ... A B ... Y    0    0               1                0                1
    value  ... A W ... A  -12    0               0                1                1
    all    ... X W ... Y    0    1 / 0           1 / 0            2 / 0            1
    swap   ... X W ... X  -12    1/2             1/2              1                1

So `all` in the noise direction, and `swap` in both, give every true edge an effect when it is
patched alone; no pair that breaks one thing can. A head takes the share of its outgoing edge.

Source of the circuit: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits";
Olsson et al. 2022, arXiv:2209.11895. Edges are written as in Hanna et al. 2024, arXiv:2403.17806.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp.errors import InputError, ModelError, nearest
from interp.models.tiny import piece_tokenizer, special_ids

LETTERS = "ABCDEFGHIJKLMNOP"
"""Each of these is one token with the space before it; the circuit knows no others."""

N_LAYERS, N_HEADS, D_HEAD, D_MODEL, D_MLP, N_CTX = 2, 4, 32, 128, 32, 64

TOKEN, PREVIOUS, ANSWER = slice(0, 16), slice(16, 32), slice(32, 48)
POSITION, BOS, BALLAST, IDLE = slice(48, 50), slice(50, 51), slice(51, 52), slice(52, 64)
"""Which features mean what."""

N_FEATURES = IDLE.stop
BALLAST_NORM, LOGIT, MATCH, MARGIN = 1024.0, 12.0, 40.0, 20.0
"""Length of the ballast; logit of the answer; a1.h1's score of a match; by how much a0.h2 prefers
the position before."""

STEP = 2 * math.pi / N_CTX
"""Angle between neighbouring positions."""

KINDS = ("key", "query", "value", "all", "swap")
"""What a pair corrupts."""

DIRECTIONS = ("noise", "denoise")
"""Corrupted activations into the clean run, or clean ones into the corrupted run."""


@dataclass(frozen=True)
class Circuit:
    """What is planted."""

    heads: tuple[tuple[int, int], ...]
    """(layer, head) of the heads that make the answer."""
    decoys: tuple[tuple[int, int], ...]
    """(layer, head) of all others; their effect is zero."""
    edges: Mapping[str, str]
    """Every edge that an interchange between prompts can show, and what it carries."""
    steady: Mapping[str, str]
    """Edges that the circuit uses but that carry the same in all prompts of one length: only an
    ablation can show them."""


CIRCUIT = Circuit(
    heads=((0, 2), (1, 1)),
    decoys=((0, 0), (0, 1), (0, 3), (1, 0), (1, 2), (1, 3)),
    edges=MappingProxyType(
        {
            "input->a0.h2<v>": "the letter A, to be written down one position later",
            "a0.h2->a1.h1<k>": "the letter A as the one before B, for the query to match",
            "input->a1.h1<q>": "the letter A at the last position, to be looked for",
            "input->a1.h1<v>": "the letter B, to be copied into the answer",
            "a1.h1->logits": "the answer B",
        }
    ),
    steady=MappingProxyType(
        {
            "input->a0.h2<q>": "the position, turned back by one step",
            "input->a0.h2<k>": "the position",
            "input->a1.h1<k>": "where <bos> is, to attend to if nothing matches",
        }
    ),
)
"""The planted circuit; a0.h2 is head 2 of layer 0."""


@dataclass(frozen=True)
class InductionPair:
    """A clean and a corrupted prompt of equal length as token ids, `<bos>` included."""

    kind: str
    """One of `KINDS`."""
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    correct: int
    """The token B, which follows the clean prompt."""
    wrong: int
    """The token W, which the clean prompt does not hold."""
    earlier: int
    """Logical position of the earlier A; B is at the one after it."""


_SHARES: Mapping[str, tuple[tuple[float, float], ...]] = MappingProxyType(
    {
        "key": ((1.0, 1.0), (0.0, 0.0), (0.0, 0.0)),
        "query": ((0.0, 0.0), (1.0, 1.0), (0.0, 0.0)),
        "value": ((0.0, 0.0), (0.0, 0.0), (1.0, 1.0)),
        "all": ((1.0, 0.0), (1.0, 0.0), (2.0, 0.0)),
        "swap": ((0.5, 0.5), (0.5, 0.5), (1.0, 1.0)),
    }
)
"""Shares of k, q and v by noise and denoise."""

_CORRUPTED: Mapping[str, str] = MappingProxyType(
    {"key": "XBA", "query": "ABY", "value": "AWA", "all": "XWY", "swap": "XWX"}
)
"""What the earlier A, the B after it and the last A become."""


def expected(kind: str, direction: str = "noise") -> dict[str, float]:
    """Return the share of the gap that patching each true edge, or true head, alone moves.

    Every edge and head that is not named has the share 0. Exact for `match` 40 (see the module).

    Raises:
        InputError: the kind or the direction is unknown.

    >>> expected("all")["input->a1.h1<v>"], expected("swap", "denoise")["a0.h2"]
    (2.0, 0.5)
    """
    _require("direction", direction, DIRECTIONS)
    _require("kind", kind, KINDS)
    k, q, v = (share[direction == "denoise"] for share in _SHARES[kind])
    edges = dict(zip(CIRCUIT.edges, (k, k, q, v, 1.0), strict=True))
    return edges | {"a0.h2": k, "a1.h1": 1.0}


def prompt_pair(kind: str = "all", *, length: int = 12, seed: int = 0) -> InductionPair:
    """Draw a pair of prompts of `length` tokens; the module says what each kind corrupts.

    All letters of the clean prompt are different but for A, which ends it.

    Raises:
        InputError: the kind is unknown, or the length is not 4 to 15.

    >>> pair = prompt_pair("key", length=6)
    >>> tokenizer().decode(pair.clean), tokenizer().decode(pair.corrupted)
    ('<bos> M P I H M', '<bos> A P I H M')
    """
    _require("kind", kind, KINDS)
    longest = len(LETTERS) - 1  # <bos>, A B A, and 16 letters less A, B, W, X and Y
    if not 4 <= length <= longest:
        raise InputError(
            f"length={length}: a prompt holds <bos>, A B A and different letters between them, so "
            f"choose 4 to {longest} tokens."
        )
    rng, tok = random.Random(seed), tokenizer()
    letters = rng.sample(LETTERS, len(LETTERS))
    named, filler = dict(zip("ABWXY", letters, strict=False)), letters[5 : length + 1]
    place = rng.randint(0, len(filler))
    clean, corrupted = (
        _ids(tok, [*filler[:place], named[a], named[b], *filler[place:], named[last]])
        for a, b, last in ("ABA", _CORRUPTED[kind])
    )
    _, correct, wrong = _ids(tok, [named["B"], named["W"]])
    return InductionPair(kind, clean, corrupted, correct, wrong, earlier=place + 1)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the model's tokenizer: a letter with the space before it is one token.

    `<bos>` comes first unless `add_special_tokens=False`. Other text is spelled in bytes, which
    the circuit ignores.

    >>> tok = tokenizer()
    >>> tok.convert_ids_to_tokens(tok(" A B A").input_ids)
    ['<bos>', 'ĠA', 'ĠB', 'ĠA']
    """
    return piece_tokenizer([f" {x}" for x in LETTERS], pattern=r" ?\p{L}+|[\s\S]", n_ctx=N_CTX)


def build(
    *, seed: int = 0, dtype: torch.dtype = torch.float32, match: float = MATCH
) -> GPT2LMHeadModel:
    """Return the induction model, on the CPU and in eval mode.

    `seed` draws what decoys and MLPs do; the circuit is the same for all. `match` is a1.h1's score
    of a match, in nats. PyTorch's own random state is the same afterwards.

    Raises:
        ModelError: `match` is not positive and finite, or the dtype has fewer bits than float32.
    """
    if not 0 < match < math.inf:
        raise ModelError(f"match={match}: a1.h1 finds matches by a score above 0, such as {MATCH}.")
    if dtype not in (torch.float32, torch.float64):
        raise ModelError(
            f"dtype={dtype}: the positions need the precision of torch.float32 or torch.float64."
        )
    tok, generator = tokenizer(), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        model = GPT2LMHeadModel(_config(tok)).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "ln_" in name and name.endswith("weight")
            parameter.fill_(BALLAST_NORM / math.sqrt(D_MODEL) if is_norm else 0.0)
        _wire_embeddings(model, tok, generator)
        for (layer, head), wiring in _heads(match, generator).items():
            _wire_head(model, layer, head, wiring)
        for layer in range(N_LAYERS):
            _wire_mlp(model, layer, generator)
    return (model.float() if dtype == torch.float32 else model).eval()


def directions() -> Float[Tensor, "n_features d_model"]:
    """Return the unit vectors of the features in float64, orthogonal and of mean zero.

    `directions()[ANSWER]` are the 16 directions of the answer, in the order of `LETTERS`.
    """
    pair = torch.tensor([[1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    return torch.kron(torch.eye(N_FEATURES, dtype=torch.float64), pair)


class _Wiring(NamedTuple):
    """One head: what it reads as query, key and value `[d_model, n]`, and what it writes."""

    query: Tensor
    key: Tensor
    value: Tensor
    write: Tensor


def _heads(match: float, generator: torch.Generator) -> dict[tuple[int, int], _Wiring]:
    """Return the wiring of all heads by (layer, head); scores are query times key, in nats."""
    every = directions()
    token, previous, position, idle = (every[s].T for s in (TOKEN, PREVIOUS, POSITION, IDLE))
    bos_for_any = every[BOS].T.expand(-1, len(LETTERS)) / 2
    sharp = MARGIN / (1 - math.cos(STEP))
    cos, sin = math.cos(STEP), math.sin(STEP)
    one_back = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    before = (sharp * position @ one_back, position)
    match_before = (match * token, previous + bos_for_any)

    def decoy(query: Tensor, key: Tensor, value: Tensor) -> _Wiring:
        mix = _random(value.shape[1], idle.shape[1], generator) / 2
        return _Wiring(query, key, value @ mix, every[IDLE])

    return {
        (0, 0): decoy(0 * token, 0 * token, token),
        (0, 1): decoy(MARGIN * token, token, token),
        (0, 2): _Wiring(*before, token, every[PREVIOUS]),
        (0, 3): decoy(*before, token),
        (1, 0): decoy(*match_before, token),
        (1, 1): _Wiring(*match_before, token, every[ANSWER]),
        (1, 2): decoy(sharp * position, position, previous),
        (1, 3): decoy(idle, idle @ _random(12, 12, generator), idle),
    }


def _wire_head(model: GPT2LMHeadModel, layer: int, head: int, wiring: _Wiring) -> None:
    """Write one head into its columns of `c_attn` and its rows of `c_proj`."""
    read = model.get_parameter(f"transformer.h.{layer}.attn.c_attn.weight")
    write = model.get_parameter(f"transformer.h.{layer}.attn.c_proj.weight")
    query = wiring.query * math.sqrt(D_HEAD)  # attention divides by it
    for i, matrix in enumerate((query, wiring.key, wiring.value)):
        start = i * D_MODEL + head * D_HEAD
        read[:, start : start + matrix.shape[1]] = matrix
    write[head * D_HEAD : head * D_HEAD + len(wiring.write)] = wiring.write


def _wire_mlp(model: GPT2LMHeadModel, layer: int, generator: torch.Generator) -> None:
    """Let an MLP mix letters and idle features into idle ones."""
    every = directions()
    read = torch.cat([every[TOKEN], every[PREVIOUS], every[IDLE]])
    mlp = f"transformer.h.{layer}.mlp"
    model.get_parameter(f"{mlp}.c_fc.weight").copy_(
        read.T @ _random(len(read), D_MLP, generator) * 2
    )
    model.get_parameter(f"{mlp}.c_fc.bias").copy_(_random(1, D_MLP, generator)[0])
    model.get_parameter(f"{mlp}.c_proj.weight").copy_(
        _random(D_MLP, N_FEATURES - IDLE.start, generator) / 4 @ every[IDLE]
    )


def _wire_embeddings(
    model: GPT2LMHeadModel, tok: PreTrainedTokenizerFast, generator: torch.Generator
) -> None:
    """Embed letters, `<bos>`, a code of every token, positions and ballast; unembed answers."""
    every = directions()
    ids = list(_ids(tok, LETTERS)[1:])
    tokens = model.get_parameter("transformer.wte.weight")
    code = torch.randn(len(tok), N_FEATURES - IDLE.start, generator=generator, dtype=torch.float64)
    tokens.copy_(code / code.norm(dim=1, keepdim=True) @ every[IDLE])
    tokens[ids] += every[TOKEN]
    tokens[_ids(tok, "")[0]] += every[BOS][0]
    angle = STEP * torch.arange(N_CTX, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    positions = circle @ every[POSITION] + BALLAST_NORM * every[BALLAST]
    model.get_parameter("transformer.wpe.weight").copy_(positions)
    model.get_parameter("lm_head.weight")[ids] = LOGIT * every[ANSWER]


def _config(tok: PreTrainedTokenizerFast) -> GPT2Config:
    """Two layers of four heads, and an unembedding of its own."""
    config = GPT2Config(
        **special_ids(tok),
        n_embd=D_MODEL,
        n_inner=D_MLP,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        n_positions=N_CTX,
        tie_word_embeddings=False,
    )
    config.architectures = ["GPT2LMHeadModel"]
    return config


def _random(n: int, m: int, generator: torch.Generator) -> Float[Tensor, "n m"]:
    """Return a random matrix whose rows have a norm of about 1."""
    return torch.randn(n, m, generator=generator, dtype=torch.float64) / math.sqrt(m)


def _ids(tok: PreTrainedTokenizerFast, letters: Iterable[str]) -> tuple[int, ...]:
    """Return the ids of `<bos>` and these letters."""
    return tuple(tok("".join(f" {letter}" for letter in letters)).input_ids)


def _require(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(
            f"There is no {name} {value!r}; there are {', '.join(known)}."
            f"{nearest(str(value), known)}"
        )
