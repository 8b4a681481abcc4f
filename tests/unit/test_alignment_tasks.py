"""Tasks of alignment checks: rates and recipes as published, splits apart, errors word for word.

Shares are of 200,000 pairs or more: their standard error is below .0012, and the tolerance of .01
is that of the published figures.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from interp.data import distributive, equality
from interp.data.alignment_tasks import GRID, SPLITS, TASKS, task_named
from interp.data.counterfactuals import Pairs, Table, distinguishing, require_apart
from interp.errors import InputError
from tests.strategies import says

N = 65_536
N_PAIRS = 200_000
CASES = [(task, name) for task in TASKS for name in TASKS[task].algorithms]


@cache
def table(task: str, algorithm: str, split: str = "train", n: int = N) -> Table:
    return task_named(task).table(algorithm, n, 0, split=split)


@cache
def pairs(task: str, algorithm: str) -> Pairs:
    return table(task, algorithm).pairs(N_PAIRS, 7)


def share(truth: Tensor) -> float:
    return float(truth.double().mean())


def about(value: float, tolerance: float = 0.01):
    return pytest.approx(value, abs=tolerance)


def constant_answer(found: Pairs) -> float:
    """The accuracy of the better constant answer."""
    return max(share(found.labels == answer) for answer in (0, 1))


def judged(task: str, row: list[list[float]]) -> bool:
    """The label of one input in plain Python."""
    equal = [row[i] == row[i + 1] for i in range(0, len(row), 2)]
    if task == "equality":
        return equal[0] == equal[1]
    return (equal[0] and equal[1]) or (equal[1] and equal[2])


# ---------------------------------------------------------------- acceptance check 5


def test_check_5_label_rates():
    for task in TASKS:
        labels = table(task, next(iter(TASKS[task].algorithms))).values["label"]
        assert share(labels) == about(0.50)
    for name in equality.ALGORITHMS:
        assert share(pairs("equality", name).labels) == about(0.50)


@pytest.mark.parametrize(("algorithm", "expected"), [("and_or_and", 0.584), ("and_or", 0.576)])
def test_check_5_constant_answer(algorithm: str, expected: float):
    """By enumeration of the recipe 7/12 = .5833 and .5764 (a standard error of .0011)."""
    assert constant_answer(pairs("distributive", algorithm)) == about(expected)


def test_check_5_constant_answers_are_those_of_the_recipe_enumerated():
    """Bases and sources by their three equalities, each with its probability: no table, no draw."""
    assert enumerated(lambda left, mid, right: (left & mid, mid & right), int.__or__) == (
        pytest.approx(7 / 12, abs=1e-12)
    )
    assert enumerated(lambda left, mid, right: (mid, left | right), int.__and__) == (
        pytest.approx(0.576388888888, abs=1e-9)
    )
    for algorithm, exact in (("and_or_and", 7 / 12), ("and_or", 0.5763889)):
        found = constant_answer(pairs("distributive", algorithm))
        assert found == about(exact, 0.0055)  # 5 standard errors


def enumerated(nodes, combine) -> float:
    """The share of the commoner answer among pairs of the distributive recipe."""
    bits = [(i >> 2, i >> 1 & 1, i & 1) for i in range(8)]
    holds = [b for b in bits if b[1] and (b[0] or b[2])]
    chance = {b: 0.5 / len(holds) if b in holds else 0.5 / (8 - len(holds)) for b in bits}
    rates = [0.0, 0.0]
    for active in ((1, 0), (0, 1), (1, 1)):
        for flip in (0, 1):
            reach = {b: reached(nodes(*b), active, combine) for b in bits}
            fits = {b: p for b, p in chance.items() if not flip or len(reach[b]) == 2}
            for b, p in fits.items():
                rates[combine(*nodes(*b)) ^ flip] += p / sum(fits.values()) / 6
    return max(rates)


def reached(own: tuple[int, int], active: tuple[int, int], combine) -> set[int]:
    choices = [(0, 1) if on else (value,) for value, on in zip(own, active, strict=True)]
    return {combine(a, b) for a in choices[0] for b in choices[1]}


@pytest.mark.parametrize("algorithm", distributive.ALGORITHMS)
def test_check_5_half_of_the_distributive_pairs_flip(algorithm: str):
    found = pairs("distributive", algorithm)
    assert share(found.sensitive) == about(0.5)
    for kind in ((True, False), (False, True), (True, True)):
        rows = (found.active == torch.tensor(kind)).all(1)
        assert share(found.sensitive[rows]) == about(0.5)


@pytest.mark.parametrize(("task", "algorithm"), CASES)
def test_check_5_active_sets(task: str, algorithm: str):
    found = pairs(task, algorithm)
    if found.active.shape[1] == 1:
        assert found.active.all()
        return
    for kind in ((True, False), (False, True), (True, True)):
        assert share((found.active == torch.tensor(kind)).all(1)) == about(1 / 3)


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize("algorithm", ["both_equality", "left_equality"])
def test_sources_of_equality_have_fair_equalities_whatever_the_base(algorithm: str):
    found, values = pairs("equality", algorithm), table("equality", "both_equality").values
    for own in (False, True):
        rows = values["left"][found.base] == own
        for i in range(found.sources.shape[1]):
            for name in ("left", "right"):
                assert share(values[name][found.sources[rows, i]]) == about(0.5)


@pytest.mark.parametrize("algorithm", ["first_argument", "first_arguments"])
def test_half_of_the_first_arguments_are_the_bases_second(algorithm: str):
    found, values = pairs("equality", algorithm), table("equality", algorithm).values
    for i, (mine, its) in enumerate((("x1", "x2"), ("x3", "x4"))[: found.sources.shape[1]]):
        hit = (values[mine][found.sources[:, i]] == values[its][found.base]).all(1)
        assert share(hit) == about(0.5)


@pytest.mark.parametrize("algorithm", ["first_argument", "first_arguments"])
def test_nothing_else_about_a_source_tells_whether_it_was_built(algorithm: str):
    """Its own equalities are fair in both halves, and so is whether they equal the base's.

    A source that kept the base's equality would let a map without any vector score .75.
    """
    found = pairs("equality", algorithm)
    values, bits = table("equality", algorithm).values, table("equality", "both_equality").values
    for i in range(found.sources.shape[1]):
        mine, its = (("x1", "x2"), ("x3", "x4"))[i]
        source = found.sources[:, i]
        built = (values[mine][source] == values[its][found.base]).all(1)
        for half in (built, ~built):
            for name in ("left", "right"):
                assert share(bits[name][source[half]]) == about(0.5)
                agree = bits[name][source[half]] == bits[name][found.base[half]]
                assert share(agree) == about(0.5)
        for other in ("x1", "x2", "x3", "x4"):  # no other vector is shared on purpose
            for own in ("x1", "x2", "x3", "x4"):
                shared = (values[other][source] == values[own][found.base]).all(1)
                if other == mine:  # x1 is x2 of the base, and x1 of it where they are equal
                    expected = 0.5 if own == its else 0.25 if own == mine else 0
                elif other == its:  # and x2 is x1 in half of the sources
                    expected = 0.25 if own == its else 0.125 if own == mine else 0
                else:
                    expected = 0
                assert share(shared) == about(expected)


@pytest.mark.parametrize(("task", "algorithm"), CASES)
def test_labels_are_those_of_a_loop_over_pairs(task: str, algorithm: str):
    """Plain Python lists and comparisons judge 300 pairs of each algorithm."""
    found, rows = pairs(task, algorithm)[:300], table(task, algorithm).inputs
    for i in range(len(found)):
        base = rows[found.base[i]].view(-1, 4).tolist()
        sources = [rows[row].view(-1, 4).tolist() for row in found.sources[i]]
        active = found.active[i].tolist()
        assert found.base_labels[i] == judged(task, base)
        assert found.labels[i] == LOOPS[algorithm](base, sources, active), i


def _two(node, combine):
    def label(base, sources, active):
        given = [s if on else base for s, on in zip(sources, active, strict=True)]
        return combine(*(node(i, row) for i, row in enumerate(given)))

    return label


def _first(base, sources, active):
    changed = [list(vector) for vector in base]
    for i, on in enumerate(active):
        if on:
            changed[2 * i] = sources[i][2 * i]
    return (changed[0] == changed[1]) == (changed[2] == changed[3])


LOOPS = {
    "both_equality": _two(lambda i, x: x[2 * i] == x[2 * i + 1], lambda a, b: a == b),
    "left_equality": lambda base, sources, active: (
        (sources[0][0] == sources[0][1]) == (base[2] == base[3])
    ),
    "first_argument": _first,
    "first_arguments": _first,
    "and_or_and": _two(
        lambda i, x: x[2 * i] == x[2 * i + 1] and x[2 * i + 2] == x[2 * i + 3],
        lambda a, b: a or b,
    ),
    "and_or": _two(
        lambda i, x: x[0] == x[1] or x[4] == x[5] if i else x[2] == x[3], lambda a, b: a and b
    ),
}


# ---------------------------------------------------------------- inputs


def test_equalities_are_fair_and_independent():
    both = table("equality", "both_equality").values
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        left, right = both["left"][rows], both["right"][rows]
        for truth in (left, right, left == right):
            assert share(truth) == about(0.5)


def test_numbers_are_uniform_and_both_rows_of_a_couple_alike():
    """A mean of 65,536 * 8 uniform numbers has a standard error of .0004, a variance of 1/12."""
    for task in TASKS:
        rows = table(task, next(iter(TASKS[task].algorithms))).inputs
        for part in (rows[::2], rows[1::2]):
            assert float(part.mean()) == pytest.approx(0, abs=0.004)
            assert float(part.var()) == pytest.approx(1 / 12, abs=0.002)
            assert -0.5 <= part.min() < -0.4999
            assert 0.4999 < part.max() < 0.5


@pytest.mark.parametrize("task", TASKS)
def test_all_algorithms_of_a_task_stand_on_one_table_and_compute_one_label(task: str):
    tables = [table(task, name) for name in TASKS[task].algorithms]
    for other in tables[1:]:
        assert torch.equal(other.inputs, tables[0].inputs)
        assert torch.equal(other.values["label"], tables[0].values["label"])
    labels = TASKS[task].labels(tables[0])
    assert labels.tolist()[:300] == [judged(task, row.view(-1, 4).tolist()) for row in
                                     tables[0].inputs[:300]]  # fmt: skip
    assert torch.equal(TASKS[task].labels(tables[0].inputs), labels)
    assert torch.equal(TASKS[task].labels(TASKS[task].decode(tables[0].inputs)), labels)


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_not_even_a_vector(task: str):
    name = next(iter(TASKS[task].algorithms))
    tables = {split: table(task, name, split, 4096) for split in SPLITS}
    for place, split in enumerate(SPLITS):
        steps = (tables[split].inputs.double() + 0.5) * GRID
        assert (steps % 4 == place).all()
    for split in ("validation", "test"):
        require_apart(tables["train"], tables[split])
        same_place = (tables["train"].inputs - tables[split].inputs).abs() < 1e-6
        assert share(same_place) < 1e-3  # another stream, not the same numbers moved


@pytest.mark.parametrize(("task", "algorithm"), CASES)
def test_a_table_told_again_by_a_rival_is_the_rivals_own(task: str, algorithm: str):
    mine = task_named(task).table(algorithm, 512, 3, split="test")
    for name in TASKS[task].algorithms:
        told = task_named(task).retold(mine, name)
        own = task_named(task).table(name, 512, 3, split="test")
        assert told.variables == own.variables == TASKS[task].algorithms[name].inner
        assert all(torch.equal(told.values[key], own.values[key]) for key in own.values)
        assert torch.equal(told.pairs(100, 1).labels, own.pairs(100, 1).labels)


@pytest.mark.parametrize(("task", "algorithm"), CASES)
def test_rivals_are_told_apart_by_interventions(task: str, algorithm: str):
    for name in TASKS[task].rivals(algorithm):
        mine, theirs = distinguishing(table(task, algorithm), table(task, name), 1000, 0)
        assert len(mine) == 1000
        assert torch.equal(mine.labels, 1 - theirs.labels)
        assert algorithm in TASKS[task].rivals(name)


def test_the_same_arguments_draw_the_same_table_and_others_do_not():
    task = task_named("equality")
    one = task.table("both_equality", 64, 5).inputs
    assert torch.equal(task.table("both_equality", 64, 5).inputs, one)
    assert not torch.equal(task.table("both_equality", 64, 6).inputs, one)


@pytest.mark.parametrize("n", [4, 5, 7])
def test_small_and_odd_tables_hold_a_source_for_each_base(n: int):
    task = task_named("equality")
    for seed in range(40):
        inputs = task.inputs(n, seed)
        if (inputs["x1"] == inputs["x1"][:1]).all():
            continue
        for name in ("first_argument", "first_arguments"):
            found = task.table(name, n, seed).pairs(200, seed)
            assert found.sources.max() < n
            assert found.base.max() < n


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: task_named("equalty"),
            "There is no alignment task 'equalty'; there are: equality, distributive. Did you mean "
            "'equality'?",
        ),
        (
            lambda: task_named("equality").table("both", 8, 0),
            "equality has no algorithm 'both'; there are: both_equality, left_equality, "
            "first_argument, first_arguments.",
        ),
        (
            lambda: task_named("distributive").rivals("and_or_nd"),
            "distributive has no algorithm 'and_or_nd'; there are: and_or_and, and_or. Did you "
            "mean 'and_or_and'?",
        ),
        (
            lambda: task_named("equality").table("both_equality", 8, 0, split="tests"),
            "equality has no split 'tests'; there are: train, validation, test. Did you mean "
            "'test'?",
        ),
        (
            lambda: task_named("equality").table("both_equality", 3, 0),
            "3 inputs of equality: ask for at least 4.",
        ),
        (
            lambda: task_named("equality").decode(torch.zeros(2, 15)),
            "equality reads rows of 16 numbers, not a tensor of shape [2, 15]: give inputs as "
            "`encode` returns them.",
        ),
        (
            lambda: replace(
                task_named("equality"), draw=lambda n, stream: {"x1": torch.ones(n, 4)}
            ).inputs(4, 0),
            "'x1' was drawn as float32 from 1.0 to 1.0: tasks draw real numbers in [-1/2, 1/2).",
        ),
    ],
)
def test_what_a_task_lacks_is_refused(build, message: str):
    with says(InputError, message):
        build()


def test_a_table_whose_rows_were_moved_cannot_pair_first_arguments():
    task = task_named("equality")
    whole = task.table("first_argument", 64, 0)
    values = {name: batch.flip(0) for name, batch in whole.values.items()}
    moved = replace(whole, inputs=whole.inputs.flip(0), values=values)
    with says(
        InputError,
        "first_argument: x1 of the sources built for bases is not their x2: keep the inputs in the "
        "order in which the task drew them.",
    ):
        moved.pairs(10, 0)


def test_a_label_that_nothing_flips_is_told_of():
    never = distributive.flips(lambda first, second: first & ~first)
    stuck = replace(table("distributive", "and_or", n=64), draw=never)
    with pytest.raises(InputError, match=r"^\d+ of 50 draws were refused \d+ times: the inputs"):
        stuck.pairs(50, 0)


def test_three_inputs_hold_no_built_source():
    task = task_named("equality")
    whole = task.table("first_argument", 8, 0)
    values = {name: batch[:3] for name, batch in whole.values.items()}
    few = replace(whole, inputs=whole.inputs[:3], values=values)
    with says(
        InputError,
        "first_argument on 3 inputs: it needs at least 4, because sources are built for bases.",
    ):
        few.pairs(1, 0)
