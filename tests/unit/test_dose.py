"""Dose curves on a GPT-2 in which one direction at one layer controls the answer, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import interp
from interp.engine.model import Model
from interp.errors import InputError, ModelError, PositionError, UndefinedEffectError
from interp.sites import Each, New
from interp.steering import directions
from interp.steering.dose import FEWEST_TWINS, Measure, choose, split, study
from tests.strategies import says, tiny

D_MODEL, D_VOCAB, GAIN = 32, 12, 3.0
A, B, YES, NO = 1, 2, 3, 4
NORM = math.sqrt(D_MODEL)
CANDIDATES = ("0.resid_pre", "0.resid_post", "1.resid_post", "2.resid_post")
PLANTED = "0.resid_post"

PROMPTS = [[5], [6, 7], [7, 6, 5], [8], [9, 10], [10, 5, 9], [11, 8], [8, 9, 10, 11]]
NEUTRAL = [[5, 6, 7, 8], [9, 10], [11, 10, 9], [6, 8, 5]]


def feature(i: int) -> Tensor:
    """Orthonormal directions of mean zero, which a layer norm leaves alone."""
    vector = torch.zeros(D_MODEL)
    vector[2 * i], vector[2 * i + 1] = 0.5**0.5, -(0.5**0.5)
    return vector


CONCEPT, KEY, ANSWER = feature(0), feature(1), feature(2)


@cache
def planted() -> Model:
    """Layer 0 moves the concept to the key, layer 1 the key to the answer, layer 2 does nothing.

    Each layer erases what it reads, layer 0 the key besides. The unembedding reads the answer
    alone: GAIN for A, -GAIN for B. Attention is zero. Every token has the norm sqrt(d_model), so
    the layer norms change nothing: YES and NO hold 2 and -2 of the concept, the others none.
    """
    config = GPT2Config(
        vocab_size=D_VOCAB, n_embd=D_MODEL, n_layer=3, n_head=2, n_positions=32, n_inner=4,
        activation_function="relu", layer_norm_epsilon=1e-12, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        hf = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            weight.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        codes = torch.zeros(D_VOCAB, D_MODEL)
        for token in range(D_VOCAB):
            held = 2 * CONCEPT * {YES: 1, NO: -1}.get(token, 0)
            code = feature(4 if token in (YES, NO) else 4 + token)
            codes[token] = held + code * (D_MODEL - held @ held) ** 0.5
        hf.transformer.wte.weight.copy_(codes)
        moves(hf.transformer.h[0].mlp, {0: (CONCEPT, KEY - CONCEPT), 1: (KEY, -KEY)})
        moves(hf.transformer.h[1].mlp, {0: (KEY, ANSWER - KEY)})
        hf.lm_head.weight[A], hf.lm_head.weight[B] = GAIN * ANSWER, -GAIN * ANSWER
    return interp.load(hf)


def moves(mlp, rules: dict[int, tuple[Tensor, Tensor]]) -> None:
    """Write z * (what is written), z the coordinate read: relu(z) - relu(-z) is z."""
    for i, (read, written) in rules.items():
        mlp.c_fc.weight[:, 2 * i], mlp.c_fc.weight[:, 2 * i + 1] = read, -read
        mlp.c_proj.weight[2 * i], mlp.c_proj.weight[2 * i + 1] = written, -written


def answer_logit(added: float) -> float:
    """The logit of A after so much of the key is added at the planted site, worked out by hand.

    Norms divide by q and by p: q^2 = 1 + added^2 / 32, and p^2 the same of what layer 1 leaves.
    """
    read = added / math.sqrt(1 + added**2 / D_MODEL)
    left = math.sqrt(1 + (read**2 + (added - read) ** 2) / D_MODEL)
    return GAIN * read / left


def prefers_a(logits: Tensor, rows: Tensor) -> Tensor:
    return logits[:, A] - logits[:, B]


def key_everywhere() -> list[directions.Direction]:
    return directions.given(planted(), CANDIDATES, 4 * KEY)


def planted_study(candidates=None, **settings):
    settings = {"coefficients": (0.5, 1.0), "seed": 3, "n_boot": 50, "n_random": 3} | settings
    candidates = key_everywhere() if candidates is None else candidates
    measure = settings.pop("measure", Measure(metric=prefers_a))
    prompts, neutral = settings.pop("prompts", PROMPTS), settings.pop("neutral", NEUTRAL)
    return study(planted(), candidates, prompts, neutral, measure, **settings)


@cache
def whole_study():
    """Every candidate; made once."""
    return planted_study()


# ---------------------------------------------------------------- the planted truth


def test_the_study_finds_the_planted_layer_and_dose_and_reports_it_on_the_other_half():
    found = whole_study()
    assert found.chosen is not None
    assert (found.chosen.site, found.chosen.coefficient, found.chosen.split) == (
        PLANTED,
        1.0,
        "choose",
    )
    result = found.result
    assert (result.site, result.coefficient, result.split) == (PLANTED, 1.0, "report")
    assert result.effect.estimate == pytest.approx(2 * answer_logit(4.0), rel=1e-5)
    assert result.effect.n_units == 4
    assert result.margin.low > 0.5 * result.effect.estimate
    assert result.rank == 1 / 4
    assert all(twin.effect < 0.5 * result.effect.estimate for twin in result.twins)
    assert result.change == pytest.approx(4 * tokens(found) ** 0.5)


def tokens(found) -> int:
    """How many tokens the reported prompts have."""
    return sum(len(PROMPTS[i]) for i in found.settings["report_prompts"])


def test_every_dose_is_the_one_worked_out_by_hand():
    for dose in whole_study().curve:
        by_chance = sum(twin.effect for twin in dose.twins) / len(dose.twins)
        assert abs(by_chance) > 1e-3
        margin = dose.effect.estimate - by_chance
        assert dose.margin.estimate == pytest.approx(margin, abs=1e-9)
        logit = answer_logit(4 * dose.coefficient) if dose.site == PLANTED else 0.0
        if dose.site == "0.resid_pre":  # the layer that erases the key leaves what its norm hides
            assert abs(dose.effect.estimate) < 0.5 * 2 * answer_logit(4 * abs(dose.coefficient))
            continue
        assert dose.effect.estimate == pytest.approx(2 * logit, rel=1e-5, abs=1e-6)
        nats = math.log(D_VOCAB - 2 + 2 * math.cosh(logit))
        assert dose.damage.estimate == pytest.approx(nats - math.log(D_VOCAB), abs=1e-6)
        assert dose.perplexity == pytest.approx(math.exp(nats), rel=1e-6)
        assert dose.base_perplexity == pytest.approx(D_VOCAB, rel=1e-6)


def test_a_limit_on_damage_chooses_a_smaller_dose_and_too_low_a_limit_none():
    free = whole_study()
    smaller = next(d for d in free.curve if (d.site, d.coefficient) == (PLANTED, 0.5))
    limited = planted_study(key_everywhere()[1:2], max_damage=smaller.damage.estimate + 1e-6)
    assert (limited.chosen.site, limited.chosen.coefficient) == (PLANTED, 0.5)
    assert limited.result.damage.estimate == pytest.approx(smaller.damage.estimate, abs=1e-6)
    none = planted_study(key_everywhere()[1:2], max_damage=0.0)
    assert (none.chosen, none.held_out, len(none.curve)) == (None, (), 2)
    least = f"{min(d.damage.estimate for d in none.curve):.3g}"
    message = (
        f"No dose stays within max_damage=0.0 nats a token (the least damage is {least}): "
        "allow more, or add smaller coefficients."
    )
    with says(UndefinedEffectError, message):
        _ = none.result


def test_a_random_direction_in_the_direction_s_place_beats_no_twins():
    """The negative control of the study: rank and margin are those of any twin."""
    held = directions.random(planted(), "2.resid_post", seed=1, norm=4.0)
    found = planted_study(held, n_random=8)
    assert found.result.rank > 0.15
    assert found.result.margin.estimate < answer_logit(4.0)


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-gemma3", "tiny-mixtral"])
def test_a_dose_of_nothing_changes_exactly_nothing(name):
    model = tiny(name)
    held = directions.random(model, ["0.resid_post", "2.resid_pre"], seed=5, norm=3.0)
    measure = Measure(metric=prefers_a, parses=lambda text: len(text) > 3, max_new_tokens=2)
    found = study(model, held, PROMPTS, NEUTRAL, measure, coefficients=[1.0], n_random=3, n_boot=20)
    assert (found.noop_effect, found.noop_damage) == (0.0, 0.0)
    assert all(abs(dose.effect.estimate) > 1e-3 < abs(dose.damage.estimate) for dose in found.curve)


# ---------------------------------------------------------------- splits and controls


def test_the_two_halves_share_no_prompt_no_text_and_no_twin():
    found = planted_study(key_everywhere()[:2], prompts=[*PROMPTS, PROMPTS[0], PROMPTS[0]])
    one, other = (set(found.settings[f"{half}_prompts"]) for half in ("choose", "report"))
    assert one | other == set(range(10)) and not one & other
    assert {0, 8, 9} <= one or {0, 8, 9} <= other  # equal prompts stay together
    texts = [set(found.settings[f"{half}_texts"]) for half in ("choose", "report")]
    assert texts[0] | texts[1] == set(range(4)) and not texts[0] & texts[1]
    seeds = [[twin.seed for twin in dose.twins] for dose in (*found.curve, *found.held_out)]
    assert len({seed for some in seeds for seed in some}) == 3 * (2 + 1)


def test_groups_keep_a_problem_on_one_side_and_are_the_unit_of_intervals():
    groups = ["a", "a", "b", "b", "c", "c", "d", "d"]
    found = planted_study(key_everywhere()[1:2], groups=groups)
    sides = [
        {groups[i] for i in found.settings[f"{half}_prompts"]} for half in ("choose", "report")
    ]
    assert len(sides[0]) == len(sides[1]) == 2 and not sides[0] & sides[1]
    assert found.result.effect.n_units == 2


def test_the_split_depends_on_the_seed_and_on_nothing_else():
    names = [f"p{i}" for i in range(20)]
    assert split(names, 1, "prompts") == split(names, 1, "prompts") != split(names, 2, "prompts")
    one, other = split(names, 1, "prompts")
    assert sorted([*one, *other]) == list(range(20))
    assert len(one) == len(other)


def test_the_metric_is_told_which_prompt_each_entry_is():
    """The measure is the prompt's place, so effects are 0 and every prompt is seen as itself."""
    seen: list[tuple[int, ...]] = []

    def place(logits: Tensor, rows: Tensor) -> Tensor:
        seen.append(tuple(rows.tolist()))
        return rows.double()

    found = planted_study(key_everywhere()[1:2], measure=Measure(metric=place), batch_size=3)
    assert {row for part in seen for row in part} == set(range(8))
    assert max(len(part) for part in seen) == 3
    assert all(dose.effect.estimate == 0 for dose in found.curve)
    assert all(dose.rank == 1 for dose in found.curve)  # a tie with every twin


