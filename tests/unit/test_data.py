"""Reading problems, and the generated pairs and word problems."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.data import pairs, word_problems
from interp.data.pairs import PromptPair, indirect_object
from interp.data.rows import Row, read_rows
from interp.errors import InputError
from interp.thinking.perturb import numbers
from interp.thinking.steps import segment
from tests.strategies import says


@pytest.fixture
def rows(tmp_path):
    """`rows(line, ...)`: write the lines (or JSON of them) and read them as problems."""

    def read(*lines, **options) -> list[Row]:
        path = tmp_path / "rows.jsonl"
        texts = [x if isinstance(x, str) else json.dumps(x, ensure_ascii=False) for x in lines]
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return read_rows(path, **options)

    return read


FINE = {"id": "fine", "question": "How many?"}


# ---------------------------------------------------------------- rows


def test_a_full_row(rows):
    line = {
        "id": "a",
        "question": "How many?",
        "cot": "2 + 2. So 4.",
        "answer": "#### 4",
        "spans": [[0, 6], [7, 12]],
        "paraphrases": {"1": "Hence 4."},
        "checks": [1],
        "level": "easy",
    }
    spans, rewrites = ((0, 6), (7, 12)), {1: "Hence 4."}
    assert rows(line) == [
        Row("a", "How many?", "2 + 2. So 4.", "#### 4", spans, rewrites, checks=(1,))
    ]


def test_a_minimal_row_and_nulls(rows):
    assert rows(FINE) == [Row("fine", "How many?")]
    nulls = {**FINE, "cot": None, "answer": None, "spans": None, "paraphrases": None}
    assert rows(nulls) == [Row("fine", "How many?")]


def test_blank_lines_do_not_count_and_a_limit_takes_the_first_rows(rows):
    lines = [{"id": str(i), "question": "How many?"} for i in range(4)]
    assert [row.id for row in rows(lines[0], "", lines[1], "  ", *lines[2:])] == list("0123")
    assert [row.id for row in rows(*lines, limit=2)] == ["0", "1"]


def test_a_row_without_an_id_gets_one_from_its_question(rows):
    one, same, other = rows({"question": "A?"}, {"question": "A?", "cot": "x"}, {"question": "B?"})
    assert re.fullmatch(r"q-[0-9a-f]{10}", one.id)
    assert same.reason and same.id == f"{one.id}#2"  # the same question twice
    assert other.id != one.id and not other.reason
    (again,) = rows({"question": "A?"})
    assert again.id == one.id


def test_an_id_may_be_a_number(rows):
    assert [row.id for row in rows({"id": 7, "question": "A?"})] == ["7"]


def test_the_id_0_is_an_id(rows):
    assert [row.id for row in rows({"id": 0, "question": "A?"})] == ["0"]


@pytest.mark.parametrize(
    ("line", "name", "reason"),
    [
        ("{oops", "line-2", "not JSON: Expecting property name enclosed in double quotes"),
        ('"text"', "line-2", "not JSON of the right kind: the line is no object"),
        ("[1]", "line-2", "not JSON of the right kind: the line is no object"),
        ({"id": "a"}, "a", "no question: the row has no text `question`"),
        ({"id": "a", "question": " "}, "a", "no question: the row has no text `question`"),
        ({"id": "a", "question": 5}, "a", "no question: the row has no text `question`"),
        ({"question": ["x"]}, "line-2", "no question: the row has no text `question`"),
        ({"id": "a", "question": "q", "cot": 5}, "a", "`cot` is not text"),
        ({"id": "a", "question": "q", "answer": [18]}, "a", "`answer` is not text"),
        ({"id": "a", "question": "q", "cot": " \n"}, "a", "empty chain: the row's `cot` has no t"),
        ({"id": "a", "question": "q", "spans": [[1]]}, "a", "`spans` must be"),
        ({"id": "a", "question": "q", "spans": 7}, "a", "`spans` must be"),
        ({"id": "a", "question": "q", "paraphrases": {"x": "y"}}, "a", "`spans` must be"),
        ({"id": "a", "question": "q", "paraphrases": ["y"]}, "a", "`spans` must be"),
        ({"id": "a", "question": "q", "checks": ["x"]}, "a", "`spans` must be"),
        ({"id": "a", "question": "q", "checks": 3}, "a", "`spans` must be"),
        ({**FINE}, "fine#2", "the id 'fine' stands on an earlier row too: ids must differ"),
    ],
)  # fmt: skip
def test_a_bad_row_is_marked_and_the_others_are_kept(rows, line, name, reason):
    first, bad, last = rows(FINE, line, {"id": "last", "question": "And now?"})
    assert (first.reason, last.reason) == (None, None)
    assert (first.id, last.id) == ("fine", "last")
    assert bad.id == name
    assert bad.reason is not None and bad.reason.startswith(reason)


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"id": ' + "1" * 5000 + ', "question": "q"}', '{"question": "a \\ud800 b"}'],
    ids=["nested too deep", "a number too long", "a lone surrogate"],
)
def test_a_line_that_python_cannot_read_is_marked_like_any_other(rows, line):
    first, bad, last = rows(FINE, line, {"id": "last", "question": "And now?"})
    assert bad.reason
    assert (first.reason, last.reason) == (None, None)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_a_line_feed_ends_a_row(rows, mark):
    """JSON lets these characters stand in text as they are (the last four escaped)."""
    question = f"One{mark}line?"
    text = json.dumps({"id": "a", "question": question}, ensure_ascii=mark < " ")
    assert rows(text, FINE) == [Row("a", question), Row("fine", "How many?")]


def test_windows_line_ends_and_umlauts_are_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"id": "ä", "question": "Wie viele Äpfel?"}\r\n'.encode() * 2)
    first, second = read_rows(path)
    assert (first.id, first.question) == ("ä", "Wie viele Äpfel?")
    assert second.id == "ä#2"


@given(st.lists(st.sampled_from(["a", "b", "a#2", "a#3", ""]), min_size=1, max_size=6))
def test_ids_are_unique_whatever_the_file_holds(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, "question": "q"}) for i in ids))
    found = [row.id for row in read_rows(path)]
    assert len(found) == len(set(found)) == len(ids)


def test_a_file_that_is_missing_or_a_folder(tmp_path):
    for path in (tmp_path / "no.jsonl", tmp_path):
        with says(InputError, f"There is no file {path}: give a JSONL file of problems."):
            read_rows(path)


@pytest.mark.parametrize("content", [b"", b"\n  \n\n"])
def test_an_empty_file(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with says(InputError, f"{path} is empty: give one JSON object a line."):
        read_rows(path)


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1\xff\xfe\x00")
    message = f"{path} is not UTF-8 text, so it is no JSONL file: invalid start byte."
    with says(InputError, message):
        read_rows(path)


@pytest.mark.parametrize("content", ["question,answer\nq,1\n", "[\n1\n]\n", "plain text"])
def test_a_file_that_is_not_jsonl(tmp_path, content):
    path = tmp_path / "rows.csv"
    path.write_text(content)
    message = (
        f"{path} is not JSONL: its first line is {content.splitlines()[0]!r}; each line must be a "
        'JSON object such as {"id": "1", "question": "..."}.'
    )
    with says(InputError, message):
        read_rows(path)


# ---------------------------------------------------------------- pairs


def test_pairs_differ_in_who_gives_and_nothing_else():
    for pair in indirect_object(40, seed=2):
        first, start, giver, rest = re.fullmatch(
            r"When (\w+)( and \w+ went to the \w+,) (\w+)( gave a \w+ to)", pair.clean
        ).groups()
        other = re.search(r"and (\w+)", start)[1]
        assert first != other
        assert (giver, pair.correct, pair.wrong) == (other, f" {first}", f" {other}")
        assert pair.corrupted == f"When {first}{start} {first}{rest}"


def test_pairs_depend_on_their_seed_alone():
    assert indirect_object(5, seed=1) == indirect_object(9, seed=1)[:5]
    assert indirect_object(5, seed=1) != indirect_object(5, seed=2)
    assert indirect_object(0) == []
    assert all(isinstance(pair, PromptPair) for pair in indirect_object(3))
    assert len({pair.clean for pair in indirect_object(50)}) > 40


def test_pairs_use_every_name():
    text = " ".join(pair.clean for pair in indirect_object(80))
    assert all(name in text for name in (*pairs.NAMES, *pairs.PLACES, *pairs.GIFTS))


# ---------------------------------------------------------------- word problems


SUMS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def test_word_problems_are_solved_correctly_in_one_operation_a_sentence():
    kinds = set()
    for each in word_problems.word_problems(60, seed=3):
        steps = [step.text for step in segment(each.solution)]
        sums = [re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", step) for step in steps]
        assert [len(found) for found in sums] == [0] + [1] * (len(steps) - 1)
        known = [number.text for number in numbers(each.question)]
        for ((a, sign, b, total),) in sums[1:]:
            assert SUMS[sign](int(a), int(b)) == int(total) > 0
            assert {a, b} <= set(known)
            known.append(total)
        assert each.answer == known[-1]
        kinds.add(tuple(found[0][1] for found in sums[1:]))
    assert kinds == {("-",), ("*",), ("+", "-")}


def test_nobody_gives_to_oneself():
    for each in word_problems.word_problems(60, seed=4):
        if friend := re.search(r"to (\w+)\.", each.question):
            assert not each.question.startswith(friend[1])


def test_word_problems_depend_on_their_seed_and_place_alone():
    some, more = word_problems.word_problems(3, seed=5), word_problems.word_problems(8, seed=5)
    assert more[:3] == some
    assert [each.id for each in some] == ["word-5-0", "word-5-1", "word-5-2"]
    assert len({each.question for each in more}) == 8
    assert word_problems.word_problems(3, seed=6)[0].question != some[0].question
    assert word_problems.word_problems(0) == []


def test_the_random_steps_are_fixed_numeric_and_of_no_other_problem():
    pool = word_problems.other_steps()
    assert pool == word_problems.other_steps()
    assert len(set(pool)) > 40
    problems = word_problems.word_problems(50, seed=0)
    for step in pool:
        a, b, total = (int(n.text) for n in numbers(step))
        assert a + b == total
        assert len(segment(step)) == 1 and step.endswith(". ")
        assert not any(step.strip() in each.solution for each in problems)


def test_a_field_that_is_almost_named_is_marked_and_other_fields_are_no_matter(rows):
    typo, extra = rows(
        {"id": "a", "question": "q", "cto": "We have 17."},
        {"id": "b", "question": "q", "source": "mine", "context": "x"},
    )
    assert typo.reason == "unknown field 'cto': did you mean 'cot'?"
    assert extra.reason is None
