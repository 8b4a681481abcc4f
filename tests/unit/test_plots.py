"""Figures of interventions hold the numbers of their rows, in the places that the ids name."""

from __future__ import annotations

import plotly.graph_objects as go
import pytest

from interp.errors import InputError
from interp.results.plots import (
    attention_map,
    circuit_graph,
    curve_over,
    dose_curve,
    faithfulness_curve,
    grid,
    place_map,
)
from tests.unit.test_report_causal import (
    curve_row,
    dose_row,
    edge_row,
    patch_row,
    path_row,
    rows_of_each_kind,
    twin_row,
)

EVIL = "<b onclick=x>&"


def heads(cells: dict[tuple[int, int], float]) -> list[dict]:
    return [patch_row(layer, None, v, head=head) for (layer, head), v in cells.items()]


def sender_map(rows: list[dict], title: str) -> dict:
    x, y = "sender_head", "sender_layer"
    return grid(rows, x=x, y=y, value="effect", title=title, x_title="Head", y_title="Layer")


def test_a_map_by_token_puts_cells_by_their_ids_and_not_by_their_order():
    rows = [patch_row(7, 2, 2.0), patch_row(3, 5, -6.0), patch_row(3, 2, 0.0, recovered=None)]
    chart = place_map(rows)
    heat, layout = chart["data"][0], chart["layout"]
    assert heat["z"] == [[None, -1.5], [0.5, None]]  # layers 3 and 7, positions 2 and 5
    assert (heat["zmin"], heat["zmax"]) == (-1.5, 1.5)
    assert layout["xaxis"]["ticktext"] == ["·t2", "·t5"]
    assert layout["yaxis"]["ticktext"] == ["3", "7"]
    assert heat["text"][1] == [
        "7.resid_pre positions=2 (·t2)<br>Share recovered: 0.500 (0.375 to 0.750)",
        "not run",
    ]


@pytest.mark.parametrize(("effect", "limit"), [(0.04, 0.25), (4.0, 1.0), (80.0, 2.0)])
def test_the_colours_of_shares_end_at_the_largest_within_bounds(effect, limit):
    assert place_map([patch_row(0, 1, -effect)])["data"][0]["zmax"] == limit
    assert place_map([patch_row(0, 1, -effect)], "effect")["data"][0]["zmax"] == effect


def test_a_map_by_head_and_one_by_head_and_token():
    heat = place_map(heads({(4, 3): 1.0, (2, 0): 2.0}), "effect")["data"][0]
    assert heat["z"] == [[2.0, None], [None, 1.0]]
    rows = [patch_row(11, pos, 1.0 + pos, head=2) for pos in (1, 0)]
    chart = place_map([*rows, patch_row(4, 1, 9.0, head=10)], "effect")
    assert chart["layout"]["yaxis"]["ticktext"] == ["4.10", "11.2"]
    assert chart["data"][0]["z"] == [[None, 9.0], [1.0, 2.0]]


def test_without_head_and_position_a_curve_over_layers_has_its_intervals():
    (line,) = place_map([patch_row(7, None, 2.0), patch_row(3, None, 4.0)], "effect")["data"]
    assert (line["x"], line["y"]) == ([3, 7], [4.0, 2.0])
    assert line["error_y"]["array"] == [0.25, 0.25]
    assert line["error_y"]["arrayminus"] == [0.125, 0.125]
    without = place_map([patch_row(7, None, 2.0, effect_low=None)], "effect")["data"][0]
    assert "error_y" not in without


def test_two_rows_of_one_cell_or_one_place_are_refused():
    with pytest.raises(InputError, match=r"^Two rows describe the cell layer=3, head=1; keep one"):
        place_map([patch_row(3, None, 1.0, head=1)] * 2)
    with pytest.raises(InputError, match=r"^Two rows describe the cell .*layer=3; keep one row"):
        curve_over([patch_row(3, None, 1.0)] * 2, x="layer", value="effect", x_title="", y_title="")


def test_a_grid_takes_any_two_columns_and_orders_numbers_as_numbers():
    rows = [path_row(layer, head, layer + head / 8) for layer in (10, 9) for head in (2, 1)]
    chart = sender_map(rows, "E")
    assert chart["data"][0]["z"] == [[9.125, 9.25], [10.125, 10.25]]
    assert chart["layout"]["yaxis"]["ticktext"] == ["9", "10"]


def test_attention_is_drawn_from_nothing_to_all_with_queries_from_the_top():
    chart = attention_map([[1.0, 0.0], [0.25, 0.75]], ["a", " <b>"])
    heat = chart["data"][0]
    assert (heat["zmin"], heat["zmax"], heat["z"][1]) == (0, 1, [0.25, 0.75])
    assert heat["text"][1][0] == "·&lt;b&gt; looks at a: 0.250"
    assert chart["layout"]["yaxis"]["autorange"] == "reversed"


