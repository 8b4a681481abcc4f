"""Laws of the cells and of the score, for every chain."""

from __future__ import annotations

import math
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from interp.thinking.cells import CELLS, cell_texts, cut, full_text, step_texts
from interp.thinking.perturb import numbers
from interp.thinking.rules import PRESETS, Rules
from interp.thinking.score import Problem, legs, log_odds, prepare, score_chain
from tests.strategies import tiny

law = settings(deadline=None, derandomize=True)
slow = settings(deadline=None, derandomize=True, max_examples=12)

GOLD = Rules(target="gold")
POOL = ("In town 4 + 9 = 13 more. ", "By then 21 of them left. ")
SENTENCES = st.sampled_from(
    [
        "He has 12 apples. ",
        "Then 5+3=8. ",
        "So it is good.\n\n",
        "Wait, x12 is -4! ",
        "It is 1,000 at 0.05.\n",
        "9 of 10 left ",
    ]
)
CHAINS = st.lists(SENTENCES, min_size=1, max_size=5).map("".join)
TEXTS = st.one_of(st.text(max_size=40), CHAINS)
RULES = st.sampled_from(sorted(PRESETS)).map(PRESETS.get)
SEEDS = st.integers(0, 99)
CHANCES = st.floats(0, 1)


@law
@given(TEXTS, RULES)
def test_the_steps_of_every_preset_join_to_the_chain(chain: str, rules: Rules):
    steps = cut(chain, rules)
    assert "".join(step.text for step in steps) == (chain if chain.strip() else "")
    assert all(step.text == chain[step.start : step.end] for step in steps)
    assert [step.index for step in steps] == list(range(len(steps)))


@law
@given(TEXTS, RULES, SEEDS, st.booleans())
def test_all_cells_of_a_chain_end_alike_and_hold_their_context(
    chain: str, rules: Rules, seed: int, controls: bool
):
    """Cells of one context differ only in the step; the last intact one is the whole chain."""
    texts = step_texts("p", cut(chain, rules), seed, rules, pool=POOL)
    intact = shifted = ""
    cells = list(cell_texts("p", texts, rules, controls=controls))
    for each in texts:
        own = {cell.cell: cell.text for cell in cells if cell.step == each.step.index}
        assert set(CELLS) <= set(own)
        for name, text in own.items():
            context = intact if name.endswith("c1") else shifted
            assert text.endswith(rules.cue)
            body = text.removesuffix(rules.cue)
            assert body == body.rstrip()
            assert body.startswith(context.rstrip())
        assert own["s1c1"] == (intact + each.step.text).rstrip() + rules.cue
        intact += each.step.text
        shifted += each.step.text if each.op == "drop" else each.perturbed
    if texts:
        assert own["s1c1"] == full_text(chain, rules)


@law
@given(CHAINS, SEEDS)
def test_the_four_cells_of_a_numeric_step_differ_only_in_number_characters(chain: str, seed: int):
    texts = step_texts("p", cut(chain, GOLD), seed, GOLD)
    cells = list(cell_texts("p", texts, GOLD, controls=False))
    for each in texts:
        four = {cell.text for cell in cells if cell.step == each.step.index}
        if each.op == "edit":
            assert len(four) in (2, 4)  # two where the context has no number to shift
            assert len({re.sub(r"[-0-9.,]", "", text) for text in four}) == 1
        else:
            assert each.perturbed == "" and not numbers(each.step.text)


@law
@given(CHAINS, SEEDS, st.data())
def test_a_steps_texts_do_not_depend_on_the_steps_beside_it(chain: str, seed: int, data):
    steps = cut(chain, GOLD)
    some = data.draw(st.permutations(steps)) if steps else []
    some = some[: data.draw(st.integers(0, len(some)))]
    whole = {each.step.index: each for each in step_texts("p", steps, seed, GOLD, pool=POOL)}
    for each in step_texts("p", some, seed, GOLD, pool=POOL):
        assert each == whole[each.step.index]


