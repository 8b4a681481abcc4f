"""Answers under edits: by hand on the planted model, ends, no-ops, errors word for word."""

from __future__ import annotations

import pytest
import torch

from interp.attention_edits import Knockout
from interp.edits import Add, ZeroAblate
from interp.engine import answer_cells, answer_forest, answer_shared
from interp.engine.answer_forest import Forest
from interp.engine.answer_question import Ending
from interp.engine.answer_sweep import answer_sweep
from interp.engine.fingerprint import fingerprint
from interp.engine.loading import load
from interp.engine.masks import Masks
from interp.errors import EditError, InputError, PositionError, SilentEditError
from interp.sites import Each
from tests.strategies import noise, says, tiny

PROMPTS = [[5, 60, 7, 80, 9, 100], [5, 60, 7, 33], [200, 11]]
TARGETS = [[9, 10], [4], [8, 9, 10]]
MODEL = tiny("tiny-llama")
VECTOR = 3 * noise(MODEL.sizes.d_model, seed=1)


# ---------------------------------------------------------------- the planted model


def planted() -> tuple:
    """17 and 27 are evidence of 1 each; two of it pass the threshold of 1.5."""
    model = load("planted-steps")
    ids = model.tokens("Cups: 17 and 65 and 27. The answer is {").ids[0].tolist()
    words = [model.tokenizer.decode([token]) for token in ids]
    answer = model.tokenizer("88}", add_special_tokens=False)["input_ids"]
    return model, ids, {word: words.index(word) for word in ("17", "65", "27")}, answer


@pytest.mark.parametrize("exact", [False, True])
def test_an_answer_flips_where_a_needed_step_is_cut_and_nowhere_else(exact):
    model, ids, place, answer = planted()
    several = [Knockout("0.attn.pattern", keys=(place[w],)) for w in ("17", "65", "27")]
    several.append(ZeroAblate("0.attn.v", positions=place["27"]))
    found = answer_sweep(model, [ids], [answer], several, max_new_tokens=5, exact=exact)
    assert found.base_texts == ("88}",)
    assert [texts[0] for texts in found.texts] == ["11}", "88}", "11}", "11}"]
    assert found.new_ids[1][0][:2] == tuple(answer)
    assert len(found.new_ids[1][0]) == 3  # the end of text after the brace
    assert (found.logprobs[:, 0].exp() > 0.98).tolist() == [False, True, False, False]
    assert (found.logprobs[:, 0].exp() < 0.02).tolist() == [True, False, True, True]


def test_the_model_that_ignores_its_chain_answers_the_same_under_any_cut():
    model = load("planted-ignores")
    _, ids, place, answer = planted()
    several = [Knockout("0.attn.pattern", keys=(at,)) for at in place.values()]
    found = answer_sweep(model, [ids], [answer], several)
    assert {row[0] for row in found.texts} == set(found.base_texts)
    assert float((found.logprobs - found.base_logprobs).abs().max()) < 1e-4


# ---------------------------------------------------------------- no-ops and where edits act


def test_check_12_a_vector_of_zeros_changes_nothing_at_all():
    zeros = [
        Add(f"{i}.resid_pre", vector=0 * VECTOR, positions=Each(((2,), (1, 2), (0,))))
        for i in range(3)
    ]
    found = answer_sweep(MODEL, PROMPTS, TARGETS, zeros, max_new_tokens=4)
    assert all(ids == found.base_ids for ids in found.new_ids)
    assert all(texts == found.base_texts for texts in found.texts)
    assert torch.equal(found.logprobs, found.base_logprobs.expand(3, -1))
    assert [proof.acted for (proof,) in found.receipts] == [False] * 3


