"""Algorithms as causal models: variables, what each is computed from, and what forcing one does.

A causal model is an acyclic graph of input variables and computed ones; the last computed value
that is asked for is its output. All values are batches: a tensor whose first axis counts inputs.
`run` computes every variable, `do` forces some of them first, and `interchange` forces variables to
the values that they have on other inputs: the counterfactual label of an interchange intervention.

Source: Geiger et al. 2021, arXiv:2106.02997; Geiger et al. 2023, arXiv:2301.04709.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from interp.diagrams import Box, Diagram
from interp.errors import InputError, nearest

Values = Mapping[str, Tensor]
"""A batch of values for each variable; the first axis counts inputs."""


@dataclass(frozen=True)
class Variable:
    """One computed variable: a deterministic function of its parents, vectorised over a batch.

    >>> both = Variable("both", ("left", "right"), lambda left, right: left & right)
    >>> both.parents
    ('left', 'right')
    """

    name: str
    parents: tuple[str, ...]
    function: Callable[..., Tensor]
    """Takes one batch for each parent, in order, and returns a batch."""

    def __post_init__(self) -> None:
        if isinstance(self.parents, str):
            raise InputError(
                f"Variable {self.name!r} reads the text {self.parents!r}: give its parents as a "
                "tuple of names."
            )
        object.__setattr__(self, "parents", tuple(self.parents))
        if not self.parents:
            raise InputError(
                f"Variable {self.name!r} reads nothing: give its parents, or make it an input."
            )
        if not callable(self.function):
            raise InputError(f"Variable {self.name!r}: its function must be callable.")


@dataclass(frozen=True)
class CausalModel:
    """An algorithm: inputs, computed variables in any order, and which of them is the output.

    >>> same = lambda a, b: a == b
    >>> model = CausalModel(
    ...     "both", ("a", "b", "c", "d"), (Variable("left", ("a", "b"), same),
    ...     Variable("right", ("c", "d"), same), Variable("out", ("left", "right"), same)), "out")
    >>> one, two = torch.tensor([1]), torch.tensor([2])
    >>> inputs = {"a": one, "b": one, "c": one, "d": two}
    >>> model.run(inputs)["out"].item(), model.run(inputs, do={"right": one == one})["out"].item()
    (False, True)

    Raises:
        InputError: a name twice, a parent that is no variable, a cycle, or an output that is
            not computed.
    """

    name: str
    inputs: tuple[str, ...]
    variables: tuple[Variable, ...]
    output: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "variables", tuple(self.variables))
        names = [*self.inputs, *(variable.name for variable in self.variables)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{self.name}: {twice[0]!r} appears twice: give each variable once.")
        for variable in self.variables:
            for parent in variable.parents:
                if parent not in names:
                    raise InputError(
                        f"{self.name}: {variable.name!r} reads {parent!r}, which is no variable of "
                        f"it.{nearest(parent, names)}"
                    )
        computed = names[len(self.inputs) :]
        if self.output not in computed:
            raise InputError(
                f"{self.name}: its output {self.output!r} is not among its computed variables: "
                f"{', '.join(computed) or 'none'}.{nearest(self.output, computed)}"
            )
        self.order  # noqa: B018  a cycle is refused here

    @cached_property
    def order(self) -> tuple[Variable, ...]:
        """The computed variables, each after its parents."""
        known, left, order = set(self.inputs), list(self.variables), []
        while left:
            ready = [variable for variable in left if known >= set(variable.parents)]
            if not ready:
                raise InputError(
                    f"{self.name} has a cycle among {', '.join(_in_cycles(left))}: an algorithm "
                    "must be acyclic, so cut one of these from its parents."
                )
            order += ready
            known |= {variable.name for variable in ready}
            left = [variable for variable in left if variable.name not in known]
        return tuple(order)

    @property
    def inner(self) -> tuple[str, ...]:
        """The computed variables that the output is computed from: what a network is aligned to.

        One that the output does not depend on is none of them: no interchange of it shows.
        """
        read: set[str] = {self.output}
        for variable in reversed(self.order):
            if variable.name in read:
                read |= set(variable.parents)
        return tuple(v.name for v in self.order if v.name in read and v.name != self.output)

    def run(
        self,
        inputs: Values,
        *,
        do: Values | None = None,
        where: Mapping[str, Bool[Tensor, " n"]] | None = None,
    ) -> dict[str, Tensor]:
        """Compute every variable; those in `do` are forced instead, in the rows `where` says.

        Args:
            inputs: a batch for each input.
            do: what some variables are forced to, one value a row. Inputs may be forced too.
            where: for a forced variable the rows in which it is; by default all.

        Raises:
            InputError: an input that is missing or unknown, a forced variable that is unknown or
                whose values have another shape or do not fit its type, batches of different
                lengths, or a function that does not return one value a row.
        """
        forced, rows = dict(do or {}), dict(where or {})
        self._check(inputs, forced, rows)
        values = {name: _forced(inputs[name], name, forced, rows) for name in self.inputs}
        for variable in self.order:
            computed = self._computed(variable, [values[parent] for parent in variable.parents])
            values[variable.name] = _forced(computed, variable.name, forced, rows)
        return values

    def interchange(
        self,
        values: Values,
        base: Int[Tensor, " pair"],
        sources: Int[Tensor, "pair variable"],
        active: Bool[Tensor, "pair variable"],
        variables: Sequence[str],
    ) -> Shaped[Tensor, "pair ..."]:
        """Return the output on each base with active variables as they are on their sources.

        Equal to `run` with `do` and `where`, but only what the variables reach is computed anew.

        Args:
            values: every variable on all inputs, as `run` returns it.
            base: the row of each pair's base.
            sources: the row of the source of each variable.
            active: which variables are interchanged.
            variables: the names that the last axis of `sources` and `active` counts.

        Raises:
            InputError: variables that are not inner ones, or sources and active that have not
                one row a base and one column a variable.
        """
        self.require(variables)
        shape = (len(base), len(variables))
        if sources.shape != shape or active.shape != shape:
            raise InputError(
                f"{len(base)} bases and {len(variables)} variables, but sources of shape "
                f"{list(sources.shape)} and active of {list(active.shape)}: give one row a base "
                "and one column a variable."
            )
        do = {name: values[name][sources[:, i]] for i, name in enumerate(variables)}
        where = {name: active[:, i] for i, name in enumerate(variables)}
        new: dict[str, Tensor] = {}
        for variable in self.order:
            if any(parent in new for parent in variable.parents):
                read = [new[p] if p in new else values[p][base] for p in variable.parents]
                computed = self._computed(variable, read)
            elif variable.name in do:
                computed = values[variable.name][base]
            else:
                continue
            new[variable.name] = _forced(computed, variable.name, do, where)
        return new[self.output]

    def require(self, variables: Iterable[str]) -> None:
        """Refuse names that are not inner variables of the algorithm.

        Raises:
            InputError: no name, one twice, or one that is an input, the output or unknown.
        """
        names = tuple(variables)
        for name in names:
            if name not in self.inner:
                raise InputError(
                    f"{self.name} has no inner variable {name!r}; those that a network can be "
                    f"aligned to: {', '.join(self.inner) or 'none'}.{nearest(name, self.inner)}"
                )
        if not names or len(set(names)) != len(names):
            raise InputError(f"variables={list(names)}: name at least one, and each once.")

    def diagram(self, domains: Mapping[str, Sequence[object]]) -> Diagram:
        """Return the algorithm as boxes of probabilities, inputs uniform over their domains.

        `domains` lists the values of every variable, each a number (or a tuple for a vector).

        Raises:
            InputError: a domain is missing, empty or has a value twice, or a function leaves its
                variable's domain.
        """
        for name in (*self.inputs, *(variable.name for variable in self.order)):
            if name not in domains:
                raise InputError(f"domains lacks {name!r}: list the values of each variable.")
            values = [_plain(value) for value in domains[name]]
            if not values or any(value in values[:i] for i, value in enumerate(values)):
                raise InputError(
                    f"The domain of {name!r} is {values}: list at least one value, and each once."
                )
        uniform = [Box(n, (), np.full(len(domains[n]), 1 / len(domains[n]))) for n in self.inputs]
        return Diagram((*uniform, *(_box(variable, domains) for variable in self.order)))

    def mermaid(self) -> str:
        """Return the graph in Mermaid's language, which notebooks and GitHub draw.

        Inputs are slanted, the output is round; names are quoted, so none can break the drawing.
        """
        names = (*self.inputs, *(variable.name for variable in self.order))
        ids = {name: f"n{place}" for place, name in enumerate(names)}
        lines = ["graph LR", *(f"  {ids[name]}[/{_quoted(name)}/]" for name in self.inputs)]
        for variable in self.order:
            left, right = ("([", "])") if variable.name == self.output else ("(", ")")
            lines.append(f"  {ids[variable.name]}{left}{_quoted(variable.name)}{right}")
            lines += [f"  {ids[parent]} --> {ids[variable.name]}" for parent in variable.parents]
        return "\n".join(lines)

    def _computed(self, variable: Variable, read: Sequence[Tensor]) -> Tensor:
        computed = variable.function(*read)
        if not isinstance(computed, Tensor) or computed.shape[:1] != read[0].shape[:1]:
            got = list(computed.shape) if isinstance(computed, Tensor) else type(computed).__name__
            raise InputError(
                f"{self.name}: the function of {variable.name!r} returned {got} for "
                f"{len(read[0])} rows: return a tensor with one value a row."
            )
        return computed

    def _check(self, inputs: Values, forced: Values, rows: Mapping[str, Tensor]) -> None:
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise InputError(
                f"{self.name}: input {missing[0]!r} is missing; its inputs: "
                f"{', '.join(self.inputs)}."
            )
        for name in inputs:
            if name not in self.inputs:
                raise InputError(
                    f"{self.name} has no input {name!r}; its inputs: {', '.join(self.inputs)}. "
                    "Force a computed variable with do."
                )
        names = (*self.inputs, *(v.name for v in self.variables))
        for name in (*forced, *rows):
            if name not in names or (name in rows and name not in forced):
                raise InputError(
                    f"{self.name} cannot force {name!r}: name a variable of it and give its value."
                    f"{nearest(name, names)}"
                )
        for name, batch in (*inputs.items(), *forced.items(), *rows.items()):
            if not isinstance(batch, Tensor):
                raise InputError(
                    f"{self.name}: {name!r} is of type {type(batch).__name__}: give a tensor with "
                    "one value a row, such as torch.tensor([1, 0])."
                )
        given = [*(inputs[name] for name in self.inputs), *forced.values(), *rows.values()]
        lengths = {len(batch) if batch.ndim else 0 for batch in given}
        if len(lengths) > 1 or not all(batch.ndim for batch in given):
            raise InputError(
                f"{self.name}: the batches have {sorted(lengths)} rows: give one row an input "
                "everywhere."
            )


def _forced(
    computed: Tensor, name: str, forced: Values, rows: Mapping[str, Bool[Tensor, " n"]]
) -> Tensor:
    if name not in forced:
        return computed
    value = forced[name].to(computed.dtype)
    if not torch.equal(value.to(forced[name].dtype), forced[name]):
        raise InputError(
            f"{name!r} is forced to values that its type {_type(computed)} cannot hold: give "
            f"{_type(computed)} values, not {_type(forced[name])}."
        )
    if value.shape != computed.shape:
        raise InputError(
            f"{name!r} is forced to values of shape {list(value.shape)}; it has "
            f"{list(computed.shape)}: give one value a row."
        )
    if name not in rows:
        return value
    where = rows[name].reshape(-1, *([1] * (computed.ndim - 1)))
    return torch.where(where, value, computed)


def _box(variable: Variable, domains: Mapping[str, Sequence[object]]) -> Box:
    """The table of a deterministic variable: one for its value, zero elsewhere."""
    own = [_plain(value) for value in torch.tensor(list(domains[variable.name])).tolist()]
    parents = [domains[parent] for parent in variable.parents]
    cells = list(product(*parents))
    columns = [torch.tensor([cell[i] for cell in cells]) for i in range(len(parents))]
    computed = [_plain(value) for value in variable.function(*columns).tolist()]
    outside = [value for value in computed if value not in own]
    if outside:
        raise InputError(
            f"{variable.name!r} takes the value {outside[0]}, which its domain {own} lacks: "
            "list every value."
        )
    table = np.zeros((len(cells), len(own)))
    table[np.arange(len(cells)), [own.index(value) for value in computed]] = 1.0
    shape = [len(values) for values in parents]
    return Box(variable.name, variable.parents, table.reshape(*shape, len(own)))


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _type(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _quoted(name: str) -> str:
    escaped = name.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'"{escaped}"'


def _in_cycles(left: Sequence[Variable]) -> list[str]:
    """The names of variables that stand in cycles or between two, without what only follows."""
    while True:
        read = {parent for variable in left for parent in variable.parents}
        if all(variable.name in read for variable in left):
            return [variable.name for variable in left]
        left = [variable for variable in left if variable.name in read]
