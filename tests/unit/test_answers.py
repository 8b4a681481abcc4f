"""Where the chain ends, what the final answer is, and what a step says of it."""

from __future__ import annotations

import pytest

from interp.thinking.answers import (
    Split,
    gold_answer,
    mentions,
    same_answer,
    split_output,
    verification,
)


@pytest.mark.parametrize(
    ("text", "chain", "answer"),
    [
        ("9 * 2 = 18.\n#### 18", "9 * 2 = 18.\n", "18"),
        ("9 * 2 = 18.\n#### 18.\n", "9 * 2 = 18.\n", "18"),
        ("### Answer\nIt is 9 + 9.\n#### 18.", "### Answer\nIt is 9 + 9.\n", "18"),
        ("Sum it. So it is \\boxed{18}.", "Sum it. ", "18"),
        ("Sum it.\n$$\n\\boxed{\\frac{1}{2}}\n$$\n", "Sum it.\n", "\\frac{1}{2}"),
        ("Sum it.\n\n### Final Answer\n\n\\boxed{18}", "Sum it.\n\n", "18"),
        ("Sum it.\nThe final answer is:\n\n\\[\\boxed{18}\\]", "Sum it.\n", "18"),
        ("Not \\boxed{}. Nor \\boxed{4. So \\boxed{5}.", "Not \\boxed{}. Nor \\boxed{4. ", "5"),
        ("\\boxed{5} or so. It is \\boxed{6}", "\\boxed{5} or so. ", "6"),
        ("Sum it. Therefore, the final answer is 18.", "Sum it. ", "18"),
        ("Sum it. THE ANSWER IS $18.50.", "Sum it. ", "18.50"),
        ("Sum it. So the answer is $x^2$.", "Sum it. ", "x^2"),
        ("Sum it.\n**Answer:** **1,000**", "Sum it.\n", "1,000"),
        ("Sum it.\n\nFinal Answer:\n18", "Sum it.\n\n", "18"),
        ("The answer is 5? No. The answer is 6.", "The answer is 5? No. ", "6"),
    ],
)
def test_the_chain_ends_before_the_last_sentence_that_marks_the_answer(
    text: str, chain: str, answer: str
):
    assert split_output(text) == Split(chain, answer, truncated=False)


def test_a_marker_before_the_last_sentence_cuts_nothing():
    text = "The answer is 18. I have checked it."
    assert split_output(text) == Split(text, "18", truncated=False)


def test_a_box_counts_before_a_phrase():
    assert split_output("It is \\boxed{5}. I hope the answer is fine.").answer == "5"


@pytest.mark.parametrize(
    "text",
    ["", " \n", "Sum it. 18", "The answer is not 5.", "I think the answer is correct.",
     "The banswer: 5", "The answer issue: none", "Answer:", "It is \\boxed{4"],
)  # fmt: skip
def test_without_a_marker_there_is_no_answer_and_no_cut(text: str):
    assert split_output(text) == Split(text, None, truncated=False)


@pytest.mark.parametrize("opening", ["<think>", "", "Sure.<think>"])
def test_the_chain_ends_before_the_closing_tag(opening: str):
    """A template may write the opening tag itself, so that the text holds the closing one only."""
    output = f"{opening}\nSum it. Wait.\n</think>\n\nSo \\boxed{{18}}. Done."
    assert split_output(output) == Split("\nSum it. Wait.\n", "18", truncated=False)


def test_inside_a_thought_only_a_closing_marker_counts():
    taken_back = "<think>Sum. The answer is 5. Wait, no.</think>18"
    closing = "<think>Sum. The answer is 5.</think>5"
    assert split_output(taken_back) == Split("Sum. The answer is 5. Wait, no.", None, False)
    assert split_output(closing) == Split("Sum. ", "5", False)