def test_receipts_name_just_the_tokens_of_each_prompts_step_and_the_edit_as_given():
    step = Add("1.resid_pre", vector=VECTOR, positions=Each(((2, 3), (1,), (0, 1))))
    whole, last = ZeroAblate("1.attn_out"), ZeroAblate("0.mlp_out", positions="last", rows=(1, 2))
    found = answer_sweep(MODEL, PROMPTS, TARGETS, [step, [whole, last]], max_new_tokens=4)
    (one,), (two, three) = found.receipts
    assert one.tokens == ((0, 2), (0, 3), (1, 1), (2, 0), (2, 1))
    assert (one.edit, two.edit, three.edit) == (step, whole, last)
    assert two.tokens == tuple((p, i) for p, ids in enumerate(PROMPTS) for i in range(len(ids)))
    assert three.tokens == ((1, 3), (2, 1))
    assert one.acted and one.missed == ()


def test_all_means_the_prompt_and_no_new_token():
    """Naming each token of the prompt is the same; editing new tokens as well is not."""
    ids, options = PROMPTS[:1], {"max_new_tokens": 6}
    every = answer_sweep(MODEL, ids, TARGETS[:1], [ZeroAblate("1.attn_out")], **options)
    named = [ZeroAblate("1.attn_out", positions=tuple(range(6)))]
    assert answer_sweep(MODEL, ids, TARGETS[:1], named, **options).new_ids == every.new_ids
    edits = [Add("1.resid_pre", vector=VECTOR, coefficient=5.0)]
    prefill = answer_sweep(MODEL, ids, TARGETS[:1], [edits], **options).new_ids[0][0]
    assert prefill != MODEL.generate(ids, edits=edits, max_new_tokens=6).new_ids[0]


def test_no_cells_give_the_base_alone():
    found = answer_sweep(MODEL, PROMPTS, TARGETS, max_new_tokens=2)
    assert found.logprobs.shape == (0, 3) and found.new_ids == found.texts == found.receipts == ()
    assert found.base_ids == MODEL.generate(PROMPTS, max_new_tokens=2).new_ids
    exact = answer_sweep(MODEL, PROMPTS, TARGETS, max_new_tokens=2, exact=True)
    assert exact.logprobs.shape == (0, 3) and exact.base_ids == found.base_ids


# ---------------------------------------------------------------- where answers end


def test_an_ending_is_the_limit_the_end_of_text_or_what_stop_says():
    ending = Ending(MODEL.tokenizer, frozenset({1}), None, 3)
    assert [ending.over(new) for new in ([5], [5, 1], [5, 6], [5, 6, 7])] == [0, 1, 0, 1]
    assert ending.cut([5, 6, 1]) == (5, 6, 1) and ending.cut([1, 6]) == (1,)
    stops = Ending(MODEL.tokenizer, frozenset(), lambda text: text == ending.text([5, 6]), 9)
    assert [stops.over(new) for new in ([5], [5, 6], [5, 6, 7])] == [False, True, False]


@pytest.mark.parametrize("exact", [False, True])
def test_stop_ends_each_answer_at_the_first_token_that_satisfies_it(exact):
    cells = [Add(f"{i}.resid_pre", vector=VECTOR, positions=(0, 1)) for i in range(3)]
    whole = answer_sweep(MODEL, PROMPTS, TARGETS, cells, max_new_tokens=8)

    def stop(text: str) -> bool:
        return len(text) >= 12

    found = answer_sweep(MODEL, PROMPTS, TARGETS, cells, stop=stop, max_new_tokens=8, exact=exact)
    pairs = [
        (ids, long)
        for row, rows in zip(found.new_ids, whole.new_ids, strict=True)
        for ids, long in zip(row, rows, strict=True)
    ]
    assert all(long[: len(ids)] == ids for ids, long in pairs)
    texts = [text for row in (*found.texts, found.base_texts) for text in row]
    assert any(len(ids) < 8 for ids, _ in pairs)
    for ids, _ in pairs:
        text = MODEL.tokenizer.decode(ids[:-1], skip_special_tokens=True)
        assert len(ids) == 1 or len(text) < 12
    assert all(len(text) >= 12 for text in texts) or any(len(ids) == 8 for ids, _ in pairs)