# ---------------------------------------------------------------- text


def test_the_score_and_the_predicate_read_what_was_written():
    model = tiny("tiny-llama")
    (held,) = directions.random(model, "1.resid_post", seed=2, norm=6.0)
    measure = Measure(
        score=lambda text, row: len(text) + 100.0 * row,
        parses=lambda text: "e" in text,
        max_new_tokens=3,
    )
    found = study(
        model, [held], PROMPTS, NEUTRAL, measure, coefficients=[2.0], positions="new", n_random=3
    )
    (dose,) = found.curve
    rows = found.settings["choose_prompts"]
    prompts = [PROMPTS[row] for row in rows]
    plain = model.generate(prompts, max_new_tokens=3).texts
    edit = held.edit(2.0, positions="new")
    steered = model.generate(prompts, max_new_tokens=3, edits=[edit])
    lengths = [len(a) - len(b) for a, b in zip(steered.texts, plain, strict=True)]
    assert any(lengths)
    assert dose.effect.estimate == pytest.approx(sum(lengths) / len(rows))
    wrong = [sum("e" not in text for text in texts) for texts in (steered.texts, plain)]
    assert dose.unparsable == pytest.approx((wrong[0] - wrong[1]) / len(rows))
    assert dose.base_unparsable == pytest.approx(wrong[1] / len(rows))
    assert dose.change == pytest.approx(steered.receipt[0].change)


