"""Laws of the controls: no control that does better helps, and no report without guards is good."""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import log2

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.alignment.baselines import NAMES, RANDOM, Baseline, Split, baselines, interval
from interp.alignment.capacity import CapacityRow, Control, Obeyed, Rival
from interp.alignment.description_length import Block, DescriptionLength, doubling, temperature
from interp.alignment.divergence import Divergence, divergence, energy_distance
from interp.alignment.evidence import (
    FITTED_CONTROLS,
    Evidence,
    Exactness,
    HeldOut,
    NotApplicable,
    PositiveControl,
    RunnerUp,
    Selection,
    Share,
    missing,
)
from interp.alignment.exactness import InverseError, NoOp
from interp.alignment.fitting import score
from interp.alignment.maps import Rotation
from interp.alignment.null_space import null_space
from interp.alignment.subjects import Cut
from interp.alignment.verdicts import verdict
from interp.causal_models import CausalModel, Variable
from interp.data.counterfactuals import Table
from interp.errors import InputError
from interp.stats import Interval

shares = st.floats(0, 1)
few = settings(deadline=None, derandomize=True, max_examples=40)
fewer = settings(deadline=None, derandomize=True, max_examples=15)


def around(estimate, half=0.02):
    return Interval(estimate, estimate - half, estimate + half, 100)


def control(name, estimate):
    return Control(name, estimate, around(estimate), (estimate,) * 5, None)


def baseline(name, value):
    return Baseline(name, Split(value, None, None, 0, 0), (value,) * 5 if name == RANDOM else ())


numbers = st.lists(shares, min_size=24, max_size=24)


def evidence(values):
    """Complete evidence with any scores, one number for each."""
    draw = iter(values).__next__
    told, code = draw(), DescriptionLength(2, 10, (Block(10, 10, draw(), 1.0),))
    return Evidence(
        algorithm="A", map="m", site="s", inputs="x", test=around(draw()),
        task_accuracy=0.7 + 0.3 * draw(), splits_apart=True, train_iia=draw(),
        classes={name: Share(0.5, 1) for name in ("sensitive", "insensitive", "distinguishing")},
        twin=control("twin", draw()),
        rival=Rival("B", Obeyed(9, around(told), around(1 - told)), control("rival", draw())),
        fitted_controls={name: control(name, draw()) for name in FITTED_CONTROLS},
        held_out=HeldOut("o", around(draw()), draw(), around(draw())),
        capacity=tuple(CapacityRow(f, n, k, 0.5, 0.5, 1, 1)
                       for f in "ab" for n in ("trained", "twin") for k in (1, None)),
        description_length={"network": code, "twin": code, "rival": code},
        baselines={name: baseline(name, draw()) for name in NAMES},
        null_space=NotApplicable("not linear"),
        divergence=Divergence(1, 1, 1, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0),
        exactness=Exactness(NoOp(0.0, 0, 0.0), InverseError(0.0, 0.0, 1e-4)),
        seeds=(0.5,) * 5, selection=Selection(1, "validation"),
        runner_up=RunnerUp("r", 0.5, 0.5), positive_control=PositiveControl("p", 1.0, 0.5),
    )  # fmt: skip


def good(values):
    """Evidence that is good or nearly so, so that every verdict comes up."""
    draw = iter(values).__next__
    return replace(
        evidence(values),
        test=around(0.97),
        task_accuracy=1.0,
        twin=control("twin", 0.95 * draw()),
        rival=Rival("B", Obeyed(9, around(0.9), around(0.1)), control("rival", 0.3)),
        fitted_controls={name: control(name, 0.3) for name in FITTED_CONTROLS},
        held_out=HeldOut("o", around(0.9 + 0.1 * draw()), 0.95 * draw(), around(0.95 * draw())),
        baselines={name: baseline(name, 0.8 * draw()) for name in NAMES},
    )


kinds = st.sampled_from([evidence, good])


