"""The sweep planner: its numbers by hand, what it says, memory, clean-up, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.edits import Add, Edit, Scale, ZeroAblate
from interp.engine.fingerprint import fingerprint
from interp.engine.plan import Plan, Spent, start_of
from interp.engine.sweep import At, sweep
from interp.errors import EditError, InputError, PositionError, SilentEditError, SiteError
from interp.metrics import LogitDiff, Metric, Rank
from interp.sites import New, Site
from tests.strategies import ToyModel, noise, says, tiny

BASE = [[5, 60, 7, 200], [9, 33, 12]]
SOURCE = [[11, 12, 90, 4], [6, 250, 8]]
METRIC = LogitDiff(5, 9)
MODEL = "tiny-gpt2"


def run(cells, *, base=BASE, name=MODEL, metric: Metric = METRIC, **options):
    return sweep(tiny(name), base, cells, metric, **{"say": None, **options})


def block(layer: int) -> Any:
    """A block of tiny GPT-2."""
    return tiny(MODEL).hf.get_submodule(f"transformer.h.{layer}")


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Equal but for the order of float32 sums; values are below 10."""
    return bool(((ours - theirs).abs() <= 1e-5).all())


# ---------------------------------------------------------------- the plan


def test_the_plan_by_hand():
    """Tiny GPT-2: a block has 32 (96 + 32 + 64 + 64) = 8192 weights, the unembedding 32 x 349.

    Attention takes 2 x 4 x 8 = 64 a query and key. A plain pass of 4 and 3 tokens has 10 and 6
    such pairs in each of 3 blocks and unembeds 7 tokens. The first cell needs for each prompt one
    token of the last block's MLP; the second, from the MLP of block 0 on, positions 1 to 3 (2 + 3 +
    4 keys) and 1 to 2 (2 + 3 keys), so two blocks' attention and three MLPs. In the last block the
    output projection and the MLP, 32 (32 + 64 + 64) = 5120 weights, leave out the 2 and 1 positions
    that are not read. Each end unembeds one token, and of the vocabulary only the 2 tokens that the
    metric reads.
    """
    cells = [ZeroAblate("2.mlp_out", positions="last"), ZeroAblate("0.mlp_out", positions=1)]
    plan = run(cells, chunk=100).plan
    assert (plan.cells, plan.prompts, plan.chunk, plan.reason) == (2, 2, 100, "")
    assert (plan.forwards, plan.tokens, plan.naive_tokens) == (3, 7 + 2 + 5, 14)
    plain = 3 * (7 * 8192 + 16 * 64) + 7 * 32 * 349
    mlp, attention = 32 * (64 + 64), 32 * (96 + 32)
    late = [mlp, mlp]
    early = [
        3 * 3 * mlp + 2 * (3 * attention + 9 * 64) - 2 * 5120,
        3 * 2 * mlp + 2 * (2 * attention + 5 * 64) - 5120,
    ]
    spent = plain + sum(late) + sum(early) + 4 * 32 * 2
    assert plan.share == pytest.approx(spent / (2 * plain), rel=1e-12)
    every = run(cells, metric=Rank(5)).plan  # which reads all of the vocabulary
    assert every.share == pytest.approx(plan.share + 4 * 32 * 347 / (2 * plain), rel=1e-12)


def test_the_exact_plan_is_one_pass_a_cell_and_all_of_the_arithmetic():
    plan = run([ZeroAblate("2.mlp_out"), ZeroAblate("0.mlp_out")], exact=True).plan
    assert (plan.forwards, plan.tokens, plan.naive_tokens, plan.share) == (2, 14, 14, 1.0)
    assert plan.reason == "exact=True"


@pytest.mark.parametrize(
    ("site", "start"),
    [
        ("embed", (0, 0)),
        ("pos_embed", (0, 0)),
        ("0.resid_pre", (0, 0)),
        ("0.resid_post", (1, 0)),
        ("1.attn.pattern", (1, 1)),
        ("1.attn.result", (1, 1)),
        ("1.attn_out", (1, 2)),
        ("1.resid_mid", (1, 2)),
        ("1.mlp_out", (1, 2)),
        ("2.resid_post", (3, 0)),
        ("ln_final", (3, 0)),
        ("logits", (3, 0)),
    ],
)
def test_an_edit_starts_at_the_first_thing_that_it_changes(site, start):
    """The block, and how much of its attention is as in the base run."""
    assert start_of(Site.parse(site), 3) == start


