"""Figures equal the records that they draw, and are drawn again byte by byte."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import plotly.graph_objects as go
import pyarrow as pa
import pytest

from figures import (
    agreement,
    benchmarks,
    early_answering,
    keep_curves,
    layer_curves,
    position_profile,
    score_bins,
    self_verification,
    sweep_means,
    two_legs,
)
from figures.__main__ import (
    FIGURES,
    benchmarks_figure,
    main,
    redraw,
    write,
    write_images,
)
from figures.images import draw_images, find_chromium, page_of
from figures.titled import WIDTH, NothingToDraw
from figures.tts_distribution import figure
from interp.errors import InputError
from interp.results import Cells, Manifest, Store, cell_key, frame, report_stats
from interp.stats import cluster_bootstrap
from tests.strategies import says
from tests.unit.test_report_thinking import ATTACK as TEXT
from tests.unit.test_report_thinking import arm_row, bin_row, curve_row, every_table

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "experiments" / "records"
CHROMIUM = find_chromium()
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium, so no image is drawn")

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
    paths = redraw(records, out, images=False)
    first = [path.read_bytes() for path in paths]
    names = ("tts_distribution", "two_legs", "position_profile")
    assert [path.name for path in paths] == [
        f"tts-tiny-{name}.{kind}" for name in names for kind in ("html", "json")
    ]
    assert redraw(records, out, images=False) == paths
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
    run = RECORDS / "tts_word_problems"
    store = Store.open(run)
    redraw(RECORDS, tmp_path, images=False)
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
    store = Store.open(RECORDS / "tts_word_problems")
    rows = report_stats.scored_rows(store.rows("chains"), store.rows("steps"))
    place = report_stats.findings(rows)[2]
    late = [r for r in rows if r["null_tts"] is not None and r["position"] >= 2 / 3]
    share = sum(r["null_tts"] for r in late) / sum(r["null_tts"] or 0.0 for r in rows)
    said = f"The null rewrite's own score: {share:.0%} in the last third."
    assert place.detail.endswith(said)


# ---------------------------------------------------------------- the True-Thinking figures

OF_TABLES = (layer_curves, score_bins, self_verification, keep_curves, agreement, early_answering)


def of(module, tables: dict[str, list[dict]]) -> go.Figure:
    names = (*module.TABLES, *getattr(module, "ALSO", ()))
    return module.figure(*(tables[name] for name in names))


@pytest.mark.parametrize("module", OF_TABLES, ids=lambda module: module.__name__)
def test_a_figure_says_its_finding_in_lines_that_fit_and_escapes_names(module):
    layout = of(module, every_table(TEXT)).layout
    assert layout.width == WIDTH and layout.height <= 560
    lines = [*layout.title.text.split("<br>"), *layout.title.subtitle.text.split("<br>")]
    assert all(1 < len(html.unescape(each)) <= 128 for each in lines)
    assert layout.margin.t >= 17 * len(lines) + 30
    assert "<script>alert" not in of(module, every_table(TEXT)).to_json().replace("\\u003c", "<")


def test_the_figure_of_the_layers_leads_with_engagement_and_its_control():
    rows = [arm_row("direction", 0.5), arm_row("random", 0.1, 0.4, n_twins=20)]
    rows += [arm_row("direction", 0.3, test="disengage")]
    curves = [curve_row("direction", 7, 0.5), curve_row("direction", 7, 0.3, test="disengage")]
    layout = layer_curves.figure(curves, rows).layout
    title = " ".join(layout.title.text.split("<br>"))
    assert title.startswith("Engagement: at layer 7 adding the direction flips 50%")
    assert "random directions 10% (a difference of 40 points, 95% interval 30 to 60)" in title
    under = " ".join(layout.title.subtitle.text.split("<br>"))
    assert under.startswith("Disengagement: at layer 7 taking the direction away repairs 30%")
    with says(NothingToDraw, "no test problem has an item"):
        layer_curves.figure([curve_row("direction", 7, 0.5, split="select")], rows)


def test_two_legs_and_the_profile_are_the_steps_of_the_run():
    """Legs equal the scores, means 0.005, 0.3, 0.9 and 0: two are above 0.005 on both legs."""
    drawn = two_legs.figure(step_rows(), chain_rows())
    heat, dots = drawn.data
    assert [list(row) for row in heat.z] == [[0.5, 0.0], [0.0, 0.5]]
    assert sorted(dots.x) == pytest.approx([0.0, 0.005, 0.3, 0.9])
    assert drawn.layout.title.text.startswith("A test of necessity alone misses 0% (all alike")
    line, null = position_profile.figure(step_rows(), chain_rows()).data
    assert list(line.x) == ["0 to 10%", "90 to 100%"]
    assert list(line.y) == pytest.approx([(0.005 + 0.9) / 2, 0.15])
    assert list(null.y) == pytest.approx([0.03, 0.03])
    for module in (two_legs, position_profile):
        with says(NothingToDraw, "no step was scored"):
            module.figure([], chain_rows())


def test_a_run_without_a_number_to_draw_says_so_and_the_rest_is_drawn(tmp_path, capsys):
    tables = every_table()
    kept = {name: tables[name] for name in ("check_segments", "prune_curves")}
    store_run(tmp_path / "run", kept | {"steer_bins": [bin_row(0.5, None)]})
    paths = redraw(tmp_path, tmp_path / "out", images=False)
    names = [path.stem for path in paths if path.suffix == ".json"]
    assert names == ["run-self_verification", "run-keep_curves"]
    said = f"No figure score_bins of {tmp_path / 'run'}: no score bin gave a direction that could "
    assert capsys.readouterr().err.startswith(f"{said}be tested.\n")
    assert {module.__name__.removeprefix("figures.") for module in OF_TABLES} < set(FIGURES)


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


def beside(drawn: go.Figure, panel: str) -> list[str]:
    """The words right of a panel, `x` or `x2`, from the top."""
    return [note.text for note in drawn.layout.annotations if note.xref == f"{panel} domain"]


def test_the_points_are_the_seconds_of_the_rows_task_by_task():
    drawn = benchmarks.figure(TIMINGS)
    first, second = drawn.data
    assert list(first.x) == [2.0, 12.0, 18.0, None]
    assert list(second.x) == [1.0, 30.0]
    names = drawn.layout.yaxis.ticktext
    assert names == ("ours", "raw", "transformer_lens 4.3", "pyvene")
    assert drawn.layout.yaxis.tickvals == first.y == (13, 39, 65, 91)  # rows of 26 pixels
    assert drawn.layout.yaxis.range == (104, 0)
    assert list(first.error_x.array) == [1.0, 1.0, 1.0, 0]
    assert list(first.error_x.arrayminus) == [0.5, 0.5, 0.5, 0]
    assert list(first.marker.color) == [benchmarks.OURS] + 3 * [benchmarks.OTHERS]


def test_the_words_give_the_ratio_the_share_and_the_difference():
    drawn = benchmarks.figure(TIMINGS)
    assert beside(drawn, "x") == [
        "2 s, numbers differ by 1e-05",
        "12 s, 6.0x ours, timed on 10% of the work",
        "18 s, 9.0x ours, timed on 0.5% of the work, numbers differ by 3e-05",
        "skipped: no module pyvene",
    ]
    assert beside(drawn, "x2")[1] == "30 s, 15.0x ours"
    large = benchmarks.figure([timing("ours", 2766.7), timing("raw", 999.6)])
    assert beside(large, "x") == ["2,767 s", "1e+03 s, 499.8x ours"]


def test_long_words_take_more_lines_and_a_higher_row():
    note = "refuses: <b>granularity</b> " + "edges of grouped heads are not there yet " * 3
    drawn = benchmarks.figure([timing("ours", 2.0), timing("pyvene", None, note=note.strip())])
    long = beside(drawn, "x")[1]
    lines = long.split("<br>")
    assert html.unescape(" ".join(lines)) == note.strip()
    assert "&lt;b&gt;granularity&lt;/b&gt;" in lines[0]
    assert max(len(html.unescape(line)) for line in lines) <= benchmarks.CHARS
    assert drawn.layout.yaxis.range == (26 + 41, 0)  # one line, and two
    assert drawn.layout.yaxis.tickvals == (13, 46.5)
    endless = benchmarks.figure([timing("ours", 2.0), timing("raw", None, note="no way " * 999)])
    words = beside(endless, "x")[1]
    assert (words.count("<br>") + 1, words[-2:]) == (benchmarks.LINES, " …")


def test_the_words_of_the_committed_records_fit_right_of_the_panels():
    """A character of 11 pixels is less than 6 wide on average: 5.7 in DejaVu Sans, a wide font."""
    drawn = benchmarks_figure(RECORDS / "benchmarks.jsonl")
    assert drawn is not None
    notes = [note for note in drawn.layout.annotations if note.xref.endswith("domain")]
    assert len(notes) == sum(len(trace.x) for trace in drawn.data)
    for note in notes:
        longest = max(len(html.unescape(line)) for line in note.text.split("<br>"))
        assert (note.x, note.xanchor, note.font.size) == (1, "left", 11)
        assert note.xshift + 6 * longest <= drawn.layout.margin.r


def test_the_ticks_of_an_axis_are_few_and_round():
    drawn = benchmarks.figure(TIMINGS)
    first, second = drawn.layout.xaxis, drawn.layout.xaxis2
    assert (first.tickvals, first.ticktext) == ((2, 5, 10), ("2", "5", "10"))  # 1.5 to 19 s
    assert second.tickvals == (0.5, 1, 2, 5, 10, 20)  # 0.5 to 31 s
    assert first.range[0] < math.log10(1.5) < math.log10(19) < first.range[1]
    close = timing("ours", 0.3, low=0.25, high=0.36)
    assert benchmarks.figure([close]).layout.xaxis.tickvals == (0.25, 0.3, 0.35)
    exact = timing("ours", 4.0, low=4.0, high=4.0)
    axis = benchmarks.figure([exact]).layout.xaxis
    assert (axis.tickvals, axis.range) == ((4,), (math.log10(4) - 0.1, math.log10(4) + 0.1))


def test_the_title_is_the_finding_and_the_axis_has_the_unit():
    layout = benchmarks.figure(TIMINGS).layout
    assert layout.title.text == "Less time than TransformerLens: patch-grid 9x"
    assert layout.xaxis2.title.text == "Seconds for the whole work (cpu, 1 thread)"
    assert (layout.xaxis.type, layout.xaxis2.type) == ("log", "log")
    titles = [note.text for note in layout.annotations if note.xref == "paper"]
    assert titles == ["patch-grid", "patch-late"]
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
    message = (
        "Row 1 of the benchmarks has the times [0.0, 0.5, 1.5]: a logarithmic axis needs numbers "
        "above 0. Time that system again."
    )
    with says(InputError, message):
        benchmarks.figure([timing("ours", 0.5)])


def test_a_record_is_drawn_and_a_missing_one_is_said(tmp_path, capsys):
    record = tmp_path / "benchmarks.jsonl"
    assert benchmarks_figure(record) is None
    said = capsys.readouterr().err
    assert said.startswith(f"No figure of the benchmarks: {record} is missing; ")
    record.write_text("".join(json.dumps(row) + "\n" for row in TIMINGS))
    drawn = benchmarks_figure(record)
    assert drawn is not None
    assert drawn.layout.yaxis2.ticktext == ("ours", "raw")
    assert list(drawn.data[1].x) == [1.0, 30.0]
    record.write_text("no json\n")
    with pytest.raises(InputError, match=r"benchmarks\.jsonl is not JSONL: "):
        benchmarks_figure(record)


# ---------------------------------------------------------------- sweeps

ATTACK = '<script>alert(1)</script>&"<b>'
SWEPT = {
    ("a", 0): (0.25, 0.75),
    ("a", 1): (0.25, 0.25),
    (ATTACK, 0): (1.0, 1.0),
    (ATTACK, 1): (1.0, None),
}
"""Scores of the problems p and q by model and seed. Model a: a mean of 1.5 / 4 over all rows; the
problems' own means are 0.25 and 0.5, so the interval over problems ends at these."""