@few
@given(kinds, numbers, shares)
def test_a_better_control_never_improves_the_verdict(kind, values, gain):
    given_ = kind(values)
    better = lambda value: min(1.0, value + gain)  # noqa: E731
    before = verdict(given_).level
    twin, held = given_.twin, given_.held_out
    raised = [{"twin": control("twin", better(twin.test.estimate))}]
    raised += [{"held_out": replace(held, best_baseline=better(held.best_baseline))}]
    raised += [{"held_out": replace(held, twin=around(better(held.twin.estimate)))}]
    own = given_.rival
    raised += [{"rival": replace(own, fit=control("rival", better(own.fit.test.estimate)))}]
    for name, known in given_.baselines.items():
        more = {**given_.baselines, name: baseline(name, better(known.split.all))}
        raised.append({"baselines": more})
    for name, known in given_.fitted_controls.items():
        more = {**given_.fitted_controls, name: control(name, better(known.test.estimate))}
        raised.append({"fitted_controls": more})
    for change in raised:
        assert verdict(replace(given_, **change)).level <= before, change


PARTS = {
    "train_iia": None, "splits_apart": None, "classes": {}, "twin": None, "rival": None,
    "fitted_controls": {}, "held_out": None, "capacity": (), "description_length": {},
    "baselines": {}, "null_space": None, "divergence": None, "exactness": None, "seeds": (),
    "selection": None, "runner_up": None, "positive_control": None,
}  # fmt: skip


@few
@given(kinds, numbers, st.sets(st.sampled_from(sorted(PARTS)), max_size=3))
def test_every_found_has_all_guards_and_what_is_left_out_never_improves_a_verdict(
    kind, values, dropped
):
    thin = replace(kind(values), **{name: PARTS[name] for name in dropped})
    try:
        said = verdict(thin)
    except InputError as error:
        assert dropped and all(phrase in str(error) for phrase in missing(thin))
        return
    assert not (said.found and missing(thin))
    assert not said.found or not dropped
    assert ("implements" in said.claim) == (said.level == 4)
    assert dropped or missing(thin) == ()


@few
@given(numbers, st.permutations(list(NAMES)))
def test_the_order_in_which_controls_are_listed_does_not_matter(values, order):
    some = good(values)
    turned = replace(some, baselines={name: some.baselines[name] for name in order})
    assert verdict(turned).level == verdict(some).level


def sign_table(n, seed):
    """Two signs of three numbers; the answer is one of four."""
    stream = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 3, generator=stream)
    above = lambda x: x > 0  # noqa: E731
    model = CausalModel("signs", ("x", "y"), (
        Variable("left", ("x",), above), Variable("right", ("y",), above),
        Variable("out", ("left", "right"), lambda a, b: 2 * a.long() + b.long()),
    ), "out")  # fmt: skip
    values = model.run({"x": rows[:, 0], "y": rows[:, 1]})

    def recipe(table, k, stream):
        draw = lambda *size: torch.randint(0, len(table), size, generator=stream)  # noqa: E731
        return draw(k), draw(k, 2), torch.rand(k, 2, generator=stream) < 0.6

    return Table(model, ("left", "right"), rows, values, recipe)


READ = torch.tensor([[-1.0, -1, 0], [-1, 1, 0], [1, -1, 0], [1, 1, 0]])


def sign_cut(table, order=None):
    weight = READ if order is None else READ[order]
    return Cut("s", table.inputs, lambda changed, rows: changed @ weight.T)


@fewer
@given(st.permutations(range(4)), st.integers(0, 50))
def test_renaming_the_answers_changes_no_accuracy_and_no_interval(order, seed):
    """New answer k is old answer order[k], in the network and in the algorithm."""
    table, train = sign_table(80, seed), sign_table(60, seed + 100)
    pairs = table.pairs(120, seed)
    new = torch.tensor(order).argsort()
    named = replace(pairs, labels=new[pairs.labels], base_labels=new[pairs.base_labels])
    sizes = {"left": 1, "right": 1}
    before = baselines(sign_cut(table), pairs, sizes, train=(sign_cut(train), train))
    after = baselines(
        sign_cut(table, list(order)), named, sizes, train=(sign_cut(train, list(order)), train)
    )
    for name in NAMES[:-1]:
        assert after[name].split == before[name].split, name
    assert after[NAMES[-1]].split.all == before[NAMES[-1]].split.all  # ties may turn otherwise
    phi = Rotation(3, {"left": (0,), "right": (1,)}, seed=seed)
    old_scores = score(sign_cut(table), phi, pairs)
    new_scores = score(sign_cut(table, list(order)), phi, named)
    assert interval(new_scores, n_boot=50) == interval(old_scores, n_boot=50)


