"""The planted model answers as its sums say, whatever the length, order, padding or cache."""

from __future__ import annotations

import itertools
import math
import random
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import InputError
from interp.models.planted import (
    ANSWER,
    CUE,
    EVIDENCE,
    LARGEST_NUMBER,
    RIVAL,
    THRESHOLD,
    build,
    chains,
    directions,
    expected,
    tokenizer,
)

TOK = tokenizer()
MODEL = build()
CHAINS = chains(40)
OFFSETS = (-3, -2, -1, 1, 2, 3)
KINDS = {"base", "and", "or", "decorative", "harmful"}
FILLER = "There are also 65 red cups and a lamp. "


def logprobs(text, model=MODEL):
    """Log-probability of `88` after the cue, and of `}` after that."""
    ids = TOK(f"{text}{CUE}{ANSWER}}}", return_tensors="pt").input_ids
    with torch.no_grad():
        scores = model(ids).logits[0].log_softmax(dim=-1)
    return float(scores[-3, ids[0, -2]]), float(scores[-2, ids[0, -1]])


def probability(text, model=MODEL):
    """Joint probability of `88}` after the cue."""
    return math.exp(sum(logprobs(text, model)))


def decided(text):
    """Return 1 for an answer of 88 and 0 for another; anything between fails the test."""
    found = probability(text)
    assert found > 0.98 or found < 0.02, (text, found)
    return int(found > 0.5)


def evidence(text):
    """Return S and the number of pieces, counted by hand from the text."""
    pieces = [word for word in re.findall(r"\d+|[a-z]+", text) if word in EVIDENCE]
    return sum(EVIDENCE[piece] for piece in pieces), len(pieces)


def shifted(text, offsets, rng=random):
    """Shift every number by one of `offsets`."""
    return re.sub(r"\d+", lambda number: str(int(number[0]) + rng.choice(offsets)), text)


def legs(context, step, rng):
    """Return necessity and sufficiency from four whole forward passes."""
    broken_context, broken_step = shifted(context, OFFSETS, rng), shifted(step, OFFSETS, rng)
    necessity = decided(context + step) - decided(context + broken_step)
    return necessity, decided(broken_context + step) - decided(broken_context + broken_step)


@pytest.mark.parametrize("n_filler", [0, 1, 3])
@pytest.mark.parametrize(
    ("kind", "context", "step", "cells"),
    [
        ("and", "We start with 17 apples. ", "Then we add 27 pears.", (1, 0, 0, 0)),
        ("or", "We take x = 17. Next, y = 27. ", "The same way, z = 37.", (1, 1, 1, 0)),
        ("harmful", "This total is proven. ", "But 47 of them are lost.", (0, 1, 0, 1)),
        ("decorative", "", "A lamp costs 57 coins.", (0, 0, 0, 0)),
        ("decorative", "It starts with 17. ", "A lamp costs 57 coins.", (0, 0, 0, 0)),
        ("decorative", "Take 17 and 27. ", "A lamp costs 57 coins.", (1, 1, 0, 0)),
        ("decorative", "It is proven. ", "A lamp costs 57 coins.", (1, 1, 1, 1)),
    ],
)
def test_each_cell_of_each_kind_is_as_the_sums_say(kind, context, step, cells, n_filler):
    """The cells are S_1(1), S_0(1), S_1(0), S_0(0). Up to 60 idle tokens stand in between."""
    filler = FILLER * n_filler
    assert n_filler < 3 or len(TOK(filler, add_special_tokens=False).input_ids) >= 57
    for offset in OFFSETS:
        contexts, steps = (context, shifted(context, [offset])), (step, shifted(step, [offset]))
        found = tuple(decided(c + filler + s) for c in contexts for s in steps)
        assert found == cells
    assert expected(kind) == (cells[0] - cells[1], cells[2] - cells[3])


def test_every_step_of_every_chain_has_its_expected_legs():
    rng = random.Random(1)
    for chain in CHAINS:
        cuts = [0, *(m.end() for m in re.finditer(r"\.\s", chain.chain)), len(chain.chain)]
        spans = list(itertools.pairwise(cuts))
        assert len(spans) == len(chain.kinds)
        prompt = f"User:\n{chain.question}\nAssistant:\n"
        for (start, end), kind in zip(spans, chain.kinds, strict=True):
            if kind != "base":
                context = prompt + chain.chain[:start]
                found = legs(context, chain.chain[start:end].rstrip(), rng)
                assert found == expected(kind), (chain, start)


