"""King and rook against king on a small board: a game whose every legal move is known.

A game is a row of tokens, one a move: the piece and the square where it goes. It opens with the
squares of White's king, White's rook and Black's king, then White moves first:

    Kb2 Rd1 kd4 Ra1 ke4 Kc3 ...

A game ends when the side to move has no move (mate or stalemate) or the rook is taken; the only
legal token is then `<end>`. So every position has legal tokens, and `Rules.legal` holds them all.
Squares count from a1 along the first rank; there is no other way to draw.

The rules are those of chess. Why a game of this size: Shah et al., arXiv:2602.05903, attack models
of whole chess, where the positions cannot be enumerated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import InputError

END = 0
PIECES = ("K", "R", "k")
"""White's king and rook, Black's king: the order of a game's first three tokens."""
WHITE, BLACK = 0, 1


@dataclass(frozen=True)
class Rules:
    """The positions, tokens and legal moves on a board of `size` x `size` squares.

    A position is a number: side to move + 2 (k + n (R + n K)) with n squares; the last number,
    `over`, is every position in which the rook is gone or the game has been ended.

    Raises:
        InputError: the size is not 3 to 6.
    """

    size: int = 5

    def __post_init__(self) -> None:
        if not 3 <= self.size <= 6:
            raise InputError(f"size={self.size}: a board has 3 to 6 squares a side.")

    @property
    def n_squares(self) -> int:
        """Squares on the board."""
        return self.size**2

    @property
    def n_tokens(self) -> int:
        """`<end>` and each piece on each square."""
        return 1 + len(PIECES) * self.n_squares

    @property
    def over(self) -> int:
        """The number of every position after the end."""
        return 2 * self.n_squares**3

    @cached_property
    def legal(self) -> Bool[Tensor, "position token"]:
        """Which tokens may follow in each position; positions that cannot be reached have some too.

        Exact: each is enumerated.
        """
        table = torch.zeros(self.over + 1, self.n_tokens, dtype=torch.bool)
        n = self.n_squares
        both = table[:-1].view(n, n, n, 2, self.n_tokens)
        both[..., WHITE, 1 : 1 + 2 * n] = torch.cat([self._king_moves(), self._rook_moves()], -1)
        both[..., BLACK, 1 + 2 * n :] = self._replies()
        table[:, END] = ~table.any(1)
        return table

    @cached_property
    def starts(self) -> Int[Tensor, " position"]:
        """The positions with White to move in which a game may open: nobody is in check."""
        n, near, attacked = self.n_squares, self._near, self._attacked
        king, rook, other = torch.meshgrid(*[torch.arange(n)] * 3, indexing="ij")
        apart = (king != rook) & (rook != other) & (king != other) & ~near[king, other]
        quiet = apart & ~attacked[king, rook, other]
        return self.number(king[quiet], rook[quiet], other[quiet])

    def number(
        self, king: Int[Tensor, "*n"], rook: Int[Tensor, "*n"], other: Int[Tensor, "*n"]
    ) -> Int[Tensor, "*n"]:
        """Return the positions with these squares and White to move; plus 1 for Black."""
        return 2 * (other + self.n_squares * (rook + self.n_squares * king))

    def squares(self, positions: Int[Tensor, "*n"]) -> dict[str, Int[Tensor, "*n"]]:
        """Return where each piece stands, by its letter; of no meaning once the game is over."""
        n, rest = self.n_squares, positions // 2
        return {"K": rest // n**2 % n, "R": rest // n % n, "k": rest % n}

    def after(self, positions: Int[Tensor, " n"], tokens: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Return the positions after legal tokens."""
        piece, square = (tokens - 1) // self.n_squares, (tokens - 1) % self.n_squares
        now = self.squares(positions)
        new = {p: torch.where(piece == i, square, now[p]) for i, p in enumerate(PIECES)}
        moved = self.number(new["K"], new["R"], new["k"]) + 1 - positions % 2
        ended = (tokens == END) | (positions == self.over) | (new["R"] == new["k"])
        return torch.where(ended, self.over, moved)

    def opening(self, positions: Int[Tensor, " n"]) -> Int[Tensor, "n 3"]:
        """Return the three tokens that set up positions with White to move."""
        at = self.squares(positions)
        return torch.stack([1 + i * self.n_squares + at[p] for i, p in enumerate(PIECES)], 1)

    def replay(self, tokens: Int[Tensor, "n pos"]) -> Int[Tensor, "n pos"]:
        """Return the position after each token; `over` for the first two, which set up.

        Raises:
            InputError: a row is no legal game.
        """
        found = torch.full_like(tokens, self.over)
        at = [tokens[:, i] - 1 - i * self.n_squares for i in range(3)]
        inside = torch.stack([(a >= 0) & (a < self.n_squares) for a in at]).all(0)
        start = self.number(*(a.clamp(0, self.n_squares - 1) for a in at))
        self._require(inside & torch.isin(start, self.starts), tokens, 2)
        found[:, 2] = start
        for i in range(3, tokens.shape[1]):
            self._require(self.legal[found[:, i - 1], tokens[:, i]], tokens, i)
            found[:, i] = self.after(found[:, i - 1], tokens[:, i])
        return found

    def text(self, tokens: Sequence[int]) -> str:
        """Write tokens as words.

        >>> Rules(5).text([1, 52, 0])
        'Ka1 kb1 <end>'
        """
        return " ".join(self.words[token] for token in tokens)

    def ids(self, text: str) -> list[int]:
        """Read words back as tokens.

        Raises:
            InputError: a word is no piece and square of this board.
        """
        known = {word: i for i, word in enumerate(self.words)}
        for word in text.split():
            if word not in known:
                raise InputError(
                    f"{word!r} is no move on {self.size} x {self.size} squares: write one of "
                    f"{', '.join(PIECES)} and a square from a1 to {self.words[-1][1:]}, or <end>."
                )
        return [known[word] for word in text.split()]

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The tokens as words, in the order of their ids."""
        names = [f"{'abcdef'[i % self.size]}{1 + i // self.size}" for i in range(self.n_squares)]
        return ("<end>", *(piece + name for piece in PIECES for name in names))

    # ------------------------------------------------------------ which squares

    @cached_property
    def _near(self) -> Bool[Tensor, "a b"]:
        """Whether a king on one square attacks the other."""
        rank, file = self._ranks_and_files
        gap = torch.maximum((rank[:, None] - rank).abs(), (file[:, None] - file).abs())
        return gap == 1

    @property
    def _ranks_and_files(self) -> tuple[Tensor, Tensor]:
        square = torch.arange(self.n_squares)
        return square // self.size, square % self.size

    @cached_property
    def _lines(self) -> tuple[Bool[Tensor, "a b"], Bool[Tensor, "a b s"]]:
        """Whether two squares share a rank or file, and which squares stand between them."""
        rank, file = self._ranks_and_files
        straight = ((rank[:, None] == rank) ^ (file[:, None] == file)).clone()

        def inside(x: Tensor) -> Tensor:
            a, b, s = x[:, None, None], x[None, :, None], x
            return (torch.minimum(a, b) < s) & (s < torch.maximum(a, b))

        same_rank = (rank[:, None] == rank)[..., None] & (rank == rank[:, None])[:, None]
        same_file = (file[:, None] == file)[..., None] & (file == file[:, None])[:, None]
        return straight, (same_rank & inside(file)) | (same_file & inside(rank))

    @cached_property
    def _attacked(self) -> Bool[Tensor, "K R square"]:
        """Squares that the rook attacks; Black's king hides none, for it leaves its square."""
        straight, between = self._lines
        behind = between.permute(2, 0, 1)  # [K, R, square]: White's king stands between
        own = torch.eye(self.n_squares, dtype=torch.bool)[:, None]
        return straight & ~behind & ~own

    def _king_moves(self) -> Bool[Tensor, "K R k square"]:
        same, near = torch.eye(self.n_squares, dtype=torch.bool), self._near
        return near[:, None, None] & ~same[None, :, None] & ~near[None, None] & ~same[None, None]

    def _rook_moves(self) -> Bool[Tensor, "K R k square"]:
        behind = self._lines[1].permute(2, 0, 1)
        same = torch.eye(self.n_squares, dtype=torch.bool)
        free = ~behind.permute(1, 0, 2)[None] & ~same[None, None]  # [1, R, k, square]
        return self._attacked[:, :, None] & free

    def _replies(self) -> Bool[Tensor, "K R k square"]:
        same, near = torch.eye(self.n_squares, dtype=torch.bool), self._near
        safe = ~near[:, None] & ~self._attacked & ~same[:, None]
        return near[None, None] & safe[:, :, None]

    def _require(self, fine: Tensor, tokens: Tensor, at: int) -> None:
        if bool(fine.all()):
            return
        row = int((~fine).nonzero()[0])
        raise InputError(
            f"Row {row} is no legal game: {self.text(tokens[row, : at + 1].tolist())} breaks the "
            f"rules with its token {at + 1}; draw games with random_games, or correct it."
        )


def random_games(
    rules: Rules, n: int, plies: int, generator: torch.Generator
) -> tuple[Int[Tensor, "n pos"], Int[Tensor, "n pos"]]:
    """Draw `n` games of uniformly random legal moves, and the position after each token.

    A row has 3 + `plies` tokens; after its end it is filled with `<end>`.

    Raises:
        InputError: n or plies is below 1.
    """
    if n < 1 or plies < 1:
        raise InputError(f"{n} games of {plies} plies: give 1 or more of each.")
    chosen = torch.randint(len(rules.starts), (n,), generator=generator)
    now = rules.starts[chosen]
    tokens, found = list(rules.opening(now).T), [torch.full_like(now, rules.over)] * 2 + [now]
    for _ in range(plies):
        move = torch.multinomial(rules.legal[now].float(), 1, generator=generator)[:, 0]
        now = rules.after(now, move)
        tokens.append(move)
        found.append(now)
    return torch.stack(tokens, 1), torch.stack(found, 1)