@pytest.mark.parametrize("limit", [1, 2])
def test_the_limit_counts_new_tokens(limit):
    cells = [Add("1.resid_pre", vector=VECTOR, positions=1)]
    found = answer_sweep(MODEL, PROMPTS, TARGETS, cells, max_new_tokens=limit)
    assert {len(ids) for row in (*found.new_ids, found.base_ids) for ids in row} == {limit}


def test_progress_counts_cells_of_prompts():
    said: list[tuple[int, int]] = []
    cells = [Add(f"{i}.resid_pre", vector=VECTOR, positions=0, rows=(0, 2)) for i in range(3)]
    answer_sweep(
        MODEL, PROMPTS, TARGETS, cells, max_new_tokens=2, progress=lambda *n: said.append(n)
    )
    assert said[-1] == (9, 9) and said == sorted(said)


# ---------------------------------------------------------------- the forest


def test_a_forest_runs_a_shared_prefix_once_and_grows():
    forest = Forest(MODEL, Masks(MODEL))
    one, two = forest.tree.insert([5, 6, 7]), forest.tree.insert([5, 6, 8])
    logits = forest.grow([one[-1], two[-1]])
    assert forest.base is not None and forest.base.batch.ids.tolist() == [[5, 6, 7, 8]]
    plain = MODEL.run([[5, 6, 7], [5, 6, 8]], logits="last").logits
    assert float((logits - plain).abs().max()) < 1e-5
    three = forest.tree.insert([5, 6, 8, 9])
    assert (
        float((forest.grow(three[-1:]) - MODEL.run([[5, 6, 8, 9]]).logits[0, -1:]).abs().max())
        < 1e-5
    )
    assert forest.sees.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert forest.grow() is None


@pytest.mark.parametrize(
    ("sites", "inside"),
    [(["1.resid_pre", "0.resid_post"], False), (["1.resid_pre", "1.mlp_out"], True)],
)
def test_what_lies_inside_blocks_is_kept_where_a_cell_starts_there(sites, inside, monkeypatch):
    asked, plain = set(), answer_forest.base_pass

    def spied(*args, **kwargs):
        asked.add(kwargs["inside"])
        return plain(*args, **kwargs)

    monkeypatch.setattr(answer_forest, "base_pass", spied)
    cells = [Add(site, vector=VECTOR, positions=0) for site in sites]
    answer_sweep(MODEL, PROMPTS, TARGETS, cells, max_new_tokens=2)
    assert asked == {inside}


def test_a_base_run_without_the_inside_of_blocks_holds_less_than_half():
    """Numbers a token: 4 streams of 32, keys and values of 3 x 32; and 3 x (32 + 64) inside."""
    whole, blocks = (Forest(MODEL, Masks(MODEL), inside=inside) for inside in (True, False))
    for forest in (whole, blocks):
        forest.tree.insert([5, 6, 7])
        forest.grow()
    assert whole.base is not None and blocks.base is not None
    assert (whole.base.nbytes, blocks.base.nbytes) == (3 * 4 * 512, 3 * 4 * 224)
    assert blocks.base.attention == blocks.base.projections == ()
    for one, other in zip(whole.base.resid, blocks.base.resid, strict=True):
        assert torch.equal(one, other)


# ---------------------------------------------------------------- memory and errors