def nodes(chart: dict) -> dict[str, tuple[float, float]]:
    dots = chart["data"][-1]
    points = zip(dots["x"], dots["y"], strict=True)
    return dict(zip(dots["text"], points, strict=True))


def test_a_circuit_is_drawn_from_the_input_up_and_by_sign_and_size():
    rows = [edge_row("input->a2.h7<q>", 4.0), edge_row("a2.h7->m2", -2.0)]
    rows += [edge_row("m2->a10.h3<v>", 1.0), edge_row("a10.h3->logits", 0.0)]
    chart = circuit_graph(rows)
    places = nodes(chart)
    depth = sorted(places, key=lambda name: places[name][1])
    assert depth == ["input", "a2.h7", "m2", "a10.h3", "logits"]
    assert places["m2"][0] < places["a10.h3"][0] < places["a2.h7"][0]  # MLPs, head 3, head 7
    assert chart["layout"]["yaxis"]["ticktext"] == ["input", "attn 2", "mlp 2", "attn 10", "logits"]
    lines = chart["data"][:4]
    assert [(line["x"][0], line["y"][0]) for line in lines[:2]] == [
        places["input"],
        places["a2.h7"],
    ]
    assert [(line["x"][2], line["y"][2]) for line in lines[2:]] == [
        places["a10.h3"],
        places["logits"],
    ]
    assert [line["line"]["width"] for line in lines] == pytest.approx([5.8, 3.3, 2.05, 0.8])
    colours = [line["line"]["color"] for line in lines]
    assert colours[0] == colours[2] == colours[3] != colours[1]
    assert chart["data"][4]["text"][0] == "input-&gt;a2.h7&lt;q&gt;<br>score 4"
    assert [label["text"] for label in chart["layout"]["annotations"]] == list(places)


def test_edges_into_the_ports_of_one_head_do_not_cover_each_other():
    rows = [edge_row(f"m0->a1.h2<{port}>", 1.0) for port in "qkv"]
    middles = {line["x"][1] for line in circuit_graph(rows)["data"][:3]}
    assert len(middles) == 3


@pytest.mark.parametrize("edge", ["a0.h1", "a0->logits", "a0.h1->q", "<b>->logits", "m1->m2x"])
def test_what_is_no_edge_is_refused(edge):
    with pytest.raises(InputError, match=r"is no edge: write such as 'a0\.h1->a1\.h2<k>' or 'm3->"):
        circuit_graph([edge_row(edge, 1.0)])


def test_a_circuit_of_no_edge_is_an_empty_chart():
    go.Figure(circuit_graph([]))
    assert nodes(circuit_graph([])) == {}


def test_faithfulness_stands_beside_random_edges_by_size():
    rows = [curve_row(1.0, 1.0), curve_row(0.25, 0.5, random=0.125), curve_row(0.0, 0.0)]
    random, circuit = faithfulness_curve(rows)["data"]
    assert circuit["x"] == random["x"] == [0.25, 1.0]  # a share of 0 has no logarithm
    assert (circuit["y"], random["y"]) == ([0.5, 1.0], [0.125, 0.125])
    assert random["error_y"]["array"] == [0.125, 0.125]
    assert random["error_y"]["arrayminus"] == [0.0625, 0.0625]
    assert circuit["text"] == ["250 edges", "1,000 edges"]


def test_doses_stand_above_their_damage_and_beside_random_twins():
    rows = [dose_row(2, 3.0), dose_row(-1, -2.0), twin_row(2, 0.25, 1), twin_row(-1, 0.5, 2)]
    twins, twins_damage, effect, damage = dose_curve(rows)["data"]
    assert (effect["x"], effect["y"]) == ([-1, 2], [-2.0, 3.0])
    assert (damage["x"], damage["y"], damage["yaxis"]) == ([-1, 2], [0.5, 0.5], "y2")
    assert (twins["x"], twins["y"]) == ([-1, 2], [0.5, 0.25])
    assert (twins_damage["y"], twins_damage["yaxis"]) == ([0.125, 0.125], "y2")
    assert effect["error_y"]["array"] == [0.25, 0.25]


def texts(value: object) -> list[str]:
    """Every text inside a specification."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in texts(each)]


def test_labels_hold_no_tags_and_plotly_takes_every_figure():
    tables = rows_of_each_kind(EVIL)
    patch = tables["patch"]
    drawn = [place_map(patch), place_map(patch, "effect"), attention_map([[1.0]], [EVIL])]
    drawn += [dose_curve(tables["doses"][:2]), faithfulness_curve(tables["faithfulness"])]
    drawn += [circuit_graph(tables["edges"][:2])]
    drawn.append(sender_map(tables["paths"], EVIL))
    for spec in drawn:
        assert len(list(go.Figure(spec).data)) == len(spec["data"])
        assert not [text for text in texts(spec) if "<b" in text and "<br>" not in text]
        assert not [text for text in texts(spec) if "onclick" in text and "<b " in text]
    assert [text for text in texts(drawn[0]) if "&lt;b onclick=x&gt;&amp;" in text]
