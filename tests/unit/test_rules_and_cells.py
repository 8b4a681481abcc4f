"""The presets, and the text of every cell: what is edited, what is dropped, what stays."""

from __future__ import annotations

import re

import pytest

from interp.errors import InputError
from interp.thinking.cells import (
    CELLS,
    NULL_CELLS,
    RANDOM_CELLS,
    StepTexts,
    cell_texts,
    cut,
    full_text,
    step_texts,
)
from interp.thinking.perturb import OFFSETS, numbers, perturb_step
from interp.thinking.rules import PRESETS, Rules, preset
from interp.thinking.steps import Step, segment
from tests.strategies import says

CUE = "\nThe final answer is \\boxed{"
DEFAULT = Rules()
CHAIN = "He has 5. So far so good.\n\nThen 5+3=8 in 1,000 x12. It ends at -4."


def texts_of(chain: str = CHAIN, seed: int = 0, rules: Rules = DEFAULT, **options):
    return step_texts("p", cut(chain, rules), seed, rules, **options)


def cells_of(texts, rules: Rules = DEFAULT, *, controls: bool = False):
    """`{(step, cell): text}`."""
    cells = cell_texts("p", texts, rules, controls=controls)
    return {(each.step, each.cell): each.text for each in cells}


# ---------------------------------------------------------------- presets


def test_the_presets_are_the_published_choices():
    assert list(PRESETS) == ["default", "paper", "released-code"]
    assert preset("default") == Rules()
    assert (Rules().cue, Rules().closing, Rules().offsets) == (CUE, "}", (-3, -2, -1, 1, 2, 3))
    assert (Rules().target, Rules().think, Rules().split) == ("own", "open", "sentences")
    paper = preset("paper")
    assert (paper.cue, paper.closing) == ("\nThe final result is ", "")
    assert (paper.offsets, paper.split) == (OFFSETS, "sentences")
    released = preset("released-code")
    assert (released.cue, released.closing) == ("\n The final answer is \\boxed{", "}")
    assert (released.offsets, released.split) == ((-3, -2, -1, 1, 2), "dots")


def test_a_misspelt_preset_is_refused_with_the_nearest_name():
    message = (
        "There is no preset 'relaesed-code'; there are: default, paper, released-code. "
        "Did you mean 'released-code'?"
    )
    with says(InputError, message):
        preset("relaesed-code")


def test_the_released_code_never_draws_plus_three_and_the_default_does():
    drawn = {}
    for name in ("default", "released-code"):
        rules = preset(name)
        found = [
            int(each.perturbed.split()[0]) - 50
            for seed in range(120)
            for each in texts_of("50 is it", seed=seed, rules=rules)
        ]
        drawn[name] = set(found)
    assert drawn == {"default": set(OFFSETS), "released-code": {-3, -2, -1, 1, 2}}


@pytest.mark.parametrize(
    ("chain", "pieces"),
    [
        ("It is 3.14 m. So 2.", ["It is 3.", "14 m. ", "So 2."]),
        ("Wait... what. ", ["Wait.", ".. what. "]),
        ("No stop at all", ["No stop at all"]),
        ("One.\n\nTwo.\n", ["One.\n\n", "Two.\n"]),
        (" ... ", [" ... "]),
        ("  \n", []),
    ],
)
def test_the_released_code_cuts_after_every_full_stop(chain, pieces):
    steps = cut(chain, preset("released-code"))
    assert [step.text for step in steps] == pieces
    assert [step.index for step in steps] == list(range(len(steps)))
    assert all(chain[step.start : step.end] == step.text for step in steps)


def test_the_default_cuts_sentences_and_no_decimal():
    assert cut("It is 3.14 m. So 2.", Rules()) == segment("It is 3.14 m. So 2.")
    assert len(cut("It is 3.14 m. So 2.", Rules())) == 2


# ---------------------------------------------------------------- cells by hand


def by_hand() -> list[StepTexts]:
    """Three steps, an edit, a drop and an edit; the last has both controls."""
    first, text, last = Step(0, 0, 5, "A 1. "), Step(1, 5, 10, "So.\n\n"), Step(2, 10, 14, "B 2.")
    return [
        StepTexts(first, 0, "A 3. ", "edit", None, None),
        StepTexts(text, 0, "", "drop", "So. .\n\n", None),
        StepTexts(last, 0, "B 9.", "edit", "B  2.", "Z yes. "),
    ]