@pytest.mark.parametrize(
    ("module", "broken"),
    [(answer_forest, "base_pass"), (answer_shared, "ends_pass"), (answer_cells, "_write_on")],
)
def test_memory_that_runs_out_halves_the_batch_and_loses_nothing(module, broken, monkeypatch):
    cells = [Add(f"{i}.resid_pre", vector=VECTOR, positions=(0, 1)) for i in range(3)]
    sound = answer_sweep(MODEL, PROMPTS, TARGETS, cells, max_new_tokens=4)
    plain, failed = getattr(module, broken), []

    def small(*args, **kwargs):
        if not failed:
            failed.append(broken)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return plain(*args, **kwargs)

    monkeypatch.setattr(module, broken, small)
    found = answer_sweep(MODEL, PROMPTS, TARGETS, cells, max_new_tokens=4)
    assert failed
    assert found.new_ids == sound.new_ids and found.base_ids == sound.base_ids
    assert float((found.logprobs - sound.logprobs).abs().max()) < 1e-5
    assert [r[0].change for r in found.receipts] == pytest.approx(
        [r[0].change for r in sound.receipts]
    )


def test_another_error_is_not_taken_for_lack_of_memory(monkeypatch):
    broken = lambda *_: (_ for _ in ()).throw(RuntimeError("no"))  # noqa: E731
    monkeypatch.setattr(answer_shared, "ends_pass", broken)
    with pytest.raises(RuntimeError, match=r"^no$"):
        answer_sweep(MODEL, PROMPTS, TARGETS, [ZeroAblate("1.attn_out")])


@pytest.mark.parametrize("exact", [False, True])
def test_the_model_is_as_before_when_stop_or_an_edit_fails(exact):
    before = fingerprint(MODEL.hf)
    with pytest.raises(ZeroDivisionError):
        answer_sweep(MODEL, PROMPTS, TARGETS, stop=lambda text: 1 / 0 > 0, exact=exact)
    wide = Add("1.resid_pre", vector=VECTOR, positions=0, coefficient=float("inf"))
    with pytest.raises(EditError, match="not finite"):
        answer_sweep(MODEL, PROMPTS, TARGETS, [wide], exact=exact)
    assert fingerprint(MODEL.hf) == before


LONG = [5] * 510
BAD = [
    ({"targets": [[4]]}, "There are 3 prompts and 1 targets: give one a prompt."),
    ({"targets": [[4], [], [4]]}, "Target 1 is empty: a target needs at least one token."),
    (
        {"targets": [[4], [349], [4]]},
        "Target 1 holds token 349, but the vocabulary has 349 tokens.",
    ),
    ({"prompts": [[5], [], [6]]}, "Prompt 1 is empty: a prompt needs at least one token."),
    (
        {"prompts": [[5], LONG, [6]]},
        "Prompt 1 has 510 tokens, and 20 more for its answer exceed the context of tiny-llama, 512 "
        "tokens: shorten it.",
    ),
    ({"chunk": 0}, "chunk=0: give at least 1 token a forward pass."),
    ({"max_new_tokens": 0}, "max_new_tokens=0: ask for at least 1."),
]


@pytest.mark.parametrize(("wrong", "text"), BAD)
@pytest.mark.parametrize("exact", [False, True])
def test_what_cannot_be_asked_is_refused_before_the_model_runs(wrong, text, exact, monkeypatch):
    monkeypatch.setattr(MODEL.hf, "forward", lambda *_, **__: pytest.fail("the model ran"))
    given = {"prompts": PROMPTS, "targets": TARGETS, **wrong}
    with says(InputError, text):
        answer_sweep(MODEL, exact=exact, **given)


@pytest.mark.parametrize(
    ("cell", "error", "text"),
    [
        (ZeroAblate("1.attn_out", positions="new"), SilentEditError, "names no token of this run"),
        (ZeroAblate("1.attn_out", positions=4), PositionError, "position 4 is past the end"),
        (ZeroAblate("1.attn.k_each"), EditError, "pass cache=False"),
        (ZeroAblate("1.attn_out", positions=Each(((0,),))), PositionError, "one tuple a prompt"),
    ],
)
def test_an_edit_that_cannot_act_on_the_prompts_is_refused(cell, error, text, monkeypatch):
    monkeypatch.setattr(MODEL.hf, "forward", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(error, match=text):
        answer_sweep(MODEL, PROMPTS, TARGETS, [cell])
