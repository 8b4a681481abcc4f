"""Sections about interventions: their sentences are true of the rows, and nothing is left out."""

from __future__ import annotations

import re

import pytest

from interp.errors import InputError
from interp.results.report import TABLES, render
from interp.results.report_causal import (
    SHOWN_EDGES,
    circuit_section,
    patch_section,
    path_section,
    steering_section,
)
from interp.results.report_stats import Finding

MINUS = "\N{MINUS SIGN}"


# ---------------------------------------------------------------- rows by hand


def patch_row(layer: int, pos: int | None, effect: float, **more) -> dict:
    """Base 1 and source 5, so the share recovered is a quarter of the effect."""
    row = {"component": "resid_pre", "layer": layer, "head": None, "pos": pos}
    row |= {"token": None if pos is None else f" t{pos}", "direction": "denoise"}
    row |= {"place": f"{layer}.resid_pre positions={pos}", "metric": "logit_diff"}
    for name, value in (("effect", effect), ("recovered", effect / 4)):
        row |= {name: value, f"{name}_low": value - 0.125, f"{name}_high": value + 0.25}
    row |= {"pairs": 30, "pairs_without_gap": 0, "change": 2.0, "null": 0.001}
    row |= {"base_value": 1.0, "source_value": 5.0}
    return row | {"clean_prompt": "A and B", "corrupted_prompt": "A and A"} | more


def path_row(layer: int, head: int | None, effect: float, **more) -> dict:
    sender = f"{layer}.mlp_out" if head is None else f"{layer}.h{head}"
    row = {"path": f"{sender} -> logits", "sender": sender, "receiver": "logits"}
    row |= {"through": "direct", "direction": "noise", "metric": "logit_diff", "effect": effect}
    row |= {"effect_low": effect - 0.5, "effect_high": effect + 0.5, "recovered": effect / -4}
    row |= {"pairs": 2, "change": 3.0, "acted": True, "sender_layer": layer, "sender_head": head}
    row |= {"receiver_layer": None, "receiver_head": None, "receiver_kind": "logits"}
    return row | {"base_value": 5.0, "source_value": 1.0} | more


def edge_row(edge: str, score: float, rank: int = 1, **more) -> dict:
    row = {"edge": edge, "score": score, "rank": rank, "in_circuit": True, "verified": None}
    return row | more


def curve_row(fraction: float, faithfulness: float, **more) -> dict:
    row = {"fraction": fraction, "n_edges": int(1000 * fraction), "faithfulness": faithfulness}
    row |= {"random": 0.125, "random_low": 0.0625, "random_high": 0.25}
    return row | {"cpr": 0.75, "cmd": 0.25, "random_cpr": 0.375, "random_cmd": 0.5} | more


def dose_row(coefficient: float, effect: float, split: str = "report", **more) -> dict:
    row = {"direction": 3, "site": "7.resid_post", "coefficient": coefficient, "split": split}
    row |= {"method": "difference_of_means", "seed": None, "norm": 2.0}
    for name, value in (("effect", effect), ("damage", 0.5), ("margin", effect - 1)):
        row |= {name: value, f"{name}_low": value - 0.25, f"{name}_high": value + 0.25}
        row |= {f"{name}_n": 24}
    row |= {"unparsable": None, "base_unparsable": None, "perplexity": 30.0}
    return row | {"base_perplexity": 20.0, "change": 9.0, "rank": 0.25} | more


def twin_row(coefficient: float, effect: float, seed: int, split: str = "report", **more) -> dict:
    row = dict.fromkeys(dose_row(1, 1)) | {"direction": 3, "site": "7.resid_post", "split": split}
    row |= {"coefficient": coefficient, "method": "random", "norm": 2.0, "seed": seed}
    return row | {"effect": effect, "damage": 0.125} | more


def rows_of_each_kind(text: str | None = None) -> dict[str, list[dict]]:
    """A few rows of every table about interventions, `text` in each of their free texts."""

    def said(*names: str) -> dict[str, str]:
        return {} if text is None else dict.fromkeys(names, text)

    patch = said("component", "place", "token", "direction", "metric")
    patch |= said("clean_prompt", "corrupted_prompt")
    path = said("path", "sender", "receiver", "through", "direction", "metric", "receiver_kind")
    dose, rank = said("site", "method"), said("rank")
    odd = [edge_row(text, 0.1, in_circuit=False) | rank] if text else []
    return {
        "patch": [patch_row(0, 0, 1.0, **patch), patch_row(1, 0, 2.0, **patch)],
        "paths": [path_row(3, 1, -1.0, **path), path_row(4, 0, 2.0, **path)],
        "edges": [edge_row("a0.h1->a1.h2<k>", 2.0), edge_row("m0->logits", -1.0), *odd],
        "faithfulness": [curve_row(0.1, 0.5), curve_row(1.0, 1.0)],
        "doses": [
            dose_row(2, 3.0, **dose),
            twin_row(2, 0.1, 1, **said("site")),
            dose_row(2, 3.0, "choose", **dose),
            dose_row(2, 1.0, "choose", **dose | {"direction": 4}),
        ],
    }


