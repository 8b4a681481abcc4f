"""Rows of causal variables: read, marked, made into pairs, and maps exported for them."""

from __future__ import annotations

import json

import pytest
import torch

from interp.alignment.featurizer_export import (
    INDEX,
    Unit,
    export,
    features,
    from_features,
    read_unit,
)
from interp.alignment.maps import Identity, Rotation, consecutive_blocks
from interp.data.causal_variable_rows import (
    answer_token,
    causal_pairs,
    expected_of,
    own_label,
    read_causal_rows,
)
from interp.errors import InputError, SiteError, StoreError
from interp.models.tiny import tokenizer

TOK = tokenizer()
IOI = {
    "prompt": "Then John and Mary went, John gave it to",
    "metadata": {"indirect_object": "Mary", "subject": "John"},
    "random_names_counterfactual": {
        "prompt": "Then Tom and Anna went, Tom gave it to",
        "metadata": {"indirect_object": "Anna"},
    },
    "abc_counterfactual": None,
}
MCQA = {
    "id": "m1",
    "prompt": "Question: red or blue?\nAnswer: red",
    "choices": {"label": ["red", "blue"], "text": ["a", "b"]},
    "answerKey": 1,
    "symbol_counterfactual": {
        "prompt": "Question: big or small?\nAnswer: big",
        "choices": {"label": ["big", "small"]},
        "answerKey": 0,
        "expected": {"answer_pointer": "red"},
    },
}
OURS = {
    "id": "plain",
    "prompt": "2 plus 3 is ",
    "label": 5,
    "counterfactuals": {"random": {"prompt": "1 plus 3 is ", "label": "4"}},
}


