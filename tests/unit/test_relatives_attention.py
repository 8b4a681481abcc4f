"""Attention as a measure of steps: hand-worked weights, and a model whose one head is wired."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from transformers import GPT2LMHeadModel

import interp
from interp.errors import InputError
from interp.models import planted
from interp.thinking.relatives import attention
from interp.thinking.relatives.attention import (
    kurtosis,
    rank_heads,
    received,
    receiver_heads,
    suppress,
)
from interp.thinking.rules import Rules
from interp.thinking.score import Chain, Problem, prepare

RULES = Rules()
PREMISE, AND, OR = "We take x = 17.", "Next, y = 27.", "The same way, z = 37."
FACT, HARMFUL = "The rule is proven.", "Now take away 47."
IDLE = "A lamp costs 60 coins."


@pytest.fixture(scope="module")
def model():
    return interp.load("planted-steps")


def chain_of(model, *sentences: str, spans=None) -> Chain:
    problem = Problem("q", "What is the total?", " ".join(sentences), spans=spans)
    return prepare(model, problem, RULES)


def log_pr_88(total: int, pieces: int) -> float:
    """Log Pr(88) of the planted model, from its own docstring."""
    d = 2 * (total - 1.5) / (1 + pieces * math.exp(-7))
    a = 18 * d / math.sqrt(1 + d * d)
    return a - math.log(math.exp(a) + math.exp(-a) + len(planted.tokenizer()) - 2)


# ----------------------------------------------------------------------------------- suppression


def test_suppressing_a_needed_step_costs_what_its_evidence_is_worth(model):
    """17 + 27 = 2 passes the threshold; without either the sum is 1 and the answer 11."""
    found = suppress(model, chain_of(model, IDLE, PREMISE, IDLE, AND), RULES)
    assert found.marked == ()
    values = [value.value for value in found.values]
    lost = log_pr_88(2, 2) - log_pr_88(1, 1)
    assert lost > 20
    assert values == pytest.approx([0.0, lost, 0.0, lost], abs=0.01)
    assert [each.effect for each in found.effects] == pytest.approx([0, 1, 0, 1], abs=0.01)
    assert [(v.id, v.step, v.measure) for v in found.values] == [
        ("q", step, "attention_suppression") for step in range(4)
    ]


def test_steps_that_stand_in_for_each_other_are_not_missed_one_at_a_time(model):
    """17 + 27 + 37 * 2 = 4: hiding one piece leaves at least 2. Suppression tests necessity."""
    found = suppress(model, chain_of(model, PREMISE, AND, OR), RULES, control=False)
    assert [each.value for each in found.values] == pytest.approx([0, 0, 0], abs=0.01)
    assert [each.control for each in found.effects] == [None, None, None]


def test_hiding_a_harmful_step_raises_the_answer(model):
    """proven 2 - 47 * 2 = 0 is answered 11; without either it is 2 or -2."""
    problem = Problem("q", "What is the total?", f"{FACT} {HARMFUL}", gold="88")
    chain = prepare(model, problem, Rules(target="gold"))
    found = suppress(model, chain, RULES)
    assert found.effects[1].effect == pytest.approx(-1, abs=0.01)
    assert found.effects[0].effect == pytest.approx(0, abs=1e-6)
    assert found.values[1].value == pytest.approx(log_pr_88(2, 1) - log_pr_88(0, 2), abs=0.01)


def test_links_lead_from_a_needed_step_to_every_later_one_and_never_back(model):
    found = suppress(model, chain_of(model, PREMISE, AND, IDLE, IDLE), RULES, control=False)
    links = {(link.source, link.target): link.kl for link in found.links}
    assert sorted(links) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    # KL(88 certain || 11 certain) is the lost log-probability, at each token of a later step.
    lost = log_pr_88(2, 2) - log_pr_88(1, 1)
    for pair in [(0, 2), (0, 3), (1, 2), (1, 3)]:
        assert links[pair] == pytest.approx(lost, rel=0.01)
    assert links[2, 3] == pytest.approx(0, abs=1e-6)
    last = found.link_values[-1]
    assert (last.value, last.reason) == (None, "no later step")
    assert found.link_values[1].value == pytest.approx(lost, rel=0.01)


def test_a_model_that_ignores_its_chain_loses_exactly_nothing():
    model = interp.load("planted-ignores")
    found = suppress(model, chain_of(model, PREMISE, IDLE, AND), RULES)
    assert [each.value for each in found.values] == [0.0, 0.0, 0.0]
    assert {link.kl for link in found.links} == {0.0}
    assert [each.control for each in found.effects] == [0.0, 0.0, 0.0]


def test_each_step_brings_the_proof_that_it_was_hidden(model):
    """An evidence token holds exp(-7) of the weight; idle text holds exp(-40) a token."""
    found = suppress(model, chain_of(model, PREMISE, IDLE, AND), RULES, batch=3)
    changes = [proof.change for proof in found.proofs]
    assert all(change > 0 for change in changes)
    assert changes[0] > 1000 * changes[1] and changes[2] > 1000 * changes[1]
    alone = suppress(model, chain_of(model, PREMISE, IDLE, AND), RULES, batch=1, only=[2, 0])
    assert [proof.step for proof in alone.proofs] == [0, 2]
    assert [p.change for p in alone.proofs] == pytest.approx([changes[0], changes[2]], rel=1e-4)


def test_an_edit_that_missed_a_token_is_an_error_and_marks_its_step(model, monkeypatch):
    chain = chain_of(model, PREMISE, IDLE, AND)
    real = attention._proved
    monkeypatch.setattr(
        attention, "_proved", lambda run, row, later: real(run, row, [later.start - 1, *later])
    )
    found = suppress(model, chain, RULES, control=False)
    assert found.effects == () and [mark.step for mark in found.marked] == [0, 1, 2]
    assert re.fullmatch(
        r"Knockout\(0\.attn\.pattern, .*\) did not reach token \d+ of its run\.",
        found.marked[0].reason,
    )


def test_the_control_hides_as_many_other_tokens_before_the_steps_end(model):
    chain = chain_of(model, PREMISE, AND, IDLE)
    where = attention.locate(model, chain, RULES)
    case = attention._hidden(where, 2)
    other = attention._others(where, case, 0, "q")
    assert other is not None and len(other.keys) == len(case.keys)
    assert not set(other.keys) & {0, *case.keys} and max(other.keys) < case.after
    assert other == attention._others(where, case, 0, "q")
    assert other != attention._others(where, case, 1, "q")


def test_a_step_that_cannot_be_located_is_marked_and_the_others_are_kept(model):
    text = f"{PREMISE} {AND} A lamp costs 60 coins."
    middle = text.index("lamp") + 2  # inside one token
    first = text.index(AND)
    spans = ((0, first), (first, first + len(AND)), (first + len(AND) + 1, middle))
    chain = chain_of(model, text, spans=(*spans, (middle, len(text))))
    found = suppress(model, chain, RULES, control=False)
    assert [each.step for each in found.effects] == [0, 1]
    assert [mark.step for mark in found.marked] == [2, 3]
    assert "is not apart" in found.marked[0].reason


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch=0: hide at least 1 step a forward pass."),
        ({"only": [9]}, "The chain of q has no step 9: its 2 steps are numbered from 0 to 1."),
    ],
)
def test_wrong_settings_are_refused_before_the_model_runs(model, monkeypatch, settings, message):
    chain = chain_of(model, PREMISE, AND)
    monkeypatch.setattr(type(model), "run", lambda *a, **k: pytest.fail("the model must not run"))
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        suppress(model, chain, RULES, **settings)


# -------------------------------------------------------------------------------- receiver heads


def test_received_weight_is_a_mean_over_pairs_of_tokens():
    """Steps of 2, 1 and 1 tokens; with gap 1 step 0 is seen from tokens 2, 3 and step 1 from 3."""
    pattern = torch.tensor(
        [
            [[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.2, 0.2, 0.6, 0], [0.1, 0.3, 0.4, 0.2]],
            [[1.0, 0, 0, 0], [0.0, 1.0, 0, 0], [0.0, 0.0, 1.0, 0], [0.0, 0.0, 0.0, 1.0]],
        ]
    )
    found = received(pattern, [(0, 2), (2, 3), (3, 4)], gap=1)
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.4], [0.0, 0.0]]))
    far = received(pattern, [(0, 2), (2, 3), (3, 4)], gap=2)
    torch.testing.assert_close(far, torch.tensor([[0.2], [0.0]]))


def test_kurtosis_is_high_where_one_step_stands_out():
    """One of five at 1 and the rest at 0.

    mean 1/5, variance 4/25, fourth moment (4^4 + 4) / 5^5 = 52/625: 52/625 / (16/625) - 3 = 1/4.
    """
    values = torch.tensor([[1.0, 0, 0, 0, 0], [1, 2, 3, 4, 5], [7, 7, 7, 7, 7]])
    # 1..5: variance 2, fourth moment (16 + 1 + 0 + 1 + 16) / 5 = 6.8: 1.7 - 3 = -1.3.
    torch.testing.assert_close(kurtosis(values), torch.tensor([0.25, -1.3, -3.0]))
    torch.testing.assert_close(kurtosis(1e-5 * values), kurtosis(values))


def test_heads_are_ranked_by_their_mean_kurtosis_and_short_chains_do_not_count():
    spiked, even = [1.0, 0, 0, 0, 0], [1.0, 2, 3, 4, 5]
    one = torch.tensor([[even, spiked]])
    short = torch.tensor([[[1.0, 0, 0], [0.0, 0, 1]]])
    heads = rank_heads([one, one, short])
    assert [(each.layer, each.head, each.n_chains) for each in heads] == [(0, 1, 2), (0, 0, 2)]
    assert [each.kurtosis for each in heads] == pytest.approx([0.25, -1.3])
    with pytest.raises(InputError, match=r"^No chain has 4 steps that receive attention, so heads"):
        rank_heads([short])


def two_heads() -> GPT2LMHeadModel:
    """The planted model cut into two heads: one finds evidence, one looks everywhere alike."""
    model = planted.build()
    config = copy.deepcopy(model.config)
    config.n_head = 2
    cut = GPT2LMHeadModel(config)
    cut.load_state_dict(model.state_dict())
    return cut.eval()


def test_the_head_wired_to_evidence_is_the_receiver_head():
    model = interp.load(two_heads(), tokenizer=planted.tokenizer())
    sentences = [IDLE, IDLE, PREMISE, IDLE, IDLE, IDLE, AND, IDLE, IDLE, IDLE]
    found = receiver_heads(model, [chain_of(model, *sentences)], RULES, top=1)
    assert [(each.layer, each.head) for each in found.heads] == [(0, 0)]
    values = {value.step: value for value in found.values}
    assert [values[step].value for step in (0, 1, 3, 4, 5)] == pytest.approx([0] * 5, abs=1e-9)
    assert (values[2].value or 0.0) > 1e-6
    assert all(values[step].value is None for step in range(6, 10))
    assert values[9].reason == "too near the end of the chain: no token far enough behind it"


def test_evidence_receives_the_weight_that_the_wiring_says(model):
    """A later token with n pieces before it gives each r / (1 + n r), r = exp(-7)."""
    sentences = [PREMISE, IDLE, AND, IDLE, IDLE, IDLE, IDLE, IDLE]
    chain = chain_of(model, *sentences)
    found = receiver_heads(model, [chain], RULES, gap=2)
    assert len(found.heads) == 1  # of the 20 asked for
    r = math.exp(-7)
    spans = attention.locate(model, chain, RULES).steps
    long = {step: stop - first for step, (first, stop) in spans.items()}
    evidence = spans[2][1] - 2  # `27` stands before the full stop
    n_before = evidence - spans[2][0]
    after = sum(long[step] for step in range(2, 8))
    later = (n_before * r / (1 + r) + (after - n_before) * r / (1 + 2 * r)) / after
    assert found.values[0].value == pytest.approx(later / long[0], rel=1e-4)
    assert found.values[2].value == pytest.approx(r / (1 + 2 * r) / long[2], rel=1e-4)
    assert found.values[1].value == pytest.approx(0, abs=1e-12)


def test_heads_may_be_chosen_on_other_chains_and_a_short_chain_is_marked(model):
    long = chain_of(model, *[PREMISE, IDLE, AND, IDLE, IDLE, IDLE, IDLE, IDLE])
    short = chain_of(model, PREMISE, AND)
    found = receiver_heads(model, [short, long], RULES, choose_on=[long])
    assert [(mark.id, mark.step) for mark in found.marked] == [("q", -1)]
    assert found.marked[0].reason == (
        "A chain of 2 located steps has none with a step 4 later, so no step receives anything: "
        "give chains of at least 5 steps, or a smaller gap."
    )
    assert len(found.values) == 8 and found.heads[0].n_chains == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gap": 0}, "gap=0, top=20: give whole numbers from 1."),
        ({"choose_on": []}, "There is no chain: give at least one to read attention on."),
    ],
)
def test_wrong_settings_of_receiver_heads_are_refused(model, monkeypatch, settings, message):
    chain = chain_of(model, PREMISE, AND)
    monkeypatch.setattr(type(model), "run", lambda *a, **k: pytest.fail("the model must not run"))
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        receiver_heads(model, [chain], RULES, **settings)
