"""King and rook against king: the rules against a plain second reading of them, and games."""

from __future__ import annotations

import pytest
import torch

from interp.data.rook_endgame import BLACK, END, Rules, random_games
from interp.errors import InputError

SMALL = Rules(4)


def at(rules, *names):
    """The number of a position, by the names of the three squares, White to move."""
    ids = [rules.words.index("K" + name) - 1 for name in names]
    return int(rules.number(*(torch.tensor(i) for i in ids)))


def legal(rules, position):
    return {rules.words[i] for i in rules.legal[position].nonzero().flatten().tolist()}


# ------------------------------------------------------------ a second reading of the rules


def cells(size):
    return [(x, y) for y in range(size) for x in range(size)]


def touch(a, b):
    return a != b and max(abs(a[0] - b[0]), abs(a[1] - b[1])) == 1


def slides(start, blockers, size):
    """Squares that a rook reaches, up to and including the first blocker."""
    found = set()
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        x, y = start[0] + dx, start[1] + dy
        while 0 <= x < size and 0 <= y < size:
            found.add((x, y))
            if (x, y) in blockers:
                break
            x, y = x + dx, y + dy
    return found


def by_hand(king, rook, other, side, size):
    """The legal tokens as (piece, square), from the definition of each move."""
    moves = set()
    if side == BLACK:
        guarded = slides(rook, {king}, size) | {c for c in cells(size) if touch(king, c)}
        moves = {("k", c) for c in cells(size) if touch(other, c) and c not in guarded | {king}}
    else:
        for c in cells(size):
            if touch(king, c) and not touch(other, c) and c not in (rook, other):
                moves.add(("K", c))
        moves |= {("R", c) for c in slides(rook, {king, other}, size) - {king, other}}
    return moves


@pytest.mark.parametrize("size", [3, 4])
def test_every_legal_move_of_every_position_is_that_of_a_second_reading(size):
    rules, board = Rules(size), cells(size)
    seen = 0
    for k, king in enumerate(board):
        for r, rook in enumerate(board):
            for o, other in enumerate(board):
                if len({king, rook, other}) < 3 or touch(king, other):
                    continue
                for side in (0, 1):
                    number = int(rules.number(*map(torch.tensor, (k, r, o)))) + side
                    words = {
                        f"{p}{'abcdef'[x]}{y + 1}"
                        for p, (x, y) in by_hand(king, rook, other, side, size)
                    }
                    assert legal(rules, number) == (words or {"<end>"})
                    seen += 1
    apart = sum(a != b and not touch(a, b) for a in board for b in board)
    assert seen == 2 * apart * (size**2 - 2)


def test_a_mate_and_a_taken_rook_leave_only_the_end():
    mate = at(SMALL, "a3", "d1", "a1") + BLACK  # the rook holds the first rank, the king the second
    assert legal(SMALL, mate) == {"<end>"}
    hanging = at(SMALL, "a4", "b1", "a1") + BLACK
    assert legal(SMALL, hanging) == {"ka2", "kb1"}
    after = SMALL.after(torch.tensor([hanging]), torch.tensor(SMALL.ids("kb1")))
    assert after.tolist() == [SMALL.over]
    assert legal(SMALL, SMALL.over) == {"<end>"}


def test_a_guarded_rook_cannot_be_taken_and_a_king_hides_no_square_behind_it():
    guarded = at(SMALL, "c2", "b1", "a1") + BLACK
    assert "kb1" not in legal(SMALL, guarded)
    in_line = at(SMALL, "a4", "d1", "b1") + BLACK  # a1 and c1 are on the rook's line
    assert not {"ka1", "kc1"} & legal(SMALL, in_line)
    assert {"ka2", "kb2", "kc2"} == legal(SMALL, in_line)


def test_a_move_changes_its_piece_and_the_side():
    start = at(SMALL, "a1", "b3", "d4")
    after = int(SMALL.after(torch.tensor([start]), torch.tensor(SMALL.ids("Rb2")))[0])
    assert after == at(SMALL, "a1", "b2", "d4") + BLACK
    end = SMALL.after(torch.tensor([after]), torch.tensor([END]))
    assert end.tolist() == [SMALL.over]


def test_games_are_legal_distinct_and_repeatable():
    def drawn(seed):
        return random_games(SMALL, 50, 12, torch.Generator().manual_seed(seed))

    tokens, positions = drawn(0)
    assert tokens.shape == positions.shape == (50, 15)
    assert torch.equal(SMALL.replay(tokens), positions)
    assert torch.equal(drawn(0)[0], tokens) and not torch.equal(drawn(1)[0], tokens)
    assert torch.isin(positions[:, 2], SMALL.starts).all()
    over = positions == SMALL.over
    assert ((tokens[:, 1:] == END) <= over[:, 1:]).all(), "nothing ends a game but its end"
    assert over[:, -1].any() and not over[:, -1].all()


def test_text_and_tokens_are_one():
    tokens, _ = random_games(SMALL, 1, 6, torch.Generator().manual_seed(3))
    text = SMALL.text(tokens[0].tolist())
    assert SMALL.ids(text) == tokens[0].tolist()
    assert text.split()[0][0] + text.split()[1][0] + text.split()[2][0] == "KRk"


def test_an_illegal_game_is_refused_with_the_move_that_breaks_it():
    game = "Ka1 Rb3 kd4 Rb2 kd2"  # the king jumps
    with pytest.raises(InputError) as caught:
        SMALL.replay(torch.tensor([SMALL.ids(game)]))
    assert str(caught.value) == (
        "Row 0 is no legal game: Ka1 Rb3 kd4 Rb2 kd2 breaks the rules with its token 5; draw games "
        "with random_games, or correct it."
    )
    with pytest.raises(InputError, match="with its token 3"):
        SMALL.replay(torch.tensor([SMALL.ids("Ka1 Rb3 kb2 Rb2")]))  # the kings touch


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="size=8: a board has 3 to 6 squares a side"):
        Rules(8)
    with pytest.raises(InputError) as caught:
        SMALL.ids("Ka1 Qd4")
    assert str(caught.value) == (
        "'Qd4' is no move on 4 x 4 squares: write one of K, R, k and a square from a1 to d4, or "
        "<end>."
    )
    with pytest.raises(InputError, match="0 games of 3 plies: give 1 or more of each"):
        random_games(SMALL, 0, 3, torch.Generator())
