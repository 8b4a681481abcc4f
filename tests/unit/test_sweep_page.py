"""The pages of a sweep store: their numbers are those of the records, no text of the records can do
anything there, and 10,000 cells stay usable."""

from __future__ import annotations

import ast
import html
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from interp.cli import main
from interp.errors import StoreError
from interp.results import frame
from interp.results.files import Files
from interp.results.sweep_page import (
    IN_FULL,
    Group,
    Headline,
    Line,
    SweepView,
    cells_data,
    dot_plot,
    render_store,
    render_sweep,
)
from interp.sweeps.drive import run_grid
from interp.sweeps.grid import parse_grid
from interp.sweeps.page import gather, is_sweep, write_report
from interp.sweeps.status import read_sweep

ROOT = Path(__file__).parents[2]
HEAD = "experiment: experiments.synthetic:EXPERIMENT\n"
GRID = "axes: {product: {model: [a, b], fault: ['', raise]}}\nseeds: 2\ntries: 2\n"
PWN = "document.documentElement.dataset.pwned = 1"
EVIL = f"</script><script>{PWN}</script><img src=x onerror={PWN}>\u2028\"'&`${{1}}%{{x}}"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two models, two seeds, and as many cells that raise: 4 done, 4 failed."""
    run_grid(parse_grid(HEAD + GRID, "grid"), tmp_path / "store")
    return tmp_path / "store"


def line(i: int, *, state: str = "done", error: str = "seed breaks", **config: object) -> Line:
    failure = None
    if state == "failed":
        failure = {"attempts": 2, "kind": "RuntimeError", "error": error, "traceback": error}
        failure |= {"log": error, "seconds": 0.5, "host": error, "when": "2026-01-01"}
    done = state == "done"
    return Line(
        key=f"{i:032x}",
        label=str(config),
        config=config,
        state=state,  # type: ignore[arg-type]
        seconds=i / 100 if done else None,
        rows=i % 7 if done else None,
        failure=failure,
    )


def view(cells: list[Line], *varied: str, name: str = "grid", **more) -> SweepView:
    about = {"experiment": "synthetic", "grid": {"axes": []}, "starts": []}
    return SweepView(name=name, about=about | more.pop("about", {}), cells=cells, varied=varied)


def island(page: str, name: str) -> dict:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


def told(page: str) -> str:
    """The page without scripts and tags."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page.replace(get_plotlyjs(), ""), flags=re.S)
    return html.unescape(re.sub(r"<[^>]+>", " ", body))


# ---------------------------------------------------------------- numbers


def test_the_cells_of_the_page_are_those_of_the_store(store):
    data = cells_data(gather(str(store), "grid"))
    names = [column["name"] for column in data["columns"]]
    own = ["State", "Seconds", "Rows", "Attempts", "Reason"]
    assert names == ["Cell", "model", "seed", "fault", *own]
    shown = [
        [
            column["values"][cell] if "values" in column and cell is not None else cell
            for column, cell in zip(data["columns"], row, strict=True)
        ]
        for row in data["rows"]
    ]
    cells = read_sweep(str(store), "grid").cells
    assert [row[0] for row in shown] == [cell.key for cell in cells]
    for row, cell in zip(shown, cells, strict=True):
        model, seed, fault = cell.config["model"], cell.config["seed"], cell.config["fault"]
        assert row[1:4] == [model, str(seed), fault or '""']
        if fault:
            reason = f"RuntimeError: seed {seed} breaks"
            assert row[4:] == ["failed", None, None, 2, reason]
        else:
            assert row[4:] == ["done", cell.seconds, 3, None, None]


def test_the_headline_is_the_mean_of_the_records(store):
    found = gather(str(store), "grid").headline
    assert found is not None
    assert (found.table, found.column, found.fields) == ("scores", "score", ("model",))
    assert found.pooled == ("seed",)
    assert "The unit of the intervals is id." in found.notes
    rows = frame(store / "sweeps" / "grid", "scores")
    for group, model in zip(found.groups, "ab", strict=True):
        scores = rows[rows["model"] == model]["score"]
        assert group.values == (model,)
        assert (group.count, group.units) == (6, 3)
        assert group.mean == pytest.approx(statistics.fmean(scores), abs=1e-12)
        assert group.low is not None and group.mean is not None and group.high is not None
        assert min(scores) <= group.low < group.mean < group.high <= max(scores)
    drawn = island(render_sweep(gather(str(store), "grid")), "charts-data")["chart-0"]
    (dots,) = drawn["data"]
    assert dots["x"] == [group.mean for group in found.groups]
    assert dots["y"] == [0, 1]
    assert drawn["layout"]["yaxis"]["ticktext"] == ["a", "b"]
    lows = [
        mean - less for mean, less in zip(dots["x"], dots["error_x"]["arrayminus"], strict=True)
    ]
    assert lows == pytest.approx([group.low for group in found.groups], abs=1e-12)


