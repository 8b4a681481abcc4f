"""Where text lies among tokens: by hand, in slow tokenizers, and refused word for word."""

from __future__ import annotations

import pytest
from transformers import ByT5Tokenizer

from interp.engine.loading import load
from interp.errors import InputError
from interp.models.tiny import tokenizer
from interp.models.tokens import encode
from interp.thinking.spans import located, token_offsets, token_span
from tests.strategies import says

TEXT = "The sum is 12. So true."
"""<bos> The ␣sum ␣is ␣ 1 2 . ␣ S o ␣true .   (13 tokens)"""


def spelled(tok, text: str, start: int, end: int) -> str:
    """The tokens of a span, decoded."""
    first, stop = token_span(tok, text, start, end)
    return tok.decode(encode(tok, text)[first:stop])


@pytest.mark.parametrize(
    ("piece", "span"),
    [
        ("The", (1, 2)),
        ("sum is", (2, 4)),  # the space before a word is in the word's token
        ("12.", (5, 8)),
        ("12. ", (5, 8)),  # the space after the step is the next word's
        ("So true.", (9, 13)),
        (TEXT, (1, 13)),  # never the special token
    ],
)
def test_tokens_of_a_span_by_hand(piece, span):
    start = TEXT.index(piece)
    assert token_span(tokenizer(), TEXT, start, start + len(piece)) == span


def test_positions_are_those_of_encode_whether_the_text_starts_with_bos_or_not():
    bare, begun = "The sum is 12.", "<bos>The sum is 12."
    assert encode(tokenizer(), bare) == encode(tokenizer(), begun)
    assert token_span(tokenizer(), bare, 4, 7) == (2, 3)
    assert token_span(tokenizer(), begun, 9, 12) == (2, 3)


def test_a_character_of_several_tokens_is_taken_whole():
    """ï and the clef are spelled in 2 and 4 bytes, each a token of its own."""
    text = "Then naïve 𝄞 12"  # <bos> Then ␣ n a ï ï v e ␣ 𝄞 𝄞 𝄞 𝄞 ␣ 1 2
    assert token_span(tokenizer(), text, 5, 10) == (3, 9)
    assert token_span(tokenizer(), text, 11, 12) == (10, 14)
    assert spelled(tokenizer(), text, 5, 10) == "naïve"


def test_a_tokenizer_without_offsets_is_read_by_decoding():
    slow = ByT5Tokenizer()  # a byte a token, </s> at the end
    assert not slow.is_fast
    text = "naïve 12. So 4."
    assert token_span(slow, text, 0, 5) == (0, 6)
    assert token_span(slow, text, 10, 15) == (11, 16)
    assert spelled(slow, text, 10, 15) == "So 4."
    assert len(token_offsets(slow, text)) == len(encode(slow, text)) == 17
    assert token_offsets(slow, text)[-1] == (0, 0)


def test_both_ways_agree():
    """A fast tokenizer that hides its offsets is read by decoding, to the same spans."""

    class Hidden:
        is_fast = False
        bos_token = "<bos>"
        decode = staticmethod(tokenizer().decode)

        def __call__(self, text, **options):
            return tokenizer()(text, **options)

    text = "The naïve sum is 12.\nSo true."
    for start, end in ((0, 3), (4, 9), (14, 20), (21, 29)):
        assert token_span(Hidden(), text, start, end) == token_span(tokenizer(), text, start, end)


def test_a_chain_step_of_a_real_tokenizer():
    tok = load("smollm2-135m").tokenizer
    text = "<|im_start|>user\nHow?<|im_end|>\nHe ate 3.5 pies. Dr. Wu ate 2.\n\nSo 5.5."
    for step in ("He ate 3.5 pies.", "Dr. Wu ate 2.", "So 5.5."):
        start = text.index(step)
        assert spelled(tok, text, start, start + len(step) + 1 * (step[0] == "H")).strip() == step


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(("start", "end"), [(3, 3), (3, 4), (-1, 3), (0, 24), (5, 4)])
def test_a_span_without_text_is_refused(start, end):
    with says(
        InputError,
        f"The span ({start}, {end}) holds no text: give (start, end) around some, within the 23 "
        "characters.",
    ):
        token_span(tokenizer(), TEXT, start, end)


def test_a_token_shared_with_other_text_is_refused():
    with says(
        InputError,
        "'e su' is not apart: one token also holds 'T' of the text around it; leave the item out, "
        "or cut the steps elsewhere.",
    ):
        token_span(tokenizer(), TEXT, 2, 6)


def test_text_that_no_token_spells_is_refused():
    message = (
        "'1 +' cannot be located: the tokenizer does not keep this text, so no token can be "
        "named; leave the item out."
    )
    for offsets in ([(0, 1)], [], [(0, 0), (2, 3)], [(0, 1), (4, 5), (2, 3)]):
        with says(InputError, message):
            located("1 + 1", offsets, 0, 3)
    assert located("1 + 1", [(0, 1), (1, 3), (3, 5)], 0, 3) == (0, 2)


def test_a_tokenizer_that_changes_the_text_is_refused():
    class Lower:
        is_fast, bos_token = False, None

        def __call__(self, text, **options):
            return {"input_ids": [ord(c) for c in text.lower()]}

        def decode(self, ids, **options):
            return "".join(map(chr, ids))

    assert token_span(Lower(), "so 4.", 3, 5) == (3, 5)
    with says(
        InputError,
        "The tokens of 'So 4.' do not decode to it, so no span can be located: use a fast "
        "tokenizer (use_fast=True), or leave the item out.",
    ):
        token_span(Lower(), "So 4.", 3, 5)
