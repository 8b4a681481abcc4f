"""Where a chain of thought is cut into steps, and where never."""

from __future__ import annotations

import re

import pytest

from interp.errors import InputError
from interp.thinking.steps import Step, brace_spans, from_spans, segment


def texts(chain: str) -> list[str]:
    return [step.text for step in segment(chain)]


def test_a_step_knows_its_place_in_the_chain():
    assert segment("One. Two!  \nThree?") == [
        Step(index=0, start=0, end=5, text="One. "),
        Step(index=1, start=5, end=12, text="Two!  \n"),
        Step(index=2, start=12, end=18, text="Three?"),
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "It is 3.14 metres and .5 more.",
        "Some, e.g. Anna, i.e. Her, came.",
        "Mr. Wu, Mrs. Ng and Dr. Li met.",
        "Cats vs. Dogs ended.",
        "Apples, pears, etc. are fruit.",
        "We call No. 5 the winner.",
        "As Fig. 2 and Eq. (3) show.",
        "By J. Smith and J. R. R. Tolkien.",
        "John F. Kennedy spoke.",
        "The U.S. Army and the U.S. economy.",
        "At 5 p.m. it rained for 5 min. or so.",
        "Then $a. b$ holds.",
        "Then $$a.\nb.\n$$ holds.",
        r"Then \( a. b \) holds.",
        r"Then \[ a. b \] holds.",
        r"Then \begin{align} a. b \\[2pt] c. d \end{align} holds.",
        r"Then \frac{1}{2} and \frac{1. 2}{3} hold.",
        "The set {1. 2. {3. 4} 5. 6} is whole.",
        "Note that 5! = 120 and n! is more.",
        "Wait... what now?",
        '"Really?" she said.',
    ],
)
def test_no_cut_inside(sentence: str):
    assert texts(f"{sentence} Then more.") == [f"{sentence} ", "Then more."]


@pytest.mark.parametrize(
    "chain",
    [
        "She pays $5. |She has $10.",
        "It costs US$5. |He paid 6$. |So be it.",
        "She has $5 and $x. y$ too. |Done.",  # money first, then a formula
        "He paid $7 (or $y. z$). |So.",
        r"A note of \$5. |Then \$6.",
        "Here $x = 5.$ |Then $y$.",
        "Apples etc. |Then pears.",
        "In the U.S. |The rest.",
        "Pick option B. |Draw it.",
        "It is = N. |Check it.",
        "So the answer is B. |Therefore yes.",
        "He said “yes.” |She (or he.) |Left.",
        "It is **5.** |Now stop.",
        "It is 5! |Then 6.",
        "Is it odd? |No. |5 is.",
        "An unclosed {1. |Two.",
        "An unclosed $a. |Two.\n\n|A dollar$ later.",
        "你好。|有3个！|好",  # noqa: RUF001
    ],
)
def test_cut_after(chain: str):
    assert texts(chain.replace("|", "")) == chain.split("|")


@pytest.mark.parametrize(
    "chain",
    [
        "1. Find x.\n|2. Find y.",
        "- one\n|-\ntwo\n|* three",
        "Step 1:\nFind x.\n\n|**Step 2.** Find y.",
        "### Step 3\nFind z. |It is 5.",
        "A. One.\n|(b) Two.\n|iv. Four.",
        "Is it B? |B. |Yes.",  # a letter inside a line is no marker
        "Find x.\n|It is 5.\n3.",  # a marker at the end introduces nothing
        "Find x.\n!\n|---\nFind y.\n}\n",
        "\n\n  ***\nFind x.",
        "Find x.\n-\n;",
        "One\r\n\r\n|two\n|three",
    ],
)
def test_markers_and_pieces_without_a_word_never_stand_alone(chain: str):
    assert texts(chain.replace("|", "")) == chain.split("|")


@pytest.mark.parametrize("blank", ["", " ", "\n\t\r\n"])
def test_a_blank_chain_has_no_steps(blank: str):
    assert segment(blank) == []


def test_text_without_any_word_is_one_step():
    assert texts("?! \n ...") == ["?! \n ..."]


def test_a_very_long_word_costs_one_pass():
    chain = "(" * 100_000 + "." * 100_000 + "\\begin{a} $" * 10_000
    assert "".join(texts(chain)) == chain


def test_braces_pair_from_the_inside_and_an_unclosed_one_hides_none():
    assert brace_spans(r"{ {a{b}} \{ }") == [(4, 7), (2, 8), (0, 13)]
    assert brace_spans("{ {a}") == [(2, 5)]


def test_spans_keep_the_gaps_with_the_step_before():
    assert from_spans("  One two.\n Three. ", [(2, 5), (6, 10), (12, 18)]) == [
        Step(index=0, start=0, end=6, text="  One "),
        Step(index=1, start=6, end=12, text="two.\n "),
        Step(index=2, start=12, end=19, text="Three. "),
    ]
    assert from_spans(" \n", []) == []


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 3), (2, 8)], "Span 1 starts at 2, before span 0 ends at 3: put the spans in order"),
        ([(4, 8), (0, 3)], "Span 1 starts at 0, before span 0 ends at 8"),
        ([(0, 9)], "Span 0 is (0, 9): give (start, end) around some text, within the 8 char"),
        ([(-1, 8)], "Span 0 is (-1, 8)"),
        ([(0, 3), (3, 4), (4, 8)], "Span 1 is (3, 4)"),  # blank
        ([(0, 0), (0, 8)], "Span 0 is (0, 0)"),
        ([(4, 8)], "No span covers 'One' in characters 0 to 4"),
        ([(0, 3)], "No span covers 'two.' in characters 3 to 8"),
        ([(0, 3), (5, 8)], "No span covers 't' in characters 3 to 5"),
        ([], "No span covers 'One two.' in characters 0 to 8"),
    ],
)
def test_spans_that_break_a_rule_are_refused(spans: list[tuple[int, int]], message: str):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        from_spans("One two.", spans)
