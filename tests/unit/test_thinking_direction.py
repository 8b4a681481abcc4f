"""The TrueThinking direction: by hand, planted, shuffled, as an edit, on disk and refused."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp import directions
from interp.directions import Direction, load_all, save_all
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError, ModelError, StoreError
from interp.models import planted
from interp.models.tiny import build, tokenizer
from interp.models.tokens import encode
from interp.models.weights import weights_hash
from interp.thinking import direction
from interp.thinking.direction import activations, at_norms, fit, random_twins, shuffled, sites
from interp.thinking.rules import Rules
from interp.thinking.score import Problem, prepare, score_chain
from interp.thinking.scored import ScoredChain, mean_steps
from interp.thinking.sets import Sets, choose_sets
from interp.thinking.spans import token_span
from tests.strategies import ToyModel, says, tiny
from tests.thinking_cases import scored_chain

R = torch.tensor([1.0, 2.0, 3.0, 4.0])


class Digits:
    """A tokenizer for the toy: each digit from 0 to 3 is the token of its value."""

    is_fast, bos_token = False, None

    def __call__(self, text: str, **options) -> dict[str, list[int]]:
        return {"input_ids": [int(c) for c in text if c.isdigit()]}


def toy() -> ToyModel:
    model = ToyModel()
    model.tokenizer = Digits()
    return model


def sets_of(scored, true, decorative) -> Sets:
    steps = {(step.id, step.step): step for step in mean_steps(scored)}
    high, low = (tuple(steps[place] for place in side) for side in (true, decorative))
    return Sets(high, low, 0.9, 0.005, bins=1)


# ---------------------------------------------------------------- by hand


def by_hand() -> tuple[list[ScoredChain], Sets]:
    """The true steps end in 3 and 2, the decorative ones in 0 and 1."""
    scored = [
        scored_chain("a", ["13. ", "0. "], [1, 0], prompt="2 "),
        scored_chain("b", ["2. ", "3 1\n"], [1, 0], prompt="2 "),
    ]
    return scored, sets_of(scored, [("a", 0), ("b", 0)], [("a", 1), ("b", 1)])


def test_the_direction_of_the_toy():
    """Token t is t R at resid_pre and 33 t R at resid_post. The means are 5/2 and 1/2, so the
    difference is 2 R and 66 R, whose length is that of R, sqrt(30), times 2 and 66."""
    scored, sets = by_hand()
    before, after = fit(toy(), scored, sets)
    for found, site, size in ((before, "0.resid_pre", 2), (after, "0.resid_post", 66)):
        assert (found.site, found.method) == (site, "true_thinking")
        assert found.norm == pytest.approx(size * math.sqrt(30))
        torch.testing.assert_close(found.vector, R / math.sqrt(30), rtol=0, atol=1e-6)
        torch.testing.assert_close(found.raw, size * R, rtol=1e-6, atol=0)
        assert (found.n_positive, found.n_negative, found.seed) == (2, 2, None)
        assert found.position == "last token of the step"


def test_activations_are_read_at_the_last_token_of_each_step():
    scored, sets = by_hand()
    acts = activations(toy(), scored, sets.steps)
    assert torch.equal(acts[:, 0], torch.tensor([3.0, 2.0, 0.0, 1.0])[:, None] * R)
    assert torch.equal(acts[:, 1], 33 * acts[:, 0])
    assert sites(toy()) == ["0.resid_pre", "0.resid_post"]
    assert sites(tiny("tiny-llama"))[2:] == ["2.resid_pre", "2.resid_post"]


def test_swapped_sets_give_the_opposite_direction():
    scored, sets = by_hand()
    swapped = replace(sets, true=sets.decorative, decorative=sets.true)
    for one, other in zip(fit(toy(), scored, sets), fit(toy(), scored, swapped), strict=True):
        assert torch.equal(one.vector, -other.vector) and one.norm == other.norm
        assert one.manifest()["data"] != other.manifest()["data"]


def test_a_site_where_the_sets_have_one_mean_is_left_out():
    """All steps end in a full stop, and Llama's embedding has no positions: one vector for all."""
    texts = ["The sum is 3. ", "The total is 12."]
    scored = [scored_chain(name, texts, [1, 0], prompt=f"{name} plus 4. ") for name in "ab"]
    sets = sets_of(scored, [("a", 0), ("b", 0)], [("a", 1), ("b", 1)])
    model = tiny("tiny-llama")
    assert [each.site for each in fit(model, scored, sets)] == sites(model)[1:]
    with_positions = tiny("tiny-gpt2")
    assert [each.site for each in fit(with_positions, scored, sets)] == sites(with_positions)


