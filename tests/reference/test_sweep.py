"""Reuse is exact: a sweep gives what one plain forward pass a cell gives, at every site.

The judge is `exact=True`, which runs the whole model once for each cell, and for some edits plain
Hugging Face with hooks written by hand. Prompts are ragged and longer than the sliding window of 8
of tiny Mistral and tiny Gemma-3.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from interp.edits import Edit, Patch, Scale, ZeroAblate
from interp.engine.fingerprint import fingerprint
from interp.engine.loading import load
from interp.engine.masks import refusal
from interp.engine.sweep import At, Swept, sweep
from interp.metrics import LogitDiff, Metric
from interp.models import tiny as tiny_models
from interp.models.tiny import TINY
from interp.sites import Each, Site
from tests.strategies import editable, gap, kinds_at, make, tiny

N = 6


def prompts(seed: int, lengths: tuple[int, ...]) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 340, (n,), generator=random).tolist() for n in lengths]


LENGTHS = (11, 6, 9, 12, 7, 10)
PROMPTS, SOURCES = prompts(1, LENGTHS), prompts(2, LENGTHS)
METRIC = LogitDiff([5, 60, 7, 200, 90, 11], [9, 33, 12, 100, 4, 250])
FIRST_TWO = LogitDiff([5, 60], [9, 33])
PLACES = (
    "all",
    "last",
    (5,),
    "prompt",
    (4, 1),
    Each(((9, 10), (0,), (3, 8), (11,), (6, 2), (7,))),
)
TOLERANCE = 1e-5
"""Of the largest value, where it is above 1: packed rows are multiplied in another order. Values
reach 20, rounding is seen to leave a third of this, and in float64 it falls by eight orders."""


def close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether values agree, each to a share of its own size."""
    return bool(((ours - theirs).abs() <= tolerance * theirs.abs().clamp(min=1)).all())


def both(
    name: str, cells, *, dtype: str = "float32", base=PROMPTS, metric: Metric = METRIC, **options
):
    """A sweep with reuse, and the same with one plain forward pass a cell."""
    model = tiny(name, dtype)
    options = {"say": None, **options}
    reused = sweep(model, base, cells, metric, **options)
    exact = sweep(model, base, cells, metric, exact=True, **options)
    assert (reused.plan.reason, exact.plan.reason) == ("", "exact=True")
    assert torch.equal(reused.base, exact.base)
    return reused, exact


