"""From fits to evidence: pooling, choosing, the runner-up and the worst error, by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest

from interp.alignment.baselines import Baseline, Split
from interp.alignment.capacity import Control, Obeyed, Rival
from interp.alignment.evidence import NotApplicable, Share, Waiver
from interp.alignment.fitting import Budget
from interp.alignment.maps import Identity, Rotation, consecutive_blocks
from interp.alignment.masks import Mask
from interp.data.counterfactuals import Table
from interp.jobs import align_guards
from interp.jobs.align_cells import Bench, Fit
from interp.jobs.align_guards import Case, choose, fit_of, runner_up, splits_apart
from interp.jobs.align_worlds import Classifiers
from interp.stats import Interval, pooled

SMALL = Budget(inputs=16, held_out=4)
CHOSEN = Fit(net=4287, algorithm="both_equality", map="orthogonal", site="1", size=8)


def scored(iia: float, half: float = 0.0) -> dict[str, float]:
    return {"iia": iia, "iia_low": iia - half, "iia_high": iia + half}


def tried(site: str, size: int, *validation: float, name: str = "orthogonal") -> list[dict]:
    """A row for each network."""
    about = {"map": name, "site": site, "size": size}
    return [{**about, "validation_iia": value} for value in validation]


def case(**more: Any) -> Case:
    """A case of nothing but what a test gives it."""
    plain: dict[str, Any] = {"trained": [], "twins": [], "rivals": {}, "tried": []}
    plain |= {"planted": ("planted", 1.0, 0.5), "map_of": lambda _: Identity(4, {"v": (0,)})}
    plain |= {"bench": bench(), "chosen": CHOSEN}
    return Case(**{**plain, **more})


def bench(budget: Budget = SMALL, tables: Mapping[str, Table] | None = None) -> Bench:
    """The splits of equality, some of them replaced."""
    made = Bench(Classifiers("equality", 2), budget)
    plain = made.table
    made.table = lambda algorithm, split: (tables or {}).get(split) or plain(algorithm, split)  # type: ignore[method-assign,assignment]
    return made


# ---------------------------------------------------------------- choosing


def test_the_best_site_is_chosen_and_there_the_smallest_size_near_the_best():
    """Means at site 1: .905, .955, .97; at site 2 .965 with the smallest size of all."""
    rows = [
        *tried("1", 2, 0.90, 0.91), *tried("1", 4, 0.95, 0.96), *tried("1", 8, 0.96, 0.98),
        *tried("2", 1, 0.98, 0.95),
    ]  # fmt: skip
    assert choose(rows) == ("1", 4)
    assert choose([*rows, *tried("2", 8, 0.99, 0.99)]) == ("2", 8)
    assert choose([*rows, *tried("2", 8, 0.98, 0.98)]) == ("2", 1)


def test_rows_of_another_map_are_no_choice():
    rows = [*tried("1", 8, 0.6), *tried("2", 8, 0.9, name="identity")]
    assert choose(rows) == ("1", 8)


def test_the_runner_up_is_the_best_of_the_others_on_validation_pairs():
    own = tried("1", 8, 0.95, 0.97)
    others = [*tried("2", 8, 0.5, 0.99), *tried("1", 4, 0.8, 0.7), *tried("1", 8, 0.7, name="mask")]
    found = runner_up([*own, *others], CHOSEN)
    assert found is not None and found.name == "orthogonal at 1, size 4"
    assert (found.validation_iia, found.chosen_validation_iia) == pytest.approx((0.75, 0.96))
    better = runner_up([*own, *others, *tried("3", 8, 0.99, name="mask")], CHOSEN)
    assert better is not None and better.name == "mask at 3, size 8"
    assert runner_up(own, CHOSEN) is None


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize("copied", [("test", "train"), ("validation", "train"),
                                    ("test", "validation")])  # fmt: skip
def test_a_split_that_shares_one_input_with_another_is_not_apart(copied):
    assert splits_apart(bench(), "both_equality") is True
    into, of = copied
    plain = bench()
    table = plain.table("both_equality", into)
    inputs = table.inputs.clone()
    inputs[3] = plain.table("both_equality", of).inputs[5]
    leak = bench(tables={into: replace(table, inputs=inputs)})
    assert splits_apart(leak, "both_equality") is False


# ---------------------------------------------------------------- means and worsts


def test_a_baseline_is_averaged_over_networks_and_its_pairs_are_added():
    found = align_guards._mean_of(
        [
            Baseline("random", Split(0.5, 0.2, 0.8, 10, 30), (0.4, 0.6), "first"),
            Baseline("random", Split(0.7, None, 0.6, 0, 40), (0.8, 0.7), "second"),
        ]
    )
    assert asdict(found.split) == {
        "all": pytest.approx(0.6), "sensitive": 0.2, "insensitive": pytest.approx(0.7),
        "n_sensitive": 10, "n_insensitive": 70,
    }  # fmt: skip
    assert found.draws == pytest.approx((0.6, 0.65)) and found.highest == pytest.approx(0.65)
    assert (found.name, found.note) == ("random", "first")


EXACT = {
    "noop": 0.0, "noop_flipped": 0, "noop_limit": 1e-3,
    "inverse": 1e-7, "inverse_float64": 1e-15, "inverse_limit": 1e-4,
}  # fmt: skip


def test_the_worst_network_tells_whether_doing_nothing_is_exact():
    found = align_guards._exactness([EXACT, {**EXACT, "noop": 5e-4, "inverse": 1e-5}])
    assert found.holds and (found.noop.logit, found.inverse.run) == (5e-4, 1e-5)
    for bad in ({"noop": 2e-3}, {"noop_flipped": 1}, {"inverse": 1e-3}, {"inverse_float64": 1e-9}):
        for rows in ([{**EXACT, **bad}, EXACT], [EXACT, {**EXACT, **bad}]):
            assert not align_guards._exactness(rows).holds, bad


@pytest.mark.parametrize("name", ["noop", "inverse", "inverse_float64"])
def test_an_error_that_is_not_a_number_is_the_worst_wherever_it_stands(name):
    broken = {**EXACT, name: math.nan}
    for rows in ([EXACT, broken], [broken, EXACT]):
        assert not align_guards._exactness(rows).holds


def test_classes_are_averaged_where_a_network_has_them_and_counted_over_all():
    rows = [
        {"n_pairs": 10, "n_sensitive": 4, "iia_sensitive": 0.5, "iia_insensitive": 1.0},
        {"n_pairs": 10, "n_sensitive": 0, "iia_sensitive": None, "iia_insensitive": 0.8},
    ]
    found = align_guards._classes(rows, Waiver("every rival", "none is known"))
    assert found == {"sensitive": Share(0.5, 4), "insensitive": Share(0.9, 16)}  # of 20
    rival = Rival(
        "first", Obeyed(7, Interval(0.9, 0.8, 1.0, 7), Interval(0.1, 0.0, 0.2, 7)), control()
    )
    assert align_guards._classes(rows, rival)["distinguishing"] == Share(0.9, 7)


def control() -> Control:
    return Control("first", 0.6, Interval(0.5, 0.4, 0.6, 5), (0.5,) * 5, None)


def test_a_control_without_fits_is_lacking():
    assert align_guards._control("twin", []) is None
    rows = [{**scored(0.4), "train_iia": 0.5}, {**scored(0.6), "train_iia": 0.9}]
    found = align_guards._control("twin", rows)
    assert found is not None and found.seeds == (0.4, 0.6)
    assert (found.train_iia, found.test.estimate) == (pytest.approx(0.7), 0.5)


# ---------------------------------------------------------------- rivals, and what does not apply


def test_the_rival_that_fits_best_is_the_one_that_counts(monkeypatch):
    told = Obeyed(7, Interval(0.9, 0.8, 1.0, 7), Interval(0.1, 0.0, 0.2, 7))
    monkeypatch.setattr(align_guards, "_obeyed", lambda case, name: told)
    fits = {name: [{**scored(iia), "train_iia": 0.9}] for name, iia in (("a", 0.6), ("b", 0.7))}
    found = align_guards._rival(case(rivals=fits))
    assert isinstance(found, Rival) and (found.name, found.obeyed) == ("b", told)
    assert align_guards._rival(case(rivals={})) is None
    assert align_guards._rival(case(rivals={"a": []})) is None
    waiver = Waiver("every rival", "none is known")
    assert align_guards._rival(case(rivals=fits, waiver=waiver)) is waiver


def test_a_guard_that_does_not_apply_says_why():
    blocks = consecutive_blocks(("left", "right"), 9)
    wide = align_guards._null_space(case(map_of=lambda _: Rotation(24, blocks, seed=0)))
    assert wide == NotApplicable(
        "a variable has 9 dimensions, and beyond 8 a subspace reaches every direction that is read"
    )
    plain = align_guards._null_space(case(map_of=lambda _: Mask(16, ("left", "right"))))
    assert plain == NotApplicable("the orthogonal map has no directions in the space of states")
    held = align_guards._held_out(case())
    assert isinstance(held, NotApplicable) and "share no vector" in held.reason


def test_a_row_of_the_records_says_which_fit_it_is_of():
    row = {**asdict(CHOSEN), "iia": 0.5, "cpu_seconds": 1.0}
    assert fit_of(row) == CHOSEN and fit_of({**row, "size": 4}) == replace(CHOSEN, size=4)


def test_controls_on_a_limited_set_have_a_quarter_of_the_updates():
    def limited(steps: int) -> Budget:
        return case(bench=bench(Budget(steps=steps, batch=7, inputs=16, held_out=4))).limited

    assert (limited(1000).steps, limited(1000).batch, limited(1).steps) == (250, 7, 1)


def test_pooling_follows_its_definition_on_many_draws():
    """The half-width of equal halves h over n networks that agree is h / sqrt(n)."""
    for n in (2, 4, 16):
        found = pooled([scored(0.5, 0.1)] * n, "iia")
        assert found.high == pytest.approx(0.5 + 0.1 / math.sqrt(n))