def sweep_store(store: Path, headline: Sequence[str] | None = ("scores", "score")) -> Path:
    cells, keys, configs = Cells.open(store, write=True), [], []
    for (model, seed), (p, q) in SWEPT.items():
        config = {"model": model, "seed": seed, "rows": 2}
        identity = {"experiment": "own", "config": config, "subject": {}, "code": "0"}
        keys.append(cell_key(identity))
        configs.append(config)
        rows = [{"id": "p", "score": p}, {"id": "q", "score": q}]
        cells.write(keys[-1], identity, {"scores": rows}, {"seconds": 0.0})
    about = {"name": "g", "experiment": "own", "unit": "id", "keys": keys, "configs": configs}
    folder = store / "sweeps" / "g"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps(about | {"headline": headline, "starts": []}))
    return folder


def test_the_dots_of_a_sweep_are_the_means_of_its_records(tmp_path):
    folder = sweep_store(tmp_path)
    drawn = sweep_means.figure(folder)
    assert drawn is not None
    (dots,) = drawn.data
    assert list(dots.x) == [0.375, 1.0]
    assert (list(dots.error_x.array), list(dots.error_x.arrayminus)) == ([0.125, 0], [0.125, 0])
    rows = frame(folder, "scores")
    assert list(dots.x) == list(rows.groupby("model", sort=False)["score"].mean())
    labels = drawn.layout.yaxis.ticktext
    assert labels == ("a", '&lt;script&gt;alert(1)&lt;/script&gt;&amp;"&lt;b&gt;')


