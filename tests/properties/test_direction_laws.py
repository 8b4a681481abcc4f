"""Laws of the sets, the shuffled labels and the spans, for chains and text of every kind."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from interp.errors import InputError
from interp.models.tiny import tokenizer
from interp.models.tokens import encode
from interp.thinking.direction import _passes, shuffled_labels
from interp.thinking.sets import Sets, choose_sets
from interp.thinking.spans import token_span
from tests.thinking_cases import scored_chain

SCORES = st.sampled_from([0.0, 0.004, 0.3, 0.5, 0.95, 1.0])
STEP = st.tuples(SCORES, st.sampled_from(["edit", "edit", "drop"]), st.booleans())
CHAINS = st.lists(st.lists(STEP, min_size=2, max_size=8), min_size=1, max_size=6)
LAWS = settings(deadline=None, derandomize=True, max_examples=30)


def scored_of(drawn):
    found = []
    for i, steps in enumerate(drawn):
        tts, ops, mentions = zip(*steps, strict=True)
        texts = [f"Step {j}. " for j in range(len(steps))]
        found.append(scored_chain(f"p{i}", texts, tts, ops=ops, mentions=mentions))
    return found


def chosen(scored, **options) -> Sets | None:
    try:
        return choose_sets(scored, fewest=2, **options)
    except InputError:
        return None


@LAWS
@given(CHAINS, st.integers(1, 3), st.integers(2, 6), st.integers(1, 4), st.integers(0, 5))
def test_sets_are_balanced_capped_disjoint_and_of_their_thresholds(drawn, cap, most, bins, seed):
    scored = scored_of(drawn)
    options = {"per_problem": cap, "most": most, "bins": bins, "seed": seed}
    found = chosen(scored, **options)
    assume(found is not None)
    assert 2 <= len(found.true) == len(found.decorative) <= most
    counts = [Counter(map(found.stratum, side)) for side in (found.true, found.decorative)]
    assert counts[0] == counts[1]
    for side in (found.true, found.decorative):
        assert max(Counter(step.id for step in side).values()) <= cap
        assert all(step.op == "edit" for step in side)
    assert 0.3 <= found.true_from <= 0.9
    assert all(step.tts >= found.true_from for step in found.true)
    assert all(step.tts <= 0.005 for step in found.decorative)
    places = [(step.id, step.step) for step in found.steps]
    assert len(set(places)) == len(places)
    assert chosen(scored[::-1], **options) == found
    assert sum(row["true_chosen"] for row in found.balance) == len(found.true)
    assert all(row["true"] >= row["true_chosen"] for row in found.balance)


@LAWS
@given(CHAINS, st.integers(1, 3), st.integers(0, 2**31))
def test_shuffled_labels_keep_every_count(drawn, bins, seed):
    found = chosen(scored_of(drawn), bins=bins)
    assume(found is not None)
    labels = shuffled_labels(found, seed)
    assert labels == shuffled_labels(found, seed)
    assert sum(labels) == len(found.true) and len(labels) == len(found.steps)
    pairs = list(zip(found.steps, labels, strict=True))
    shuffled_true = Counter(found.stratum(step) for step, label in pairs if label)
    assert shuffled_true == Counter(map(found.stratum, found.true))


@LAWS
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=8))
def test_every_prompt_begins_the_pass_that_serves_it_once(prompts):
    passes = _passes([tuple(ids) for ids in prompts])
    reads = [(place, position, each) for each in passes for place, position in each.reads]
    assert sorted(place for place, _, _ in reads) == list(range(len(prompts)))
    for place, position, each in reads:
        assert list(each.ids[: position + 1]) == prompts[place]
    for i, one in enumerate(passes):  # none could serve another
        assert not any(
            other.ids[: len(one.ids)] == one.ids for j, other in enumerate(passes) if i != j
        )


WORDS = st.lists(st.sampled_from(["The", "sum", "is", "12", "naïve", "𝄞", ".", "key", "-4.5"]))
GAPS = st.sampled_from([" ", "\n", "  ", "\n\n"])


@LAWS
@given(WORDS, WORDS, WORDS, GAPS, GAPS)
def test_the_tokens_of_a_span_decode_to_its_text_alone(before, inside, after, left, right):
    assume(inside)
    start, piece, end = (" ".join(words) for words in (before, inside, after))
    text = start + left + piece + right + end
    at = len(start) + len(left)
    first, stop = token_span(tokenizer(), text, at, at + len(piece))
    ids = encode(tokenizer(), text)
    assert tokenizer().decode(ids[first:stop]).strip() == piece
    assert 1 <= first < stop <= len(ids)
    wider = token_span(tokenizer(), text, len(start), at + len(piece) + len(right))
    assert wider == (first, stop)  # white space around it changes nothing


@LAWS
@given(st.text(alphabet="a1. ïZ", min_size=1, max_size=12), st.data())
def test_a_span_is_exact_or_refused(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    piece = text[start:end].strip()
    if not piece:
        with pytest.raises(InputError, match="holds no text"):
            token_span(tokenizer(), text, start, end)
        return
    try:
        first, stop = token_span(tokenizer(), text, start, end)
    except InputError as error:
        assert "is not apart" in str(error)
        return
    assert tokenizer().decode(encode(tokenizer(), text)[first:stop]).strip() == piece
