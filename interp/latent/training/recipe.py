"""What a training is: one frozen recipe for every kind of subject, and the phases it goes through.

Sources: Coconut, Hao et al. 2024, arXiv:2412.06769; CODI, Shen et al. 2025, arXiv:2502.21074.
Both train all weights here; CODI's published runs train low-rank updates, which this does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from interp.errors import InputError, nearest
from interp.latent.layout import Layout

OBJECTIVES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "coconut": ("stages",),
        "codi": ("distil",),
        "explicit": ("stages",),
        "pause": ("stages", "distil"),
        "no_recurrence": ("stages", "distil"),
        "no_latents": ("stages", "distil"),
    }
)
"""Which objectives each kind can be trained with; controls with either."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a training: equal recipes and problems give equal weights on one thread.

    Raises:
        InputError: settings that no training can have.
    """

    kind: str = "coconut"
    """The subject that is trained, one of `OBJECTIVES`: a latent reasoner, text, or a control."""
    objective: str = "stages"
    """`stages`: Coconut's, text steps give way to latents. `distil`: CODI's, a teacher in text."""
    no_curriculum: bool = False
    """Control: the last stage, or the highest level, from the first update on."""

    base: str = ""
    """A pretrained model, by folder or hub name; empty: a GPT-2 from scratch of the next sizes."""
    n_layers: int = 2
    """Layers."""
    d_model: int = 64
    """Width."""
    n_heads: int = 4
    """Heads in each layer."""
    n_ctx: int = 64
    """Longest text in tokens."""
    layout: Layout = field(default_factory=Layout)
    """How a problem becomes tokens."""
    teacher_prompt: str = "{question}"
    """What stands before the steps in text where CODI's teacher reads them."""
    pause_token: str = "<pause>"
    """What fills the slots of `pause`."""
    max_step_tokens: int = 1
    """Most tokens of a step in text (`explicit`)."""
    markers: tuple[str, ...] = ()
    """Special tokens that a pretrained model's tokenizer gets, in this order."""
    marker_like: str = "<<"
    """The token whose embedding they start from."""

    n_stages: int = 4
    """Steps that give way to latents, one a stage (`stages`)."""
    per_step: int = 1
    """Latents for each of them; Coconut's c."""
    closing_stage: bool = False
    """Whether a stage more drops whatever steps are left, without further latents."""
    n_latents: int = 6
    """Latents of a student (`distil`)."""
    d_inner: int = 64
    """Inner width of CODI's projection."""
    projection_dropout: float = 0.0
    """Share of its input that training drops."""
    distil_weight: float = 1.0
    """Weight of the distance to the teacher's states; CODI's beta."""
    teacher_weight: float = 1.0
    """Weight of the teacher's own loss; CODI's gamma."""
    levels: int = 0
    """Where above 0: first problems of one step, then up to this many; the problems' source must
    draw by number of steps."""
    warm_up_loss: float = 0.0
    """Where above 0: the teacher learns alone, at the top level, until its loss is below."""

    updates: int = 7500
    """Most updates in all."""
    stage_updates: int = 1500
    """Most updates of a stage or level but the last; 0 for no limit but `updates`."""
    stage_loss: float = 0.02
    """A stage or level is over when its own loss falls below; nats, moving average."""
    final_loss: float = 0.02
    """The same for the last one, with which training ends."""
    mix: float = 0.1
    """Share of updates that go to a random earlier stage or level."""
    fresh_optimizer: bool = True
    """Whether each stage begins with a new optimizer."""
    batch: int = 128
    """Problems in an update."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    weight_decay: float = 0.01
    """Of AdamW."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    warm_up: float = 0.0
    """Share of all updates in which the learning rate rises from 0."""
    cosine: bool = False
    """Whether it then falls to 0 along a cosine over all updates; else it stays."""
    seed: int = 0
    """Of the weights and of what is mixed; the problems have their own."""

    def __post_init__(self) -> None:
        if self.kind not in OBJECTIVES:
            raise InputError(
                f"There is no kind {self.kind!r}; there are {', '.join(OBJECTIVES)}."
                f"{nearest(self.kind, OBJECTIVES)}"
            )
        if self.objective not in OBJECTIVES[self.kind]:
            raise InputError(
                f"{self.kind!r} cannot be trained with the objective {self.objective!r}: take "
                f"{' or '.join(map(repr, OBJECTIVES[self.kind]))}."
            )
        for name in ("batch", "n_stages", "per_step", "n_latents", "learning_rate", "clip"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}: give more than 0.")
        for name in ("updates", "stage_updates", "levels", "stage_loss", "warm_up_loss"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}: give 0 or more.")
        for name in ("mix", "warm_up", "projection_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}: give a share from 0 to below 1."
                )

    @property
    def n_steps(self) -> int:
        """T of the subject that comes out."""
        if self.kind == "no_latents":
            return 0
        return self.n_latents if self.objective == "distil" else self.n_stages * self.per_step


Task = Literal["text", "latents", "teacher", "distil"]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a training in which every update computes the same loss."""

    label: str
    task: Task
    latents: int = 0
    """Latent slots that are fed."""
    dropped: int = 0
    """Steps in text that are left out, from the first."""
    level: int | None = None
    """Steps of the problems drawn; None for whatever the source has."""
    updates: int
    """Most updates; it ends before them where its loss falls below `until`."""
    until: float


def phases(recipe: Recipe) -> tuple[Phase, ...]:
    """The phases of a recipe, in order.

    >>> [phase.label for phase in phases(Recipe(n_stages=2))]
    ['stage 0', 'stage 1', 'stage 2']
    """
    if recipe.kind == "explicit":
        return (Phase(label="text", task="text", updates=recipe.updates, until=recipe.final_loss),)
    made = _stages(recipe) if recipe.objective == "stages" else _levels(recipe)
    return made[-1:] if recipe.no_curriculum else made


def _stages(recipe: Recipe) -> tuple[Phase, ...]:
    """Stage k: the first k steps are dropped, and k times c latents fed."""
    last = recipe.n_stages + recipe.closing_stage
    return tuple(
        Phase(
            label=f"stage {k}",
            task="latents",
            latents=min(k * recipe.per_step, recipe.n_steps),
            dropped=k if k <= recipe.n_stages else ALL,
            updates=recipe.updates if k == last else _most(recipe),
            until=recipe.final_loss if k == last else recipe.stage_loss,
        )
        for k in range(last + 1)
    )


def _levels(recipe: Recipe) -> tuple[Phase, ...]:
    """The teacher alone, then student and teacher, with problems of ever more steps."""
    tops = tuple(range(1, recipe.levels + 1)) or (None,)
    last = tops[-1]
    students = tuple(
        Phase(
            label="student" if top is None else f"level {top}",
            task="distil",
            latents=recipe.n_steps,
            level=top,
            updates=recipe.updates if top == last else _most(recipe),
            until=recipe.final_loss if top == last else recipe.stage_loss,
        )
        for top in tops
    )
    if not recipe.warm_up_loss:
        return students
    alone = Phase(
        label="teacher",
        task="teacher",
        level=recipe.levels or None,
        updates=_most(recipe),
        until=recipe.warm_up_loss,
    )
    return (alone, *students)


ALL = 10**6
"""More steps than a problem has."""


def _most(recipe: Recipe) -> int:
    return recipe.stage_updates or recipe.updates