def test_the_figure_of_a_sweep_names_its_finding_and_what_it_averages(tmp_path):
    layout = sweep_means.figure(sweep_store(tmp_path)).layout
    name = '&lt;script&gt;alert(1)&lt;/script&gt;&amp;"&lt;b&gt;'
    assert layout.title.text == f"Mean score is highest at model={name}: 1 (1 to 1)"
    assert layout.title.subtitle.text.split("<br>") == [
        "Averaged over seed.",
        "The unit of the intervals is id.",
        "2 of 2 intervals rest on fewer than 20 units (the least: 2): they are probably too "
        "narrow.",
    ]
    assert layout.xaxis.title.text == "Mean score, 95% interval"


def test_a_cell_that_is_gone_is_said_under_the_figure(tmp_path):
    folder = sweep_store(tmp_path)
    first = json.loads((folder / "sweep.json").read_text())["keys"][0]
    for path in (tmp_path / "cells" / first).iterdir():
        path.unlink()
    (tmp_path / "cells" / first).rmdir()
    drawn = sweep_means.figure(folder)
    assert list(drawn.data[0].x) == [0.25, 1.0]
    subtitle = drawn.layout.title.subtitle.text
    assert subtitle.endswith("<br>1 of its 4 cells are not there.")
    assert str(tmp_path) not in drawn.to_json()  # the same bytes wherever the records lie