# ---------------------------------------------------------------- one pass a chain


def test_one_pass_serves_every_step_whose_tokens_begin_it(monkeypatch):
    model, ran = tiny("tiny-llama"), []
    run = Model.run
    monkeypatch.setattr(
        Model, "run", lambda self, inputs, **k: ran.append(inputs) or run(self, inputs, **k)
    )
    scored = [scored_chain(n, ["Then 1. ", "So 2 + 3. ", "It is 5.\n"], [1, 0, 0]) for n in "ab"]
    steps = mean_steps(scored)
    together = activations(model, scored, steps)
    assert len(ran) == 1  # both chains have the same text
    assert torch.equal(together[:3], together[3:])
    for i, step in enumerate(steps[:3]):
        alone = activations(model, scored, [step])[0]
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-5)  # float32 rounding
    assert len(ran) == 4


def test_the_order_of_the_steps_does_not_matter():
    scored, sets = by_hand()
    acts = activations(toy(), scored, sets.steps)
    assert torch.equal(activations(toy(), scored, sets.steps[::-1]), acts.flip(0))


def test_given_activations_are_used_as_they_are():
    scored, sets = by_hand()
    acts = activations(toy(), scored, sets.steps)
    assert [d.manifest() for d in fit(toy(), scored, sets, acts=acts)] == [
        d.manifest() for d in fit(toy(), scored, sets)
    ]
    more = torch.zeros_like(acts)
    more[:2, :, 0] = 1  # both true steps
    (only, _) = fit(toy(), scored, sets, acts=acts + more)
    torch.testing.assert_close(only.raw, 2 * R + torch.eye(4)[0], rtol=1e-6, atol=0)


# ---------------------------------------------------------------- planted


WORDS = (" cat", " dog", " bird", " ball", " ring", " apple", " key", " book")
TRUE, DECORATIVE = (*WORDS[::2], " red", " blue"), (*WORDS[1::2], " green", " big")


@cache
def marked() -> tuple[Model, torch.Tensor]:
    """tiny-llama in which the embeddings of the words that end true steps carry a known vector."""
    hf, stream = build("tiny-llama"), torch.Generator().manual_seed(3)
    vector = torch.randn(32, generator=stream)
    vector = 4 * vector / vector.norm()
    with torch.no_grad():
        for word in TRUE:
            (token,) = tokenizer()(word, add_special_tokens=False).input_ids
            hf.get_input_embeddings().weight[token] += vector
    return load(hf, tokenizer=tokenizer()), vector


def marked_chains() -> list[ScoredChain]:
    """Each chain has a true and a decorative step, in turn first and second."""
    found = []
    for i, (one, other) in enumerate(zip(TRUE, DECORATIVE, strict=True)):
        words, tts = ((one, other), (1, 0)) if i % 2 else ((other, one), (0, 1))
        texts = [f"The sum is {i} and{word}\n" for word in words]
        found.append(scored_chain(f"c{i}", texts, tts))
    return found


def test_check_12_a_planted_direction_is_recovered():
    model, planted_vector = marked()
    scored = marked_chains()
    sets = choose_sets(scored, bins=1, fewest=2)
    acts = activations(model, scored, sets.steps)
    found = fit(model, scored, sets, acts=acts)[0]
    assert found.site == "0.resid_pre"
    cosine = float(found.raw @ planted_vector) / float(found.raw.norm() * planted_vector.norm())
    assert cosine >= 0.9
    assert found.norm == pytest.approx(4, abs=1)
    controls = [shuffled(model, scored, sets, seed, acts=acts)[0] for seed in range(20)]
    along = [abs(float(each.raw @ planted_vector)) / 16 for each in controls]
    assert sum(along) / 20 < 0.5 and float(found.raw @ planted_vector) / 16 > 0.9
    twins = [each[0] for each in random_twins([found], range(20))]
    assert sum(abs(float(each.vector @ found.vector)) for each in twins) / 20 < 0.3


