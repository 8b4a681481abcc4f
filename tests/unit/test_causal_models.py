"""Causal models: a small algorithm by hand, the cut of a diagram, drawing, errors word for word."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.causal_models import CausalModel, Variable
from interp.data.distributive import AND_OR, AND_OR_AND
from interp.data.equality import ALGORITHMS as EQUALITY
from interp.data.ioi import ALGORITHMS as IOI
from interp.data.running_sums import operand_inputs, running_sums
from interp.errors import InputError
from tests.strategies import says

SUM = CausalModel(
    "sum",
    ("a", "b", "c"),
    (
        Variable("total", ("part", "c"), lambda part, c: part + 10 * c),  # before its parent
        Variable("part", ("a", "b"), lambda a, b: a + b),
    ),
    "total",
)
INPUTS = {"a": torch.tensor([1, 2]), "b": torch.tensor([3, 4]), "c": torch.tensor([5, 6])}


def ints(*values: int) -> Tensor:
    return torch.tensor(values)


# ---------------------------------------------------------------- by hand


def test_variables_are_computed_after_their_parents_whatever_their_order():
    assert [variable.name for variable in SUM.order] == ["part", "total"]
    values = SUM.run(INPUTS)
    assert list(values) == ["a", "b", "c", "part", "total"]
    assert values["part"].tolist() == [4, 6]
    assert values["total"].tolist() == [54, 66]


def test_do_forces_a_variable_in_the_rows_asked_for_only():
    assert SUM.run(INPUTS, do={"part": ints(7, 8)})["total"].tolist() == [57, 68]
    where = {"part": torch.tensor([False, True])}
    forced = SUM.run(INPUTS, do={"part": ints(7, 8)}, where=where)
    assert forced["part"].tolist() == [4, 8]
    assert forced["total"].tolist() == [54, 68]


def test_do_reaches_inputs_and_the_output_too():
    assert SUM.run(INPUTS, do={"a": ints(0, 0)})["total"].tolist() == [53, 64]
    assert SUM.run(INPUTS, do={"total": ints(0, 1)})["total"].tolist() == [0, 1]


def test_do_leaves_the_given_tensors_alone():
    before = {name: batch.clone() for name, batch in INPUTS.items()}
    SUM.run(INPUTS, do={"part": ints(7, 8)}, where={"part": torch.tensor([True, False])})
    assert all(torch.equal(INPUTS[name], batch) for name, batch in before.items())


def test_an_interchange_takes_the_value_of_the_source():
    """Base 0 has part 4 and c 5, source 1 has part 6: 6 + 50 = 56; inactive it stays 54."""
    values = SUM.run(INPUTS)
    labels = SUM.interchange(
        values,
        base=ints(0, 0, 1),
        sources=ints(1, 1, 0)[:, None],
        active=torch.tensor([[True], [False], [True]]),
        variables=["part"],
    )
    assert labels.tolist() == [56, 54, 64]


def test_an_interchange_with_a_chain_of_variables_keeps_the_later_one():
    """x = a + 1, y = 2 x, z = y + a: with both active y hides x; with x alone y follows it."""
    chain = CausalModel(
        "chain",
        ("a",),
        (
            Variable("x", ("a",), lambda a: a + 1),
            Variable("y", ("x",), lambda x: 2 * x),
            Variable("z", ("y", "a"), lambda y, a: y + a),
        ),
        "z",
    )
    values = chain.run({"a": ints(0, 10, 20)})
    active = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    labels = chain.interchange(values, ints(0, 0, 0, 0), ints(1, 2).expand(4, 2), active, "xy")
    assert labels.tolist() == [42, 22, 42, 2]


def test_a_forced_row_is_told_apart_by_the_first_axis_alone():
    copy = CausalModel("copy", ("x",), (Variable("y", ("x",), lambda x: x),), "y")
    x, new = torch.zeros(2, 3), torch.ones(2, 3)
    found = copy.run({"x": x}, do={"y": new}, where={"y": torch.tensor([True, False])})["y"]
    assert found.tolist() == [[1.0] * 3, [0.0] * 3]


def test_inner_variables_are_those_that_the_output_is_computed_from():
    assert SUM.inner == ("part",)
    idle = Variable("idle", ("a",), lambda a: a)
    wider = CausalModel("wider", SUM.inputs, (*SUM.variables, idle), "total")
    assert wider.inner == ("part",)
    assert wider.run(INPUTS)["idle"].tolist() == [1, 2]


# ---------------------------------------------------------------- the cut of a diagram

BITS = [(0,), (1,)]
DISTRIBUTIVE = {name: BITS for name in AND_OR.inputs} | {
    name: [False, True] for name in ("left_and", "right_and", "middle", "outer", "label")
}
EQUAL = {name: BITS for name in ("x1", "x2", "x3", "x4", "first", "third")} | {
    name: [False, True] for name in ("left", "right", "label")
}

NAMES = {
    **{name: [0, 1] for name in ("first", "second", "subject", "answer", "name", "repeated")},
    "abab": [False, True],
}


def every_input(model: CausalModel, domains: dict[str, list]) -> dict[str, Tensor]:
    cells = list(product(*(domains[name] for name in model.inputs)))
    return {name: torch.tensor([cell[i] for cell in cells]) for i, name in enumerate(model.inputs)}


def joint_of(model: CausalModel, domains: dict[str, list], values: dict[str, Tensor]) -> np.ndarray:
    """How often every combination of values comes up, as `Diagram.joint` lays it out."""
    names = (*model.inputs, *(variable.name for variable in model.order))
    joint = np.zeros([len(domains[name]) for name in names])
    columns = [
        [domains[name].index(tuple(v) if isinstance(v, list) else v) for v in values[name].tolist()]
        for name in names
    ]
    np.add.at(joint, tuple(columns), 1 / len(columns[0]))
    return joint


@pytest.mark.parametrize(
    ("model", "domains"),
    [
        (AND_OR_AND, DISTRIBUTIVE),
        (AND_OR, DISTRIBUTIVE),
        *((m, EQUAL) for m in EQUALITY.values()),
        *((m, NAMES) for m in IOI.values()),
    ],
    ids=lambda case: getattr(case, "name", ""),
)
def test_do_agrees_with_the_graph_level_cut(model: CausalModel, domains: dict[str, list]):
    """Every joint probability, not only the output's; 1e-12 is rounding of a sum of 512 terms."""
    inputs, diagram = every_input(model, domains), model.diagram(domains)
    n = len(inputs[model.inputs[0]])
    np.testing.assert_allclose(
        diagram.joint(), joint_of(model, domains, model.run(inputs)), rtol=0, atol=1e-12
    )
    for node in (*model.inputs, *model.inner, model.output):
        forced = []
        for i, value in enumerate(domains[node]):
            do = {node: torch.tensor([value] * n)}
            forced.append(joint_of(model, domains, model.run(inputs, do=do)))
            np.testing.assert_allclose(diagram.do(node, i).joint(), forced[-1], rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            diagram.cut(node).joint(), np.mean(forced, 0), rtol=0, atol=1e-12
        )


