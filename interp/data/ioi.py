"""Indirect objects: "... Amy and Paul met, Paul gave the key to" is continued by the other name.

Two names come in some order, and one of them again: `abab` says that it is the first (so the second
is the answer), else it is the second. Our own sentences in 15 frames, each of either pattern, and
names that are one token each. Names are split apart, so that a map can be scored on names that no
sentence of its fitting held. Task: Wang et al. 2022, arXiv:2211.00593; as a test of alignment
maps with unseen names: Sutter et al. 2025, arXiv:2507.08802.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp.causal_models import CausalModel, Variable
from interp.data.counterfactuals import Table
from interp.errors import InputError, nearest
from interp.models.tiny import PIECES, piece_tokenizer

FRAMES = (
    "When {0} and {1} met at the {place}, {2} handed the {object} to",
    "After lunch {0} and {1} walked to the {place}, where {2} gave the {object} to",
    "Yesterday {0} and {1} were both at the {place}, and {2} passed the {object} to",
    "While {0} and {1} waited near the {place}, {2} offered the {object} to",
    "Since {0} and {1} shared a desk in the {place}, {2} lent the {object} to",
    "Once {0} and {1} had left the {place}, {2} returned the {object} to",
    "Then {0} and {1} drove back from the {place}, and {2} brought the {object} to",
    "Before {0} and {1} closed the {place}, {2} sold the {object} to",
    "Because {0} and {1} cleaned the {place}, {2} owed the {object} to",
    "As {0} and {1} sat outside the {place}, {2} showed the {object} to",
    "Last week {0} and {1} found a {object} in the {place}, and {2} left it to",
    "In the {place} {0} and {1} had an argument, so {2} threw the {object} to",
    "At the {place} {0} and {1} played a game, and {2} rolled the {object} to",
    "Today {0} and {1} painted the {place}, and later {2} mailed the {object} to",
    "Finally {0} and {1} reached the {place}, and {2} carried the {object} to",
)
"""Each is read in both patterns: {2} is {0} (abab) or {1}."""

_PLACES = """
    store park school office garden house market library museum station church kitchen hotel
    castle hospital theater airport beach farm bakery
"""
PLACES = tuple(_PLACES.split())
_OBJECTS = """
    drink book ball ring letter key map coin flower hat cup pen knife guitar camera bag box
    watch basket bone
"""
OBJECTS = tuple(_OBJECTS.split())
_NAMES = """
    Aaron Adam Alan Albert Alex Alfred Alice Allison Amy Andrea Andrew Angela Anna Anne
    Anthony Arthur Barbara Ben Bill Bob Brian Bruce Carl Carol Charles Charlie Chris Christine
    Claire Clara Colin Crystal Dan Daniel David Dean Diana Donald Edith Edward Elizabeth Ellen
    Emily Emma Eric Eva Felix Frank Fred Gary George Grace Graham Greg Hannah Harold Harry
    Helen Henry Howard Hugh Ian Iris Ivan Jack Jacob Jake James Jane Jason Jay Jean Jeff
    Jennifer Jerry Jessica Jim Joan Joe John Jonathan Jordan Joseph Joshua Juan Julia Julian
    Justin Karen Kate Keith Kelly Kevin Kim Larry Laura Lee Leo Leon Leonard Lewis Lily Linda
    Lisa Louis Lucy Luke Marcus Margaret Maria Marie Mark Martha Martin Mary Matt Matthew Max
    Michael Michelle Mike Nancy Nathan Neil Nicholas Nick Nicole Norman Oliver Oscar Owen
    Patricia Patrick Paul Peter Philip Rachel Ralph Ray Rebecca Richard Robert Roger Ron Rose
    Ross Roy Russell Ruth Ryan Sam Samuel Sara Sarah Scott Sean Simon Sophie Stephen Steve
    Steven Stewart Stuart Susan Ted Terry Theodore Thomas Tim Tom Tony Victor Victoria Vincent
    Walter Warren Wayne William