def test_a_thought_that_never_closes_is_truncated():
    cut_off = Split("Sum. The answer is 5. Wait", None, truncated=True)
    assert split_output("<think>Sum. The answer is 5. Wait") == cut_off
    assert split_output("Sum. The answer is 5. Wait", opened=True) == cut_off
    assert not split_output("Sum.</think>5", opened=True).truncated


def test_other_tags_and_none():
    tags = ("[T]", "[/T]")
    assert split_output("[T]Sum.[/T]Answer: 5", think_tags=tags) == Split("Sum.", "5", False)
    assert split_output("<think> Sum.", think_tags=None) == Split("<think> Sum.", None, False)


def test_gold_answers():
    assert gold_answer("9 * 2 = <<9*2=18>>18\n#### 1,018 ") == "1,018"
    assert gold_answer(" x + 1\n") == "x + 1"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("18", "18.0"),
        ("$18", "18"),
        (r"\$18", "18."),
        ("1,000", "1000"),
        (r"1{,}000", "1000"),
        ("-$5", "-5"),
        ("\u22125", "-5"),
        ("18%", r"18.0\%"),
        (r"\frac{1}{2}", "0.5"),
        (r"-\frac{1}{2}", "-1/2"),
        (r"\text{Yes}", "yes"),
        ("Two  apples.", "two apples"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_equal_answers(a: str, b: str):
    assert same_answer(a, b)
    assert same_answer(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [("18", "18.01"), ("18", "-18"), ("18%", "18"), ("1,00", "100"), ("1/0", "0"), ("", "0"),
     ("1/2", "2/1"), ("-1/2", "1/2"), ("x", "y"), ("18 apples", "18 pears")],
)  # fmt: skip
def test_different_answers(a: str, b: str):
    assert not same_answer(a, b)
    assert not same_answer(b, a)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She has $1,000.00.", "1000"),
        ("It is -4 now.", "-4"),
        ("5-4=1", "4"),
        ("So Yes, it is.", "yes"),
        ("Take 50% of it.", "50%"),
        ("It is 1/2 of it.", "1/2"),
        ("Option A is it.", "A"),
        (r"So \frac{1}{2}.", r"\frac{1}{2}"),
    ],
)
def test_a_step_mentions_the_answer(text: str, answer: str):
    assert mentions(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("180 and x18 and 18.5", "18"), ("5-4=1", "-4"), ("yesterday", "yes"), ("a cat", "A"),
     ("2x+1", "x+1"), ("anything", ""), ("50 of it", "50%")],
)  # fmt: skip
def test_a_step_does_not_mention_the_answer(text: str, answer: str):
    assert not mentions(text, answer)


@pytest.mark.parametrize(
    "text",
    ["Wait, no.", "wait", "But wait. Is it?", "Hmm...", "Hmmm, no", "Actually, 5.",
     "\nLet me check.", "Let's double-check this.", "Let\u2019s verify", "LET US RECHECK",
     "Alternatively, add.", "So let me just verify it", "To verify, add.", "Hold on.",
     "**Check:** 5", "OK, but wait"],
)  # fmt: skip
def test_a_self_check_is_seen_at_the_start_of_a_step(text: str):
    assert verification(text)


@pytest.mark.parametrize(
    "text",
    ["We wait.", "Waiting for it.", "The wait time is 5.", "Wait time is 5.", "He checks it. Wait",
     "Let me compute.", "Let me checkmate him.", "Check the box.", "The actual one.", "Human", ""],
)  # fmt: skip
def test_no_self_check_elsewhere(text: str):
    assert not verification(text)


@pytest.mark.parametrize(
    "text",
    [
        "4 * 6 = 24.\n#### 24\nThe answer is: 24",
        "4 * 6 = 24.\nThe answer is 24.\n#### 24\nClara reads 24 pages.",
        "4 * 6 = 24.\n#### 24\nSo 24.\n#### 24",
    ],
)
def test_an_answer_that_is_marked_again_and_again_leaves_no_trace_in_the_chain(text):
    assert split_output(text) == Split("4 * 6 = 24.\n", "24", truncated=False)