@fewer
@given(st.integers(0, 50))
def test_the_parts_of_each_baseline_add_up_and_doing_nothing_gets_all_insensitive_pairs(seed):
    table, train = sign_table(80, seed), sign_table(60, seed + 100)
    pairs = table.pairs(100, seed)
    sizes = {"left": 1, "right": 1}
    found = baselines(sign_cut(table), pairs, sizes, train=(sign_cut(train), train))
    for one in found.values():
        part = one.split
        total = (part.sensitive or 0) * part.n_sensitive
        total += (part.insensitive or 0) * part.n_insensitive
        assert total / 100 == pytest.approx(part.all)
        assert one.highest >= part.all - 1e-12
    assert (found["no intervention"].split.insensitive or 1) == 1


@fewer
@given(st.integers(0, 50), st.integers(1, 2))
def test_when_all_is_read_the_read_part_is_the_whole_map(seed, size):
    table = sign_table(40, seed)
    pairs = table.pairs(60, seed)
    phi = Rotation(3, {"left": (0,), "right": tuple(range(1, 1 + size))}, seed=seed)
    found = null_space(sign_cut(table), phi, pairs, reads=torch.eye(3))
    assert found.read == pytest.approx(found.full) or found.read.iia == found.full.iia
    assert found.rest == found.none, "nothing is left to swap"
    assert found.none.recovery in (0.0, None)
    assert found.full.iia == score(sign_cut(table), phi, pairs).iia
    nothing = null_space(sign_cut(table), phi, pairs, reads=torch.zeros(0, 3))
    assert nothing.read == nothing.none and nothing.rest.iia == found.full.iia


@fewer
@given(st.integers(0, 100), st.integers(2, 30), st.integers(2, 30), st.floats(0.1, 100))
def test_energy_distance_is_symmetric_scales_and_is_zero_for_one_set(seed, n, m, scale):
    stream = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(k, 3, generator=stream, dtype=torch.float64) for k in (n, m))
    assert energy_distance(a, a) == 0.0
    assert energy_distance(a, b) == pytest.approx(energy_distance(b, a), abs=1e-9)
    assert energy_distance(scale * a, scale * b) == pytest.approx(scale * energy_distance(a, b))
    turned = a[torch.randperm(n, generator=stream)]
    assert divergence(turned, a, b).edited == divergence(a, a, b).natural


@fewer
@given(st.integers(0, 100), st.integers(2, 40), st.integers(2, 5))
def test_the_temperature_is_the_best_of_its_neighbours_and_undoes_a_scale(seed, n, k):
    stream = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=stream, dtype=torch.float64)
    labels = torch.randint(0, k, (n,), generator=stream)

    def loss(heat):
        """With the one pair more that every label fits alike."""
        logs = (logits / heat).log_softmax(1)
        other = logits / heat
        own = logs.gather(1, labels[:, None]).sum()
        return float(-(own + (other.mean() - other.logsumexp(1).mean())))

    heat = temperature(logits, labels)
    if 1e-3 < heat < 1e3:
        assert loss(heat) <= min(loss(heat * 1.1), loss(heat / 1.1)) + 1e-9
        assert temperature(7 * logits, labels) == pytest.approx(7 * heat, rel=1e-6)


@few
@given(st.integers(2, 100_000), st.integers(1, 5000), st.integers(2, 10))
def test_blocks_cover_all_pairs_once_and_guessing_costs_log_k(n, first, k):
    first = min(first, n - 1)
    ends = doubling(n, first)
    assert ends[0] == first and ends[-1] == n and list(ends) == sorted(set(ends))
    assert all(after <= 2 * before for before, after in itertools.pairwise(ends))
    sizes = [after - before for before, after in itertools.pairwise(ends)]
    blocks = tuple(Block(t, m, m * log2(k), 1.0) for t, m in zip(ends, sizes, strict=False))
    code = DescriptionLength(k, first, blocks)
    assert code.n == n and code.bits_per_pair == pytest.approx(log2(k))


def test_the_drawn_evidence_reaches_every_verdict():
    """Or the laws above would be empty."""
    stream = torch.Generator().manual_seed(0)
    levels = set()
    for kind in (evidence, good):
        for row in torch.rand(400, 24, generator=stream).tolist():
            levels.add(verdict(kind(row)).level)
    assert levels == {0, 1, 2, 3, 4}
