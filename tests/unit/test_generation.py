"""Generation under edits: by hand on the toy, and with the cache against one run a token."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from interp.edits import Add, Edit, Patch, Scale, ZeroAblate
from interp.errors import SilentEditError
from interp.sites import UNCACHED, Site
from tests.strategies import KINDS, ToyModel, cut, gap, make, one_of_each, same, tiny

PROMPTS = [[5, 60, 7, 200], [9, 33], [11, 12, 90]]
NEW = 4
NAMES = ("tiny-gpt2", "tiny-llama", "tiny-neox", "tiny-mistral", "tiny-gemma3")
TOLERANCE = {"float32": 3e-5, "float64": 1e-12}
"""Keys and values from a cache are multiplied in another order. Logits are below 15, and an edit
that shrinks the residual stream lets the next norm magnify its rounding; in float64 the difference
falls by eight orders, so it is rounding."""


def write(name: str, prompts=PROMPTS, *edits: Edit, dtype: str = "float32", **options):
    options = {"max_new_tokens": NEW, "keep_logits": True, **options}
    return tiny(name, dtype).generate(prompts, edits=list(edits), **options)


@cache
def plain(name: str, dtype: str) -> Tensor:
    """The logits of what is written without edits."""
    return write(name, dtype=dtype).logits


def one_shot(name: str, dtype: str, ids: list[int], *edits: Edit) -> Tensor:
    """Logits after the last of these ids, from one run of the whole text."""
    return tiny(name, dtype).run([ids], edits=list(edits), logits="last").logits[0]


def force(ids: list[int], after: int, d_vocab: int) -> list[Edit]:
    """Edits at the logits that make prompt 0, of `after` tokens, go on with `ids`."""
    return [
        Add(
            "logits",
            vector=1e4 * torch.nn.functional.one_hot(torch.tensor(token), d_vocab).float(),
            positions=after - 1 + i,
            rows=0,
        )
        for i, token in enumerate(ids)
    ]


# ---------------------------------------------------------------- by hand


@pytest.mark.parametrize("cache", [True, False])
def test_the_toy_writes_its_largest_entry(cache):
    """Logits are 33 t (1, 2, 3, 4): after token 0 comes the first of ties, 0, and else 3."""
    out = ToyModel().generate([[1], [2, 0]], max_new_tokens=3, cache=cache, keep_logits=True)
    assert out.new_ids == ((3, 3, 3), (0, 0, 0))
    assert out.prompt_ids == ((1,), (2, 0))
    assert out.logits[0].tolist() == [[33 * t * c for c in (1, 2, 3, 4)] for t in (1, 3, 3)]
    assert out.logits[1].abs().max() == 0
    assert (out.finished, out.texts) == ((False, False), ("", ""))
    assert str(out.receipt) == "no edits"


@pytest.mark.parametrize("cache", [True, False])
def test_an_edit_of_new_tokens_leaves_the_prompt_alone(cache):
    """At new tokens the stream is reversed in sign, so that after 3 comes 0 and after 0 comes 0.

    The first new token is chosen at the prompt's last token, which is no new one: 3.
    """
    out = ToyModel().generate(
        [[1, 1], [2]],
        max_new_tokens=3,
        edits=[Scale("0.resid_post", factor=-1.0, positions="new")],
        cache=cache,
    )
    assert out.new_ids == ((3, 0, 0), (3, 0, 0))
    assert out.receipt[0].tokens == ((0, 2), (0, 3), (1, 1), (1, 2))
    assert out.receipt[0].fired == 2
    assert out.receipt[0].change == pytest.approx(2 * 99 * (30 * 2) ** 0.5)  # |R|^2 = 30, 2 rows


@pytest.mark.parametrize("cache", [True, False])
def test_an_edit_names_logical_positions_that_go_on_counting(cache):
    """Position 2 is the first new token of (1, 1) and the second of (2)."""
    out = ToyModel().generate(
        [[1, 1], [2]],
        max_new_tokens=3,
        edits=[Scale("0.resid_post", factor=-1.0, positions=2)],
        cache=cache,
    )
    assert out.new_ids == ((3, 0, 0), (3, 3, 0))
    assert out.receipt[0].tokens == ((0, 2), (1, 2))


def test_an_edit_of_the_prompt_acts_in_one_pass_with_the_cache_and_in_each_without():
    edits = [ZeroAblate("1.attn_out", positions=(1, 0))]
    cached, naive = (write("tiny-llama", PROMPTS, *edits, cache=cache) for cache in (True, False))
    assert (cached.receipt[0].fired, naive.receipt[0].fired) == (1, NEW)
    assert cached.receipt[0].tokens == tuple((row, pos) for row in range(3) for pos in range(2))
    assert cached.receipt[0].tokens == naive.receipt[0].tokens
    assert cached.receipt[0].change == pytest.approx(naive.receipt[0].change, rel=1e-5)


# ---------------------------------------------------------------- the cache changes nothing

WHERE = {
    "prompt": {"positions": (1, 0)},
    "a new token": {"positions": (4,)},
    "new": {"positions": "new"},
    "both, of some prompts": {"positions": (1, 4), "rows": (2, 1)},
}


def widened(kind: str, site: str, name: str, where: str) -> Edit:
    """The last new token is never read, so sources (and the keys of a map) end before it."""
    return make(name, kind, site, PROMPTS, extra=NEW - 1, **WHERE[where])


def check_cache(name: str, dtype: str, edit: Edit) -> None:
    """Cache on equals cache off, and that equals one run of the whole text a token."""
    tolerance = TOLERANCE[dtype]
    naive = write(name, PROMPTS, edit, cache=False, dtype=dtype)
    assert float((naive.logits - plain(name, dtype)).abs().max()) > 0.01  # the edit matters
    if Site.parse(edit.site).component not in UNCACHED:
        cached = write(name, PROMPTS, edit, cache=True, dtype=dtype)
        assert cached.new_ids == naive.new_ids
        assert gap(cached.logits, naive.logits) <= tolerance
        assert cached.receipt[0].tokens == naive.receipt[0].tokens
        assert cached.receipt[0].change == pytest.approx(naive.receipt[0].change, rel=1e-4)
    for row, prompt in enumerate(PROMPTS):
        ids = [*prompt, *naive.new_ids[row][:-1]]
        for n in (0, NEW - 1):
            text = ids[: len(prompt) + n]
            logits = one_shot(name, dtype, text, *seen_by(edit, row, len(prompt), len(text)))
            assert int(logits.argmax()) == naive.new_ids[row][n]
            assert gap(naive.logits[row, n], logits) <= tolerance


def seen_by(edit: Edit, row: int, start: int, length: int) -> list[Edit]:
    """What is left of a generation's edit in one run of the first tokens of one of its prompts."""
    if edit.rows is not None and row not in edit.rows:
        return []
    named = {"all": range(length), "new": range(start, length)}.get(edit.positions, edit.positions)
    positions = tuple(pos for pos in named if pos < length)
    if not positions:
        return []
    return [cut(replace(edit, rows=None, positions=positions), row, length)]