def test_counts_costs_failures_and_starts_are_those_of_the_records(store):
    text = told(render_sweep(gather(str(store), "grid")))
    for part in ("8 cells", "4 done", "4 failed", "0 to do", "forwards: 12", "1 start"):
        assert re.search(rf"\s{part}\b", text), part
    for seed in (0, 1):
        assert f"model=a seed={seed} fault=raise" in text
        assert f"RuntimeError: seed {seed} breaks" in text
        assert f"the cell of seed {seed} is about to raise" in text  # the log
    assert text.count('raise RuntimeError(f"seed {config.seed} breaks")') == 4  # tracebacks
    (start,) = json.loads((store / "sweeps/grid/sweep.json").read_text())["starts"]
    for part in (start["when"], "inline", start["code"][:12], start["versions"]["numpy"]):
        assert part in text


def test_the_colour_is_the_last_field_of_few_values():
    groups = [
        Group(values=(m, s, p), mean=0.1 * i, low=None, high=None, count=1, units=1)
        for i, (m, s, p) in enumerate([("a", n, q) for n in range(6) for q in ("x", "y")])
    ]
    found = Headline(
        table="t", column="c", fields=("m", "s", "p"), pooled=(), groups=groups[:-1], notes=()
    )
    spec = dot_plot(found)
    x, y = spec["data"]
    assert (x["name"], y["name"]) == ("x", "y")
    assert y["x"] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert [round(b - a, 6) for a, b in zip(x["y"], y["y"], strict=False)] == [0.2] * 5
    assert spec["layout"]["yaxis"]["ticktext"] == [f"a · {n}" for n in range(6)]
    assert x["error_x"]["array"] == [None] * 6


def test_experiments_name_a_headline(store):
    """Those of the workbench are read from their source: importing them loads torch."""
    about = json.loads((store / "sweeps/grid/sweep.json").read_text())
    assert about["headline"] == ["scores", "score"]
    tree = ast.parse((ROOT / "interp/jobs/cells.py").read_text())
    calls = [each for each in ast.walk(tree) if isinstance(each, ast.Call)]
    given = [{word.arg: word.value for word in call.keywords} for call in calls]
    named = {
        ast.literal_eval(each["name"]): ast.literal_eval(each["headline"])
        for each in given
        if "headline" in each
    }
    assert named == {"tts": ("steps", "tts"), "patch": ("patch", "recovered")}


def test_values_sort_as_numbers_and_then_as_text():
    cells = [line(i, layer=layer) for i, layer in enumerate([10, None, 9, "all", 10, [1, 2], True])]
    data = cells_data(view(cells, "layer"))
    assert data["columns"][1]["values"] == ["null", "9", "10", "[1, 2]", "all", "true"]
    assert [row[1] for row in data["rows"]] == [2, 0, 1, 4, 2, 3, 5]


# ---------------------------------------------------------------- nothing, and nothing but failures


def test_a_sweep_without_cells_has_a_page():
    text = told(render_sweep(view([])))
    for part in ("0 cells", "0 done", "No field varies.", "No start is noted."):
        assert part in text
    assert "Failed cells" not in text


def test_a_sweep_whose_every_cell_failed_has_a_page(tmp_path):
    run_grid(parse_grid(HEAD + "base: {fault: input}\nseeds: 3\n", "bad"), tmp_path)
    page = Path(write_report(f"{tmp_path}/sweeps/bad").address).read_text()
    text = told(page)
    for part in ("3 cells", "0 done", "3 failed", "InputError: seed 2 is refused: give another."):
        assert part in text
    assert "No cell is done, so there is nothing to draw yet." in text
    assert get_plotlyjs() not in page  # nothing to draw needs no plotting library
    assert island(page, "charts-data") == {}


def test_a_start_from_changed_files_says_so_and_what_versions_changed():
    starts = [
        {"commit": 40 * "c", "versions": {"torch": "2.1", "numpy": "2.0"}},
        {"commit": 40 * "d" + "-dirty", "versions": {"torch": "2.2", "numpy": "2.0"}},
    ]
    page = render_sweep(view([], about={"starts": starts}))
    cells = re.findall(r'<td class="left">([^<]*)</td>', page)
    assert cells[3::7] == [12 * "c", 12 * "d" + "-dirty"]
    assert cells[5::7] == ["torch 2.1", "torch 2.1 → 2.2"]