# ---------------------------------------------------------------- patching


def test_the_largest_patch_is_named_with_its_interval_and_the_null():
    """-3 is the largest in size, although it is the smallest number."""
    rows = [patch_row(3, 2, 2.0), patch_row(7, 5, -3.0), patch_row(7, 2, 1.0)]
    (found,) = patch_section(rows).findings
    assert found == Finding(
        "Of 3 places in resid_pre, 7.resid_pre positions=5 (·t5) has the largest effect: it moves "
        f"the logit difference by {MINUS}3 nats (95% interval {MINUS}3.12 to {MINUS}2.75 over 30 "
        "pairs); a run patched with itself moves it by 0.001 nats.",
        f"It closes {MINUS}75% of the gap between the two runs ({MINUS}87.5% to {MINUS}50%).",
    )


def test_the_caption_names_the_direction_both_runs_and_what_held_the_same():
    body = patch_section([patch_row(3, 2, 2.0), patch_row(4, 2, 0.0, change=0.0)]).body
    assert "denoise: activations of the clean run are put into the corrupted run." in body
    said = "the logit difference is 1 nats in the corrupted run and 5 nats in the clean run."
    assert said in body
    assert "1 place held the same in both runs." in body
    assert "<dt>Clean</dt><dd>A and B</dd><dt>Corrupted</dt><dd>A and A</dd>" in body
    noise = patch_section([patch_row(3, 2, 2.0, direction="noise", metric="prob")]).body
    assert "the answer&#x27;s probability is 1 in the clean run and 5 in the corrupted" in noise


def test_the_caption_warns_of_the_choice_and_of_colours_that_end():
    picked, end = "It was picked as the largest, and its", "Colours end at 2; some shares lie"
    two = [patch_row(3, 2, 8.0), patch_row(4, 2, 0.0)]
    assert picked in patch_section(two).body and end not in patch_section(two).body
    assert picked not in patch_section(two[:1]).body
    assert end in patch_section([patch_row(3, 2, -8.5)]).body


def test_an_effect_no_larger_than_the_null_is_no_finding():
    found = patch_section([patch_row(3, 2, -0.5, null=0.5), patch_row(4, 2, 0.25, null=0.5)])
    assert found.findings[0] == Finding(
        "No patch of resid_pre moves the logit difference further than the null does.",
        f"The largest effect is {MINUS}0.5 nats; a run patched with itself moves it by 0.5.",
    )
    above = patch_section([patch_row(3, 2, -0.51, null=0.5)]).findings[0].title
    assert above.startswith("Of 1 place in resid_pre, 3.resid_pre")


def test_an_interval_that_holds_nothing_and_few_pairs_are_said():
    wide = {"effect_low": -0.5, "effect_high": 2.0, "pairs": 4}
    (found,) = patch_section([patch_row(0, 1, 1.0, **wide)]).findings
    assert "(95% interval \N{MINUS SIGN}0.5 to 2 over 4 pairs), which holds 0;" in found.title
    assert found.detail.endswith(" An interval over fewer than 20 pairs tends to be too narrow.")
    one = patch_row(0, 1, 1.0, pairs=1, effect_low=None, effect_high=None)
    (found,) = patch_section([one | {"recovered_low": None, "recovered_high": None}]).findings
    assert "by 1 nats (no interval: 1 pair); a run patched with itself" in found.title
    assert found.detail == "It closes 25% of the gap between the two runs (no interval)."


def test_pairs_without_a_gap_are_counted_and_without_any_gap_the_effect_is_drawn():
    (found,) = patch_section([patch_row(0, 1, 1.0, pairs_without_gap=2)]).findings
    assert found.detail.endswith("(12.5% to 50%). 2 pairs without a gap left out.")
    section = patch_section([patch_row(0, 1, 1.0, recovered=None), patch_row(1, 1, 0.5)])
    assert section.findings[0].detail.startswith("No pair has a gap between its runs")
    assert section.charts["patch-0"]["data"][0]["z"] == [[1.0], [0.5]]


