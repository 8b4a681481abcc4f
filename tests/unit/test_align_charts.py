"""Charts of alignment hold the numbers of their rows, with controls and train IIA beside them."""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go
import pytest

from interp.results import align_charts as charts
from interp.results import align_comparison as comparison
from interp.results.align_findings import BASELINES, GUARDS, at, place_of

Rows = list[dict[str, Any]]
WIDTH = 0.02
"""Half of the intervals of the rows."""


# ---------------------------------------------------------------- rows by hand


def near(iia: float, name: str = "iia") -> dict[str, float]:
    return {name: iia, f"{name}_low": iia - WIDTH, f"{name}_high": iia + WIDTH}


def place(map: str = "orthogonal", site: str = "1", algorithm: str = "both", **more: Any) -> dict:
    return {"algorithm": algorithm, "map": map, "site": site, "size": 8, **more}


def fit_row(net: int, iia: float, *, kind: str = "trained", train: float | None = None, **more):
    row = {"net": net, "kind": kind, "map_seed": 0, **place(**more), **near(iia)}
    row |= {"train_iia": iia + 0.01 if train is None else train, "validation_iia": iia}
    row |= {"iia_sensitive": iia - 0.1, "iia_insensitive": min(1.0, iia + 0.1), "n_pairs": 1000}
    row |= {"n_sensitive": 500, "task_accuracy": 0.999, "noop": 0.0, "inverse": 1e-7}
    return row | {
        "inverse_float64": 1e-15,
        "n_parameters": 120,
        "updates": 1000,
        "cpu_seconds": 1.0,
    }


def fit_rows(map: str = "orthogonal", high: float = 0.9, twin: float = 0.5, **more: Any) -> Rows:
    """Two networks at two sites; twins and a rival at the first."""
    found = [
        fit_row(net, iia + shift, map=map, site=site, **more)
        for site, iia in (("1", high), ("2", 0.6))
        for net, shift in ((7, 0.0), (8, 0.04))
    ]
    found += [fit_row(net, twin, kind="twin", map=map, **more) for net in (7, 8)]
    return found + [fit_row(net, 0.55, map=map, **{**more, "algorithm": "rival"}) for net in (7, 8)]


EVIDENCE = json.dumps({"description_length": {"network": {"n_answers": 4}}})


def verdict_row(word: str = "NOT FOUND", *, iia: float = 0.92, **more: Any) -> dict:
    where = {k: more.pop(k) for k in ("map", "site", "algorithm", "subject") if k in more}
    row = {**place(**where), **near(iia), "n_nets": 2, "twin": 0.5, "baseline": 0.75}
    row |= {"task_accuracy": 0.999, "train_iia": 0.93, "evidence": EVIDENCE, "verdict": word}
    row |= {"reason": "This is why.", "claim": "This may be said.", "notes": "And a note."}
    return row | more


def guard_rows(**where: Any) -> Rows:
    told = {"held-out identities": "does not apply: no names", "random twin": "0.500 (0.4 to 0.6)"}
    return [{**place(**where), "guard": g, "found": told.get(g, "fine")} for g in GUARDS]


def baseline_rows(**where: Any) -> Rows:
    return [
        {
            **place(**where),
            "baseline": name,
            "iia": 0.5 + i / 20,
            "highest": 0.5 + i / 20,
            "iia_sensitive": None if name == "constant answer" else i / 10,
            "iia_insensitive": 1.0 - i / 10,
            "note": "ranks 1, 1" if i == 3 else "",
        }
        for i, name in enumerate(BASELINES)
    ]


def control_rows(**where: Any) -> Rows:
    names = {"shuffled labels": (0.7, 0.55), "twin": (0.52, 0.5), "rival rival": (0.56, 0.55)}
    return [
        {**place(**where), "control": name, "train_iia": train, **near(test)}
        for name, (train, test) in names.items()
    ]


def curve_rows(sizes: tuple[int | None, ...] = (1000, 10_000), **where: Any) -> Rows:
    return [
        {
            **place(**where),
            "family": family,
            "net": net,
            "n_pairs": n,
            "train_iia": 0.9 - i / 10 if net == "trained" else 0.6,
            "test_iia": 0.8 - i / 10 if net == "trained" else 0.5,
            "n_parameters": 120 * i,
            "steps": 500,
        }
        for n in sizes
        for i, family in enumerate(("identity", where.get("map", "orthogonal")))
        for net in ("trained", "twin")
    ]


