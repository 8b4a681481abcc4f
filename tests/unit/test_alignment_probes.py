"""Probes with a causal test: numbers by hand, planted networks, a real forward pass, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import interp
from interp.alignment.linear_probes import (
    LinearProbe,
    ProbeSettings,
    control_labels,
    fit_probe,
    reverse_gradient,
)
from interp.alignment.probe_edits import covariance_root, moved, projected_out, random_edits
from interp.alignment.probes import ProbeTest, Used, probe_and_test
from interp.alignment.subjects import Cut, ModuleSubject
from interp.errors import InputError

TRAIN, TEST = torch.arange(300), torch.arange(300, 450)


def drawn(seed=0, n=450):
    """Bits whose XOR no linear probe of them reads, and noise that makes each input its own."""
    stream = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (n, 2), generator=stream).double()
    noise = torch.randn(n, 4, generator=stream, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(7, 7, generator=stream, dtype=torch.float64)).Q
    return bits, (bits[:, 0] != bits[:, 1]).long(), noise, turn


def planted(which):
    """A state that holds bits, their XOR as a copy, and noise; the answer is the XOR.

    `reads` answers by the copy; `ignores` answers from the bits, and carries the copy in vain.
    """
    bits, xor, noise, turn = drawn()
    states = torch.cat([bits, (2.0 * xor - 1)[:, None], noise], 1) @ turn

    def finish(changed, rows):
        z = changed @ turn.T
        of_bits = 2 * (z[:, 0] + z[:, 1] - 2 * z[:, 0] * z[:, 1]) - 1
        told = 3 * (z[:, 2] if which == "reads" else of_bits)
        return torch.stack([-told, told], 1)

    return Cut("planted", states, finish)


def asked(which="reads", cut=None, **changes):
    bits, xor, noise, _ = drawn()
    raw = torch.cat([bits, noise], 1)
    given = {
        "train": TRAIN,
        "test": TEST,
        "raw": raw,
        "untrained": raw @ torch.randn(6, 7, generator=torch.Generator().manual_seed(9)).double(),
        "answers": lambda values, rows: torch.stack([values["xor"] == 0, values["xor"] == 1], 1),
        **changes,
    }
    return probe_and_test(cut or planted(which), given.pop("values", {"xor": xor}), **given)


# ------------------------------------------------------------ by hand


def test_ridge_is_the_closed_form():
    # x = -1, 1 after centring and scaling (spread 1); (2 + ridge) w = 2 for one hot -1/2, 1/2
    states, labels = torch.tensor([[0.0], [2.0]]), torch.tensor([0, 1])
    probe = fit_probe(states, labels, settings=ProbeSettings(ridge=2.0))
    torch.testing.assert_close(probe.weight, torch.tensor([[-0.25], [0.25]]).double())
    torch.testing.assert_close(probe.bias, torch.tensor([0.75, 0.25]).double())
    torch.testing.assert_close(
        probe.scores(states), torch.tensor([[0.75, 0.25], [0.25, 0.75]]).double()
    )
    assert probe.lead == pytest.approx(0.5)


def test_a_real_variable_is_read_as_a_number():
    states = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
    probe = fit_probe(states, 10 * states[:, 0] + 3, settings=ProbeSettings(ridge=1e-9))
    torch.testing.assert_close(
        probe.reads(torch.tensor([[5.0, 0.5]])), torch.tensor([53.0]).double(), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(probe.basis().abs(), torch.tensor([[1.0, 0.0]]).double())


def test_an_edit_is_a_projection_by_hand():
    # class 1 leads class 0 by 2 h0; it must lead by 1 in the end, so h0 goes from -1 to 0.5
    probe = LinearProbe(
        torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).double(), torch.zeros(2), False, 1.0
    )
    states = torch.tensor([[-1.0, 7.0], [3.0, 7.0]])
    done = moved(states, {"x": probe}, "x", torch.tensor([1, 1]))
    torch.testing.assert_close(done.states, torch.tensor([[0.5, 7.0], [3.0, 7.0]]))
    assert done.reached.tolist() == [True, True]


def test_along_patterns_an_edit_takes_what_varies_with_it():
    # h1 = 2 h0 always: moving h0 by 1.5 along the pattern moves h1 by 3
    probe = LinearProbe(
        torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).double(), torch.zeros(2), False, 1.0
    )
    natural = torch.tensor([[-1.0, -2.0], [1.0, 2.0], [3.0, 6.0]])
    root = covariance_root(natural)
    torch.testing.assert_close(root @ root, torch.cov(natural.T.double()))
    done = moved(natural[:1], {"x": probe}, "x", torch.tensor([1]), root=root)
    torch.testing.assert_close(done.states, torch.tensor([[0.5, 1.0]]))


def test_a_variable_that_reads_the_same_direction_is_kept_or_the_edit_is_given_up():
    one = LinearProbe(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).double(), torch.zeros(2), False, 1.0)
    other = LinearProbe(
        torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).double(), torch.zeros(2), False, 1.0
    )
    states, to = torch.tensor([[-1.0, 0.0]]), torch.tensor([1])
    done = moved(states, {"x": one, "y": other}, "x", to)
    assert done.reached.item() and done.states[0, 1] > 0.5, "h1 makes room"
    assert not moved(states, {"x": one, "y": one}, "x", to).reached.item()


def test_a_real_target_is_met():
    probe = LinearProbe(torch.tensor([[2.0, 0.0]]).double(), torch.ones(1).double(), True, 1e-9)
    done = moved(torch.tensor([[0.0, 4.0]]).double(), {"x": probe}, "x", torch.tensor([7.0]))
    torch.testing.assert_close(done.states, torch.tensor([[3.0, 4.0]]).double())


def test_projecting_out_leaves_the_mean():
    states, middle = torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 1.0])
    left = projected_out(states, torch.tensor([[1.0, 0.0]]), middle)
    assert left.tolist() == [[1.0, 4.0]]


def test_random_edits_have_the_norms_of_the_given_ones():
    change = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    drawn = random_edits(change, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.norm(dim=1), torch.tensor([5.0, 0.0]))
    assert not torch.allclose(drawn[0], change[0])


def test_control_labels_are_shared_within_a_kind():
    values, kinds = torch.arange(6), torch.tensor([4, 4, 7, 7, 7, 9])
    labels = control_labels(values, 0, kinds)
    assert labels[0] == labels[1] and labels[2] == labels[3] == labels[4]
    assert sorted(control_labels(values, 0).tolist()) == values.tolist()


def test_reversal_is_the_identity_forward_and_minus_alpha_backward():
    x = torch.tensor([1.5, -2.0, 0.25], requires_grad=True)
    out = reverse_gradient(x, 0.75)
    assert torch.equal(out, x)
    (out * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [-0.75, -7.5, -75.0]


def test_what_is_reversed_forgets_for_its_reader():
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=stream)
    y = (x[:, 0] > 0).float()
    made = {}
    for alpha in (-1.0, 1.0):  # -1: the plain gradient
        encoder = nn.Parameter(torch.tensor([[0.5], [0.5]]))
        reader = nn.Parameter(torch.tensor([1.0]))
        optimiser = torch.optim.SGD([encoder, reader], lr=0.2)
        for _ in range(50):
            told = (reverse_gradient(x @ encoder, alpha) * reader)[:, 0]
            optimiser.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(told, y).backward()
            optimiser.step()
        made[alpha] = float(encoder.detach()[0])
    assert made[-1.0] > 1.0 and made[1.0] < 0.2


# ------------------------------------------------------------ planted


@pytest.mark.parametrize(
    ("kind", "along"), [("ridge", "weights"), ("ridge", "patterns"), ("logistic", "weights")]
)
def test_a_network_that_reads_the_copy_follows_and_one_that_ignores_it_does_not(kind, along):
    settings = ProbeSettings(kind=kind, along=along, random_edits=3)
    (reads,), (ignores,) = (asked(which, settings=settings) for which in ("reads", "ignores"))
    for test in (reads, ignores):  # the same states, so the same half of the answer
        assert test.decoded.verdict == "decodable"
        assert test.decoded.held_out.estimate > 0.98
        for name in ("constant", "raw inputs", "untrained network", "shuffled labels"):
            assert 0.3 < test.decoded.baselines[name] < 0.7, name
        assert test.used.placebo == 0.0, "an edit to the own reading must change nothing"
        assert test.used.right == 1.0 and test.used.n == len(TEST)
        assert test.used.left < 0.7, "a fresh probe finds nothing in what is left"
    assert reads.verdict == "decodable; used"
    assert reads.used.follows.estimate > 0.98 and reads.used.random < 0.35
    assert reads.used.right_without < 0.7 < reads.used.right_without_random
    assert ignores.verdict == "decodable; not used"
    assert ignores.used.follows.estimate == 0.0
    assert ignores.used.right_without == 1.0


def test_a_real_variable_is_tested_too():
    stream = torch.Generator().manual_seed(0)
    a, noise = torch.rand(450, 1, generator=stream) * 4 - 2, torch.randn(450, 3, generator=stream)
    states = torch.cat([a, noise], 1)

    def finish(changed, rows):
        return torch.stack([-changed[:, 0], changed[:, 0]], 1)

    def answers(values, rows):
        return torch.stack([values["a"] < 0, values["a"] >= 0], 1)

    (test,) = probe_and_test(
        Cut("s", states, finish),
        {"a": a[:, 0]},
        train=TRAIN,
        test=TEST,
        raw=noise,
        untrained=noise,
        answers=answers,
    )
    assert test.verdict == "decodable; used"
    assert test.decoded.measure == "mean absolute error"
    assert test.decoded.held_out.estimate < 0.02 < 0.8 < test.decoded.baselines["constant"] < 1.2
    assert test.used.follows.estimate > 0.97 > 0.6 > test.used.random


def test_raw_inputs_that_hold_the_variable_make_a_probe_worth_nothing():
    xor = drawn()[1]
    _, _, noise, _ = drawn()
    (test,) = asked(raw=torch.cat([xor[:, None].double(), noise], 1))
    assert test.verdict == "not beyond baselines; used"
    assert test.decoded.baselines["raw inputs"] == 1.0


# ------------------------------------------------------------ what cannot be said


def test_decodable_is_never_said_alone():
    (test,) = asked(answers=None)
    assert test.verdict == "decodable; not tested"
    assert test.used == Used("not tested", "Nobody said which answers are right for other values.")
    assert "decodable; not tested. accuracy 1.000 on inputs held out (constant 0." in str(test)
    with pytest.raises(TypeError, match="used"):
        ProbeTest("s", "x", test.decoded)


def test_a_lacking_baseline_leaves_the_probe_unjudged():
    (test,) = asked(raw=None, untrained=None)
    assert test.verdict == "not judged (raw inputs and untrained network not given); used"
    assert "raw inputs -" in str(test)


def test_an_answer_that_no_value_changes_is_not_tested():
    (test,) = asked(answers=lambda values, rows: torch.ones(len(rows), 2, dtype=torch.bool))
    assert test.used.verdict == "not tested"
    assert test.used.reason == (
        "0 of 150 inputs have a new value that asks for another answer, 0 of them could not be "
        "edited to read it, and 20 are needed."
    )


def test_bad_input_is_refused_before_the_network_runs():
    def never(states, rows):
        raise AssertionError("the network ran")

    cut = Cut("s", planted("reads").states, never)
    xor = drawn()[1]
    cases = [
        (
            {"test": torch.arange(299, 400)},
            "1 inputs, such as 299, stand in both splits: a probe is scored on inputs that it was "
            "not fitted on.",
        ),
        (
            {"raw": torch.zeros(450, 2)},
            "1 raw inputs of the test split also stand in the training split: split by input, and "
            "keep each once.",
        ),
        (
            {"values": {"xor": torch.ones(450, dtype=torch.long)}},
            "'xor' does not vary over the 300 training inputs, so no probe has anything to read: "
            "give inputs that vary it.",
        ),
        ({"values": {"xor": xor[:9]}}, "xor has 9 rows and the cut 450 inputs: give one for each."),
        (
            {"values": {"xor": xor / torch.zeros(450)}},
            "xor holds a value that is not finite: drop that input.",
        ),
        ({"values": {"xor": xor - 1}}, "'xor' holds -1: number classes from 0."),
        ({"variables": ("xr",)}, "There are no values of 'xr'. Did you mean 'xor'?"),
        (
            {"values": {}},
            "No variable was given: name at least one, with its value on each input.",
        ),
    ]
    for changes, told in cases:
        with pytest.raises(InputError) as caught:
            asked(cut=cut, **changes)
        assert str(caught.value) == told
    for settings, told in [
        ({"ridge": 0.0}, "ridge=0.0: give a number above 0."),
        ({"tries": 0}, "random_edits=5 and tries=0 must be 1 or more each."),
    ]:
        with pytest.raises(InputError) as caught:
            ProbeSettings(**settings)
        assert str(caught.value) == told


# ------------------------------------------------------------ plain Hugging Face as the judge


class LastToken(nn.Module):
    """A Hugging Face model as a classifier: token ids to logits after the last token."""

    def __init__(self, hf):
        super().__init__()
        self.hf = hf

    def forward(self, ids):
        return self.hf(ids).logits[:, -1]


def test_edits_of_a_language_model_are_those_of_a_patched_run():
    model = interp.load("tiny-gpt2")
    stream = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (40, 5), generator=stream)
    ids[:, 4] = ids[:, 0]
    bit = (ids[:, 0] > 32).long()
    acts = model.run(ids.tolist(), capture={"0.resid_post": 4}).acts["0.resid_post"][:, 0]

    def finish(changed, rows):
        edit = interp.Patch(
            "0.resid_post", positions=4, source=changed[:, None], source_positions=0
        )
        return model.run(ids[rows].tolist(), edits=[edit], logits="last").logits

    probe = fit_probe(acts, bit)
    new = moved(acts, {"bit": probe}, "bit", 1 - bit)
    assert new.reached.all()
    ours = finish(new.states, torch.arange(40))

    def write(module, args, out):
        whole = (out if isinstance(out, torch.Tensor) else out[0]).clone()
        whole[:, -1] = new.states
        return whole if isinstance(out, torch.Tensor) else (whole, *out[1:])

    handle = model.hf.transformer.h[0].register_forward_hook(write)
    plain = LastToken(model.hf)(ids).detach()
    handle.remove()
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)
    assert not torch.allclose(plain, LastToken(model.hf)(ids), atol=1e-4), "the edit does something"


def test_a_module_subject_serves_as_a_cut():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(450, 6)
    sign = (x[:, 0] > 0).long()
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.zero_()
        net[0].weight[0, 0] = 5.0
        net[0].weight[1:6, 1:6] = torch.eye(5)
        net[2].weight.zero_()
        net[2].bias.zero_()
        net[2].weight[1, 0] = 4.0
    (test,) = probe_and_test(
        ModuleSubject(net, "1").cut(x),
        {"sign": sign},
        train=TRAIN,
        test=TEST,
        raw=None,
        untrained=None,
        answers=lambda values, rows: torch.stack([values["sign"] == 0, values["sign"] == 1], 1),
    )
    assert test.used.verdict == "used" and test.site == "1"
