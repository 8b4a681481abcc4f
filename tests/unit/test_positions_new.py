"""Positions by name, of each prompt and of new tokens: in runs and in generations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from interp.edits import Add, Edit, Patch, Scale, ZeroAblate
from interp.errors import PositionError, SilentEditError
from interp.models.tiny import TINY
from interp.sites import Each, New
from tests.strategies import ToyModel, gap, noise, same, says, tiny

PROMPTS = [[5, 60, 7, 200], [9, 33], [11, 12, 90]]
LENGTHS = [len(prompt) for prompt in PROMPTS]
NEW = 4
EACH = Each(((3, 0), (1,), (0, 2)))
TOLERANCE = 3e-5
"""As in `test_generation`: a cache multiplies in another order, and logits reach 15."""


def tokens(positions: list[list[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((row, pos) for row, several in enumerate(positions) for pos in sorted(several))


# ---------------------------------------------------------------- runs

IN_A_RUN = {
    "all": (range(4), range(2), range(3)),
    "prompt": (range(4), range(2), range(3)),
    "last": ((3,), (1,), (2,)),
    EACH: EACH.prompts,
    (0, 1): ((0, 1), (0, 1), (0, 1)),
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", IN_A_RUN, ids=str)
def test_a_ragged_run_reaches_each_prompts_own_tokens(positions, side):
    """And they are those of one run a prompt, with the indices written out."""
    model, vector = tiny("tiny-llama"), noise(32)
    edit = Add("1.resid_mid", vector=vector, positions=positions)
    run = model.run(PROMPTS, edits=[edit], padding_side=side)
    assert run.receipt[0].tokens == tokens([list(each) for each in IN_A_RUN[positions]])
    for row, (prompt, named) in enumerate(zip(PROMPTS, IN_A_RUN[positions], strict=True)):
        alone = model.run([prompt], edits=[replace(edit, positions=tuple(named))])
        assert gap(run.logits[row, : len(prompt)], alone.logits[0]) <= 1e-5


def test_the_last_token_by_hand():
    """Without attention 11 t (1, 2, 3, 4), else 33 t: the last of (1, 2) and of (3) is 2 and 3."""
    run = ToyModel().run([[1, 2], [3]], edits=[ZeroAblate("0.attn_out", positions="last")])
    assert run.logits[:, :, 0].nan_to_num(-1).tolist() == [[33, 22], [33, -1]]
    each = [ZeroAblate("0.attn_out", positions=Each(((0,), (0,))))]
    run = ToyModel().run([[1, 2], [3]], edits=each)
    assert run.logits[:, :, 0].nan_to_num(-1).tolist() == [[11, 66], [33, -1]]


def test_rows_narrow_what_each_prompt_names():
    edit = ZeroAblate("1.attn_out", positions=EACH, rows=(2, 1))
    assert tiny("tiny-gpt2").run(PROMPTS, edits=[edit]).receipt[0].tokens == (
        (1, 1),
        (2, 0),
        (2, 2),
    )


def test_the_last_token_is_captured_of_each_prompt():
    model = tiny("tiny-llama")
    sites = ["1.attn.z", "1.attn.pattern", "1.resid_post"]
    whole = model.run(PROMPTS, capture=sites, padding_side="left").acts
    last = model.run(PROMPTS, capture=dict.fromkeys(sites, "last"), padding_side="left").acts
    for site in sites:
        axis = 2 if site.endswith("pattern") else 1
        assert last[site].shape[axis] == 1
        for row, n in enumerate(LENGTHS):
            expected = whole[site][row].select(axis - 1, n - 1)
            assert same(last[site][row].select(axis - 1, 0), expected)


def test_a_patch_at_the_last_token_takes_the_sources_token_at_that_place():
    model, site = tiny("tiny-gpt2"), "1.resid_post"
    source = noise(3, 4, 32)
    run = model.run(PROMPTS, edits=[Patch(site, source=source, positions="last")], capture=site)
    for row, n in enumerate(LENGTHS):
        assert torch.equal(run.acts[site][row, n - 1], source[row, n - 1])


# ---------------------------------------------------------------- generation

IN_A_GENERATION = {
    "all": [list(range(n + NEW - 1)) for n in LENGTHS],
    "prompt": [list(range(n)) for n in LENGTHS],
    "last": [[n - 1] for n in LENGTHS],
    "new": [list(range(n, n + NEW - 1)) for n in LENGTHS],
    New(0): [[n] for n in LENGTHS],
    New(2, 0): [[n, n + 2] for n in LENGTHS],
    Each(((3, 5), (1,), (0, 3, 4))): [[3, 5], [1], [0, 3, 4]],
}


def write(name: str, edit: Edit, prompts=PROMPTS, **options):
    options = {"max_new_tokens": NEW, "keep_logits": True, **options}
    return tiny(name).generate(prompts, edits=[edit], **options)


WRITTEN = [("tiny-llama", positions) for positions in IN_A_GENERATION]
WRITTEN += [(name, positions) for name, positions in zip(TINY, IN_A_GENERATION, strict=True)]


@pytest.mark.parametrize(("name", "positions"), dict.fromkeys(WRITTEN), ids=str)
def test_a_generation_reaches_them_with_and_without_the_cache_and_one_by_one(name, positions):
    edit = Add("1.mlp_out", vector=2 * noise(32, seed=7), positions=positions)
    cached, naive = (write(name, edit, cache=cache) for cache in (True, False))
    assert cached.new_ids == naive.new_ids
    assert gap(cached.logits, naive.logits) <= TOLERANCE
    written = [len(ids) for ids in cached.new_ids]
    if written == [NEW] * 3:
        assert cached.receipt[0].tokens == tokens(IN_A_GENERATION[positions])
    assert cached.receipt[0].tokens == naive.receipt[0].tokens
    assert cached.receipt[0].change == pytest.approx(naive.receipt[0].change, rel=1e-5)
    plain = tiny(name).generate(PROMPTS, max_new_tokens=NEW, keep_logits=True)
    first = float((cached.logits[:, 0] - plain.logits[:, 0]).abs().max())
    assert (first > 0.01) == (positions in ("all", "prompt", "last") or isinstance(positions, Each))
    for row, prompt in enumerate(PROMPTS[:2]):
        own = Each((positions.prompts[row],)) if isinstance(positions, Each) else positions
        alone = write(name, replace(edit, positions=own), [prompt])
        assert alone.new_ids[0] == cached.new_ids[row]
        assert gap(alone.logits[0], cached.logits[row]) <= TOLERANCE


@pytest.mark.parametrize("cache", [True, False])
def test_chosen_new_tokens_by_hand(cache):
    """The toy writes 3 after 3; with its sign reversed at a new token it writes 0, and then 0."""
    flip = Scale("0.resid_post", factor=-1.0, positions=New(1))
    out = ToyModel().generate([[1, 1], [2]], max_new_tokens=4, edits=[flip], cache=cache)
    assert out.new_ids == ((3, 3, 0, 0), (3, 3, 0, 0))
    assert out.receipt[0].tokens == ((0, 3), (1, 2))
    flip = replace(flip, positions="last")
    out = ToyModel().generate([[1, 1], [2]], max_new_tokens=2, edits=[flip], cache=cache)
    assert out.new_ids == ((0, 0), (0, 0))
    assert out.receipt[0].tokens == ((0, 1), (1, 0))


def test_a_prompt_that_ends_early_says_which_new_tokens_were_never_reached():
    model = tiny("tiny-gpt2")
    end = torch.zeros(349)
    end[model.tokenizer.eos_token_id] = 1e4
    edits = [
        Add("logits", vector=end, positions=New(0), rows=1),
        Scale("1.mlp_out", factor=2.0, positions=New(0, 2)),
    ]
    out = model.generate(PROMPTS, max_new_tokens=NEW, edits=edits)
    assert len(out.new_ids[1]) == 2
    assert out.receipt[1].missed == ((1, 2 + 2),)
    assert (1, 2) in out.receipt[1].tokens


def test_a_new_token_that_is_never_read_is_refused():
    edit = ZeroAblate("1.attn_out", positions=New(0, 3))
    text = (
        "ZeroAblate(1.attn_out, positions=New(0, 3)): the model sees 3 new tokens of prompt 0, so "
        "there is no new token 3; raise max_new_tokens of generate."
    )
    with says(PositionError, text):
        write("tiny-gpt2", edit)
    assert write("tiny-gpt2", edit, max_new_tokens=5).receipt[0].fired == 2
    with pytest.raises(SilentEditError, match=r"names no token of this run"):
        write("tiny-gpt2", replace(edit, positions="new"), max_new_tokens=1)


def test_positions_of_each_prompt_must_exist_in_the_generation():
    edit = ZeroAblate("1.attn_out", positions=Each(((0,), (5,), (0,))))
    text = (
        "ZeroAblate(1.attn_out, positions=Each(((0,), (5,), (0,)))): position 5 is past the end: "
        "prompt 1 has 5 tokens that the model sees, the last at position 4."
    )
    with says(PositionError, text):
        write("tiny-gpt2", edit)
    assert write("tiny-gpt2", edit, max_new_tokens=5).receipt[0].tokens == ((0, 0), (1, 5), (2, 0))