def check_receipts(reused: Swept, exact: Swept, rel: float = 1e-4) -> None:
    """Both reached the same tokens and changed them by as much."""
    assert len(reused.receipts) == len(exact.receipts)
    for ours, theirs in zip(reused.receipts, exact.receipts, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.edit is other.edit or str(one.edit) == str(other.edit)
            assert (one.tokens, one.missed) == (other.tokens, ())
            assert one.change == pytest.approx(other.change, rel=rel, abs=1e-5)
            assert one.before == pytest.approx(other.before, rel=rel, abs=1e-5)


# ---------------------------------------------------------------- every kind, everywhere


def some_heads(site: str, i: int) -> dict:
    if not Site.parse(site).headed:
        return {}
    return {"heads": (None, 2, (3, 1))[i % 3]}


def everything(name: str) -> list[list[Edit]]:
    """Every kind of edit at every component: each cell one component, each prompt another kind.

    Layers, positions and heads are taken in turn, so that each kind meets each of them.
    """
    cells = []
    components = dict.fromkeys(Site.parse(site).component for site in editable(name))
    for c, component in enumerate(components):
        site = next(s for s in editable(name) if Site.parse(s).component == component)
        kinds = list(kinds_at(site))
        for part, first in enumerate(range(0, len(kinds), N)):
            if Site.parse(site).layer is not None:
                site = f"{(c + part) % 3}.{component}"
            cells.append(
                [
                    make(
                        name,
                        kind,
                        site,
                        PROMPTS,
                        rows=(i + c) % N,
                        positions=PLACES[(i + 2 * c + part) % len(PLACES)],
                        **some_heads(site, i + part),
                    )
                    for i, kind in enumerate(kinds[first : first + N])
                ]
            )
    return cells


@pytest.mark.parametrize("name", TINY)
def test_every_edit_at_every_site_gives_what_one_plain_pass_a_cell_gives(name):
    cells = everything(name)
    before = fingerprint(tiny(name).hf)
    reused, exact = both(name, cells)
    wrong = ~((reused.values - exact.values).abs() <= TOLERANCE * exact.values.abs().clamp(min=1))
    assert [(str(cells[c][0].site), p) for c, p in wrong.nonzero().tolist()] == []
    check_receipts(reused, exact)
    moved = exact.effect.abs() > 1e-3  # so that two sweeps that do nothing would not agree
    named = torch.zeros_like(moved)
    for c, cell in enumerate(cells):
        named[c, [edit.rows[0] for edit in cell]] = True
    assert float(moved[named].float().mean()) > 0.85
    assert torch.equal(reused.values[~named], reused.base.expand_as(named)[~named])
    assert reused.plan.share < 1 < reused.plan.forwards < len(cells)
    assert fingerprint(tiny(name).hf) == before


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-neox"])
def test_in_float64_the_difference_falls_by_eight_orders(name):
    """So what float32 leaves is rounding. (The others compute norms in float32 in any case.)"""
    cells = everything(name)[::3]
    reused, exact = both(name, cells, dtype="float64")
    assert close(reused.values, exact.values, 1e-13)
    check_receipts(reused, exact, rel=1e-12)


# ---------------------------------------------------------------- the shape of cells


def mixed(name: str) -> list:
    """Cells with several edits: of one site, of many, early and late, with heads, units, rows."""
    return [
        [Scale("2.mlp_out", factor=-1.0, positions=3), ZeroAblate("0.attn.z", positions=5)],
        [ZeroAblate("1.attn.k", heads=(3,), rows=(1, 4)), Scale("logits", factor=0.5)],
        [make(name, "Add", "1.resid_post", PROMPTS), make(name, "Scale", "1.resid_post", PROMPTS)],
        [make(name, "Scale", "1.resid_post", PROMPTS), make(name, "Add", "1.resid_post", PROMPTS)],
        ZeroAblate("2.mlp_out", positions="last"),
        Scale("0.mlp_out", factor=3.0, units=(31, 4), positions=PLACES[-1]),
        Scale("1.attn.z", factor=3.0, units=(6, 2), heads=(3, 0), rows=(5, 0)),
        [ZeroAblate("0.attn_out", rows=0), ZeroAblate("1.attn_out", rows=(0, 3), positions=(5,))],
        Scale("2.attn.pattern", factor=0.5, heads=1, units=(0, 2)),
        ZeroAblate("embed", positions=2),
        make(name, "Patch", "ln_final", PROMPTS, rows=2),
        Scale("2.resid_post", factor=2.0, positions=(0, 3)),  # before what is read: no effect
    ]


@pytest.mark.parametrize(
    ("name", "chunk"), [("tiny-gpt2", 1), ("tiny-gemma3", 40), ("tiny-mixtral", 512)]
)
def test_cells_of_several_edits_in_any_chunks(name, chunk):
    cells = mixed(name)
    reused, exact = both(name, cells, chunk=chunk)
    assert close(reused.values, exact.values)
    check_receipts(reused, exact)
    assert float((exact.values[2] - exact.values[3]).abs().min()) > 1e-3  # the order matters
    named = {(6, 5): True, (6, 4): False, (7, 3): True, (7, 2): False, (10, 1): False}
    for (cell, prompt), acts in named.items():
        effect = float(reused.effect[cell, prompt].abs())
        assert effect > 1e-4 if acts else effect == 0
    assert close(reused.values[11], reused.base)
    assert float(reused.values[1, 0] - reused.base[0] / 2) == pytest.approx(0, abs=1e-5)
    assert float((reused.values[1, 1] - reused.base[1] / 2).abs()) > 1e-3


def spread(logits: Tensor, rows: Tensor) -> Tensor:
    """A metric of several positions `[n, pos, d_vocab]`, each with a weight of its own."""
    weights = torch.arange(1.0, logits.shape[1] + 1)
    right, wrong = torch.tensor(METRIC.correct)[rows], torch.tensor(METRIC.wrong)[rows]
    places = torch.arange(len(logits))
    return ((logits[places, :, right] - logits[places, :, wrong]) * weights).sum(1)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mistral"])
@pytest.mark.parametrize("logits", ["last", 1, 5, (5, 0, 3)], ids=str)
def test_the_metric_reads_any_positions_before_at_and_after_the_edit(name, logits):
    metric = spread if isinstance(logits, tuple) else METRIC
    cells = [ZeroAblate("1.attn_out", positions=at) for at in ((0,), (1,), 3, (5,), "last", "all")]
    cells += [[ZeroAblate("0.mlp_out", positions=4), Scale("1.attn.v", factor=2.0, positions=2)]]
    reused, exact = both(name, cells, metric=metric, logits=logits)
    assert close(reused.values, exact.values)
    check_receipts(reused, exact)
    if isinstance(logits, int):  # an edit after the position that is read changes nothing
        still = (reused.effect[:4] == 0).all(1)
        assert torch.equal(still, torch.tensor([0, 1, 3, 5]) > logits)


@pytest.mark.parametrize("name", ["tiny-mistral", "tiny-gemma3", "tiny-gpt2"])
def test_prompts_much_longer_than_the_sliding_window(name):
    """30 and 25 tokens, windows of 8: prefixes of other lengths lie side by side in one row."""
    long = prompts(3, (30, 25))
    metric = FIRST_TWO
    cells: list = [
        Scale(f"{layer}.{part}", factor=-2.0, positions=at)
        for layer in range(3)
        for part in ("resid_pre", "attn.k", "attn.pattern")
        for at in (0, 12, 23, "last")
    ]
    reused, exact = both(name, cells, base=long, metric=metric)
    assert close(reused.values, exact.values)
    check_receipts(reused, exact)
    if name == "tiny-mistral":  # three windows of 8 reach back 21 tokens
        far = [c for c, cell in enumerate(cells) if cell.positions == (0,)]
        assert close(reused.effect[far], torch.zeros(len(far), 2))
    near = [c for c, cell in enumerate(cells) if cell.positions == "last"]
    assert float(reused.effect[near].abs().min()) > 1e-4


# ---------------------------------------------------------------- places of a source


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-qwen3"])
def test_a_place_takes_the_source_runs_activation(name):
    model = tiny(name)
    sites = ["1.attn.z", "0.resid_pre", "2.mlp_out", "1.attn.pattern"]
    places = [
        At("1.attn.z", positions=(2, 4), heads=1),
        At("0.resid_pre"),
        [At("2.mlp_out", positions="last"), At("1.attn.z", units=(0, 3))],
        At("1.attn.pattern", heads=(0, 2), positions=PLACES[-1]),
    ]
    run = model.run(SOURCES, capture=sites, logits="last")
    z, pre, mlp, pattern = (run.acts[site] for site in sites)
    patches = [
        Patch("1.attn.z", source=z, positions=(2, 4), heads=1),
        Patch("0.resid_pre", source=pre),
        [Patch("2.mlp_out", source=mlp, positions="last"), Patch(sites[0], source=z, units=(0, 3))],
        Patch(sites[3], source=pattern, heads=(0, 2), positions=PLACES[-1]),
    ]
    from_text = sweep(model, PROMPTS, places, METRIC, source=SOURCES, say=None)
    from_run = sweep(model, PROMPTS, places, METRIC, source=run, say=None)
    reused, exact = both(name, patches)
    assert torch.equal(from_text.values, from_run.values)
    assert torch.equal(from_text.values, reused.values)
    assert close(reused.values, exact.values)
    theirs = METRIC(run.logits, torch.arange(N))
    assert from_text.source is not None and from_run.source is None
    assert gap(from_text.source, theirs) <= 1e-6
    assert close(from_text.values[1], theirs)  # all that enters block 0 is the other prompt
    exactly = sweep(model, PROMPTS, places, METRIC, source=SOURCES, exact=True, say=None)
    assert close(from_text.values, exactly.values)
    check_receipts(from_text, exactly)


# ---------------------------------------------------------------- judged by hand-written hooks


MODULES = {
    "tiny-gpt2": ("transformer.h.{}", "attn", "mlp"),
    "tiny-llama": ("model.layers.{}", "self_attn", "mlp"),
    "tiny-neox": ("gpt_neox.layers.{}", "attention", "mlp"),
    "tiny-gemma3": ("model.layers.{}", "post_attention_layernorm", "post_feedforward_layernorm"),
    "tiny-mistral": ("model.layers.{}", "self_attn", "mlp"),
}
"""Of each model the block, and the modules whose output is attn_out and mlp_out."""


def by_hand(name: str, path: str, change: Callable[[Tensor], None], ids: list[int]) -> Tensor:
    """The last logits of the plain model while one module's output is changed in place."""
    hf = tiny(name).hf

    def hook(module, args, output):
        act = output[0] if isinstance(output, tuple) else output
        new = act.clone()
        change(new)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    with torch.no_grad(), ExitStack() as stack:
        stack.callback(hf.get_submodule(path).register_forward_hook(hook).remove)
        return hf(torch.tensor([ids])).logits[0, -1]


@pytest.mark.parametrize("name", MODULES)
def test_a_sweep_agrees_with_plain_hugging_face_and_hooks_written_by_hand(name):
    block, attention, mlp = MODULES[name]
    paths = {"attn_out": f"{block}.{attention}", "mlp_out": f"{block}.{mlp}", "resid_post": block}
    asked = [(layer, part, pos) for layer in (2, 0, 1) for part in paths for pos in (0, 3, 5)]
    cells = [Scale(f"{layer}.{part}", factor=-0.5, positions=pos) for layer, part, pos in asked]
    found = sweep(tiny(name), PROMPTS[:2], cells, FIRST_TWO, say=None)
    for values, (layer, part, pos) in zip(found.values, asked, strict=True):

        def scale(act: Tensor, pos: int = pos) -> None:
            act[:, pos] *= -0.5

        path = paths[part].format(layer)
        logits = torch.stack([by_hand(name, path, scale, ids) for ids in PROMPTS[:2]])
        assert close(values, FIRST_TWO(logits, torch.arange(2)))


# ---------------------------------------------------------------- without reuse


@pytest.mark.parametrize("engine", ["transformer_lens", "nnsight"])
def test_other_engines_run_one_pass_a_cell_and_the_plan_says_why(engine, tiny_model):
    model = tiny_model("tiny-llama", engine)
    cells = [ZeroAblate("1.attn.z", heads=1, positions=2), Scale("0.mlp_out", factor=2.0, rows=1)]
    said: list[str] = []
    found = sweep(model, PROMPTS[:2], cells, FIRST_TWO, say=said.append)
    reason = f"the engine {engine} cannot start in the middle"
    assert (found.plan.reason, found.plan.share, found.plan.forwards) == (reason, 1.0, 2)
    assert f"no reuse: {reason}" in said[0]
    reference = sweep(tiny("tiny-llama"), PROMPTS[:2], cells, FIRST_TWO, say=None)
    assert close(found.values, reference.values)
    check_receipts(found, reference)


def test_eager_attention_takes_our_masks_and_another_one_runs_a_pass_a_cell():
    hf = tiny_models.build("tiny-mistral")
    hf.set_attn_implementation("eager")
    eager = load(hf)
    cells = mixed("tiny-mistral")
    found = sweep(eager, PROMPTS, cells, METRIC, say=None)
    assert found.plan.reason == ""
    judge = sweep(tiny("tiny-mistral"), PROMPTS, cells, METRIC, exact=True, say=None)
    assert close(found.values, judge.values)
    hf.config._attn_implementation_internal = "flex_attention"
    assert refusal(eager) == (
        "Shared computation needs sdpa or eager attention, and MistralForCausalLM uses "
        "'flex_attention'"
    )
