"""The studies of alignment, the command for all of them, and the claims that read them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro
from rich.console import Console

from experiments import align_all, align_reference, align_study, ioi_twins
from experiments.align_study import SUBJECTS, Config, costs, evidence_of, run_name, settings
from experiments.claims import CLAIMS, find
from experiments.claims import alignment as claims
from experiments.parts import RECORDS
from interp.alignment.capacity import Rival
from interp.alignment.evidence import NotApplicable, Waiver
from interp.alignment.fitting import Budget
from interp.alignment.interchange_training import Recipe
from interp.alignment.verdicts import NOT_FOUND, VACUOUS
from interp.errors import InputError, StoreError
from interp.jobs import align, align_worlds
from interp.results import Store
from tests.strategies import says

QUIET = Console(quiet=True)
TINY = Budget(steps=4, batch=64, inputs=1500, held_out=300)
FOUND = "FOUND UNDER orthogonal, IN DISTRIBUTION"


def brief(patch: pytest.MonkeyPatch) -> None:
    """Few updates of small batches, one planted net of a few updates, no page."""
    patch.setitem(align.BUDGETS, "smoke", TINY)
    patch.setattr(align_worlds, "PLANTING", Recipe(steps=5, batch=64))
    patch.setattr(align_worlds, "TRAINED_INPUTS", 2000)
    patch.setattr("interp.jobs.align_guards.CURVE_SIZES", (200, 300))
    patch.setattr("interp.jobs.runs.write_report", lambda store: store.folder)
    subject = replace(SUBJECTS["planted-and-or"], maps=("orthogonal",))
    patch.setattr(align_study, "SUBJECTS", {**SUBJECTS, "planted-and-or": subject})


def study(folder: Path, **more: Any) -> list[dict[str, Any]]:
    config = Config(subject="planted-and-or", nets=2, out=folder, records=folder / "r", **more)
    with pytest.MonkeyPatch.context() as patch:
        brief(patch)
        return align_study.run(config, QUIET)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("study")
    return folder, study(folder, algorithms=("and_or_and",))


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"subject": "equalty"},
            f"There is no subject 'equalty'; there are: {', '.join(SUBJECTS)}. "
            "Did you mean 'equality'?",
        ),
        (
            {"algorithms": ("both_equalty",)},
            "--algorithms both_equalty: equality is tested for both_equality, left_equality. "
            "Did you mean 'both_equality'?",
        ),
        (
            {"subject": "planted-and-or", "algorithms": ("and_or", "and_or")},
            "--algorithms and_or and_or: name each once.",
        ),
        ({"algorithms": ()}, "--algorithms: name at least one, or leave it out for all."),
    ],
)
def test_settings_that_have_no_meaning_are_refused(wrong, message):
    with says(InputError, message):
        Config(**wrong)


def test_each_subject_asks_what_the_study_says():
    asked = settings(Config(size="standard", updates=7, nets=3), "left_equality")
    assert (asked.task, asked.algorithm, asked.budget) == ("equality", "left_equality", "standard")
    assert asked.maps == ("identity", "orthogonal", "revnet-10x16")
    assert (asked.sites, asked.twins_everywhere, asked.nets) == (None, True, 3)
    assert asked.spent.steps == 7 and asked.model is None
    assert asked.folder == Path("experiments/records/alignment_nets/equality")
    for subject in ("planted-and-or-and", "planted-and-or"):
        config = Config(subject=subject)
        assert config.asked == ("and_or_and", "and_or")
        asked = settings(config, "and_or")
        assert (asked.sites, asked.maps[-1]) == (("2",), "revnet-10x24")
        assert str(asked.folder).endswith(subject.replace("-", "_"))
    asked = settings(Config(subject="ioi-smollm2"), "pattern")
    assert (asked.model, asked.solved_only, asked.sizes) == ("smollm2-135m", True, (32,))
    assert (asked.spent.steps, asked.spent.batch, asked.spent.check_every) == (150, 64, 25)
    assert settings(Config(subject="ioi-smollm2", updates=9), "pattern").spent.steps == 9
    with says(InputError, "--updates 0: give at least 1."):
        settings(Config(subject="ioi-smollm2", updates=0), "pattern")
    asked = settings(Config(subject="ioi", model=Path("weights")), "pattern")
    assert not asked.solved_only
    assert (asked.model, asked.folder, asked.algorithm) == ("weights", None, "pattern")
    assert (asked.spent.batch, asked.spent.inputs, asked.spent.held_out) == (128, 8192, 1000)
    assert asked.spent.steps == 1000  # as many updates as elsewhere


def test_products_are_tested_for_a_middle_digit_and_the_carry_into_it():
    asked = settings(Config(subject="product-sft"), "r_3")
    assert Config(subject="product-sft").asked == ("chat_4", "r_3")
    assert Config(subject="product-two-digit").asked == ("chat_2", "r_1")
    assert (asked.task, asked.folder) == ("multiplication", None)
    assert asked.model == "experiments/records/multiplication/sft"
    assert asked.sites == ("0.resid_post", "1.resid_mid")


# ---------------------------------------------------------------- a study


def test_a_run_is_recorded_and_its_copy_holds_every_row_and_no_map(made):
    folder, rows = made
    name = run_name("planted-and-or", "and_or_and")
    whole, copied = Store.open(folder / name), Store.open(folder / "r" / name)
    assert (folder / name / "maps").is_dir() and not (folder / "r" / name / "maps").exists()
    for table in ("align_fits", "align_verdicts", "align_guards", "align_baselines", "align_curve"):
        assert copied.rows(table) == whole.rows(table)
    (row,) = rows
    assert (row["subject"], row["algorithm"], row["site"]) == ("planted-and-or", "and_or_and", "2")
    kinds = [(fit["kind"], fit["algorithm"]) for fit in whole.rows("align_fits")]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        ("trained", "and_or_and"): 2,
        ("twin", "and_or_and"): 2,
        ("trained", "and_or"): 2,
    }


def test_a_second_start_fits_nothing_and_other_settings_are_refused(made, monkeypatch):
    folder, rows = made
    monkeypatch.setattr(align, "row_of", lambda *_: pytest.fail("nothing may be fitted again"))
    monkeypatch.setattr(align, "gather", lambda _: pytest.fail("nothing may be judged again"))
    assert study(folder, algorithms=("and_or_and",)) == rows
    with pytest.raises(StoreError, match=r"pick another folder\.$"):
        study(folder, algorithms=("and_or_and",), updates=3)


def test_costs_are_sums_over_the_cells(made):
    folder, _ = made
    store = Store.open(folder / run_name("planted-and-or", "and_or_and"))
    found = {row["what"]: row for row in costs(store)}
    assert {what: row["n"] for what, row in found.items()} == {
        "trained fits": 4,
        "twin fits": 2,
        "guards": 1,
    }
    twins = [r["cpu_seconds"] for r in store.rows("align_fits") if r["kind"] == "twin"]
    assert found["twin fits"]["seconds"] == round(sum(twins), 1)
    total = sum(row["seconds"] for row in found.values())
    assert total == pytest.approx(store.manifest.spent["seconds"], abs=0.3)


def test_recorded_evidence_is_read_back_whole(made):
    (row,) = made[1]
    evidence = evidence_of(row)
    assert json.dumps(evidence.as_dict()) == row["evidence"]
    assert isinstance(evidence.rival, Rival) and isinstance(evidence.null_space, NotApplicable)
    assert evidence.test.estimate == row["iia"] and evidence.seeds
    assert claims.word_of(evidence) == row["verdict"]
    waived = json.loads(row["evidence"])
    waived["rival"] = {"rival": "and_or", "reason": "none of the same shape"}
    again = evidence_of({**row, "evidence": json.dumps(waived)})
    assert again.rival == Waiver("and_or", "none of the same shape")
    del waived["seeds"]
    message = "The evidence on and_or_and under orthogonal has no 'seeds': another version wrote"
    with pytest.raises(InputError, match=f"^{message} it. Make the study again.$"):
        evidence_of({**row, "evidence": json.dumps(waived)})


def test_the_command_ends_in_a_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        align_study.main(["--subject", "ioi", "--model", str(tmp_path / "no"), "--out", "o"])
    assert stop.value.code == 2
    assert "no" in capsys.readouterr().err and not Path("o").exists()


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"subjects": ("equality", "iio")},
            f"--subjects iio: there are {', '.join(SUBJECTS)}. Did you mean 'ioi'?",
        ),
        ({"subjects": ("ioi", "ioi")}, "--subjects ioi ioi: name each once."),
        (
            {"references": ("widths",)},
            f"--references widths: there are {', '.join(align_reference.PARTS)}. "
            "Did you mean 'width'?",
        ),
        ({"workers": 0}, "--workers 0: give at least 1."),
    ],
)
def test_all_refuses_what_it_cannot_run(wrong, message):
    with says(InputError, message):
        align_all.Config(**wrong)


def test_every_command_is_one_that_its_module_takes(tmp_path):
    given = align_all.Config(
        out=tmp_path / "r", work=tmp_path / "w", size="paper", references=("width", "planted")
    )
    read = align_all.parts(given)
    small = {name: s for name, s in SUBJECTS.items() if not s.is_large}
    runs = [run_name(name, each) for name, s in small.items() for each in s.algorithms]
    assert set(SUBJECTS) - set(small) == {"ioi-smollm2"}  # an hour of its own
    assert list(read) == [*runs, "reference-width", "reference-planted", "ioi_twins"]
    module, *words = read.pop("ioi_twins")
    assert module == "experiments.ioi_twins"
    assert tyro.cli(ioi_twins.Config, args=words).out == tmp_path / "r" / "ioi_twins"
    assert "ioi_twins" not in align_all.parts(replace(given, sentences=False))
    for name, (module, *words) in read.items():
        if module == "experiments.align_study":
            config = tyro.cli(Config, args=words)
            assert [run_name(config.subject, each) for each in config.asked] == [name]
            assert (config.size, config.out) == ("paper", tmp_path / "w" / "align_study")
            assert config.records == tmp_path / "r" / "align_study"
        else:
            asked = tyro.cli(align_reference.Config, args=words)
            assert [f"reference-{part}" for part in asked.parts] == [name]
            assert (asked.budget, asked.out) == ("standard", tmp_path / "w" / "align_reference")
            assert asked.records == tmp_path / "r" / "align_reference"


def test_one_failed_part_fails_the_whole_and_the_drawing_comes_last(tmp_path, monkeypatch, capsys):
    commands = {"good": ["json.tool", "--help"], "bad": ["no.such.module"]}
    monkeypatch.setattr(align_all, "parts", lambda _: commands)
    with pytest.raises(SystemExit) as ended:
        align_all.main(["--work", str(tmp_path), "--no-draw"])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "bad failed:" in said and "good failed" not in said
    drawn: list[Any] = []
    monkeypatch.setattr(align_all, "in_turn", lambda *_, **__: iter(()))
    monkeypatch.setattr(align_all, "execute", lambda *given: drawn.append(given))
    list(align_all.run(align_all.Config(work=tmp_path, out=tmp_path / "r"), QUIET))
    name, command, _ = drawn[0]
    assert (name, command[:3]) == ("figures", ["figures", "--records", str(tmp_path / "r")])


# ---------------------------------------------------------------- claims


def test_the_claims_are_registered():
    names = ("align-planted", "align-reference", "align-verdicts", "align-twin", "align-cost-mlp")
    names += ("align-cost-lm", "multiplication-probe")
    assert set(names) <= set(CLAIMS)
    assert all(find(name).name == name for name in names)


def planted_row(**changed: float) -> dict[str, Any]:
    row: dict[str, Any] = {"planted": "and_or", "net": 1, "right": 1.0, "wrong": 0.7}
    return {**row, "gap": 0.3, "right, neurons": 0.95, **changed}


def test_each_condition_on_planted_networks_counts():
    good = [planted_row(), planted_row(right=0.98, gap=0.2)]
    assert claims.planted_measured(good).holds
    assert claims.planted_measured(good).text == (
        "and_or planted: right 0.9900, 0.250 above wrong (at least 0.200 in each of 2), single "
        "neurons 0.950"
    )
    for bad in ({"right": 0.97}, {"gap": 0.29, "right": 0.97}, {"right, neurons": 0.84}):
        assert not claims.planted_measured([planted_row(**bad), *good[1:]]).holds
    assert not claims.planted_measured([planted_row(gap=0.19), planted_row(gap=0.9)]).holds


def compared(inside: bool | None, algorithm: str = "and_or", **more: Any) -> dict[str, Any]:
    row = dict.fromkeys(claims.COMPARED, 0.5)
    about = {"experiment": "planted_and_or", "map": "orthogonal", "layer": "2", "n_nets": 5}
    return {**row, **about, "algorithm": algorithm, "inside": inside, **more}


def test_no_cell_may_lie_outside_the_published_range():
    inside, other = compared(True), compared(False, "and_or_and")
    assert claims.reference_measured([inside, compared(None)], [inside]).holds
    found = claims.reference_measured([inside, other, compared(None)], [inside])
    assert not found.holds
    assert found.text.startswith("1 of 2 recorded cells inside the authors' range")
    assert "outside: planted_and_or and_or_and orthogonal 2 0.500 (0.500 to 0.500)" in found.text
    assert not claims.reference_measured([inside, compared(False)], [inside]).holds
    assert not claims.reference_measured([inside], [compared(False)]).holds
    assert not claims.reference_measured([compared(None)], [inside]).holds
    assert not claims.reference_measured([inside], []).holds


def judged(planted: str, tested: str, family: str, word: str, **more: Any) -> dict[str, Any]:
    row = {"planted": planted, "tested": tested, "map": family, "verdict": word, "IIA": 0.9}
    return {**row, "as recorded": True, "twin": NOT_FOUND, **more}


def verdict_rows(**changed: Any) -> list[dict[str, Any]]:
    one, two = claims.PLANTED
    return [
        judged(one, one, "orthogonal", FOUND),
        judged(two, two, "orthogonal", FOUND),
        judged(one, two, "orthogonal", NOT_FOUND),
        judged(two, one, "orthogonal", VACUOUS),
        judged(two, one, "revnet-10x24", VACUOUS) | changed,
        judged(one, one, "identity", NOT_FOUND),
    ]


def test_verdicts_hold_only_where_right_is_found_wrong_is_not_and_no_twin_is():
    rows = verdict_rows()
    assert claims.verdicts_measured(rows).holds
    assert claims.verdicts_measured(rows).text == (
        f"planted right: 2 {FOUND}; wrong under orthogonal: 1 NOT FOUND, 1 VACUOUS FOR THIS MAP; "
        "wrong under RevNet: 1 VACUOUS FOR THIS MAP; random twins judged in the networks' place: "
        "6 NOT FOUND"
    )
    for bad in ({"verdict": NOT_FOUND}, {"as recorded": False}, {"twin": FOUND}):
        assert not claims.verdicts_measured(verdict_rows(**bad)).holds
    for place in range(5):
        assert not claims.verdicts_measured(rows[:place] + rows[place + 1 :]).holds
    rows[2] = judged(*claims.PLANTED, "orthogonal", FOUND)
    assert not claims.verdicts_measured(rows).holds


def test_a_twin_judged_in_the_networks_place_has_its_own_scores(made):
    evidence = evidence_of(made[1][0])
    twin = claims.of_twin(evidence)
    assert evidence.twin is not None and twin.test == evidence.twin.test != evidence.test
    assert claims.word_of(twin) in ("INVALID", NOT_FOUND, VACUOUS)
    with says(InputError, "The evidence on and_or_and has no twin to judge."):
        claims.of_twin(replace(evidence, twin=None))


def test_claims_on_records_say_what_to_make_where_there_are_none(tmp_path):
    for claim in (claims.align_verdicts, claims.align_reference_ranges):
        found = claim(tmp_path)
        assert not found.holds and found.text.startswith("There is no run at ")
        assert " Make " in found.text


def probe_row(network: str, error: float, low: float) -> dict[str, Any]:
    row = {"network": network, "variable": "chat_2", "verdict": "v", "shuffled labels": 1.0}
    baselines = {"constant": 30.0, "raw inputs": 10.0, "untrained network": 13.0}
    return {**row, **baselines, "error": error, "beyond low": low}


def test_a_probe_must_fail_on_the_one_network_and_not_on_the_other():
    plain, helped = probe_row("sft", 16.2, -6.0), probe_row("auxiliary", 2.0, 7.5)
    found = claims.probe_measured([plain, helped])
    assert found.holds and "sft: error 16.20, best baseline 10.00, v" in found.text
    assert not claims.probe_measured([helped, plain]).holds
    assert not claims.probe_measured([plain, plain]).holds
    assert not claims.probe_measured([probe_row("sft", 9.0, 0.1), helped]).holds


def test_committed_networks_are_those_that_the_studies_name():
    named = [subject for subject in SUBJECTS.values() if not isinstance(subject.weights, str)]
    assert len(named) == len(SUBJECTS) - 1
    for subject in named:
        assert isinstance(subject.weights, Path)
        assert (subject.weights / "manifest.json").is_file()
        assert subject.weights.is_relative_to(RECORDS)