def bit_rows(**where: Any) -> Rows:
    codes = {"network": 0.5, "twin": 2.0, "rival": 1.75}
    return [
        {**place(**where), "code": name, "bits_per_pair": bits, "n": 10_000}
        for name, bits in codes.items()
    ]


WORDS = {
    "orthogonal": "FOUND UNDER orthogonal, IN DISTRIBUTION",
    "revnet-10x16": "VACUOUS FOR THIS MAP",
    "identity": "NOT FOUND",
}


def every_table(**more: Any) -> dict[str, Rows]:
    """A run with three maps, each with another verdict."""
    found: dict[str, Rows] = {}
    for map, word in WORDS.items():
        twin = 0.9 if "VACUOUS" in word else 0.5
        where = {"map": map, **more}
        tables = {
            "align_fits": fit_rows(twin=twin, **where),
            "align_verdicts": [verdict_row(word, twin=twin, **where)],
            "align_guards": guard_rows(**where),
            "align_baselines": baseline_rows(**where),
            "align_controls": control_rows(**where),
            "align_curve": curve_rows(**where),
            "align_bits": bit_rows(**where),
        }
        for name, rows in tables.items():
            found.setdefault(name, []).extend(rows)
    return found


def compared(map: str, iia: float, published: float | None = 0.8, **more: Any) -> dict:
    row = {"experiment": "final", "nets": "equality", "kind": "trained", "algorithm": "both"}
    row |= {"map": map, "layer": "1", "size": 8, "n_nets": 5, **near(iia), "sd": 0.01}
    row |= {"most": iia, "train_iia": iia + 0.01, "published": published, "published_sd": 0.05}
    ends = {"published_low": None, "published_high": None, "inside": None}
    if published is not None:
        low, high = published - 0.1, published + 0.1
        ends = {"published_low": low, "published_high": high, "inside": low <= iia <= high}
    return {**row, **ends, **more}


SWEEP = [compared(f"revnet-1x{h}", 0.6 + h / 50) for h in (1, 2, 16)]
TRAINING = [compared(m, 0.5 + c / 40, checkpoint=c) for c in (0, 8, 16) for m in ("a", "b")]


def named(spec: dict) -> dict[str, dict]:
    return {trace["name"]: trace for trace in spec["data"]}


# ---------------------------------------------------------------- charts

ONE = every_table()
FIRST = place_of(ONE["align_verdicts"][0])
DRAWN = {
    "iia": charts.iia_bars(ONE["align_fits"], ONE["align_verdicts"], ONE["align_baselines"]),
    "unjudged": charts.iia_bars(ONE["align_fits"]),
    "baselines": charts.baseline_bars(at(ONE["align_baselines"], FIRST), ONE["align_fits"][:2]),
    "controls": charts.control_points(at(ONE["align_controls"], FIRST), ONE["align_verdicts"][0]),
    "curve": charts.capacity_curves(at(ONE["align_curve"], FIRST)),
    "bits": charts.bits_bars(ONE["align_bits"], 2.0),
    "reference": comparison.reference_ranges([*SWEEP, compared("pca", 0.7, None)]),
    "sweep": comparison.width_sweep(SWEEP),
    "progression": comparison.progression(TRAINING),
}


@pytest.mark.parametrize("name", DRAWN)
def test_plotly_draws_every_chart(name):
    spec = DRAWN[name]
    go.Figure(spec)  # refuses an entry that Plotly does not know
    json.dumps(spec, allow_nan=False)
    assert all("hovertemplate" in trace for trace in spec["data"])
    for axis in {trace.get("xaxis", "x") for trace in spec["data"]}:
        assert spec["layout"][f"xaxis{axis[1:]}"]["title"]["text"], (name, axis)


