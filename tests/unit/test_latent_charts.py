"""Charts of latent reasoning hold the numbers of their rows, nulls and references beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

import plotly.graph_objects as go
import pytest

from interp.results import influence_charts as of_influence
from interp.results import latent_charts as charts
from tests import latent_report_rows as rows

ONE, TWO = rows.every_table(), rows.told_apart()


def named(spec: dict) -> dict[str, dict]:
    return {trace["name"]: trace for trace in spec["data"]}


Tables = Mapping[str, rows.Rows]
DRAW: Mapping[str, Callable[[Tables], dict]] = {
    "flips": lambda t: charts.flip_bars(t["necessity"]),
    "map": lambda t: charts.operator_map(t["necessity"]),
    "kl": lambda t: charts.operator_map(t["necessity"], "kl"),
    "stops": lambda t: charts.stop_curves(t["early_stop"]),
    "w": lambda t: of_influence.influence_maps(t["influence"]),
    "graphs": lambda t: of_influence.influence_graphs(t["influence_graph"], t["influence"]),
    "shape": lambda t: of_influence.shape_panels(t["influence_shape"]),
    "commitment": lambda t: charts.commitment_panels(t["commitment"], t["commitment_probes"]),
    "totals": lambda t: of_influence.total_bars(
        t["influence_shape"], t["released_influence_shape"]
    ),
    "released": lambda t: of_influence.released_panels(
        t["influence_shape"], t["released_influence_shape"]
    ),
}


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("tables", [ONE, TWO], ids=["one", "two"])
def test_plotly_draws_every_chart_and_its_axes_have_titles(name, tables):
    spec = DRAW[name](tables)
    drawn = go.Figure(spec)  # refuses an entry that Plotly does not know
    json.dumps(spec, allow_nan=False)
    used = {trace.get("xaxis", "x") for trace in spec["data"]}
    for axis in used:
        title = drawn.layout[f"xaxis{axis[1:]}"].title.text
        assert title, (name, axis)
    marks = [t for t in spec["data"] if t.get("hoverinfo") != "skip"]
    assert all("hovertemplate" in trace for trace in marks)


def test_flip_bars_are_the_rows_with_the_identity_last_and_the_ceiling_as_a_line():
    spec = charts.flip_bars(ONE["necessity"])
    bars = named(spec)
    assert list(bars) == [
        "Another problem's step",
        "Zero",
        "Another problem's whole thought",
        "Rotated (45)",
        "Null: identity",
    ]
    first = bars["Another problem's step"]
    assert (first["x"], first["y"]) == (["1", "2", "3", "4"], [0.9, 0.8, 0.6, 0.0])
    assert first["error_y"]["array"] == pytest.approx([0.05] * 4)
    assert first["error_y"]["arrayminus"] == pytest.approx([0.05, 0.05, 0.05, 0.0])
    assert first["text"][0] == "90% (85% to 95%; n = 60)"
    assert bars["Null: identity"]["y"] == [0.0] * 5
    assert bars["Another problem's whole thought"]["x"] == ["all 4"]
    (level,) = spec["layout"]["shapes"]
    assert (level["y0"], level["y1"]) == (0.875, 0.875)
    hatches = [trace["marker"]["pattern"]["shape"] for trace in spec["data"]]
    assert len(set(hatches)) == len(hatches)  # told apart without colour


def test_bars_without_a_value_are_left_out():
    silent = [rows.necessity_row("zero", "1", None), rows.necessity_row("zero", "2", 0.5)]
    spec = charts.flip_bars([*silent, rows.necessity_row("mean", "1", None)])
    assert [(t["name"], t["x"], t["y"]) for t in spec["data"]] == [("Zero", ["2"], [0.5])]


def test_several_subjects_share_the_axes_of_each_operator():
    spec = charts.flip_bars(TWO["necessity"])
    heads = [note["text"] for note in spec["layout"]["annotations"]]
    assert heads == [
        "Another problem's step",
        "Zero",
        "Another problem's whole thought",
        "Rotated (45)",
        "Null: identity",
    ]
    first = [trace for trace in spec["data"] if trace["xaxis"] == "x"]
    assert [trace["name"] for trace in first] == ["coconut", "explicit"]
    shown = [trace for trace in spec["data"] if trace.get("showlegend", True)]
    assert [trace["name"] for trace in shown] == ["coconut", "explicit"]
    assert {tuple(spec["layout"][f"yaxis{n}"]["range"]) for n in ("", "2", "5")} == {(0, 1.08)}


def test_the_operator_map_has_a_cell_an_operator_and_step():
    (heat,) = charts.operator_map(ONE["necessity"])["data"]
    assert heat["x"] == ["1", "2", "3", "4", "all 4"]
    assert heat["y"][0] == "Null: identity"
    assert heat["z"][0] == [0.0] * 5
    assert heat["z"][-1] == [0.9, 0.8, 0.6, 0.0, None]
    assert heat["customdata"][-1][-1] == "not run"
    nats = charts.operator_map(ONE["necessity"], "kl")
    assert nats["layout"]["coloraxis"]["cmax"] == 0.9
    assert nats["data"][0]["text"][-1][0] == "0.90"


def test_stop_curves_are_the_rows_and_leave_out_what_is_missing():
    lines = named(charts.stop_curves(ONE["early_stop"]))
    assert lines["A(k): right when stopped at k"]["y"] == [0.1, 0.2, 0.9, 0.7, 0.94]
    assert lines["S(k): right at k or before (cannot fall)"]["y"] == [0.1, 0.2, 0.9, 0.9, 0.94]
    assert lines["The next step in text, forced"]["x"] == [0, 1, 2, 3]
    two = charts.stop_curves(TWO["early_stop"])
    assert [trace["xaxis"] for trace in two["data"]] == ["x", "x", "x2", "x2"]
    assert two["data"][0]["y"] == [0.1, 0.2, 0.9, 0.7, 0.94]


def test_every_matrix_has_the_identity_beside_it_on_one_scale():
    spec = of_influence.influence_maps(ONE["influence"])
    heads = [note["text"] for note in spec["layout"]["annotations"]]
    assert heads[-1] == "Null: identity"
    last = spec["data"][-1]
    assert [[v for v in line if v is not None] for line in last["z"]] == [
        [0.0] * 4,
        [0.0] * 3,
        [0.0] * 2,
        [0.0],
    ]
    first = spec["data"][0]
    assert first["z"][1] == [None, 1.0, 0.5, pytest.approx(1 / 3)]
    assert first["customdata"][0][1] == "W[1, 2]: 0.500 (0.450 to 0.550; n = 60) nats"
    assert first["customdata"][1][0] == "none: a step cannot act on an earlier read-out"
    holed = of_influence.influence_maps([rows.w_row("zero", 1, 2, 0.5)])["data"][0]
    assert holed["customdata"][0][0] == "none: not run, or the edit changed nothing anywhere"
    assert {trace["coloraxis"] for trace in spec["data"]} == {"coloraxis"}
    assert spec["layout"]["coloraxis"]["cmax"] == 1.0
    two = of_influence.influence_maps(TWO["influence"])
    heads = [note["text"] for note in two["layout"]["annotations"]]
    assert heads[:3] == ["Another problem's step", "Null: donor's other step", "Null: identity"]
    assert len(two["data"]) == 2 * 3  # no rotation: it has its place on each subject's own page
    assert two["layout"]["yaxis"]["title"]["text"] == "coconut: edited step t"
    assert two["layout"]["yaxis4"]["title"]["text"] == "explicit: edited step t"


def test_arcs_run_from_step_to_step_and_are_as_wide_as_their_share():
    edges = [{**rows.graph_rows()[0], "t": 1, "s": 3, "share": 0.5}]
    spec = of_influence.influence_graphs(edges, [rows.w_row("resample", 1, 2, 0.25)])
    pale, arc, nodes = spec["data"]
    assert (arc["x"][0], arc["x"][-1]) == (1, 3)
    assert max(arc["y"]) == pytest.approx(0.09 + 1)  # half the way that it spans
    assert arc["line"] == {"color": charts.BLUE, "width": 3.5}
    assert pale["line"]["color"] == charts.SILVER
    assert nodes["text"] == ["1", "2", "3"]
    assert arc["text"][0] == "1 to 3: 0.500 (0.450 to 0.550; n = 60) nats"


def test_shape_panels_draw_equal_edges_and_no_cross_without_a_null_shape():
    spec = of_influence.shape_panels(ONE["influence_shape"])
    lines = [shape["x0"] for shape in spec["layout"]["shapes"]]
    assert lines == [0.5, pytest.approx(5 / 3), 0.5, 0.5]
    dots = [trace for trace in spec["data"] if trace["name"] == "W, 95% interval"]
    assert [trace["x"] for trace in dots] == [[x, x] for x in rows.SHAPE.values()]
    assert not [trace for trace in spec["data"] if "identity" in trace["name"]]
    assert spec["layout"]["yaxis"]["ticktext"] == ["Another problem's step", "Rotated (45)"]


def test_released_panels_cross_the_shape_of_no_edit():
    spec = of_influence.released_panels(ONE["influence_shape"], ONE["released_influence_shape"])
    crosses = [t for t in spec["data"] if t["name"] == "The identity, an edit that changes nothing"]
    assert crosses[0]["x"] == [0.0, 0.0, 10.5, 10.5]  # ours, then theirs: sums in nats
    assert crosses[1]["x"] == [0.35, 0.35]  # locality: only theirs has a shape
    faulty = [t for t in spec["data"] if t["name"].startswith("DIAGNOSTIC")]
    assert {trace["marker"]["color"] for trace in faulty} == {charts.VERMILION}
    assert [trace["x"] for trace in faulty][1:] == [[x, x] for x in rows.FAULTY.values()]
    totals = named(of_influence.total_bars(ONE["influence_shape"], ONE["released_influence_shape"]))
    ours = totals["Ours: both sides have consumed s steps"]
    assert (ours["y"], ours["x"][-1]) == ([2.5, 2.5, 0.0], "Null: identity")
    assert totals["DIAGNOSTIC, released-code: faulty read-outs"]["y"] == [10.8, 10.8, 10.5]


def test_commitment_draws_both_sources_and_the_shuffled_probe():
    spec = charts.commitment_panels(ONE["commitment"], ONE["commitment_probes"])
    left = [trace for trace in spec["data"] if trace["xaxis"] == "x"]
    assert [trace["name"] for trace in left] == [
        "Shuffled: range",
        "Probe of shuffled labels: mean and range",
        "What it would say (read-out)",
        "What the vector holds (probe)",
    ]
    assert left[2]["y"] == [1.0, 0.98, 0.9, 0.5, 0.1]
    assert (left[3]["x"], left[3]["y"]) == ([1, 2, 3, 4], [0.9, 0.4, 0.2, 0.05])
    right = [trace for trace in spec["data"] if trace["xaxis"] == "x2"]
    assert right[1]["y"] == pytest.approx([0.09, 0.54, 0.72, 0.855])
    assert "≥ 0.5" in spec["layout"]["yaxis2"]["title"]["text"]
    bare = charts.commitment_panels(ONE["commitment"])
    assert len([trace for trace in bare["data"] if trace["xaxis"] == "x"]) == 2


def test_panels_lie_within_the_figure_and_do_not_overlap():
    spec = of_influence.influence_maps(TWO["influence"])["layout"]
    boxes = [
        (*spec[f"xaxis{n}"]["domain"], *spec[f"yaxis{n}"]["domain"])
        for n in ("", *(str(i) for i in range(2, 7)))
    ]
    assert all(0 <= a < b <= 1 and 0 <= c < d <= 1 for a, b, c, d in boxes)
    for i, (a, b, c, d) in enumerate(boxes):
        for e, f, g, h in boxes[i + 1 :]:
            assert b <= e or f <= a or d <= g or h <= c
    assert spec["yaxis2"]["showticklabels"] is False
    assert math.isclose(spec["yaxis"]["domain"][1], 1)


def test_names_from_data_are_escaped():
    attack = rows.ATTACK
    one = [{**row, "operator": attack, "subject": attack} for row in ONE["necessity"][:4]]
    two = [*one, *({**row, "subject": "b"} for row in one)]
    w = [{**row, "subject": name} for name in (attack, "b") for row in ONE["influence"]]
    shape = [{**row, "subject": name} for name in (attack, "b") for row in ONE["influence_shape"]]
    stops = [{**row, "subject": name} for name in (attack, "b") for row in ONE["early_stop"]]
    specs = (
        charts.flip_bars(one),
        charts.flip_bars(two),
        charts.operator_map(two),
        of_influence.influence_maps(w),
        of_influence.shape_panels(shape),
        charts.stop_curves(stops),
    )
    for spec in specs:
        drawn = json.dumps({**spec, "data": [_shown(t) for t in spec["data"]]})
        assert "<script" not in drawn
        assert "<img" not in drawn


def _shown(trace: dict) -> dict:
    """What Plotly writes of a trace."""
    return {key: value for key, value in trace.items() if key != "customdata"}


def test_the_totals_of_several_subjects_stand_in_panels_of_their_own():
    doubled = [
        {**row, "total": 2 * row["total"] if row["subject"] == "explicit" else row["total"]}
        for row in TWO["released_influence_shape"]
    ]
    spec = of_influence.total_bars(TWO["influence_shape"], doubled)
    faulty = [trace for trace in spec["data"] if trace["name"].startswith("DIAGNOSTIC")]
    assert [trace["y"] for trace in faulty] == [[10.8, 10.8, 10.5], [21.6, 21.6, 21.0]]
    heads = [note["text"] for note in spec["layout"]["annotations"]]
    assert heads == ["coconut", "explicit"]