def test_many_failures_are_counted_and_the_first_are_shown_in_full():
    cells = [line(i, state="failed", error=f"reason {i % 3}", n=i) for i in range(IN_FULL + 20)]
    text = told(render_sweep(view(cells, "n")))
    assert f"The first {IN_FULL} are here; 20 others stand in the table of cells." in text
    assert text.count("Traceback") == IN_FULL
    assert re.search(r"\b24\s+RuntimeError: reason 0\b", text)


def test_a_headline_without_a_value_is_said(store):
    path = store / "sweeps/grid/sweep.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"headline": ["scores", "scroe"]}))
    found = gather(str(store), "grid")
    assert found.headline is None
    assert found.no_chart.startswith("The headline number cannot be drawn. The records have no")
    path.write_text(json.dumps(about | {"headline": None}))
    assert gather(str(store), "grid").no_chart == (
        "The experiment names no headline number; `interp results` has its tables."
    )


# ---------------------------------------------------------------- the store's page and the command


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return left.value.code or 0  # type: ignore[return-value]


def test_a_store_gets_a_page_of_all_its_sweeps_and_one_of_each(store, capsys):
    run_grid(parse_grid(HEAD + "seeds: 3\n", "other"), store)
    (store / "my run").mkdir()
    (store / "my run" / "report.html").write_text("")
    assert run("report", store) == 0
    assert capsys.readouterr().out == f"Report: {store}/index.html\n"
    page = (store / "index.html").read_text()
    links = re.findall(r'href="([^"]+)"', page.replace(get_plotlyjs(), ""))
    assert set(links) == {
        "./sweeps/grid/index.html",
        "./sweeps/other/index.html",
        "./my%20run/report.html",
    }
    for link in links:
        assert (store / link.replace("%20", " ")).is_file()
    assert "2 sweeps, 11 cells" in told(page)
    assert list(island(page, "charts-data")) == ["chart-0", "chart-1"]
    own = (store / "sweeps/grid/index.html").read_text()
    assert 'href="../../index.html"' in own
    assert run("report", store / "sweeps" / "grid") == 0
    assert (store / "sweeps/grid/index.html").read_text() == own  # the same bytes


def test_a_sweep_that_cannot_be_read_is_named_and_the_others_are_shown(store, capsys):
    Files.open(store).put("sweeps/cut/sweep.json", b'{"name": "cut"}')
    assert run("report", store) == 3
    why = (
        f"The description of the sweep cut in {store} is damaged (KeyError('keys')): start `interp "
        "sweep` with its grid again, which writes it anew and keeps every cell."
    )
    assert capsys.readouterr().err == f"interp: {why}\n"
    text = told((store / "index.html").read_text())
    assert f"cut is not shown: {why}" in text
    assert "1 sweep, 8 cells" in text
    with pytest.raises(StoreError, match=re.escape(why)):
        write_report(f"{store}/sweeps/cut")


def test_what_is_no_sweep_is_left_to_the_report_of_runs(tmp_path, store, capsys):
    assert is_sweep(str(store)) and is_sweep(f"{store}/sweeps/grid")
    assert is_sweep(f"{store}/sweeps/gird/")
    assert not is_sweep(str(tmp_path))
    assert run("report", tmp_path) == 2
    assert "has no manifest.json" in capsys.readouterr().err
    assert run("report", f"{store}/sweeps/gird") == 2
    assert "has no sweep 'gird'; it has: grid. Did you mean 'grid'?" in capsys.readouterr().err


def test_pages_are_made_without_torch(store):
    code = f"import sys, interp.sweeps.page as p; p.write_report({str(store)!r}); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_the_pages_of_a_bucket_are_written_into_it(bucket):
    run_grid(parse_grid(HEAD + "seeds: 2\n", "grid"), bucket)
    assert is_sweep(f"{bucket}/")
    written = write_report(f"{bucket}/")
    assert (written.address, written.unread) == (f"{bucket}/index.html", {})
    files = Files.open(bucket)
    for page in [files.get(path) for path in ("index.html", "sweeps/grid/index.html")]:
        assert page is not None and "2 done" in told(page.decode())
        assert island(page.decode(), "charts-data")["chart-0"]["data"][0]["x"]


# ---------------------------------------------------------------- hostile text


def attacked() -> tuple[str, str]:
    """A page of a sweep and one of a store in which every text is hostile."""
    start = dict.fromkeys(("when", "executor", "workers", "commit", "code"), EVIL)
    start |= {"versions": {EVIL: EVIL, "torch": EVIL}, "command": [EVIL]}
    about = {"experiment": EVIL, "grid": {EVIL: EVIL}, "starts": [start, start]}
    cells = [line(0, state="failed", error=EVIL, **{EVIL: EVIL}), line(1, **{EVIL: "b"})]
    groups = [
        Group(values=(value,), mean=1.0, low=0.5, high=2.0, count=2, units=2)
        for value in (EVIL, "b")
    ]
    headline = Headline(
        table=EVIL, column=EVIL, fields=(EVIL,), pooled=(EVIL,), groups=groups, notes=[EVIL]
    )
    whole = SweepView(
        name=EVIL,
        about=about,
        cells=cells,
        varied=(EVIL,),
        spent={EVIL: EVIL},
        headline=headline,
    )
    return render_sweep(whole), render_store(EVIL, [whole], runs=[EVIL], unread={EVIL: EVIL})


