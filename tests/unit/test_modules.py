"""Edge patching by hand on a net of whole numbers, receipts, effects, and errors word for word."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from interp.errors import EditError, InputError, ModelError, SilentEditError, SiteError
from interp.patching.modules import (
    CausalGraph,
    Edge,
    Test,
    Unit,
    accuracy,
    causal_graph,
    edges,
    holm,
    other_edges,
    outputs,
    patch_edges,
    patch_units,
    path_effects,
    reference,
    sign_flip_p,
    units,
)

A0, A1 = Unit("a", 0), Unit("a", 1)
B0, B1 = Unit("b", 0), Unit("b", 1)
ZERO = {"a": torch.zeros(2), "b": torch.zeros(2)}


class Chain(nn.Module):
    """On x >= 0: a = (x, 2x); b = (a0 + 10 a1, 100 a0 + 1000 a1); out = (b0 + b1, b1).

    At x = 1: a = (1, 2), b = (21, 2100), out = (2121, 2100).
    """

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.head = nn.Linear(2, 2, bias=False)
        self.a.weight.data = torch.tensor([[1.0], [2.0]])
        self.b.weight.data = torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
        self.head.weight.data = torch.tensor([[1.0, 1.0], [0.0, 1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).relu()).relu())


class Skip(Chain):
    """The same, and the head also reads a: another consumer of a's units."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        return self.head(self.b(a).relu() + a)


X = torch.ones(1, 1)


def chain(kind: type[Chain] = Chain) -> Chain:
    return kind().eval()


def exactly(text: str) -> str:
    return f"^{re.escape(text)}$"


# ---------------------------------------------------------------- numbers by hand


@pytest.mark.parametrize(
    ("cut", "out"),
    [
        ((), [2121, 2100]),
        ([Edge(A0, B0)], [20 + 2100, 2100]),
        ([Edge(A1, B0)], [1 + 2100, 2100]),
        ([Edge(A1, B1)], [21 + 100, 100]),
        (edges([A0], [B0, B1]), [20 + 2000, 2000]),
        ([Edge(A0, B0), Edge(A1, B1)], [20 + 100, 100]),
        (edges([A0, A1], [B0]), [2100, 2100]),
        ([Edge(B1, Unit("head", 0))], [21, 2100]),
        ([Edge(A1, B1), Edge(B0, Unit("head", 0))], [100, 100]),
    ],
)
def test_each_edge_carries_what_its_weight_says(cut, out):
    model = chain()
    assert patch_edges(model, X, cut, reference=ZERO).output.tolist() == [out]
    assert model(X).tolist() == [[2121, 2100]]  # the model is as it was
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_other_readers_of_a_unit_see_nothing():
    """Cutting a0 from b leaves the skip's a0 = 1; the node patch takes that as well."""
    model = chain(Skip)
    assert model(X).tolist() == [[2121 + 1 + 2, 2102]]
    cut = patch_edges(model, X, edges([A0], [B0, B1]), reference=ZERO).output
    assert cut.tolist() == [[20 + 2000 + 1 + 2, 2002]]
    assert patch_units(model, X, [A0], reference=ZERO).tolist() == [[20 + 2000 + 2, 2002]]


def test_a_reference_is_a_value_for_all_inputs_or_one_for_each():
    model, x = chain(), torch.tensor([[1.0], [3.0]])
    same = patch_edges(model, x, [Edge(A0, B0)], reference={"a": torch.tensor([5.0, 9.0])})
    assert same.output[:, 0].tolist() == [5 + 20 + 2100, 5 + 60 + 6300]
    own = torch.tensor([[7.0, 0.0], [8.0, 0.0]])
    each = patch_edges(model, x, [Edge(A0, B0)], reference={"a": own})
    assert each.output[:, 0].tolist() == [7 + 20 + 2100, 8 + 60 + 6300]


def test_references_by_hand():
    model, x = chain(), torch.tensor([[1.0], [3.0]])
    assert reference(model, x, ["a"])["a"].tolist() == [2, 4]
    assert reference(model, x, ["a"], "zero")["a"].tolist() == [0, 0]
    assert reference(model, x, ["a"], "own")["a"].tolist() == [[1, 2], [3, 6]]
    assert outputs(model, x, ["b"])["b"].tolist() == [[21, 2100], [63, 6300]]


