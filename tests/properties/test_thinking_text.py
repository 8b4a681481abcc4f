"""Laws of the text of a chain of thought, for every text: steps, perturbation, answers."""

from __future__ import annotations

import re
import subprocess
import sys
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from interp.thinking.answers import mentions, same_answer, split_output
from interp.thinking.perturb import (
    OFFSETS,
    null_rewrite,
    numbers,
    perturb_numbers,
    perturb_step,
    shift,
)
from interp.thinking.steps import from_spans, segment

law = settings(deadline=None, derandomize=True)

PIECES = st.sampled_from(
    ["Then", "x", "x12", "e.g.", "Mr.", "U.S.", "No.", "1.", "-", "Step 1:", ".", "!", "?", "...",
     "5", "-4", "3.14", "1,000", ".5", "007", "$", "$$", "{", "}", r"\frac{1}{2}", r"\(", r"\)",
     r"\[", r"\]", "**", '"', ")", "(", "=", "+", "%", " ", "  ", "\n", "\n\n", "\r\n", "\t",
     "</think>", "<think>", r"\boxed{", "####", "the answer is ", "Answer:", "。", "½", "\u2212"]
)  # fmt: skip
CHAINS = st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join))
KEYS = st.tuples(st.integers(0, 99), st.text(max_size=5), st.integers(0, 99))
WORD = re.compile(r"[^\W_]")


@law
@given(CHAINS)
def test_steps_join_to_the_chain(chain: str):
    steps = segment(chain)
    assert "".join(step.text for step in steps) == (chain if chain.strip() else "")
    assert all(step.text == chain[step.start : step.end] for step in steps)
    assert [step.index for step in steps] == list(range(len(steps)))


@law
@given(CHAINS)
def test_every_step_has_a_word_if_the_chain_has_one(chain: str):
    if WORD.search(chain):
        assert all(WORD.search(step.text) for step in segment(chain))


@law
@given(CHAINS)
def test_spans_of_the_stripped_steps_give_the_steps_back(chain: str):
    steps = segment(chain)
    spans = []
    for step in steps:
        left = step.start + len(step.text) - len(step.text.lstrip())
        spans.append((left, step.start + len(step.text.rstrip())))
    assert from_spans(chain, spans) == steps


@law
@given(CHAINS, KEYS)
def test_an_edit_changes_every_number_and_nothing_else(text: str, key: tuple[object, ...]):
    edited, end, pattern = perturb_numbers(text, key=key), 0, ""
    for number in numbers(text):
        assert text[number.start : number.end] == number.text
        shifted = "|".join(re.escape(shift(number.text, offset)) for offset in OFFSETS)
        pattern += re.escape(text[end : number.start]) + f"(?:{shifted})"
        end = number.end
    assert re.fullmatch(pattern + re.escape(text[end:]), edited)


@law
@given(st.lists(st.sampled_from(["5", "1,000", "0.05", "12.5"]), min_size=1), KEYS)
def test_with_its_numbers_blanked_an_edited_step_is_the_original(
    written: list[str], key: tuple[object, ...]
):
    text = "So " + " + ".join(f"({number})" for number in written) + " = x12."
    edited = perturb_numbers(text, key=key)
    blanked = [re.sub(r"\(-?[0-9.,]+\)", "(#)", version) for version in (text, edited)]
    assert blanked[0] == blanked[1]
    assert len(numbers(edited)) == len(numbers(text)) == len(written)


@law
@given(CHAINS, KEYS)
def test_a_step_is_edited_or_dropped(text: str, key: tuple[object, ...]):
    perturbed = perturb_step(text, key=key)
    assert perturbed.op == ("edit" if numbers(text) else "drop")
    assert perturbed.text == (perturb_numbers(text, key=key) if numbers(text) else "")
    assert perturbed.text != text or text == ""


@law
@given(st.decimals(allow_nan=False, allow_infinity=False, places=2), st.integers(-999, 999))
def test_a_shift_and_back_gives_the_same_text(number: Decimal, offset: int):
    text = f"{number:f}"
    if number != 0:  # -0.00 comes back without its sign
        assert shift(shift(text, offset), -offset) == text


@law
@given(st.integers(-(10**9), 10**9), st.integers(-999, 999))
def test_a_shift_keeps_the_separators_of_a_grouped_number(number: int, offset: int):
    if abs(number) >= 1000:
        assert shift(f"{number:,}", offset) == f"{number + offset:,}"


@law
@given(CHAINS, KEYS)
def test_the_control_changes_no_character_but_spaces(text: str, key: tuple[object, ...]):
    rewritten = null_rewrite(text, key=key)
    if rewritten is not None:
        assert rewritten != text
        assert rewritten.replace(" ", "") == text.replace(" ", "")
        assert len(rewritten) > len(text)
        assert [n.text for n in numbers(rewritten)] == [n.text for n in numbers(text)]


@law
@given(CHAINS, st.booleans())
def test_the_chain_is_a_part_of_the_output_without_the_closing_tag(text: str, opened: bool):
    split = split_output(text, opened=opened)
    assert split.chain in text
    assert "</think>" not in split.chain
    assert split.truncated == ("</think>" not in text and (opened or "<think>" in text))


@law
@given(st.lists(st.sampled_from(["Add 3.5.", "So 5 + 3 = 8.", "$a. b$ is."])), st.integers())
def test_a_final_answer_block_never_enters_the_chain(sentences: list[str], answer: int):
    chain = "".join(f"{sentence} " for sentence in sentences)
    for block in (rf"It is \boxed{{{answer}}}.", f"The answer is {answer}.", f"\n#### {answer}"):
        split = split_output(chain + block)
        assert split.chain.strip() == chain.strip()
        assert split.answer == str(answer)


@law
@given(CHAINS, CHAINS)
def test_agreement_is_symmetric_and_every_number_of_a_step_is_mentioned(a: str, b: str):
    assert same_answer(a, a)
    assert same_answer(a, b) == same_answer(b, a)
    assert all(mentions(a, number.text) for number in numbers(a))


def test_draws_do_not_depend_on_the_hash_seed_and_nothing_imports_torch():
    code = (
        "import sys; from interp.thinking import answers, perturb, steps; "
        "print(perturb.perturb_numbers('5 + 60 = 700', key=(3, 'p', 4)), 'torch' in sys.modules)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = perturb_numbers("5 + 60 = 700", key=(3, "p", 4))
    assert outputs == {f"{here} False\n"}
