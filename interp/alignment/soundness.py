"""Is a model of legal moves sound, and does the board that a probe decodes drive it?

A model is sound if its first choice is legal after every legal prefix; one counterexample refutes
it. An attack plays White with legal moves against the model's greedy Black, and wins where Black
answers illegally:

    RM   a random legal move
    SMM  the model's own best legal move
    AD   the legal move that the model finds least likely
    IMO  the legal move a for which some illegal answer b has the largest probability; probabilities
         under 1e-4 count as none, and a move whose most likely answer is illegal wins at once
    BSO  the legal move after which a probe misreads the true board most

If the decoded board drove the model, BSO would do as well as IMO. `overlap` asks the same of sets:
do the moves that the model plays agree with those that are legal on the decoded board more than the
errors of both against the true board imply? Source: Shah et al., arXiv:2602.05903.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.alignment.linear_probes import LinearProbe
from interp.data.rook_endgame import BLACK, PIECES, Rules
from interp.errors import InputError
from interp.stats import Interval, cluster_bootstrap, wilson

PRUNED = 1e-4
"""Illegal answers below this probability are no aim of IMO."""
PLAYED = 1e-3
"""Tokens above this probability count as moves that the model plays."""
CHUNK = 2048
"""Games that the model reads at once."""

Attack = Literal["RM", "SMM", "AD", "IMO", "BSO"]
ATTACKS: tuple[Attack, ...] = get_args(Attack)
Reader = Callable[[Tensor], Tensor]
"""Log-probabilities `[game, token]` of the next token after games `[game, pos]` of one length."""
BoardLoss = Callable[[Tensor, Tensor], Tensor]
"""A probe's loss `[game]` in nats on the true board, after games `[game, pos]` and positions."""


@dataclass(frozen=True, eq=False)
class Played:
    """What one attack made of each prefix."""

    attack: Attack
    tokens: Int[Tensor, "prefix pos"]
    """The games, filled up with `<end>` once they are decided."""
    won: Bool[Tensor, " prefix"]
    """Whether the model answered illegally."""
    moves: Int[Tensor, " prefix"]
    """White's moves until the illegal answer, or until the attack stopped."""

    @property
    def success(self) -> Interval:
        """Share of the prefixes that end in an illegal answer, with its Wilson interval."""
        return wilson(int(self.won.sum()), len(self.won))


def play(
    attack: Attack,
    rules: Rules,
    reader: Reader,
    prefixes: Int[Tensor, "prefix pos"],
    *,
    moves: int,
    seed: int = 0,
    board_loss: BoardLoss | None = None,
) -> Played:
    """Attack the model from each prefix, for so many moves of White at most.

    Args:
        attack: how White chooses.
        rules: the game.
        reader: the model.
        prefixes: legal games of one length with White to move; a second copy of one is left out.
        moves: at most.
        seed: of RM.
        board_loss: for BSO.

    Raises:
        InputError: no such attack, BSO without a probe's loss, moves below 1, or a prefix that is
            no legal game with White to move.
    """
    prefixes = prefixes.unique(dim=0)
    now = _white_to_move(attack, rules, prefixes, moves, board_loss)
    stream = torch.Generator().manual_seed(seed)
    tokens = prefixes
    won = torch.zeros(len(prefixes), dtype=torch.bool)
    made = torch.zeros(len(prefixes), dtype=torch.long)
    live = torch.arange(len(prefixes))
    for _ in range(moves):
        if not len(live):
            break
        choice = _choose(attack, rules, reader, tokens[live], now[live], stream, board_loss)
        middle = rules.after(now[live], choice)
        answer = _read(reader, torch.cat([tokens[live], choice[:, None]], 1)).argmax(1)
        fine = rules.legal[middle, answer]
        added = torch.zeros(len(tokens), 2, dtype=tokens.dtype)
        added[live] = torch.stack([choice, answer], 1)
        tokens = torch.cat([tokens, added], 1)
        won[live], made[live] = ~fine, made[live] + 1
        now[live] = torch.where(fine, rules.after(middle, answer), rules.over)
        live = live[now[live] != rules.over]
    return Played(attack, tokens, won, made)


