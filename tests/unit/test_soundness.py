"""Attacks on a model of legal moves, the agreement of sets and its null, the trained model."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from experiments import soundness as experiment
from experiments import train_rook
from interp.alignment.linear_probes import LinearProbe
from interp.alignment.soundness import (
    ATTACKS,
    decoded_position,
    illegal_mass,
    iou,
    overlap,
    partners,
    play,
    probe_loss,
)
from interp.data.rook_endgame import BLACK, Rules, random_games
from interp.errors import InputError

RULES = Rules(4)


def prefixes(n=40, plies=2, seed=0):
    tokens, positions = random_games(RULES, 3 * n, plies, torch.Generator().manual_seed(seed))
    return tokens[positions[:, -1] != RULES.over][:n].unique(dim=0)


def sound(tokens):
    """A model that knows the rules: all legal tokens alike."""
    legal = RULES.legal[RULES.replay(tokens)[:, -1]].double()
    return (legal / legal.sum(1, keepdim=True)).log()


def flawed(seed):
    """The scores of a model that now and then prefers an illegal token, by position."""
    stream = torch.Generator().manual_seed(seed)
    noise = torch.rand(RULES.legal.shape, generator=stream, dtype=torch.float64)
    bad = (torch.rand(len(RULES.legal), generator=stream) < 0.15)[:, None] & (noise > 0.9)
    return 4.0 * RULES.legal + noise + 5.0 * bad


def table_reader(scores):
    """Read the position from the tokens by following them, legal or not."""

    def read(tokens):
        now = RULES.replay(tokens[:, :3])[:, -1]
        for token in tokens[:, 3:].T:
            now = RULES.after(now, token)
        return scores[now].log_softmax(1)

    return read


def board_loss(tokens, positions):
    return (positions % 7).double()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_sound_model_is_never_beaten(attack):
    made = play(attack, RULES, sound, prefixes(), moves=3, board_loss=board_loss)
    assert made.success.estimate == 0.0 and not made.won.any()
    assert made.moves.max() == 3


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_model_that_never_answers_legally_is_beaten_at_once(attack):
    def stuck(tokens):
        return (100.0 * torch.nn.functional.one_hot(tokens[:, 0], RULES.n_tokens)).log_softmax(1)

    made = play(attack, RULES, stuck, prefixes(), moves=3, board_loss=board_loss)
    assert made.success.estimate == 1.0 and (made.moves == 1).all()


@pytest.mark.parametrize("seed", range(2))
def test_imo_beats_wherever_any_attack_does_in_one_move_and_as_often_in_more(seed):
    reader = table_reader(flawed(seed))
    for moves in (1, 4):
        won = {
            attack: play(attack, RULES, reader, prefixes(), moves=moves, board_loss=board_loss).won
            for attack in ATTACKS
        }
        for attack in ATTACKS:
            assert won["IMO"].sum() >= won[attack].sum(), (attack, moves)
            if moves == 1:
                assert (won["IMO"] >= won[attack]).all(), attack
        assert 0 < won["RM"].sum() < won["IMO"].sum() <= len(won["IMO"])


def test_each_attack_chooses_as_it_says():
    start = torch.tensor([RULES.ids("Ka1 Rb3 kd4")])
    legal = RULES.legal[RULES.replay(start)[:, -1]][0]
    names = [RULES.words[i] for i in legal.nonzero().flatten().tolist()]
    assert {"Kb1", "Ka2", "Kb2", "Ra3", "Rc3", "Rd3", "Rb1", "Rb2", "Rb4"} == set(names)
    scores = torch.zeros(RULES.over + 1, RULES.n_tokens, dtype=torch.float64)
    now = int(RULES.replay(start)[0, -1])
    scores[now, RULES.ids("Rb1 Kb2 kd3")] = torch.tensor([3.0, -2.0, 9.0]).double()
    scores[:, RULES.ids("kc4")[0]] = 1.0  # the answer everywhere: legal unless the rook is on c
    after = int(RULES.after(torch.tensor([now]), torch.tensor(RULES.ids("Rc3")))[0])
    made = {
        a: play(
            a,
            RULES,
            table_reader(scores),
            start,
            moves=1,
            board_loss=lambda t, p: 1.0 * (p == after),
        )
        for a in ("SMM", "AD", "IMO", "BSO")
    }
    chosen = {a: RULES.words[int(m.tokens[0, 3])] for a, m in made.items()}
    assert chosen["SMM"] == "Rb1", "kd3 has a larger score and is not White's"
    assert chosen["AD"] == "Kb2"
    assert chosen["BSO"] == "Rc3"
    assert made["IMO"].won.item() and chosen["IMO"] in ("Rc3", "Rb4"), "c4 is attacked then"
    assert not made["SMM"].won.item()


def test_imo_prunes_small_probabilities_and_wins_at_once():
    probs = torch.tensor([[0.5, 0.49991, 0.00009], [0.5, 0.3, 0.2], [0.45, 0.1, 0.45001]])
    legal = torch.tensor([[True, True, False]] * 3)
    torch.testing.assert_close(illegal_mass(probs, legal), torch.tensor([0.0, 0.2, 2.0]))


def test_copies_of_a_prefix_count_once():
    one = prefixes(5)
    made = play("RM", RULES, sound, torch.cat([one, one]), moves=1)
    assert len(made.won) == len(one) == made.success.n_units


def test_bad_attacks_are_refused_before_the_model_reads():
    def never(tokens):
        raise AssertionError("the model read")

    start = prefixes(3)
    with pytest.raises(InputError, match="BSO aims at a probe's loss: give board_loss, or choose"):
        play("BSO", RULES, never, start, moves=1)
    with pytest.raises(InputError, match=r"moves=0: White makes 1 or more\."):
        play("RM", RULES, never, start, moves=0)
    with pytest.raises(InputError) as caught:
        play("RM", RULES, never, torch.tensor([RULES.ids("Ka1 Rb3 kd4 Rb1")]), moves=1)
    assert str(caught.value) == (
        "Prefix 0 (Ka1 Rb3 kd4 Rb1) does not end with White to move: cut it one move earlier, or "
        "leave it out once the game is over."
    )


# ------------------------------------------------------------ sets


def test_iou_by_hand():
    a = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    b = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]]).bool()
    torch.testing.assert_close(iou(a, b), torch.tensor([1 / 3, 1.0, 0.0]).double())


def test_a_partner_errs_in_the_places_of_the_other():
    legal = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    decoded = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 1]]).bool()  # lacks its 2nd; adds its 2nd
    swapped = partners(legal, decoded, torch.Generator().manual_seed(0))
    assert swapped.int().tolist() == [[1, 1, 0, 1], [0, 0, 1, 0]]


def errors(legal, stream, lack=0.3, add=0.1):
    chance = torch.rand(legal.shape, generator=stream)
    return torch.where(legal, chance < lack, chance < add)


@pytest.mark.parametrize("seed", range(3))
def test_the_null_is_centred_on_zero_for_independent_errors_only(seed):
    stream = torch.Generator().manual_seed(seed)
    legal = torch.rand(800, 12, generator=stream) < 0.4
    one, other = errors(legal, stream), errors(legal, stream)
    apart = overlap(legal, legal ^ one, legal ^ other)
    assert abs(apart.excess.estimate) < 0.012  # four standard errors of 800 positions
    assert apart.implied < min(apart.model_with_rules, apart.decoded_with_rules)
    shared = overlap(legal, legal ^ one, legal ^ one)
    assert shared.with_model == 1.0 and shared.excess.low > 0.2


def test_sets_without_a_partner_are_refused():
    legal = torch.tensor([[True, False], [True, True]])
    with pytest.raises(InputError) as caught:
        overlap(legal, legal, legal)
    assert str(caught.value) == (
        "None of the 2 positions has a partner with as many legal moves, so there is no null: give "
        "more positions."
    )


def test_the_decoded_position_is_what_the_probes_read():
    n = RULES.n_squares
    eye = torch.eye(3 * n, dtype=torch.float64)
    probes = {
        piece: LinearProbe(eye[i * n : (i + 1) * n], torch.zeros(n).double(), False, 1.0)
        for i, piece in enumerate("KRk")
    }
    positions = RULES.starts[[0, 100, 500]]
    squares = RULES.squares(positions)
    states = sum(eye[i * n + squares[piece]] for i, piece in enumerate("KRk"))
    assert torch.equal(decoded_position(RULES, probes, states, positions), positions)
    assert torch.equal(
        decoded_position(RULES, probes, states, positions + BLACK), positions + BLACK
    )
    loss = probe_loss(RULES, probes, lambda tokens: states)(positions[:, None], positions)
    by_hand = 3 * torch.log(torch.tensor(1 + (n - 1) / torch.e)).double()
    torch.testing.assert_close(loss, by_hand.expand(3))
    with pytest.raises(InputError, match="There is no probe of k: fit one for each piece"):
        decoded_position(RULES, {p: probes[p] for p in "KR"}, states, positions)


# ------------------------------------------------------------ the trained model


def test_the_trained_model_plays_by_the_rules_and_its_cut_is_its_own_forward_pass():
    model = train_rook.load_trained()
    rules = Rules(5)
    data = experiment.games(rules, 60, 24, seed=9)
    cut = experiment.cut(model, data, 1)
    rows = torch.arange(60)
    with torch.no_grad():
        plain = model(data.tokens).logits[rows, data.last]
        again = cut.finish(cut.states, rows)
        hidden = model(data.tokens, output_hidden_states=True).hidden_states[2]
    assert torch.equal(plain, again), "its own state put back changes no bit"
    torch.testing.assert_close(cut.states, hidden[rows, data.last])
    legal = rules.legal[data.positions].gather(1, plain.argmax(1, keepdim=True))
    assert legal.double().mean() > 0.95
    zero = cut.finish(torch.zeros_like(cut.states), rows)
    assert not torch.allclose(zero, plain)


def test_what_cannot_stand_on_the_board_has_no_answer():
    at = {
        "K": torch.tensor([0, 0, 0, 0]),
        "R": torch.tensor([6, 0, 24, 6]),
        "k": torch.tensor([24] * 3 + [1]),
    }
    allowed = experiment.allowed(Rules(5), at)
    assert allowed.any(1).tolist() == [True, False, False, False]


def test_the_recipe_repeats_and_learns_to_expect_legal_moves():
    config = train_rook.Config(steps=2, batch=4, held_out=8, d_model=8, n_layers=1, plies=4, size=4)
    quiet = Console(quiet=True)
    one, two = train_rook.train(config, quiet), train_rook.train(config, quiet)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert set(train_rook.report(one, config)) == {
        "loss_nats",
        "floor_nats",
        "first choice legal",
        "first choice legal, Black to move",
    }
    tokens = torch.tensor([RULES.ids("Kb3 Rc2 ka1 Rc1 <end> <end>")])
    positions = RULES.replay(tokens)
    assert train_rook.asked(RULES, tokens, positions).tolist() == [
        [False, False, True, True, False, False]
    ]
