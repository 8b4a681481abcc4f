"""Attention edits on rows that are worked out by hand; errors word for word."""

from __future__ import annotations

import re

import pytest
import torch

import interp
from interp.attention_edits import Knockout, ReplacePattern, ScaleAttention, draws, shuffled
from interp.edits import Where
from interp.errors import EditError, InterpError, PositionError, SilentEditError, SiteError
from interp.sites import Each
from tests.strategies import tiny

SITE = "1.attn.pattern"
ROWS = torch.tensor(
    [
        [[0.5, 0.25, 0.25, 0.0], [0.0, 0.75, 0.25, 0.0]],  # query 2 of prompt 0: keys 0, 1, 2
        [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]],  # query 0 of prompt 1: key 0
    ]
)
SEEN = torch.tensor([[True, True, True, False], [True, False, False, False]])


def where(heads=None) -> Where:
    pick = (...,) if heads is None else (..., torch.tensor(heads), slice(None))
    rows, pos = torch.tensor([0, 1]), torch.tensor([2, 0])
    return Where(rows, pos, lambda tensor: tensor[pick], 2, (2, 4), SEEN)


def new(edit, rows=ROWS):
    before = rows.clone()
    made = edit.new(rows, where())
    assert torch.equal(rows, before)  # what is passed in stays as it was
    return made


# ---------------------------------------------------------------- numbers


def test_a_knockout_moves_the_weight_to_the_other_keys():
    made = new(Knockout(SITE, keys=2))
    expected = torch.tensor([[2 / 3, 1 / 3, 0, 0], [0, 1, 0, 0]])
    torch.testing.assert_close(made[0], expected)
    assert torch.equal(made[1], ROWS[1])  # query 0 does not see key 2: not a bit changes


def test_a_knockout_may_leave_the_rest_as_it_is():
    made = new(Knockout(SITE, keys=(1, 2), renormalise=False))
    assert made[0].tolist() == [[0.5, 0, 0, 0], [0, 0, 0, 0]]


def test_keys_are_named_for_each_prompt():
    made = new(Knockout(SITE, keys=Each(((1,), (3,))), renormalise=False))
    assert made[0].tolist() == [[0.5, 0, 0.25, 0], [0, 0, 0.25, 0]]
    assert torch.equal(made[1], ROWS[1])


def test_scaling_multiplies_and_renormalises():
    """(.5, .25 * 2, .25) sums to 1.25; (0, 1.5, .25) to 1.75."""
    made = new(ScaleAttention(SITE, keys=1, factor=2.0))
    torch.testing.assert_close(made[0], torch.tensor([[0.4, 0.4, 0.2, 0], [0, 6 / 7, 1 / 7, 0]]))
    plain = new(ScaleAttention(SITE, keys=1, factor=2.0, renormalise=False))
    assert plain[0].tolist() == [[0.5, 0.5, 0.25, 0], [0, 1.5, 0.25, 0]]


def test_scaling_by_zero_is_a_knockout_and_by_one_changes_no_bit():
    assert torch.equal(new(ScaleAttention(SITE, keys=2, factor=0.0)), new(Knockout(SITE, keys=2)))
    third = torch.tensor([0.1, 0.3, 0.5, 0.0]).expand(2, 2, 4)  # does not sum to 1
    assert torch.equal(new(ScaleAttention(SITE, keys=2, factor=1.0), third)[0], third[0])


def test_uniform_is_the_mean_over_the_keys_that_a_query_sees():
    plain = new(ReplacePattern(SITE, kind="uniform", renormalise=False))
    torch.testing.assert_close(plain.sum(-1), ROWS.sum(-1))
    made = new(ReplacePattern(SITE, kind="uniform"))
    torch.testing.assert_close(made[0], torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0]] * 2))
    assert torch.equal(made[1], ROWS[1])


def test_reversed_is_the_largest_weight_less_each():
    """.5 - (.5, .25, .25) = (0, .25, .25); .75 - (0, .75, .25) = (.75, 0, .5)."""
    plain = new(ReplacePattern(SITE, kind="reversed", renormalise=False))
    assert plain[0].tolist() == [[0, 0.25, 0.25, 0], [0.75, 0, 0.5, 0]]
    assert plain[1].tolist() == [[0, 0, 0, 0]] * 2  # 1 - 1
    made = new(ReplacePattern(SITE, kind="reversed"))
    torch.testing.assert_close(made[0], torch.tensor([[0, 0.5, 0.5, 0], [0.6, 0, 0.4, 0]]))
    assert torch.equal(made[1], ROWS[1])  # a flat row stays