"""
NAMES = tuple(_NAMES.split())
"""First names, from which those are taken that a tokenizer has as one token."""

N_NAMES, SHARES = 100, (60, 20, 20)
"""Names of a task, and how many belong to fitting, to choices on held-out names, and to tests."""

Split = Literal["train", "validation", "test", "validation names", "unseen names", "network"]
SPLITS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "train": ((0,), tuple(range(8))),
    "validation": ((0,), (8,)),
    "test": ((0,), (9,)),
    "validation names": ((1,), (8,)),
    "unseen names": ((2,), (9,)),
    "network": ((0, 1, 2), tuple(range(8))),
}
"""Which groups of names, and which tenths of all sentences. `network` is for training one: a
network answers only with names that it has seen, whereas maps are fitted on the first group."""


def _pattern(first: Tensor, subject: Tensor) -> Tensor:
    return first == subject


def _other(first: Tensor, second: Tensor, abab: Tensor) -> Tensor:
    return torch.where(abab, second, first)


def _other_than(first: Tensor, second: Tensor, repeated: Tensor) -> Tensor:
    return torch.where(repeated == first, second, first)


_INPUTS = ("first", "second", "subject")
ALGORITHMS: Mapping[str, CausalModel] = {
    "pattern": CausalModel(
        "pattern",
        _INPUTS,
        (
            Variable("abab", ("first", "subject"), _pattern),
            Variable("answer", ("first", "second", "abab"), _other),
        ),
        "answer",
    ),
    "answer_name": CausalModel(
        "answer_name",
        _INPUTS,
        (
            Variable("name", _INPUTS, _other_than),
            Variable("answer", ("name",), torch.clone),
        ),
        "answer",
    ),
    "repeated_name": CausalModel(
        "repeated_name",
        _INPUTS,
        (
            Variable("repeated", ("subject",), torch.clone),
            Variable("answer", ("first", "second", "repeated"), _other_than),
        ),
        "answer",
    ),
}
"""Three that answer alike and differ in what they hold: a boolean, the answer itself, or the name
that comes twice. Only the first keeps the base's names under any source's `abab`."""


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences by number: of the frame, of the task's names, of the place and the object."""

    frame: Int[Tensor, " sentence"]
    first: Int[Tensor, " sentence"]
    second: Int[Tensor, " sentence"]
    abab: Bool[Tensor, " sentence"]
    place: Int[Tensor, " sentence"]
    object: Int[Tensor, " sentence"]

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def subject(self) -> Int[Tensor, " sentence"]:
        """The name that comes twice."""
        return torch.where(self.abab, self.first, self.second)

    @property
    def answer(self) -> Int[Tensor, " sentence"]:
        """The name that comes once."""
        return torch.where(self.abab, self.second, self.first)

    def texts(self, names: Sequence[str]) -> list[str]:
        """Write the sentences out, up to the answer."""
        columns = (self.frame, self.first, self.second, self.subject, self.place, self.object)
        return [
            FRAMES[frame].format(
                *(names[i] for i in people), place=PLACES[place], object=OBJECTS[thing]
            )
            for frame, *people, place, thing in zip(*(c.tolist() for c in columns), strict=True)
        ]


