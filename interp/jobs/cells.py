"""The experiments of a sweep: one cell of `interp tts` and one of `interp patch`.

**What identifies a cell.** Its configuration, the model's files, the data's content, the code, and
the *kind* of device. Not the path of the data nor the number of a device: they only say where.
The kind of device stays, because processors round differently, in half precision by more than a
decorative step scores, and a record should not stand in for one that another kind of processor
would have made. Not memory either: it decides how many tokens go through the model at once, which
moves a number by rounding alone, and it belongs to the machine. So it is no field of a
configuration; the environment variable `INTERP_MEMORY_GIB` sets it for a worker (default 2).
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

import torch

import interp.results as results
from interp.data.rows import Row, read_rows
from interp.data.word_problems import other_steps, word_problems
from interp.engine.generation import check_settings
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError, SiteError, nearest
from interp.jobs import patching, runs
from interp.jobs import tts as thinking
from interp.jobs.pairs import choose, require_layers
from interp.models.identity import model_identity
from interp.patching.activation import METRICS, Direction
from interp.sites import QUERY_HEADED, Site
from interp.sweeps.experiment import Experiment, Made
from interp.thinking.rules import PRESETS, Target, Think
from interp.thinking.score import Chain

Dtype = Literal["float32", "float64", "bfloat16", "float16"]

MEMORY = "INTERP_MEMORY_GIB"
"""The environment variable for the memory of activations in one forward pass, in GiB."""


@dataclass(frozen=True, kw_only=True)
class OnModel:
    """What every cell that runs a model sets."""

    model: str
    """A registry name, a folder or a Hugging Face id."""
    input: Path | None = None
    """A JSONL file of the data; None generates it."""
    dtype: Dtype | None = None
    """None: float32 for registry names, the weights' own for others."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, ..."""
    device_map: str | None = None
    """For a model larger than one device, such as `auto`; then `device` is not used."""
    exact: bool = False
    """One plain forward pass for each intervention, without sharing."""

    def __post_init__(self) -> None:
        _one_of(self, "dtype", (None, *get_args(Dtype)))
        if not self.model.strip():
            raise InputError("model is empty: name one of `interp models`, a folder or a hub id.")
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise InputError(f"device {self.device!r}: write cpu, cuda or cuda:0.") from error

    @property
    def group(self) -> tuple[str, ...]:
        """Cells of equal group share a loaded model."""
        return (self.model, self.dtype or "", self.device, self.device_map or "")

    @property
    def model_hashes(self) -> dict[str, object]:
        """What identifies the model and the kind of device that it runs on."""
        kind = "several" if self.device_map else torch.device(self.device).type
        return {"model": model_identity(self.model, self.dtype), "device": kind}

    def loaded(self) -> Model:
        """Load the model, which must have a tokenizer."""
        options = {"device_map": self.device_map} if self.device_map else {}
        model = load(self.model, dtype=self.dtype, device=self.device, **options)
        thinking.require_text(model)
        return model