@pytest.mark.parametrize(
    "text", ["", "17", "17 27", "27 17 37", "proven", "47", "47 proven 47 27", "37 37 37 17 27"]
)
def test_probabilities_follow_the_formula_of_the_docstring(text):
    total, n_pieces = evidence(text)
    margin = 2 * (total - THRESHOLD) / (1 + n_pieces * math.exp(-7))
    a = 18 * margin / math.hypot(1, margin)
    others = math.exp(-a) + len(TOK) - 2
    answer, close = logprobs(text)
    # float32 sums of logits near 18, and the epsilon (1e-5) of the norms, leave about 1e-4.
    assert answer == pytest.approx(a - math.log(math.exp(a) + others), abs=1e-3)
    assert close > -1e-4


words = st.sampled_from([*EVIDENCE, "1", "57", "120", "apples", "and", "unheard", "\n", "."])


@given(st.lists(words, max_size=60))
@settings(deadline=None, derandomize=True)
def test_any_order_and_amount_of_evidence_is_summed(parts):
    text = " ".join(parts)
    total, _ = evidence(text)
    if -7 <= total <= 10:  # the range that the docstring promises for the closing brace
        assert decided(text) == int(total > THRESHOLD)


@pytest.mark.parametrize("words_of", ["17", "17 27", "47 proven"])
def test_length_and_order_do_not_move_the_probability(words_of):
    plain, _ = logprobs(words_of)
    for n in (1, 4, 7):
        filler = f" {FILLER * n}"
        assert n < 7 or len(TOK(filler).input_ids) > 130
        for text in (filler + words_of, words_of + filler, words_of.replace(" ", filler)):
            assert logprobs(text)[0] == pytest.approx(plain, abs=1e-4)  # float32 rounding