@pytest.mark.parametrize(("mode", "effect"), [("project", 0.0), ("clamp", 2 * answer_logit(4.0))])
def test_projecting_and_clamping_are_studied_too(mode, effect):
    """The prompts hold no key, so removing it does nothing and setting it to 4 adds 4."""
    found = planted_study(key_everywhere()[1:2], mode=mode, coefficients=[1.0])
    assert found.result.effect.estimate == pytest.approx(effect, abs=1e-5)
    assert found.noop_effect == 0


# ---------------------------------------------------------------- records


def test_records_are_flat_and_hold_every_twin():
    found = whole_study()
    rows = found.records()
    assert len(rows) == (len(found.curve) + len(found.held_out)) * 4 == (8 + 2) * 4
    assert len({tuple(row) for row in rows}) == 1  # one set of columns
    assert all(isinstance(v, str | int | float | None) for row in rows for v in row.values())
    own, twin = rows[0], rows[1]
    assert (own["method"], own["site"], own["seed"], own["norm"]) == (
        "given",
        "0.resid_pre",
        None,
        pytest.approx(4),
    )
    assert own["effect"] == found.curve[0].effect.estimate
    assert own["margin_low"] == found.curve[0].margin.low
    assert (twin["method"], twin["coefficient"]) == ("random", own["coefficient"])
    assert twin["seed"] == found.curve[0].twins[0].seed
    assert twin["effect"] == found.curve[0].twins[0].effect