def test_later_edits_cost_less_and_more_cells_share_the_base_run():
    shares = [
        run([ZeroAblate(f"{layer}.mlp_out", positions=at, rows=0)] * 8).plan.share
        for layer, at in ((0, 0), (0, 2), (1, 2), (2, 2), (2, 3))
    ]
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) == 5
    assert 0 < shares[-1] < 0.25 < shares[0] < 1
    few, many = (run([ZeroAblate("2.mlp_out", positions="last")] * n).plan for n in (2, 20))
    assert many.share < few.share
    assert many.naive_tokens == 10 * few.naive_tokens


def test_a_chunk_holds_whole_ends_and_the_plan_counts_the_passes():
    """Ends of 4 and 3 tokens, two cells: 4, 4, 3, 3 in order of the prompts."""
    cells = [ZeroAblate("1.mlp_out"), ZeroAblate("1.attn_out")]
    passes = {chunk: run(cells, chunk=chunk).plan.forwards - 1 for chunk in (512, 14, 13, 7, 4, 1)}
    assert passes == {512: 1, 14: 1, 13: 2, 7: 3, 4: 4, 1: 4}


def test_memory_bounds_the_chunk():
    cell = [ZeroAblate("1.mlp_out")]
    wide, narrow = (run(cell, memory_gib=gib, chunk=99) for gib in (2.0, 1e-9))
    assert (wide.plan.chunk, narrow.plan.chunk) == (99, 1)
    assert narrow.plan.forwards == 1 + 2
    assert close(wide.values, narrow.values)
    a_token = wide.plan.memory / 7 / 2**30
    assert run(cell, memory_gib=3.5 * a_token).plan.chunk == 3


def test_what_is_said_before_and_after():
    said: list[str] = []
    cells = [ZeroAblate("2.mlp_out", positions="last"), ZeroAblate("0.mlp_out", positions=1)]
    found = run(cells, say=said.append)
    plan, spent = found.plan, found.spent
    mib = plan.memory / 2**20
    assert (
        said
        == [str(plan), str(spent)]
        == [
            "Plan: 2 cells x 2 prompts in 3 forward passes, 14 tokens (naive 14), "
            f"{plan.share:.1%} of naive arithmetic, about {mib:.0f} MiB a pass.",
            f"Done: 3 forward passes, 14 tokens, {plan.share:.1%} of naive arithmetic, "
            f"{spent.seconds:.1f} CPU seconds.",
        ]
    )
    assert (spent.forwards, spent.tokens, spent.halvings) == (plan.forwards, plan.tokens, 0)
    assert spent.share == plan.share
    assert 0 < spent.seconds < 60
    assert str(Plan(1, 1, 1, 4, 4, 1.0, 3 << 20, 0, "exact=True")) == (
        "Plan: 1 cells x 1 prompts in 1 forward passes, 4 tokens (naive 4), no reuse: exact=True, "
        "about 3 MiB a pass."
    )
    assert str(Spent(3, 9, 0.5, 2, 1.25)) == (
        "Done: 3 forward passes, 9 tokens, 50.0% of naive arithmetic, 1.2 CPU seconds, the batch "
        "halved 2x."
    )


def test_nothing_is_printed_when_silent_and_the_text_otherwise(capsys):
    run([ZeroAblate("2.mlp_out")], say=None)
    assert capsys.readouterr().out == ""
    sweep(tiny(MODEL), BASE, [ZeroAblate("2.mlp_out")], METRIC)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["Plan", "Done"]