def test_no_text_of_the_records_can_close_or_open_a_tag():
    for page, n_scripts in zip(attacked(), (5, 4), strict=True):
        bare = page.replace(get_plotlyjs(), "")
        assert EVIL[:9] + EVIL[9:17] not in bare
        assert "<img" not in bare
        assert len(re.findall(r"<script", bare)) == n_scripts  # our own, and no other
        assert len(re.findall(r"</script", bare)) == n_scripts
        blocks = re.findall(r'<script type="application/json".*?</script>', bare, re.S)
        assert not any("\u2028" in block or PWN + "</" in block for block in blocks)
        assert PWN in html.unescape(bare)  # it is shown


def test_no_label_of_a_chart_holds_a_tag_of_the_records():
    """Plotly reads some tags in labels, links among them."""
    for page in attacked():
        texts = json.dumps(island(page, "charts-data"))
        assert "&lt;/script&gt;" in texts
        assert set(re.findall(r"<[^>]*>", texts)) == {"<br>", "<extra>", "</extra>"}


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
browser = pytest.mark.skipif(
    not CHROMIUM, reason="no chromium is installed, so no browser opened the page"
)


def opened(page: str, folder: Path, drive: str = "") -> dict[str, str]:
    """Open a page in a browser; return the root's data attributes.

    With `drive`, a script that plays the reader, the policy is taken out: it would stop it.
    """
    if drive:
        page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
        page = page.replace("</body>", f"<script>{drive}</script></body>")
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--no-first-run", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    command = [CHROMIUM, *flags, "--virtual-time-budget=10000", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, encoding="utf-8")
    root = re.search(r"<html [^>]*>", done.stdout)
    assert root, done.stderr
    return {n: html.unescape(v) for n, v in re.findall(r'data-([a-z]+)="([^"]*)"', root[0])}


@browser
def test_a_browser_runs_no_script_of_the_records(tmp_path):
    """A script that the policy blocks is an error too, so no error means that none was there."""
    one, all_of_them = attacked()
    drawn = {"errors": "[]", "ready": "1", "charts": "1"}
    assert opened(one, tmp_path) == drawn | {"cells": "2", "shown": "2"}
    assert opened(all_of_them, tmp_path) == drawn


DRIVE = """
const root = document.documentElement.dataset;
const at = (row, column) => document.querySelector(
  `#cells-body tr:nth-child(${row}) td:nth-child(${column})`).textContent;
const find = document.getElementById("find");
const search = (text) => { find.value = text; find.dispatchEvent(new Event("input")); };
const heads = document.querySelectorAll("#cells-head button");
root.lines = document.querySelectorAll("#cells-body tr").length;
document.getElementById("next").click();
root.second = at(1, 1) + " " + document.getElementById("count").textContent;
search("layer=7");
root.exact = root.shown;
search("odd reason");
root.reason = root.shown;
search("");
heads[4].click();
root.quickest = at(1, 5);
heads[4].click();
root.slowest = at(1, 5) + " " + document.querySelector("[aria-sort=descending]").textContent;
const state = document.querySelector("#picks label:last-child select");
state.selectedIndex = 2;
state.dispatchEvent(new Event("change"));
root.failed = root.shown;
document.getElementById("reset").click();
"""


@browser
def test_ten_thousand_cells_are_sorted_filtered_and_paged(tmp_path):
    cells = [
        line(
            i,
            state="failed" if i % 100 == 3 else "done",
            error="an odd reason" if i == 3 else "a reason",
            model=f"model-{i % 20}",
            layer=i // 100,
        )
        for i in range(10_000)
    ]
    page = render_sweep(view(cells, "model", "layer"))
    assert 300_000 < len(page.encode()) < 1_500_000
    root = opened(page, tmp_path, DRIVE)
    assert root == {
        "errors": "[]",
        "ready": "1",
        "charts": "0",
        "cells": "10000",
        "shown": "10000",
        "lines": "50",
        "second": f"{50:032x}"[:12] + " 51 to 100 of 10,000 cells",
        "exact": "100",
        "reason": "1",
        "quickest": "0",
        "slowest": "100 Seconds",
        "failed": "100",
    }