def test_bars_are_means_over_networks_with_controls_and_train_iia_beside_them():
    mine = [row for row in ONE["align_fits"] if row["map"] == "orthogonal"]
    spec = charts.iia_bars(mine, ONE["align_verdicts"][:1], ONE["align_baselines"][:6])
    bars = {trace["name"]: trace for trace in spec["data"] if trace["type"] == "bar"}
    assert list(bars) == ["Network", "Random twin", "Hardest rival algorithm", "Best baseline"]
    assert bars["Network"]["x"] == ["layer 1", "layer 2"]
    assert bars["Network"]["y"] == pytest.approx([0.92, 0.62])
    assert bars["Random twin"]["x"] == ["layer 1"]
    assert bars["Random twin"]["y"] == pytest.approx([0.5])
    assert bars["Hardest rival algorithm"]["y"] == pytest.approx([0.55])
    assert bars["Best baseline"]["y"] == pytest.approx([0.75])
    assert bars["Best baseline"]["text"] == ["constant answer 0.750"]
    assert bars["Network"]["text"][0] == "0.920 (0.900 to 0.940), train 0.930; n = 2"
    assert "error_y" not in bars["Best baseline"]
    # networks at .90 and .94: redrawing them gives .04 on both sides, wider than .02 / sqrt(2)
    assert bars["Network"]["error_y"]["array"][0] == pytest.approx(0.02)
    marks = {t["offsetgroup"]: t for t in spec["data"] if t["type"] == "scatter"}
    assert list(marks) == ["Network", "Random twin", "Hardest rival algorithm"]
    assert marks["Network"]["y"] == pytest.approx([0.93, 0.63])
    assert spec["layout"]["scattermode"] == "group"
    hatches = [bar["marker"]["pattern"]["shape"] for bar in bars.values()]
    assert len(set(hatches)) == len(hatches)  # told apart without colour


def test_each_run_algorithm_and_map_has_a_panel_and_sizes_are_told_where_there_are_several():
    two = [*fit_rows(subject="a"), *fit_rows(subject="b"), fit_row(7, 0.7, subject="b", size=4)]
    spec = charts.iia_bars(two)
    heads = [note["text"] for note in spec["layout"]["annotations"]]
    assert heads == ["a: both, orthogonal", "b: both, orthogonal"]
    first, last = (
        next(t["x"] for t in spec["data"] if t["xaxis"] == axis and t["name"] == "Network")
        for axis in ("x", "x2")
    )
    assert first == ["layer 1", "layer 2"]
    assert last == ["layer 1, size 8", "layer 2, size 8", "layer 1, size 4"]


def test_held_out_identities_have_a_bar_where_they_were_scored():
    rows = [{**row, **near(0.7, "unseen_iia")} for row in fit_rows()]
    assert named(charts.iia_bars(rows))["Network, held-out identities"]["y"][0] == 0.7
    assert "Network, held-out identities" not in named(DRAWN["iia"])


def test_the_hardest_rival_is_drawn():
    more = [fit_row(net, 0.8, algorithm="another") for net in (7, 8)]
    bar = named(charts.iia_bars([*fit_rows(), *more]))["Hardest rival algorithm"]
    assert bar["y"] == pytest.approx([0.8])
    assert bar["text"][0].startswith("another 0.800")


def test_sensitive_and_insensitive_pairs_stand_apart_with_the_map_on_top():
    bars = named(DRAWN["baselines"])
    sensitive = bars["Sensitive: the answer must change"]
    assert sensitive["y"][:2] == ["the map", "full vector"]
    assert sensitive["x"] == pytest.approx([0.82, 0.0, 0.1, 0.2, 0.3, 0.4])
    assert "constant answer" not in sensitive["y"]  # it has no value there
    assert len(bars["Insensitive: it must stay"]["x"]) == 7
    assert DRAWN["baselines"]["layout"]["yaxis"]["categoryarray"][0] == "the map"


def test_controls_have_train_beside_test_and_the_networks_interval_as_a_band():
    points = named(DRAWN["controls"])
    assert points["Test IIA"]["y"] == ["the network", "shuffled labels", "twin", "rival rival"]
    assert points["Test IIA"]["x"] == [0.92, 0.55, 0.5, 0.55]
    assert points["Train IIA"]["x"] == [0.93, 0.7, 0.52, 0.56]
    (band,) = DRAWN["controls"]["layout"]["shapes"]
    assert (band["x0"], band["x1"]) == pytest.approx((0.9, 0.94))
    assert charts.control_points(ONE["align_controls"][:1])["layout"]["shapes"] == []