@cache
def scored_planted(name: str) -> tuple[Model, tuple[ScoredChain, ...]]:
    model, rules, found = load(name), Rules(), []
    for each in planted.chains(12):
        chain = prepare(model, Problem(each.id, each.question, cot=each.chain), rules)
        if "harmful" not in each.kinds:  # these lower the answer
            scores = score_chain(model, chain, rules, control_seeds=0).steps
            found.append(ScoredChain(chain, tuple(scores)))
    return model, tuple(found)


def test_the_planted_thinker_s_own_scores_lead_to_its_verdict():
    """True steps leave the verdict for 88 behind, decorative ones do so only where one came before:
    the only difference at the full stops that end them is the feature `verdict`."""
    model, scored = scored_planted("planted-steps")
    sets = choose_sets(scored, true_from=0.45, fewest=2)  # an AND or OR step scores one half
    assert {step.tts > 0.45 for step in sets.true} == {True}
    (found,) = fit(model, scored, sets)
    verdict = planted.directions()[planted.FEATURES.index("verdict")]
    assert found.site == "0.resid_post"
    assert float(found.vector @ verdict) >= 0.999


def test_a_model_that_ignores_its_chain_has_no_direction():
    _, scored = scored_planted("planted-ignores")
    with pytest.raises(
        InputError, match=r"^No step scores at least 0\.3, so none is true thinking"
    ):
        choose_sets(scored)


# ---------------------------------------------------------------- as an edit


def test_check_12_steering_a_step_changes_its_tokens_at_that_layer_and_comes_back():
    model, _ = marked()
    scored = marked_chains()
    held = fit(model, scored, choose_sets(scored, bins=1, fewest=2))[1]
    assert held.site == "1.resid_pre"
    text = "The sum is 7. So it is red.\nThe final answer is"
    first, stop = token_span(model.tokenizer, text, 14, 27)
    span = tuple(range(first, stop))
    ids, capture = [encode(model.tokenizer, text)], ["0.resid_mid", *sites(model)]

    def acts(*edits):
        run = model.run(ids, edits=edits, capture=capture)
        return {site: run.acts[site][0] for site in capture}, run.logits

    plain, logits = acts()
    plus, minus = (held.edit(c, positions=span) for c in (1.0, -1.0))
    steered, moved = acts(plus)
    for site in ("0.resid_mid", "0.resid_pre"):
        assert torch.equal(steered[site], plain[site])
    change = steered["1.resid_pre"] - plain["1.resid_pre"]
    inside = torch.zeros(len(change), dtype=torch.bool)
    inside[list(span)] = True
    assert float(change[~inside].abs().max()) == 0
    torch.testing.assert_close(change[inside], held.raw.expand(len(span), -1), rtol=0, atol=1e-5)
    assert torch.equal(steered["2.resid_post"][:first], plain["2.resid_post"][:first])
    assert not torch.equal(moved, logits)
    back, same = acts(plus, minus)
    for site in capture:  # x + v - v, in float32
        torch.testing.assert_close(back[site], plain[site], rtol=0, atol=2e-5)
    torch.testing.assert_close(same, logits, rtol=0, atol=2e-5)
    assert torch.equal(acts(held.edit(0.0, positions=span))[1], logits)


# ---------------------------------------------------------------- controls


def test_shuffled_labels_move_within_a_problem_where_they_can():
    """Problem a has both labels in the one stratum, b only true and c only decorative steps: a's
    change places among themselves, and b's with c's."""
    scored = [
        scored_chain("a", ["1. ", "2. "], [1, 0]),
        scored_chain("b", ["1. ", "2. "], [1, 1]),
        scored_chain("c", ["1. ", "2. "], [0, 0]),
    ]
    sets = sets_of(scored, [("a", 0), ("b", 0), ("b", 1)], [("a", 1), ("c", 0), ("c", 1)])
    drawn = {tuple(direction.shuffled_labels(sets, seed)) for seed in range(60)}
    for labels in drawn:
        by_id: dict[str, int] = {}
        for step, label in zip(sets.steps, labels, strict=True):
            by_id[step.id] = by_id.get(step.id, 0) + label
        assert by_id["a"] == 1 and by_id["b"] + by_id["c"] == 2
    assert len(drawn) == 2 * 6  # all labellings of a, times 4 choose 2