def test_a_permutation_keeps_the_weights_that_a_query_sees():
    order = torch.tensor([[[0.5, 0.9, 0.1, 0.0], [0.2, 0.1, 0.3, 0.0]]])
    made = shuffled(ROWS[:1], SEEN[:1, None].expand(1, 2, 4), order)
    assert made[0].tolist() == [[0.25, 0.5, 0.25, 0], [0.75, 0.0, 0.25, 0]]
    edited = new(ReplacePattern(SITE, kind="shuffled", seed=3, renormalise=False))
    assert torch.equal(edited.sort(-1).values, ROWS.sort(-1).values)
    assert torch.equal(edited[..., 3], ROWS[..., 3])


def test_shuffles_are_uniform_over_the_permutations():
    """Where the largest of three weights goes: a third each; 3000 draws have a deviation of 26."""
    pos = torch.arange(3000)
    order = draws(torch.zeros_like(pos), 0, pos, 1, 3)
    rows = torch.tensor([0.6, 0.3, 0.1]).expand(3000, 1, 3)
    made = shuffled(rows, torch.ones_like(rows, dtype=torch.bool), order)
    counts = made[:, 0].argmax(-1).bincount(minlength=3)
    assert (counts - 1000).abs().max() < 4 * 26


def test_draws_are_uniform_and_independent_in_what_names_them():
    """SplitMix64 from state 0 begins e220a8397b1dcdaf (Vigna, prng.di.unimi.it)."""
    from interp.attention_edits import _mixed

    assert int(_mixed(torch.tensor([0]))) % 2**64 == 0xE220A8397B1DCDAF
    pos = torch.arange(200)
    made = draws(torch.zeros_like(pos), 3, pos, 4, 50)
    assert made.unique().numel() == made.numel() and made.min() >= 0 and made.max() < 1
    assert abs(float(made.mean()) - 0.5) < 4 * (1 / 12 / made.numel()) ** 0.5
    rows = made.flatten(1) - 0.5
    correlation = (rows[:-1] * rows[1:]).mean() * 12
    assert abs(float(correlation)) < 4 / made.numel() ** 0.5
    for other in (draws(pos * 0 + 1, 3, pos, 4, 50), draws(pos * 0, 4, pos, 4, 50)):
        assert not (other == made).any()
    fewer = draws(torch.zeros(2, dtype=torch.long), 3, torch.tensor([7, 9]), 4, 6)
    assert torch.equal(fewer, made[[7, 9], :, :6])  # neither other entries nor keys matter


def test_random_weights_are_uniform_on_0_to_2():
    made = new(ReplacePattern(SITE, kind="random", seed=1, renormalise=False))
    expected = 2 * draws(torch.ones(2, dtype=torch.long), 1, torch.tensor([2, 0]), 2, 4)
    torch.testing.assert_close(made, torch.where(SEEN[:, None], expected, 0).float())
    summed = new(ReplacePattern(SITE, kind="random", seed=1)).sum(-1)
    torch.testing.assert_close(summed, torch.ones(2, 2))


def test_a_tuple_of_seeds_gives_each_prompt_its_own():
    one = new(ReplacePattern(SITE, kind="random", seed=5, renormalise=False))
    two = new(ReplacePattern(SITE, kind="random", seed=(5, 6), renormalise=False))
    assert torch.equal(one[0], two[0]) and not torch.equal(one[1], two[1])


def test_a_source_may_have_fewer_or_more_keys_than_the_batch():
    source = torch.rand(2, 2, 3, 3).tril()
    made = new(ReplacePattern(SITE, source=source, renormalise=False))
    assert torch.equal(made[0, :, :3], source[0, :, 2])
    assert torch.equal(made[1, :, 0], source[1, :, 0, 0])
    wide = torch.rand(2, 2, 6, 6)  # whatever it says about the future is dropped
    made = new(ReplacePattern(SITE, source=wide, renormalise=False))
    assert torch.equal(
        made, torch.where(SEEN[:, None], torch.stack([wide[0, :, 2, :4], wide[1, :, 0, :4]]), 0)
    )