@dataclass(frozen=True, kw_only=True)
class TtsConfig(OnModel):
    """True-Thinking Scores of one model under one preset and one draw of the perturbation."""

    limit: int | None = None
    """Only the first rows of `input`."""
    problems: int = 8
    """How many word problems are generated where there is no `input`."""
    problem_seed: int = 0
    """Which problems are generated."""
    solutions: bool = False
    """Score the generated problems' worked solutions, not chains that the model writes."""
    preset: str = "default"
    """How a chain is cut, perturbed and read out."""
    seed: int = 0
    """The draw of the perturbation; the chains are the same for all."""
    target: Target = "own"
    """Which answer is scored: the model's own, or the given one."""
    think: Think = "open"
    """Whether the think block is closed before the cue."""
    control: bool = True
    """Score the controls too: a rewrite of the step, and a step of another problem."""
    max_new_tokens: int = 256
    """The length of a chain that the model writes."""
    temperature: float = 0.0
    """How chains are sampled that the model writes; 0 is greedy."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with at least this probability."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("preset", PRESETS), ("target", get_args(Target))):
            _one_of(self, name, known)
        _one_of(self, "think", get_args(Think))
        _at_least_1(self, "problems", "max_new_tokens", "limit")
        check_settings(self.max_new_tokens, self.temperature, self.top_p, ())
        _no_generator_beside_input(self, "problems", "problem_seed", "solutions")
        if self.input is None and self.limit is not None:
            raise InputError(f"limit {self.limit} cuts the rows of `input`: set problems instead.")

    @property
    def settings(self) -> thinking.Settings:
        """The same as settings of the command, for one seed."""
        return thinking.Settings(
            preset=self.preset,
            seeds=1,
            target=self.target,
            think=self.think,
            control_seeds=int(self.control),
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            exact=self.exact,
        )

    def rows(self) -> list[Row]:
        """The rows to score.

        Raises:
            InputError: there is no such file, or it is no JSONL file.
        """
        if self.input is not None:
            return read_rows(self.input, limit=self.limit)
        made = word_problems(self.problems, seed=self.problem_seed)
        if self.solutions:
            return [Row(each.id, each.question, each.solution, each.answer) for each in made]
        return thinking.generated_rows(made)


@dataclass(frozen=True, kw_only=True)
class PatchConfig(OnModel):
    """Activation patching of one component of one model over a grid of places."""

    component: str = "resid_pre"
    """What is patched, such as resid_pre, attn_out or attn.z."""
    by: patching.By = "position"
    """One place for each position, head or layer, or the last position of each layer."""
    direction: Direction = "denoise"
    """Clean into corrupted, or the reverse."""
    metric: str = "logit_diff"
    """What is measured: logit_diff, prob, logprob, rank or kl."""
    layers: tuple[int, ...] = ()
    """Which layers; none named are all."""
    pairs: int = 4
    """How many indirect-object pairs are generated where there is no `input`."""
    pair_seed: int = 0
    """Which pairs are generated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("by", get_args(patching.By)), ("direction", get_args(Direction))):
            _one_of(self, name, known)
        _one_of(self, "metric", METRICS)
        _at_least_1(self, "pairs")
        _no_generator_beside_input(self, "pairs", "pair_seed")
        try:
            Site.parse(f"0.{self.component}")
        except SiteError as error:
            raise InputError(f"component {self.component!r}: {error}") from error
        if self.by == "head" and self.component not in QUERY_HEADED:
            raise InputError(
                f"component {self.component} has no query heads, so it cannot be patched by head: "
                "use attn.z, or by layer."
            )

    @property
    def settings(self) -> patching.Settings:
        """The same as settings of the command."""
        return patching.Settings(
            components=(self.component,),
            by=self.by,
            direction=self.direction,
            metric=self.metric,
            layers=self.layers,
            pairs=self.pairs,
            seed=self.pair_seed,
            exact=self.exact,
        )


@dataclass(frozen=True)
class Thinker:
    """The subject of `tts` cells: a model, and the chains that seeds share."""

    model: Model
    chains: dict[str, Chain | str] = field(default_factory=dict)
    """By row, rules and length: the chain with its y*, or the reason to mark the row with."""

    def chain(self, row: Row, settings: thinking.Settings) -> Chain | str:
        """The chain of a row, prepared once for all seeds."""
        names = ("max_new_tokens", "temperature", "top_p")
        written = {name: getattr(settings, name) for name in names}
        key = results.cell_key({"row": asdict(row), "rules": asdict(settings.rules), **written})
        if key not in self.chains:
            self.chains[key] = thinking.prepared(self.model, row, settings)
        return self.chains[key]


def memory_gib() -> float:
    """The memory for the activations of one forward pass, in GiB, as the environment says.

    Raises:
        InputError: the environment variable is no positive number.
    """
    said = os.environ.get(MEMORY) or "2"
    try:
        memory = float(said)
    except ValueError:
        memory = 0.0
    if not (isfinite(memory) and memory > 0):
        raise InputError(f"The environment variable {MEMORY} is {said!r}: give GiB above 0.")
    return memory


