"""Tokens, padding and logical positions: written out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import InputError
from interp.models import tiny
from interp.models.tokens import Batch, chat, encode, pad, pad_token, token_ids
from tests.strategies import prompts, says

TOK = tiny.tokenizer()
BOS, EOS, PAD = 0, 1, 2


def test_right_padding_by_hand():
    batch = pad([[5, 6, 7], [8]], pad_id=2, side="right")
    assert batch.ids.tolist() == [[5, 6, 7], [8, 2, 2]]
    assert batch.index.tolist() == [[0, 1, 2], [0, -1, -1]]
    assert batch.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch.lengths.tolist() == [3, 1]
    assert batch.ragged


def test_left_padding_by_hand():
    batch = pad([[5, 6, 7], [8]], pad_id=2, side="left")
    assert batch.ids.tolist() == [[5, 6, 7], [2, 2, 8]]
    assert batch.index.tolist() == [[0, 1, 2], [-1, -1, 0]]
    assert batch.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch.lengths.tolist() == [3, 1]


def test_a_column_is_where_a_logical_token_lies():
    batch = pad([[5, 6, 7], [8, 9]], pad_id=2, side="left")
    assert batch.columns(torch.tensor([[1], [1]])).tolist() == [[1], [2]]
    assert batch.columns(torch.tensor([[2, 0], [0, 1]])).tolist() == [[2, 0], [1, 2]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_alignment_moves_columns_to_logical_positions(side):
    batch = pad([[5, 6, 7], [8]], pad_id=2, side=side)
    aligned = batch.align(batch.ids[..., None].float())
    assert aligned[..., 0].nan_to_num(-1).tolist() == [[5, 6, 7], [8, -1, -1]]
    wider = batch.align(batch.ids.float(), width=4)
    assert wider.nan_to_num(-1).tolist() == [[5, 6, 7, -1], [8, -1, -1, -1]]


@given(prompts(), st.sampled_from(["left", "right"]))
def test_alignment_undoes_any_padding(ids, side):
    batch = pad(ids, pad_id=PAD, side=side)
    aligned = batch.align(batch.ids.double())
    assert [[int(x) for x in row if x == x] for row in aligned.tolist()] == ids
    assert batch.lengths.tolist() == [len(row) for row in ids]
    assert batch.ragged == (len({len(row) for row in ids}) > 1)


def test_what_is_aligned_is_a_copy():
    batch = pad([[5, 6]], pad_id=2, side="right")
    act = torch.zeros(1, 2, 3)
    batch.align(act).fill_(1.0)
    assert act.sum() == 0


def test_a_step_of_a_cached_batch_counts_the_tokens_in_the_cache():
    """Prompts of 2 and 1 tokens, padded on the left, and one new token each: the last column."""
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    step = Batch(torch.tensor([[9], [9]]), torch.tensor([[2], [1]]), mask)
    assert step.lengths.tolist() == [3, 2]
    assert step.position_ids.tolist() == [[2], [1]]


@pytest.mark.parametrize(
    ("inputs", "ids"),
    [
        ([5, 6], [[5, 6]]),
        ((5, 6), [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
        (torch.tensor([5, 6]), [[5, 6]]),
        (torch.tensor([[5, 6], [7, 8]]), [[5, 6], [7, 8]]),
        ("12", [[BOS, *TOK.convert_tokens_to_ids(["1", "2"])]]),
        (["1", "2"], [[BOS, TOK.convert_tokens_to_ids(d)] for d in "12"]),
    ],
)
def test_inputs_are_read_as_one_list_of_ids_a_prompt(inputs, ids):
    assert token_ids(TOK, inputs, d_vocab=len(TOK)) == ids


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([], "No prompt was given: pass text, token ids, or a list of either."),
        ([[]], "Prompt 0 is empty: a prompt needs at least one token."),
        ([[5], []], "Prompt 1 is empty: a prompt needs at least one token."),
        ([[5], [6, 350]], "Prompt 1 holds token 350, but the vocabulary has 350 tokens."),
        ([-1], "Prompt 0 holds token -1, but the vocabulary has 350 tokens."),
    ],
)
def test_wrong_inputs_are_refused(inputs, text):
    with says(InputError, text):
        token_ids(TOK, inputs, d_vocab=350)


def test_an_empty_text_is_refused_where_no_special_token_is_added():
    class Bare:
        bos_token = None

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            assert (text, add_special_tokens) == ("", True)
            return {"input_ids": []}

    with says(InputError, "Prompt 0 is empty: a prompt needs at least one token."):
        token_ids(Bare(), "", d_vocab=350)


def test_text_needs_a_tokenizer():
    with says(InputError, "This model has no tokenizer, so pass token ids instead of text."):
        token_ids(None, "One", d_vocab=350)
    assert token_ids(None, [[3, 4]], d_vocab=350) == [[3, 4]]


def test_special_tokens_are_added_once():
    plain = encode(TOK, "The sum")
    assert plain[0] == BOS and plain.count(BOS) == 1
    assert encode(TOK, "<bos>The sum") == plain
    assert encode(TOK, "The <bos>")[0] == BOS
    assert encode(TOK, "The <bos>").count(BOS) == 2  # one that was written inside stays


def test_a_question_is_rendered_by_the_chat_template_and_encoded_with_one_first_token():
    rendered = chat(TOK, "What is 2 plus 3?")
    assert rendered == "<bos>User:\nWhat is 2 plus 3?\nAssistant:\n"
    assert encode(TOK, rendered).count(BOS) == 1
    with_system = chat(TOK, "What?", system="Be brief.")
    assert with_system == "<bos>System:\nBe brief.\nUser:\nWhat?\nAssistant:\n"


def test_a_question_without_a_chat_template():
    assert chat(SimpleNamespace(), "What?") == "Question: What?\nAnswer: "
    assert chat(SimpleNamespace(chat_template=None), "Why?") == "Question: Why?\nAnswer: "


@pytest.mark.parametrize(
    ("tokenizer", "config", "pad_id"),
    [
        ({"pad_token_id": 7, "eos_token_id": 8}, {"pad_token_id": 9}, 7),
        ({"pad_token_id": None, "eos_token_id": 8}, {"pad_token_id": 9}, 8),
        ({}, {"pad_token_id": 9, "eos_token_id": 5}, 9),
        ({}, {"eos_token_id": [4, 5]}, 4),
        ({}, {"eos_token_id": []}, 0),
        ({"pad_token_id": 0}, {"pad_token_id": 9}, 0),
        ({}, {}, 0),
    ],
)
def test_padding_is_the_pad_token_else_the_end_of_text_else_zero(tokenizer, config, pad_id):
    assert pad_token(SimpleNamespace(**tokenizer), SimpleNamespace(**config)) == pad_id
    assert pad_token(None, SimpleNamespace(eos_token_id=3)) == 3