def test_the_cut_tells_the_two_algorithms_of_the_distributive_law_apart():
    """Of 64 inputs a quarter has middle and outer: 1/2 * 3/4 = 3/8 true; forced, by hand."""
    inner, factored = AND_OR_AND.diagram(DISTRIBUTIVE), AND_OR.diagram(DISTRIBUTIVE)
    for diagram in (inner, factored):
        np.testing.assert_allclose(diagram.marginal("label"), [5 / 8, 3 / 8], atol=1e-12)
    assert inner.do("left_and", 1).marginal("label")[1] == pytest.approx(1, abs=1e-12)
    assert inner.do("left_and", 0).marginal("label")[1] == pytest.approx(1 / 4, abs=1e-12)
    assert factored.do("middle", 1).marginal("label")[1] == pytest.approx(3 / 4, abs=1e-12)
    assert factored.do("outer", 1).marginal("label")[1] == pytest.approx(1 / 2, abs=1e-12)


def test_domains_of_fractions_are_read_as_the_functions_compute_them():
    half = CausalModel("half", ("x",), (Variable("y", ("x",), lambda x: x / 2),), "y")
    diagram = half.diagram({"x": [0.2, 0.4], "y": [0.1, 0.2]})
    np.testing.assert_allclose(diagram.marginal("y"), [0.5, 0.5], atol=1e-12)


