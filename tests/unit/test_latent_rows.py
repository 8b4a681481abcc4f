"""Reading problems: every form, every bad row with its reason, whole files that fail, the hub."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interp.data.arithmetic_chains import ArithmeticChains, raw_lines, to_row
from interp.data.latent_problems import LatentProblem
from interp.data.latent_rows import problems, read_hub, read_latent, split_steps
from interp.data.prosqa import ProsQA
from interp.errors import InputError

GOOD = {"id": "g", "question": "How many?", "steps": ["<<4-2=2>>"], "answer": "2"}


def written(folder: Path, *rows: object, name: str = "rows.jsonl") -> Path:
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def only(folder: Path, row: object) -> LatentProblem:
    [found] = read_latent(written(folder, row))
    assert found.reason is None and found.problem is not None and found.id == found.problem.id
    return found.problem


def test_each_form_gives_the_same_problem(tmp_path: Path):
    want = LatentProblem("1", "How many?", ("<<4-2=2>>", "<<2/.5=1,004>>"), "1004")
    coconut = {"question": "How many?", "steps": list(want.steps), "answer": "1,004"}
    codi = {"question": " How many?", "cot": "<<4-2=2>> <<2/.5=1,004>>", "answer": 1004}
    assert only(tmp_path, coconut | {"id": 1}) == want
    assert only(tmp_path, codi | {"id": "1"}) == want
    assert only(tmp_path, codi | {"id": "1", "answer": 1004.0}) == want
    raw = only(tmp_path, "How many?||<<4-2=2>> <<2/.5=1,004>> #### 1,004")
    assert (raw.question, raw.steps, raw.answer) == (want.question, want.steps, want.answer)
    assert raw.id == only(tmp_path, coconut).id  # from the question's text
    assert raw.id.startswith("q-") and len(raw.id) == 12


def test_a_chain_in_words_is_split_into_sentences(tmp_path: Path):
    row = {"question": "Can it?", "cot": "A cat has 3.5 kg. So no!\nIt is 1 vs. 2.", "answer": True}
    problem = only(tmp_path, row)
    assert problem.steps == ("A cat has 3.5 kg.", "So no!", "It is 1 vs. 2.")
    assert problem.answer == "yes"
    assert only(tmp_path, row | {"answer": False}).answer == "no"
    assert split_steps("He met J. May, e.g. here. Then left") == (
        "He met J. May, e.g. here.",
        "Then left",
    )
    assert split_steps("So <<1+1=2>>. Then <<2+1=3>>.") == ("So <<1+1=2>>.", "Then <<2+1=3>>.")
    assert split_steps("  ") == ()


@pytest.mark.parametrize(
    "choices", [{"A": "bank", "B": "zoo"}, {"label": ["A", "B"], "text": ["bank", "zoo"]}]
)
def test_choices_end_the_question(tmp_path: Path, choices):
    row = {"question": "Where?", "choices": choices, "cot": "At a zoo.", "answer": "B"}
    assert only(tmp_path, row).question == "Where?\nA: bank\nB: zoo"


def test_a_row_of_prosqa_keeps_its_graph(tmp_path: Path):
    problem = ProsQA().draw(1)[0]
    assert only(tmp_path, problem.row() | {"id": problem.id}) == problem
    short = {key: value for key, value in problem.row().items() if key != "root"}
    assert type(only(tmp_path, short)) is LatentProblem


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not JSON: Expecting property name enclosed in double quotes"),
        ("no row", "no raw line: it must read question||<<4-2=2>> <<2/.5=4>> #### 4, with"),
        ("[1]", "not JSON of the right kind: it is no object"),
        ("[a] one||2", "no raw line: it must read"),
        ('{"question": "\\ud800"}', "not text: the row holds a lone surrogate"),
        ({**GOOD, "question": " "}, "no question: the row has no text `question`"),
        ({**GOOD, "steps": []}, "no steps: the row's steps are empty, or one of them is"),
        ({**GOOD, "steps": ["a", " "]}, "no steps: the row's steps are empty, or one of them is"),
        ({**GOOD, "steps": "a"}, "`steps` must be a list of texts"),
        ({**GOOD, "steps": [1]}, "`steps` must be a list of texts"),
        ({**GOOD, "steps": None}, "no steps: the row has neither a list `steps` nor a text `cot`"),
        ({**GOOD, "steps": None, "cot": " "}, "no steps: the row's steps are empty"),
        ({**GOOD, "answer": ""}, "no answer: the row has no `answer` that is text or a number"),
        ({**GOOD, "answer": float("nan")}, "no answer: the row has no `answer`"),
        ({**GOOD, "choices": ["A"]}, '`choices` must be {"A": text, ...} or {"label"'),
        ({**GOOD, "choices": {"label": ["A"], "text": []}}, "`choices` must be"),
        ({"question": "?", "step": ["a"], "answer": "1"}, "unknown field 'step': did you mean 's"),
        ({"question": "?", "cot": "a", "anwser": "1"}, "unknown field 'anwser': did you mean 'an"),
        ({**ProsQA().draw(1)[0].row(), "root": 5}, "q-"),
    ],
)
def test_a_bad_row_is_marked_and_the_others_are_kept(tmp_path: Path, row, reason: str):
    bad, good = read_latent(written(tmp_path, row, {**GOOD, "id": "other"}))
    assert bad.problem is None and bad.reason is not None and bad.reason.startswith(reason)
    assert good.problem is not None and good.problem.answer == "2"
    assert problems([bad, good]) == [good.problem]
    assert bad.id == ("g" if isinstance(row, dict) and row.get("id") == "g" else "line-1")


def test_ids_are_told_apart(tmp_path: Path):
    bare = {key: value for key, value in GOOD.items() if key != "id"}
    rows = read_latent(written(tmp_path, GOOD, {**GOOD, "id": "g#2"}, GOOD, bare, bare))
    assert [row.id for row in rows][:3] == ["g", "g#2", "g#3"]
    assert rows[2].reason == "the id 'g' stands on an earlier row too: ids must differ"
    assert rows[4].id == f"{rows[3].id}#2"  # the same question twice is no fault
    assert rows[4].problem is not None and rows[4].problem.id == rows[4].id


def test_files_of_every_kind_hold_the_same_problems(tmp_path: Path):
    drawn = ArithmeticChains().draw(20)
    rows = [to_row(problem) for problem in drawn]
    jsonl = read_latent(written(tmp_path, *rows))
    array = read_latent(written(tmp_path, json.dumps(rows, indent=1), name="rows.json"))
    (tmp_path / "raw.txt").write_text(raw_lines(drawn))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    raw, parquet = read_latent(tmp_path / "raw.txt"), read_latent(tmp_path / "rows.parquet")
    assert jsonl == array == raw == parquet
    assert [(p.question, p.steps, p.answer) for p in problems(jsonl)] == [
        (p.question, p.steps, p.answer) for p in drawn
    ]
    assert read_latent(tmp_path / "raw.txt", limit=3) == jsonl[:3]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", r"a\.jsonl is empty"),
        ("a.jsonl", b"\xff\xfe", r"a\.jsonl is not UTF-8 text"),
        (
            "a.txt",
            b"hello\nyou",
            r"a\.txt holds no problem; row 1: no raw line: .*\. Each row must",
        ),
        (
            "a.jsonl",
            b"{}",
            r"holds no problem; row 1: no question: the row has no text `question`\.",
        ),
        ("a.jsonl", b"[1]\n[2]", r"row 1: not JSON of the right kind: it is no object\. Each row"),
        ("a.json", b"[]", r"a\.json is empty"),
        ("a.json", b'[{"a": 1}', r"a\.json starts like a JSON array and is none: Expecting"),
        ("a.json", b"[1, 2]", r"row 1: not JSON of the right kind: it is no object\. Each row"),
        ("a.parquet", b"PAR1", r"a\.parquet cannot be read as Parquet: "),
    ],
)
def test_a_file_without_a_problem_is_refused(tmp_path: Path, name: str, content: bytes, said: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_latent(tmp_path / name)


@pytest.mark.parametrize("name", ["none.jsonl", "none.parquet"])
def test_a_missing_file_is_named(tmp_path: Path, name: str):
    with pytest.raises(InputError, match=rf"^There is no file .*{name}: give a"):
        read_latent(tmp_path / name)


def test_the_hub_is_refused_in_one_sentence_when_offline():
    message = (
        r"^test\.jsonl of the data set owner/none is not in the local cache and could not be "
        r"downloaded \(HF_HUB_OFFLINE is set\): LocalEntryNotFoundError; check the names, go "
        r"online or read a local file\.$"
    )
    with pytest.raises(InputError, match=message):
        read_hub("owner/none", "test.jsonl")
    with pytest.raises(InputError, match=r"^'none' is no data set of the hub: give owner/name\.$"):
        read_hub("none", "test.jsonl")


def test_a_file_of_the_hub_is_read_like_any_other(tmp_path: Path, monkeypatch):
    path = written(tmp_path, GOOD)
    asked = []

    def download(repo, file, **settings):
        asked.append((repo, file, settings))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert read_hub("owner/name", "data/test.jsonl", revision="v1") == read_latent(path)
    settings = {"repo_type": "dataset", "revision": "v1", "local_files_only": True}
    assert asked == [("owner/name", "data/test.jsonl", settings)]


def test_reading_needs_no_torch(tmp_path: Path):
    import subprocess

    path = written(tmp_path, GOOD)
    code = (
        "import sys; from pathlib import Path; from interp.data.latent_rows import read_latent; "
        f"read_latent(Path({str(path)!r})); print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