@pytest.mark.parametrize("where", ["prompt", "a new token", "new"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_changes_nothing_for_any_kind_of_edit(kind, where):
    check_cache("tiny-gpt2", "float64", widened(kind, "1.resid_post", "tiny-gpt2", where))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_changes_nothing_for_grouped_heads(kind):
    """Heads 3 and 0 at the keys mean their groups, 1 and 0, in every pass."""
    where = {"positions": (1, 4), "rows": (2, 1), "heads": (3, 0)}
    edit = make("tiny-llama", kind, "1.attn.k", PROMPTS, extra=NEW, **where)
    check_cache("tiny-llama", "float32", edit)


@pytest.mark.parametrize(
    ("name", "site"), [(name, site) for name in NAMES[:2] for site in one_of_each(name)]
)
def test_the_cache_changes_nothing_at_any_site(name, site):
    check_cache(name, "float32", widened("Add", site, name, "both, of some prompts"))


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_changes_nothing_beyond_a_sliding_window(name):
    """The windows of tiny Mistral and Gemma-3 are 8 tokens; these texts have up to 18."""
    long = [[(7 * i) % 300 + 5 for i in range(12)], [9, 33], [11, 12, 90, 4, 6, 7, 8, 10, 13]]
    edit = Scale("1.attn.v", factor=3.0, positions=(1,))
    cached, naive = (
        write(name, long, edit, cache=cache, max_new_tokens=6) for cache in (True, False)
    )
    assert cached.new_ids == naive.new_ids
    assert gap(cached.logits, naive.logits) <= TOLERANCE["float32"]
    for row, prompt in enumerate(long):
        alone = write(name, [prompt], edit, max_new_tokens=6)
        assert alone.new_ids[0] == cached.new_ids[row]
        assert gap(alone.logits[0], cached.logits[row]) <= TOLERANCE["float32"]


@pytest.mark.parametrize("name", NAMES)
def test_a_ragged_batch_writes_what_its_prompts_write_alone(name):
    edit = make(name, "Add", "1.mlp_out", PROMPTS, extra=NEW, positions="new")
    together = write(name, PROMPTS, edit)
    for row, prompt in enumerate(PROMPTS):
        alone = write(name, [prompt], edit)
        assert alone.new_ids[0] == together.new_ids[row]
        assert gap(alone.logits[0], together.logits[row]) <= TOLERANCE["float32"]


# ---------------------------------------------------------------- sampling


CHANCES = [0.5, 0.3, 0.15, 0.05]


def sample(n: int, *, seed: int = 0, prompts=None, **options) -> list[int]:
    """The first new tokens of n toy prompts whose logits are replaced by those of `CHANCES`."""
    logits = torch.tensor(CHANCES).log().expand(n, 1, 4)
    edit = Patch("logits", source=logits, positions=0)
    options = {"temperature": 1.0, "max_new_tokens": 1, **options}
    out = ToyModel().generate(prompts or [[1]] * n, edits=[edit], seed=seed, **options)
    return [ids[0] for ids in out.new_ids]


@pytest.mark.parametrize(
    ("options", "chances"),
    [
        ({}, CHANCES),
        ({"top_p": 0.75}, [5 / 8, 3 / 8, 0, 0]),
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_p": 0.81}, [50 / 95, 30 / 95, 15 / 95, 0]),
        ({"temperature": 0.5}, [p * p / 0.365 for p in CHANCES]),
        ({"temperature": 1e-3}, [1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_their_chances(options, chances):
    """Temperature 0.5 squares them: .25 + .09 + .0225 + .0025 = .365.

    top_p keeps the smallest set with at least that chance: two, of .8, for .75; three for .81.
    Of 2000 draws a share of p lies within 4 standard errors, 4 sqrt(p (1 - p) / 2000).
    """
    drawn = sample(2000, **options)
    for token, chance in enumerate(chances):
        error = 4 * (chance * (1 - chance) / 2000) ** 0.5
        assert drawn.count(token) / 2000 == pytest.approx(chance, abs=error + 1e-12)


def test_a_seed_repeats_the_draw_and_another_gives_another():
    assert sample(50, seed=3) == sample(50, seed=3)
    assert sample(50, seed=3) != sample(50, seed=4)
    before = torch.random.get_rng_state()
    sample(5, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES[:2])
def test_each_prompt_has_its_own_stream_whatever_its_batch_mates(name):
    options = {"temperature": 1.0, "seed": 8}
    together = write(name, PROMPTS, **options).new_ids
    assert write(name, PROMPTS[:1], **options).new_ids[0] == together[0]
    others = write(name, [[77], PROMPTS[1], [78] * 9, [5]], **options).new_ids
    assert others[1] == together[1]
    assert others[2] != together[2]
    same_prompt = write(name, [PROMPTS[0]] * 4, **options).new_ids
    assert same_prompt[0] == together[0]
    assert len(set(same_prompt)) > 1  # equal prompts are drawn from streams of their own


@pytest.mark.parametrize("name", NAMES[:2])
def test_sampling_does_not_depend_on_the_cache(name):
    cached, naive = (
        write(name, temperature=0.8, top_p=0.9, seed=5, cache=cache) for cache in (True, False)
    )
    assert cached.new_ids == naive.new_ids


def test_greedy_is_the_limit_of_a_narrow_nucleus():
    greedy = write("tiny-gpt2").new_ids
    assert write("tiny-gpt2", temperature=1.0, top_p=1e-9, seed=2).new_ids == greedy


# ---------------------------------------------------------------- where it ends


@pytest.mark.parametrize("cache", [True, False])
def test_the_end_of_text_ends_its_prompt_alone_and_the_receipt_says_what_was_missed(cache):
    """Prompt 0 (4 tokens) is made to write <eos> as its second token, prompt 1 writes on.

    So the model reads one new token of prompt 0, at position 4, of the three that "new" names.
    """
    model = tiny("tiny-llama")
    prompts = [PROMPTS[0], PROMPTS[1]]
    watched = Scale("1.attn_out", factor=0.5, positions="new")
    ends = force([100, model.tokenizer.eos_token_id], after=4, d_vocab=model.sizes.d_vocab)
    out = write("tiny-llama", prompts, watched, *ends, cache=cache)
    assert out.new_ids[0] == (100, 1)
    assert len(out.new_ids[1]) == NEW
    assert out.finished == (True, False)
    assert out.receipt[0].tokens == ((0, 4), (1, 2), (1, 3), (1, 4))
    assert out.receipt[0].missed == ((0, 5), (0, 6))
    assert out.receipt[0].fired == NEW - 1
    assert out.logits[0, 2:].isnan().all()
    assert out.logits[1].isfinite().all()
    assert out.texts[0] == model.tokenizer.decode([100])  # the end of text is not shown
    alone = write("tiny-llama", prompts[1:], watched, cache=cache)
    assert alone.new_ids[0] == out.new_ids[1]


def test_a_generation_stops_when_all_its_prompts_have_ended():
    model = tiny("tiny-llama")
    ends = force([1], after=4, d_vocab=model.sizes.d_vocab)
    out = write("tiny-llama", PROMPTS[:1], *ends)
    assert (out.new_ids, out.finished, out.logits.shape[1]) == (((1,),), (True,), 1)
    assert out.texts == ("",)


def test_an_edit_of_new_tokens_that_no_prompt_reached_is_an_error():
    model = tiny("tiny-llama")
    ends = force([1], after=4, d_vocab=model.sizes.d_vocab)
    never = ZeroAblate("1.attn_out", positions="new")
    with pytest.raises(
        SilentEditError,
        match=r"^ZeroAblate\(1\.attn_out, positions=new\) did not act: no forward pass reached it "
        r"at prompt 0 position 4, prompt 0 position 5, prompt 0 position 6, so the run would show "
        r"nothing\.$",
    ):
        write("tiny-llama", PROMPTS[:1], *ends, never)


@pytest.mark.parametrize(
    ("stop", "n_tokens", "text"),
    [
        (("cat", "zzz"), 2, " the cat"),
        (("e c",), 2, " the cat"),
        ((" sa",), 5, " the cat sa"),
        (("zzz", "t", "cat"), 1, " the"),
    ],
)
@pytest.mark.parametrize("cache", [True, False])
def test_a_stop_text_ends_its_prompt_as_soon_as_it_is_written(stop, n_tokens, text, cache):
    """Prompt 0 writes " the cat sat": two words and four letters. Prompt 1 writes to the limit."""
    model = tiny("tiny-llama")
    ids = model.tokenizer(" the cat sat", add_special_tokens=False).input_ids
    assert len(ids) == 6
    forced = force(ids[:n_tokens], after=4, d_vocab=model.sizes.d_vocab)
    alone = write("tiny-llama", PROMPTS[1:2], max_new_tokens=6)
    assert not any(each in alone.texts[0] for each in stop)
    out = write("tiny-llama", PROMPTS[:2], *forced, stop=stop, max_new_tokens=6, cache=cache)
    assert (out.texts, out.finished) == ((text, alone.texts[0]), (True, False))
    assert out.new_ids == (tuple(ids[:n_tokens]), alone.new_ids[0])


def test_text_and_ids_of_the_same_prompt_write_the_same():
    model = tiny("tiny-gpt2")
    ids = model.tokenizer("The sum is").input_ids
    text = model.generate("The sum is", max_new_tokens=4)
    assert text.prompt_ids == (tuple(ids),)
    assert text.new_ids == model.generate(ids, max_new_tokens=4).new_ids
    assert text.texts == (model.tokenizer.decode(text.new_ids[0], skip_special_tokens=True),)
    assert text.logits is None


def test_logits_of_a_generation_are_those_that_its_tokens_were_chosen_from():
    out = write("tiny-gpt2")
    assert out.logits.shape == (3, NEW, tiny("tiny-gpt2").sizes.d_vocab)
    assert [tuple(row.argmax(-1).tolist()) for row in out.logits] == list(out.new_ids)
    again = write("tiny-gpt2")
    assert same(again.logits, out.logits)