def _white_to_move(
    attack: str, rules: Rules, prefixes: Tensor, moves: int, board_loss: BoardLoss | None
) -> Int[Tensor, " prefix"]:
    if attack not in ATTACKS:
        raise InputError(f"There is no attack {attack!r}: choose one of {', '.join(ATTACKS)}.")
    if attack == "BSO" and board_loss is None:
        raise InputError("BSO aims at a probe's loss: give board_loss, or choose another attack.")
    if moves < 1:
        raise InputError(f"moves={moves}: White makes 1 or more.")
    now = rules.replay(prefixes)[:, -1]
    bad = ((now == rules.over) | (now % 2 == BLACK)).nonzero().flatten()
    if len(bad):
        raise InputError(
            f"Prefix {int(bad[0])} ({rules.text(prefixes[bad[0]].tolist())}) does not end with "
            "White to move: cut it one move earlier, or leave it out once the game is over."
        )
    return now


def _choose(
    attack: Attack,
    rules: Rules,
    reader: Reader,
    tokens: Tensor,
    now: Tensor,
    stream: torch.Generator,
    board_loss: BoardLoss | None,
) -> Int[Tensor, " game"]:
    """Return White's move in each game: the legal one of the largest score."""
    legal = rules.legal[now]
    if attack == "RM":
        return torch.multinomial(legal.float(), 1, generator=stream)[:, 0]
    if attack in ("SMM", "AD"):
        scores = _read(reader, tokens) * (1 if attack == "SMM" else -1)
        return scores.masked_fill(~legal, -torch.inf).argmax(1)
    game, move = legal.nonzero(as_tuple=True)
    longer = torch.cat([tokens[game], move[:, None]], 1)
    after = rules.after(now[game], move)
    if attack == "IMO":
        found = illegal_mass(_read(reader, longer).exp(), rules.legal[after])
    else:
        assert board_loss is not None
        parts = zip(longer.split(CHUNK), after.split(CHUNK), strict=True)
        found = torch.cat([board_loss(*part) for part in parts])
    scores = torch.full(legal.shape, -torch.inf, dtype=found.dtype)
    scores[game, move] = found
    return scores.argmax(1)


def illegal_mass(
    probs: Float[Tensor, "game token"], legal: Bool[Tensor, "game token"]
) -> Float[Tensor, " game"]:
    """Return IMO's aim: the largest probability of an illegal answer, 2 where it is the largest.

    >>> probs = torch.tensor([[0.6, 0.4], [0.4, 0.6]])
    >>> illegal_mass(probs, torch.tensor([[True, False], [True, False]])).tolist()
    [0.4000000059604645, 2.0]
    """
    worst = probs.masked_fill(legal, 0.0).max(1).values
    worst = torch.where(worst < PRUNED, 0.0, worst)
    first_is_legal = legal.gather(1, probs.argmax(1, keepdim=True))[:, 0]
    return torch.where(first_is_legal, worst, 2.0)


def _read(reader: Reader, tokens: Tensor) -> Float[Tensor, "game token"]:
    return torch.cat([reader(part) for part in tokens.split(CHUNK)])


def probe_loss(
    rules: Rules, probes: Mapping[str, LinearProbe], states: Callable[[Tensor], Tensor]
) -> BoardLoss:
    """Return BSO's aim: cross-entropy of the true squares of the pieces, summed over them, in nats.

    Args:
        rules: the game.
        probes: of each piece, by its letter; their scores are taken as logits, so fit them with
            `kind="logistic"`.
        states: the states `[game, d]` that they read, after games `[game, pos]`.
    """

    def loss(tokens: Tensor, positions: Tensor) -> Tensor:
        at, true = states(tokens), rules.squares(positions)
        each = [
            torch.nn.functional.cross_entropy(p.scores(at), true[name], reduction="none")
            for name, p in probes.items()
        ]
        taken = torch.stack(each).sum(0)
        return torch.where(positions == rules.over, 0.0, taken)  # there is no board to misread

    return loss


# ---------------------------------------------------------------- three sets of moves