def test_a_shuffled_direction_keeps_the_counts_and_has_its_seed():
    model, _ = marked()
    scored = marked_chains()
    sets = choose_sets(scored, bins=1, fewest=2)
    acts = activations(model, scored, sets.steps)
    one, again, other = (shuffled(model, scored, sets, seed, acts=acts)[1] for seed in (4, 4, 5))
    assert torch.equal(one.vector, again.vector) and one.manifest() == again.manifest()
    assert not torch.equal(one.vector, other.vector)
    assert (one.method, one.seed) == ("true_thinking_shuffled", 4)
    assert (one.n_positive, one.n_negative) == (len(sets.true), len(sets.decorative))
    mark = torch.tensor(direction.shuffled_labels(sets, 4))
    difference = acts[mark, 1].mean(0) - acts[~mark, 1].mean(0)
    torch.testing.assert_close(one.raw, difference, rtol=0, atol=1e-5)


def test_controls_are_brought_to_the_norms_of_the_direction():
    model, _ = marked()
    scored = marked_chains()
    sets = choose_sets(scored, bins=1, fewest=2)
    found = fit(model, scored, sets)
    plain = shuffled(model, scored, sets, 0)
    matched = at_norms(plain, found[1:])
    assert [each.site for each in matched] == [each.site for each in found[1:]]
    for one, other, held in zip(matched, plain[1:], found[1:], strict=True):
        assert one.norm == held.norm != other.norm and torch.equal(one.vector, other.vector)
    first, second = random_twins(found, (0, 1))
    assert [(each.site, each.norm) for each in first] == [(each.site, each.norm) for each in found]
    assert {each.method for each in (*first, *second)} == {"random"}
    assert not torch.equal(first[0].vector, second[0].vector)
    assert torch.equal(first[0].vector, first[3].vector)


# ---------------------------------------------------------------- on disk


def several() -> list[Direction]:
    model, _ = marked()
    scored = marked_chains()
    found = fit(model, scored, choose_sets(scored, bins=1, fewest=2))
    return [*found, *random_twins(found, (7,))[0]]


def test_saved_directions_come_back_bit_for_bit_with_their_notes(tmp_path):
    held, notes = several(), {"true_from": 0.9, "warnings": ["none <b>"], "by": {"a": 1}}
    path = save_all(tmp_path / "deep" / "all.safetensors", held, notes)
    back, said = load_all(path, marked()[0])
    assert said == notes
    assert [each.manifest() for each in back] == [each.manifest() for each in held]
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(back, held, strict=True))
    assert [each.name for each in path.parent.iterdir()] == ["all.safetensors"]
    assert load_file(path)["vectors"].shape == (8, 32)
    assert load_all(save_all(path, held[:1]))[1] == {}  # replaced whole


def test_directions_of_another_model_are_refused(tmp_path):
    path = save_all(tmp_path / "x.safetensors", several())
    own, other = (weights_hash(each.hf) for each in (marked()[0], tiny("tiny-llama")))
    with says(
        ModelError,
        f"The direction at 0.resid_pre was found in {marked()[0].name} (weights {own[:8]}) and the "
        f"model is tiny-llama (weights {other[:8]}): load the one that it belongs to, or fit it "
        "anew.",
    ):
        load_all(path, tiny("tiny-llama"))
    assert len(load_all(path)[0]) == 8


def test_every_damaged_byte_is_found(tmp_path):
    path = save_all(tmp_path / "x.safetensors", several()[:2])
    whole = path.read_bytes()
    for place in range(0, len(whole), 41):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(StoreError, match=r"damaged|holds no directions"):
            load_all(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="is damaged or no safetensors file"):
        load_all(path)


def test_other_files_of_directions_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    with says(StoreError, f"There is no directions {path}: check the path."):
        load_all(path)
    save_file({"vectors": torch.ones(2, 4)}, path)
    with says(StoreError, f"{path} holds no directions: give a file written by save_all."):
        load_all(path)
    several()[0].save(path)
    with says(StoreError, f"{path} holds no directions: give a file written by save_all."):
        load_all(path)
    monkeypatch.setattr(directions, "SCHEMA", 2)
    save_all(path, several())
    monkeypatch.undo()
    with says(StoreError, f"{path} has schema 2 and this version reads 1."):
        load_all(path)


