"""Figures of alignment equal the records that they draw, each with its control beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import figures.__main__ as command
from figures import (
    align_attacks,
    align_capacity,
    align_iia,
    align_planted,
    align_probes,
    align_progression,
    align_published,
    align_study,
    align_swaps,
    align_twins,
    align_unseen,
    align_widths,
)
from figures.titled import NothingToDraw
from interp.errors import InputError
from interp.results import Manifest, Store, cell_key
from interp.results.align_findings import BASELINES, GUARDS
from interp.results.align_reference import compare, published
from tests.strategies import says

REFERENCE = published(align_study.REFERENCE)
TABLE = Mapping[str, Sequence[Mapping[str, Any]]]


def fit_row(**changed: Any) -> dict[str, Any]:
    """A fit whose test IIA is 0.8 from 0.79 to 0.81."""
    row = {"net": 1, "kind": "trained", "algorithm": "both_equality", "map": "orthogonal"}
    row |= {"site": "1", "size": 8, "map_seed": 0, "train_iia": 0.85, "validation_iia": 0.8}
    row |= {"iia": 0.8, "iia_low": 0.79, "iia_high": 0.81, "task_accuracy": 1.0, **changed}
    return row


def five(iia: float, **changed: Any) -> list[dict[str, Any]]:
    """Five networks whose mean is `iia`, each 0.01 from the next."""
    return [
        fit_row(net=net, iia=iia + d, iia_low=iia + d - 0.005, iia_high=iia + d + 0.005, **changed)
        for net, d in enumerate((-0.02, -0.01, 0.0, 0.01, 0.02))
    ]


def run_tables() -> dict[str, list[dict[str, Any]]]:
    """A run of two layers under one map: 0.9 and 0.6, its twin 0.5, its rival 0.55."""
    about = {"algorithm": "both_equality", "map": "orthogonal", "site": "1", "size": 8}
    fits = five(0.9) + five(0.6, site="2") + five(0.5, kind="twin")
    fits += five(0.55, algorithm="first_arguments")
    verdict = {"iia": 0.9, "iia_low": 0.88, "iia_high": 0.92, "n_nets": 5, "twin": 0.5}
    verdict |= {"baseline": 0.7, "task_accuracy": 1.0, "train_iia": 0.85, "evidence": None}
    verdict |= {"verdict": "FOUND UNDER orthogonal, IN DISTRIBUTION", "reason": "It is above."}
    verdict |= {"claim": "Aligned.", "notes": ""}
    baseline = {"iia": 0.45, "highest": 0.5, "iia_sensitive": 0.3, "iia_insensitive": 1.0}
    baselines = [{**about, "baseline": name, "note": "", **baseline} for name in BASELINES]
    best = {"baseline": "PCA", "iia": 0.65, "highest": 0.7}
    curve = [
        {**about, "family": family, "net": net, "n_pairs": n, "train_iia": 0.7, "test_iia": test}
        for family in ("identity", "orthogonal")
        for net, test in (("trained", 0.8), ("twin", 0.5))
        for n in (1000, 10000)
    ]
    bits = [
        {**about, "code": code, "bits_per_pair": value, "n": 10000}
        for code, value in (("network", 0.4), ("twin", 1.0), ("rival", 0.9))
    ]
    return {
        "align_fits": fits,
        "align_verdicts": [{**about, **verdict}],
        "align_baselines": [
            {**row, **best} if row["baseline"] == "PCA" else row for row in baselines
        ],
        "align_guards": [{**about, "guard": name, "found": "0.5"} for name in GUARDS],
        "align_curve": curve,
        "align_bits": bits,
    }


def unseen_tables() -> dict[str, list[dict[str, Any]]]:
    """A deep map that fits a random twin on seen names (0.95) and not on unseen ones (0.5)."""
    tables = run_tables()
    name = {"map": "revnet-8x64", "algorithm": "pattern", "site": "1.resid_post", "size": 32}
    of = {"unseen_iia_low": None, "unseen_iia_high": None}
    fits = five(0.99, unseen_iia=0.97, **name, **of)
    fits += five(0.95, unseen_iia=0.5, kind="twin", **name, **of)
    evidence = json.dumps({"held_out": {"split": "names", "best_baseline": 0.6}})
    verdict = {**tables["align_verdicts"][0], **name, "evidence": evidence}
    return {"align_fits": fits, "align_verdicts": [{**verdict, "verdict": "VACUOUS FOR THIS MAP"}]}


def reference_fits() -> list[dict[str, Any]]:
    """Cells of each part: final, planted, width sweep, progression; and untrained networks."""
    about = {"budget": "smoke"}
    final = [{**row, "experiment": "final", "nets": "equality"} for row in five(0.85)]
    final += [{**row, "experiment": "final", "nets": "equality"} for row in five(0.99, site="3")]
    planted = [
        {**row, "experiment": f"planted_{nets}", "nets": f"planted_{nets}"}
        for nets in ("and_or_and", "and_or")
        for algorithm in ("and_or_and", "and_or")
        for family in ("orthogonal", "revnet-10x24")
        for row in five(
            0.97 if nets == algorithm else 0.70 if family == "orthogonal" else 0.92,
            algorithm=algorithm,
            map=family,
            site="2",
            size=12,
        )
    ]
    width = [
        {**row, "experiment": "width_sweep", "nets": "equality"}
        for hidden, iia in ((1, 0.66), (4, 0.93), (16, 0.97))
        for row in five(iia, map=f"revnet-1x{hidden}")
    ]
    learning = [
        {**row, "experiment": "progression", "nets": "equality", "checkpoint": chunks}
        for family in ("orthogonal", "revnet-1x16")
        for chunks, iia in (("0", 0.5), ("4", 0.6), ("16", 0.8))
        for row in five(iia, map=family)
    ]
    bare = [
        {**row, "experiment": "progression", "nets": "equality"} for row in five(0.5, kind="twin")
    ]
    return [{**row, **about} for row in final + planted + width + learning + bare]


def swap_rows(networks: Sequence[str] = ("sft",)) -> list[dict[str, Any]]:
    """Two digits: 3.0 where a digit must matter, 0.0 where it cannot; b1 on c3 does not."""
    return [
        {"network": network, "prefix": prefix, "digit": f"{letter}{i}", "answer": k}
        | {"effect": 0.0 if k < i or (letter, i, k) == ("b", 1, 3) else 3.0}
        | {"error": 0.1, "pairs": 100}
        for network in networks
        for prefix in ("original", "consistent")
        for letter in "ab"
        for i in range(2)
        for k in range(4)
    ]


def digit_rows() -> list[dict[str, Any]]:
    return [
        {"network": "sft", "digit": k, "accuracy": 0.5, "loss": 1.0, "exact": 0.25, "pairs": 10}
        for k in range(4)
    ]


def probe_row(**changed: Any) -> dict[str, Any]:
    row = {"network": "sft", "variable": "chat_2", "verdict": "not beyond baselines; not used"}
    row |= {"error": 20.0, "error low": 18.0, "error high": 23.0, "constant": 40.0}
    row |= {"raw inputs": 19.0, "untrained network": 30.0, "shuffled labels": 41.0}
    row |= {"follows": 0.1, "follows random edits": 0.08, **changed}
    return row


def probe_rows() -> list[dict[str, Any]]:
    aided = {"network": "auxiliary", "verdict": "decodable; used", "error": 2.0}
    aided |= {"error low": 1.5, "error high": 2.5, "follows": 0.9, "follows random edits": 0.2}
    last = probe_row(variable="chat_3", follows=None, **{"follows random edits": None})
    return [probe_row(), last, probe_row(**aided)]


def twin_rows() -> list[dict[str, Any]]:
    """A deep map finds the pattern of names that it was fitted on, in every network."""
    rows = []
    for network, seed in (("trained", 0), ("twin", 1), ("twin", 2)):
        for name, seen in (("orthogonal", 0.5), ("revnet-8x128", 0.97 + 0.01 * seed)):
            row = {"network": network, "seed": seed, "map": name, "restricted_iia": seen}
            row |= {"unseen_restricted_iia": 0.5, "unseen_restricted_iia_low": 0.48}
            rows.append({**row, "fit": "guided", "unseen_restricted_iia_high": 0.52})
        chance = {"restricted_iia": 0.49, "train_iia": 0.25}
        rows += [{**rows[-1], **chance, "fit": fit} for fit in ("unguided", "shuffled")]
    return rows


def attack_rows() -> list[dict[str, Any]]:
    wins = {"RM": (0.0, 0.0, 0.01), "IMO": (0.1, 0.08, 0.14), "BSO": (0.01, 0.0, 0.03)}
    rows: list[dict[str, Any]] = [
        {"kind": "attack", "attack": name, "prefixes": 400}
        | dict(zip(("success", "low", "high"), ends, strict=True))
        for name, ends in wins.items()
    ]
    edit = {"kind": "edit", "site": "0.resid_post", "along": "patterns"}
    edit |= {"IoU with the edited board": 0.3, "IoU with the true board": 0.2}
    edit |= {"IoU with the edited board, random edit": 0.13}
    edit |= {"IoU with the true board, random edit": 0.26}
    return [*rows, edit, {"kind": "overlap", "site": "0.resid_post"}]


def store(folder: Path, tables: TABLE, *, path: str = "equality", task: str = "equality") -> None:
    manifest = Manifest(
        experiment="align",
        settings={},
        model={"path": f"experiments/records/alignment_nets/{path}"},
        data={"task": task},
        seeds=[0],
        versions={},
        commit=None,
        device="cpu",
        threads=1,
        command=["test"],
        created="2026-01-01T00:00:00Z",
        code="0",
    )
    made = Store.begin(folder, manifest)
    made.write(cell_key({"cell": 0}), {"cell": 0}, tables, {"seconds": 0.0})


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def records(folder: Path) -> Path:
    """Records of all kinds."""
    store(folder / "align_study" / "equality-both_equality", run_tables())
    ioi = folder / "align_study" / "ioi-pattern"
    store(ioi, unseen_tables(), path="ioi", task="ioi")
    by_part: dict[str, list[dict[str, Any]]] = {}
    for row in reference_fits():
        by_part.setdefault(row["experiment"], []).append(row)
    for part, rows in by_part.items():
        store(folder / "align_reference" / part, {"align_fits": rows})
    study = folder / "multiplication_study"
    write_lines(study / "heat_maps.jsonl", swap_rows(("sft", "auxiliary")))
    write_lines(study / "digits.jsonl", digit_rows())
    write_lines(study / "probes.jsonl", probe_rows())
    write_lines(folder / "soundness" / "rows.jsonl", attack_rows())
    write_lines(folder / "ioi_twins" / "rows.jsonl", twin_rows())
    return folder


def named(drawn: Any, name: str) -> Any:
    """The one trace of a name, on the first axes."""
    (found,) = [t for t in drawn.data if t.name == name and t.xaxis in (None, "x")]
    return found


def words(drawn: Any) -> str:
    title = drawn.layout.title
    return f"{title.text} {title.subtitle.text}".replace("<br>", " ")


# ---------------------------------------------------------------- runs of a study


def drawn_iia() -> Any:
    tables = run_tables()
    fits = [{**row, "experiment": "final"} for row in tables["align_fits"]]
    return align_iia.figure(fits, tables["align_verdicts"], tables["align_baselines"], REFERENCE)


def test_the_bar_of_a_layer_is_the_mean_over_networks_and_its_controls_stand_beside():
    drawn = drawn_iia()
    network = named(drawn, "Network")
    assert dict(zip(network.x, network.y, strict=True)) == pytest.approx(
        {"layer 1": 0.9, "layer 2": 0.6}
    )
    ends = network.error_y
    assert 0 < ends.arrayminus[0] < 0.02 and 0 < ends.array[0] < 0.02
    assert list(named(drawn, "Random twin").y) == pytest.approx([0.5])
    assert list(named(drawn, "Hardest rival algorithm").y) == pytest.approx([0.55])
    assert list(named(drawn, "Best baseline").y) == [0.7]


def test_the_published_mean_and_range_stand_beside_our_bar():
    """Sutter et al.: both equality, orthogonal, layers 1 and 2 at size 8."""
    theirs = named(drawn_iia(), "Published mean and range")
    assert list(theirs.x) == ["layer 1", "layer 2"]
    assert list(theirs.y) == [0.8421, 0.6140]
    low, high = (theirs.y[0] - theirs.error_y.arrayminus[0], theirs.y[0] + theirs.error_y.array[0])
    assert (low, high) == pytest.approx((0.7185, 0.9747))


def test_the_published_bar_of_a_second_map_stands_in_its_own_panel():
    """Sutter et al.: RevNet 10x16 has 0.998 at layer 1, the orthogonal map 0.842."""
    fits = five(0.9, experiment="final") + five(0.97, experiment="final", map="revnet-10x16")
    drawn = align_iia.figure(fits, [], [], REFERENCE)
    found = {
        trace.xaxis: (trace.name, round(trace.y[0], 3), trace.showlegend)
        for trace in drawn.data
        if trace.name == "Published mean and range"
    }
    name = "Published mean and range"
    assert found == {"x": (name, 0.842, True), "x2": (name, 0.998, False)}
    ours = {trace.xaxis: trace.y[0] for trace in drawn.data if trace.name == "Network"}
    assert ours == pytest.approx({"x": 0.9, "x2": 0.97})


def test_the_title_is_the_verdict_in_its_fixed_words_with_the_twin_below():
    told = words(drawn_iia())
    assert told.startswith("both_equality: FOUND UNDER orthogonal, IN DISTRIBUTION.")
    assert "test IIA 0.900 (95% interval 0.880 to 0.920), train 0.850, twin 0.500" in told


def test_a_run_of_which_nothing_is_published_has_no_published_bar():
    tables = run_tables()
    fits = [{**row, "experiment": None} for row in tables["align_fits"]]
    drawn = align_iia.figure(fits, tables["align_verdicts"], [], REFERENCE)
    assert "Published mean and range" not in {trace.name for trace in drawn.data}
    bare = align_iia.figure(fits)
    assert words(bare).startswith("IIA by site and map; no verdict was given.")


def test_a_finding_without_all_its_guards_is_not_drawn(tmp_path):
    tables = {**run_tables(), "align_guards": run_tables()["align_guards"][1:]}
    store(tmp_path / "align_study" / "equality", tables)
    with pytest.raises(InputError, match=r"orthogonal at layer 1, size 8 was found, and lack rand"):
        list(align_study.all_align_figures(tmp_path))


def test_the_capacity_curve_has_the_twin_and_both_sides():
    drawn = align_capacity.figure(run_tables()["align_curve"])
    trained, twin = (named(drawn, f"orthogonal, {net}") for net in ("trained", "twin"))
    assert list(trained.y) == list(twin.y) == [0.7, 0.7]  # train IIA
    tests = [t for t in drawn.data if t.xaxis == "x2" and t.name.startswith("orthogonal")]
    assert [list(trace.y) for trace in tests] == [[0.8, 0.8], [0.5, 0.5]]
    assert [trace.line.dash for trace in tests] == ["solid", "dash"]


def test_bits_of_the_network_stand_beside_twin_and_rival(tmp_path):
    folder = records(tmp_path) / "align_study" / "equality-both_equality"
    drawn = dict(align_study.figures_of_run(folder))["align_bits"]
    bits = {trace.name: list(trace.x) for trace in drawn.data}
    assert bits == {"Network": [0.4], "Random twin": [1.0], "Rival": [0.9]}


def test_on_unseen_names_the_twin_falls_and_the_network_does_not():
    tables = unseen_tables()
    drawn = align_unseen.figure(tables["align_fits"], tables["align_verdicts"])
    bars = {trace.name: list(trace.y) for trace in drawn.data}
    assert bars == {
        "Network, seen identities": [pytest.approx(0.99)],
        "Network, unseen identities": [0.97],
        "Random twin, seen identities": [pytest.approx(0.95)],
        "Random twin, unseen identities": [0.5],
        "Best baseline, unseen identities": [0.6],
    }
    told = "revnet-8x64: network 0.990 seen, 0.970 unseen; random twin 0.950 seen, 0.500 unseen. "
    assert words(drawn).startswith(told)
    with pytest.raises(NothingToDraw, match=r"^no identity was held out$"):
        align_unseen.figure(run_tables()["align_fits"], run_tables()["align_verdicts"])


# ---------------------------------------------------------------- published values


def test_a_cell_is_our_mean_with_the_published_cell_beside_it():
    final = [row for row in reference_fits() if row["experiment"] == "final"]
    first, third = compare(final, REFERENCE)
    assert (first["iia"], first["n_nets"], first["train_iia"]) == pytest.approx((0.85, 5, 0.85))
    assert (first["published"], first["published_low"]) == (0.8421, 0.7185)
    assert first["inside"] is True and third["inside"] is False
    assert first["sd"] == pytest.approx(0.0158, abs=1e-4)  # of -.02, -.01, 0, .01, .02
    (odd,) = compare([fit_row(experiment="final", nets="equality", map="pca")], REFERENCE)
    assert (odd["published"], odd["inside"], odd["iia_low"], odd["sd"]) == (None, None, None, None)


def test_untrained_and_half_trained_networks_meet_their_own_published_cells():
    rows = {
        (row["map"], row["kind"], row["checkpoint"]): row["published"]
        for row in compare(reference_fits(), REFERENCE)
        if row["experiment"] == "progression"
    }
    assert rows["orthogonal", "twin", "0"] == rows["orthogonal", "trained", "0"] == 0.5018
    assert rows["orthogonal", "trained", "16"] == 0.7646
    assert rows["revnet-1x16", "trained", "16"] == 0.9872


def test_budgets_are_never_pooled():
    rows = five(0.9, experiment="final", nets="equality", budget="smoke")
    rows += five(0.7, experiment="final", nets="equality", budget="standard")
    found = {row["budget"]: row["iia"] for row in compare(rows, REFERENCE)}
    assert found == pytest.approx({"smoke": 0.9, "standard": 0.7})


def test_published_values_that_are_no_table_are_refused(tmp_path):
    path = tmp_path / "theirs.csv"
    with says(
        InputError,
        f"There are no published values at {path} (No such file or directory): restore the file "
        "from the repository.",
    ):
        published(path)
    path.write_text("# words\nexperiment,map,algorithm,layer,dims,checkpoint,mean,sd\n")
    with says(InputError, f"{path} lacks the columns min, max: restore it from the repository."):
        published(path)


def test_the_comparison_counts_what_is_inside_and_names_what_is_not():
    final = [row for row in reference_fits() if row["experiment"] == "final"]
    drawn = align_published.figure(final, REFERENCE)
    assert words(drawn).startswith("1 of 2 means of ours lie inside the range")
    assert "Outside: equality both_equality orthogonal L3 0.990 (0.490 to 0.506)." in words(drawn)
    inside = named(drawn, "Ours, inside the range")
    assert list(inside.x) == pytest.approx([0.85])
    with pytest.raises(NothingToDraw, match=r"^nothing was published of any cell$"):
        align_published.figure([{**final[0], "map": "pca"}], REFERENCE)


def test_right_stands_beside_wrong_in_the_same_networks():
    drawn = align_planted.figure(reference_fits(), REFERENCE)
    right, wrong = (
        named(drawn, name)
        for name in ("Planted algorithm (right)", "Another of the same answers (wrong)")
    )
    assert list(right.x) == list(wrong.x) == ["orthogonal", "revnet-10x24"]
    assert list(right.y) == pytest.approx([0.97, 0.97])
    assert list(wrong.y) == pytest.approx([0.70, 0.92])
    theirs = [t for t in drawn.data if t.name == "Published mean and range" and t.xaxis == "x"]
    assert [round(t.y[0], 3) for t in theirs] == [0.999, 0.733]
    assert len({t.offsetgroup for t in drawn.data}) == 4
    assert words(drawn).startswith(
        "Right minus wrong IIA under orthogonal: 0.270 in and_or_and (least 0.270, published 0.266)"
    )
    with pytest.raises(NothingToDraw, match=r"^no network has a planted algorithm$"):
        align_planted.figure(five(0.5, experiment="final", nets="equality"), REFERENCE)


def test_the_least_difference_of_any_network_is_told():
    """Two networks: 0.9 - 0.6 and 0.9 - 0.8; a third has no fit of the wrong algorithm."""
    rows = [
        fit_row(net=net, iia=iia, algorithm=algorithm, site="2", size=12)
        | {"experiment": "planted_and_or", "nets": "planted_and_or"}
        for net, algorithm, iia in (
            (1, "and_or", 0.9),
            (1, "and_or_and", 0.6),
            (2, "and_or", 0.9),
            (2, "and_or_and", 0.8),
            (3, "and_or", 0.1),
        )
    ]
    told = words(align_planted.figure(rows, REFERENCE))
    assert "0.200 in and_or (least 0.100, published 0.358)" in told


def test_the_width_sweep_and_the_progression_are_lines_of_the_means():
    drawn = align_widths.figure(reference_fits(), REFERENCE)
    ours = named(drawn, "coupling map: ours, test")
    assert list(ours.x) == [1, 4, 16]
    assert list(ours.y) == pytest.approx([0.66, 0.93, 0.97])
    assert words(drawn).startswith(
        "IIA by hidden size. both_equality, layer 1: 0.660 at 1, 0.970 at 16 (published 0.663 and "
    )
    drawn = align_progression.figure(reference_fits(), REFERENCE)
    ours = named(drawn, "orthogonal: ours, test")
    assert list(ours.x) == [0, 4, 16]  # in the order of training, not of letters
    assert list(ours.y) == pytest.approx([0.5, 0.6, 0.8])
    final = [row for row in reference_fits() if row["experiment"] == "final"]
    with pytest.raises(NothingToDraw, match=r"^no width was swept$"):
        align_widths.figure(final, REFERENCE)
    with pytest.raises(NothingToDraw, match=r"^no network was scored while it learned$"):
        align_progression.figure(final, REFERENCE)


# ---------------------------------------------------------------- multiplication, attacks


def test_the_heat_map_is_the_rows_and_marks_what_cannot_matter():
    """Digits of place 1 cannot change c0: 2 of 16 cells; of the other 14 b1 on c3 is 0."""
    drawn = align_swaps.figure(swap_rows(), digit_rows())
    heat = drawn.data[0]
    grid = dict(zip(heat.y, heat.z, strict=True))
    assert list(grid["a0"]) == [3.0] * 4
    assert list(grid["b1"]) == [0.0, 3.0, 3.0, 0.0]
    assert list(heat.x) == ["c0", "c1", "c2", "c3"]
    layout: Any = drawn.layout
    lines = [s for s in layout.shapes if s.xref == "x"]
    order = list(layout.yaxis.categoryarray)
    assert {order[round(s.y0 + 0.5)]: s.x0 for s in lines} == {
        "a0": -0.5,
        "b0": -0.5,
        "a1": 0.5,
        "b1": 0.5,
    }
    told = "sft (25% of answers right): 13 of 14 pairs of digits that can matter do, and 0 of 2 "
    assert words(drawn).startswith(f"{told}that cannot.")


def test_an_effect_on_what_cannot_matter_is_counted():
    rows = [{**row, "effect": 3.0} for row in swap_rows()]
    told = words(align_swaps.figure(rows))
    assert told.startswith("sft: 14 of 14 pairs of digits that can matter do, and 2 of 2 that")


def test_each_probe_stands_beside_every_baseline_and_beside_random_edits():
    read_outs = [
        {"network": "auxiliary", "variable": "chat_2", "head": head, "error": error, "pairs": 9}
        for head, error in ((0, 4.0), (1, 3.0))
    ]
    drawn = align_probes.figure(probe_rows(), read_outs)
    first = {trace.name: trace for trace in drawn.data if trace.xaxis == "x"}
    assert {name: trace.y[0] for name, trace in first.items()} == {
        "Constant": 40.0,
        "Read-out of the raw digits": 19.0,
        "Same probe, untrained network": 30.0,
        "Same probe, shuffled labels": 41.0,
        "Probe": 20.0,
    }
    ends = first["Probe"].error_y
    assert (ends.arrayminus[0], ends.array[0]) == (2.0, 3.0)
    assert first["Probe"].x[0] == "chat_2<br>not beyond<br>baselines<br>not used"
    follow = {t.name: list(t.y) for t in drawn.data if t.xaxis == "x2"}
    assert follow == {"Edit along the probe": [0.1], "Random edit of the same length": [0.08]}
    own = [t for t in drawn.data if t.name.startswith("The network's own read-out")]
    assert [list(t.y) for t in own] == [[3.0]]
    told = words(drawn)
    assert told.startswith("Sums decoded beyond every baseline: sft none; auxiliary chat_2.")
    assert "Used by the answer: sft none; auxiliary chat_2." in told


def test_attacks_stand_beside_random_moves_and_edits_beside_random_edits():
    drawn = align_attacks.figure(attack_rows())
    control = named(drawn, "Control: random legal moves")
    assert [x.partition("<br>")[0] for x in control.x] == ["RM"] and list(control.y) == [0.0]
    attacks = named(drawn, "Attack")
    assert [x.partition("<br>")[0] for x in attacks.x] == ["IMO", "BSO"]
    assert list(attacks.y) == [0.1, 0.01]
    assert list(attacks.error_y.array) == pytest.approx([0.04, 0.02])
    edits = {t.name: t.y[0] for t in drawn.data if t.xaxis == "x2"}
    assert edits["Edit: agrees with the edited board"] == 0.3
    assert edits["Random edit: edited board"] == 0.13
    assert words(drawn).startswith("IMO wins 10% of games (8% to 14%); random moves 0%.")
    with pytest.raises(NothingToDraw, match=r"^no row is of an attack$"):
        align_attacks.figure(attack_rows()[3:])


def test_text_from_records_is_escaped():
    row = probe_row(network="<b>x</b>", variable="<i>v</i>")
    drawn = align_probes.figure([row]).to_json()
    rows = [{**each, "network": "<b>x</b>"} for each in swap_rows()]
    attack = [{**row, "attack": "<b>x</b>"} for row in attack_rows()[:1]]
    fits = five(0.9, experiment="planted_and_or", nets="planted_<b>x</b>", map="<i>v</i>")
    for text in (
        drawn,
        align_swaps.figure(rows).to_json(),
        align_attacks.figure(attack).to_json(),
        align_planted.figure(fits, REFERENCE).to_json(),
    ):
        plain = str(text).replace("\\u003c", "<")
        assert "<b>x" not in plain and "<i>v" not in plain and "&lt;" in plain


def test_names_of_the_fit_stand_beside_unseen_ones_network_beside_twins():
    drawn = align_twins.figure(twin_rows())
    seen, lost = (named(drawn, f"Random twins, {n}") for n in ("names of the fit", "unseen names"))
    assert list(seen.x) == ["orthogonal", "revnet-8x128"] and list(lost.y) == [0.5, 0.5]
    assert list(seen.y) == pytest.approx([0.5, 0.985])
    assert [shape.y0 for shape in drawn.layout.shapes] == [0.5]
    said = words(drawn)
    assert "revnet-8x128 finds the pattern in random twins: 0.985 on names of the fit" in said
    assert (
        "Mean of 2 twins" in said and "orthogonal in the trained network: 0.500 and 0.500" in said
    )
    with pytest.raises(NothingToDraw, match="no row is of a random twin"):
        align_twins.figure(twin_rows()[:2])


# ---------------------------------------------------------------- the records


def test_the_command_draws_every_figure_and_says_what_it_leaves_out(tmp_path, capsys):
    stems = [stem for stem, _ in command.all_figures(records(tmp_path / "records"))]
    assert stems == [
        "align_study-equality-both_equality-align_iia",
        "align_study-equality-both_equality-align_bits",
        "align_study-equality-both_equality-align_capacity-orthogonal",
        "align_study-ioi-pattern-align_iia",
        "align_study-ioi-pattern-align_unseen",
        "align_reference-align_published",
        "align_reference-align_planted",
        "align_reference-align_widths",
        "align_reference-align_progression",
        "multiplication_study-align_swaps",
        "multiplication_study-align_probes",
        "soundness-align_attacks",
        "ioi_twins-align_twins",
    ]
    said = capsys.readouterr().err
    study = tmp_path / "records" / "align_study"
    assert (
        f"No figure align_bits of {study / 'ioi-pattern'}: there is no row of align_bits." in said
    )
    left = (
        f"No figure align_unseen of {study / 'equality-both_equality'}: no identity was held out."
    )
    assert left in said


def test_the_figures_are_drawn_the_same_twice(tmp_path):
    folder = records(tmp_path)
    first, second = (
        {name: str(drawn.to_json()) for name, drawn in align_study.all_align_figures(folder)}
        for _ in range(2)
    )
    assert first == second and not [t for t in first.values() if str(tmp_path) in t]


def test_folders_without_rows_have_no_figure(tmp_path, capsys):
    write_lines(tmp_path / "multiplication_study" / "heat_maps.jsonl", [])
    (tmp_path / "align_reference").mkdir()
    (tmp_path / "align_study").mkdir()
    assert list(align_study.all_align_figures(tmp_path)) == []
    assert "No figure align_swaps of" in capsys.readouterr().err


def test_a_damaged_line_or_row_names_itself(tmp_path):
    path = tmp_path / "soundness" / "rows.jsonl"
    write_lines(path, attack_rows()[:1])
    with path.open("a") as file:
        file.write("[1]\n")
    message = f"Line 2 of {path} is no JSON object: make the records of soundness again."
    with says(InputError, message):
        list(align_study.all_align_figures(tmp_path))
    write_lines(path, [{"kind": "attack", "attack": "RM"}])
    message = f"A row of {path.parent} lacks 'success', which the figure align_attacks draws: make "
    with says(InputError, f"{message}these records again."):
        list(align_study.all_align_figures(tmp_path))