def test_half_precision_is_renormalised_in_float32():
    rows = torch.full((2, 2, 4), 1 / 3, dtype=torch.bfloat16) * SEEN[:, None]
    made = ScaleAttention(SITE, keys=0, factor=2.0).new(rows, where())
    assert made.dtype == torch.bfloat16
    expected = torch.tensor([0.5, 0.25, 0.25, 0]).bfloat16().expand(2, 4)
    assert torch.equal(made[0], expected)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Knockout("5.attn.scores", keys=1),
            EditError,
            "Knockout edits attention patterns, not 5.attn.scores: write a site such as "
            "5.attn.pattern.",
        ),
        (
            lambda: ReplacePattern("embed", kind="uniform"),
            EditError,
            "ReplacePattern edits attention patterns, not embed: write a site such as "
            "5.attn.pattern.",
        ),
        (
            lambda: Knockout(SITE, keys=1, units=2),
            EditError,
            "Knockout(1.attn.pattern, units=(2,), keys=(1,)): the units of a pattern are keys, and "
            "an edit of part of a row cannot keep its sum; leave units out and name keys= where "
            "the edit takes them.",
        ),
        (
            lambda: Knockout(SITE, keys=(1, -2)),
            PositionError,
            "keys=(1, -2): give logical positions from 0, each once, such as (0, 3), or Each.",
        ),
        (
            lambda: Knockout(SITE, keys=()),
            PositionError,
            "keys=(): give logical positions from 0, each once, such as (0, 3), or Each.",
        ),
        (
            lambda: Knockout(SITE, keys="prompt"),
            PositionError,
            "keys='prompt': give logical positions from 0, each once, such as (0, 3), or Each.",
        ),
        (
            lambda: ScaleAttention(SITE, keys=1, factor=-1.0),
            EditError,
            "ScaleAttention(1.attn.pattern, keys=(1,), factor=-1.0): factor=-1.0; attention is "
            "never negative, so give 0 or a positive number.",
        ),
        (
            lambda: ScaleAttention(SITE, keys=1, factor=float("nan")),
            EditError,
            "ScaleAttention(1.attn.pattern, keys=(1,), factor=nan): factor=nan; attention is "
            "never negative, so give 0 or a positive number.",
        ),
        (
            lambda: ReplacePattern(SITE),
            EditError,
            "ReplacePattern(1.attn.pattern, source): give kind (uniform, reversed, shuffled, "
            "random) or source, one of both.",
        ),
        (
            lambda: ReplacePattern(SITE, kind="uniform", source=torch.ones(1, 1, 1, 1)),
            EditError,
            "ReplacePattern(1.attn.pattern, kind=uniform): give kind (uniform, reversed, shuffled, "
            "random) or source, one of both.",
        ),
        (
            lambda: ReplacePattern(SITE, kind="random", seed=-1),
            EditError,
            "ReplacePattern(1.attn.pattern, kind=random, seed=-1): seed=-1; give whole numbers "
            "from 0 to 2**31 - 1.",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(make, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()


BATCH = [[5, 60, 7, 200], [9, 33]]


def capture(batch):
    return tiny("tiny-llama").run(batch, capture=SITE).acts[SITE]


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (
            lambda: Knockout(SITE, positions=0, keys=1),
            SilentEditError,
            "Knockout(1.attn.pattern, positions=(0,), keys=(1,)) would change nothing: no query "
            "that it names in prompt 0 sees any of these keys. Name keys that are not later than "
            "the queries, and inside the layer's window.",
        ),
        (
            lambda: ScaleAttention(SITE, positions="last", keys=3, factor=2.0),
            SilentEditError,
            "ScaleAttention(1.attn.pattern, positions=last, keys=(3,), factor=2.0) would change "
            "nothing: no query that it names in prompt 1 sees any of these keys. Name keys that "
            "are not later than the queries, and inside the layer's window.",
        ),
        (
            lambda: Knockout(SITE, keys=4),
            PositionError,
            "Knockout(1.attn.pattern, keys=(4,)): key 4 is past the end: the model sees at most 4 "
            "tokens of a prompt.",
        ),
        (
            lambda: Knockout(SITE, keys=Each(((0,),))),
            PositionError,
            "Knockout(1.attn.pattern, keys=Each(((0,),))): keys name positions for 1 prompts and "
            "the batch has 2; give one tuple a prompt.",
        ),
        (
            lambda: ReplacePattern(SITE, source=capture(BATCH[:1])),
            EditError,
            "ReplacePattern(1.attn.pattern, source): the source holds 1 prompts and the batch 2; "
            "expand the source to one entry a prompt.",
        ),
        (
            lambda: ReplacePattern(SITE, source=capture([[5, 6], [7, 8]])),
            PositionError,
            "ReplacePattern(1.attn.pattern, source): the source of 2 tokens has no query 3; "
            "capture it from a prompt that is long enough, or name fewer positions.",
        ),
        (
            lambda: ReplacePattern(SITE, source=capture([BATCH[1], BATCH[0]])),
            EditError,
            "ReplacePattern(1.attn.pattern, source): the source is NaN at a named query: that is "
            "padding.",
        ),
        (
            lambda: ReplacePattern(SITE, source=torch.ones(2, 3, 4, 4)),
            EditError,
            "ReplacePattern(1.attn.pattern, source): the source has 3 heads and the model 4; "
            "capture it from the same model.",
        ),
        (
            lambda: ReplacePattern(SITE, kind="shuffled", seed=(1, 2, 3)),
            EditError,
            "ReplacePattern(1.attn.pattern, kind=shuffled, seed=(1, 2, 3)): there are 3 seeds and "
            "2 prompts; give one for each prompt, or one number for all.",
        ),
    ],
)
def test_what_a_run_cannot_have_is_refused(edit, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        tiny("tiny-llama").run(BATCH, edits=[edit()])


def test_a_query_with_nothing_left_is_refused_unless_rows_need_not_sum_to_one():
    model, cut = tiny("tiny-llama"), {"positions": (1,), "keys": (0, 1)}
    with pytest.raises(EditError, match="leaves query 1 of prompt 0 no") as caught:
        model.run(BATCH, edits=[Knockout(SITE, **cut)])
    assert str(caught.value).startswith("Knockout(1.attn.pattern, positions=(1,), keys=(0, 1))")
    assert "its row cannot sum to 1: pass renormalise=False" in str(caught.value)
    run = model.run(BATCH, edits=[Knockout(SITE, **cut, renormalise=False)], capture=SITE)
    assert run.acts[SITE][:, :, 1].nan_to_num().abs().sum() == 0


# ---------------------------------------------------------------- before a model runs


def checked(edit, batch, name="tiny-llama", new_tokens=0):
    """Ask an edit about the queries that a session says it names."""
    model = tiny(name)
    tokens = model.tokens(batch)
    session = model.session(tokens, tokens.lengths + max(new_tokens - 1, 0), [edit], ())
    return edit.check(session.edits[0].due, model.sizes.window(edit.site.layer), None)


LONG = list(range(5, 17))  # 12 tokens; the window of tiny-mistral is 8


@pytest.mark.parametrize(
    ("edit", "batch", "error", "start"),
    [
        (Knockout(SITE, keys=3), [LONG, [5, 6]], SilentEditError, "no query that it names in p"),
        (Knockout(SITE, positions="last", keys=3), [LONG], SilentEditError, "would change nothing"),
        (
            Knockout(SITE, positions=2, keys=(0, 1, 2)),
            [LONG],
            EditError,
            "leaves query 2 of prompt",
        ),
        (Knockout(SITE, keys=0), [LONG], EditError, "leaves query 0 of prompt 0 no key to attend"),
        (Knockout(SITE, keys=12), [LONG], PositionError, "key 12 is past the end"),
        (ReplacePattern(SITE, kind="random", seed=(1, 2)), [LONG], EditError, "there are 2 seeds"),
        (
            ReplacePattern(SITE, source=torch.ones(1, 4, 11, 11)),
            [LONG],
            PositionError,
            "has no query 11",
        ),
    ],
)
def test_a_check_refuses_without_running(edit, batch, error, start):
    with pytest.raises(error, match=re.escape(start)):
        checked(edit, batch, "tiny-mistral")


def test_a_check_passes_what_acts():
    checked(Knockout(SITE, positions=(4, 11), keys=(4, 5)), [LONG], "tiny-mistral")
    checked(Knockout(SITE, keys=0, renormalise=False), [LONG], "tiny-mistral")
    checked(Knockout(SITE, positions="last", keys=Each(((11,), (0,)))), [LONG, [5, 6]])
    checked(Knockout(SITE, positions="new", keys=2), [[5, 6, 7]], new_tokens=3)
    checked(ReplacePattern(SITE, kind="random", seed=(1, 2)), [LONG, [5, 6]])
    with pytest.raises(SilentEditError):  # key 4 is the last token that is read
        checked(Knockout(SITE, positions="prompt", keys=4), [[5, 6, 7]], new_tokens=3)


def test_nnsight_refuses_the_site():
    model = interp.load(tiny("tiny-llama").hf, engine="nnsight")
    message = "The engine nnsight has no site '1.attn.pattern': it lies inside the attention"
    with pytest.raises(SiteError, match=re.escape(message)):
        model.run(BATCH, edits=[ReplacePattern(SITE, kind="uniform")])


def test_every_refusal_is_an_interp_error():
    assert all(
        issubclass(each, InterpError) for each in (EditError, PositionError, SilentEditError)
    )