def test_receipts_say_what_changed():
    """a0 goes from 1 to 0, so b0 from 21 to 20 and b1 from 2100 to 2000."""
    done = patch_edges(chain(), X, edges([A0], [B0, B1]), reference=ZERO)
    (receipt,) = done.receipts
    assert (receipt.layer, receipt.sources, receipt.consumers) == ("b", (A0,), (B0, B1))
    assert (receipt.fired, receipt.source_change) == (1, 1.0)
    assert receipt.change == pytest.approx((1 + 100**2) ** 0.5)
    apart = patch_edges(chain(), X, [Edge(A0, B0), Edge(A1, B1)], reference=ZERO)
    assert [(r.sources, r.consumers) for r in apart.receipts] == [((A0,), (B0,)), ((A1,), (B1,))]


def test_parts_of_a_map_are_patched_alone():
    """A 1x1 convolution copies the image, the next one sums 3x3: a cell reaches its neighbours."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 3, padding=1, bias=False))
    for layer in model:
        nn.init.ones_(layer.weight)
    image, zero = torch.arange(16.0).reshape(1, 1, 4, 4), {"0": torch.zeros(1, 4, 4)}
    source, corner = Unit("0", 0, (1, 2, 1, 2)), Unit("1", 0, (0, 2, 0, 2))
    clean = model.eval()(image)
    whole = clean - patch_edges(model, image, [Edge(source, Unit("1", 0))], reference=zero).output
    part = clean - patch_edges(model, image, [Edge(source, corner)], reference=zero).output
    five = torch.full((4, 4), 5.0)  # the cell (1, 1) holds 5
    five[3], five[:, 3] = 0, 0
    assert whole[0, 0].tolist() == five.tolist()
    five[2], five[:, 2] = 0, 0
    assert part[0, 0].tolist() == five.tolist()


def test_cells_are_rows_and_then_columns():
    model, image = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)).eval(), torch.ones(1, 1, 3, 4)
    nn.init.ones_(model[0].weight)
    strip = Unit("0", 0, (0, 1, 2, 4))
    patched = patch_units(model, image, [strip], reference={"0": torch.zeros(1, 3, 4)})
    assert patched[0, 0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_units_of_a_layer():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 3))
    assert [str(unit) for unit in units(model, "1")] == ["1[0]", "1[1]", "1[2]"]
    parts = units(model, "0", blocks=2, map_size=(4, 6))
    assert len(parts) == 8 and str(parts[1]) == "0[0, 0:2, 3:6]"
    assert parts[0].overlaps(Unit("0", 0)) and not parts[0].overlaps(parts[1])


# ---------------------------------------------------------------- statistics


def test_the_sign_flip_test_by_hand():
    """Four equal differences: 2 of the 16 sign patterns are as extreme, so p is near 1/8."""
    p = sign_flip_p(torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [0, 0, 0, 0]]), n_flips=20_000)
    assert p[0].item() == pytest.approx(1 / 8, abs=0.01)
    assert p[1:].tolist() == [1, 1]


def test_holm_corrects_for_the_number_of_units():
    assert holm(torch.tensor([0.04, 0.01, 0.5])).tolist() == pytest.approx([0.08, 0.03, 0.5])
    assert holm(torch.tensor([0.6, 0.9])).tolist() == [1, 1]


def test_no_more_false_units_than_alpha():
    """Eight units without effect on 40 inputs, 200 times: at most alpha and its sampling error."""
    rng = torch.Generator().manual_seed(0)
    false = 0
    for seed in range(200):
        p = sign_flip_p(torch.randn(8, 40, generator=rng), n_flips=999, seed=seed)
        false += bool((holm(p) <= 0.1).any())
    assert 0.03 <= false / 200 <= 0.1 + 3 * 0.021


# ---------------------------------------------------------------- effects and graphs


class Planted(nn.Module):
    """Class 1 is carried by a2 -> b1 alone; a0 and b0 are busy and matter to class 0 only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)
        self.head = nn.Linear(2, 2)
        self.a.weight.data = torch.eye(3)
        self.b.weight.data = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
        self.head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        for layer in (self.a, self.b, self.head):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).relu()).relu())


def planted_graph(target: int, **settings) -> tuple[CausalGraph, nn.Module, Tensor]:
    model = Planted().eval()
    x = torch.rand(60, 3, generator=torch.Generator().manual_seed(0)) + 0.5
    test = Test(measure="logit", n_flips=999, n_boot=100, **settings)
    layers = {"a": units(model, "a"), "b": units(model, "b")}
    zero = reference(model, x, ["a", "b"], "zero")
    graph = causal_graph(model, x, layers, "head", target=target, reference=zero, test=test)
    return graph, model, x