# ---------------------------------------------------------------- algorithms


def test_running_sums_recomputed_from_operands_equal_the_product():
    """10,000 pairs of three digits; Python's own multiplication is the judge."""
    stream = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 1000, (2, 10_000), generator=stream)
    inputs = operand_inputs(*(numbers[:, None] // ints(1, 10, 100) % 10 for numbers in (a, b)))
    product_ = torch.zeros_like(a)
    for k in range(6):
        product_ += 10**k * running_sums(k).run(inputs)[f"c_{k}"]
    assert product_.tolist() == [x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)]


def test_running_sums_by_hand():
    """19 * 25 = 475: chat = 45, 9*2 + 1*5 + 4 = 27, 1*2 + 2 = 4, 0; carries 4, 2, 0."""
    inputs = operand_inputs(torch.tensor([[9, 1]]), torch.tensor([[5, 2]]))
    values = running_sums(3, n_digits=2).run(inputs)
    assert [values[f"chat_{k}"].item() for k in range(4)] == [45, 27, 4, 0]
    assert [values[f"r_{k}"].item() for k in range(3)] == [4, 2, 0]
    assert values["c_3"].item() == 0
    forced = running_sums(1, n_digits=2).run(inputs, do={"r_0": ints(0)})
    assert forced["chat_1"].item() == 23
    assert forced["c_1"].item() == 3


def test_running_sums_hold_what_their_digit_needs_and_no_more():
    assert running_sums(0).inner == ("chat_0",)
    assert running_sums(2).inner == ("chat_0", "r_0", "chat_1", "r_1", "chat_2")
    assert running_sums(5).order[-2].parents == ("r_4",)
    assert running_sums(2).order[-2].parents == ("a0", "a1", "a2", "b2", "b1", "b0", "r_1")


# ---------------------------------------------------------------- drawing


def parsed(text: str) -> tuple[dict[str, str], dict[str, str], set[tuple[str, str]]]:
    """Labels, shapes and edges of a Mermaid graph; every line must be one or the other."""
    first, *lines = text.splitlines()
    assert first == "graph LR"
    labels, shapes, edges = {}, {}, set()
    for line in lines:
        if node := re.fullmatch(r'  (\w+)(\[/|\(\[|\()"([^"]*)"(/\]|\]\)|\))', line):
            ident, shapes[ident], labels[ident] = node[1], node[2] + node[4], node[3]
        else:
            edge = re.fullmatch(r"  (\w+) --> (\w+)", line)
            assert edge, line
            edges.add((edge[1], edge[2]))
    return labels, shapes, edges


@pytest.mark.parametrize(
    "model", [SUM, AND_OR, *EQUALITY.values(), running_sums(3)], ids=lambda model: model.name
)
def test_the_drawing_parses_to_the_graph(model: CausalModel):
    labels, shapes, edges = parsed(model.mermaid())
    drawn = {(labels[parent], labels[child]) for parent, child in edges}
    assert drawn == {(parent, v.name) for v in model.variables for parent in v.parents}
    kinds = {labels[ident]: shape for ident, shape in shapes.items()}
    assert {name for name, shape in kinds.items() if shape == "[//]"} == set(model.inputs)
    assert {name for name, shape in kinds.items() if shape == "([])"} == {model.output}


def test_names_cannot_break_a_drawing():
    variables = (reading('end"] <b>', "x-1", "x_1"), reading("y", 'end"] <b>'))
    odd = CausalModel("odd", ("x-1", "x_1"), variables, "y")
    labels, _, edges = parsed(odd.mermaid())
    assert list(labels.values()) == ["x-1", "x_1", "end&quot;] &lt;b>", "y"]
    assert edges == {("n0", "n2"), ("n1", "n2"), ("n2", "n3")}


# ---------------------------------------------------------------- errors


def model_of(*variables: Variable, inputs: tuple[str, ...] = ("a",), output: str = "out"):
    return CausalModel("toy", inputs, variables, output)


def reading(name: str, *parents: str) -> Variable:
    return Variable(name, parents, lambda *read: read[0])


def test_a_cycle_is_refused_and_named_without_what_follows_it():
    with says(
        InputError,
        "toy has a cycle among b, c: an algorithm must be acyclic, so cut one of these from its "
        "parents.",
    ):
        model_of(reading("out", "c"), reading("b", "a", "c"), reading("c", "b"))


def test_a_variable_that_reads_itself_is_a_cycle():
    with says(
        InputError,
        "toy has a cycle among out: an algorithm must be acyclic, so cut one of these from its "
        "parents.",
    ):
        model_of(reading("out", "a", "out"))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: reading("b"),
            "Variable 'b' reads nothing: give its parents, or make it an input.",
        ),
        (
            lambda: Variable("b", "ab", lambda a, b: a),  # type: ignore[arg-type]
            "Variable 'b' reads the text 'ab': give its parents as a tuple of names.",
        ),
        (
            lambda: Variable("b", ("a",), 3),  # type: ignore[arg-type]
            "Variable 'b': its function must be callable.",
        ),
        (
            lambda: model_of(reading("a", "a"), output="a"),
            "toy: 'a' appears twice: give each variable once.",
        ),
        (
            lambda: model_of(reading("out", "aa")),
            "toy: 'out' reads 'aa', which is no variable of it. Did you mean 'a'?",
        ),
        (
            lambda: model_of(reading("outs", "a")),
            "toy: its output 'out' is not among its computed variables: outs. Did you mean 'outs'?",
        ),
        (
            lambda: model_of(reading("out", "a"), output="a"),
            "toy: its output 'a' is not among its computed variables: out.",
        ),
    ],
)
def test_a_graph_that_is_none_is_refused(build, message: str):
    if "the text" in message or "callable" in message:
        build = unchecked(build)
    with says(InputError, message):
        build()


