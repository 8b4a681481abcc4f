"""Arithmetic chains: the raw line form, numbers as GSM8k-Aug writes them, generated chains."""

from fractions import Fraction

import pytest

from interp.data.arithmetic_chains import (
    ArithmeticChains,
    evaluate,
    false_steps,
    plain_numbers,
    raw_lines,
    read_raw,
    split_equations,
    to_number,
    to_row,
    write_raw,
)
from interp.data.latent_problems import LatentProblem
from interp.errors import InputError

LINE = "Half of 4 less 2?||<<4-2=2>> <<2/.5=4>> #### 4"
PROBLEM = LatentProblem("1", "Half of 4 less 2?", ("<<4-2=2>>", "<<2/.5=4>>"), "4")


def test_a_raw_line_is_read_and_written():
    assert read_raw(LINE, id="1") == PROBLEM
    assert write_raw(PROBLEM) == LINE
    assert raw_lines([PROBLEM, PROBLEM]) == f"{LINE}\n{LINE}\n"
    assert to_row(PROBLEM) == {
        "question": "Half of 4 less 2?",
        "steps": ["<<4-2=2>>", "<<2/.5=4>>"],
        "answer": "4",
    }
    assert read_raw("A?||<<600*2=1200>><<1200-1=1199>>####1,199 ", id="").answer == "1199"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "no raw line: it must read question"),
        ("A? <<4-2=2>> #### 2", "no raw line: it must read question"),
        ("A?||<<4-2=2>>", "no raw line: it must read question"),
        ("||<<4-2=2>> #### 2", "no raw line: it must read question"),
        ("A?||<<4-2=2>> #### ", "no raw line: it must read question"),
        ("A?|| #### 2", "no chain of equations between || and ####: ''"),
        ("A?||4-2=2 #### 2", "no chain of equations between || and ####: '4-2=2'"),
        ("A?||<<4-2=2>> so <<1+1=2>> #### 2", "no chain of equations between"),
    ],
)
def test_a_line_that_is_no_raw_line_says_why(line: str, reason: str):
    with pytest.raises(InputError) as error:
        read_raw(line, id="1")
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (LatentProblem("p", "A?", ("four",), "4"), "p has the step 'four'; a raw line holds"),
        (LatentProblem("p", "A?", (), "4"), "p has no step; a raw line holds"),
        (LatentProblem("p", "A||B?", PROBLEM.steps, "4"), "p cannot be a raw line: 'A||B?' is"),
        (LatentProblem("p", "A?", PROBLEM.steps, "#### 4"), "p cannot be a raw line: '#### 4'"),
        (LatentProblem("p", "A\nB?", PROBLEM.steps, "4"), "p cannot be a raw line: 'A\\nB?'"),
    ],
)
def test_what_would_break_a_raw_line_is_not_written(problem: LatentProblem, said: str):
    with pytest.raises(InputError) as error:
        write_raw(problem)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("text", "value"),
    [(".5", Fraction(1, 2)), ("2.", Fraction(2)), ("-3", Fraction(-3)), ("1,319", Fraction(1319))],
)
def test_numbers_as_they_stand(text: str, value: Fraction):
    assert to_number(text) == value


@pytest.mark.parametrize("text", ["", ".", "1,3", "four", "1e3", "٣", "1_000", "9" * 5000])
def test_what_is_no_number_is_refused(text: str):
    with pytest.raises(InputError, match=r"is no number such as|is too long a number"):
        to_number(text)


def test_thousands_separators_go_and_other_commas_stay():
    assert plain_numbers("1,000,000 and 12,345.5") == "1000000 and 12345.5"
    assert plain_numbers("(1,2) 1234,567 0.123,456") == "(1,2) 1234,567 0.123,456"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2/.5", Fraction(4)),
        ("1+2*3", Fraction(7)),
        ("(1+2)*3", Fraction(9)),
        ("8-3-2", Fraction(3)),
        ("8/4/2", Fraction(1)),
        ("-2*-3", Fraction(6)),
        ("1,000 / 3", Fraction(1000, 3)),
    ],
)
def test_expressions_are_exact(expression: str, value: Fraction):
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("1/0", "it divides by zero"),
        ("1+", "it ends too early"),
        ("", "it ends too early"),
        ("(1+2", "it ends too early"),
        ("1)", "it goes on after its end"),
        ("2(3)", "it goes on after its end"),
        ("__import__", r"only numbers, \+ - \* / \( \)"),
        ("2**3", "."),
        ("(" * 9000 + "1" + ")" * 9000, "it is nested too deep"),
    ],
)
def test_what_cannot_be_computed_is_refused(expression: str, why: str):
    with pytest.raises(InputError, match=why):
        evaluate(expression)


def test_equations_that_do_not_hold_are_found_and_rounded_ones_are_not():
    steps = ("<<1/3=.33>>", "<<2+2=5>>", "<<4>>", "<<5/0=1>>", "<<50%*2=1>>", "<<1000*2=2,000>>")
    assert false_steps(LatentProblem("1", "?", steps, "1")) == (1, 2, 3, 4)


def test_equations_are_split_only_where_nothing_else_stands():
    assert split_equations(" <<1+1=2>><<2+1=3>>\n") == ("<<1+1=2>>", "<<2+1=3>>")
    assert split_equations("") is split_equations("1 <<1+1=2>>") is split_equations("<<1") is None


@pytest.mark.parametrize("task", [ArithmeticChains(), ArithmeticChains((1, 6), 9, decimals=False)])
def test_generated_chains_hold_and_link(task: ArithmeticChains):
    problems = task.draw(300, seed=2)
    fewest, most = task.steps
    assert {len(problem.steps) for problem in problems} == set(range(fewest, most + 1))
    for problem in problems:
        assert false_steps(problem) == ()
        value = problem.question.split(".")[0].removeprefix("Start with ")
        for step in problem.steps:
            left, result = step[2:-2].split("=")
            assert left.startswith(value) and not left[len(value)].isdigit()
            assert 0 <= int(result) <= task.largest
            value = result
        assert value == problem.answer
        assert read_raw(write_raw(problem), id=problem.id) == problem
    assert any(".5" in step for p in problems for step in p.steps) == task.decimals
    signs = {sign for p in problems for step in p.steps for sign in "+-*/" if sign in step}
    assert signs == set("+-*/")


def test_the_question_says_what_the_equations_do():
    problem = ArithmeticChains().draw(1)[0]
    assert problem.question == (
        "Start with 12. Divide by .5. Multiply by .5. Multiply by 2. What do you get?"
    )
    assert problem.steps == ("<<12/.5=24>>", "<<24*.5=12>>", "<<12*2=24>>")


def test_chains_repeat_and_bad_settings_are_refused():
    assert ArithmeticChains().draw(3, seed=1) == ArithmeticChains().draw(5, seed=1)[:3]
    assert ArithmeticChains().draw(3, seed=1) != ArithmeticChains().draw(3, seed=2)
    with pytest.raises(InputError, match=r"^Chains of \(0, 2\) steps: give the fewest and most"):
        ArithmeticChains(steps=(0, 2))
    with pytest.raises(InputError, match=r"^The largest value of a chain is 8: give 9 or more\.$"):
        ArithmeticChains(largest=8)