def test_left_padding_changes_nothing():
    texts = [f"{FILLER * n}17 then 2{digit}{CUE}" for n, digit in [(0, 7), (1, 6), (3, 7), (2, 5)]]
    batch = TOK(texts, return_tensors="pt", padding=True, padding_side="left")
    places = (batch.attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        padded = MODEL(**batch, position_ids=places).logits[:, -1]
        single = [MODEL(TOK(text, return_tensors="pt").input_ids).logits[0, -1] for text in texts]
    torch.testing.assert_close(padded, torch.stack(single), rtol=0, atol=1e-4)
    answers = [TOK.decode(row.argmax()) for row in padded]
    assert answers == [ANSWER, RIVAL, ANSWER, RIVAL]


@pytest.mark.parametrize(("text", "answer"), [("17 and 27", ANSWER), ("17 and 26", RIVAL)])
@pytest.mark.parametrize("use_cache", [True, False])
def test_it_generates_an_answer_a_brace_and_the_end(text, answer, use_cache):
    prompt = TOK(text + CUE, return_tensors="pt")
    ids = MODEL.generate(**prompt, max_new_tokens=9, do_sample=False, use_cache=use_cache)
    assert TOK.decode(ids[0, prompt.input_ids.shape[1] :]) == f"{answer}}}<eos>"


def test_the_model_that_ignores_its_chain_says_the_same_after_any_text():
    ignorant = build(ignores_chain=True)
    texts = ["", "17 27", "17 26", "47 47", "proven", FILLER * 3, *(c.chain for c in CHAINS[:9])]
    found = {probability(text, ignorant) for text in texts}
    assert max(found) - min(found) < 1e-6
    assert 0.5 < max(found) < 0.95
    assert ignorant.config.to_dict() == MODEL.config.to_dict()


def test_half_precision_decides_alike():
    half = build().to(torch.bfloat16)
    for text in ["17", "17 27", "17 27 37", "proven", "proven 47", FILLER * 3 + "17 27"]:
        assert abs(probability(text, half) - probability(text)) < 0.02


def test_embeddings_have_mean_zero_and_one_norm_so_the_first_norm_changes_nothing():
    embed = MODEL.get_parameter("transformer.wte.weight")
    assert embed.mean(dim=1).abs().max() < 1e-6
    torch.testing.assert_close(embed.norm(dim=1), torch.full((len(embed),), math.sqrt(32)))
    with torch.no_grad():
        normed = MODEL.transformer.h[0].ln_1(embed)
    torch.testing.assert_close(normed, embed, rtol=0, atol=1e-4)  # epsilon is 1e-5
    assert len(embed.unique(dim=0)) == len(embed)  # no two tokens look alike
    torch.testing.assert_close(directions() @ directions().T, torch.eye(16))


def test_no_shift_of_a_number_makes_or_leaves_evidence():
    numbers = [int(word) for word in EVIDENCE if word.isdecimal()]
    assert numbers == [17, 27, 37, 47]
    assert not {n + offset for n in numbers for offset in OFFSETS} & set(numbers)
    idle = {int(n) for chain in CHAINS for n in re.findall(r"\d+", chain.chain)} - set(numbers)
    assert len(idle) > 40
    near = {n + offset for n in idle for offset in (0, *OFFSETS)}
    assert not near & {*numbers, int(ANSWER), int(RIVAL)}
    assert min(near) >= 0
    assert max(near) <= LARGEST_NUMBER


def test_chains_are_as_declared():
    assert chains(40) == CHAINS
    assert chains(7) == CHAINS[:7]
    assert chains(40, seed=1) != CHAINS
    assert len({chain.id for chain in CHAINS + chains(40, seed=1)}) == 80
    assert {kind for chain in CHAINS for kind in chain.kinds} == KINDS
    for chain in CHAINS:
        assert 3 <= len(chain.kinds) <= 8
        assert set(chain.kinds) & {"and", "or", "harmful"}
        assert chain.chain == chain.chain.strip()
        assert "  " not in chain.chain
        assert chain.chain.endswith(".")
        assert chain.chain.count(".") == len(chain.kinds)
        assert chain.answer == ANSWER
        assert decided(f"{chain.question}\n{chain.chain}") == 1


def test_numbers_and_words_of_the_chain_language_are_one_token_each():
    for number in range(LARGEST_NUMBER + 1):
        assert len(TOK(str(number), add_special_tokens=False).input_ids) == 1
    for chain in CHAINS:
        text = f"{chain.question}\n{chain.chain}{CUE}{ANSWER}}}"
        ids = TOK(text, add_special_tokens=False).input_ids
        assert TOK.decode(ids) == text
        assert [TOK.decode(i) for i in ids] == re.findall(r"\d+|[A-Za-z]+|[\s\S]", text)
    cue = TOK(f"{CUE}{ANSWER}}}", add_special_tokens=False).input_ids
    assert [TOK.decode(i) for i in cue[-5:]] == ["\\", "boxed", "{", ANSWER, "}"]
    assert TOK("x").input_ids[0] == TOK.bos_token_id


def test_the_chat_prompt_begins_with_the_sink_and_changes_no_answer():
    for chain in CHAINS[:10]:
        chat = [{"role": "user", "content": chain.question}]
        prompt = TOK.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert prompt.startswith("<bos>User:\n")
        ids = TOK(prompt + chain.chain + CUE, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            assert TOK.decode(MODEL(**ids).logits[0, -1].argmax()) == ANSWER


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@settings(deadline=None, derandomize=True)
def test_any_text_is_decoded_exactly(text):
    assert TOK.decode(TOK(text, add_special_tokens=False).input_ids) == text


def test_large_numbers_are_spelled_and_are_no_evidence():
    assert TOK.decode(TOK("1717").input_ids) == "<bos>1717"
    assert [TOK.decode(i) for i in TOK("217").input_ids[1:]] == ["2", "1", "7"]
    assert decided("17 and 1727") == 0


def test_building_is_deterministic_and_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    again = build()
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = zip(MODEL.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert not again.training
    assert again.config.architectures == ["GPT2LMHeadModel"]
    assert not any(p.any() for name, p in again.named_parameters() if ".mlp." in name)
    assert not again.get_parameter("transformer.wpe.weight").any()


def test_errors_name_the_rule_and_the_next_step():
    message = r"^Steps of kind 'base' have no expected legs; these have: and, or, decorative, harm"
    with pytest.raises(InputError, match=message):
        expected("base")
    with pytest.raises(InputError, match=r"Did you mean 'harmful'\?$"):
        expected("harmfull")
    with pytest.raises(InputError, match=r"cannot be negative, and -1 is; ask for 0 or more\.$"):
        chains(-1)
    assert chains(0) == []