def test_capacity_draws_twins_dashed_and_train_beside_test():
    spec = DRAWN["curve"]
    panels = {axis: [t for t in spec["data"] if t["xaxis"] == axis] for axis in ("x", "x2")}
    names = ["identity, trained", "identity, twin", "orthogonal, trained", "orthogonal, twin"]
    assert [trace["name"] for trace in panels["x"]] == names
    assert [trace["line"]["dash"] for trace in panels["x2"]] == ["solid", "dash"] * 2
    assert panels["x"][2]["y"] == pytest.approx([0.8, 0.8])
    assert panels["x2"][2]["y"] == pytest.approx([0.7, 0.7])
    assert [n["text"] for n in spec["layout"]["annotations"]] == ["Train IIA", "Test IIA"]
    fresh = charts.capacity_curves(curve_rows((None, 1000)))
    assert fresh["layout"]["xaxis"]["categoryarray"] == ["1,000", "fresh"]


def test_bits_stand_beside_twin_and_rival_with_the_line_of_no_rule():
    bars = named(DRAWN["bits"])
    assert list(bars) == ["Network", "Random twin", "Rival"]
    assert bars["Network"]["x"] == [0.5] * 3
    assert bars["Random twin"]["text"] == ["2.000"] * 3
    assert bars["Network"]["y"][0] == "orthogonal<br>layer 1, 8"
    (level,) = DRAWN["bits"]["layout"]["shapes"]
    assert (level["x0"], level["x1"]) == (2.0, 2.0)
    assert charts.bits_bars(bit_rows())["layout"]["shapes"] == []


def test_cells_outside_the_published_range_look_different_and_unpublished_ones_too():
    marks = named(DRAWN["reference"])
    assert marks["Ours, outside the range"]["x"] == pytest.approx([0.62, 0.64, 0.92])
    assert marks["Ours, outside the range"]["marker"]["symbol"] == "x"
    assert marks["Ours, nothing published"]["y"] == ["equality: both<br>pca, layer 1, size 8"]
    published = marks["Published mean and range"]
    assert published["x"] == [0.8] * 3
    assert published["error_x"]["array"] == pytest.approx([0.1] * 3)
    inside = named(comparison.reference_ranges([compared("pca", 0.75)]))
    assert inside["Ours, inside the range"]["text"] == [
        "0.750 (0.730 to 0.770), train 0.760; n = 5"
    ]
    assert "Ours, outside the range" not in inside


def test_cells_of_one_name_are_told_apart_by_their_part():
    parts = ("untrained", "bent & bowed")
    drawn = comparison.reference_ranges([compared("pca", 0.75, part=part) for part in parts])
    name = "equality: both<br>pca, layer 1, size 8"
    ticks = named(drawn)["Ours, inside the range"]["y"]
    assert ticks == [f"{name} (untrained)", f"{name} (bent &amp; bowed)"]
    assert drawn["layout"]["yaxis"]["categoryarray"] == ticks


def test_the_sweep_is_over_hidden_sizes_and_leaves_other_maps_out():
    spec = comparison.width_sweep([*reversed(SWEEP), compared("orthogonal", 0.9)])
    ours = named(spec)["coupling map: ours, test"]
    assert ours["x"] == [1, 2, 16]
    assert ours["y"] == pytest.approx([0.62, 0.64, 0.92])
    assert named(spec)["coupling map: ours, train"]["y"] == pytest.approx([0.63, 0.65, 0.93])
    assert named(spec)["coupling map: published"]["y"] == [0.8] * 3
    assert spec["layout"]["xaxis"]["type"] == "log"
    assert [n["text"] for n in spec["layout"]["annotations"]] == ["both, layer 1, revnet-1xH"]


def test_training_has_a_line_a_map():
    lines = named(DRAWN["progression"])
    assert lines["a: ours, test"]["x"] == [0, 8, 16]
    assert lines["b: ours, test"]["y"] == pytest.approx([0.5, 0.7, 0.9])
    assert {"a: published", "b: ours, train"} <= set(lines)
    bare = comparison.progression([compared("a", 0.5, None, checkpoint=0)])
    assert "a: published" not in named(bare)
