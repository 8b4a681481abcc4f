"""Dependency by distance: noise, its laws, and models wired to need one token at one distance."""

from __future__ import annotations

import math
import re

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import interp
from interp.engine.model import Model
from interp.errors import InputError
from interp.thinking.dependency import (
    AtDistance,
    Dependence,
    Layout,
    Unit,
    dependency,
    layout,
    locate,
    mean_by_part,
    noised,
    profile,
    token_units,
    vocabulary,
)
from interp.thinking.rules import Rules
from interp.thinking.score import Problem, prepare

N_LETTERS, N_CTX, GAIN = 16, 64, 12.0
RULES = Rules()


def looks_back(distance: int) -> Model:
    """A one-layer GPT-2 that predicts token t as one more than the token at t - distance.

    Features as pairs (e_2i - e_2i+1) / sqrt(2) of mean zero: 16 letters, 16 answers, and the angle
    of the position on a circle of 64. Letter and position have norm 1 each, so layer norms only
    scale. The query at p asks for the angle of p + 1 - distance; nearest neighbours score 20 less.
    """
    n = 2 * N_LETTERS + 2
    features = torch.kron(torch.eye(n), torch.tensor([[1.0, -1.0]])) / math.sqrt(2)
    letters, answers, angle = features[:16], features[16:32], features[32:]
    config = GPT2Config(
        vocab_size=N_LETTERS,
        n_embd=2 * n,
        n_inner=4,
        n_layer=1,
        n_head=1,
        n_positions=N_CTX,
        layer_norm_epsilon=1e-12,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    hf = GPT2LMHeadModel(config).eval()
    step = 2 * math.pi / N_CTX
    at = torch.arange(N_CTX) * step
    back = (1 - distance) * step
    turn = torch.tensor([[math.cos(back), math.sin(back)], [-math.sin(back), math.cos(back)]])
    sharp = (
        20 / (1 - math.cos(step)) * math.sqrt(2 * n) / n
    )  # LN scales a norm of sqrt(2) by sqrt(n)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "ln_" not in name:
                parameter.zero_()
        hf.get_parameter("transformer.wte.weight").copy_(letters)
        hf.get_parameter("transformer.wpe.weight").copy_(
            torch.stack([at.cos(), at.sin()], dim=1) @ angle
        )
        read = hf.get_parameter("transformer.h.0.attn.c_attn.weight")
        read[:, :2] = sharp * angle.T @ turn
        read[:, 2 * n : 2 * n + 2] = angle.T
        read[:, 4 * n : 4 * n + 16] = letters.T
        write = hf.get_parameter("transformer.h.0.attn.c_proj.weight")
        write[:16] = answers / math.sqrt(n)
        # the residual then is letter + angle + answer, of norm sqrt(3) in 2 n coordinates
        hf.get_parameter("lm_head.weight").copy_(GAIN * math.sqrt(3 / (2 * n)) * answers.roll(1, 0))
    return interp.load(hf)


def counting(distance: int, length: int = 60) -> tuple[int, ...]:
    """Tokens that obey the rule of `looks_back(distance)`, the first ones drawn."""
    stream = torch.Generator().manual_seed(3)
    ids = torch.randint(N_LETTERS, (distance,), generator=stream).tolist()
    for place in range(distance, length):
        ids.append((ids[place - distance] + 1) % N_LETTERS)
    return tuple(ids)


def late(ids: tuple[int, ...], first: int = 31) -> Layout:
    """Sources anywhere, the first ten as the question; targets from `first` on."""
    units = (*token_units((0, 10), "question"), *token_units((10, first), "chain"))
    return Layout("p", ids, (*units, *token_units((first, len(ids)), "answer")))


# --------------------------------------------------------------------------------------- planted


@pytest.mark.parametrize("distance", [1, 20])
def test_the_profile_peaks_at_the_planted_distance_and_nowhere_else(distance):
    """The right letter's logit is 12 and the others' 0; without its source all it has is lost.

    Noise gives 12 to another letter, so the drop is 12 in nats, at that distance alone.
    """
    found = dependency(
        looks_back(distance),
        [late(counting(distance))],
        sources=("chain", "answer"),
        targets=("answer",),
    )
    assert found.marked == ()
    peak = {row.distance: row.drop for row in found.rows if row.part == "answer"}
    assert set(peak) == set(range(1, 29))
    assert peak[distance] == pytest.approx(GAIN, abs=1e-3)
    assert max(abs(drop) for d, drop in peak.items() if d != distance) < 1e-3


def test_question_and_chain_stand_apart():
    """Ten tokens of question, targets from 31 on: only distance 30 reaches back so far."""
    found = dependency(looks_back(25), [late(counting(25))], targets=("answer",))
    rows = {(row.part, row.distance): row for row in found.rows}
    # targets 31..59 need 6..34: the question's tokens 6..9, and the chain's from 10 on.
    assert rows["question", 25].n == 4 and rows["chain", 25].n == 21
    assert rows["question", 25].drop == pytest.approx(GAIN, abs=1e-3)
    assert rows["chain", 25].drop == pytest.approx(GAIN, abs=1e-3)
    assert rows["question", 30].drop == pytest.approx(0, abs=1e-3)
    assert min(d for part, d in rows if part == "question") == 22


def test_longest_bounds_the_distance_and_changes_no_number():
    model, text = looks_back(5), late(counting(5))
    whole = {(r.part, r.distance): r.drop for r in dependency(model, [text]).rows}
    near = dependency(model, [text], longest=6)
    assert {row.distance for row in near.rows} == set(range(1, 7))
    for row in near.rows:
        assert row.drop == pytest.approx(whole[row.part, row.distance], abs=1e-4)
    assert near.spent.tokens < dependency(model, [text]).spent.tokens


def test_units_of_several_tokens_fall_with_any_of_them():
    """Blocks of 5: with a need 5 back each target token needs the block before, and it alone."""
    ids = counting(5)
    blocks = tuple(Unit(5 * i, 5 * i + 5, "chain", i) for i in range(12))
    found = dependency(looks_back(5), [Layout("p", ids, blocks)], seeds=(0, 1))
    drops = {row.distance: row.drop for row in found.rows}
    assert drops.pop(1) == pytest.approx(GAIN, abs=1e-3)
    assert max(map(abs, drops.values())) < 1e-3
    assert next(row for row in found.rows if row.distance == 1).n == 22


# ------------------------------------------------------------------------------------------ laws


@pytest.mark.parametrize("exact", [False, True])
def test_no_noise_drops_exactly_nothing(exact):
    model = interp.load("tiny-llama")
    text = late(tuple(range(30, 70)))
    found = dependency(model, [text], share=0.0, seeds=(0, 1), exact=exact)
    assert found.rows and {row.drop for row in found.rows} == {0.0}
    masked = dependency(model, [Layout("p", (7,) * 12, token_units((0, 12), "chain"))], mask=7)
    assert masked.rows and {row.drop for row in masked.rows} == {0.0}


def test_the_tree_gives_what_plain_forward_passes_of_hugging_face_give():
    model = interp.load("tiny-llama")
    ids = tuple(torch.randint(3, 300, (14,), generator=torch.Generator().manual_seed(1)).tolist())
    text = Layout("p", ids, token_units((2, 14), "chain"))
    found = {r.distance: r.drop for r in dependency(model, [text], seeds=(0, 5)).rows}
    exact = {r.distance: r.drop for r in dependency(model, [text], seeds=(0, 5), exact=True).rows}

    def logprobs(tokens):
        with torch.no_grad():
            out = model.hf(torch.tensor([tokens])).logits[0].log_softmax(-1)
        return [float(out[i - 1, ids[i]]) for i in range(1, len(ids))]

    clean, drops = logprobs(ids), {}
    for source in range(2, 14):
        for seed in (0, 5):
            key = (seed, "p")
            noise = noised(ids, [(source, source + 1)], key=key, tokens=vocabulary(model))
            lost = [a - b for a, b in zip(clean, logprobs(noise), strict=True)]
            for target in range(source + 1, 14):
                drops.setdefault(target - source, []).append(lost[target - 1])
    for distance, each in drops.items():
        mean = sum(each) / len(each)
        assert found[distance] == pytest.approx(mean, abs=1e-4)  # float32, 350 tokens
        assert exact[distance] == pytest.approx(mean, abs=1e-4)


def test_noise_touches_named_tokens_alone_and_grows_with_its_share():
    ids, tokens = tuple(range(100, 160)), tuple(range(100))
    full = noised(ids, [(10, 50)], key=(0,), tokens=tokens)
    assert [i for i in range(60) if full[i] != ids[i]] == list(range(10, 50))
    few = noised(ids, [(10, 50)], key=(0,), tokens=tokens, share=0.3)
    more = noised(ids, [(10, 50)], key=(0,), tokens=tokens, share=0.7)
    changed = [{i for i in range(60) if made[i] != ids[i]} for made in (few, more)]
    assert changed[0] < changed[1] and 4 <= len(changed[0]) <= 20
    assert all(more[i] == full[i] for i in changed[1])
    assert noised(ids, [(10, 20), (30, 50)], key=(0,), tokens=tokens)[30:] == full[30:]
    assert noised(ids, [(10, 50)], key=(1,), tokens=tokens) != full


def test_noise_is_another_token_and_no_special_one():
    model = interp.load("tiny-llama")
    tokens = vocabulary(model)
    assert not set(tokens) & set(model.tokenizer.all_special_ids)
    assert len(tokens) == len(model.tokenizer) - 3
    ids = (4,) * 300
    made = noised(ids, [(0, 300)], key=(0,), tokens=(4, 5))
    assert set(made) == {5}


# -------------------------------------------------------------------------------- chains and rows


@pytest.fixture(scope="module")
def planted_chain():
    model = interp.load("planted-steps")
    problem = Problem("q", "What is the total?", "We take x = 17. It costs 60. Next, y = 27.")
    return model, prepare(model, problem, RULES)


def test_a_chains_parts_lie_where_their_text_is(planted_chain):
    model, chain = planted_chain
    found = locate(model, chain, RULES)
    decoded = [model.tokenizer.decode(found.ids[a:b]) for a, b in found.steps.values()]
    assert decoded == ["We take x = 17.", "It costs 60.", "Next, y = 27."]
    assert model.tokenizer.decode(found.ids[slice(*found.question)]) == "What is the total?"
    assert model.tokenizer.decode(found.ids[slice(*found.answer)]) == "88}"
    assert found.lost == {}


def test_step_units_count_steps_and_token_units_count_tokens(planted_chain):
    model, chain = planted_chain
    steps = layout(model, chain, RULES, by="step")
    assert [(unit.part, unit.place) for unit in steps.units] == [
        ("question", 0), ("chain", 1), ("chain", 2), ("chain", 3), ("answer", 4)
    ]  # fmt: skip
    tokens = layout(model, chain, RULES)
    assert all(unit.place == unit.first == unit.stop - 1 for unit in tokens.units)
    assert {unit.part for unit in tokens.units} == {"question", "chain", "answer"}


def test_the_answer_of_the_planted_chain_depends_on_the_steps_with_evidence(planted_chain):
    """17 and 27 are both needed: noise on either costs the answer; on the idle step nothing."""
    model, chain = planted_chain
    text = layout(model, chain, RULES, by="step")
    mask = model.tokenizer.convert_tokens_to_ids("pears")
    found = dependency(model, [text], targets=("answer",), mask=mask)
    drops = {(row.part, row.distance): row.drop for row in found.rows}
    assert drops["chain", 3] > 10 and drops["chain", 1] > 10
    assert abs(drops["chain", 2]) < 1e-3 and abs(drops["question", 4]) < 1e-3


def test_a_text_that_cannot_be_scored_is_marked_and_the_others_are_kept():
    model = looks_back(1)
    good = late(counting(1))
    long = Layout("long", (1,) * 80, token_units((0, 80), "chain"))
    bare = Layout("bare", (1, 2, 3), token_units((0, 3), "question"))
    found = dependency(model, [long, good, bare], longest=2)
    assert {row.id for row in found.rows} == {"p"}
    assert [mark["id"] for mark in found.marked] == ["long", "bare"]
    assert "longer than the context" in found.marked[0]["reason"]
    assert found.marked[1]["reason"] == (
        "The text bare has no source in question, chain with a target in chain, answer after it: "
        "name other parts, or a longer distance."
    )


def test_a_profile_averages_texts_not_pairs():
    rows = [Dependence("a", "chain", 1, 4.0, 1000), Dependence("b", "chain", 1, 2.0, 1)]
    (found,) = profile([*rows], n_boot=200)
    assert isinstance(found, AtDistance)
    assert (found.part, found.distance, found.drop, found.n_problems) == ("chain", 1, 3.0, 2)
    assert (found.low, found.high) == (2.0, 4.0)
    assert found.warning == "only 2 problems: the interval is probably too narrow"
    assert mean_by_part(rows) == {"chain": pytest.approx(4002 / 1001)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 1.5}, "share=1.5: give a probability from 0 (no noise) to 1."),
        ({"seeds": ()}, "seeds is empty: give at least one, such as (0,)."),
        ({"mask": 16}, "mask=16: the vocabulary has 16 tokens."),
        ({"longest": 0}, "longest=0: the nearest token is at distance 1; ask for 1 up."),
    ],
)
def test_wrong_settings_are_refused_in_words(settings, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        dependency(looks_back(1), [late(counting(1))], **settings)


def test_an_unknown_unit_is_refused(planted_chain):
    with pytest.raises(InputError, match=r"^by='word': write 'token' or 'step'\.$"):
        layout(planted_chain[0], planted_chain[1], RULES, by="word")