@law
@given(CHAINS, st.lists(SEEDS, min_size=8, max_size=8, unique=True))
def test_new_seeds_change_the_offsets(chain: str, seeds: list[int]):
    """With three numbers or more, eight seeds never all draw the same offsets."""
    if len(numbers(chain)) >= 3:
        texts = [
            "".join(each.perturbed for each in step_texts("p", cut(chain, GOLD), seed, GOLD))
            for seed in seeds
        ]
        assert len(set(texts)) > 1


@law
@given(st.tuples(CHANCES, CHANCES, CHANCES, CHANCES))
def test_the_score_is_the_mean_size_of_two_signed_legs(four):
    cells = dict(zip(("s1c1", "s0c1", "s1c0", "s0c0"), four, strict=True))
    nec, suf, tts = legs(cells, "s1", "s0")
    assert (nec, suf) == (four[0] - four[1], four[2] - four[3])
    assert 0 <= tts <= 1
    assert tts == (abs(nec) + abs(suf)) / 2
    swapped = {"s1c1": four[1], "s0c1": four[0], "s1c0": four[3], "s0c0": four[2]}
    assert legs(swapped, "s1", "s0") == (-nec, -suf, tts)


@law
@given(st.floats(-700, -1e-9))
def test_log_odds_are_finite_below_one_and_undo_themselves(logprob: float):
    odds = log_odds(logprob)
    assert odds is not None and math.isfinite(odds)
    again = -math.log1p(math.exp(-odds)) if odds > -700 else odds
    assert math.isclose(again, logprob, rel_tol=1e-6, abs_tol=1e-12)


@slow
@given(st.sampled_from(["tiny-gpt2", "tiny-llama", "tiny-mistral"]), CHAINS, st.data())
def test_check_4_subset_order_and_chunk_move_no_score(name: str, chain: str, data):
    model = tiny(name)
    ready = prepare(model, Problem("p", "How many?", chain, "33"), GOLD)
    n = len(ready.steps)
    only = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    chunk = data.draw(st.sampled_from([3, 17, 64, 512]))
    seeds = data.draw(st.permutations([0, 5]))
    whole = score_chain(model, ready, GOLD, seeds=(0, 5), control_seeds=0)
    some = score_chain(model, ready, GOLD, seeds=seeds, only=only, control_seeds=0, chunk=chunk)
    assert not whole.marked and not some.marked
    expected = {(s.step, s.seed): s for s in whole.steps}
    assert {(s.step, s.seed) for s in some.steps} == {(i, k) for i in only for k in seeds}
    for step in some.steps:
        other = expected[step.step, step.seed]
        assert (step.perturbed, step.op, step.text) == (other.perturbed, other.op, other.text)
        for cell in CELLS:
            assert math.isclose(getattr(step, cell), getattr(other, cell), abs_tol=2e-5)
        assert math.isclose(step.tts, other.tts, abs_tol=1e-5)


@slow
@given(CHAINS, SEEDS)
def test_equal_texts_give_equal_numbers_bit_for_bit(chain: str, seed: int):
    """A first step has one context; a dropped step leaves the cell of the step before it."""
    model = tiny("tiny-gpt2")
    ready = prepare(model, Problem("p", "How many?", chain, "33"), GOLD)
    result = score_chain(model, ready, GOLD, seeds=(seed,), control_seeds=0)
    first = result.steps[0]
    assert (first.s1c1, first.s0c1) == (first.s1c0, first.s0c0)
    assert first.nec == first.suf
    seen: dict[tuple[int, ...], float] = {}
    for each in result.audit:
        assert seen.setdefault(each.prompt_ids, each.logprob) == each.logprob
    for before, step in zip(result.steps, result.steps[1:], strict=False):
        if step.op == "drop":
            assert (step.s0c1, step.s0c0) == (
                before.s1c1,
                before.s1c0 if before.op == "drop" else before.s0c0,
            )
        assert all(getattr(step, cell) <= 0 for cell in CELLS)
