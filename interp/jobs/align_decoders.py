"""Tasks of decoders: indirect objects in sentences, and the running sums of multiplication."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from interp.alignment.language import LanguageSubject, checkpoints
from interp.alignment.subjects import Cut, Subject
from interp.data import multiplication
from interp.data.counterfactuals import Draw, Table
from interp.data.ioi import IOI
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError, nearest
from interp.jobs.align_cells import SEEDS, Kind, Split
from interp.models.weights import weights_hash

SMALL = 10_000_000
"""Parameters of a model for which prompts are cheap."""
SCORED = 500
"""Prompts on which task accuracy is measured, at most."""
LEAST_SOLVED = 50
"""Prompts of a split that are left where only solved ones are kept, at least."""
WIDTH = 32
"""Tokens of a row of sentences, shorter ones filled up."""


class _Decoder:
    """A decoder, read and edited at the last token of its prompts.

    One network has several map seeds in place of several networks; its twins are the same
    configuration with random weights. A prompt costs more than a vector does, so tables and sets of
    pairs are bounded by `_sizes`, whatever the budget says.

    Args:
        model: folder, registry name or Hugging Face id.
        n: map seeds, and twins.
        solved_only: keep the prompts whose most likely next token, of all, the model has right, as
            MIB does (Mueller et al. 2025, arXiv:2504.13151); twins get the same ones.
        revision: a checkpoint: of a Hugging Face id, or a folder in the folder `model`.
        dtype: of the model, its twins and the maps; no map is fitted in half precision.
    """

    algorithms: tuple[str, ...]
    answers: tuple[int, ...] | None = None
    """The tokens that a label counts; None for the whole vocabulary."""
    prompts: str
    """The prompts in words."""
    components: tuple[str, ...] = ("resid_post",)
    simple: tuple[str, ...] = ("mask", "orthogonal")
    """A search for single neurons takes a pass for each; a mask over them is fitted."""

    def __init__(
        self,
        model: str,
        n: int,
        *,
        revision: str | None = None,
        dtype: str = "float32",
        solved_only: bool = False,
    ) -> None:
        if revision is None:
            self._model = load(model, dtype=dtype)
        else:
            ((_, self._model),) = checkpoints(model, [revision], dtype=dtype)
        layers = range(self._model.sizes.n_layers)
        self.sites = tuple(f"{i}.{name}" for i in layers for name in self.components)
        self.width = self._model.sizes.d_model
        self.nets: tuple[int, ...] = (0,)
        self.map_seeds, self.twins = tuple(range(n)), tuple(range(1, n + 1))
        self.weights = self.fingerprint(0, "trained")
        self._most = _sizes(sum(w.numel() for w in self._model.hf.parameters()))
        self.solved_only = solved_only
        self._solved: dict[str, Tensor] = {}
        self.model = lru_cache(maxsize=n + 1)(self._net)
        self.subject = lru_cache(maxsize=4)(self._subject)  # each keeps keys and values
        self.accuracy = lru_cache(maxsize=None)(self._accuracy)

    def table(self, algorithm: str, split: Split, n: int) -> Table:
        """At most n prompts of a split, with an algorithm's variables.

        It draws at most as many pairs at once as the model can afford.
        """
        inputs, pairs = self._most[split == "train"]
        made = self._prompts(algorithm, split, min(n, inputs))
        if self.solved_only:
            made = made.at(self.kept(algorithm, split, len(made)))
        return replace(made, draw=at_most(pairs, made.draw))

    @property
    def inputs(self) -> str:
        """The test inputs in words."""
        if not self.solved_only:
            return self.prompts
        most, _ = self._most[False]
        share = len(self.kept(self.algorithms[0], "test", most)) / most
        return f"{self.prompts}, of them the {share:.0%} that the model completes right"

    def kept(self, algorithm: str, split: Split, n: int) -> Int[Tensor, " kept"]:
        """The prompts that the model completes right, found once for all algorithms of them."""
        table = self._prompts(algorithm, split, n)
        if table.hash not in self._solved:
            self._solved[table.hash] = self._right(0, "trained", table).nonzero()[:, 0]
        found = self._solved[table.hash]
        if len(found) < LEAST_SOLVED:
            raise InputError(
                f"--solved-only: the model completes {len(found)} of {n} prompts of the {split} "
                f"split right, and {LEAST_SOLVED} are needed; give another model."
            )
        return found

    def fingerprint(self, net: int, kind: Kind) -> str:
        """A hash of the model's weights."""
        return weights_hash(self._model.hf if kind == "trained" else self.model(net, kind).hf)

    def _prompts(self, algorithm: str, split: Split, n: int) -> Table:
        raise NotImplementedError

    def _accuracy(self, net: int, kind: Kind, algorithm: str) -> float:
        """The share of test prompts whose most likely token, of all, is the right one."""
        table = self.table(algorithm, "test", SCORED)
        return float(self._right(net, kind, table).double().mean())

    def _right(self, net: int, kind: Kind, table: Table) -> Bool[Tensor, " input"]:
        """Which prompts a model completes right, with all tokens to choose from."""
        cut = LanguageSubject(self.model(net, kind), self.sites[-1]).cut(table.inputs)
        right = table.values[table.algorithm.output].long()
        if self.answers is not None:
            right = torch.tensor(self.answers)[right]
        return cut.clean().argmax(1) == right

    def _net(self, net: int, kind: Kind) -> Model:
        """The model, or a twin with random weights."""
        if kind == "trained":
            return self._model
        hf: Any = self._model.hf
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(net)
            twin = type(hf)(hf.config).to(hf.dtype).eval()
        return load(twin, tokenizer=self._model.tokenizer)

    def _subject(self, net: int, kind: Kind, at: str) -> Subject:
        return _Once(LanguageSubject(self.model(net, kind), at, answers=self.answers))


