"""A patching grid: its cells are plain runs, and what the architecture fixes comes out exactly."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest
import torch

from interp.data.pairs import PromptPair, indirect_object
from interp.edits import Patch
from interp.engine.sweep import At
from interp.errors import InputError, PositionError, SiteError, UndefinedEffectError
from interp.metrics import KL, LogitDiff, LogProb, Probability, Rank
from interp.patching.activation import METRICS, Patched, every, patch, patch_grid, place_name
from interp.sites import Each
from interp.stats import cluster_bootstrap
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


# ---------------------------------------------------------------- many pairs, any place


PAIRS = [
    PromptPair("When Anna saw Tom she gave", "When Tom saw Anna she gave", " a", " the"),
    PromptPair("The cat is big", "The dog is big", correct=" cat", wrong=" dog"),
    PromptPair("So he gave a red ball and", "So she gave a red ball and", " Tom", " Anna"),
]
"""Of unequal lengths: one ragged batch."""
SOME = [
    At("1.resid_pre", positions=2),
    At("0.attn.z", heads=(0, 3)),
    At("2.mlp.post", positions="last", units=(5, 1)),
    [At("1.attn_out"), At("2.attn.k", heads=2)],
    At("1.attn.pattern", positions=Each(((4,), (3,), (5,)))),
]

SITES = ["1.resid_pre", "0.attn.z", "2.mlp.post", "1.attn_out", "2.attn.k", "1.attn.pattern"]


@cache
def found(direction: str = "denoise", metric: str = "logit_diff", exact: bool = False) -> Patched:
    return patch(
        tiny("tiny-llama"), PAIRS, SOME, direction=direction, metric=metric, exact=exact, say=None
    )


def own_metric(name: str, pair: PromptPair):
    """The metric of one pair, with its tokens found by hand."""
    model = tiny("tiny-llama")
    right, wrong = (
        model.tokenizer(text, add_special_tokens=False).input_ids[0]
        for text in (pair.correct, pair.wrong)
    )
    match name:
        case "logit_diff":
            return LogitDiff(right, wrong)
        case "kl":
            return KL(model.run(pair.clean, logits="last").logits)
    return {"prob": Probability, "logprob": LogProb, "rank": Rank}[name](right)


@pytest.mark.parametrize(
    ("direction", "metric"),
    [
        ("denoise", "logit_diff"),
        ("noise", "logit_diff"),
        ("noise", "prob"),
        ("denoise", "logprob"),
        ("noise", "rank"),
        ("denoise", "kl"),
        ("noise", "kl"),
    ],
)
def test_a_batch_of_ragged_pairs_gives_what_plain_runs_of_each_pair_give(direction, metric):
    model, all_of = tiny("tiny-llama"), found(direction, metric)
    assert (all_of.direction, all_of.metric) == (direction, metric)
    assert all_of.values.shape == (len(SOME), len(PAIRS))
    for i, pair in enumerate(PAIRS):
        base, other = pair.corrupted, pair.clean
        if direction == "noise":
            base, other = other, base
        measure = own_metric(metric, pair)

        def score(logits, measure=measure) -> float:
            return float(measure(logits, torch.tensor([0])))

        low, high = (score(model.run(text, logits="last").logits) for text in (base, other))
        assert float(all_of.base[i]) == pytest.approx(low, abs=ROUNDING)
        assert float(all_of.source[i]) == pytest.approx(high, abs=ROUNDING)
        acts = model.run(other, capture=SITES).acts
        for place, at in enumerate(SOME):
            edits = []
            for each in [at] if isinstance(at, At) else at:
                source = acts[str(each.site)]
                where = each.positions
                where = where.prompts[i] if isinstance(where, Each) else where
                edits.append(
                    Patch(
                        each.site,
                        source=source,
                        positions=where,
                        heads=each.heads,
                        units=each.units,
                    )
                )
            run = model.run(base, edits=edits, logits="last")
            assert float(all_of.values[place, i]) == pytest.approx(score(run.logits), abs=ROUNDING)
            expected = tuple((i, pos) for _, pos in run.receipt[0].tokens)
            assert [t for t in all_of.receipts[place][0].tokens if t[0] == i] == list(expected)


def test_patching_without_reuse_gives_the_same():
    for direction in ("denoise", "noise"):
        reused, exact = found(direction), found(direction, exact=True)
        assert (reused.plan.reason, exact.plan.reason) == ("", "exact=True")
        assert float((reused.values - exact.values).abs().max()) <= ROUNDING
        assert torch.equal(reused.base, exact.base)


@pytest.mark.parametrize("metric", METRICS)
def test_a_run_patched_with_itself_is_the_null(metric):
    assert 0 <= found("denoise", metric).null <= ROUNDING
    assert 0 <= found("noise", metric).null <= ROUNDING


def test_the_divergence_is_from_the_clean_run():
    for direction, clean in (("denoise", "source"), ("noise", "base")):
        of_clean = getattr(found(direction, "kl"), clean)
        assert float(of_clean.abs().max()) <= 1e-6
    assert float(found("denoise", "kl").base.min()) > 1e-3


def test_rows_hold_the_mean_over_pairs_with_its_interval():
    all_of = found()
    rows = all_of.rows()
    assert [row["place"] for row in rows] == list(all_of.places) == [place_name(at) for at in SOME]
    for place, row in enumerate(rows):
        effect = all_of.values[place] - all_of.base
        share = effect / (all_of.source - all_of.base)
        assert row["effect"] == pytest.approx(float(effect.mean()), rel=1e-5)
        assert row["recovered"] == pytest.approx(float(share.mean()), rel=1e-5)
        for name, of in (("effect", effect), ("recovered", share)):
            interval = cluster_bootstrap(of.tolist(), range(3))
            assert row[f"{name}_low"] == pytest.approx(interval.low, rel=1e-5, abs=1e-6)
            assert row[f"{name}_high"] == pytest.approx(interval.high, rel=1e-5, abs=1e-6)
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert row["effect_low"] < row["effect_high"]
        assert (row["pairs"], row["pairs_without_gap"]) == (3, 0)
        assert (row["direction"], row["metric"], row["null"]) == (
            "denoise",
            "logit_diff",
            all_of.null,
        )
        changes = [proof.change for proof in all_of.receipts[place]]
        assert row["change"] == pytest.approx(sum(c * c for c in changes) ** 0.5, rel=1e-6)
        assert row["change"] > 0


def test_a_pair_without_a_gap_is_marked_and_the_others_are_kept():
    twin = replace(PAIRS[1], corrupted=PAIRS[1].clean)
    mixed = patch(
        tiny("tiny-llama"), [PAIRS[0], twin, PAIRS[2]], SOME[:2], direction="denoise", say=None
    )
    share = mixed.recovered
    assert share.isnan().tolist() == [[False, True, False]] * 2
    assert float(mixed.effect[:, 1].abs().max()) <= ROUNDING
    for place, row in enumerate(mixed.rows()):
        assert (row["pairs"], row["pairs_without_gap"]) == (3, 1)
        assert row["recovered"] == pytest.approx(float(share[place, [0, 2]].mean()), rel=1e-5)
        assert row["effect"] == pytest.approx(float(mixed.effect[place].mean()), rel=1e-5)
        whole = found().recovered[place, [0, 2]]
        assert share[place, [0, 2]].tolist() == pytest.approx(whole.tolist(), abs=1e-4)


def test_pairs_that_all_lack_a_gap_are_refused_before_any_patch():
    model = tiny("tiny-llama")
    twins = [replace(pair, corrupted=pair.clean) for pair in PAIRS]
    value = own_metric("logit_diff", PAIRS[0])(
        model.run(PAIRS[0].clean, logits="last").logits, torch.tensor([0])
    )
    said: list[str] = []
    with pytest.raises(
        UndefinedEffectError, match=r"^Clean and corrupted both score (-?\d+\.\d+): the pair"
    ) as raised:
        patch(model, twins, SOME, direction="noise", say=said.append)
    score = float(str(raised.value).split("score ")[1].split(":")[0])
    assert score == pytest.approx(float(value), abs=ROUNDING)
    assert said == []


def test_a_metric_of_ones_own_and_one_pair():
    def twice(logits, rows):
        return 2 * LogitDiff(10, 20)(logits, rows)

    one = patch(
        tiny("tiny-gpt2"), PAIR, [At("1.resid_pre")], direction="denoise", metric=twice, say=None
    )
    assert (one.metric, one.values.shape) == ("twice", (1, 1))
    logits = tiny("tiny-gpt2").run(PAIR.clean, logits="last").logits
    expected = 2 * float(logits[0, 10] - logits[0, 20])
    assert float(one.values) == pytest.approx(expected, abs=ROUNDING)  # all of the clean run
    assert one.rows()[0]["recovered"] == pytest.approx(1.0, abs=1e-4)


def test_places_on_a_grid_and_their_names():
    assert [
        place_name(at) for at in every("attn.z", layers=[2, 0], positions=[1, 3], heads=[0])
    ] == [
        "2.attn.z heads=0 positions=1",
        "2.attn.z heads=0 positions=3",
        "0.attn.z heads=0 positions=1",
        "0.attn.z heads=0 positions=3",
    ]
    assert [place_name(at) for at in every("mlp_out", layers=[1])] == ["1.mlp_out"]
    assert [place_name(at) for at in SOME] == [
        "1.resid_pre positions=2",
        "0.attn.z heads=(0, 3)",
        "2.mlp.post positions=last units=(5, 1)",
        "1.attn_out + 2.attn.k heads=2",
        "1.attn.pattern positions=Each(((4,), (3,), (5,)))",
    ]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            {"places": []},
            InputError,
            "places is empty: name at least one place, such as At('3.attn.z').",
        ),
        ({"pairs": []}, InputError, "No prompt pair was given: pass at least one."),
        (
            {"metric": "logit_dif"},
            InputError,
            "There is no metric 'logit_dif'; there are logit_diff, prob, logprob, rank, kl, or "
            "pass a function. Did you mean 'logit_diff'?",
        ),
        (
            {"places": [At("9.attn.z")]},
            SiteError,
            "The model has no site '9.attn.z': its layers are 0 to 2.",
        ),
        (
            {"places": [At("1.attn.z", positions=(0, 5))]},
            PositionError,
            "1.attn.z positions=(0, 5): position 5 is past the end: prompt 1 has 5 tokens "
            "that the model sees, the last at position 4.",
        ),
    ],
)
def test_what_cannot_be_patched_is_refused(change, error, text):
    options = {"pairs": PAIRS, "places": SOME, "direction": "denoise", "say": None, **change}
    with says(error, text):
        patch(tiny("tiny-llama"), **options)