def test_each_component_direction_metric_and_prompt_has_one_map_over_all_layers():
    """The layer is no part of the key: two layers of one component share a map."""
    rows = [patch_row(layer, 0, 1.0) for layer in (3, 7)]
    others = [{"component": "mlp_out"}, {"direction": "noise"}, {"metric": "prob"}]
    others += [{"clean_prompt": "C"}, {"corrupted_prompt": "C"}]
    rows += [patch_row(layer, 0, 1.0, **more) for more in others for layer in (3, 7)]
    charts = patch_section(rows).charts
    assert list(charts) == [f"patch-{i}" for i in range(6)]
    assert [len(chart["data"][0]["z"]) for chart in charts.values()] == [2] * 6


def test_two_patch_rows_for_one_cell_are_refused():
    message = r"^Two rows describe the cell layer=3, pos=2; keep one row a cell\.$"
    with pytest.raises(InputError, match=message):
        patch_section([patch_row(3, 2, 0.5), patch_row(3, 2, 0.6)])


# ---------------------------------------------------------------- paths


def test_paths_are_ranked_by_size_and_no_ops_are_counted():
    rows = [path_row(2, 1, 0.5), path_row(5, None, -4.0), path_row(3, 0, 0.0, acted=False)]
    section = path_section(rows)
    (found,) = section.findings
    assert found.title == (
        "Of 3 paths into logits, the one from 5.mlp_out has the largest effect: it moves the logit "
        f"difference by {MINUS}4 nats (95% interval {MINUS}4.5 to {MINUS}3.5 over 2 pairs)."
    )
    assert found.detail.startswith("Computed anew in between: nothing (direct paths). Direction ")
    assert f"The gap is {MINUS}4. 1 path left the receiver as it was: no-ops." in found.detail
    order = re.findall(r'<th scope="row">([^<]*)</th>', section.body)
    assert order == ["5.mlp_out -&gt; logits", "2.h1 -&gt; logits", "3.h0 -&gt; logits"]
    heat = section.charts["path-0"]["data"][0]
    assert heat["z"] == [[None, 0.5], [0.0, None]]  # layers 2 and 3, heads 0 and 1; no MLP


def test_a_path_that_moves_nothing_is_no_finding():
    (found,) = path_section([path_row(2, 1, 0.0)]).findings
    assert found.title == "No path into logits moves the logit difference."


def test_a_long_ranking_is_cut_and_each_receiver_has_its_own():
    rows = [path_row(layer, 0, layer + 1.0) for layer in range(30)]
    body = path_section(rows).body
    assert body.count('<th scope="row">') == 20
    assert "The 20 largest of 30 paths." in body
    assert ">10.h0 -&gt;" in body and ">9.h0 -&gt;" not in body
    two = path_section([*rows[:2], *(path_row(i, 0, 1.0, receiver="9.h1.q") for i in (1, 2))])
    assert list(two.charts) == ["path-0", "path-1"]


# ---------------------------------------------------------------- circuits


def test_the_headline_of_a_circuit_is_the_smallest_that_is_faithful_beside_chance():
    curve = [curve_row(f, v) for f, v in ((1.0, 1.0), (0.5, 0.9), (0.25, 0.8), (0.125, 0.5))]
    (found,) = circuit_section([], curve).findings
    assert found.title == (
        "25% of the edges (250) reach a faithfulness of 0.8; as many random edges 0.125 (0.0625 to "
        "0.25 over the draws)."
    )
    assert found.detail == (
        "Area under the curve (CPR) 0.75, random 0.375; area between it and 1 (CMD, 0 is best) "
        "0.25, random 0.5."
    )


def test_the_whole_model_is_no_faithful_circuit():
    (found,) = circuit_section([], [curve_row(0.5, 0.7), curve_row(1.0, 1.0)]).findings
    said = "No circuit smaller than the model reaches a faithfulness of 0.8: the most is 0.7."
    assert found.title == said


def test_scores_are_held_against_real_patches():
    """Ranks of the scores 4, 3, 2, 1 and of the effects 4, 3, 1, 2: 1 - 6 * 2 / 60 = 0.8."""
    edges = [
        edge_row(f"m{i}->logits", score, i + 1, verified=effect)
        for i, (score, effect) in enumerate(((4, 8.0), (3, 5.0), (2, -1.0), (1, 2.0)))
    ]
    section = circuit_section([*edges, edge_row("m9->logits", 0.5, 5)], [])
    (found,) = section.findings
    assert found.title == (
        "The scores of 4 edges and the effects of really patching them have a rank agreement of "
        "0.8."
    )
    assert found.detail.startswith("3 of them agree in sign.")
    assert circuit_section([edge_row("m9->logits", 0.5)], []).findings == ()
    (alike,) = circuit_section([edge_row("m9->logits", 0.5, verified=1.0)], []).findings
    assert alike.title == "1 edge really patched: too alike to have a rank agreement."


