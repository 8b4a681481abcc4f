"""Figures equal the records that they draw, and are drawn again byte by byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from figures import benchmarks
from figures.__main__ import main, redraw, redraw_benchmarks
from figures.tts_distribution import figure
from interp.errors import InputError
from interp.results import Manifest, Store, cell_key, report_stats
from tests.strategies import says

ROOT = Path(__file__).parents[2]

SCORES = {("p", 0): (0.0, 0.01), ("p", 1): (0.25, 0.35), ("q", 0): (0.9, 0.9), ("q", 1): (0.0, 0.0)}
"""Two seeds each: means 0.005, 0.3, 0.9 and 0."""


def step_rows() -> list[dict]:
    flags = {"mentions_answer": False, "saturated": False, "verification": False, "op": "edit"}
    return [
        {"id": name, "step": step, "seed": seed, "tts": score, "nec": score, "suf": score}
        | {"position": float(step), "null_tts": 0.03, "random_tts": None if name == "q" else 0.6}
        | flags
        for (name, step), scores in SCORES.items()
        for seed, score in enumerate(scores)
    ]


def chain_rows() -> list[dict]:
    scored = [{"id": name, "status": "scored", "reason": None} for name in "pq"]
    return [*scored, {"id": "r", "status": "marked", "reason": "no answer"}]


def store_run(folder: Path, tables: dict[str, list[dict]]) -> None:
    manifest = Manifest(
        experiment="thinking",
        settings={},
        model={},
        data={},
        seeds=[0, 1],
        versions={},
        commit=None,
        device="cpu",
        threads=1,
        command=["test"],
        created="2026-01-01T00:00:00Z",
        code="0",
    )
    store = Store.begin(folder, manifest)
    store.write(cell_key({"cell": 0}), {"cell": 0}, tables, {"seconds": 0.0})


def counts(trace) -> dict[str, int]:
    return {label: n for label, n in zip(trace.x, trace.y, strict=True) if n}


def test_the_histogram_counts_every_step_once_in_its_bin():
    bars, null, random = figure(step_rows(), chain_rows()).data
    assert counts(bars) == {"≤0.005": 2, "0.3 to 0.5": 1, "≥0.7": 1}
    assert sum(bars.y) == len(SCORES)
    assert list(bars.text) == [str(n) for n in bars.y]
    assert counts(null) == {"0.02 to 0.05": 4}
    assert counts(random) == {"0.5 to 0.7": 2}


def test_the_bins_recomputed_from_the_records_are_the_bars():
    bars = figure(step_rows(), chain_rows()).data[0]
    means = [sum(scores) / 2 for scores in SCORES.values()]
    for label, n in zip(bars.x, bars.y, strict=True):
        if label.startswith("≤"):
            assert n == sum(mean <= float(label[1:]) for mean in means)
        elif label.startswith("≥"):
            assert n == sum(mean >= float(label[1:]) for mean in means)
        else:
            low, high = map(float, label.split(" to "))
            assert n == sum(low <= mean < high and mean > 0.005 for mean in means)


def test_the_title_is_the_finding_and_the_axes_have_units():
    layout = figure(step_rows(), chain_rows()).layout
    found = "50% of steps score at most 0.005; 50% at least 0.3, 25% at least 0.7."
    assert layout.title.text == found
    assert "0.301; a null rewrite gives 0.030, a random step 0.600." in layout.title.subtitle.text
    assert layout.xaxis.title.text.startswith("TTS (probability scale")
    assert layout.yaxis.title.text == "Number of steps"


def test_nothing_to_draw_is_said():
    with pytest.raises(InputError, match=r"^None of the 1 problems was scored"):
        figure([], [{"id": "r", "status": "marked"}])


def test_a_second_run_writes_the_same_bytes(tmp_path):
    records, out = tmp_path / "records", tmp_path / "out"
    store_run(records / "tts" / "tiny", {"steps": step_rows(), "chains": chain_rows()})
    store_run(records / "patch", {"patch": [{"layer": 0}]})  # has no figure of its own
    paths = redraw(records, out)
    first = [path.read_bytes() for path in paths]
    assert [path.name for path in paths] == [
        "tts-tiny-tts_distribution.html",
        "tts-tiny-tts_distribution.json",
    ]
    assert redraw(records, out) == paths
    assert [path.read_bytes() for path in paths] == first
    assert sum(json.loads(first[1])["data"][0]["y"]) == len(SCORES)
    assert b'src="plotly.min.js"' in first[0]
    assert b"https://cdn" not in first[0]


def test_a_folder_without_a_run_ends_in_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--records", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"There is no run under {tmp_path}: a run is a")


def test_the_committed_figure_is_the_committed_records(tmp_path):
    """Every bar of what `make figures` draws, counted again from the records themselves."""
    run = ROOT / "experiments" / "records" / "tts_word_problems"
    store = Store.open(run)
    redraw(run.parent, tmp_path)
    drawn = json.loads((tmp_path / "tts_word_problems-tts_distribution.json").read_text())
    scores: dict[tuple[str, int], list[float]] = {}
    for row in store.rows("steps"):
        scores.setdefault((row["id"], row["step"]), []).append(row["tts"])
    means = [sum(each) / len(each) for each in scores.values()]
    bars = drawn["data"][0]
    for label, n in zip(bars["x"], bars["y"], strict=True):
        low, _, high = label.replace("≤", "-1 to ").replace("≥", "").partition(" to ")
        least, most = float(low), float(high or "inf")
        inside = [m for m in means if (m <= most if least < 0 else least <= m < most)]
        assert n == len([m for m in inside if least < 0 or m > 0.005])
    assert sum(bars["y"]) == len(means) and store.damaged == 0


def test_the_place_of_the_score_stands_beside_the_place_of_the_null():
    store = Store.open(ROOT / "experiments" / "records" / "tts_word_problems")
    rows = report_stats.scored_rows(store.rows("chains"), store.rows("steps"))
    place = report_stats.findings(rows)[2]
    late = [r for r in rows if r["null_tts"] is not None and r["position"] >= 2 / 3]
    share = sum(r["null_tts"] for r in late) / sum(r["null_tts"] or 0.0 for r in rows)
    said = f"The null rewrite's own score: {share:.0%} in the last third."
    assert place.detail.endswith(said)


# ---------------------------------------------------------------- benchmarks


def timing(system: str, seconds: float | None, **more) -> dict:
    row = {"task": "patch-grid", "system": system, "version": "", "device": "cpu, 1 thread"}
    row |= {"seconds": seconds, "low": None, "high": None, "repeats": 3, "share": 1.0, "ratios": {}}
    if seconds is not None:
        row |= {"low": seconds - 0.5, "high": seconds + 1.0, "ratios": {"ours": seconds / 2}}
    return row | {"difference": None, "effect": 9.0, "note": ""} | more


TIMINGS = [
    timing("ours", 2.0, difference=1e-5),
    timing("raw", 12.0, share=0.1),
    timing("transformer_lens", 18.0, version="4.3", difference=3e-5, share=0.005),
    timing("pyvene", None, note="skipped: no module pyvene"),
    timing("ours", 1.0, task="patch-late"),
    timing("raw", 30.0, task="patch-late"),
]


def test_the_points_are_the_seconds_of_the_rows_task_by_task():
    first, _, second, _ = benchmarks.figure(TIMINGS).data
    assert list(first.x) == [2.0, 12.0, 18.0, None]
    assert list(first.y) == ["ours", "raw", "transformer_lens 4.3", "pyvene"]
    assert list(second.x) == [1.0, 30.0]
    assert list(first.error_x.array) == [1.0, 1.0, 1.0, 0]
    assert list(first.error_x.arrayminus) == [0.5, 0.5, 0.5, 0]
    assert list(first.marker.color) == [benchmarks.OURS] + 3 * [benchmarks.OTHERS]


def test_the_words_give_the_ratio_the_share_and_the_difference():
    _, first, _, second = benchmarks.figure(TIMINGS).data
    assert list(first.text) == [
        "2 s, numbers differ by 1e-05",
        "12 s, 6.0x ours, timed on 10% of the work",
        "18 s, 9.0x ours, timed on 0.5% of the work, numbers differ by 3e-05",
        "skipped: no module pyvene",
    ]
    assert second.text[1] == "30 s, 15.0x ours"


def test_the_title_is_the_finding_and_the_axis_has_the_unit():
    layout = benchmarks.figure(TIMINGS).layout
    assert layout.title.text == "Less time than TransformerLens: patch-grid 9x"
    assert layout.xaxis2.title.text == "Seconds for the whole work (cpu, 1 thread)"
    assert (layout.xaxis.type, layout.xaxis2.type) == ("log", "log")
    assert [note.text for note in layout.annotations] == ["patch-grid", "patch-late"]
    alone = benchmarks.figure([timing("ours", 2.0)])
    assert alone.layout.title.text == "The same work, system by system"


def test_rows_that_cannot_be_drawn_are_refused():
    with says(InputError, "None of the 1 benchmark rows has a time, so there is no point."):
        benchmarks.figure([timing("raw", None)])
    short = {key: value for key, value in timing("raw", 1.0).items() if key != "share"}
    message = (
        "Row 2 of the benchmarks lacks share: write it with python -m experiments.benchmarks "
        "--json."
    )
    with says(InputError, message):
        benchmarks.figure([timing("ours", 1.0), short])


def test_a_record_is_drawn_the_same_twice_and_a_missing_one_is_said(tmp_path, capsys):
    record = tmp_path / "benchmarks.jsonl"
    assert redraw_benchmarks(record, tmp_path) == []
    said = capsys.readouterr().err
    assert said.startswith(f"No figure of the benchmarks: {record} is missing; ")
    record.write_text("".join(json.dumps(row) + "\n" for row in TIMINGS))
    paths = redraw_benchmarks(record, tmp_path)
    first = [path.read_bytes() for path in paths]
    assert [path.name for path in paths] == ["benchmarks.html", "benchmarks.json"]
    assert redraw_benchmarks(record, tmp_path) == paths
    assert [path.read_bytes() for path in paths] == first
    assert json.loads(first[1])["data"][2]["y"] == ["ours", "raw"]
    record.write_text("no json\n")
    with pytest.raises(InputError, match=r"benchmarks\.jsonl is not JSONL: "):
        redraw_benchmarks(record, tmp_path)