def score_chains(subject: Thinker, config: TtsConfig) -> Made:
    """Score all rows under one seed: the tables `chains`, `steps` and `marked_steps`.

    A row that cannot be scored is marked in `chains` with the reason. No column holds a time, and
    the same cell gives the same bytes again on the same machine.
    """
    settings, memory, pool = config.settings, memory_gib(), other_steps()
    tables: thinking.Tables = {"chains": [], "steps": [], "marked_steps": []}
    spent: Counter[str] = Counter()
    for row in config.rows():
        made, cost = thinking.score_row(
            row,
            subject.chain(row, settings),
            subject.model,
            settings,
            seeds=[config.seed],
            pool=pool,
            memory_gib=memory,
        )
        for name, found in made.items():
            tables[name] += found
        spent.update(cost)  # type: ignore[arg-type]  # a Counter adds floats as well
    return Made(tables, dict(spent))


def patch_places(subject: Model, config: PatchConfig) -> Made:
    """Patch one component: the tables `patch`, `patch_pairs` and `marked_pairs`.

    Raises:
        InputError: no pair fits the model, or it lacks a layer.
        UndefinedEffectError: clean and corrupted agree on every pair.
    """
    settings, memory = config.settings, memory_gib()
    require_layers(subject, settings.layers)
    chosen = choose(
        subject,
        config.input,
        n=settings.pairs,
        seed=settings.seed,
        same_length=settings.by == "position",
    )
    return Made(
        patching.component_tables(subject, chosen, config.component, settings, memory_gib=memory)
    )


def _identity(config: OnModel) -> dict[str, object]:
    """Hashes of the model and of the data's content; what is generated, the code identifies."""
    if config.input is None:
        return config.model_hashes
    return {**config.model_hashes, "data": {"sha256": results.file_hash(config.input)}}


def _one_of(config: Any, name: str, known: Any) -> None:
    said = getattr(config, name)
    if said not in known:
        words = [word for word in known if word]
        hint = nearest(str(said), words)
        raise InputError(f"{name} {said!r}: write {', '.join(words[:-1])} or {words[-1]}.{hint}")


def _at_least_1(config: Any, *names: str) -> None:
    for name in names:
        said = getattr(config, name)
        if said is not None and said < 1:
            raise InputError(f"{name} {said}: ask for at least 1.")


def _no_generator_beside_input(config: Any, *names: str) -> None:
    """Refuse settings of the generator where a file gives the data: they would do nothing."""
    default = {each.name: each.default for each in fields(config)}
    for name in names:
        said = getattr(config, name)
        if config.input is not None and said != default[name]:
            raise InputError(
                f"{name} {said} is for generated data and `input` names a file: leave one out."
            )


_CODE = (*runs.CODE, runs.PACKAGE / "data", Path(__file__))
_PLACES = frozenset({"input", "device", "device_map"})

tts: Experiment = Experiment(
    name="tts",
    config=TtsConfig,
    identity=_identity,
    group=lambda config: config.group,
    load=lambda config: Thinker(config.loaded()),
    run=score_chains,
    code=(*_CODE, runs.PACKAGE / "jobs/tts.py"),
    places=_PLACES,
    unit="id",
    headline=("steps", "tts"),
)
"""One cell scores every row of one model under one preset and one seed."""

patch: Experiment = Experiment(
    name="patch",
    config=PatchConfig,
    identity=_identity,
    group=lambda config: config.group,
    load=lambda config: config.loaded(),
    run=patch_places,
    code=(*_CODE, runs.PACKAGE / "jobs/pairs.py", runs.PACKAGE / "jobs/patching.py"),
    places=_PLACES,
    unit="id",
    headline=("patch", "recovered"),
)
"""One cell patches one component of one model over its places."""