def written(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


def test_three_ways_to_write_a_label_are_read(tmp_path):
    ioi, mcqa, ours = read_causal_rows(written(tmp_path, IOI, MCQA, OURS), TOK)
    assert [row.label for row in (ioi, mcqa, ours)] == ["Mary", "blue", "5"]
    assert [row.id for row in (ioi, mcqa, ours)] == ["line-1", "m1", "plain"]
    assert list(ioi.counterfactuals) == ["random_names"]  # the empty one is no matter
    assert ioi.counterfactuals["random_names"].label == "Anna"
    assert mcqa.counterfactuals["symbol"].label == "big"
    assert mcqa.counterfactuals["symbol"].expected == {"answer_pointer": "red"}
    assert not any(row.reason for row in (ioi, mcqa, ours))


def test_bad_rows_are_marked_and_the_others_kept(tmp_path):
    longer = {**OURS, "id": "longer", "counterfactuals": {"r": {"prompt": "11 plus 3 is "}}}
    broken = {**MCQA, "id": "broken", "answerKey": 2}
    silent = {"id": "silent", "prompt": "Then", "r_counterfactual": {"prompt": "So"}}
    lonely = {"id": "lonely", "prompt": "Then", "label": "a"}
    blank = {**OURS, "id": "blank", "counterfactuals": {"r": {"prompt": " "}}}
    path = written(tmp_path, longer, broken, silent, lonely, blank, "{", "[]", OURS)
    assert [(row.id, row.reason) for row in read_causal_rows(path, TOK)] == [
        (
            "longer",
            "counterfactual 'r' has 8 tokens and the prompt 7: a position must mean the same in "
            "both",
        ),
        ("broken", "its label is not text, a number, or a place among its choices"),
        ("silent", "no label: give `label`, or `choices` and `answerKey`"),
        ("lonely", "no counterfactual prompt"),
        ("blank", "counterfactual 'r': no text `prompt`"),
        ("line-6", "not JSON: Expecting property name enclosed in double quotes"),
        ("line-7", "not JSON of the right kind: the line is no object"),
        ("plain", None),
    ]


def test_a_file_without_a_good_row_is_refused(tmp_path):
    path = written(tmp_path, "{", "[]")
    with pytest.raises(InputError, match=r"has no row that can be used; the first, line-1: not JS"):
        read_causal_rows(path)
    with pytest.raises(InputError, match=r"^There is no file .*: give a JSONL file of rows with"):
        read_causal_rows(tmp_path / "none.jsonl")


def test_pairs_by_hand(tmp_path):
    """Two rows share a source: three prompts for two pairs; y* is the source's own answer."""
    other = {**OURS, "id": "other", "prompt": "2 plus 2 is ", "label": 4}
    rows = read_causal_rows(written(tmp_path, OURS, other, IOI), TOK)
    made = causal_pairs(rows, "random_counterfactual", "sum", own_label, TOK)
    four, five = (answer_token(TOK, "2 plus 3 is ", digit) for digit in "45")
    assert made.inputs.shape == (3, 7) and made.pairs.variables == ("sum",)
    assert made.pairs.base.tolist() == [0, 2] and made.pairs.sources.tolist() == [[1], [1]]
    assert made.pairs.labels.tolist() == [four, four]
    assert made.pairs.base_labels.tolist() == [five, four]
    assert made.pairs.sensitive.tolist() == [True, False]
    assert [row.id for row in made.rows] == ["plain", "other"]
    assert [row.reason for row in made.left_out] == ["no counterfactual 'random'"]
    assert TOK.decode(made.inputs[1]) == "<bos>1 plus 3 is "


def test_an_expected_answer_may_stand_in_the_row(tmp_path):
    rows = read_causal_rows(written(tmp_path, MCQA), TOK)
    made = causal_pairs(rows, "symbol", "answer_pointer", expected_of("answer_pointer"), TOK)
    assert made.pairs.labels.tolist() == [answer_token(TOK, MCQA["prompt"], "red")]
    with pytest.raises(
        InputError, match=r"^No row makes a pair; the first, m1: no expected answer"
    ):
        causal_pairs(rows, "symbol", "answer", expected_of("answer"), TOK)
    with pytest.raises(
        InputError, match=r"No row has the counterfactual 'symbl'.*Did you mean 'sy"
    ):
        causal_pairs(rows, "symbl", "answer", own_label, TOK)


def test_an_answer_is_one_token_or_none():
    assert answer_token(TOK, "Mary went to", "Tom") == TOK.convert_tokens_to_ids("ĠTom")
    assert answer_token(TOK, "1 plus 1 is ", "2") == TOK.convert_tokens_to_ids("2")
    assert answer_token(TOK, "Mary went to", "Timbuktu") is None


# ---------------------------------------------------------------- export


def test_units_are_named_by_the_block_that_they_enter():
    assert str(Unit("3.resid_pre", "last_token")) == "ResidualStream(Layer-3,Token-last_token)"
    assert str(Unit("2.resid_post", "last_token")) == "ResidualStream(Layer-3,Token-last_token)"
    with pytest.raises(SiteError, match=r"^'2\.mlp_out' cannot be exported: units are what enters"):
        Unit("2.mlp_out", "last")
    with pytest.raises(InputError, match=r"^position='a/b': a unit's position is a plain name\.$"):
        Unit("2.resid_pre", "a/b")


def test_an_exported_subspace_swaps_as_the_map_does(tmp_path):
    """Features of base and source, the indices swapped, and back: the map's own interchange."""
    phi, unit = Rotation(6, consecutive_blocks(["x", "y"], 2), seed=1), Unit("0.resid_post", "last")
    files = export({unit: phi}, "y", tmp_path / "cell")
    assert sorted(path.name for path in (tmp_path / "cell").iterdir()) == sorted(
        [*files[str(unit)], INDEX]
    )
    held = read_unit(tmp_path / "cell", unit)
    assert held.indices == (2, 3) and held.info["n_features"] == 4
    assert held.info["featurizer_class"] == "SubspaceFeaturizerModule"
    base, source = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    (mine, error), (given, _) = features(held, base), features(held, source)
    torch.testing.assert_close(from_features(held, mine, error), base)  # rounding of float32
    mine[:, list(held.indices)] = given[:, list(held.indices)]
    active = torch.tensor([[False, True]]).expand(5, -1)
    judge = phi.swap(base, torch.stack([source, source], dim=1), active).detach()
    torch.testing.assert_close(from_features(held, mine, error), judge)
    assert (judge - base).abs().max() > 0.1


def test_another_map_is_exported_with_its_own_weights_and_needs_a_module(tmp_path):
    unit = Unit("1.resid_pre", "subject")
    export({unit: Identity(4, {"x": [1, 3]})}, "x", tmp_path)
    held = read_unit(tmp_path, unit)
    assert held.indices == (1, 3) and held.info["featurizer_class"] == "IdentityFeaturizerModule"
    assert held.info["additional_config"] == {"family": "identity", "d": 4}
    with pytest.raises(InputError, match=r"^A unit of class IdentityFeaturizerModule is no subsp"):
        features(held, torch.zeros(1, 4))


def test_what_an_export_refuses_and_that_it_then_writes_nothing(tmp_path):
    unit, folder = Unit("1.resid_pre", "last"), tmp_path / "cell"
    with pytest.raises(InputError, match=r"^No unit was given: a missing one is scored as a swap"):
        export({}, "x", folder)
    with pytest.raises(InputError, match=r"-1,Token-last\) has no block for 'z'; it has x\.$"):
        export({unit: Identity(4, {"x": [0]})}, "z", folder)
    assert not folder.exists()
    export({unit: Identity(4, {"x": [0]})}, "x", folder)
    (folder / f"{unit}_indices").unlink()
    with pytest.raises(StoreError, match=r"lacks ResidualStream\(Layer-1,Token-last\)_indices: ex"):
        read_unit(folder, unit)