def test_the_graph_holds_the_strongest_edges_of_the_circuit_alone():
    edges = [edge_row(f"a{i}.h0->logits", 1.0 + i, i) for i in range(SHOWN_EDGES + 3)]
    edges.append(edge_row("m1->logits", 999.0, in_circuit=False))
    section = circuit_section(edges, [])
    names = section.charts["circuit-graph"]["data"][-2]["text"]
    strongest = range(SHOWN_EDGES + 2, 2, -1)
    assert names == [f"a{i}.h0-&gt;logits<br>score {i + 1}" for i in strongest]
    assert "The circuit: 63 edges" in section.body and "The 60 strongest are drawn." in section.body
    assert "m1-&gt;logits" in section.body  # the table ranks all edges


def test_an_edge_that_stands_twice_is_refused():
    message = r"^Two rows of the table edges name one edge; keep one row an edge\.$"
    with pytest.raises(InputError, match=message):
        circuit_section([edge_row("m1->logits", 1.0), edge_row("m1->logits", 2.0)], [])


# ---------------------------------------------------------------- steering


def test_the_headline_of_a_dose_is_its_margin_over_random_directions():
    rows = [dose_row(1, 9.0), dose_row(2, 3.0, chosen=True)]
    rows += [twin_row(2, 0.1, 1), twin_row(2, 0.2, 2), twin_row(1, 0.3, 3)]
    (found,) = steering_section(rows).findings
    said = "At 7.resid_post dose 2 beats random directions by 2 (95% interval 1.75 to 2.25)."
    assert found.title == said
    assert "the effect is 3 (95% interval 2.75 to 3.25 over 24 prompts)" in found.detail
    assert "2 random directions of the same norm; rank 0.25." in found.detail
    assert "The damage is 0.5 nats a token (0.25 to 0.75): perplexity 20 without and 30 with" in (
        found.detail
    )


def test_the_dose_is_chosen_on_the_prompts_that_choose():
    """Dose 1 is best there (margin 4 against 1), though dose 2 is best on the held-out half."""
    rows = [dose_row(1, 1.0), dose_row(2, 3.0)]
    rows += [dose_row(1, 5.0, "choose"), dose_row(2, 2.0, "choose")]
    rows.append(dose_row(2, 99.0, "choose", direction=4))  # another direction does not matter
    (found,) = steering_section(rows).findings
    assert found.title == (
        "At 7.resid_post dose 1 does not clearly beat random directions: 0 (95% interval "
        f"{MINUS}0.25 to 0.25)."
    )


@pytest.mark.parametrize(("low", "beats"), [(0.001, True), (0.0, False), (-1.0, False)])
def test_a_margin_beats_chance_only_where_its_interval_does(low, beats):
    (found,) = steering_section([dose_row(2, 3.0, margin_low=low)]).findings
    assert ("dose 2 beats random directions by 2 (" in found.title) is beats
    assert ("dose 2 does not clearly beat random directions: 2 (" in found.title) is not beats


def test_without_an_allowed_dose_nothing_is_claimed():
    section = steering_section([dose_row(1, 5.0, "choose"), twin_row(1, 0.1, 1, "choose")])
    (found,) = section.findings
    assert found.title == "No dose was allowed, so none was tried on the held-out prompts."
    assert section.charts == {}


# ---------------------------------------------------------------- the page


def test_sections_stand_only_where_rows_are():
    tables = rows_of_each_kind()
    anchors = {"patch": "patching", "paths": "paths", "edges": "circuit", "doses": "steering"}
    anchors |= {"faithfulness": "circuit"}
    for name, anchor in anchors.items():
        page = render({}, {name: tables[name]})
        assert re.findall(r'<section id="([a-z]+)"', page) == [anchor, "manifest"]
        assert '<ol class="findings">' in page or name == "edges"
    assert set(tables) <= set(TABLES)
    page = render({}, {name: [] for name in tables})
    assert re.findall(r'<section id="([a-z]+)"', page) == ["manifest"]


def test_no_two_things_of_a_page_share_a_name():
    """A chart named as its section would be drawn over the whole section."""
    names = re.findall(r'\sid="([^"]*)"', render({}, rows_of_each_kind()))
    assert sorted(names) == sorted(set(names))
    assert {"patch-0", "path-0", "circuit-graph", "circuit-curve", "dose-0"} < set(names)


def test_the_same_rows_give_the_same_bytes():
    first, second = (render({}, rows_of_each_kind()).encode() for _ in range(2))
    assert first == second