def test_the_committed_sweep_is_drawn_as_its_records_are():
    """Every dot and every interval end, from the rows of the cells; nothing is written there."""
    folder = RECORDS / "sweeps" / "sweeps" / "tts_smoke"
    about = json.loads((folder / "sweep.json").read_text())
    assert not str(about["starts"][-1]["commit"]).endswith("-dirty")
    cells = Cells.open(RECORDS / "sweeps")
    rows: dict[tuple[str, str], list[dict]] = {}
    for key, config in zip(about["keys"], about["configs"], strict=True):
        cell = cells.read(key)
        assert cell is not None
        group = rows.setdefault((config["model"], config["preset"]), [])
        group += cell.table("steps").select(["id", "tts"]).to_pylist()
    drawn = sweep_means.figure(folder)
    assert drawn is not None
    models = drawn.layout.yaxis.ticktext
    for trace in drawn.data:
        for mean, spot, above, below in zip(
            trace.x, trace.y, trace.error_x.array, trace.error_x.arrayminus, strict=True
        ):
            mine = rows.pop((models[round(spot)], trace.name))
            scores = [row["tts"] for row in mine]
            # float64: sums in another order differ in the last digits
            assert mean == pytest.approx(sum(scores) / len(scores), rel=1e-12, abs=1e-15)
            found = cluster_bootstrap(scores, [row["id"] for row in mine])
            assert (mean - below, mean + above) == pytest.approx((found.low, found.high), abs=1e-15)
    assert rows == {}  # each group of cells is a dot
    assert not (RECORDS / "sweeps" / "index").exists()