class Sentences(_Decoder):
    """Indirect objects in sentences, and a language model that completes them.

    An answer is any token of the vocabulary.
    """

    name = "ioi"
    prompts = "sentences of 30 templates with the names that maps are fitted on"
    unseen: str | None = "unseen names"
    alike = ""

    def __init__(self, model: str, n: int, **options: Any) -> None:
        super().__init__(model, n, **options)
        self._task = IOI(self._model.tokenizer)
        self.algorithms = tuple(self._task.algorithms)

    def rivals(self, algorithm: str) -> tuple[str, ...]:
        """Algorithms that answer alike on every sentence."""
        return self._task.rivals(algorithm)

    def variables(self, algorithm: str) -> tuple[str, ...]:
        """The inner variables of an algorithm."""
        return self._task.algorithms[algorithm].inner

    def candidates(self, table: Table) -> Int[Tensor, "input 2"]:
        """The two names between which a restricted score decides; it flatters.

        Source: Sutter et al. 2025, arXiv:2507.08802, section on IOI.
        """
        return self._task.candidates(table)

    def _prompts(self, algorithm: str, split: Split, n: int) -> Table:
        where = "unseen names" if split == "unseen" else split
        return self._task.table(algorithm, n, SEEDS[split], split=where, width=WIDTH)


class Products(_Decoder):
    """Products of two numbers, and a small decoder that writes them digit by digit.

    An algorithm is named by the variable that it is tested for: `chat_k`, the running sum of digit
    k, or `r_k`, the carry into digit k + 1. Both are on the way to one digit of the answer, before
    which the prompt ends, so each is the other's rival. The prompt holds the digits before, right.

    Raises:
        InputError: the model's tokens or context are not those of `interp.data.multiplication`.
    """

    name = "multiplication"
    prompts = "products of two numbers, cut before a digit of the answer"
    unseen: str | None = "unseen first numbers"
    alike = ""
    answers = tuple(range(multiplication.BASE))
    components = ("resid_mid", "resid_post")

    def __init__(self, model: str, n: int, **options: Any) -> None:
        super().__init__(model, n, **options)
        sizes = self._model.sizes
        self._digits = _digits_of(sizes.d_vocab, sizes.n_ctx, model)
        self.algorithms = tuple(
            name for k in range(1, 2 * self._digits) for name in (f"chat_{k}", f"r_{k - 1}")
        )

    def rivals(self, algorithm: str) -> tuple[str, ...]:
        """The other variable on the way to the same digit."""
        k = self._digit(algorithm)
        return tuple(name for name in (f"chat_{k}", f"r_{k - 1}") if name != algorithm)

    def variables(self, algorithm: str) -> tuple[str, ...]:
        """The one variable that gives an algorithm its name."""
        self._digit(algorithm)
        return (algorithm,)

    def candidates(self, table: Table) -> None:
        """All ten digits may be chosen."""

    def _digit(self, algorithm: str) -> int:
        """The digit of the answer on whose way a variable is."""
        if algorithm not in self.algorithms:
            raise InputError(
                f"multiplication has no algorithm {algorithm!r}; there are: "
                f"{', '.join(self.algorithms)}.{nearest(algorithm, self.algorithms)}"
            )
        kind, _, k = algorithm.partition("_")
        return int(k) + (kind == "r")

    def _prompts(self, algorithm: str, split: Split, n: int) -> Table:
        k, stream = self._digit(algorithm), torch.Generator().manual_seed(SEEDS[split])
        data = multiplication.draw_apart(n, self._digits, stream, split=split)
        return multiplication.alignment_table(data, k, (algorithm,))


class _Once(Subject):
    """A subject that runs each set of prompts to the site once, whoever asks: algorithms differ in
    what they say of the same sentences."""

    def __init__(self, subject: Subject) -> None:
        self._subject, self.site = subject, subject.site
        self._cuts: dict[bytes, Cut] = {}

    def cut(self, inputs: Shaped[Tensor, "input ..."]) -> Cut:
        """Return the cut of these inputs, made when they are first seen."""
        key = hashlib.sha256(inputs.numpy().tobytes()).digest()
        if key not in self._cuts:
            self._cuts[key] = self._subject.cut(inputs)
        return self._cuts[key]

    def weights(self) -> Iterable[Tensor]:
        """Return the network's weights."""
        return self._subject.weights()


def at_most(most: int, draw: Draw) -> Draw:
    """Return a recipe that draws so many pairs at once and no more."""
    return lambda table, n, stream: draw(table, min(n, most), stream)


def _sizes(n_parameters: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Inputs and pairs of a held-out split, and of training: fewer where a model is large.

    >>> _sizes(240_000), _sizes(135_000_000)
    (((1000, 1000), (8192, 10000)), ((500, 1000), (2048, 4096)))
    """
    if n_parameters <= SMALL:
        return (1000, 1000), (8192, 10_000)
    return (500, 1000), (2048, 4096)


def _digits_of(d_vocab: int, n_ctx: int, model: str) -> int:
    """Digits of the operands of a network, read off its context, which its rows fill.

    >>> _digits_of(16, 11, "two_digit"), _digits_of(16, 15, "sft"), _digits_of(16, 39, "icot")
    (2, 3, 3)
    """
    rows = {4 * n + 3 + more: n for n in (2, 3) for more in (0, multiplication.n_thoughts(n))}
    if d_vocab == len(multiplication.VOCABULARY) and n_ctx in rows:
        return rows[n_ctx]
    raise InputError(
        f"--model {model}: multiplication needs one of {len(multiplication.VOCABULARY)} tokens and "
        f"a context that products fill, and this one has {d_vocab} and {n_ctx}; give one of "
        "experiments.train_multiplication."
    )
