"""A patching grid: its cells are plain runs, and what the architecture fixes comes out exactly."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest

from interp.data.pairs import PromptPair, indirect_object
from interp.edits import Patch
from interp.errors import InputError, SiteError, UndefinedEffectError
from interp.patching.activation import patch_grid
from tests.strategies import says, tiny

PAIR = PromptPair(
    clean="When Tom and Anna went to the store, Anna gave a ball to",
    corrupted="When Tom and Anna went to the store, Tom gave a ball to",
    correct=" Tom",
    wrong=" Anna",
)
"""One token tells the prompts apart: who gives."""
NAMES = ("tiny-gpt2", "tiny-llama", "tiny-gemma3", "tiny-neox")
ROUNDING = 1e-5


@cache
def grid(name: str, component: str = "resid_pre", direction: str = "denoise"):
    return patch_grid(tiny(name), PAIR, component=component, direction=direction)


def giver(name: str = "tiny-llama") -> int:
    """The one position where the prompts differ."""
    model = tiny(name)
    one, other = (model.tokens(text).ids[0].tolist() for text in (PAIR.clean, PAIR.corrupted))
    (pos,) = [i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]
    return pos


def difference(model, logits) -> list[float]:
    """Logit of ` Tom` less that of ` Anna`, at the end of each prompt."""
    ids = [model.tokenizer(t, add_special_tokens=False).input_ids for t in (" Tom", " Anna")]
    return (logits[:, ids[0][0]] - logits[:, ids[1][0]]).tolist()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("tiny-gpt2", "resid_pre"),
        ("tiny-llama", "attn.z"),
        ("tiny-gemma3", "mlp_out"),
        ("tiny-neox", "resid_post"),
        ("tiny-llama", "attn.k"),
    ],
)
def test_every_cell_is_one_plain_run_with_one_patch(name, component, direction):
    model = tiny(name)
    found = grid(name, component, direction)
    base, other = PAIR.corrupted, PAIR.clean
    if direction == "noise":
        base, other = other, base
    low, high = (difference(model, model.run(t, logits="last").logits)[0] for t in (base, other))
    assert len(found.cells) == 3 * len(model.tokens(base).ids[0])
    for cell in found.cells[::4]:
        source = model.run(other, capture=cell.site).acts[cell.site]
        edit = Patch(cell.site, source=source, positions=cell.pos)
        run = model.run(base, edits=[edit], logits="last")
        (patched,) = difference(model, run.logits)
        assert cell.logit_diff == pytest.approx(patched, rel=0, abs=ROUNDING)
        share = (patched - low) / (high - low)
        assert cell.recovered == pytest.approx(share, rel=0, abs=2 * ROUNDING / abs(high - low))
        assert cell.change == pytest.approx(run.receipt[0].change, rel=1e-4, abs=ROUNDING)
        assert cell.direction == direction
        assert cell.site == f"{cell.layer}.{component}"


@pytest.mark.parametrize("name", NAMES)
def test_the_unpatched_runs_and_the_null_stand_beside_the_cells(name):
    model, found = tiny(name), grid(name)
    for text, value in ((PAIR.clean, found.clean_logit_diff), (PAIR.corrupted, None)):
        expected = difference(model, model.run(text, logits="last").logits)[0]
        value = found.corrupted_logit_diff if value is None else value
        assert value == pytest.approx(expected, rel=0, abs=ROUNDING)
    assert found.pair == PAIR
    assert 0 <= found.noop_change <= ROUNDING


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", NAMES)
def test_at_layer_0_only_the_token_that_differs_changes_anything(name, direction):
    """The residual stream before block 0 at a position depends on its token alone."""
    found = grid(name, "resid_pre", direction)
    for cell in found.cells:
        if cell.layer == 0 and cell.pos == giver(name):
            assert cell.recovered == pytest.approx(1.0, abs=1e-4)
            assert cell.change > 0.1
        elif cell.layer == 0:
            assert cell.recovered == pytest.approx(0.0, abs=1e-4)
            assert cell.change == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_before_the_token_that_differs_nothing_can_change_at_any_layer(name):
    """Attention looks back only."""
    before = [cell for cell in grid(name).cells if cell.pos < giver(name)]
    assert len(before) == 3 * giver(name) > 0
    for cell in before:
        assert cell.change == pytest.approx(0.0, abs=ROUNDING)
        assert cell.recovered == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_after_the_last_block_only_the_last_token_counts(name):
    """Its residual stream alone is unembedded: patched, it gives back the whole difference."""
    model = tiny(name)
    found = patch_grid(model, PAIR, component="resid_post", layers=[2])
    *others, last = found.cells
    assert [cell.pos for cell in found.cells] == list(range(len(found.cells)))
    assert last.recovered == pytest.approx(1.0, abs=1e-4)
    assert all(cell.recovered == pytest.approx(0.0, abs=1e-4) for cell in others)


def test_resid_post_is_the_next_resid_pre():
    after = {(c.layer + 1, c.pos): c for c in grid("tiny-llama", "resid_post").cells}
    for cell in grid("tiny-llama").cells:
        if cell.layer > 0:
            twin = after[cell.layer, cell.pos]
            assert cell.logit_diff == pytest.approx(twin.logit_diff, rel=0, abs=ROUNDING)


def test_noise_is_denoise_with_the_prompts_exchanged():
    model = tiny("tiny-gpt2")
    swapped = replace(PAIR, clean=PAIR.corrupted, corrupted=PAIR.clean)
    one, other = patch_grid(model, swapped), grid("tiny-gpt2", "resid_pre", "noise")
    for a, b in zip(one.cells, other.cells, strict=True):
        assert (a.site, a.pos, a.token) == (b.site, b.pos, b.token)
        assert a.logit_diff == pytest.approx(b.logit_diff, rel=0, abs=ROUNDING)
        assert a.recovered == pytest.approx(b.recovered, rel=0, abs=1e-3)


def test_cells_name_the_token_of_the_prompt_that_is_patched():
    model = tiny("tiny-llama")
    for direction, text in (("denoise", PAIR.corrupted), ("noise", PAIR.clean)):
        cells = grid("tiny-llama", "resid_pre", direction).cells
        tokens = [cell.token for cell in cells if cell.layer == 0]
        assert "".join(tokens) == "<bos>" + text
        assert tokens[giver()] == (" Tom" if direction == "denoise" else " Anna")
    assert model.tokenizer.bos_token == tokens[0]


def test_layers_are_those_asked_for_in_that_order():
    calls = []
    found = patch_grid(
        tiny("tiny-gpt2"), PAIR, layers=[2, 0], progress=lambda *done: calls.append(done)
    )
    whole = {(c.layer, c.pos): c for c in grid("tiny-gpt2").cells}
    assert list(dict.fromkeys(cell.layer for cell in found.cells)) == [2, 0]
    for cell in found.cells:
        expected = whole[cell.layer, cell.pos].logit_diff
        assert cell.logit_diff == pytest.approx(expected, rel=0, abs=ROUNDING)
    n_cells = len(found.cells) + 1  # and the null
    assert calls[-1] == (n_cells, n_cells)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_prompts_of_unequal_length_are_refused():
    pair = replace(PAIR, corrupted=PAIR.corrupted + " the")
    n = len(tiny("tiny-gpt2").tokens(PAIR.clean).ids[0])
    message = (
        f"The clean prompt has {n} tokens and the corrupted one {n + 1}: "
        "patching by position needs as many in both; choose names of equal length."
    )
    with says(InputError, message):
        patch_grid(tiny("tiny-gpt2"), pair)


@pytest.mark.parametrize(("field", "text", "n"), [("correct", " Tomas", 6), ("wrong", "", 0)])
def test_an_answer_of_more_or_less_than_one_token_is_refused(field, text, n):
    message = f"The answer {text!r} is {n} tokens: choose one of a single token."
    with says(InputError, message):
        patch_grid(tiny("tiny-gpt2"), replace(PAIR, **{field: text}))


def test_equal_prompts_leave_no_gap_and_patch_nothing(monkeypatch):
    model = tiny("tiny-gpt2")
    value = difference(model, model.run(PAIR.clean, logits="last").logits)[0]
    run, edited = model.run, []

    def counted(*args, edits=(), **options):
        edited.extend(edits)
        return run(*args, edits=edits, **options)

    monkeypatch.setattr(model, "run", counted)
    with pytest.raises(
        UndefinedEffectError, match=re.escape(f"both score {value}: the pair has no gap")
    ):
        patch_grid(model, replace(PAIR, corrupted=PAIR.clean))
    assert edited == []


def test_a_site_that_the_model_lacks_is_refused():
    with pytest.raises(SiteError, match=r"no site '0\.resid_midd'|resid_midd"):
        patch_grid(tiny("tiny-gpt2"), PAIR, component="resid_midd")
    with pytest.raises(SiteError, match=r"^The model has no site '9\.resid_pre': its layers are"):
        patch_grid(tiny("tiny-gpt2"), PAIR, layers=[9])


def test_generated_pairs_are_patched_where_their_names_are_single_tokens():
    pair = indirect_object(1, seed=3)[0]
    found = patch_grid(tiny("tiny-gpt2"), pair, layers=[0])
    (cell,) = [cell for cell in found.cells if cell.change > 0]
    assert cell.token == pair.correct
    assert cell.recovered == pytest.approx(1.0, abs=1e-4)
