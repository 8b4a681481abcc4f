"""The steering tests find a planted effect, flip nothing by a no-op, and refuse what cannot run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from interp.directions import Direction
from interp.errors import InputError, ModelError, SiteError
from interp.models import planted
from interp.models.weights import weights_hash
from interp.thinking import steer_items
from interp.thinking.direction import at_norms, fit, shuffled
from interp.thinking.rules import Rules
from interp.thinking.score import Problem, Tokeniser, prepare, score_chain
from interp.thinking.scored import ScoredChain
from interp.thinking.sets import Sets
from interp.thinking.steer_arms import (
    attention_mask,
    attention_scale,
    direction_arm,
    drop_step,
    layer_of,
    no_arm,
    random_arms,
)
from interp.thinking.steer_bins import BINS, ablate_bins, bin_directions
from interp.thinking.steer_items import draft, make_items, read_answer, with_base
from interp.thinking.steer_layers import split_problems
from interp.thinking.steer_test import steer, steering_test
from tests.strategies import noise, tiny

RULES = Rules()


@cache
def scored():
    """Eight planted chains and their scores."""
    model = tiny("planted-steps")
    found = []
    for chain in planted.chains(8):
        ready = prepare(model, Problem(chain.id, chain.question, chain.chain), RULES)
        steps = score_chain(model, ready, RULES, control_seeds=0).steps
        found.append(ScoredChain(ready, tuple(steps)))
    return found


@cache
def items():
    """The items of those chains, at most two of each in a test."""
    return make_items(tiny("planted-steps"), scored(), RULES, per_problem=2)


def along(*, weight, sign=1.0, model="planted-steps"):
    """Directions that make every token of a step evidence of about this weight.

    The mark is as long as it takes to survive the layer norm: sqrt(32 + weight^2) before it, so
    that 4 is left after it, whatever the token's own code is.
    """
    feature = dict(zip(planted.FEATURES, planted.directions(), strict=False))
    mark = math.sqrt(planted.D_MODEL + weight**2)
    vector = sign * (mark * feature["evidence"] + weight * feature["weight"])
    norm, known = float(vector.norm()), weights_hash(tiny(model).hf)
    sites = ("0.resid_pre", "0.resid_post")
    return [Direction(vector / norm, site, "given", norm, model, known) for site in sites]


def one_item(*, context, written):
    """An item of the planted model with these sentences."""
    model = tiny("planted-steps")
    question = Problem("one", "What is the total?", context + written)
    chain = replace(prepare(model, question, RULES), answer=planted.ANSWER)
    tokens = Tokeniser(model, chain, RULES)
    told = {"context": context, "written": written, "step": 1, "seed": 0, "tts": 1.0}
    base = steer_items.answer_sweep(
        model,
        [draft(model, tokens, chain, RULES, **told).ids],
        [tokens.answer_ids],
    )
    made = draft(model, tokens, chain, RULES, **told)
    return with_base(made, base.base_texts[0], float(base.base_logprobs[0]), RULES)


# ------------------------------------------------------------------------------------ items


def test_items_are_the_cells_with_the_perturbed_step_and_are_told_apart_by_their_answer():
    found, model = items(), tiny("planted-steps")
    assert {each.base_answer for each in found.engage} == {planted.ANSWER}
    assert {each.base_answer for each in found.disengage} == {planted.RIVAL}
    scores = {(s.id, s.step): s for chain in scored() for s in chain.scores}
    chains = {each.id: each.chain for each in scored()}
    for each in found.all:
        score, chain = scores[each.problem, each.step], chains[each.problem]
        before = chain.prompt + chain.text[: score.start]
        assert each.text == before + score.perturbed.rstrip() + RULES.cue
        assert each.base_logprob == pytest.approx(score.s0c1, abs=1e-4)
        assert each.tts == score.tts
        spelled = model.tokenizer.decode(list(each.ids[slice(*each.span)]))
        assert spelled == score.perturbed.rstrip()
        without = model.tokenizer.decode(list(each.dropped_ids))
        assert without == chain.prompt + chain.text[: score.start].rstrip() + RULES.cue


def test_steps_without_numbers_are_marked_and_counted():
    found = items()
    dropped = [s for chain in scored() for s in chain.scores if s.op == "drop"]
    assert [(m["id"], m["step"]) for m in found.marked] == [(s.id, s.step) for s in dropped]
    assert {each["reason"] for each in found.marked} == {"the step has no number to perturb"}
    every = make_items(tiny("planted-steps"), scored(), RULES)
    assert len(every.all) + len(dropped) == sum(len(chain.scores) for chain in scored())


def test_an_answer_that_cannot_be_read_is_marked_and_is_no_item(monkeypatch):
    model, lost = tiny("planted-steps"), []

    def garbled(written, rules, lead=""):
        lost.append(written)
        return None if len(lost) == 2 else read_answer(written, rules, lead)

    monkeypatch.setattr(steer_items, "read_answer", garbled)
    found = make_items(model, scored()[:2], RULES)
    assert [m["reason"] for m in found.marked].count("the answer cannot be read") == 1
    assert len(found.all) == len(lost) - 1


def test_caps_keep_the_same_items_and_spread_them_over_the_problems():
    model = tiny("planted-steps")
    one = make_items(model, scored(), RULES, per_problem=1)
    for test in ("engage", "disengage"):
        kept, every = getattr(one, test), getattr(items(), test)
        assert {each.key for each in kept} <= {each.key for each in every}
        assert [each.problem for each in kept] == list(dict.fromkeys(e.problem for e in every))
    few = make_items(model, scored(), RULES, most=3)
    assert len(few.engage) == len({each.problem for each in few.engage}) == 3
    turned = make_items(model, list(reversed(scored())), RULES, most=3)
    assert {each.key for each in turned.all} == {each.key for each in few.all}


def test_item_rows_are_flat():
    rows = items().rows()
    json.dumps(rows, allow_nan=False)
    assert len(rows) == len(items().all) and rows[0]["test"] == "engage"
    assert all(row["first"] < row["stop"] < row["n_tokens"] for row in rows)


@pytest.mark.parametrize(
    ("written", "rules", "lead", "answer"),
    [
        ("18} so", RULES, "", "18"),
        (r"\frac{1}{2}}", RULES, "", r"\frac{1}{2}"),
        ("18", RULES, "", None),
        (" } ", RULES, "", None),
        ("{18}", RULES, "{", "18"),
        ("18.\nSo", Rules(closing=""), "", "18"),
        ("\n18", Rules(closing=""), "", None),
        ("18</a> so", Rules(closing="</a>"), "", "18"),
    ],
)
def test_answers_are_read_as_the_score_reads_them(written, rules, lead, answer):
    assert read_answer(written, rules, lead) == answer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"most": 0}, r"^most=0: keep at least 1 item, or pass None for all\.$"),
        ({"per_problem": -1}, r"^per_problem=-1: keep at least 1 item, or pass None for all\.$"),
        (
            {"seeds": (7,)},
            r"^There is no scored step to make an item of, among 8 chains and the seeds \(7,\): "
            r"score the chains with one of these seeds first\.$",
        ),
    ],
)
def test_items_that_cannot_be_made_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        make_items(tiny("planted-steps"), scored(), RULES, **settings)


def test_two_chains_of_one_id_are_refused():
    with pytest.raises(InputError, match=r"^Two chains have the id 'planted-0-0': give each"):
        make_items(tiny("planted-steps"), [scored()[0], scored()[0]], RULES)


# ------------------------------------------------------------------------------------ steering


@pytest.mark.parametrize(("test", "weight", "sign"), [("engage", -0.6, 1), ("disengage", 0.6, -1)])
def test_check_13_a_planted_direction_flips_and_random_twins_do_not(test, weight, sign):
    """Decorative numbers begin to count; or, taken away, the opposite of what they lack."""
    model, some = tiny("planted-steps"), getattr(items(), test)
    found = steering_test(model, some, along(weight=weight, sign=sign), RULES)
    rows = {(row["arm"], row["twin"]): row for row in found.rows()}
    direction, random = rows["direction", None], rows["random", None]
    assert direction["layer"] == 0 and direction["flips"] == 1.0
    assert direction["unparsable"] == 0 and direction["n_problems"] >= 2
    assert random["n_twins"] == 20 and random["flips"] <= 0.1
    assert random["difference_low"] > 0.3 and random["rank"] == pytest.approx(1 / 21)
    assert (direction["shift"] < -5) if test == "engage" else (direction["shift"] > 5)
    none = [trial for trial in found.trials if trial.arm == "none"]
    assert none and not any(trial.flipped or trial.unparsable for trial in none)
    assert {trial.shift for trial in none} == {0.0}
    assert "problems: the interval is probably too narrow" in direction["warning"]


def test_check_13_a_direction_from_true_labels_flips_and_shuffled_labels_do_not():
    """Every second step of a chain is given a mark and noise to read; the labels say which."""
    model, chains = tiny("planted-steps"), scored()
    means = [chain.means for chain in chains]
    true, others = ([s for each in means for s in each[i::2]] for i in (0, 1))
    sets = Sets(tuple(true), tuple(others), 0.9, 0.0, bins=1)
    mark = along(weight=-0.6)[0].raw
    acts = 0.5 * noise(len(sets.steps), 2, len(mark), seed=0)
    acts[: len(true), 0] += mark
    own = fit(model, chains, sets, acts=acts)
    twins = [at_norms(shuffled(model, chains, sets, k, acts=acts), own) for k in range(5)]
    assert {round(each[0].norm, 5) for each in twins} == {round(own[0].norm, 5)}
    found = steering_test(model, items().engage, own, RULES, shuffled=twins, n_random=3)
    rows = {(row["arm"], row["twin"]): row for row in found.rows()}
    assert rows["direction", None]["flips"] == 1.0
    for arm in ("shuffled", "random"):
        assert rows[arm, None]["flips"] <= 0.2 and rows[arm, None]["difference_low"] > 0.5
    moved = [trial.shift for trial in found.trials if trial.arm == "shuffled" and not trial.layer]
    assert moved and max(map(abs, moved)) > 0  # they act, and flip nothing


def test_nothing_can_flip_at_the_final_output():
    model = tiny("planted-steps")
    arms = [direction_arm(model, along(weight=-0.6)), *random_arms(model, along(weight=-0.6), [0])]
    trials = steer(model, items().engage, arms, RULES, layers=[1])
    assert trials and not any(trial.flipped for trial in trials)
    assert max(abs(trial.shift) for trial in trials) < 1e-5


def test_check_12_a_coefficient_of_0_is_exactly_nothing_in_plain_runs():
    model, some = tiny("planted-steps"), items().engage[:2] + items().disengage[:2]
    trials = steer(model, some, [no_arm(model, along(weight=-0.6))], RULES, exact=True)
    assert len(trials) == 8 and {trial.shift for trial in trials} == {0.0}
    assert not any(trial.flipped or trial.unparsable for trial in trials)


def test_dropping_or_hiding_a_needed_step_flips_and_raising_attention_does_not():
    """17 and 27 are both needed: S is 2 with both, 1 with one (see `interp.models.planted`)."""
    model = tiny("planted-steps")
    item = one_item(context="We start with 17 apples. ", written="Then we add 27 pears.")
    assert item.test == "engage" and item.base_answer == planted.ANSWER
    scale = [replace(attention_scale(model, (f, f)), twin=k) for k, f in enumerate((2.0, 0.0))]
    trials = steer(model, [item], [drop_step(), attention_mask(model), *scale], RULES)
    found = {(trial.arm, trial.twin): trial for trial in trials}
    assert found["drop_step", None].flipped and found["drop_step", None].layer is None
    assert found["drop_step", None].answer == planted.RIVAL
    assert found["drop_step", None].coefficient is None
    assert found["attention_mask", None].flipped and found["attention_mask", None].layer == 0
    assert not found["attention_scale", 0].flipped and found["attention_scale", 1].flipped


def test_attention_arms_raise_in_one_test_and_lower_in_the_other():
    model = tiny("planted-steps")
    some = [items().engage[0], items().disengage[0]]
    trials = steer(model, some, [attention_scale(model), attention_mask(model)], RULES)
    factors = {(trial.arm, trial.test): trial.coefficient for trial in trials}
    assert factors == {
        ("attention_scale", "engage"): 2.0,
        ("attention_scale", "disengage"): 0.5,
        ("attention_mask", "engage"): 0.0,
        ("attention_mask", "disengage"): 0.0,
    }


def test_an_answer_cut_short_is_damage_and_no_flip_in_either_test():
    model, some = tiny("planted-steps"), [items().engage[0], items().disengage[0]]
    arm = direction_arm(model, along(weight=-0.6))
    trials = steer(model, some, [arm], RULES, layers=[0], max_new_tokens=1)
    assert [(t.answer, t.flipped, t.unparsable) for t in trials] == [(None, False, True)] * 2
    (whole,) = steer(model, some[:1], [arm], RULES, layers=[0])
    assert (whole.answer, whole.flipped, whole.unparsable) == (planted.RIVAL, True, False)


def test_the_model_that_ignores_its_chain_cannot_be_flipped():
    model, found = tiny("planted-ignores"), []
    for chain in planted.chains(4):
        ready = prepare(model, Problem(chain.id, chain.question, chain.chain), RULES)
        found.append(ScoredChain(ready, tuple(score_chain(model, ready, RULES).steps)))
    some = make_items(model, found, RULES)
    assert some.engage and not some.disengage
    arms = [direction_arm(model, along(weight=-0.2, model="planted-ignores")), drop_step()]
    trials = steer(model, some.engage, [arms[1], attention_mask(model)], RULES)
    assert trials and not any(trial.flipped for trial in trials)


def test_twins_where_the_direction_chose_are_run_on_the_test_split_alone():
    model, some = tiny("planted-steps"), items().all
    told = []
    found = steering_test(
        model,
        some,
        along(weight=-0.6),
        RULES,
        n_random=2,
        random_layers="chosen",
        progress=lambda done, total: told.append((done, total)),
    )
    twins = [trial for trial in found.trials if trial.arm in ("random", "none")]
    assert {found.split[trial.problem] for trial in twins} == {"test"}
    layers = {(r.test, r.layer) for r in found.results if r.arm == "direction"}
    assert {(trial.test, trial.layer) for trial in twins} == layers
    assert told[-1] == (len(found.trials), len(found.trials))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({total for _, total in told}) == 1
    warned = [r for r in found.results if r.arm == "random" and r.n_twins == 2]
    assert all("only 2 random directions: give at least 20" in r.warnings for r in warned)


def test_every_item_meets_every_arm_at_every_layer_once():
    model, some = tiny("planted-steps"), items().all[:5]
    arms = [direction_arm(model, along(weight=-0.6)), drop_step(), attention_mask(model)]
    trials = steer(model, some, arms, RULES)
    met = [(*trial.key, trial.arm, trial.layer) for trial in trials]
    wanted = [("direction", 0), ("direction", 1), ("drop_step", None), ("attention_mask", 0)]
    assert sorted(map(str, met)) == sorted(str((*i.key, *w)) for i in some for w in wanted)
    blind = replace(some[0], dropped_ids=None)
    assert not steer(model, [blind], [drop_step()], RULES)


def test_shuffled_arms_stand_beside_the_direction():
    model = tiny("planted-steps")
    twins = [[each.twin(k) for each in along(weight=-0.6)] for k in (5, 6)]
    found = steering_test(
        model, items().engage[:6], along(weight=-0.6), RULES, shuffled=twins, n_random=1
    )
    rows = [(r.arm, r.twin, r.n_twins) for r in found.results if r.arm == "shuffled"]
    assert rows == [("shuffled", None, 2), ("shuffled", 0, 0), ("shuffled", 1, 0)]
    flat = [value for row in found.curves() for value in row.values()]
    assert all(value is None or isinstance(value, str | int | float) for value in flat)


# ------------------------------------------------------------------------------------ score bins


def test_bins_with_too_few_steps_are_skipped_in_words():
    made = bin_directions(tiny("planted-steps"), scored(), fewest=2)
    by_name = {each.name: each for each in made}
    assert list(by_name) == ["[0.9, 1]", "[0.5, 0.9)", "[0.3, 0.5)", "[0.1, 0.3)", "[0.03, 0.1)"]
    skipped = [each for each in made if each.skipped]
    assert skipped and all(not each.directions for each in skipped)
    assert all("0.03" in each.skipped or "no step" in each.skipped.lower() for each in skipped[-1:])


def test_a_bin_of_steps_that_count_lowers_the_accuracy_and_a_skipped_bin_has_none():
    model, some = tiny("planted-steps"), items().engage
    split = split_problems(some)
    strong = replace(_bin(0.5, 0.9), directions=tuple(along(weight=-0.6)))
    weak = replace(_bin(0.1, 0.3), directions=tuple(along(weight=-0.01)))
    empty = replace(_bin(0.3, 0.5), skipped="2 steps")
    results = ablate_bins(model, some, [strong, weak, empty], RULES, split)
    assert [each.lowest for each in results] == [(0, 0.0), (0, 1.0), None]
    assert results[0].accuracy == ((0, 0.0), (1, 1.0))
    assert results[0].result.flips.estimate == 1.0 and results[0].result.layer == 0
    rows = [each.row() for each in results]
    json.dumps(rows, allow_nan=False)
    assert rows[2]["skipped"] == "2 steps" and rows[2]["flips"] is None
    assert results[0].curve_rows()[0] == {"bin": "[0.5, 0.9)", "layer": 0, "accuracy": 0.0}


def test_bins_that_all_are_skipped_give_reasons_instead_of_a_run():
    empty = replace(_bin(0.3, 0.5), skipped="2 steps")
    (result,) = ablate_bins(tiny("planted-steps"), items().engage, [empty], RULES, {})
    assert result.row()["skipped"] == "2 steps" and result.lowest is None


def test_a_bin_without_bounds_is_refused():
    with pytest.raises(InputError, match=r"^\(0\.5, 0\.5\) is no bin of scores: give 0 <= low < "):
        bin_directions(tiny("planted-steps"), scored(), [(0.5, 0.5)])
    assert BINS[0] == (0.9, 1.0)


def _bin(low, high):
    from interp.thinking.steer_bins import BinDirection

    return BinDirection(low, high, 9, 9, ())


# ------------------------------------------------------------------------------------ refusals


def test_directions_of_another_model_or_layer_are_refused_before_any_run():
    model, own = tiny("planted-steps"), along(weight=-0.6)
    with pytest.raises(ModelError, match=r"^The direction at 0\.resid_pre was found in planted-ig"):
        direction_arm(model, along(weight=-0.6, model="planted-ignores"))
    with pytest.raises(SiteError, match=r"4\.resid_pre"):
        direction_arm(model, [replace(own[0], site="4.resid_pre")])
    with pytest.raises(SiteError, match=r"^0\.mlp_out does not lie between blocks: steer at resid"):
        direction_arm(model, [replace(own[0], site="0.mlp_out")])
    with pytest.raises(InputError, match=r"^The arm 'direction' has two directions at layer 0"):
        direction_arm(model, [own[0], own[0]])
    with pytest.raises(InputError, match=r"^The arm 'direction' has no direction: give one for"):
        direction_arm(model, [])
    assert [layer_of(each.site) for each in own] == [0, 1]


def test_what_cannot_be_run_is_refused_before_the_model_runs(monkeypatch):
    model, some = tiny("planted-steps"), items().engage
    arm = direction_arm(model, along(weight=-0.6))
    monkeypatch.setattr(model, "forward", None)
    with pytest.raises(InputError, match=r"^There is no item to steer: no perturbed step leaves"):
        steer(model, [], [arm], RULES)
    with pytest.raises(InputError, match=r"^There is no arm to run: give a direction, or a base"):
        steer(model, some, [], RULES)
    with pytest.raises(
        InputError,
        match=r"^There is no layer 7 in these arms: they act at 0, 1, where the last of a "
        r"direction is the final output\.$",
    ):
        steer(model, some, [arm], RULES, layers=[0, 7])
    with pytest.raises(
        InputError, match=r"^Two arms are both \('direction', None\): give each once"
    ):
        steer(model, some, [arm, arm], RULES)
    with pytest.raises(InputError, match=r"^Two items are both \('planted-0-"):
        steer(model, [some[0], some[0]], [arm], RULES)
    with pytest.raises(InputError, match=r"^random_layers='none': write 'all' or 'chosen'\.$"):
        steering_test(model, some, along(weight=-0.6), RULES, random_layers="none")
    with pytest.raises(
        InputError, match=r"^The items come from 1 problem, and the layer is chosen"
    ):
        steering_test(model, [some[0]], along(weight=-0.6), RULES)


def test_random_twins_are_as_long_as_the_direction_at_each_layer():
    model, own = tiny("planted-steps"), along(weight=-0.6)
    long = [own[0], replace(own[1], norm=3.0)]
    (arm,) = random_arms(model, long, [4])
    at = steer_test_tokens()
    norms = [float(arm.edits[layer](1.0, at).vector.norm()) for layer in (0, 1)]
    assert norms == pytest.approx([own[0].norm, 3.0], rel=1e-5)
    straight = direction_arm(model, long).edits[0](-1.0, at)
    assert straight.coefficient == -1.0
    torch.testing.assert_close(straight.vector, own[0].raw)


def steer_test_tokens():
    from interp.thinking.steer_arms import Tokens

    return Tokens.of(items().engage[:1])
