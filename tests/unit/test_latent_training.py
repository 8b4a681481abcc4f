"""The training of latent reasoners: phases, tokens and losses by hand, and what is refused."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
import torch

from interp.data.cycle_hop import CycleHop
from interp.data.latent_problems import LatentProblem
from interp.errors import InputError
from interp.latent.training import PRESETS, Cycles, Listed, Recipe, preset, train
from interp.latent.training.build import parameters, untrained
from interp.latent.training.losses import (
    Pass,
    after_latents,
    all_states,
    before_answer,
    distance,
    feed_rows,
    in_text,
    nll,
    teacher_row,
)
from interp.latent.training.memo import remembering
from interp.latent.training.presets import CYCLE, CYCLE_CODI
from interp.latent.training.recipe import ALL, phases
from interp.latent.training.source import TRAINING
from tests.latent_cases import LAYOUT, TASK, random_subject

TINY = Recipe(layout=CYCLE, n_layers=1, d_model=16, n_heads=2, batch=4, updates=3)
SMALL = Cycles(CycleHop(n_nodes=4, hops=2))
WORDS = LatentProblem("p", "ab bc ca a", ("b", "c"), "c")


def weights(recipe, source=SMALL):
    return [weight.detach().clone() for weight in parameters(train(recipe, source).subject)]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------- phases


def test_stages_drop_a_step_and_feed_its_latents():
    recipe = Recipe(n_stages=2, per_step=3, closing_stage=True, stage_updates=7, updates=90)
    plan = phases(recipe)
    assert [p.latents for p in plan] == [0, 3, 6, 6]
    assert [p.dropped for p in plan] == [0, 1, 2, ALL]
    assert [p.updates for p in plan] == [7, 7, 7, 90]
    assert [p.until for p in plan] == [0.02] * 4
    assert recipe.n_steps == 6
    assert {p.task for p in plan} == {"latents"}


def test_the_control_without_latents_goes_through_the_same_stages():
    recipe = Recipe(kind="no_latents", n_stages=2)
    assert [(p.latents, p.dropped) for p in phases(recipe)] == [(0, 0), (0, 1), (0, 2)]
    assert recipe.n_steps == 0


def test_without_a_curriculum_only_the_last_phase_is_left():
    whole = phases(Recipe(n_stages=3))
    assert phases(Recipe(n_stages=3, no_curriculum=True)) == whole[-1:]
    levels = phases(replace(PRESETS["cycle-codi"], no_curriculum=True))
    assert [(p.label, p.task, p.level) for p in levels] == [("level 4", "distil", 4)]


def test_codi_begins_with_its_teacher_and_raises_the_level():
    plan = phases(PRESETS["cycle-codi"])
    assert [(p.label, p.task, p.level) for p in plan] == [
        ("teacher", "teacher", 4),
        *[(f"level {k}", "distil", k) for k in (1, 2, 3, 4)],
    ]
    assert [p.until for p in plan] == [0.1, 0.1, 0.1, 0.1, 0.005]
    assert [p.latents for p in plan[1:]] == [3] * 4  # the last hop is taken at the end marker


def test_published_codi_has_one_phase_for_all_of_its_updates():
    recipe = preset("codi-gpt2")
    (only,) = phases(recipe)
    assert (only.task, only.level, only.latents) == ("distil", None, 6)
    assert only.updates == recipe.updates == 40 * 3013  # ceil(385,620 / 128) batches an epoch


def test_published_coconut_ends_with_a_stage_without_text():
    recipe = preset("coconut-gsm8k")
    plan = phases(recipe)
    assert [p.latents for p in plan] == [0, 2, 4, 6, 6]
    assert [p.updates for p in plan][:4] == [9039] * 4  # three epochs of 3013
    assert recipe.updates == 25 * 3013
    assert recipe.layout.prompt == "{question}\n<|start-latent|>"


def test_text_is_one_phase():
    (only,) = phases(Recipe(kind="explicit", updates=11))
    assert (only.task, only.updates) == ("text", 11)


# ---------------------------------------------------------------- tokens


def pieces(subject, ids):
    return subject.tokenizer.convert_ids_to_tokens(list(ids))


def test_behind_the_slots_stand_end_marker_steps_left_and_answer():
    subject = random_subject()
    row = after_latents(subject, WORDS, 1)
    assert pieces(subject, row.ids) == ["<end>", "c", "c", "<eos>"]
    assert row.first == 1
    assert pieces(subject, after_latents(subject, WORDS, ALL).ids) == ["<end>", "c", "<eos>"]


def test_text_is_trained_from_the_first_step_on_with_its_end_marker():
    subject = random_subject()
    row = in_text(subject, WORDS)
    assert pieces(subject, row.ids) == (
        ["ab", "bc", "ca", "a", "<start>", "b", "c", "<end>", "c", "<eos>"]
    )
    assert row.first == 5


def test_the_teacher_does_not_see_the_last_step():
    subject = untrained(replace(preset("cycle-codi"), d_model=8), Cycles(TASK))
    row = teacher_row(subject, WORDS, "{question}")
    assert pieces(subject, row.ids) == ["ab", "bc", "ca", "a", "b", "=", "c", "<eos>"]
    assert row.first == 4


def test_padding_is_not_trained():
    subject = random_subject()
    short, long = after_latents(subject, WORDS, ALL), after_latents(subject, WORDS, 0)
    made = feed_rows(subject, [short, long])
    assert made.trained.tolist() == [[True, True, False, False], [True] * 4]
    assert [int(i) for i in made.ids[0][:2]] == list(short.ids[1:])


def test_a_row_longer_than_the_model_reads_is_refused():
    recipe = replace(TINY, n_ctx=5)
    message = r"^A training problem takes 10 tokens, and explicit reads 5: leave out the longest "
    with pytest.raises(InputError, match=message):
        train(replace(recipe, kind="explicit"), SMALL)


# ---------------------------------------------------------------- losses


def test_the_distance_by_hand():
    """Apart by 1 and 0: SmoothL1 is 1/2 and 0, mean 1/4; the teacher's spread of 0, 2 is sqrt 2.

    The second layer: apart by 3 and 0, 5/2 and 0, mean 5/4; spread of 0, 4 is sqrt 8.
    """
    teacher = torch.tensor([[[0.0], [2.0]], [[0.0], [4.0]]], requires_grad=True)
    student = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]], requires_grad=True)
    found = distance(student, teacher)
    assert found.item() == pytest.approx((0.25 / math.sqrt(2) + 1.25 / math.sqrt(8)) / 2)
    found.backward()
    assert teacher.grad is None
    assert student.grad is not None and float(student.grad.abs().sum()) > 0
    assert distance(teacher, teacher).item() == 0.0


def test_a_model_that_knows_nothing_costs_the_log_of_its_vocabulary():
    subject = random_subject()
    blank = torch.zeros(2, 3, 32)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    trained = torch.tensor([[True, True, False], [True, False, False]])
    found = nll(subject, Pass(blank, ids, trained))
    assert found.item() == pytest.approx(math.log(subject.hf.config.vocab_size), rel=1e-6)


def test_states_are_kept_only_inside_the_block():
    subject = random_subject()
    row = in_text(subject, WORDS)
    with all_states(subject) as kept:
        inside = feed_rows(subject, [row])
    outside = feed_rows(subject, [row])
    assert len(kept) == 1 and len(kept[0]) == subject.hf.config.n_layer + 1
    assert torch.equal(kept[0][-1], inside.hidden)
    assert torch.equal(inside.hidden, outside.hidden)
    assert torch.equal(before_answer(kept[0], [2])[:, 0], torch.stack([s[0, 2] for s in kept[0]]))
    assert not subject.hf.config.output_hidden_states


def test_a_remembering_tokenizer_gives_the_same_ids_and_each_caller_its_own():
    subject = untrained(TINY, SMALL)
    own = subject.tokenizer
    calls = []
    plain = own.__class__.__call__
    with pytest.MonkeyPatch.context() as patch, remembering(subject):
        patch.setattr(own.__class__, "__call__", lambda *a, **k: calls.append(a) or plain(*a, **k))
        first = subject.tokenizer("ab c", add_special_tokens=False).input_ids
        again = subject.tokenizer("ab c", add_special_tokens=False).input_ids
        first.append(0)
        assert subject.tokenizer("ab c").input_ids == own("ab c").input_ids
        assert subject.tokenizer.eos_token_id == own.eos_token_id
    assert again == own("ab c", add_special_tokens=False).input_ids
    assert len(calls) == 3  # the text once without specials and once with, and ours
    assert subject.tokenizer is own


# ---------------------------------------------------------------- problems


def test_cycles_are_new_at_every_draw_and_never_those_that_are_scored():
    source = Cycles(TASK, seed=2)
    first, second = source.draw(3, 0), source.draw(3, 1)
    assert first == source.draw(3, 0)
    assert not {p.question for p in first} & {p.question for p in second}
    assert first == TASK.draw(3, 3 * TRAINING)
    assert [len(p.steps) for p in source.draw(3, 0, 2)] == [2, 2, 2]


def test_cycles_without_a_level_take_turns():
    source = Cycles(CycleHop(tells_hops=True), levels=(1, 2, 4))
    assert [len(p.steps) for p in source.draw(5, 0)] == [1, 2, 4, 1, 2]


def problem(name, n_steps=1):
    return LatentProblem(name, "q", ("s",) * n_steps, "a")


def test_a_list_is_read_whole_before_it_begins_again():
    source = Listed(tuple(problem(name) for name in "abcde"))
    drawn = [p.id for at in range(5) for p in source.draw(3, at)]
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == sorted(drawn[10:]) == list("abcde")
    assert drawn[:5] != drawn[5:10]
    assert drawn != [p.id for at in range(5) for p in replace(source, seed=1).draw(3, at)]


def test_a_level_of_a_list_is_a_number_of_steps():
    source = Listed((problem("one", 1), problem("two", 2)))
    assert {p.id for p in source.draw(4, 0, 2)} == {"two"}
    message = r"^No problem of 2 has 3 steps: train with fewer levels, or without \(levels=0\)\.$"
    with pytest.raises(InputError, match=message):
        source.draw(1, 0, 3)
    with pytest.raises(InputError, match=r"^There is no problem to train on: give a file with at"):
        Listed(())


# ---------------------------------------------------------------- the loop


def test_no_update_leaves_the_weights_as_they_were_drawn():
    blank = untrained(TINY, SMALL)
    before = [weight.detach().clone() for weight in parameters(blank)]
    trained = train(replace(TINY, updates=0), SMALL)
    assert same(before, list(parameters(trained.subject)))
    assert trained.updates == 0 and all(run.loss is None for run in trained.runs)
    assert not same(before, weights(replace(TINY, updates=1)))


def test_equal_recipes_give_equal_weights_and_leave_the_random_state_alone():
    state = torch.get_rng_state()
    first = weights(TINY)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first, weights(TINY))
    assert not same(first, weights(replace(TINY, seed=1)))
    assert not same(first, weights(TINY, replace(SMALL, seed=1)))


def test_a_stage_ends_with_its_loss_or_its_updates():
    seen = []
    easy = replace(TINY, n_stages=2, stage_loss=99.0, final_loss=99.0, updates=50)
    trained = train(easy, SMALL, seen.append)
    assert [(run.label, run.updates) for run in trained.runs] == (
        [("stage 0", 1), ("stage 1", 1), ("stage 2", 1)]
    )
    assert [(p.update, p.phase) for p in seen] == [(1, "stage 0"), (2, "stage 1"), (3, "stage 2")]
    hard = replace(easy, stage_loss=0.0, final_loss=0.0, stage_updates=2, updates=7)
    assert [run.updates for run in train(hard, SMALL).runs] == [2, 2, 3]
    assert not trained.subject.hf.training


def test_the_rate_and_the_optimizer_are_the_recipes():
    recipe = replace(TINY, n_stages=1, stage_updates=2, stage_loss=0.0, final_loss=0.0, updates=4)
    plain = weights(recipe)
    for other in ({"fresh_optimizer": False}, {"cosine": True}, {"clip": 1e-3}, {"mix": 0.9}):
        assert not same(plain, weights(replace(recipe, **other))), other


def test_dropout_of_the_projection_is_on_in_training_alone():
    recipe = replace(preset("cycle-codi"), d_model=8, n_layers=1, projection_dropout=0.5, updates=0)
    source = Cycles(CycleHop(tells_hops=True), levels=(1, 2))
    assert untrained(recipe, source).projection.training
    assert not train(recipe, source).subject.projection.training


@pytest.mark.parametrize("name", [n for n in PRESETS if n.startswith("cycle-")])
def test_every_tiny_recipe_makes_an_update(name):
    recipe = replace(preset(name), d_model=8, n_layers=1, n_heads=1, batch=4, updates=6)
    recipe = replace(recipe, stage_updates=1, warm_up_loss=recipe.warm_up_loss and 99.0)
    levels = (1, 2, 3, 4) if recipe.levels else ()
    source = Cycles(CycleHop(tells_hops=bool(levels)), levels=levels)
    trained = train(recipe, source)
    assert trained.updates == 6
    assert all(run.loss is None or 0 < run.loss < 50 for run in trained.runs)
    slots = {"cycle-codi": 3, "cycle-no-latents": 0, "cycle-codi-no-latents": 0}
    assert trained.subject.n_steps == slots.get(name, 4)


def test_recipes_are_plain_values():
    recipe = asdict(preset("cycle-codi"))
    assert recipe["layout"]["close"] == "=" == CYCLE_CODI.close
    assert recipe["teacher_prompt"] == "{question}<start>" == CYCLE_CODI.prompt
    assert preset("cycle-coconut").layout == CYCLE == LAYOUT


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"kind": "coconuts"},
            r"^There is no kind 'coconuts'; there are coconut, codi, explicit, pause, "
            r"no_recurrence, no_latents\. Did you mean 'coconut'\?$",
        ),
        (
            {"kind": "codi"},
            r"^'codi' cannot be trained with the objective 'stages': take 'distil'\.$",
        ),
        (
            {"kind": "coconut", "objective": "distil"},
            r"^'coconut' cannot be trained with the objective 'distil': take 'stages'\.$",
        ),
        ({"batch": 0}, r"^batch is 0: give more than 0\.$"),
        ({"updates": -1}, r"^updates is -1: give 0 or more\.$"),
        ({"mix": 1.0}, r"^mix is 1\.0: give a share from 0 to below 1\.$"),
    ],
)
def test_what_no_training_can_have_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        Recipe(**given)


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(InputError, match=r"^There is no recipe 'cycle-coco'; there are cycle-coco"):
        preset("cycle-coco")


def test_a_model_from_scratch_needs_the_problems_tokenizer():
    message = r"^These problems have no tokenizer of their own, which a model from scratch needs: "
    with pytest.raises(InputError, match=message):
        train(TINY, Listed((WORDS,)))