def test_a_sweep_without_a_headline_is_said(tmp_path, capsys):
    folder = sweep_store(tmp_path, headline=None)
    assert sweep_means.figure(folder) is None
    said = f"No figure of {folder}: its experiment names no headline number.\n"
    assert capsys.readouterr().err == said
    (folder / "sweep.json").write_text("[")
    with pytest.raises(InputError, match=r"sweep\.json describes no sweep: JSONDecodeError"):
        sweep_means.figure(folder)


def identified(columns: dict[str, list]) -> pa.Table:
    """Rows whose columns but `score` identify their cell, as `query.read` gives them."""
    about = {"identity": [name for name in columns if name != "score"]}
    return pa.table(columns).replace_schema_metadata({b"interp": json.dumps(about).encode()})


def test_a_sweep_of_many_groups_is_averaged_over_its_largest_field():
    pairs = [(model, layer) for model in "ab" for layer in range(40)]
    rows = identified(
        {
            "model": [model for model, _ in pairs],
            "layer": [layer for _, layer in pairs],
            "score": [float(layer) + (model == "b") for model, layer in pairs],
        }
    )
    drawn = sweep_means.means(rows, "scores", "score")
    assert list(drawn.data[0].x) == [19.5, 20.5]
    assert drawn.layout.title.subtitle.text.startswith("Averaged over layer.<br>")
    few = rows.filter(pa.compute.less(rows["layer"], 3))
    assert sum(len(trace.x) for trace in sweep_means.means(few, "scores", "score").data) == 6


def test_numbers_that_are_all_missing_are_refused():
    empty = identified({"model": ["a", "b"], "score": pa.array([None, None], pa.float64())})
    message = "No row of scores has a value of score, so no dot can be drawn."
    with says(InputError, message):
        sweep_means.means(empty, "scores", "score")


