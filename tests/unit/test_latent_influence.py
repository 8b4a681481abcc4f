"""Influence on planted subjects, what it refuses, and what it spends."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from interp.data.latent_problems import LatentProblem
from interp.errors import EditError, InputError, SilentEditError
from interp.latent.calibration import calibrate
from interp.latent.influence import influence
from interp.latent.influence_naive import spending
from interp.latent.interventions import ROWS, base_run
from interp.latent.lens import gradient_norms, lens_influence
from interp.latent.nulls import ShuffledDonor
from interp.latent.operators import At, Resample
from interp.latent.planted import Planted, expected_influence, swap_class, swap_gain
from interp.latent.shape import matrix, shape
from interp.latent.state import Node, State
from tests.latent_cases import OTHERS, PROBLEMS, calibration, random_subject

KINDS = (
    "chain",
    "window",
    "shortcut",
    "prompt_only",
    "cache_only",
    "recurrence_only",
    "random_twin",
)
SWAP = swap_class()


@pytest.fixture(autouse=True, scope="module")
def short_answers() -> Iterator[None]:
    """Random models never end a text, and none is read here beyond a few tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.latent.hf.MAX_NEW_TOKENS", 3)
        yield


def upper(weights: np.ndarray) -> np.ndarray:
    """The entries t <= s; those below are no rows at all."""
    return np.nan_to_num(weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge", ["input", "cache", "recurrence"])
def test_planted_influence_is_recovered(kind, edge):
    subject = Planted(kind)
    bank = calibrate(subject, subject.draw(12, seed=1))
    found = influence(subject, subject.draw(8), bank, operators=(SWAP, "zero"), edge=edge)
    for operator, name in ((SWAP.name, "swap"), ("zero", "zero")):
        weights = upper(matrix(found.rows, operator, edge=edge).mean())
        wanted = expected_influence(kind, 4, 5, 3.0, operator=name, edge=edge).numpy()
        np.testing.assert_allclose(weights, wanted, atol=1e-5)
    assert found.null() == 0.0
    assert found.skipped == [] and found.silent == [] and found.spent is None


def test_the_shapes_of_planted_subjects():
    expected = {
        "chain": {"locality": 0.5, "span": 5 / 3, "early_out": 0.5, "late_in": 0.5},
        "window": {"locality": 1.0, "span": 1.0, "early_out": 1 / 3, "late_in": 1 / 3},
        "shortcut": {"locality": 0.0, "span": 3.0, "early_out": 1.0, "late_in": 1.0},
    }
    for kind, wanted in expected.items():
        subject = Planted(kind)
        bank = calibrate(subject, subject.draw(12, seed=1))
        found = influence(subject, subject.draw(8), bank, operators=(SWAP,))
        made = shape(matrix(found.rows, SWAP.name), matrix(found.rows, "identity"), n_boot=50)
        values = {each["metric"]: each["x"] for each in made.rows()}
        assert values == pytest.approx(wanted)
        assert made.identity is None and made.identity_total == 0.0


def test_donors_of_the_same_class_count_as_no_effect_in_any_batch():
    """A donor with the very same vector is an edit of that problem, with an effect of 0."""
    subject = Planted("chain", n_classes=2)
    bank = calibrate(subject, subject.draw(12, seed=1))
    problems = subject.draw(10)
    runs = [
        influence(subject, problems, bank, operators=("resample",), rows=rows, exact=exact)
        for rows, exact in ((ROWS, False), (2, False), (ROWS, True))
    ]
    tables = [{key(each): each for each in run.rows} for run in runs]
    assert tables[0] == tables[1] == tables[2]
    changes = [each for each in runs[0].rows if each["operator"] == "resample"]
    same = [each for each in changes if each["change"] == 0]
    assert 0 < len(same) < len(changes)
    assert all(each["kl"] == 0.0 and each["donor"] for each in same)
    assert all(each["kl"] > 1 for each in changes if each["change"] > 0)


def key(each) -> tuple:
    return each["id"], each["t"], each["s"], each["operator"], each["seed"]


class Short(Planted):
    """A planted chain that ends after two steps where the first class is even."""

    def step(self, state: State, node: Node | None = None) -> State:
        after = super().step(state, node)
        over = after.memory.layers[0][1][:, 0, 0].argmax(-1) % 2 == 0
        seen = after.node.seen & ~(over & (after.consumed >= 2))[:, None]
        return State(after.consumed, Node(after.node.vectors, seen), after.memory)


@pytest.mark.parametrize("exact", [False, True])
def test_chains_that_end_early_weigh_on_their_own_edges_only(exact):
    subject = Short("chain")
    problems = subject.draw(9)
    bank = calibrate(subject, subject.draw(12, seed=1))
    found = influence(subject, problems, bank, operators=(SWAP,), exact=exact)
    long = sum(int(problem.question.split()[0]) % 2 for problem in problems)
    assert 0 < long < 9
    for each in matrix(found.rows, SWAP.name).rows():
        assert each["n_problems"] == (9 if each["s"] <= 2 else long)
        assert each["x"] == pytest.approx(swap_gain(5, 3.0))
    assert found.null() == 0.0 and found.silent == []


def test_rows_hold_every_pair_once_and_what_identifies_it():
    found = influence(random_subject(), PROBLEMS, calibration(), seeds=(0, 1))
    names = {"zero": 1, "mean_step": 1, "resample": 2, "rotate_45": 2, "shuffled_donor": 2}
    pairs = [(t, s) for t in range(1, 5) for s in range(t, 5)]
    counted = {name: 0 for name in (*names, "identity")}
    for each in found.rows:
        counted[each["operator"]] += 1
        assert (each["t"], each["s"]) in pairs
        assert (each["donor"] is None) == (each["operator"] not in ("resample", "shuffled_donor"))
        assert each["clean_logprob"] < 0
    assert counted == {n: k * 60 for n, k in names.items()} | {"identity": 60}
    assert len({key(each) for each in found.rows}) == len(found.rows)
    assert found.null() == 0.0
    assert found.settings["preset"] == "default" and found.settings["seeds"] == [0, 1]


def test_two_seeds_of_an_operator_that_draws_differ():
    found = influence(
        random_subject(), PROBLEMS, calibration(), operators=("rotate",), seeds=(0, 1)
    )
    one, two = (
        [each["kl"] for each in found.rows if each["seed"] == i and each["operator"] != "identity"]
        for i in (0, 1)
    )
    assert len(one) == len(two) and one != two


def test_the_next_step_is_another_target():
    """After s steps the text of step s + 1 follows, and after the last the answer."""
    subject, bank = random_subject(), calibration()
    given = {"operators": ("zero",)}
    next_, answer = (
        influence(subject, PROBLEMS, bank, target=t, **given) for t in ("next_step", "answer")
    )
    for a, b in zip(next_.rows, answer.rows, strict=True):
        assert key(a) == key(b)
        assert (a["clean_logprob"] == b["clean_logprob"]) == (
            a["s"] >= 3
        )  # the fourth step is the answer
    halves = influence(subject, PROBLEMS, bank, target="next_step", slots_per_step=2, **given)
    by_key = {key(each): each for each in next_.rows}
    for each in halves.rows:  # two slots a step: after slots 2 and 3 the second step follows
        if each["s"] == 1:
            assert each["clean_logprob"] != by_key[key(each)]["clean_logprob"]


def test_one_bad_problem_is_marked_and_the_rest_kept():
    subject, bank = random_subject(), calibration()
    long = LatentProblem("long", " ".join(["ab"] * 2000), ("a",), "a")
    blank = LatentProblem("blank", "ab ba a", ("a",), "")
    found = influence(subject, [PROBLEMS[0], long, blank, PROBLEMS[1]], bank, operators=("zero",))
    assert {each["id"] for each in found.rows} == {PROBLEMS[0].id, PROBLEMS[1].id}
    reasons = {each["id"]: each["reason"] for each in found.skipped}
    assert set(reasons) == {"long", "blank"}
    assert "and a random coconut reads" in reasons["long"]
    assert reasons["blank"].startswith("The answer '' gives no tokens of its own")
    with pytest.raises(
        InputError, match=r"^No problem can be run: Problem 'long' takes \d+ tokens"
    ):
        influence(subject, [long], bank, operators=("zero",))


def test_an_operator_without_effect_is_marked_not_scored():
    """Pause slots hold one vector for all problems: donors and their mean give that very vector."""
    subject, bank = random_subject("pause"), calibration("pause")
    found = influence(subject, PROBLEMS, bank, operators=("zero", "resample"))
    assert {each["operator"] for each in found.rows} == {"zero", "identity"}
    assert [(each["operator"], each["t"]) for each in found.silent] == [
        ("resample", t) for t in (1, 2, 3, 4)
    ]
    assert found.silent[0]["reason"] == "it fed the very vectors that were there, in every problem"
    assert len([each for each in found.rows if each["operator"] == "identity"]) == 60
    with pytest.raises(
        SilentEditError, match=r"^None of resample changed anything at any step, so"
    ):
        influence(subject, PROBLEMS, bank, operators=("resample",))


def test_bad_settings_are_refused_before_the_model_runs(monkeypatch):
    subject, bank = random_subject(), calibration()
    calls = []
    monkeypatch.setattr(type(subject), "feed", lambda *a, **k: calls.append(1))
    cases = {
        r"^There is no target 'answers'; there are answer, next_step\. Did you mean 'answer'\?$": {
            "target": "answers"
        },
        r"^Seeds \[0, 0\]: give one or more, each once\.$": {"seeds": (0, 0)},
        r"^slots_per_step=0: a step of text takes 1 slot or more\.$": {"slots_per_step": 0},
        r"^Operators zero, zero: name each once\.$": {"operators": ("zero", "zero")},
        r"^A pass of 0 rows holds no problem: give 1 or more\.$": {"rows": 0},
        r"^There is no intervention to run: give at least one lane\.$": {"operators": ()},
    }
    for message, given in cases.items():
        with pytest.raises(InputError, match=message):
            influence(subject, PROBLEMS, bank, **given)
    with pytest.raises(
        InputError, match=f"^Two problems have the id '{PROBLEMS[0].id}': rows are told"
    ):
        influence(subject, [PROBLEMS[0]] * 2, bank)
    with pytest.raises(InputError, match=r"^No problem can be run: there is none\.$"):
        influence(subject, [], bank)
    with pytest.raises(EditError, match=r"^There is no operator 'zer'; .* Did you mean 'zero'"):
        influence(subject, PROBLEMS, bank, operators=("zer",))
    with pytest.raises(
        EditError, match=r"^zero has no keys and values of its own for the edge 'kv'"
    ):
        influence(subject, PROBLEMS, bank, operators=("zero",), edge="kv")
    with pytest.raises(
        InputError, match="has no latent steps, so there is nothing to intervene on"
    ):
        influence(random_subject("no_latents"), PROBLEMS, bank)
    assert calls == []


def test_what_was_spent_is_counted_by_hand():
    """2 steps, so per pass of t: steps t..2 on both sides, each closed and forced on both sides."""
    subject = random_subject(n_steps=2)
    bank = calibrate(subject, OTHERS)
    problem = PROBLEMS[:1]
    with spending(subject) as decoding:
        base_run(subject, problem)
    assert decoding is not None
    found = influence(subject, problem, bank, operators=("zero",))
    assert found.spent is not None
    reads, steps = 3, 3  # (1,1) (1,2) (2,2)
    # Both sides: a step, an end marker and a forced answer (its last token is only predicted).
    assert found.spent.forward_calls - decoding.forward_calls == 2 * (steps + reads + reads)
    # Two lanes, zero and the identity; each call feeds one token a row.
    assert found.spent.tokens - decoding.tokens == 2 * 2 * (steps + reads + reads)
    module = subject.hf.base_model
    assert len(module._forward_pre_hooks) == 0
    exact = influence(subject, problem, bank, operators=("zero",), exact=True)
    assert exact.spent is not None
    prompt = 10  # eight edges, the start node and the marker
    clean = 2 * (prompt + 1 + 1) + 1 + 2  # after 1 and 2 steps
    edited = 2 * (reads * (prompt + 1 + 1) + 1 + 2 + 2)
    assert exact.spent.tokens - decoding.tokens == clean + edited


def test_memory_that_runs_out_halves_the_chunk_and_loses_nothing(monkeypatch):
    subject, bank = random_subject(), calibration()
    whole = influence(subject, PROBLEMS, bank, operators=("zero", "resample"))
    plain, sizes = type(subject).step, []

    def step(self, state, node=None):
        sizes.append(state.rows)
        if state.rows > 8:
            raise RuntimeError("CUDA out of memory")
        return plain(self, state, node)

    monkeypatch.setattr(type(subject), "step", step)
    pieces = influence(subject, PROBLEMS, bank, operators=("zero", "resample"))
    assert max(sizes) == 18 and {key(each) for each in pieces.rows} == {
        key(each) for each in whole.rows
    }
    assert len(pieces.rows) == len(whole.rows) and pieces.null() == 0.0
    a, b = ({key(each): each["kl"] for each in run.rows} for run in (whole, pieces))
    assert all(math.isclose(a[k], b[k], abs_tol=1e-5) for k in a)


def test_a_shuffled_donor_gives_its_vector_of_another_step_or_its_own_in_disorder():
    bank = calibration()
    node = bank.nodes[1].take([0, 1, 2])
    ids = tuple(problem.id for problem in PROBLEMS[:3])
    at = At(2, ids, 0, bank, (None,) * 3, (10,) * 3)
    given = Resample().donors(at)
    assert ShuffledDonor().donors(at) == given == ShuffledDonor("entries").donors(at)
    mixed = ShuffledDonor("entries").node(node, at)
    for i, donor in enumerate(given):
        own = bank.nodes[1].vectors[donor]
        assert torch.equal(mixed.vectors[i].sort().values, own.sort().values)
        assert not torch.equal(mixed.vectors[i], own)
    assert torch.equal(node.vectors, bank.nodes[1].vectors[:3])  # nothing was written to
    steps = set()
    for seed in range(10):
        at = At(2, ids, seed, bank, (None,) * 3, (10,) * 3)
        stepped = ShuffledDonor().node(node, at)
        for i, donor in enumerate(ShuffledDonor().donors(at)):
            steps |= {
                t + 1
                for t in range(4)
                if torch.equal(stepped.vectors[i], bank.nodes[t].vectors[donor])
            }
    assert steps == {1, 3, 4}


def test_the_shuffled_donor_does_all_that_the_donor_does_where_steps_are_alike():
    """All slots of a chain hold one class, so a donor's wrong step does what the right one does."""
    subject = Planted("chain", n_classes=7)
    bank = calibrate(subject, subject.draw(20, seed=1))
    found = influence(subject, subject.draw(12), bank, operators=("resample", "shuffled_donor"))
    one, two = (matrix(found.rows, name).mean() for name in ("resample", "shuffled_donor"))
    np.testing.assert_array_equal(np.nan_to_num(one), np.nan_to_num(two))
    assert one[0, 3] > 0.5 * swap_gain(7, 3.0)


def test_the_lens_sees_a_planted_relay_and_no_identity():
    found = lens_influence(random_subject(), PROBLEMS, calibration(), operator="zero")
    zero, null = (
        [each for each in found if each["operator"] == name] for name in ("zero", "identity")
    )
    assert len(zero) == len(null) == 6 * 6  # problems, pairs t < s
    assert all(each["kl"] == 0.0 for each in null) and all(each["kl"] > 1e-8 for each in zero)
    pause = lens_influence(random_subject("pause"), PROBLEMS, calibration("pause"), operator="zero")
    assert all(each["kl"] == 0.0 for each in pause)  # what a pause feeds never changes
    with pytest.raises(InputError, match=r"^planted-chain has no unembedding to read a step with"):
        lens_influence(Planted("chain"), [], calibration())


def test_gradients_reach_the_slots_that_the_design_reads():
    window = Planted("window")
    norms = {(each["id"], each["t"]): each["x"] for each in gradient_norms(window, window.draw(3))}
    for problem in window.draw(3):
        assert norms[problem.id, 1] == norms[problem.id, 2] == 0.0
        assert norms[problem.id, 3] > 0.1 and norms[problem.id, 4] > 0.1
    chain = Planted("chain")
    carried = {each["t"]: each["x"] for each in gradient_norms(chain, chain.draw(1))}
    assert len(set(carried.values())) == 1 and carried[1] > 0.1  # passed on unchanged to the last