def unchecked(build):
    """Without the tests' own checks of types, as a user meets it."""

    def run():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Variable, "__init__", _plain_init)
            return build()

    return run


def _plain_init(self, name, parents, function):
    for key, value in (("name", name), ("parents", parents), ("function", function)):
        object.__setattr__(self, key, value)
    self.__post_init__()


@pytest.mark.parametrize(
    ("inputs", "do", "where", "message"),
    [
        (
            {"a": ints(1), "b": ints(1)},
            {},
            {},
            "sum: input 'c' is missing; its inputs: a, b, c.",
        ),
        (
            {**INPUTS, "part": ints(1, 2)},
            {},
            {},
            "sum has no input 'part'; its inputs: a, b, c. Force a computed variable with do.",
        ),
        (
            INPUTS,
            {"parts": ints(1, 2)},
            {},
            "sum cannot force 'parts': name a variable of it and give its value. Did you mean "
            "'part'?",
        ),
        (
            INPUTS,
            {},
            {"part": torch.tensor([True, True])},
            "sum cannot force 'part': name a variable of it and give its value. Did you mean "
            "'part'?",
        ),
        (
            INPUTS,
            {"part": ints(1, 2, 3)},
            {},
            "sum: the batches have [2, 3] rows: give one row an input everywhere.",
        ),
        (
            INPUTS,
            {"part": torch.tensor(3)},
            {},
            "sum: the batches have [0, 2] rows: give one row an input everywhere.",
        ),
        (
            INPUTS,
            {"part": torch.tensor([[1], [2]])},
            {},
            "'part' is forced to values of shape [2, 1]; it has [2]: give one value a row.",
        ),
        (
            INPUTS,
            {"part": torch.tensor([0.5, 1.0])},
            {},
            "'part' is forced to values that its type int64 cannot hold: give int64 values, not "
            "float32.",
        ),
    ],
)
def test_a_run_that_cannot_be_is_refused(inputs, do, where, message: str):
    with says(InputError, message):
        SUM.run(inputs, do=do, where=where)