# ---------------------------------------------------------------- images

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def no_chromium(tmp_path, monkeypatch):
    """A machine without a Chromium."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("CHROMIUM", raising=False)


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@needs_chromium
def test_a_browser_draws_every_figure_the_same_twice(tmp_path):
    records, out = tmp_path / "records", tmp_path / "out"
    store_run(records / "tts", {"steps": step_rows(), "chains": chain_rows()})
    sweep_store(records / "swept")
    paths = redraw(records, out)
    first = {path.name: path.read_bytes() for path in paths}
    names = ("tts_distribution", "two_legs", "position_profile")
    stems = (*(f"tts-{name}" for name in names), "swept-sweeps-g-means")
    assert first.keys() == {f"{s}.{kind}" for s in stems for kind in ("html", "json", "svg", "png")}
    assert redraw(records, out) == paths
    assert {path.name: path.read_bytes() for path in paths} == first
    assert sorted(path.name for path in out.iterdir()) == sorted([*first, "plotly.min.js"])
    bars = ElementTree.fromstring(first["tts-tts_distribution.svg"])
    words = [text for each in bars.iter(f"{SVG}text") for text in each.itertext()]
    assert "Number of steps" in words
    assert (bars.get("width"), bars.get("height")) == ("1200", "480")
    png = first["tts-tts_distribution.png"]
    assert png.startswith(b"\x89PNG\r\n")
    size = [int.from_bytes(png[at : at + 4], "big") for at in (16, 20)]
    assert size == [2400, 960]  # twice as many pixels each way
    check_escaped(ElementTree.fromstring(first["swept-sweeps-g-means.svg"]))


def check_escaped(svg: ElementTree.Element) -> None:
    """The attack stands in the image as text: no script, no link, no handler."""
    assert ATTACK in ["".join(each.itertext()) for each in svg.iter(f"{SVG}text")]
    assert not list(svg.iter(f"{SVG}script"))
    names = {name for each in svg.iter() for name in each.attrib}
    assert not {name for name in names if name.startswith("on") or name.endswith("href")}


def test_without_a_chromium_pages_and_json_are_drawn_and_it_is_said_once(
    tmp_path, no_chromium, capsys
):
    records, out = tmp_path / "records", tmp_path / "out"
    store_run(records / "tts", {"steps": step_rows(), "chains": chain_rows()})
    sweep_store(records / "swept")
    (records / "benchmarks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TIMINGS))
    out.mkdir()
    (out / "benchmarks.svg").write_text("of other records")
    paths = redraw(records, out)
    assert [path.suffix for path in paths] == [".html", ".json"] * 5
    assert all(path.stat().st_size > 100 for path in paths)
    assert capsys.readouterr().err == (
        "No SVG and no PNG: there is no chromium, chromium-browser, google-chrome on the PATH; "
        "install one, or name one in CHROMIUM.\n"
    )
    assert not (out / "benchmarks.svg").exists()


def test_the_variable_names_the_chromium(tmp_path, no_chromium, monkeypatch):
    assert find_chromium() is None
    mine = program(tmp_path / "mine", "exit 0")
    monkeypatch.setenv("CHROMIUM", mine)
    assert find_chromium() == mine
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "gone"))
    message = (
        f"CHROMIUM is {str(tmp_path / 'gone')!r}, which is no program: give the path of a "
        "Chromium, or unset it to look for chromium, chromium-browser, google-chrome on the PATH."
    )
    with says(InputError, message):
        redraw(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo first >&2; echo no display >&2; exit 7", " cannot draw (no display)"),
        ("exit 7", " cannot draw (exit status 7)"),
        ("echo '<pre></pre>'", " opened the figures and did not draw tts-tts_distribution"),
    ],
)
def test_a_chromium_that_does_not_draw_leaves_pages_and_json(tmp_path, script, why):
    broken = program(tmp_path / "broken", script)
    drawn = {"tts-tts_distribution": figure(step_rows(), chain_rows())}
    write(drawn["tts-tts_distribution"], tmp_path, "tts-tts_distribution")
    before = sorted(path.name for path in tmp_path.iterdir())
    with says(InputError, f"{broken}{why}: set CHROMIUM to another browser."):
        write_images(drawn, tmp_path, broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_text_cannot_end_the_script_of_the_page():
    page = page_of({"x": go.Figure().update_layout(title="</script><script>alert(1)//")})
    assert page.count("<script") == page.count("</script>") == 2  # Plotly, and what draws
    assert "\\u003c/script>\\u003cscript>alert(1)//" in page


def test_no_figure_needs_no_browser(tmp_path):
    assert draw_images({}, tmp_path, "/nowhere/at/all") == {}