def test_the_planted_graph_of_each_class_is_found():
    one, _, x = planted_graph(1)
    assert one.kept("a") == (Unit("a", 2),) and one.kept("b") == (B1,)
    assert [str(edge) for edge in one.edges] == ["a[2] -> b[1]", "b[1] -> head[1]"]
    effect = one.effects["a"][2]
    assert effect.ace == pytest.approx(2 * x[:, 2].mean().item(), rel=1e-5)
    assert effect.interval.low < effect.ace < effect.interval.high and effect.source_change > 0
    assert [e.ace for e in one.effects["a"][:2]] == [0, 0]  # they do not feed b1
    assert [e.p for e in one.effects["a"][:2]] == [1, 1]
    zero, *_ = planted_graph(0)
    assert zero.kept("a") == (A0, A1) and zero.kept("b") == (B0,)


def test_small_effects_can_be_left_out_and_an_empty_layer_ends_the_walk():
    graph, *_ = planted_graph(1, min_ace=100.0)
    assert graph.kept("b") == () and "a" not in graph.effects and graph.edges == ()


def test_probability_effects_are_differences_of_the_softmax():
    model, x = Planted().eval(), torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    (effect,) = path_effects(
        model, x, [B1], [Unit("head", 1)], target=1, reference={"b": torch.zeros(2)}
    )
    before, after = torch.tensor([[1.0, 2.0], [1.0, 0.0]]).softmax(1)[:, 1].tolist()
    assert effect.ace == pytest.approx(before - after, abs=1e-6)
    assert effect.interval.low == pytest.approx(effect.ace)  # both inputs drop by the same
    assert not effect.kept  # two inputs can never tell: p is at least 1/2


def test_a_graph_alone_is_sufficient_and_without_it_nothing_is_left():
    graphs = [planted_graph(target)[0] for target in (0, 1)]
    _, model, x = planted_graph(0)
    labels = model(x).argmax(1)
    layers, head = {"a": units(model, "a"), "b": units(model, "b")}, units(model, "head")
    zero = reference(model, x, ["a", "b"], "zero")
    others = other_edges(graphs, layers, head)
    kept = {edge for graph in graphs for edge in graph.edges}
    assert len(others) + len(kept) == 3 * 2 + 2 * 2 and not kept & set(others)
    assert accuracy(model, x, labels, reference=zero) == 1
    assert accuracy(model, x, labels, cut=others, reference=zero) == 1
    without = accuracy(model, x, labels, cut=kept, reference=zero)
    assert without == pytest.approx((labels == 0).double().mean().item())  # all logits are 0
    assert 0 < without < 1


# ---------------------------------------------------------------- errors


