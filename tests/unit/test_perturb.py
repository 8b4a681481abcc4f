"""What is a number, how it is shifted, and what the control may touch."""

from __future__ import annotations

import re

import pytest

from interp.errors import InputError
from interp.thinking.perturb import (
    OFFSETS,
    RELEASED_OFFSETS,
    Number,
    Perturbed,
    null_rewrite,
    numbers,
    perturb_numbers,
    perturb_step,
    shift,
)

KEY = (0, "problem", 1)
FIXED = "6+0=9, then 997 - 2.05 and x12."


def found(text: str) -> list[str]:
    return [number.text for number in numbers(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5+3=8", ["5", "3", "8"]),
        ("1,000 and 12,345.67", ["1,000", "12,345.67"]),
        (r"12{,}345", [r"12{,}345"]),
        ("1,2,3 and 1,00", ["1", "2", "3", "1", "00"]),
        ("0.05, .5 and 3.14.", ["0.05", ".5", "3.14"]),
        ("It is 5.", ["5"]),
        ("$5, 50% and \\frac{1}{2}", ["5", "50", "1", "2"]),
        (r"3\times4 = \sqrt2", ["3", "4", "2"]),
        ("3:30 on 2024-01-05", ["3", "30", "2024", "01", "05"]),
        ("10^{-2}, x^2 and 5!", ["10", "-2", "2", "5"]),
        ("#### 18", ["18"]),
        ("有3个", ["3"]),
    ],
)
def test_numbers_are_found_whole(text: str, expected: list[str]):
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    ["x12", "12x", "1st", "x_1", "1e5", "1e-5", "1.2.3", "v1.2", "1.5kg", "1,000m", "x_{12}",
     "12x_{3}", r"\alpha_1", r"\frac12", "_5_", "5\u00b2"],
)  # fmt: skip
def test_digits_in_a_name_are_spared_whole(text: str):
    assert found(f"Here {text} is.") == []


@pytest.mark.parametrize(
    "text",
    ["-4", "= -4", "is -4", "(-4)", "{-4}", "=-4", "2^-4 ", ", -4", "$-4$", "|-4|", '"-4"',
     r"\times -4", "by\n-4", "5--4", "5 - -4", "5*-4", "\u22124"],
)  # fmt: skip
def test_a_minus_without_an_operand_on_its_left_is_a_sign(text: str):
    assert found(text)[-1] in ("-4", "\u22124")


@pytest.mark.parametrize(
    "text",
    ["5-4", "5 - 4", "5 -4", "x -4", "x-4", ")-4", "2x -4", "5% -4", "$x$-4", "|x|-4", "- 4",
     r"\pi -4", "word-4", "5\u22124", "8\n-4"],
)  # fmt: skip
def test_a_minus_with_an_operand_on_its_left_is_an_operator(text: str):
    assert found(text)[-1] == "4"


def test_a_number_knows_its_place():
    assert numbers("is -4, 0.5") == [Number(3, 5, "-4"), Number(7, 10, "0.5")]


@pytest.mark.parametrize(
    ("text", "offset", "expected"),
    [
        ("5", 3, "8"),
        ("1", -3, "-2"),
        ("-1", 1, "0"),
        ("-1", 3, "2"),
        ("-4", -2, "-6"),
        ("\u22124", -2, "\u22126"),
        ("0.05", 2, "2.05"),
        ("0.05", -1, "-0.95"),
        ("0.50", -2, "-1.50"),
        (".5", 1, "1.5"),
        (".5", -1, "-.5"),
        ("1,000", -1, "999"),
        ("999,999", 1, "1,000,000"),
        ("999", 1, "1000"),
        ("12,345.67", 3, "12,348.67"),
        (r"9{,}999", 2, r"10{,}001"),
        ("007", 3, "010"),
        ("007", -10, "-003"),
        ("00.50", 2, "02.50"),
        ("123456789012345678901234567890.1", 1, "123456789012345678901234567891.1"),
        ("9" * 5000, 1, "1" + "0" * 5000),
    ],
)
def test_a_shift_is_exact_and_keeps_the_format(text: str, offset: int, expected: str):
    assert shift(text, offset) == expected


@pytest.mark.parametrize("text", ["", "-", "x", "1.", "5 ", "1,00", "+4"])
def test_only_a_number_is_shifted(text: str):
    with pytest.raises(InputError, match=f"^{re.escape(repr(text))} is not a number to shift: "):
        shift(text, 1)


def test_one_key_gives_one_fixed_text():
    """Written down once: a change of the hashing would change every published score."""
    text = "5+3=8, then 1,000 - 0.05 and x12."
    assert perturb_numbers(text, key=(0, "p", 1)) == FIXED
    assert perturb_numbers(text, key=(1, "p", 1)) != FIXED
    assert perturb_numbers(text, key=(0, "q", 1)) != FIXED
    assert perturb_numbers(text, key=(0, "p", 2)) != FIXED


def test_a_number_keeps_its_draw_when_text_around_it_changes():
    """The draw is by ordinal, so the first number of both steps is shifted alike."""
    assert perturb_numbers("So 50.", key=KEY) == perturb_numbers("So 50 and 60.", key=KEY)[:5] + "."


@pytest.mark.parametrize("offsets", [OFFSETS, RELEASED_OFFSETS])
def test_every_offset_is_drawn_about_equally_often_and_no_other(offsets: tuple[int, ...]):
    drawn = [
        int(perturb_numbers("50", key=(seed, "p", 0), offsets=offsets)) - 50 for seed in range(600)
    ]
    share = 600 / len(offsets)
    assert set(drawn) == set(offsets)
    # Five standard deviations of a binomial count.
    assert all(abs(drawn.count(offset) - share) < 5 * share**0.5 for offset in offsets)


@pytest.mark.parametrize("offsets", [(), (1, 0)])
def test_offsets_that_change_nothing_are_refused(offsets: tuple[int, ...]):
    message = f"The offsets are {offsets!r}: give at least one, and none that is 0."
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        perturb_numbers("5", key=KEY, offsets=offsets)


def test_a_step_is_edited_where_it_has_numbers_and_dropped_whole_where_it_has_none():
    edited = perturb_step("So 5.\n", key=KEY, offsets=(2,))
    assert edited == Perturbed(text="So 7.\n", op="edit")
    assert perturb_step("Think of x12.\n", key=KEY) == Perturbed(text="", op="drop")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5+3=8", "5 + 3 = 8"),
        ("So 5 + 3 = 8.", "So  5 +  3 =  8."),
        ("5 - 3 is -4", "5 -  3 is  -4"),
        ("5--3", "5 - -3"),
        ("x-3", None),
        ("Total:5 apples", "Total:5  apples"),
        ("word", None),
        ("two words", "two  words"),
        (" word\n", None),
        ("", None),
    ],
)
def test_the_control_adds_spaces_only(text: str, expected: str | None):
    assert null_rewrite(text, key=KEY) == expected


def test_the_place_of_a_doubled_space_depends_on_the_key():
    rewrites = {null_rewrite("a b c d", key=(seed, "p", 0)) for seed in range(50)}
    assert rewrites == {"a  b c d", "a b  c d", "a b c  d"}