def test_progress_counts_ends_up_to_all_of_them():
    cells = [ZeroAblate("1.mlp_out"), ZeroAblate("2.mlp_out", rows=1)]
    calls: list[tuple[int, int]] = []
    run(cells, chunk=4, progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    calls.clear()
    run(cells, exact=True, progress=lambda *call: calls.append(call))
    assert calls == [(1, 2), (2, 2)]


def test_cells_do_not_touch_the_prompts_that_they_do_not_name():
    found = run([Scale("0.mlp_out", factor=3.0, rows=1), Scale("1.attn.z", factor=0.0, rows=0)])
    assert found.values.shape == (2, 2)
    assert found.values[0, 0] == found.base[0] and found.values[1, 1] == found.base[1]
    assert found.effect[0, 0] == found.effect[1, 1] == 0
    assert found.effect[0, 1] != 0 != found.effect[1, 0]
    assert [proof.tokens for (proof,) in found.receipts] == [
        ((1, 0), (1, 1), (1, 2)),
        ((0, 0), (0, 1), (0, 2), (0, 3)),
    ]
    assert found.source is None


def test_a_metric_is_told_which_prompt_each_row_is():
    """LogitDiff with tokens of each prompt, over packed rows, is that of a run of each prompt."""
    metric = LogitDiff([5, 60], [9, 33])
    found = run([ZeroAblate("1.mlp_out"), ZeroAblate("0.mlp_out", rows=1)], metric=metric)
    alone = [
        run([ZeroAblate("1.mlp_out")], base=BASE[row : row + 1], metric=LogitDiff(*tokens))
        for row, tokens in enumerate([(5, 9), (60, 33)])
    ]
    assert close(found.values[0], torch.cat([each.values[0] for each in alone]))
    assert close(found.base, torch.cat([each.base for each in alone]))


# ---------------------------------------------------------------- what is really run


@contextmanager
def counted(name: str = MODEL) -> Iterator[Counter]:
    """How many tokens the first matrix of each layer's MLP is multiplied with."""
    path = "transformer.h.{}.mlp.c_fc" if name == "tiny-gpt2" else "model.layers.{}.mlp.gate_proj"
    inner = [tiny(name).hf.get_submodule(path.format(layer)) for layer in range(3)]
    seen: Counter[int] = Counter()

    def hook(layer: int) -> Callable:
        def count(module, args) -> None:
            seen[layer] += args[0].shape[0] * args[0].shape[1]

        return count

    held = [matrix.register_forward_pre_hook(hook(i)) for i, matrix in enumerate(inner)]
    try:
        yield seen
    finally:
        for handle in held:
            handle.remove()


@pytest.mark.parametrize("name", [MODEL, "tiny-llama"])
def test_skipped_blocks_are_really_not_run(name):
    """The base run reads 8 columns; then each block only the ends that reach it."""
    assert tiny(name).sites  # the address book is read
    base = 8
    cells = {
        "2.mlp_out": (0, 0, 2),
        "1.resid_post": (0, 0, 2),
        "1.attn.q": (0, 2, 2),
        "0.resid_post": (0, 2, 2),
        "0.resid_pre": (2, 2, 2),
        "ln_final": (0, 0, 0),
    }
    for site, ends in cells.items():
        with counted(name) as seen:
            run([Scale(site, factor=2.0, positions="last")], name=name)
        assert [seen[layer] - base for layer in range(3)] == list(ends), site


def test_only_the_positions_from_the_edit_on_are_run():
    assert tiny(MODEL).sites
    for at, n in ((0, 4 + 3), (1, 3 + 2), (2, 2 + 1)):
        with counted() as seen:
            run([ZeroAblate("1.mlp_out", positions=at)])
        assert (seen[0], seen[1]) == (8, 8 + n)
    with counted() as seen:  # up to the last position that is read, and to the edit at least
        run([ZeroAblate("1.mlp_out", positions=(0,))], logits=(1, 0), metric=first_of_several)
    assert seen[1] == 8 + 2 + 2


@pytest.mark.parametrize("name", [MODEL, "tiny-llama"])
def test_the_last_block_computes_only_what_is_read_or_tapped(name):
    """Ends of 4 + 3 tokens, of which one each is read."""
    assert tiny(name).sites
    seen_in_last = {}
    for site in ("2.attn.v", "2.attn.z", "2.attn_out", "2.resid_mid", "2.mlp.post", "2.resid_post"):
        with counted(name) as seen:
            run([Scale(site, factor=0.5, positions=0)], name=name)
        seen_in_last[site] = seen[2] - 8
    assert seen_in_last == {
        "2.attn.v": 2,
        "2.attn.z": 2,
        "2.attn_out": 2,
        "2.resid_mid": 2,
        "2.mlp.post": 7,
        "2.resid_post": 0,  # starts after it
    }


def first_of_several(logits: Tensor, rows: Tensor) -> Tensor:
    return logits[:, 0, 5] - logits[:, 0, 9]


# ---------------------------------------------------------------- memory runs out


@contextmanager
def at_most(k: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The last block runs out of memory on a packed row of more than k tokens.

    So the edits of the blocks before it have acted already.
    """
    norm, widths = block(2).ln_1, []
    forward = norm.forward

    def limited(act: Tensor) -> Tensor:
        if act.shape[0] == 1:
            widths.append(act.shape[1])
            if act.shape[1] > k:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return forward(act)

    with monkeypatch.context() as patch:
        patch.setattr(norm, "forward", limited)
        yield widths


CELLS: list[Edit] = [
    Scale(f"{layer}.{part}", factor=-1.0, positions=at)
    for layer in (1, 0)
    for part in ("mlp_out", "attn.v", "attn.pattern")
    for at in (0, 2)
]
"""Ends of 4 + 3 and 2 + 1 tokens: from each of two layers 20 tokens before the MLP, 10 after."""


def test_the_batch_is_halved_when_memory_runs_out_and_no_cell_is_lost(monkeypatch):
    plain = run(CELLS)
    with at_most(8, monkeypatch) as widths:
        found = run(CELLS)
    assert widths[0] == 20
    assert [width > 8 for width in widths] == [True, True] + [False] * (len(widths) - 2)
    assert (found.spent.halvings, plain.spent.halvings) == (2, 0)
    assert str(found.spent).endswith("CPU seconds, the batch halved 2x.")
    assert close(found.values, plain.values)
    assert found.spent.tokens == plain.spent.tokens == 7 + 60
    assert found.spent.forwards == 1 + len(widths) - 2
    for (ours,), (theirs,) in zip(found.receipts, plain.receipts, strict=True):
        assert ours.tokens == theirs.tokens
        assert ours.change == pytest.approx(theirs.change, rel=1e-5)
        assert ours.before == pytest.approx(theirs.before, rel=1e-5)
        assert ours.missed == ()


def test_a_receipt_does_not_count_what_a_failed_pass_did(monkeypatch):
    """One edit over two ends: one pass, or after one halving two."""
    cell = [Scale("0.mlp_out", factor=2.0, positions=2)]
    ((plain,),) = run(cell).receipts
    with at_most(2, monkeypatch) as widths:
        ((found,),) = run(cell).receipts
    assert widths == [3, 2, 1] or widths == [3, 1, 2]
    assert (plain.fired, found.fired) == (1, 2)
    assert found.tokens == plain.tokens == ((0, 2), (1, 2))
    assert found.change == pytest.approx(plain.change, rel=1e-6)


def test_an_end_that_cannot_run_at_all_is_an_error_and_leaves_no_trace(monkeypatch):
    model = tiny(MODEL)
    clean = model.run(BASE).logits
    with at_most(3, monkeypatch) as widths:
        before = fingerprint(model.hf)
        with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out of memory"):
            run(CELLS)
        assert fingerprint(model.hf) == before
    assert widths[-1] == 4  # one end alone
    assert replaced(model.hf) == []
    assert torch.equal(model.run(BASE).logits.nan_to_num(), clean.nan_to_num())


def test_another_error_is_not_taken_for_memory(monkeypatch):
    def broken(act: Tensor) -> Tensor:
        raise RuntimeError("a shape does not fit")

    norm = block(2).ln_1
    forward = norm.forward
    with monkeypatch.context() as patch:
        patch.setattr(norm, "forward", lambda act: broken(act) if len(act) == 1 else forward(act))
        with pytest.raises(RuntimeError, match=r"^a shape does not fit$"):
            run(CELLS)


# ---------------------------------------------------------------- nothing is left behind


def replaced(hf: torch.nn.Module) -> list[str]:
    """Modules whose forward is not that of their class."""
    return [name for name, module in hf.named_modules() if "forward" in module.__dict__]


class Raises(Edit):
    """An edit that fails inside a hook."""

    def new(self, act, where):
        raise KeyboardInterrupt("from inside a hook")


@pytest.mark.parametrize("name", [MODEL, "tiny-gemma3", "tiny-mixtral", "tiny-neox"])
def test_the_model_is_as_before_after_success_and_after_an_exception(name):
    model = tiny(name)
    clean, before = model.run(BASE).logits, fingerprint(model.hf)
    cells = [ZeroAblate("2.mlp_out", positions=1), Scale("1.attn.pattern", factor=0.5)]
    found = run([*cells, ZeroAblate("0.attn.rot_q")], name=name)
    assert found.receipts[2][0].acted
    assert fingerprint(model.hf) == before
    for site in ("0.mlp_out", "1.attn.scores", "2.resid_pre", "logits"):
        with pytest.raises(KeyboardInterrupt):
            run([*cells, Raises(site, positions=1)], name=name)
        assert fingerprint(model.hf) == before
    assert replaced(model.hf) == []
    assert torch.equal(model.run(BASE).logits.nan_to_num(), clean.nan_to_num())


def test_a_forward_that_was_set_on_a_block_comes_back(monkeypatch):
    """As torch.compile, accelerate or a user set it; skipped blocks do not call it."""
    skipped = block(1)
    calls: list[int] = []
    own = skipped.forward

    def mine(*args, **kwargs):
        calls.append(1)
        return own(*args, **kwargs)

    monkeypatch.setattr(skipped, "forward", mine)
    run([ZeroAblate("2.mlp_out")])
    assert skipped.__dict__["forward"] is mine
    assert len(calls) == 1  # the base run
    with pytest.raises(KeyboardInterrupt):
        run([Raises("2.mlp_out")])
    assert skipped.__dict__["forward"] is mine


def test_tensors_of_edits_and_the_base_run_are_not_changed():
    vector = noise(32)
    kept, version = vector.clone(), vector._version
    cells = [Add("1.resid_pre", vector=vector), Add("1.resid_mid", vector=vector, positions=2)]
    first, again = run(cells), run(cells[::-1])
    assert torch.equal(vector, kept) and vector._version == version
    assert close(first.values, again.values.flip(0))
    assert torch.equal(first.base, again.base)


# ---------------------------------------------------------------- what is refused

ZERO = ZeroAblate("1.attn.z")
PLACE = At("1.attn.z")
NO_SITE = (
    "write <layer>.<component> such as 5.attn.z, or one of embed, pos_embed, ln_final, logits."
)
WRONG = {
    "no cells": (
        dict(cells=[]),
        InputError,
        "A sweep needs at least one cell: an edit, or a place to patch.",
    ),
    "no memory": (
        dict(cells=[ZERO], memory_gib=0.0, chunk=512),
        InputError,
        "memory_gib=0.0, chunk=512: give positive numbers.",
    ),
    "memory that is no number": (
        dict(cells=[ZERO], memory_gib=float("nan"), chunk=512),
        InputError,
        "memory_gib=nan, chunk=512: give positive numbers.",
    ),
    "no chunk": (
        dict(cells=[ZERO], chunk=0),
        InputError,
        "memory_gib=2.0, chunk=0: give positive numbers.",
    ),
    "all logits": (
        dict(cells=[ZERO], logits="all"),
        InputError,
        "logits='all': name the positions that the metric reads, such as 'last'.",
    ),
    "a position that is not read": (
        dict(cells=[ZERO], logits=3),
        PositionError,
        "logits: position 3 is past the end of a prompt of 3 tokens.",
    ),
    "a metric of one number": (
        dict(cells=[ZERO], metric=lambda logits, rows: logits.mean()),
        InputError,
        "The metric returned [] for 2 prompts: return a tensor of one number a prompt.",
    ),
    "a metric of many numbers": (
        dict(cells=[ZERO], metric=lambda logits, rows: logits),
        InputError,
        "The metric returned [2, 349] for 2 prompts: return a tensor of one number a prompt.",
    ),
    "a metric that is no tensor": (
        dict(cells=[ZERO], metric=lambda logits, rows: 1.5),
        InputError,
        "The metric returned float for 2 prompts: return a tensor of one number a prompt.",
    ),
    "a metric with too few tokens": (
        dict(cells=[ZERO], metric=LogitDiff([5], [9])),
        InputError,
        "LogitDiff names 1 correct tokens for 2 prompts: give one a prompt, or one for all.",
    ),
    "a place without a source": (
        dict(cells=[ZERO, [ZERO, PLACE]]),
        InputError,
        "1.attn.z needs a source: pass source= with a prompt for each base prompt.",
    ),
    "a source of other lengths": (
        dict(cells=[PLACE], source=[[5, 6, 7], [5, 6, 7, 8]]),
        InputError,
        "The source prompts have [3, 4] tokens and the base prompts [4, 3]: patching by position "
        "needs as many in each pair.",
    ),
    "a source of fewer prompts": (
        dict(cells=[PLACE], source=[[5, 6, 7, 8]]),
        InputError,
        "The source prompts have [4] tokens and the base prompts [4, 3]: patching by position "
        "needs as many in each pair.",
    ),
    "a place at no site": (
        dict(cells=[At("1.atn.z")], source=SOURCE),
        SiteError,
        f"'1.atn.z' is no site: {NO_SITE} Did you mean '1.attn.z'?",
    ),
    "a place at a layer too far": (
        dict(cells=[At("3.attn.z")], source=SOURCE),
        SiteError,
        "The model has no site '3.attn.z': its layers are 0 to 2.",
    ),
    "an edit at a layer too far": (
        dict(cells=[ZERO, ZeroAblate("3.attn.z")]),
        SiteError,
        "The model has no site '3.attn.z': its layers are 0 to 2.",
    ),
    "a head too far": (
        dict(cells=[ZeroAblate("1.attn.z", heads=4)]),
        EditError,
        "ZeroAblate(1.attn.z, heads=(4,)): there is no head 4; the model's heads are 0 to 3.",
    ),
    "a position past the end": (
        dict(cells=[ZeroAblate("1.attn.z", positions=3)]),
        PositionError,
        "ZeroAblate(1.attn.z, positions=(3,)): position 3 is past the end: prompt 1 has 3 tokens "
        "that the model sees, the last at position 2.",
    ),
    "a prompt that does not exist": (
        dict(cells=[ZeroAblate("1.attn.z", rows=2)]),
        EditError,
        "ZeroAblate(1.attn.z, rows=(2,)): there is no prompt 2; the batch has 2.",
    ),
    "new tokens": (
        dict(cells=[ZeroAblate("1.attn.z", positions="new")]),
        SilentEditError,
        "ZeroAblate(1.attn.z, positions=new) names no token of this run, so it would change "
        "nothing; new tokens exist only in generate(..., max_new_tokens=2 or more).",
    ),
    "a chosen new token": (
        dict(cells=[ZeroAblate("1.attn.z", positions=New(1))]),
        PositionError,
        "ZeroAblate(1.attn.z, positions=New(1)): the model sees 0 new tokens of prompt 0, so there "
        "is no new token 1; raise max_new_tokens of generate.",
    ),
}


@pytest.fixture
def passes() -> Iterator[list[int]]:
    """Grows by one for each forward pass, when its tokens are embedded."""
    seen: list[int] = []
    embedding: Any = tiny(MODEL).hf.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(lambda module, args: seen.append(1))
    yield seen
    handle.remove()


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("exact", [False, True])
def test_what_is_wrong_is_said_before_the_model_runs(case, exact, passes):
    options, error, text = WRONG[case]
    assert tiny(MODEL).sites
    del passes[:]
    before = fingerprint(tiny(MODEL).hf)
    with says(error, text):
        run(**options, exact=exact)
    assert passes == []
    assert fingerprint(tiny(MODEL).hf) == before


def test_the_fixture_sees_a_forward_pass(passes):
    assert tiny(MODEL).sites
    del passes[:]
    run([ZERO])
    assert len(passes) == 2  # the base run and one packed pass


def test_a_source_run_without_the_site_says_what_to_capture():
    source = tiny(MODEL).run(SOURCE, capture="1.mlp_out")
    text = "'1.attn.z' was not captured in this run: add it to capture=[...]; captured: 1.mlp_out."
    with says(SiteError, text):
        run([PLACE], source=source)


def test_an_engine_that_is_not_torch_runs_each_cell_whole():
    """By hand on the toy: 33 t (1, 2, 3, 4) a token; without attention 11 t."""
    cells = [
        ZeroAblate("0.attn_out"),
        [ZeroAblate("0.attn_out", rows=1), Scale("logits", factor=2.0)],
    ]
    found = sweep(ToyModel(), [[1, 2], [3]], cells, LogitDiff(3, 0), say=None)
    assert found.base.tolist() == [33 * 2 * 3, 33 * 3 * 3]
    assert found.values.tolist() == [[11 * 2 * 3, 11 * 3 * 3], [2 * 33 * 2 * 3, 2 * 11 * 3 * 3]]
    assert found.effect.tolist() == [[-132, -198], [198, -99]]
    assert found.plan.reason == "the engine toy cannot start in the middle"