class Odd(nn.Module):
    """`a` runs before `b`; `late` runs after it; `twice` runs twice, `never` not at all."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("a", "b", "late", "twice", "never"):
            setattr(self, name, nn.Linear(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(self.twice(self.late(self.b(self.a(x)))))


ODD_X = torch.ones(3, 2)
ODD_ZERO = {name: torch.zeros(2) for name in ("a", "late", "twice", "never")}


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        (
            Edge(Unit("a", 0), Unit("never", 0)),
            "never never ran, so nothing was patched: check the layer's name.",
        ),
        (
            Edge(Unit("late", 0), Unit("b", 0)),
            "b ran before late, so no edge leads from there to it: name a layer that runs later "
            "as the consumer.",
        ),
        (
            Edge(Unit("never", 0), Unit("b", 0)),
            "b ran before never, so no edge leads from there to it: name a layer that runs later "
            "as the consumer.",
        ),
        (
            Edge(Unit("a", 0), Unit("twice", 0)),
            "twice ran 2 times in one pass, so an edit there has no one meaning: name a layer "
            "that runs once.",
        ),
    ],
)
def test_an_edit_that_cannot_act_is_an_error(edge, message):
    with pytest.raises(SilentEditError, match=exactly(message)):
        patch_edges(Odd().eval(), ODD_X, [edge], reference=ODD_ZERO)


def test_a_node_that_never_runs_is_an_error():
    with pytest.raises(SilentEditError, match=r"^never ran 0 times in one pass"):
        patch_units(Odd().eval(), ODD_X, [Unit("never", 0)], reference=ODD_ZERO)
    with pytest.raises(SilentEditError, match=r"^twice ran 2 times in one pass"):
        outputs(Odd().eval(), ODD_X, ["twice"])


class Unrun(Chain):
    """Must not run."""

    def forward(self, x: Tensor) -> Tensor:
        pytest.fail("the model must not run")


@pytest.mark.parametrize(
    ("cut", "given", "error", "message"),
    [
        (
            [Edge(Unit("aa", 0), B0)],
            ZERO,
            SiteError,
            "'aa' is no Linear or Conv2d of Unrun; there are: a, b, head. Did you mean 'a'?",
        ),
        ([Edge(Unit("a", 2), B0)], ZERO, EditError, "a[2] does not exist: a has units 0 to 1."),
        (
            [Edge(A0, A1)],
            ZERO,
            EditError,
            "a[0] -> a[1] stays inside one layer: name a consumer of a later one.",
        ),
        (
            [Edge(A0, B0)],
            {"b": torch.zeros(2)},
            EditError,
            "a has no reference; there are: b. Make one with reference(model, inputs, layers).",
        ),
        (
            [Edge(Unit("a", 0, (0, 1, 0, 1)), B0)],
            ZERO,
            EditError,
            "a[0, 0:1, 0:1]: cells are rows from, to and columns from, to of a Conv2d's map, the "
            "ends excluded and each part at least one cell.",
        ),
    ],
)
def test_bad_edges_are_refused_before_the_model_runs(cut, given, error, message):
    with pytest.raises(error, match=exactly(message)):
        patch_edges(Unrun().eval(), X, cut, reference=given)


def test_other_bad_input_is_refused():
    model = chain()
    with pytest.raises(ModelError, match=r"^Chain is in training mode, where dropout"):
        patch_edges(Chain(), X, [Edge(A0, B0)], reference=ZERO)
    message = (
        "The reference of a has shape [1] and its output [1, 2]; PyTorch would broadcast, so give "
        "that shape, or [2] for every input."
    )
    with pytest.raises(EditError, match=exactly(message)):
        patch_edges(model, X, [Edge(A0, B0)], reference={"a": torch.zeros(1)})
    with pytest.raises(InputError, match=exactly("kind='men': write 'mean', 'zero' or 'own'.")):
        reference.__wrapped__(model, X, ["a"], "men")  # past the check of types
    with pytest.raises(InputError, match=r"^n_flips=10 cannot keep any of 2 units at alpha=0\.05"):
        path_effects(
            model, X.expand(3, 1), [A0, A1], [B0], target=0, reference=ZERO, test=Test(n_flips=10)
        )
    with pytest.raises(InputError, match=r"^1 sources, 1 consumers and 1 inputs: an effect needs"):
        path_effects(model, X, [A0], [B0], target=0, reference=ZERO)
    with pytest.raises(InputError, match=r"^target=2: the output has shape \[3, 2\]; give logits"):
        path_effects(model, X.expand(3, 1), [A0], [B0], target=2, reference=ZERO)
    with pytest.raises(InputError, match=r"^alpha=0\.0, min_ace=0\.0"):
        Test(alpha=0.0)
    with pytest.raises(InputError, match=r"^a cannot be cut in 2 x 2 blocks: give a Conv2d"):
        units(model, "a", blocks=2, map_size=(4, 4))
    with pytest.raises(InputError, match=r"^layers is empty"):
        causal_graph(model, X, {}, "head", target=0, reference=ZERO)


def test_consumers_that_overlap_and_lose_different_sources_are_refused():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)).eval()
    whole, part = Unit("1", 0), Unit("1", 0, (0, 2, 0, 2))
    cut = [Edge(Unit("0", 0), whole), Edge(Unit("0", 1), part)]
    message = "share entries and lose different sources: name consumers that are equal or apart."
    with pytest.raises(EditError, match=re.escape(message)):
        patch_edges(model, torch.ones(1, 1, 4, 4), cut, reference={"0": torch.zeros(2, 4, 4)})
    far = Unit("1", 0, (0, 9, 0, 2))
    with pytest.raises(
        EditError, match=exactly("1[0, 0:9, 0:2] lies outside a map of [4, 4] cells.")
    ):
        patch_edges(
            model,
            torch.ones(1, 1, 4, 4),
            [Edge(Unit("0", 0), far)],
            reference={"0": torch.zeros(2, 4, 4)},
        )


def test_hooks_are_gone_after_an_error():
    model = Odd().eval()
    with pytest.raises(SilentEditError):
        patch_edges(model, ODD_X, [Edge(Unit("a", 0), Unit("twice", 0))], reference=ODD_ZERO)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