def decoded_position(
    rules: Rules,
    probes: Mapping[str, LinearProbe],
    states: Float[Tensor, "n d"],
    positions: Int[Tensor, " n"],
) -> Int[Tensor, " n"]:
    """Return the positions that probes read, with the side to move of the true ones.

    Raises:
        InputError: a piece has no probe.
    """
    if lacking := [piece for piece in PIECES if piece not in probes]:
        raise InputError(f"There is no probe of {', '.join(lacking)}: fit one for each piece.")
    at = [probes[piece].reads(states) for piece in PIECES]
    return rules.number(*at) + positions % 2


def iou(a: Bool[Tensor, "n move"], b: Bool[Tensor, "n move"]) -> Float[Tensor, " n"]:
    """Return intersection over union of sets, 1 where both are empty.

    >>> iou(torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]])).tolist()
    [0.5]
    """
    union = (a | b).sum(1).double()
    return torch.where(union == 0, 1.0, (a & b).sum(1).double() / union.clamp(min=1))


@dataclass(frozen=True)
class Overlap:
    """How far two sets of moves agree with each other beyond their agreement with the rules."""

    with_model: float
    """Mean IoU of the played moves and those legal on the decoded board."""
    model_with_rules: float
    """Mean IoU of the played moves and the legal ones."""
    decoded_with_rules: float
    """Mean IoU of the moves legal on the decoded board and the legal ones."""
    implied: float
    """`with_model` if the errors of both were independent."""
    excess: Interval
    """`with_model` less `implied`; 0 for independent errors."""


def overlap(
    legal: Bool[Tensor, "n move"],
    played: Bool[Tensor, "n move"],
    decoded: Bool[Tensor, "n move"],
    *,
    shuffles: int = 20,
    seed: int = 0,
) -> Overlap:
    """Compare the moves that a model plays with those that are legal on the decoded board.

    The null pairs the model's errors at a position with the errors of the decoded board at another
    one with as many legal moves: which of them it lacks and which others it has, in the order of
    tokens. A position without such a partner is left out of all numbers.

    Raises:
        InputError: the sets differ in shape, shuffles is below 1, or no position has a partner.
    """
    if not legal.shape == played.shape == decoded.shape or shuffles < 1:
        raise InputError(
            f"Sets of {list(legal.shape)}, {list(played.shape)} and {list(decoded.shape)} with "
            f"{shuffles} shuffles: give one shape and 1 or more."
        )
    _, place, sizes = legal.sum(1).unique(return_inverse=True, return_counts=True)
    keep = sizes[place] > 1
    if not bool(keep.any()):
        raise InputError(
            f"None of the {len(legal)} positions has a partner with as many legal moves, so there "
            "is no null: give more positions."
        )
    legal, played, decoded = legal[keep], played[keep], decoded[keep]
    stream = torch.Generator().manual_seed(seed)
    found = iou(played, decoded)
    null = torch.stack(
        [iou(played, partners(legal, decoded, stream)) for _ in range(shuffles)]
    ).mean(0)
    return Overlap(
        float(found.mean()),
        float(iou(played, legal).mean()),
        float(iou(decoded, legal).mean()),
        float(null.mean()),
        cluster_bootstrap((found - null).numpy(), range(len(found))),
    )


def partners(
    legal: Bool[Tensor, "n move"], decoded: Bool[Tensor, "n move"], generator: torch.Generator
) -> Bool[Tensor, "n move"]:
    """Return sets that err at each position as `decoded` does at another one.

    The other one is drawn among those with as many legal moves. Its i-th legal move stands for the
    i-th here, and its i-th illegal one for the i-th illegal one.
    """
    order = (~legal).to(torch.int8).argsort(dim=1, stable=True)  # legal moves first
    errors = (decoded ^ legal).gather(1, order)
    counts, other = legal.sum(1), torch.arange(len(legal))
    for count in counts.unique():
        rows = (counts == count).nonzero().flatten()
        drawn = rows[torch.randperm(len(rows), generator=generator)]
        other[drawn] = drawn.roll(1)  # nobody is its own partner, unless alone
    return legal ^ torch.zeros_like(legal).scatter(1, order, errors[other])
