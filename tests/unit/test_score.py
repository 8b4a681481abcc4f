"""The True-Thinking Score: its cells against plain forward passes, its legs by hand, its marks."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from interp.engine.loading import load
from interp.engine.tree import Scores, Spent, score
from interp.errors import InputError
from interp.models import planted
from interp.models.tiny import CHAT_TEMPLATE, build, tokenizer
from interp.stats import auc
from interp.thinking import cells as cells_module
from interp.thinking import score as score_module
from interp.thinking.perturb import Perturbed, numbers, perturb_numbers
from interp.thinking.rules import Rules, preset
from interp.thinking.score import (
    Chain,
    Problem,
    Tokeniser,
    legs,
    log_odds,
    prepare,
    score_chain,
)
from interp.thinking.steps import segment
from tests.strategies import exactly, says, tiny

DEFAULT, GOLD = Rules(), Rules(target="gold")
ONE_TOKEN = replace(preset("paper"), target="gold")
TEXT = (
    "First he has 12 apples. Then 5 + 3 = 8 are red. So that is good. "
    "After that he got 20.\nWait, the sum is 33.\n"
)
"""Five steps; the third has no number, the last two start a self-check and state 33."""
POOL = ("In town 4 + 9 = 13 more. ", "By then 21 of them left. ", "She says 7. ")
NAMES = ("tiny-gpt2", "tiny-llama", "tiny-gemma3", "tiny-mistral", "tiny-neox")


@cache
def planted_model(name: str = "planted-steps"):
    return load(name)


def chain_of(model, rules: Rules = GOLD, *, text: str = TEXT, gold: str = "33", **options) -> Chain:
    return prepare(model, Problem("p", "How many are there?", text, gold, **options), rules)


def by_cell(result, step: int, seed: int = 0) -> dict[str, float]:
    """The log-probability of each cell of a step."""
    return {e.cell: e.logprob for e in result.audit if (e.step, e.seed) == (step, seed)}


def naive_texts(chain: Chain, rules: Rules, step: int, seed: int) -> dict[str, str]:
    """The four cells of a step written down from the definition, independently of the package."""

    def shifted(each) -> str:
        key = (seed, chain.problem.id, each.index)
        return perturb_numbers(each.text, key=key, offsets=rules.offsets)

    own = chain.steps[step]
    before = chain.steps[:step]
    contexts = {"c1": "".join(s.text for s in before), "c0": "".join(map(shifted, before))}
    versions = {"s1": own.text, "s0": shifted(own) if numbers(own.text) else ""}
    return {
        s + c: chain.prompt + (context + version).rstrip() + rules.cue
        for s, version in versions.items()
        for c, context in contexts.items()
    }


@torch.no_grad()
def naive_logprob(model, text: str, answer: str) -> float:
    """Whole text, one plain Hugging Face forward pass; the answer's tokens are the last ones."""
    ids = model.tokenizer(text + answer, add_special_tokens=False)["input_ids"]
    n = len(model.tokenizer(answer, add_special_tokens=False)["input_ids"])
    logprobs = model.hf(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return sum(float(logprobs[i - 1, ids[i]]) for i in range(len(ids) - n, len(ids)))


# ---------------------------------------------------------------- the sheet's checks


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rules", "gold", "n_tokens"), [(ONE_TOKEN, "7", 1), (GOLD, "1,234", 6)])
def test_check_1_all_cells_equal_a_naive_full_forward(name, rules, gold, n_tokens):
    model = tiny(name)
    chain = chain_of(model, rules, gold=gold)
    result = score_chain(model, chain, rules, seeds=(0, 3))
    assert len(result.steps) == 2 * len(chain.steps) == 10
    for step in result.steps:
        assert step.n_answer_tokens == n_tokens
        found = by_cell(result, step.step, step.seed)
        for cell, text in naive_texts(chain, rules, step.step, step.seed).items():
            expected = naive_logprob(model, text, gold + rules.closing)
            assert getattr(step, cell) == found[cell] == pytest.approx(expected, rel=0, abs=1e-5)


def test_check_2_a_step_perturbed_into_itself_scores_exactly_zero(monkeypatch):
    monkeypatch.setattr(cells_module, "perturb_step", lambda text, **_: Perturbed(text, "edit"))
    for name in ("tiny-gpt2", "tiny-mistral"):
        model = tiny(name)
        for chunk in (3, 512):
            result = score_chain(model, chain_of(model), GOLD, seeds=(0, 1), chunk=chunk)
            assert [(s.nec, s.suf, s.tts) for s in result.steps] == [(0.0, 0.0, 0.0)] * 10
            assert all(s.perturbed == s.text for s in result.steps)


def test_check_2_a_paraphrase_that_is_the_step_itself_has_a_null_of_exactly_zero():
    model = tiny("tiny-llama")
    same = {step.index: step.text for step in segment(TEXT)}
    result = score_chain(model, chain_of(model, paraphrases=same), GOLD)
    assert [step.null_tts for step in result.steps] == [0.0] * 5
    assert all(step.tts != 0.0 for step in result.steps)


@pytest.mark.parametrize("name", NAMES)
def test_check_3_prefix_sharing_changes_nothing_but_the_cost(name):
    model = tiny(name)
    chain = chain_of(model)
    shared = score_chain(model, chain, GOLD, seeds=(0, 1), pool=POOL)
    exact = score_chain(model, chain, GOLD, seeds=(0, 1), pool=POOL, exact=True)
    assert [replace(e, logprob=0.0) for e in shared.audit] == [
        replace(e, logprob=0.0) for e in exact.audit
    ]
    assert [e.logprob for e in shared.audit] == pytest.approx(
        [e.logprob for e in exact.audit], rel=0, abs=1e-5
    )
    for one, other in zip(shared.steps, exact.steps, strict=True):
        assert (one.perturbed, one.null_tts is None) == (other.perturbed, other.null_tts is None)
        assert one.tts == pytest.approx(other.tts, rel=0, abs=1e-5)
    assert exact.spent == Spent(*[exact.spent.naive_forwards, exact.spent.naive_tokens] * 2)
    assert shared.spent.naive_tokens == exact.spent.tokens


def test_check_3_a_chain_costs_two_long_passes_and_a_short_suffix_a_cell():
    """At most: prompt and chain twice, and for each of 4 n cells its step, the cue and y*."""
    model = planted_model()
    text = "".join(f"Then we add {n} pears. " for n in range(50, 80))
    chain = chain_of(model, text=text, gold="88")
    spent = score_chain(model, chain, GOLD, control_seeds=0).spent
    size = {
        name: len(model.tokenizer(part, add_special_tokens=False)["input_ids"])
        for name, part in (("long", chain.prompt + text), ("end", GOLD.cue + "88}"), ("step", text))
    }
    n = len(chain.steps)
    assert n == 30
    assert spent.tokens <= 2 * size["long"] + 4 * n * size["end"] + 4 * size["step"]
    assert spent.naive_forwards == 4 * n
    assert spent.naive_tokens > 7 * spent.tokens


def test_check_4_any_subset_order_or_chunk_gives_the_same_scores_and_texts():
    model = tiny("tiny-mistral")
    chain = chain_of(model)
    whole = {
        (s.step, s.seed): s
        for s in score_chain(model, chain, GOLD, seeds=(0, 1), pool=POOL, control_seeds=2).steps
    }
    for only, seeds, chunk in (([2], (1,), 7), ([4, 0], (1, 0), 64), ([3, 2, 1], (0,), 5)):
        found = score_chain(
            model, chain, GOLD, seeds=seeds, only=only, pool=POOL, control_seeds=2, chunk=chunk
        )
        assert {(s.step, s.seed) for s in found.steps} == {(i, k) for i in only for k in seeds}
        for step in found.steps:
            other = whole[step.step, step.seed]
            assert (step.perturbed, step.op) == (other.perturbed, other.op)
            for value in ("s1c1", "s0c1", "s1c0", "s0c0", "tts", "null_tts", "random_tts"):
                ours, theirs = getattr(step, value), getattr(other, value)
                assert ours == (theirs and pytest.approx(theirs, rel=0, abs=1e-5))
    assert not found.marked


def test_check_4_a_new_seed_changes_the_offsets():
    model = tiny("tiny-gpt2")
    result = score_chain(model, chain_of(model), GOLD, seeds=range(6), control_seeds=0)
    numeric = [step for step in result.steps if step.op == "edit"]
    for index in (0, 1, 3, 4):
        assert len({step.perturbed for step in numeric if step.step == index}) >= 3


def test_check_5_planted_causal_steps_are_told_from_decorative_ones():
    model, scores = planted_model(), {}
    for each in planted.chains(15, seed=11):
        chain = prepare(model, Problem(each.id, each.question, each.chain), DEFAULT)
        assert (chain.answer, chain.answer_source) == ("88", "forced")
        for step in score_chain(model, chain, DEFAULT, seeds=(0, 1), control_seeds=0).steps:
            scores.setdefault(each.kinds[step.step], []).append(step)
    assert min(map(len, scores.values())) >= 6
    causal = [s.tts for kind in ("and", "or", "harmful") for s in scores[kind]]
    assert auc(causal, [s.tts for s in scores["decorative"]]) >= 0.95
    assert all(s.nec > 0.9 and abs(s.suf) < 0.05 for s in scores["and"])
    assert all(s.suf > 0.9 and abs(s.nec) < 0.05 for s in scores["or"])
    assert all(s.nec < -0.9 and s.suf < -0.9 and s.tts > 0.9 for s in scores["harmful"])
    assert all(s.tts < 0.05 for s in scores["decorative"])


def test_check_5_a_model_that_ignores_its_chain_scores_nothing():
    model = planted_model("planted-ignores")
    for each in planted.chains(5, seed=11):
        chain = prepare(model, Problem(each.id, each.question, each.chain), DEFAULT)
        result = score_chain(model, chain, DEFAULT, pool=POOL)
        assert len(result.steps) == len(each.kinds)
        for step in result.steps:
            assert math.exp(step.s1c1) == pytest.approx(0.88, abs=0.01)
            assert max(step.tts, step.null_tts, step.random_tts) < 1e-6
            assert not step.saturated


def test_check_8_cells_differ_only_in_numbers_and_y_is_the_same_tokens_in_all():
    model = tiny("tiny-llama")
    result = score_chain(model, chain_of(model), GOLD, pool=POOL)
    assert {each.answer_ids for each in result.audit} == {
        tuple(model.tokenizer("33}").input_ids[1:])
    }
    numeric = [step.step for step in result.steps if step.op == "edit"]
    assert numeric == [0, 1, 3, 4]
    for step in numeric:
        texts = {
            e.cell: model.tokenizer.decode(e.prompt_ids)
            for e in result.audit
            if e.step == step and e.cell[0] in "s"
        }
        assert len(texts) == 4
        assert len(set(texts.values())) == (2 if step == 0 else 4)
        assert len({re.sub(r"[-0-9]", "", text) for text in texts.values()}) == 1


@pytest.mark.parametrize(("rules", "n"), [(ONE_TOKEN, 50), (GOLD, 51)])
def test_check_9_a_long_answer_stays_finite_and_its_sums_agree(rules, n):
    model = tiny("tiny-llama")
    result = score_chain(model, chain_of(model, rules, gold="1234567890" * 5), rules, pool=POOL)
    assert len(result.steps) == 5
    for step in result.steps:
        found = by_cell(result, step.step)
        assert step.n_answer_tokens == n
        assert all(-50 * n < value < -50 for value in found.values())
        chance = {cell: math.exp(value) for cell, value in found.items()}
        assert all(0.0 < value < 1e-20 for value in chance.values())
        assert step.nec == chance["s1c1"] - chance["s0c1"]
        assert step.suf == chance["s1c0"] - chance["s0c0"]
        assert step.nec_mean_logprob * n == pytest.approx(found["s1c1"] - found["s0c1"])
        assert step.suf_mean_logprob * n == pytest.approx(found["s1c0"] - found["s0c0"])
        # far from 1 the log-odds are the log-probability
        assert step.nec_log_odds == pytest.approx(step.nec_mean_logprob * n)
        for value in (step.tts, step.null_tts, step.random_tts):
            assert math.isfinite(value)


def thinking_model():
    """tiny-llama with a chat template that opens the think block itself."""
    tok = tokenizer()
    tok.chat_template = CHAT_TEMPLATE.replace("Assistant:{{ '\n' }}", "Assistant:\n<think>\n")
    return load(build("tiny-llama"), tokenizer=tok)


THOUGHT = "First 5 + 3 = 8. Maybe \\boxed{8}? Then 8 + 1 = 9."
OUTPUT = THOUGHT + "\n</think>\nSo 9 it is. The answer is \\boxed{9}."


def test_check_10_a_prompt_that_opens_the_think_block():
    """The steps hold neither tags nor the answer block; the thought is scored as it stands."""
    model = thinking_model()
    assert model.chat("q").endswith("Assistant:\n<think>\n")
    chain = prepare(model, Problem("p", "q", OUTPUT), DEFAULT)
    assert (chain.text, chain.answer, chain.answer_source) == (THOUGHT + "\n", "9", "written")
    assert [step.text.strip() for step in chain.steps] == [
        "First 5 + 3 = 8.",
        "Maybe \\boxed{8}?",
        "Then 8 + 1 = 9.",
    ]
    assert not chain.truncated
    result = score_chain(model, chain, DEFAULT, pool=POOL)
    texts = [model.tokenizer.decode(each.prompt_ids) for each in result.audit]
    assert all(text.count("<think>") == 1 for text in texts)
    assert not any("</think>" in text or "So 9 it is" in text for text in texts)
    assert any(THOUGHT + DEFAULT.cue in text for text in texts)


def test_check_10_the_models_own_output_is_cut_at_the_closing_tag_too(monkeypatch):
    model = thinking_model()
    written = SimpleNamespace(texts=(OUTPUT,), finished=(True,))
    monkeypatch.setattr(model, "generate", lambda prompt, **_: written)
    assert prepare(model, Problem("p", "q"), DEFAULT).text == THOUGHT + "\n"


def test_check_10_think_close_closes_the_block_before_the_cue():
    model, rules = thinking_model(), Rules(think="close")
    chain = prepare(model, Problem("p", "q", OUTPUT), rules)
    result = score_chain(model, chain, rules, pool=POOL)
    for each in result.audit:
        text = model.tokenizer.decode(each.prompt_ids)
        assert text.endswith("\n</think>" + rules.cue)
        assert text.count("</think>") == text.count("<think>") == 1
    assert [step.text for step in result.steps] == [step.text for step in chain.steps]


def test_check_10_a_thought_that_the_model_opened_itself_stays_inside_its_block():
    """Where the template does not open the block, the opening tag stands in the model's output."""
    model = tiny("tiny-llama")
    for rules in (DEFAULT, Rules(think="close")):
        chain = prepare(model, Problem("p", "q", "<think>\n" + OUTPUT), rules)
        assert not any("think>" in step.text for step in chain.steps)
        for each in score_chain(model, chain, rules).audit:
            text = model.tokenizer.decode(each.prompt_ids)
            assert text.count("<think>") == 1, text
            assert text.count("</think>") == (1 if rules.think == "close" else 0)


def test_check_10_an_unfinished_thought_is_flagged():
    assert prepare(thinking_model(), Problem("p", "q", THOUGHT, "9"), GOLD).truncated
    assert not chain_of(tiny("tiny-llama")).truncated


def likely(model, rules: Rules) -> Chain:
    """A chain whose y* is the model's own most likely digit: a probability worth measuring."""
    (ids,) = model.tokens(chain_of(model, rules).prompt + TEXT.rstrip() + rules.cue).ids.tolist()
    logits = model.run([ids], logits="last").logits[0]
    digits = {
        str(d): model.tokenizer(str(d), add_special_tokens=False).input_ids[0] for d in range(10)
    }
    return chain_of(model, rules, gold=max(digits, key=lambda d: float(logits[digits[d]])))


def test_check_11_half_precision_reports_the_noise_of_another_batch_shape():
    model = tiny("tiny-llama", "bfloat16")
    chain = likely(model, ONE_TOKEN)
    result = score_chain(model, chain, ONE_TOKEN, seeds=(0, 1), chunk=512)
    tokens = Tokeniser(model, chain, ONE_TOKEN)
    cells = []
    for seed, controls in ((0, True), (1, False)):
        texts = cells_module.step_texts("p", chain.steps, seed, ONE_TOKEN)
        cells += cells_module.cell_texts("p", texts, ONE_TOKEN, controls=controls)
    every = max(1, len(cells) // 16)
    some = [tokens.continuation(cell) for cell in cells[::every]]
    alone = score(model, some, exact=True).logprobs
    pairs = zip(result.audit[::every], alone, strict=True)
    assert result.noise == max(abs(math.exp(e.logprob) - math.exp(other)) for e, other in pairs)
    assert 0 < result.noise < 0.1


def test_check_11_full_precision_reports_no_noise():
    for dtype in ("float32", "float64"):
        model = tiny("tiny-gpt2", dtype)
        assert score_chain(model, chain_of(model), GOLD).noise is None


@pytest.mark.parametrize(
    ("chunk", "text"), [(512, TEXT), (48, TEXT), (16, TEXT), (512, "It is 5.")]
)
def test_check_11_the_noise_floor_is_never_measured_in_the_same_shape(monkeypatch, chunk, text):
    """A floor of zero that only says "the same computation twice" would hide the noise."""
    widths, model = [], tiny("tiny-gpt2", "bfloat16")
    forward = model.hf.forward

    def recorded(*args, **options):
        widths.append(options["input_ids"].shape[1])
        return forward(*args, **options)

    monkeypatch.setattr(model.hf, "forward", recorded)
    chain = chain_of(model, text=text)
    result = score_chain(model, chain, GOLD, control_seeds=0, chunk=chunk)
    packed = widths[: result.spent.forwards]
    alone = widths[result.spent.forwards :]
    lengths = {len(each.prompt_ids) + len(each.answer_ids) - 1 for each in result.audit}
    assert sum(packed) == result.spent.tokens and max(packed) <= chunk
    assert alone and set(alone) <= lengths  # whole sequences, one a forward pass
    assert packed != alone


def failing(monkeypatch, *failed: tuple[int, int, str]) -> None:
    """Let the answers of some (step, seed, cell) be cut into other tokens."""
    continuation = Tokeniser.continuation

    def wrapped(self, cell):
        return None if (cell.step, cell.seed, cell.cell) in failed else continuation(self, cell)

    monkeypatch.setattr(Tokeniser, "continuation", wrapped)


@pytest.mark.parametrize("cell", ["s1c1", "s0c1", "s1c0", "s0c0"])
def test_check_15_a_failed_step_is_marked_and_shifts_no_other_score(monkeypatch, cell):
    model = tiny("tiny-gpt2")
    chain = chain_of(model)
    whole = score_chain(model, chain, GOLD, seeds=(0, 1), pool=POOL)
    assert whole.marked == []
    failing(monkeypatch, (1, 0, cell))
    result = score_chain(model, chain, GOLD, seeds=(0, 1), pool=POOL)
    reason = "a cell is too long, or cuts the answer into other tokens"
    assert result.marked == [{"id": "p", "step": 1, "seed": 0, "reason": reason}]
    others = [step for step in whole.steps if (step.step, step.seed) != (1, 0)]
    assert [(s.step, s.seed, s.text) for s in result.steps] == [
        (s.step, s.seed, s.text) for s in others
    ]
    for step, other in zip(result.steps, others, strict=True):
        assert step.tts == pytest.approx(other.tts, rel=0, abs=1e-5)
        assert step.s0c0 == pytest.approx(other.s0c0, rel=0, abs=1e-5)


def test_check_15_an_answer_that_merges_with_its_cue_is_marked_not_guessed(monkeypatch):
    """A tokenizer that joins y* with what stands before it, in one cell only."""
    model = tiny("tiny-gpt2")
    chain = chain_of(model)
    tokens = Tokeniser(model, chain, GOLD)
    encode = score_module.encode
    merged = 5

    def joined(tok, text):
        ids = encode(tok, text)
        return [*ids[:-4], merged, *ids[-2:]] if "= 8 are red" not in text else ids

    monkeypatch.setattr(score_module, "encode", joined)
    texts = cells_module.step_texts("p", chain.steps, 0, GOLD)
    cells = list(cells_module.cell_texts("p", texts, GOLD, controls=False))
    found = [tokens.continuation(cell) for cell in cells]
    assert [each is not None for each in found] == ["= 8 are red" in c.text for c in cells]
    assert all(each.answer == tokens.answer_ids for each in found if each)


def test_check_15_when_every_cell_fails_all_steps_are_marked(monkeypatch):
    monkeypatch.setattr(Tokeniser, "continuation", lambda self, cell: None)
    for dtype in ("float32", "bfloat16"):
        model = tiny("tiny-gpt2", dtype)
        result = score_chain(model, chain_of(model), GOLD, seeds=(0, 1))
        assert (result.steps, result.audit, len(result.marked)) == ([], [], 10)
        assert result.spent.tokens == 0


@pytest.mark.parametrize("cell", ["n0c1", "n0c0", "r1c1", "r0c1", "r1c0", "r0c0"])
def test_check_15_a_control_that_fails_takes_nothing_with_it(monkeypatch, cell):
    model = tiny("tiny-gpt2")
    failing(monkeypatch, (1, 0, cell))
    result = score_chain(model, chain_of(model), GOLD, pool=POOL)
    assert result.marked == []
    assert [step.step for step in result.steps] == [0, 1, 2, 3, 4]
    lost = "null_tts" if cell.startswith("n") else "random_tts"
    assert [getattr(step, lost) is None for step in result.steps] == [i == 1 for i in range(5)]


def test_a_control_too_long_for_the_context_does_not_cost_the_chain_its_scores():
    """The chain fits; the last step with a random step of 60 tokens in its place does not."""
    model = planted_model()
    step = "There are red cups. "
    room = model.sizes.n_ctx - len(model.tokens(model.chat("q") + GOLD.cue).ids[0]) - 33
    text = step * (room // len(model.tokenizer(step, add_special_tokens=False).input_ids))
    chain = prepare(model, Problem("p", "q", text, "88"), GOLD)
    last = [len(chain.steps) - 1]
    options = {"only": last, "control_seeds": 1}
    assert len(score_chain(model, chain, GOLD, **options).steps) == 1
    result = score_chain(model, chain, GOLD, pool=(step * 6,), **options)
    assert len(result.steps) == 1
    assert result.steps[0].random_tts is None


# ---------------------------------------------------------------- worked out by hand


def scored_by_hand(monkeypatch, four: tuple[float, float, float, float], *, n_tokens: int = 1):
    """One step whose cells s1c1, s1c0, s0c1, s0c0 have these probabilities; y* is `n_tokens`."""
    values = [tuple(math.log(p) / n_tokens for _ in range(n_tokens)) for p in four]

    def fixed(model, continuations, **_):
        assert len(continuations) == 4
        return Scores(tuple(values), Spent(1, 2, 3, 4))

    monkeypatch.setattr(score_module, "score", fixed)
    model = tiny("tiny-gpt2")
    rules = replace(GOLD, closing="")
    chain = chain_of(model, rules, text="It is 5.", gold="1" * n_tokens)
    (step,) = score_chain(model, chain, rules, control_seeds=0).steps
    return step


@pytest.mark.parametrize("n_tokens", [1, 4])
def test_legs_and_log_odds_by_hand(monkeypatch, n_tokens):
    """nec = 3/4 - 1/4, suf = 1/2 - 3/4; log-odds ln 3 - ln(1/3) and ln 1 - ln 3."""
    step = scored_by_hand(monkeypatch, (0.75, 0.5, 0.25, 0.75), n_tokens=n_tokens)
    assert (step.nec, step.suf, step.tts) == pytest.approx((0.5, -0.25, 0.375))
    assert step.nec_log_odds == pytest.approx(2 * math.log(3))
    assert step.suf_log_odds == pytest.approx(-math.log(3))
    assert step.nec_mean_logprob == pytest.approx(math.log(3) / n_tokens)
    assert step.suf_mean_logprob == pytest.approx(math.log(2 / 3) / n_tokens)
    assert (step.n_answer_tokens, step.n_steps, step.position) == (n_tokens, 1, 1.0)
    assert not step.saturated


def test_legs_are_signed_and_the_score_is_not():
    cells = {"s1c1": 0.2, "s0c1": 0.9, "s1c0": 0.4, "s0c0": 0.7}
    assert legs(cells, "s1", "s0") == pytest.approx((-0.7, -0.3, 0.5))
    assert legs({"s1c1": 1.0, "s0c1": 0.0, "s1c0": 1.0, "s0c0": 0.0}, "s1", "s0") == (1, 1, 1)


@pytest.mark.parametrize(
    ("four", "saturated"),
    [
        ((0.999, 0.995, 0.991, 1.0), True),
        ((0.001, 0.005, 0.009, 1e-30), True),
        ((0.999, 0.995, 0.989, 1.0), False),
        ((0.001, 0.005, 0.011, 1e-30), False),
        ((0.999, 0.001, 0.999, 0.001), False),  # each near an end, but not all near one
    ],
)
def test_a_step_is_saturated_where_all_four_cells_lie_at_one_end(monkeypatch, four, saturated):
    assert scored_by_hand(monkeypatch, four).saturated is saturated


def test_log_odds_by_hand():
    assert log_odds(math.log(0.75)) == pytest.approx(math.log(3))
    assert log_odds(math.log(0.2)) == pytest.approx(math.log(0.25))
    assert log_odds(-800.0) == -800.0  # exp(-800) is 0 in float64, and the log-odds are finite
    assert log_odds(-1e-12) == pytest.approx(12 * math.log(10), rel=1e-3)
    assert log_odds(0.0) is None


def test_log_odds_are_none_where_a_probability_is_one(monkeypatch):
    step = scored_by_hand(monkeypatch, (1.0, 0.5, 0.5, 0.25))
    assert step.nec_log_odds is None
    assert step.suf_log_odds == pytest.approx(math.log(3))
    assert (step.nec, step.tts) == (0.5, 0.375)


def test_flags_and_places():
    model = tiny("tiny-gpt2")
    steps = score_chain(model, chain_of(model), GOLD).steps
    assert [s.mentions_answer for s in steps] == [False, False, False, False, True]
    assert [s.verification for s in steps] == [False, False, False, False, True]
    assert [s.position for s in steps] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [s.op for s in steps] == ["edit", "edit", "drop", "edit", "edit"]
    assert [TEXT[s.start : s.end] for s in steps] == [s.text for s in steps]
    assert steps[2].perturbed == ""
    assert {s.n_steps for s in steps} == {5}


def test_a_drop_compares_with_the_step_before():
    """Without its step the cell is the one before, so nec is S_1(1) of two neighbours."""
    model = tiny("tiny-gpt2")
    result = score_chain(model, chain_of(model), GOLD)
    before, drop = result.steps[1], result.steps[2]
    assert (drop.s0c1, drop.s0c0) == (before.s1c1, before.s0c0)
    assert drop.nec == math.exp(drop.s1c1) - math.exp(before.s1c1)


# ---------------------------------------------------------------- controls


def test_controls_are_none_where_they_are_not_computed():
    model = tiny("tiny-gpt2")
    chain = chain_of(model)
    for options in ({"control_seeds": 0, "pool": POOL}, {"control_seeds": 1, "seeds": (5, 0)}):
        result = score_chain(model, chain, GOLD, **options)
        assert all(step.random_tts is None for step in result.steps)
        with_null = [step.seed for step in result.steps if step.null_tts is not None]
        assert set(with_null) == ({5} if options["control_seeds"] else set())
    result = score_chain(model, chain, GOLD, seeds=(0, 1, 2), control_seeds=2, pool=POOL)
    for step in result.steps:
        assert (step.null_tts is None) == (step.random_tts is None) == (step.seed == 2)


def test_controls_move_no_score():
    model = tiny("tiny-llama")
    chain = chain_of(model)
    plain = score_chain(model, chain, GOLD, control_seeds=0).steps
    for step, other in zip(score_chain(model, chain, GOLD, pool=POOL).steps, plain, strict=True):
        assert (step.nec, step.suf) == pytest.approx((other.nec, other.suf), rel=0, abs=1e-5)


def test_a_step_with_nothing_to_rewrite_has_no_null():
    model = tiny("tiny-gpt2")
    steps = score_chain(model, chain_of(model, text="Yes.\nIt is 5."), GOLD).steps
    assert [step.null_tts is None for step in steps] == [True, False]


def test_the_controls_are_the_same_score_on_their_own_cells():
    model = planted_model()
    chain = chain_of(model, text="Take 17. Then we add 27 pears.", gold="88")
    result = score_chain(model, chain, GOLD, pool=("So the sum must be 37. ",))
    for step in result.steps:
        chance = {cell: math.exp(value) for cell, value in by_cell(result, step.step).items()}
        null = abs(chance["s1c1"] - chance["n0c1"]) + abs(chance["s1c0"] - chance["n0c0"])
        other = abs(chance["r1c1"] - chance["r0c1"]) + abs(chance["r1c0"] - chance["r0c0"])
        assert (step.null_tts, step.random_tts) == (null / 2, other / 2)
    # 37 alone passes the threshold, and no rewrite of spaces touches a number
    assert result.steps[0].random_tts == pytest.approx(1.0, abs=0.05)
    assert result.steps[0].null_tts < 1e-6


def test_progress_counts_up_to_all_tokens():
    calls, model = [], tiny("tiny-gpt2")
    result = score_chain(
        model, chain_of(model), GOLD, chunk=50, progress=lambda *done: calls.append(done)
    )
    assert calls[-1] == (result.spent.tokens, result.spent.tokens)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert len(calls) == result.spent.forwards > 3


# ---------------------------------------------------------------- preparing a chain


def test_the_answer_is_the_written_one_else_the_forced_one_else_the_gold_one():
    model = planted_model()
    text = "We start with 17 apples. Then we add 27 pears."
    written = prepare(model, Problem("p", "q", text + "\nThe answer is 11.", "5"), DEFAULT)
    assert (written.answer, written.answer_source, written.text) == ("11", "written", text + "\n")
    forced = prepare(model, Problem("p", "q", text, "5"), DEFAULT)
    assert (forced.answer, forced.answer_source) == ("88", "forced")
    below = prepare(model, Problem("p", "q", "We start with 17 apples."), DEFAULT)
    assert (below.answer, below.answer_source) == ("11", "forced")
    gold = prepare(model, Problem("p", "q", text + "\nThe answer is 11.", "5"), GOLD)
    assert (gold.answer, gold.answer_source, gold.text) == ("5", "gold", text + "\n")
    assert gold.prompt == model.chat("q")


def test_the_model_writes_a_chain_where_none_is_given():
    model = planted_model()
    chain = prepare(model, Problem("p", "What is the total?"), DEFAULT)
    written = model.generate(model.chat("What is the total?"), max_new_tokens=256)
    assert chain.text == written.texts[0] == "11}"
    assert not chain.truncated
    assert prepare(model, Problem("p", "q"), DEFAULT, max_new_tokens=1).truncated


@pytest.mark.parametrize(
    ("problem", "rules", "message"),
    [
        (Problem("p", " \n", TEXT, "3"), GOLD, "no question: the row's question is empty"),
        (
            Problem("p", "q", "The answer is 5.", "3"),
            GOLD,
            "empty chain: there is no step before the final answer",
        ),
        (Problem("p", "q", TEXT), GOLD, "answer not found: the row has no gold answer to score"),
        (
            Problem("p", "q", "12 apples. " * 200, "3"),
            GOLD,
            "chain longer than the context: {n} tokens and tiny-gpt2 holds 512",
        ),
    ],
)
def test_a_chain_that_cannot_be_scored_says_why(problem, rules, message):
    model = tiny("tiny-gpt2")
    text = model.chat("q") + (problem.cot or "").rstrip() + rules.cue
    n = len(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    with says(InputError, message.format(n=n)):
        prepare(model, problem, rules)


def test_an_answer_that_never_closes_is_not_found(monkeypatch):
    model = tiny("tiny-gpt2")
    for written in ("12 and then 13", "", "  }"):
        monkeypatch.setattr(
            model, "generate", lambda *_, w=written, **__: SimpleNamespace(texts=(w,))
        )
        message = f"answer not found: after the cue the model wrote {written!r}"
        with says(InputError, message):
            prepare(model, Problem("p", "q", TEXT), DEFAULT)


def test_a_forced_answer_without_a_closing_is_its_first_line(monkeypatch):
    model = tiny("tiny-gpt2")
    stops = []

    def generate(*_, stop, **__):
        stops.append(stop)
        return SimpleNamespace(texts=(" 18.\nNext",))

    monkeypatch.setattr(model, "generate", generate)
    chain = prepare(model, Problem("p", "q", TEXT), preset("paper"))
    assert (chain.answer, stops) == ("18", [("\n",)])


def test_a_forced_answer_with_braces_of_its_own_is_whole_or_not_found(monkeypatch):
    r"""Of `\frac{1}{2}}` neither `\frac{1` nor `\frac{1}` is what the model answered."""
    model = tiny("tiny-gpt2")

    def generate(*_, stop=(), **__):
        whole, end = "\\frac{1}{2}} is it", None
        for text in stop:
            if text in whole:
                end = whole.index(text) + len(text)
        return SimpleNamespace(texts=(whole[:end],), finished=(True,))

    monkeypatch.setattr(model, "generate", generate)
    try:
        found = prepare(model, Problem("p", "q", TEXT), DEFAULT).answer
    except InputError:
        return
    assert found == "\\frac{1}{2}"


def test_steps_given_as_spans_are_taken_as_they_are():
    model = tiny("tiny-gpt2")
    chain = chain_of(model, text="It is 5. And 6. So 11.", spans=((0, 15), (16, 22)))
    assert [step.text for step in chain.steps] == ["It is 5. And 6. ", "So 11."]
    with pytest.raises(
        InputError,
        match=exactly(
            "No span covers 'So 11.' in characters 15 to 22: "
            "the spans must cover the chain but for white space."
        ),
    ):
        chain_of(model, text="It is 5. And 6. So 11.", spans=((0, 15),))


def test_the_audit_names_every_cell_once_with_its_tokens():
    model = tiny("tiny-llama")
    chain = chain_of(model)
    result = score_chain(model, chain, GOLD, seeds=(0, 1), pool=POOL)
    keys = [(e.step, e.seed, e.cell) for e in result.audit]
    assert len(set(keys)) == len(keys)
    assert len(keys) == 5 * (4 + 2 + 4) + 5 * 4
    texts = naive_texts(chain, GOLD, 3, 1)
    for each in result.audit:
        assert each.id == "p"
        if (each.step, each.seed) == (3, 1):
            assert model.tokenizer.decode(each.prompt_ids) == texts[each.cell]
            assert model.tokenizer.decode(each.answer_ids) == "33}"


def test_no_seed_or_a_step_that_is_not_there_is_refused():
    model = load("tiny-llama")
    chain = prepare(model, Problem("p", "q", "So 2 + 2 = 4. Then 5.", gold="5"), GOLD)
    with pytest.raises(InputError, match=r"^seeds=\(\), only=None: give at least one seed"):
        score_chain(model, chain, GOLD, seeds=())
    with pytest.raises(InputError, match=r"only=\[2\]: give .* steps from 0 to 1\.$"):
        score_chain(model, chain, GOLD, only=[2])


def test_the_users_checks_stand_in_place_of_first_words():
    """Step 1 starts with a phrase of checking and step 2 does not; the user says the reverse."""
    model = load("tiny-llama")
    text = "So 2 + 2 = 4. Wait, is it 4? Then 5 it is."
    problem = Problem("p", "q", text, gold="5")
    found = score_chain(model, prepare(model, problem, GOLD), GOLD)
    assert [step.verification for step in found.steps] == [False, True, False]
    given = score_chain(model, prepare(model, replace(problem, checks=(2,)), GOLD), GOLD)
    assert [step.verification for step in given.steps] == [False, False, True]
    none = score_chain(model, prepare(model, replace(problem, checks=()), GOLD), GOLD)
    assert not any(step.verification for step in none.steps)
    wrong = "checks name step 3, and the chain has steps 0 to 2"
    with says(InputError, wrong):
        prepare(model, replace(problem, checks=(3,)), GOLD)