@pytest.mark.parametrize(
    ("held", "notes", "message"),
    [
        (lambda: [], {}, "There is no direction to save: give at least one."),
        (
            lambda: [several()[0], replace(several()[1], weights="other")],
            {},
            "The 2 directions are of 2 models or dtypes: save those of one model in a file of "
            "their own.",
        ),
        (
            several,
            {"x": math.nan},
            "The notes of a file of directions must be JSON: Out of range float values are not "
            "JSON compliant: nan.",
        ),
        (
            several,
            {"x": {1, 2}},
            "The notes of a file of directions must be JSON: Object of type set is not JSON "
            "serializable.",
        ),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, held, notes, message):
    with pytest.raises(InputError) as caught:
        save_all(tmp_path / "x.safetensors", held(), notes)
    assert str(caught.value).startswith(message[:60])
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- refusals


def refused(case: str):
    scored, sets = by_hand()
    match case:
        case "few true":
            return lambda: fit(toy(), scored, replace(sets, true=sets.true[:1]))
        case "few decorative":
            return lambda: fit(toy(), scored, replace(sets, decorative=()))
        case "no difference":
            return lambda: fit(toy(), scored, replace(sets, decorative=sets.true))
        case "no chain":
            return lambda: fit(toy(), scored[:1], sets)
        case "other text":
            other = scored_chain("b", ["2. ", "3 0\n"], [1, 0], prompt="2 ")
            return lambda: fit(toy(), [scored[0], other], sets)
        case "no step":
            return lambda: activations(toy(), scored, [])
        case "other acts":
            return lambda: fit(toy(), scored, sets, acts=torch.zeros(3, 2, 4))
        case "not finite":
            return lambda: fit(toy(), scored, sets, acts=torch.full((4, 2, 4), math.inf))
        case "no stratum":
            alone = replace(sets, bins=2, true=sets.true, decorative=sets.decorative)
            return lambda: shuffled(toy(), scored, alone, 0)
    raise AssertionError(case)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "few true",
            "The true set has 1 steps and a direction needs at least 2 on each side: score more "
            "chains, or move the thresholds.",
        ),
        (
            "few decorative",
            "The decorative set has 0 steps and a direction needs at least 2 on each side: score "
            "more chains, or move the thresholds.",
        ),
        (
            "no difference",
            "The 2 true and the 2 decorative steps have one mean at every layer, so there is no "
            "direction between them: give sets that differ.",
        ),
        (
            "no chain",
            "Step 0 of problem 'b' is not in the chains given: give the chains that it was scored "
            "in.",
        ),
        (
            "other text",
            "Step 1 of problem 'b' is not in the chains given: give the chains that it was scored "
            "in.",
        ),
        ("no step", "There is no step to read: give at least one."),
        (
            "other acts",
            "acts has the shape [3, 2, 4] and these sets need [4, 2, 4]: give activations(model, "
            "scored, sets.steps).",
        ),
        (
            "not finite",
            "Step 0 of problem 'a' has activations that are not finite at 0.resid_pre: load the "
            "model in float32 or bfloat16.",
        ),
        (
            "no stratum",
            "No label can be shuffled: no position bin, mentioning the answer or not, holds both "
            "true and decorative steps. Match the sets, or give fewer bins.",
        ),
    ],
)
def test_what_gives_no_direction_is_refused(case, message):
    with says(InputError, message):
        refused(case)()


def test_a_chain_longer_than_the_context_is_refused_before_any_pass(monkeypatch):
    model = tiny("tiny-llama")
    monkeypatch.setattr(Model, "run", lambda *a, **k: pytest.fail("the model must not run"))
    long = "Then 1 2 3. " * 80
    scored = [scored_chain("a", ["So 1. "], [1]), scored_chain("b", [long], [1])]
    with pytest.raises(InputError, match=r"^A prompt of \d+ tokens is longer than the context of"):
        activations(model, scored, mean_steps(scored))