def test_the_same_seed_gives_the_same_study():
    one, again, other = (planted_study(key_everywhere()[1:2], seed=s).records() for s in (3, 3, 4))
    assert one == again != other


def test_progress_counts_every_dose():
    told: list[tuple[int, int]] = []
    planted_study(key_everywhere()[:2], progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 6) for i in range(1, 7)]


def test_a_dose_must_raise_the_measure_and_beat_its_twins():
    """Effect and margin: (-1, 9) only beats worse twins, (9, 1) does what any direction does."""
    like = whole_study().curve[0]
    doses = [
        replace(
            like,
            coefficient=float(i),
            effect=replace(like.effect, estimate=effect),
            margin=replace(like.margin, estimate=margin),
        )
        for i, (effect, margin) in enumerate([(-1.0, 9.0), (9.0, 1.0), (3.0, 2.0), (1.5, 1.6)])
    ]
    assert [dose.merit for dose in doses] == [-1.0, 1.0, 2.0, 1.5]
    assert choose(doses) is doses[2]
    damaged = [replace(doses[2], damage=replace(like.damage, estimate=0.3)), *doses]
    assert choose(damaged[:1], max_damage=0.2) is None
    assert choose(damaged[:1], max_damage=0.3) is damaged[0]


def test_of_equal_merits_the_smaller_dose_is_chosen():
    measure = Measure(metric=lambda logits, rows: rows.double())
    found = planted_study(key_everywhere()[1:2], measure=measure, coefficients=(1.0, 0.5))
    assert choose(found.curve).coefficient == 0.5


# ---------------------------------------------------------------- refusals, before any model runs