def test_every_cell_by_hand():
    """C' shifts numbers and keeps the text step; the dropped step takes its own gap along."""
    assert cells_of(by_hand()) == {
        (0, "s1c1"): "A 1." + CUE,
        (0, "s1c0"): "A 1." + CUE,
        (0, "s0c1"): "A 3." + CUE,
        (0, "s0c0"): "A 3." + CUE,
        (1, "s1c1"): "A 1. So." + CUE,
        (1, "s1c0"): "A 3. So." + CUE,
        (1, "s0c1"): "A 1." + CUE,
        (1, "s0c0"): "A 3." + CUE,
        (2, "s1c1"): "A 1. So.\n\nB 2." + CUE,
        (2, "s1c0"): "A 3. So.\n\nB 2." + CUE,
        (2, "s0c1"): "A 1. So.\n\nB 9." + CUE,
        (2, "s0c0"): "A 3. So.\n\nB 9." + CUE,
    }


def test_the_controls_cells_by_hand():
    """A random step without numbers is the same in both of its versions."""
    plain, every = cells_of(by_hand()), cells_of(by_hand(), controls=True)
    assert {key: every[key] for key in plain} == plain
    assert {key: text for key, text in every.items() if key not in plain} == {
        (1, "n0c1"): "A 1. So. ." + CUE,
        (1, "n0c0"): "A 3. So. ." + CUE,
        (2, "n0c1"): "A 1. So.\n\nB  2." + CUE,
        (2, "n0c0"): "A 3. So.\n\nB  2." + CUE,
        (2, "r1c1"): "A 1. So.\n\nZ yes." + CUE,
        (2, "r1c0"): "A 3. So.\n\nZ yes." + CUE,
        (2, "r0c1"): "A 1. So.\n\nZ yes." + CUE,
        (2, "r0c0"): "A 3. So.\n\nZ yes." + CUE,
    }


def test_a_random_step_is_shifted_by_a_draw_of_its_own():
    """The numbers of the random step change, by offsets that the step in its place does not set."""
    differ = 0
    for seed in range(12):
        texts = texts_of("It is 50 now.", seed=seed, pool=("It is 50 now.",))
        cells = cells_of(texts, controls=True)
        assert cells[0, "r1c1"] == cells[0, "s1c1"]
        assert cells[0, "r0c1"] != cells[0, "r1c1"]
        differ += cells[0, "r0c1"] != cells[0, "s0c1"]
    assert differ > 0


def test_the_names_of_the_cells_are_those_that_are_made():
    texts = texts_of(pool=("It is 7.",))
    names = {name for _, name in cells_of(texts, controls=True)}
    assert names == {*CELLS, *NULL_CELLS, *RANDOM_CELLS}
    assert {name for _, name in cells_of(texts)} == set(CELLS)


def test_the_whole_chain_is_read_out_by_the_same_cue_as_the_last_step():
    cells = cells_of(texts_of())
    assert cells[3, "s1c1"] == full_text(CHAIN, Rules()) == CHAIN + CUE


def test_the_paper_reads_out_without_a_closing_brace():
    cells = cells_of(texts_of(rules=preset("paper")), preset("paper"))
    assert all(text.endswith(".\nThe final result is ") for text in cells.values())


def test_think_close_puts_the_closing_tag_before_the_cue_in_every_cell():
    rules = Rules(think="close", think_tags=("<t>", "</t>"))
    opened, closed = cells_of(by_hand()), cells_of(by_hand(), rules)
    for key, text in opened.items():
        assert closed[key] == text.removesuffix(CUE) + "\n</t>" + CUE
    assert full_text("A 1. \n", rules) == "A 1.\n</t>" + CUE
    assert full_text("A 1. \n", Rules()) == "A 1." + CUE


# ---------------------------------------------------------------- the sheet's checks


def test_check_2_a_perturbed_step_that_equals_the_step_gives_equal_texts(monkeypatch):
    """The four cells of such a step are two texts: those of the intact step."""
    from interp.thinking import cells
    from interp.thinking.perturb import Perturbed

    monkeypatch.setattr(cells, "perturb_step", lambda text, **_: Perturbed(text, "edit"))
    found = cells_of(texts_of())
    for step in range(4):
        assert found[step, "s1c1"] == found[step, "s0c1"]
        assert found[step, "s1c0"] == found[step, "s0c0"]