@dataclass(frozen=True, eq=False)
class IOI:
    """The task for one tokenizer.

    Args:
        tokenizer: of the network.
        answers: `vocabulary` labels a pair by its token, `names` by the place of its name in
            `names`; for the latter let the subject answer with `answer_tokens` alone.
        seed: of which names fall into which group.
        frames: how many of the 15 frames sentences are made of, the first ones.
        people: how many names of the first group sentences are made of, the first ones. Fewer
            frames and names make a smaller world, which a small random network tells apart.

    Raises:
        InputError: no tokenizer, or one with fewer than 100 of the names as a token of their own;
            frames or people that there are not.
    """

    tokenizer: Any = field(repr=False)
    answers: Literal["vocabulary", "names"] = "vocabulary"
    seed: int = 0
    frames: int = len(FRAMES)
    people: int = SHARES[0]

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= len(FRAMES) or not 2 <= self.people <= SHARES[0]:
            raise InputError(
                f"frames={self.frames}, people={self.people}: there are 1 to {len(FRAMES)} frames, "
                f"and 2 to {SHARES[0]} names of the first group."
            )
        if self.answers not in ("vocabulary", "names"):
            raise InputError(f"answers={self.answers!r}: write 'vocabulary' or 'names'.")
        if self.tokenizer is None:
            raise InputError(
                "ioi needs the tokenizer of the model, which brings none: load a folder or an id "
                "that has one, or pass tokenizer= to interp.load."
            )
        self.names  # noqa: B018  a tokenizer without enough names is refused here

    name = "ioi"
    algorithms = ALGORITHMS

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The 100 names: first those of fitting, then the two groups that are held out."""
        return names_of(self.tokenizer, seed=self.seed)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The names of the three groups."""
        ends = [sum(SHARES[: i + 1]) for i in range(len(SHARES))]
        return tuple(self.names[e - n : e] for e, n in zip(ends, SHARES, strict=True))

    @cached_property
    def answer_tokens(self) -> tuple[int, ...]:
        """The token of each name, as it follows a word."""
        return tuple(_pieces(self.tokenizer, name)[0] for name in self.names)

    @property
    def n_answers(self) -> int:
        """How many answers a label may be."""
        return len(self.tokenizer) if self.answers == "vocabulary" else N_NAMES

    def rivals(self, algorithm: str) -> tuple[str, ...]:
        """Return the algorithms that answer alike on every sentence and differ inside."""
        self._require(algorithm)
        return tuple(name for name in self.algorithms if name != algorithm)

    def sentences(self, n: int, seed: int, *, split: str = "train") -> Sentences:
        """Draw different sentences of a split; equal seeds give equal ones.

        Raises:
            InputError: an unknown split, or more sentences than half of it has.
        """
        if split not in SPLITS:
            raise InputError(
                f"There is no split {split!r}; there are: {', '.join(SPLITS)}."
                f"{nearest(split, SPLITS)}"
            )
        groups, tenths = SPLITS[split]
        members = (list(_members(g))[: None if g else self.people] for g in groups)
        people = torch.tensor([i for group in members for i in group])
        per_couple = self.frames * 2 * len(PLACES) * len(OBJECTS)
        most = len(people) * (len(people) - 1) * per_couple * len(tenths) // 20
        if not 1 <= n <= most:
            raise InputError(f"{n} sentences of split {split!r}: ask for 1 to {most}.")
        return _drawn(n, people, self.frames, tenths, torch.Generator().manual_seed(seed))

    def table(
        self, algorithm: str, n: int, seed: int, *, split: str = "train", width: int | None = None
    ) -> Table:
        """Return sentences as tokens `[n, width]` (-1 behind the end) with what one algorithm says.

        Equal n, seed and split give equal inputs for every algorithm.

        Raises:
            InputError: an unknown algorithm or split, or a width below the longest sentence.
        """
        self._require(algorithm)
        found, model = self.sentences(n, seed, split=split), self.algorithms[algorithm]
        called = torch.arange(N_NAMES)
        if self.answers == "vocabulary":
            called = torch.tensor(self.answer_tokens)
        people = {name: called[getattr(found, name)] for name in _INPUTS}
        inputs = self.tokens(found.texts(self.names), width=width)
        return Table(model, model.inner, inputs, model.run(people), _any_two)

    def tokens(self, texts: Sequence[str], *, width: int | None = None) -> Int[Tensor, "text pos"]:
        """Return the token ids of texts, -1 behind each one's end.

        Raises:
            InputError: a text is longer than the width.
        """
        rows: list[list[int]] = self.tokenizer(list(texts))["input_ids"]
        longest = max(map(len, rows))
        if width is not None and width < longest:
            raise InputError(f"width={width}: the longest sentence has {longest} tokens.")
        width = width or longest
        return torch.tensor([row + [-1] * (width - len(row)) for row in rows])

    def candidates(self, table: Table) -> Int[Tensor, "input 2"]:
        """Return the two answers between which a restricted score decides: the base's names."""
        return torch.stack([table.values["first"], table.values["second"]], dim=1)

    def labels(self, table: Table) -> Int[Tensor, " input"]:
        """Return the right answer of each sentence."""
        return table.values[table.algorithm.output].long()

    def _require(self, algorithm: str) -> None:
        if algorithm not in self.algorithms:
            raise InputError(
                f"ioi has no algorithm {algorithm!r}; there are: {', '.join(self.algorithms)}."
                f"{nearest(algorithm, self.algorithms)}"
            )


