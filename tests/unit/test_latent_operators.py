"""Operators, each by hand; what they may depend on and what they may not; their errors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from interp.data.latent_problems import LatentProblem
from interp.errors import EditError
from interp.latent.calibration import Calibration
from interp.latent.operators import (
    DEFAULT,
    NAMED,
    PAPER,
    At,
    HideSlot,
    Identity,
    Interpolate,
    Operator,
    Resample,
    class_mean,
    constant,
    gaussian,
    gaussian_h,
    gaussian_mu,
    gaussian_mu_step,
    mean,
    mean_step,
    named,
    noise_norm,
    remove_dir,
    rotate,
    zero,
)
from interp.latent.state import Node, Slot

D = 4


def node(*rows: list[float]) -> Node:
    """One vector a row."""
    return Node.slot(torch.tensor(rows))


STEP_1 = node([1.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0])
STEP_2 = node([0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 2.0], [0.0, 0.0, 6.0, 0.0])


def slot(values: list[float]) -> Slot:
    """Keys and values of one layer, one head, d_head 1."""
    rows = torch.tensor(values)[:, None, None, None]
    return Slot(((rows, -rows),), torch.ones(len(values), 1, dtype=torch.bool))


BANK = Calibration(
    problems=tuple(LatentProblem(name, name, (), "?") for name in "xyz"),
    predictions=("1", "2", "2"),
    nodes=(STEP_1, STEP_2),
    slots=(slot([1.0, 2.0, 3.0]), slot([4.0, 5.0, 6.0])),
    positions=torch.tensor([7, 7, 9]),
)
MEAN_NORM = (1 + 3 + 4 + 2 + 2 + 6) / 6  # 3


def at(step: int = 1, keys: str = "ab", seed: int = 0, bank: Calibration = BANK) -> At:
    """Rows whose subject answers 1 and 2, whose slot 1 stands at 7 and 9."""
    n = len(keys)
    return At(step, tuple(keys), seed, bank, ("1", "2", None)[:n], (7, 9, 8)[:n])


def made(operator: Operator, h: Node, where: At | None = None) -> Tensor:
    """The vectors `[row d_model]` that an operator feeds in place of h."""
    return operator.node(h, where or at()).vectors[:, 0]


H = node([2.0, 0.0, 0.0, 0.0], [0.0, 3.0, 4.0, 0.0])


def test_zero_means_and_constants_are_those_of_the_calibration_set():
    assert made(zero(), H).tolist() == [[0.0] * 4] * 2
    mu_1 = torch.tensor([4 / 3, 4 / 3, 0, 0])
    torch.testing.assert_close(made(mean_step(), H), mu_1.expand(2, -1))
    mu = torch.tensor([4, 4, 8, 2]) / 6
    torch.testing.assert_close(made(mean(), H), mu.expand(2, -1))
    assert not torch.allclose(made(mean_step(), H, at(2)), made(mean_step(), H))
    fixed = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert made(constant(fixed), H).tolist() == [fixed.tolist()] * 2


def test_noise_has_the_spread_that_its_formula_states():
    where = at(keys="a")
    u = where.noise(H.take([0]).vectors)[:, 0]
    s = 0.5 * MEAN_NORM / math.sqrt(D)
    one = H.take([0])
    torch.testing.assert_close(made(gaussian(), one, where), s * u)
    torch.testing.assert_close(made(gaussian_h(), one, where), one.vectors[:, 0] + s * u)
    mu, mu_1 = BANK.mean(), BANK.mean_step(1)[0]
    for operator, middle in ((gaussian_mu(), mu), (gaussian_mu_step(), mu_1)):
        expected = middle + 0.5 * middle.norm() / math.sqrt(D) * u
        torch.testing.assert_close(made(operator, one, where), expected)
    wide = made(gaussian(1.5), one, where)
    torch.testing.assert_close(wide, 3 * s * u)


@pytest.mark.parametrize("degrees", [15.0, 30.0, 45.0, 90.0, 180.0])
def test_check_7_a_rotation_turns_by_its_angle_and_keeps_the_norm(degrees):
    turned = made(rotate(degrees), H)
    own = H.vectors[:, 0]
    torch.testing.assert_close(turned.norm(dim=1), own.norm(dim=1), rtol=1e-6, atol=0)
    cosine = (turned * own).sum(1) / own.norm(dim=1) ** 2
    expected = torch.full((2,), math.cos(math.radians(degrees)))
    torch.testing.assert_close(cosine, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 20.0])
def test_check_7_norm_preserving_noise_keeps_the_norm_and_turns_more_with_its_spread(sigma):
    noisy = made(noise_norm(sigma), H)
    own = H.vectors[:, 0]
    torch.testing.assert_close(noisy.norm(dim=1), own.norm(dim=1), rtol=1e-6, atol=0)
    assert float((noisy - own).norm()) > sigma / 100


def test_check_7_a_direction_is_removed_and_nothing_else():
    w = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    left = made(remove_dir(w), H)
    bound = 1e-6 * H.vectors[:, 0].norm(dim=1) * w.norm()
    assert bool(((left @ w[0]).abs() <= bound).all())
    torch.testing.assert_close(left, torch.tensor([[2.0, 0, 0, 0], [0, -0.5, 0.5, 0]]))
    torch.testing.assert_close(made(remove_dir(w, 2.0), H)[1], torch.tensor([0, -4.0, -3.0, 0]))
    plane = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 5.0, 1.0, 0.0]])
    torch.testing.assert_close(made(remove_dir(plane), H)[1], torch.zeros(4), atol=1e-6, rtol=0)


def test_check_7_interpolation_goes_from_the_step_to_the_other_operator():
    donor = made(Resample(), H)
    assert torch.equal(made(Interpolate(Resample(), 0.0), H), H.vectors[:, 0])
    assert torch.equal(made(Interpolate(Resample(), 1.0), H), donor)
    half = made(Interpolate(Resample(), 0.5), H)
    torch.testing.assert_close(half, (H.vectors[:, 0] + donor) / 2)
    assert Interpolate(zero(), 0.0).null and not Interpolate(zero(), 0.1).null
    assert Interpolate(Resample(), 0.5).donors(at()) == Resample().donors(at())


def test_on_the_sphere_it_turns_along_the_arc():
    toward = constant(torch.tensor([0.0, 4.0, 0.0, 0.0]))
    h = node([2.0, 0.0, 0.0, 0.0])
    turned = made(Interpolate(toward, 1 / 3, sphere=True), h, at(keys="a"))[0]
    norm = 2 + (4 - 2) / 3
    expected = torch.tensor([norm * math.cos(math.pi / 6), norm * math.sin(math.pi / 6), 0.0, 0.0])
    torch.testing.assert_close(turned, expected)


def test_class_means_are_by_problem_and_step():
    vectors = {"yes": torch.eye(4)[:2], "no": -torch.eye(4)[:2]}
    both = made(class_mean(vectors, {"a": "yes", "b": "no"}), H, at(2))
    assert both.tolist() == [[0.0, 1.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0]]
    assert made(class_mean(vectors, "yes"), H, at(1)).tolist() == [[1.0, 0.0, 0.0, 0.0]] * 2
    with pytest.raises(EditError) as error:
        made(class_mean(vectors, {"a": "yes"}), H)
    assert str(error.value) == "class_mean: problem 'b' has no class in `to`: name one for each."


def test_donors_give_their_own_vector_of_the_same_step():
    for step, bank in ((1, STEP_1), (2, STEP_2)):
        where = at(step)
        given = Resample().donors(where)
        fed = made(Resample(), H, where)
        for row, i in enumerate(given):
            assert i is not None and torch.equal(fed[row], bank.vectors[i, 0])


def test_strata_are_kept_and_a_row_without_a_donor_keeps_its_own():
    for draw in range(6):
        assert Resample("same_answer", draw).donors(at())[0] == 0  # only x answers 1
        assert Resample("same_answer", draw).donors(at())[1] in (1, 2)
        assert Resample("other_answer", draw).donors(at())[0] in (1, 2)
        assert Resample("same_position", draw).donors(at())[1] == 2  # only z stands at 9
    three = node([1.0] * 4, [1.0] * 4, [5.0, 6.0, 7.0, 8.0])
    lonely = Resample("same_position")
    assert lonely.donors(at(keys="abc"))[2] is None  # nobody stands at 8
    assert made(lonely, three, at(keys="abc"))[2].tolist() == [5.0, 6.0, 7.0, 8.0]


def test_a_problem_is_never_its_own_donor():
    for draw in range(20):
        assert Resample(draw=draw).donors(at(keys="x"))[0] in (1, 2)


def test_all_steps_of_a_whole_swap_have_one_donor():
    keys = [chr(97 + i) for i in range(20)]

    def given(step: int, whole: bool) -> list[int | None]:
        return [Resample(whole=whole).donors(at(step, key))[0] for key in keys]

    assert given(1, whole=True) == given(2, whole=True)
    assert given(1, whole=False) != given(2, whole=False)


def test_keys_and_values_of_a_donor_are_swapped_and_hidden_ones_only_hidden():
    operator = Resample("same_position")
    own = slot([70.0, 80.0])
    swapped = operator.slot(own, at(2))
    (keys, values) = swapped.layers[0]
    assert float(keys[1]) == 6.0 == -float(values[1]) and float(keys[0]) in (4.0, 5.0)
    hidden = HideSlot().slot(own, at())
    assert torch.equal(hidden.layers[0][0], own.layers[0][0]) and not hidden.seen.any()
    assert HideSlot().node(H, at()).vectors is H.vectors
    for plain in (zero(), mean(), rotate(), Interpolate(zero(), 0.5)):
        with pytest.raises(EditError, match="has no keys and values of its own for the edge 'kv'"):
            plain.require_slot("kv")


def test_a_chain_that_is_over_gives_nothing():
    """At step 2 only y and z still go on; a whole thought comes from one that has every step."""
    seen = torch.tensor([[False], [True], [True]])
    bank = replace(BANK, nodes=(STEP_1, Node(STEP_2.vectors, seen)))
    seeds = range(20)
    for step, givers in ((1, {0, 1, 2}), (2, {1, 2})):
        drawn = {i for seed in seeds for i in Resample().donors(at(step, seed=seed, bank=bank))}
        assert drawn == givers
    for seed in seeds:
        firsts = Resample(whole=True).donors(at(1, seed=seed, bank=bank))
        assert firsts == Resample(whole=True).donors(at(2, seed=seed, bank=bank))
        assert set(firsts) <= {1, 2}
    over = replace(bank, nodes=(STEP_1, Node(STEP_2.vectors, seen & False)))
    assert Resample().donors(at(2, bank=over)) == (None, None)
    assert torch.equal(made(Resample(), H, at(2, bank=over)), H.vectors[:, 0])
    assert Resample().donors(at(1, bank=over)) == Resample().donors(at(1))


def test_the_identity_gives_the_same_bits_in_new_tensors():
    same = Identity().node(H, at())
    assert torch.equal(same.vectors, H.vectors) and same.vectors is not H.vectors
    assert bool(same.same(H).all()) and Identity.null and not zero().null


NOISY = [gaussian(), gaussian_h(), gaussian_mu(), gaussian_mu_step(), noise_norm(), rotate()]


@pytest.mark.parametrize("operator", [*NOISY, Resample(), zero(), mean()], ids=lambda o: o.name)
def test_a_row_does_not_depend_on_its_batch(operator):
    both = made(operator, H, at(keys="ab"))
    swapped = made(operator, H.take([1, 0]), replace(at(keys="ba"), answers=("2", "1")))
    assert torch.equal(both, swapped.flip(0))
    alone = made(operator, H.take([0]), at(keys="a"))
    assert torch.equal(both[:1], alone)


@pytest.mark.parametrize("operator", NOISY, ids=lambda o: o.name)
def test_draws_belong_to_problem_step_and_seed(operator):
    def draw(**given: object) -> Tensor:
        where = replace(at(keys="a"), **given)
        return made(operator, H.take([0]), where)

    assert torch.equal(draw(), draw())
    assert not torch.equal(draw(), draw(seed=1))
    assert not torch.equal(draw(), draw(keys=("b",)))
    if operator.name != "gaussian_mu_step":  # whose mean is another one at step 2
        assert not torch.equal(draw(), draw(step=2))


def test_check_7_the_spread_comes_from_the_calibration_set_and_not_from_the_batch():
    large = node([100.0, 0.0, 0.0, 0.0], [0.0, 300.0, 0.0, 0.0])
    assert torch.equal(made(gaussian(), H), made(gaussian(), large))
    louder = replace(BANK, nodes=(STEP_1, node(*[[0.0, 0.0, 30.0, 0.0]] * 3)))
    assert not torch.equal(made(gaussian(), H, at(bank=louder)), made(gaussian(), H))


def test_a_wider_node_draws_the_same_noise_for_its_first_places():
    narrow, wide = torch.zeros(2, 1, D), torch.zeros(2, 5, D)
    assert torch.equal(at().noise(wide)[:, :1], at().noise(narrow))
    assert not torch.equal(at().noise(wide)[:, 0], at().noise(wide)[:, 1])


@pytest.mark.parametrize("name", sorted({*NAMED} - {"kv_mask", "kv_swap", "identity"}))
def test_no_operator_writes_into_the_node_or_keeps_it_as_it_was(name):
    before = H.vectors.clone()
    fed = named(name).node(H, at())
    assert torch.equal(H.vectors, before)
    assert fed.vectors.shape == H.vectors.shape and not torch.equal(fed.vectors, before)


def test_names_and_their_arguments_are_read():
    assert [named(name).name for name in PAPER] == list(PAPER)
    assert [named(name).name for name in DEFAULT] == ["zero", "mean_step", "resample", "rotate_45"]
    written = {
        "rotate:30": "rotate_30",
        "noise_norm:0.1": "noise_norm_0.1",
        "gaussian_h:2": "gaussian_h_2",
        "resample:other_answer": "resample_other_answer",
        "swap": "swap",
        "kv_swap": "resample_same_position",
    }
    assert {given: named(given).name for given in written} == written
    assert Resample(draw=2).name == "resample_2"
    assert Interpolate(Resample(), 0.25, sphere=True).name == "resample@0.25s"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: named("zeroo"),
            f"There is no operator 'zeroo'; there are {', '.join(NAMED)}. Did you mean 'zero'?",
        ),
        (lambda: named("zero:3"), "'zero:3': zero takes no argument; write 'zero'."),
        (
            lambda: named("rotate:far"),
            "'rotate:far': 'far' is no number; write such as rotate:30.",
        ),
        (lambda: rotate(0.0), "rotate(0.0): give an angle above 0 and up to 180 degrees."),
        (
            lambda: named("resample:same_anwser"),
            "Resample: there is no stratum 'same_anwser'; there are any, same_answer, "
            "other_answer, same_position. Did you mean 'same_answer'?",
        ),
        (
            lambda: named("gaussian:nan"),
            "gaussian(nan): a spread is a finite number above 0, such as 0.5.",
        ),
        (
            lambda: gaussian_h(-1.0),
            "gaussian_h(-1): a spread is a finite number above 0, such as 0.5.",
        ),
        (lambda: Interpolate(zero(), 1.5), "Interpolate(1.5): the amount lies between 0 and 1."),
        (
            lambda: remove_dir(torch.tensor([[1.0, 0.0], [2.0, 0.0]])),
            "remove_dir: the 2 rows of the basis are not independent directions: drop those that "
            "are zero or a sum of others.",
        ),
        (
            lambda: remove_dir(torch.eye(3)[:, :2]),
            "remove_dir: the 3 rows of the basis are not independent directions: drop those that "
            "are zero or a sum of others.",
        ),
        (
            lambda: class_mean({"yes": torch.eye(4)}, "maybe"),
            "class_mean: there is no class 'maybe'; there are yes.",
        ),
        (
            lambda: Resample().slot(slot([1.0, 2.0]), at()),
            "resample cannot swap keys and values: they hold positions, so take donors with "
            'Resample("same_position").',
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(EditError) as error:
        make()
    assert str(error.value) == message