def test_check_4_a_perturbed_text_depends_on_seed_problem_and_step_alone():
    steps = cut(CHAIN, Rules())
    whole = texts_of(pool=("It is 7. ", "It is 8. ", "It is 9. "))
    for order in ([2], [3, 0], [2, 1, 0, 3]):
        some = step_texts(
            "p",
            [steps[i] for i in order],
            0,
            Rules(),
            pool=("It is 7. ", "It is 8. ", "It is 9. "),
        )
        assert some == [whole[i] for i in order]
    versions = {texts_of(seed=seed)[2].perturbed for seed in range(10)}
    assert len(versions) >= 8  # a new seed changes the offsets
    problems = {step_texts(str(i), steps, 0, Rules())[2].perturbed for i in range(10)}
    assert len(problems) >= 8
    repeated = step_texts("p", cut("It is 50.\n" * 12, Rules()), 0, Rules())
    assert len({each.perturbed for each in repeated}) >= 4  # and so does another step


def test_check_6_joined_steps_are_the_chain_and_nothing_is_cut_inside():
    for chain in ("It is 3.14 m.", "Use e.g. this.", "Now $a. b$ is.", r"So \frac{1}{2} it is."):
        assert [step.text for step in cut(chain + " End.", Rules())] == [chain + " ", "End."]


def test_check_7_only_the_values_change_and_every_one_of_them():
    step = "5+3=8 of 1,000 at 0.05, x12, 12x and -4"
    for seed in range(20):
        (found,) = texts_of(step, seed=seed)
        pattern = r"(-?\d)\+(-?\d)=(\d+) of ([\d,]+) at (-?\d\.05|-\d\.95), x12, 12x and (-?\d)"
        shifted = re.fullmatch(pattern, found.perturbed)
        assert shifted, found.perturbed
        assert all(a != b for a, b in zip(shifted.groups(), step_numbers(step), strict=True))
        assert re.fullmatch(r"1,00[123]|99[789]", shifted[4])


def step_numbers(text: str) -> list[str]:
    return [number.text for number in numbers(text)]


def test_check_8_the_cells_of_a_numeric_step_differ_only_in_number_characters():
    texts = texts_of()
    cells = cells_of(texts)
    numeric = [each.step.index for each in texts if each.op == "edit"]
    assert numeric == [0, 2, 3]
    for step in numeric:
        four = [cells[step, name] for name in CELLS]
        assert len(set(four)) == (2 if step == 0 else 4)
        assert len({re.sub(r"[-0-9,]", "", text) for text in four}) == 1


def test_the_perturbed_step_is_one_text_under_both_contexts():
    for each in texts_of():
        cells = cells_of(texts_of())
        for context in ("c1", "c0"):
            cell = cells[each.step.index, "s0" + context]
            assert cell.removesuffix(CUE).endswith(each.perturbed.rstrip())


def test_the_perturbed_context_is_fixed_for_a_chain_and_a_seed_and_keeps_text_steps():
    """C' before a step is what the perturbed steps before it are, text steps whole."""
    texts, context = texts_of(), ""
    cells = cells_of(texts)
    for each in texts:
        index = each.step.index
        assert cells[index, "s1c0"] == (context + each.step.text).rstrip() + CUE
        assert cells[index, "s0c0"] == (context + each.perturbed).rstrip() + CUE
        context += each.step.text if each.op == "drop" else each.perturbed
    assert "So far so good.\n\n" in context
    assert texts[1].op == "drop"


def test_a_dropped_step_leaves_the_cell_of_the_step_before():
    cells = cells_of(texts_of())
    assert cells[1, "s0c1"] == cells[0, "s1c1"]
    assert cells[1, "s0c0"] == cells[0, "s0c0"]


def test_the_null_control_is_the_users_paraphrase_or_a_rewrite_with_more_spaces():
    texts = texts_of(paraphrases={0: "He owns 5. "})
    assert texts[0].null == "He owns 5. "
    assert texts[2].null is not None
    assert texts[2].null.replace(" ", "") == texts[2].step.text.replace(" ", "")
    assert texts_of("Yes.")[0].null is None


def test_the_random_step_is_drawn_from_the_pool_by_the_same_key():
    pool = tuple(f"It is {n}. " for n in range(40))
    drawn = [texts_of(seed=seed, pool=pool)[0].other for seed in range(30)]
    assert drawn == [texts_of(seed=seed, pool=pool)[0].other for seed in range(30)]
    assert set(drawn) <= set(pool)
    assert len(set(drawn)) > 10
    assert all(each.other is None for each in texts_of())


def test_offsets_of_the_rules_are_those_that_are_drawn():
    (found,) = texts_of("It is 50.", rules=Rules(offsets=(7,)))
    assert (found.perturbed, found.op) == ("It is 57.", "edit")
    assert found.perturbed == perturb_step("It is 50.", key=(0, "p", 0), offsets=(7,)).text