def names_of(tokenizer: Any, *, seed: int = 0) -> tuple[str, ...]:
    """Return 100 names that a tokenizer has as one token each, no two the same, shuffled.

    Raises:
        InputError: there are fewer.
    """
    found: dict[int, str] = {}
    for name in NAMES:
        pieces = _pieces(tokenizer, name)
        if len(pieces) == 1:
            found.setdefault(pieces[0], name)
    if len(found) < N_NAMES:
        raise InputError(
            f"The tokenizer has only {len(found)} of {len(NAMES)} names as one token, and the task "
            f"needs {N_NAMES}: use word_tokenizer(), or a tokenizer with a larger vocabulary."
        )
    every = list(found.values())
    kept = [every[i * len(every) // N_NAMES] for i in range(N_NAMES)]  # of every initial
    order = torch.randperm(N_NAMES, generator=torch.Generator().manual_seed(seed))
    return tuple(kept[i] for i in order.tolist())


def word_tokenizer(*, n_ctx: int = 32) -> PreTrainedTokenizerFast:
    """Return a tokenizer that has every word of the frames, places, objects and names as a token.

    >>> tok = word_tokenizer()
    >>> tok.convert_ids_to_tokens(tok("When Amy and Paul met at the park,").input_ids)[:3]
    ['<bos>', 'When', 'ĠAmy']
    """
    words = [word for frame in FRAMES for word in frame.replace(",", " ,").split()]
    plain = [word for word in dict.fromkeys(words) if "{" not in word and word != ","]
    spaced = [f" {word}" for word in (*plain, *PLACES, *OBJECTS, *NAMES)]
    starts = [frame.split()[0] for frame in FRAMES]
    return piece_tokenizer([*starts, *spaced], pattern=PIECES, n_ctx=n_ctx)


def _members(group: int) -> Iterable[int]:
    start = sum(SHARES[:group])
    return range(start, start + SHARES[group])


def _drawn(
    n: int, people: Tensor, frames: int, tenths: Sequence[int], stream: torch.Generator
) -> Sentences:
    """Draw sentences of some names whose tenth is among those asked for, no two the same."""
    sizes = (frames, len(people), len(people) - 1, 2, len(PLACES), len(OBJECTS))
    kept = torch.empty(0, 6, dtype=torch.long)
    while len(kept) < n:
        many = 2 * n * 10 // len(tenths) + 16
        drawn = [torch.randint(size, (many,), generator=stream) for size in sizes]
        drawn[2] = drawn[2] + (drawn[2] >= drawn[1])  # another name than the first
        drawn[1], drawn[2] = people[drawn[1]], people[drawn[2]]
        rows = torch.stack(drawn, dim=1)
        kept = torch.cat([kept, rows[torch.isin(_tenth(rows), torch.tensor(tenths))]])
        kept = _each_once(kept)
    frame, first, second, abab, place, thing = kept[:n].unbind(1)
    return Sentences(frame, first, second, abab.bool(), place, thing)


def _tenth(rows: Int[Tensor, "sentence 6"]) -> Int[Tensor, " sentence"]:
    """Return the tenth of all sentences that each belongs to: fixed, whatever is drawn."""
    code = torch.zeros(len(rows), dtype=torch.long)
    for column, size in zip(
        rows.unbind(1), (len(FRAMES), N_NAMES, N_NAMES, 2, len(PLACES), len(OBJECTS)), strict=True
    ):
        code = code * size + column
    return (code * 2_654_435_761 % 2**32 >> 16) % 10  # multiplicative hashing


def _each_once(rows: Int[Tensor, "sentence 6"]) -> Int[Tensor, "some 6"]:
    """Drop rows that came before, keeping the order."""
    _, place = rows.unique(dim=0, return_inverse=True)
    first = torch.full((int(place.max()) + 1,), len(rows)) if len(rows) else rows.new_empty(0)
    first = first.scatter_reduce(0, place, torch.arange(len(rows)), "amin")
    return rows[first.sort().values]


def _any_two(table: Table, n: int, stream: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Bases and sources of any pattern: half of the sources have the other one."""
    base = torch.randint(len(table), (n,), generator=stream)
    sources = torch.randint(len(table), (n, 1), generator=stream)
    return base, sources, torch.ones(n, 1, dtype=torch.bool)


def _pieces(tokenizer: Any, name: str) -> list[int]:
    return list(tokenizer(f" {name}", add_special_tokens=False)["input_ids"])