def nothing_runs(monkeypatch) -> None:
    def forward(*args, **kwargs):
        pytest.fail("the model ran")

    model = planted()
    _ = model.book
    monkeypatch.setattr(type(model), "forward", forward)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"n_random": 2},
            InputError,
            f"n_random=2: a dose stands beside at least {FEWEST_TWINS} random directions.",
        ),
        (
            {"coefficients": [1.0, 0.0]},
            InputError,
            "coefficients hold 0, which is the no-op and always run: leave it out.",
        ),
        (
            {"coefficients": [1.0, 1.0]},
            InputError,
            "coefficients=[1.0, 1.0]: give each dose once, and at least one.",
        ),
        ({"candidates": []}, InputError, "There is no direction to study: give at least one."),
        (
            {"batch_size": 0},
            InputError,
            "batch_size=0: run at least 1 prompt at a time.",
        ),
        (
            {"max_damage": -0.5},
            InputError,
            "max_damage=-0.5: give nats a token from 0, or None for any.",
        ),
        (
            {"prompts": [[5], [5]]},
            InputError,
            "1 different prompts cannot be split into a half that chooses and a half that "
            "reports: give at least 2.",
        ),
        (
            {"neutral": [[5, 6], [7]]},
            InputError,
            "Neutral text 1 is one token long, so nothing in it is predicted: give at least two.",
        ),
        (
            {"groups": ["a"]},
            InputError,
            "There are 8 prompts and 1 groups: name the problem of each.",
        ),
        (
            {"positions": "new"},
            InputError,
            "positions='new': nothing new is read there, so no token has this position; give "
            "'all', 'last' or token indices.",
        ),
        (
            {"neutral_positions": New(0)},
            InputError,
            "neutral_positions=New(0): nothing new is read there, so no token has this "
            "position; give 'all', 'last' or token indices.",
        ),
        (
            {"positions": Each(((0,),) * 8)},
            InputError,
            f"positions={Each(((0,),) * 8)!r}: a study splits the prompts, so give one for all.",
        ),
    ],
)
def test_a_study_without_a_result_is_refused_before_the_model_runs(
    settings, error, message, monkeypatch
):
    settings.setdefault("candidates", key_everywhere())
    nothing_runs(monkeypatch)
    with says(error, message):
        planted_study(**settings)


def test_a_position_that_a_prompt_lacks_is_refused_before_the_model_runs(monkeypatch):
    candidates = key_everywhere()
    nothing_runs(monkeypatch)
    message = (
        "{}: the shortest text has {} tokens that the model sees; name earlier ones, or 'last'."
    )
    with says(PositionError, message.format("positions=(1,)", 1)):
        planted_study(candidates, positions=1)
    with says(PositionError, message.format("neutral_positions=(0, 2)", 2)):
        planted_study(candidates, neutral_positions=(0, 2))


def test_a_direction_of_another_model_is_refused():
    others = directions.random(tiny("tiny-gpt2"), "0.resid_pre", seed=0)
    with pytest.raises(ModelError, match=r"^The direction at 0\.resid_pre was found in tiny-gpt2 "):
        planted_study(others)


def test_a_measure_is_of_logits_or_of_text():
    message = "A Measure needs metric (of logits) or score (of written text), one of the two."
    for given in ({}, {"metric": prefers_a, "score": lambda text, row: 0.0}):
        with says(InputError, message):
            Measure(**given)
    with says(InputError, "max_new_tokens=0: write at least 1."):
        Measure(metric=prefers_a, max_new_tokens=0)


def test_a_measure_that_is_not_finite_is_refused_by_prompt():
    message = (
        "The measure of prompt 4 is nan: return a finite number for every answer, and let parses "
        "tell which are none."
    )
    measure = Measure(metric=lambda _, rows: torch.where(rows == 4, float("nan"), 0.0))
    with says(InputError, message):
        planted_study(measure=measure)