def test_whole_numbers_of_another_type_may_be_forced():
    assert SUM.run(INPUTS, do={"part": torch.tensor([7.0, 8.0])})["total"].tolist() == [57, 68]


@pytest.mark.parametrize(
    ("function", "got"), [(lambda a: a.sum(), "[]"), (lambda a: a[:1], "[1]"), (len, "int")]
)
def test_a_function_that_does_not_return_one_value_a_row_is_refused(function, got: str):
    with says(
        InputError,
        f"toy: the function of 'out' returned {got} for 2 rows: return a tensor with one value a "
        "row.",
    ):
        model_of(Variable("out", ("a",), function)).run({"a": ints(1, 2)})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["parts"],
            "sum has no inner variable 'parts'; those that a network can be aligned to: part. Did "
            "you mean 'part'?",
        ),
        (
            ["total"],
            "sum has no inner variable 'total'; those that a network can be aligned to: part.",
        ),
        ([], "variables=[]: name at least one, and each once."),
        (["part", "part"], "variables=['part', 'part']: name at least one, and each once."),
    ],
)
def test_variables_that_cannot_be_interchanged_are_refused(names: list[str], message: str):
    with says(InputError, message):
        SUM.require(names)


def test_sources_must_have_a_column_a_variable():
    with says(
        InputError,
        "2 bases and 1 variables, but sources of shape [2, 2] and active of [2, 2]: give one row a "
        "base and one column a variable.",
    ):
        both = torch.ones(2, 2, dtype=torch.long)
        SUM.interchange(SUM.run(INPUTS), ints(0, 1), both, both > 0, ["part"])


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({"x": [0, 1]}, "domains lacks 'y': list the values of each variable."),
        ({"x": [], "y": [0]}, "The domain of 'x' is []: list at least one value, and each once."),
        (
            {"x": [0, 1, 1], "y": [0]},
            "The domain of 'x' is [0, 1, 1]: list at least one value, and each once.",
        ),
        (
            {"x": [0, 1], "y": [0, 1]},
            "'y' takes the value 2, which its domain [0, 1] lacks: list every value.",
        ),
    ],
)
def test_domains_that_do_not_fit_are_refused(domains: dict[str, list], message: str):
    twice = CausalModel("twice", ("x",), (Variable("y", ("x",), lambda x: 2 * x),), "y")
    with says(InputError, message):
        twice.diagram(domains)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: running_sums(6),
            "Digit 6 of a product of two 3-digit numbers: its digits are 0 (the last as written) "
            "to 5.",
        ),
        (lambda: running_sums(0, n_digits=10), "Operands of 10 digits: give 1 to 9."),
        (
            lambda: operand_inputs(torch.tensor([[1, 10]]), torch.tensor([[1, 2]])),
            "Operand a holds 10: give digits 0 to 9.",
        ),
        (
            lambda: operand_inputs(torch.tensor([[1, 1]]), torch.tensor([[1]])),
            "Operands of shapes [1, 2] and [1, 1]: pad both with zeros to one width.",
        ),
    ],
)
def test_operands_that_cannot_be_are_refused(build, message: str):
    with says(InputError, message):
        build()
