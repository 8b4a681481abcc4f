"""The True-Thinking sections: their sentences are the numbers of the rows, and no text runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from interp.jobs import runs
from interp.results import Manifest, Store, cell_key
from interp.results import relatives_charts as relatives
from interp.results import thinking_charts as charts
from interp.results import thinking_findings as said
from interp.results.report import TABLES, render
from interp.results.report_charts import VERMILION
from interp.results.report_stats import MINUS, Finding
from interp.results.report_thinking import PARTS, TITLES, sections

ATTACK = '</script><script>alert(1)</script><img src=x onerror="alert(1)">'
NARROW = " An interval over fewer than 20 problems tends to be too narrow."

# ---------------------------------------------------------------- rows by hand


def site_row(site: str, norm: float, shuffled: float | None = 2.0) -> dict:
    row = {"site": site, "norm": norm, "shuffled_norm": shuffled}
    return row | {"shuffled_cosine": 0.0, "next_cosine": None}


def set_steps(n_problems: int = 24) -> list[dict]:
    sides = ("true", "decorative")
    return [{"set": side, "id": f"p{i}", "step": 0} for side in sides for i in range(n_problems)]


def arm_row(arm: str, flips: float | None, difference: float | None = None, **more) -> dict:
    """Intervals end 10 points below and 20 above."""
    row = {"test": "engage", "arm": arm, "twin": None, "n_twins": 0, "layer": 7, "rank": None}
    row |= {"n_items": 60, "n_problems": 24, "warning": None}
    values = {"flips": flips, "unparsable": 0.02, "shift": -1.5, "difference": difference}
    for name, value in values.items():
        ends = (None, None) if value is None else (value - 0.1, value + 0.2)
        row |= {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}
    return row | more


def curve_row(arm: str, layer: int | None, flips: float, twin: int | None = None, **more) -> dict:
    row = {"test": "engage", "arm": arm, "twin": twin, "layer": layer, "split": "test"}
    row |= {"flips": flips, "unparsable": 0.0, "shift": 0.0, "n_items": 60, "n_problems": 24}
    return row | more


def bin_row(low: float, flips: float | None, **more) -> dict:
    row = {"bin": f"[{low:g}, {low + 0.1:g})", "low": low, "high": low + 0.1, "flips": flips}
    row |= {"n_true": 20, "n_decorative": 20, "n_items": 60, "n_problems": 24, "warning": None}
    row |= {"flips_low": flips and flips - 0.1, "flips_high": flips and flips + 0.1, "layer": 3}
    row |= {"lowest_accuracy": flips and 1 - flips, "lowest_layer": 4, "skipped": None}
    return row | ({} if flips else {"skipped": "too few steps"}) | more


def segment(name: str, decorative: bool | None) -> dict:
    return {"id": name, "decorative": decorative}


def check(name: str, used: bool, informative: bool = True) -> dict:
    return {"id": name, "used": used, "informative": informative}


def restored_row(arm: str, layer: int, share: float, **more) -> dict:
    row = {"arm": arm, "layer": layer, "restored": share, "unparsable": 0.1}
    return row | {"n_items": 30, "n_problems": 22} | more


def keep_row(method: str, fraction: float, mean: float, measure: str = "same", **more) -> dict:
    row = {"method": method, "fraction": fraction, "measure": measure, "mean_estimate": mean}
    row |= {"mean_low": mean - 0.1, "mean_high": mean + 0.1, "n_problems": 24, "warning": None}
    for other in ("above_random", "above_last"):
        row |= {f"{other}_estimate": 0.3, f"{other}_low": 0.1, f"{other}_high": 0.5}
    return row | more


def rho_row(a: str, b: str, rho: float | None, **more) -> dict:
    row = {"a": a, "b": b, "rho": rho, "chance": 0.2, "n_problems": 24, "warning": None}
    row |= {"low": None if rho is None else rho - 0.25, "high": None if rho is None else rho + 0.05}
    return row | more


def early_rows() -> list[dict]:
    """Two problems of 4 steps; only q answers as it will at the end from its second step on."""
    row = {"n_steps": 4, "logprob": 0.0}
    return [
        {"id": name, "kept": kept, "final": kept == 4 or (name == "q" and kept >= 2), **row}
        for name in "pq"
        for kept in range(5)
    ]


def mean_row(measure: str) -> dict:
    row = {"measure": measure, "mean": 0.5, "low": 0.25, "high": 0.75, "n_chains": 30}
    return row | {"n_problems": 24, "n_left_out": 2, "warning": None}


def every_table(text: str = "fine") -> dict[str, list[dict]]:
    """A few rows of every table, `text` in each of their free texts."""
    notes = {"part": "direction", "true_from": 0.4, "decorative_to": 0.005, "n_true": 9}
    return {
        "direction": [site_row("0.resid_pre", 3.0), site_row("1.resid_post", 8.0)],
        "direction_sets": [
            {"position_from": 0.0, "position_to": 0.25, "mentions_answer": True, "true": 5}
            | {"decorative": 29, "true_chosen": 4, "decorative_chosen": 4}
        ],
        "direction_steps": set_steps(),
        PARTS: [
            notes | {"n_decorative": 8, "warnings": [text]},
            notes | {"n_decorative": 8, "warnings": [text], "part": "steer-test"},
        ],
        "steer_results": [
            arm_row("direction", 0.5, warning=text),
            arm_row("random", 0.1, 0.4, n_twins=20, rank=1 / 21),
            arm_row(text, 0.0, 0.5),
        ],
        "steer_curves": [curve_row("direction", 7, 0.5), curve_row(text, 7, 0.0)],
        "steer_marked": [{"reason": text}],
        "steer_bins": [bin_row(0.9, 0.4, bin=text), bin_row(0.3, None, skipped=text)],
        "steer_bin_curves": [{"bin": text, "layer": 0, "accuracy": 0.5}],
        "check_segments": [segment(text, True)],
        "check_tests": [check(text, False)],
        "check_restored": [restored_row("direction", 3, 0.5), restored_row("random", 3, 0.0)],
        "prune_curves": [
            keep_row("tts", 0.5, 0.9, warning=text),
            keep_row("random", 0.5, 0.6),
            keep_row(text, 0.5, 0.4),
        ],
        "prune_marked": [{"reason": text}],
        "agreement": [rho_row("tts", text, 0.5), rho_row("tts", "drop", None, warning=text)],
        "chain_means": [mean_row(text) | {"warning": text}],
        "early_points": [row | {"id": f"{text} {row['id']}"} for row in early_rows()],
        "compare_marked": [{"reason": text}],
    }


# ---------------------------------------------------------------- findings


def test_the_direction_stands_beside_shuffled_labels():
    rows = [site_row("0.resid_pre", 3.0), site_row("1.resid_post", 8.0)]
    assert said.direction_finding(rows, set_steps()) == Finding(
        "At 2 sites the direction is 1.5 to 4 times as long as one from shuffled labels.",
        "Mean of 24 true steps less that of 24 decorative steps of 24 problems. Lengths are of one "
        "fit and have no interval; the steering tests say what it does.",
    )
    short = said.direction_finding([site_row("0.resid_pre", 1.0)], set_steps(3))
    assert short.title.endswith("is 0.5 times as long as one from shuffled labels: not longer "
                                "everywhere.")  # fmt: skip
    assert short.detail.endswith(NARROW)
    alone = said.direction_finding([site_row("0.resid_pre", 1.0, None)], set_steps())
    assert alone.title == "There is a direction at 1 site, with no shuffled labels beside it."


def test_a_steering_test_names_the_difference_to_random_and_every_control():
    rows = [
        arm_row("direction", 0.42),
        arm_row("random", 0.05, 0.37, n_twins=20),
        arm_row("random", 0.9, -0.5, twin=3),  # one of the twins speaks for none of them
        arm_row("shuffled", 0.2, 0.22),
        arm_row("none", 0.0, 0.42),
        arm_row("direction", 0.9, test="disengage"),
    ]
    assert said.steer_finding(rows, "engage") == Finding(
        "Engagement: at layer 7 adding the direction flips 42% of the answers that ignored an "
        "error, random directions 5% (a difference of 37 points, 95% interval 27 to 57).",
        "42% (32% to 62%) of 60 items of 24 problems that chose neither direction nor layer; 2% of "
        "answers cannot be read. Controls: shuffled labels 20%, no dose 0%.",
    )
    other = said.steer_finding(rows, "disengage")
    assert other is not None
    assert other.title.endswith("had changed; no random direction stands beside it.")


def test_a_difference_that_may_be_zero_and_few_problems_are_said():
    rows = [arm_row("direction", 0.1, n_problems=5), arm_row("random", 0.05, 0.05)]
    found = said.steer_finding(rows, "engage")
    assert found is not None
    told = f"(a difference of 5 points, 95% interval {MINUS}5 to 25, which holds 0)."
    assert found.title.endswith(told)
    assert found.detail.endswith(NARROW)
    none = said.steer_finding([arm_row("direction", None, warning="no item")], "engage")
    assert none == Finding("Engagement: nothing to report.", "no item")
    assert said.steer_finding([arm_row("random", 0.5, 0.0)], "engage") is None


def test_values_that_are_all_alike_have_no_interval():
    same = {"flips_low": 0.0, "flips_high": 0.0, "difference_low": 0.0, "difference_high": 0.0}
    rows = [arm_row("direction", 0.0, **same), arm_row("random", 0.0, 0.0, **same)]
    found = said.steer_finding(rows, "engage")
    assert found is not None
    assert found.title.endswith("0% (a difference of 0 points, all alike: no interval).")
    assert found.detail.startswith("0% (all alike: no interval) of 60 items")
    (check_found,) = said.check_findings([segment("p", False), segment("q", False)], [], [])
    assert check_found.title.endswith("decorative by TTS (all alike: no interval).")


def test_growth_with_the_score_needs_intervals_that_lie_apart():
    rows = [bin_row(0.9, 0.5), bin_row(0.5, 0.35), bin_row(0.1, 0.2), bin_row(0.3, None)]
    assert said.bin_finding(rows) == Finding(
        "The direction from steps with TTS in [0.9, 1) flips 50% (40% to 60%), that from "
        "[0.1, 0.2) 20% (10% to 30%).",
        "The two intervals lie apart. It rises in 2 of 2 steps from bin to bin. 1 bin gave no "
        "direction.",
    )
    flat = said.bin_finding([bin_row(0.9, 0.3), bin_row(0.5, 0.4, n_problems=3)])
    assert flat.detail.startswith("The intervals overlap: no growth is shown. It rises in 0 of 1")
    assert flat.detail.endswith(NARROW)
    one = said.bin_finding([bin_row(0.9, 0.3), bin_row(0.5, None)])
    assert one.title.endswith("; one bin cannot show whether it grows with the score.")
    nothing = said.bin_finding([bin_row(0.5, None)])
    assert nothing.title == "No score bin gave a direction that could be tested."


def test_self_checks_are_counted_by_score_and_by_behaviour():
    """Half of the problems each way, so an interval over 2 problems spans everything."""
    segments = [segment("p", True), segment("q", False), segment("q", None)]
    tests = [check("p", True), check("q", False), check("q", True, informative=False)]
    (found,) = said.check_findings(segments, tests, ())
    assert found == Finding(
        "1 of 2 self-checks are decorative by TTS (95% interval 0% to 100%).",
        "By behaviour (numbers before the check shifted), 1 of 2 that can tell are used (95% "
        f"interval 0% to 100%).{NARROW}",
    )
    assert charts.check_counts(segments, tests) == [
        ("TTS: decorative", 1),
        ("TTS: not decorative", 1),
        ("Behaviour: not used", 1),
        ("Behaviour: used", 1),
        ("Behaviour: says nothing", 1),
    ]
    silent = said.check_findings(segments, [check("q", True, informative=False)], ())[0]
    assert "no behavioural test says anything" in silent.detail


def test_a_layer_that_was_chosen_elsewhere_is_told_with_its_interval():
    ends = {"restored_low": 0.05, "restored_high": 0.2}
    rows = [
        restored_row("direction", 2, 0.1, chosen=True, **ends),
        restored_row("direction", 5, 0.4, chosen=False, restored_low=0.3, restored_high=0.5),
        restored_row("random", 2, 0.02, chosen=True, **ends),
    ]
    found = said.check_findings([segment("p", True)], [], rows)[1]
    assert found.title == (
        "Adding the direction brings back y* after 10% of unused checks, random directions 2% "
        "(layer 2)."
    )
    assert "; 10% (5% to 20%), the layer chosen on other problems. 10% of" in found.detail


def test_what_is_restored_stands_beside_random_directions_at_that_layer():
    rows = [restored_row("direction", layer, share) for layer, share in ((2, 0.1), (5, 0.4))]
    rows += [restored_row("random", 2, 0.9), restored_row("random", 5, 0.05)]
    found = said.check_findings([segment("p", True)], [], rows)[1]
    assert found.title == (
        "Adding the direction brings back y* after 40% of unused checks, random directions 5% "
        "(layer 5, the best)."
    )
    assert "chosen on the checks that it is counted on, so the share is too high" in found.detail


def test_pruning_is_told_at_the_fraction_nearest_to_a_half():
    rows = [
        keep_row("tts", fraction, mean)
        for fraction, mean in ((0.0, 0.0), (0.25, 0.1), (0.6, 0.9), (1.0, 1.0))
    ]
    rows += [keep_row("random", 0.6, 0.6), keep_row("last", 0.6, 0.5)]
    rows += [keep_row("tts", 0.6, 0.55, "tokens")]
    assert said.keep_finding(rows) == Finding(
        "The 60% of steps with the highest TTS keep 90% (80% to 100%) of the answers, random steps "
        "60% (a difference of 30 points, 95% interval 10 to 50). No steps at all keep 0%.",
        "24 problems. 55% of the tokens are left. The last steps alone keep 50% (a difference of "
        "30 points, 95% interval 10 to 50).",
    )
    alone = said.keep_finding([keep_row("tts", 0.5, 0.9)])
    assert alone is not None
    assert alone.title.endswith("of the answers; no random pruning stands beside them.")
    assert said.keep_finding([keep_row("last", 0.5, 0.9), keep_row("tts", 1.0, 1.0)]) is None


def test_agreement_counts_what_is_beyond_chance_and_leaves_the_legs_out():
    rows = [
        rho_row("tts", "nec", 0.99),
        rho_row("tts", "drop_step", 0.7),
        rho_row("noise", "tts", 0.1),  # above 0, but chance reaches 0.2
        rho_row("tts", "loose", 0.22),  # beyond chance, but its interval holds 0
        rho_row("tts", "silent", None),
        rho_row("drop_step", "noise", 0.95),
    ]
    found = said.agreement_finding(rows)
    assert found is not None
    assert found.title == (
        "1 of 4 other measures rank steps as TTS does, beyond chance; the closest is drop step "
        "(0.70, 95% interval 0.45 to 0.75 over 24 problems)."
    )
    assert found.detail.startswith("Shuffled steps reach 0.20. The furthest is noise (0.10, 95%")
    assert "1 measure cannot be ranked." in found.detail
    assert said.agreement_finding([rho_row("a", "b", 0.5)]) is None


def test_what_rests_on_one_problem_is_neither_closest_nor_furthest():
    single = rho_row("tts", "lucky", 0.99, low=None, high=None, n_problems=1, chance=1.0)
    found = said.agreement_finding([rho_row("tts", "drop_step", 0.7), single])
    assert found is not None
    assert found.title.startswith("1 of 2 other measures") and "drop step (0.70" in found.title
    assert "The furthest is drop step" in found.detail
    assert "1 measure cannot be ranked." in found.detail
    alone = said.agreement_finding([single])
    assert alone is not None and "lucky (0.99, no interval)" in alone.title


def test_early_answers_are_told_before_the_first_step_and_half_way():
    profile = relatives.early_profile(early_rows())
    assert [(at, final.estimate) for at, _, final in profile] == [
        (0.0, 0.0), (0.25, 0.0), (0.5, 0.5), (0.75, 0.5), (1.0, 1.0),
    ]  # fmt: skip
    found = said.early_finding(early_rows())
    assert found is not None
    assert found.title == (
        "Before its first step the model gives its final answer in 0% of the chains (all alike: "
        "no interval), after half of them in 50% (95% interval 0% to 100%)."
    )
    assert said.early_finding([row for row in early_rows() if row["kept"] > 0]) is None


# ---------------------------------------------------------------- charts


def layer_rows() -> list[dict]:
    twins = {0: (0.1, 0.3, 0.2), 4: (0.0, 0.6, 0.3)}
    rows = [
        curve_row("random", layer, flips, twin)
        for layer, values in twins.items()
        for twin, flips in enumerate(values)
    ]
    rows += [curve_row("random", 0, 0.2), curve_row("random", 4, 0.3)]
    rows += [curve_row("direction", 4, 0.5), curve_row("direction", 0, 0.25)]
    rows += [curve_row("direction", 0, 0.9, split="select"), curve_row("none", 0, 0.0)]
    return [*rows, curve_row("drop_step", None, 0.125)]


def named(spec: dict) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for trace in spec["data"]:
        found.setdefault(trace["name"], []).append(trace)
    return found


def test_the_layer_curves_are_the_rows_of_the_test_split():
    spec = charts.layer_chart(layer_rows(), [arm_row("direction", 0.25, layer=0)], "engage")
    found = named(spec)
    (line,) = found["TrueThinking direction"]
    assert (line["x"], line["y"]) == ([0, 4], [0.25, 0.5])
    (level,) = found["Step left out (no layer)"]
    assert (level["x"], level["y"]) == ([0, 4], [0.125, 0.125])
    (ring,) = found["Layer chosen on other problems, 95% interval"]
    assert (ring["x"], ring["y"], ring["line"]["color"]) == ([0], [0.25], VERMILION)
    assert ring["error_y"]["array"] == pytest.approx([0.2])
    assert ring["error_y"]["arrayminus"] == pytest.approx([0.1])
    assert len(found) == 4  # the dose of 0 is told in words and not drawn


def test_twins_are_a_band_from_the_least_to_the_greatest_around_their_mean():
    found = named(charts.layer_chart(layer_rows(), [], "engage"))
    band, mean = found["Random directions: mean and range"]
    assert band["x"] == [0, 4, 4, 0]
    assert band["y"] == [0.1, 0.0, 0.6, 0.3]
    assert (band["fill"], band["showlegend"]) == ("toself", False)
    assert (mean["x"], mean["y"]) == ([0, 4], [0.2, 0.3])


def test_two_tests_are_two_panels_with_one_legend():
    rows = layer_rows() + [row | {"test": "disengage"} for row in layer_rows()]
    spec = charts.layer_panels(rows, [])
    half = len(spec["data"]) // 2
    left, right = spec["data"][:half], spec["data"][half:]
    assert [trace["y"] for trace in left] == [trace["y"] for trace in right]
    assert {trace["xaxis"] for trace in right} == {"x2"} and "xaxis" not in left[0]
    assert not any(trace.get("showlegend", True) for trace in right)
    domains = [spec["layout"][axis]["domain"] for axis in ("xaxis", "xaxis2")]
    assert domains[0][1] < domains[1][0]


def test_bins_are_drawn_from_the_lowest_score_to_the_highest():
    rows = [bin_row(0.9, 0.5), bin_row(0.5, None), bin_row(0.1, 0.2)]
    curves = [{"bin": "[0.9, 1)", "layer": layer, "accuracy": 1 - layer / 10} for layer in (2, 1)]
    spec = charts.bin_panels(rows, curves)
    line, dots = spec["data"]
    assert (line["x"], line["y"]) == ([1, 2], [0.9, 0.8])
    assert (dots["x"], dots["y"]) == (["[0.9, 1)", "[0.1, 0.2)"], [0.5, 0.2])
    assert spec["layout"]["xaxis2"]["categoryarray"] == ["[0.1, 0.2)", "[0.5, 0.6)", "[0.9, 1)"]
    (alone,) = charts.bin_panels(rows, [])["data"]
    assert (alone["x"], alone["y"]) == (dots["x"], dots["y"]) and "xaxis" not in alone


def test_keep_curves_have_the_intervals_of_their_rows():
    rows = [keep_row("tts", 1.0, 1.0), keep_row("tts", 0.5, 0.75, mean_low=None)]
    (line,) = relatives.keep_chart(rows, "same")["data"]
    assert (line["x"], line["y"]) == ([0.5, 1.0], [0.75, 1.0])
    assert line["error_y"]["array"] == [None, pytest.approx(0.1)]
    assert relatives.keep_chart(rows, "tokens")["data"] == []


def test_the_map_of_agreement_is_symmetric_and_marks_what_chance_reaches():
    rows = [rho_row("tts", "a", 0.5), rho_row("tts", "b", -0.1), rho_row("a", "b", None)]
    (heat,) = relatives.agreement_map(rows)["data"]
    assert heat["z"] == [[None, 0.5, -0.1], [0.5, None, None], [-0.1, None, None]]
    assert heat["text"][0] == ["", "0.50", f"({MINUS}0.10)"]
    assert heat["text"][1][2] == "none"
    assert heat["hovertext"][0][1] == (
        "TTS and a<br>0.50 (95% interval 0.25 to 0.55)<br>chance reaches 0.20; 24 problems"
    )


def test_the_norms_are_drawn_by_layer_with_the_final_output_last():
    rows = [site_row("1.resid_post", 8.0), site_row("0.resid_pre", 3.0, None)]
    own, shuffled = charts.norm_chart(rows)["data"]
    assert (own["x"], own["y"]) == ([0, 2], [3.0, 8.0])
    assert (shuffled["x"], shuffled["y"]) == ([2], [2.0])


def test_the_two_legs_stand_where_their_names_say():
    shares = {"neither": 0.1, "suf only": 0.2, "nec only": 0.3, "both": 0.4}
    rows = [{"name": n, "estimate": v, "low": None, "high": None} for n, v in shares.items()]
    (heat,) = charts.quadrant_map(rows)["data"]
    assert heat["z"] == [[0.1, 0.2], [0.3, 0.4]]  # from the bottom: necessity low, then high
    assert heat["text"][1][0] == "30%<br>no interval"


# ---------------------------------------------------------------- the page


def test_every_section_is_drawn_with_its_tables():
    found = sections(every_table())
    assert list(found) == list(TITLES)
    for section in found.values():
        assert section.findings and section.charts
        for name in section.charts:
            assert f'id="{name}"' in section.body
    body = found["steer-test"].body
    assert "<td>50%<small>40% to 70%</small></td>" in body
    assert "Random directions, mean of 20" in body
    assert "<td>40<small>30 to 60</small></td>" in body
    assert "1 item marked and left out: fine (1)." in body
    assert "True: TTS at least 0.4, 9 steps. Decorative: at most 0.005, 8 steps." in body


def test_tables_without_rows_have_no_section():
    assert sections({}) == {}
    assert sections({name: [] for name in every_table()}) == {}
    page = render({"experiment": "x"}, {})
    assert not [name for name in TITLES if f'<section id="{name}">' in page]


@pytest.mark.parametrize("missing", ["steer_curves", "steer_bin_curves", "check_restored"])
def test_a_section_stands_without_its_second_table(missing):
    tables = {name: rows for name, rows in every_table().items() if name != missing}
    assert list(sections(tables)) == list(TITLES)


def test_no_text_of_a_row_can_run_or_open_a_tag():
    page = render({"experiment": "x"}, every_table(ATTACK))
    assert "alert(1)" in page and "<script>alert" not in page and "<img" not in page
    drawn = json.dumps([section.charts for section in sections(every_table(ATTACK)).values()])
    assert "<script>alert" not in drawn  # Plotly reads tags in labels


def test_the_report_draws_every_table_of_the_sections():
    assert set(every_table()) - {PARTS} <= set(TABLES)


# ---------------------------------------------------------------- runs and their parts

MANIFEST = Manifest(
    experiment="tts",
    settings={},
    model={},
    data={},
    seeds=[0],
    versions={},
    commit=None,
    device="cpu",
    threads=1,
    command=["interp", "tts"],
    created="2026-01-01T00:00:00Z",
    code="0",
)


def part_of_run(run: Store, name: str, data: dict, tables: dict[str, list[dict]]) -> Store:
    about = replace(MANIFEST, experiment=f"tts_{name}", data=data, command=["interp", name])
    store = Store.begin(run.folder / name, about)
    store.write(cell_key({"part": name}), {"part": name}, tables, {})
    return store


@pytest.fixture
def run(tmp_path) -> Store:
    store = Store.begin(tmp_path / "run", MANIFEST)
    store.write(cell_key({"cell": 0}), {"cell": 0}, {"chains": [{"id": "p"}]}, {})
    return store


def identity(run: Store) -> dict[str, object]:
    return {"run": run.manifest.settings_hash, "cells": runs.rows_hash(run)}


def headings(folder: Path) -> set[str]:
    page = (folder / "report.html").read_text(encoding="utf-8")
    return {name for name in TITLES if f'<section id="{name}">' in page}


def test_the_page_of_a_part_is_its_own_and_the_run_shows_all_parts(run, monkeypatch):
    monkeypatch.setattr(runs, "table_names", without_chains)
    tables = every_table()
    prune = part_of_run(run, "prune", identity(run), {"prune_curves": tables["prune_curves"]})
    runs.write_report(prune)
    assert headings(prune.folder) == {"pruning"}
    assert headings(run.folder) == {"pruning"}  # drawn again with its new part
    steer = {"steer_results": tables["steer_results"], "steer_curves": tables["steer_curves"]}
    runs.write_report(part_of_run(run, "steer-test", identity(run), steer))
    assert headings(run.folder) == {"pruning", "steer-test"}
    assert "parts.steer-test.command" in (run.folder / "report.html").read_text(encoding="utf-8")


def without_chains(store: Store) -> list[str]:
    """The tables but `chains`, whose rows here are no chains."""
    return sorted({t for cell in store.cells() for t in cell["tables"]} - {"chains"})


def test_a_part_of_other_scores_is_not_shown_and_one_of_fewer_rows_is_told(run, monkeypatch):
    monkeypatch.setattr(runs, "table_names", without_chains)
    rows = {"direction": every_table()["direction"], "direction_steps": set_steps()}
    part_of_run(run, "direction", identity(run), rows)
    foreign = {"run": "another", "cells": runs.rows_hash(run)}
    part_of_run(run, "prune", foreign, {"prune_curves": every_table()["prune_curves"]})
    assert [part.name for part in runs.parts_of(run)] == ["direction"]
    runs.write_report(run)
    stale = "The run has other rows now than when direction was made from it"
    assert stale not in (run.folder / "report.html").read_text(encoding="utf-8")
    run.write(cell_key({"cell": 1}), {"cell": 1}, {"chains": [{"id": "q"}]}, {})
    runs.write_report(run)
    assert stale in (run.folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("dropped", "end"),
    [
        (0.4, ""),
        (0.5, " Leaving the step out does as much (50%)."),
        (0.6, " Leaving the step out does more (60%)."),
    ],
)
def test_a_simpler_edit_that_does_as_much_stands_in_the_headline(dropped, end):
    rows = [arm_row("direction", 0.5), arm_row("drop_step", dropped)]
    title = said.steer_finding(rows, "engage").title
    assert title.endswith("; no random direction stands beside it." + end)
