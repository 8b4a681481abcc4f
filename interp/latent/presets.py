"""What each published recipe wrote around its problems, and the habits of CODI's evaluation.

Sources: Coconut, Hao et al. 2024, arXiv:2412.06769, with the settings of its public code
(facebookresearch/coconut); CODI, Shen et al. 2025, arXiv:2502.21074 (zhenyi4/codi). A small model
breaks on a prompt that its training did not have, so the templates are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError, nearest
from interp.latent.layout import Layout
from interp.latent.state import Closed, Memory, State
from interp.latent.subjects import Codi

START, END, LATENT = "<|start-latent|>", "<|end-latent|>", "<|latent|>"
"""Coconut's markers, in the order in which its code adds them to a tokenizer."""

PAD, BOT, EOT = "[PAD]", "<|bot|>", "<|eot|>"
"""Our names for the three rows that CODI adds, in its order; only the first has a name there."""

NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
"""A number in a text; CODI's evaluation reads the last one."""

COCONUT = Layout(prompt="{question}\n" + START, close=END)
"""Question and line end, the start marker; after the end marker `### answer` and end of text."""

CODI = Layout(
    prompt="{question}" + BOT,
    close=EOT,
    target="The answer is: {answer}",
    mark="",
    pattern=NUMBER,
    squeeze=True,
)
"""The bare question, bot; after eot the sentence, without a space before it, and end of text."""

COT = Layout(prompt="{question}\n", close="###", target=" {answer}")
"""Coconut's stage 0: steps in text, one a line, then `### answer`; no markers."""

NO_COT = Layout(prompt="{question}", close="\n")
"""Coconut's no-CoT baseline: `### answer` follows the question's line end; no markers."""


@dataclass(frozen=True)
class Preset:
    """A published recipe: what a subject of it is built with."""

    kind: str
    layout: Layout
    n_steps: int
    """T, in latent slots."""
    max_new_tokens: int
    """How long an answer its evaluation writes, in tokens."""
    source: str
    """Where the settings are stated."""


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "coconut-gsm8k": Preset(
            "coconut", COCONUT, 6, 64, "arXiv:2412.06769 section 4: 2 thoughts a step, 3 stages"
        ),
        "coconut-prosqa": Preset(
            "coconut", COCONUT, 6, 128, "arXiv:2412.06769 section 5: 1 thought a step, 6 stages"
        ),
        "coconut-prontoqa": Preset(
            "coconut", COCONUT, 6, 128, "arXiv:2412.06769 section 4: 1 thought a step, 6 stages"
        ),
        "codi-gpt2": Preset("codi", CODI, 6, 256, "arXiv:2502.21074; scripts/test_gpt2.sh"),
        "codi-llama": Preset(
            "codi", replace(CODI, bos=True), 6, 256, "arXiv:2502.21074; scripts/test_llama1b.sh"
        ),
    }
)
"""Published recipes by name."""


def preset(name: str) -> Preset:
    """Return a published recipe.

    Raises:
        InputError: there is none of that name.

    >>> preset("codi-gpt2").layout.read("The answer is: 1,080 dollars.")
    '1080'
    """
    if name not in PRESETS:
        raise InputError(
            f"There is no preset {name!r}; there are {', '.join(PRESETS)}.{nearest(name, PRESETS)}"
        )
    return PRESETS[name]


class PublishedCodi(Codi):
    """CODI as its public evaluation runs it.

    Greedy decoding never writes the last id of the vocabulary, which is eot. With `official_mask`
    the pads at the left of a batch are counted as positions and, after the prompt, seen by every
    latent step and answer token; then a row's numbers depend on its batch, as the published
    accuracies do. Without it, a row alone and in a batch agree.

    Args:
        hf, tokenizer, n_steps, layout, name, projection: as for `Codi`.
        official_mask: whether pads are seen; for comparison with published numbers only.
        pad_id: the token that pads are, needed with `official_mask`.

    Raises:
        InputError: `official_mask` without `pad_id`.
    """

    def __init__(
        self, *args: Any, official_mask: bool = False, pad_id: int | None = None, **named: Any
    ) -> None:
        super().__init__(*args, **named)
        if official_mask and pad_id is None:
            raise InputError("official_mask shows the model its pads: name their token in pad_id.")
        self.official_mask, self.pad_id = official_mask, pad_id

    def prefill(self, problems: Sequence[LatentProblem]) -> State:
        """Read the prompts up to bot; return (h_1, C_0), one row a problem.

        Raises:
            InputError: no problems, or a prompt that leaves no room in the model's context.
        """
        if not self.official_mask or not problems:
            return super().prefill(problems)
        prompts = [self.layout.prompt_ids(self.tokenizer, problem) for problem in problems]
        widest = max(range(len(prompts)), key=lambda i: len(prompts[i]))
        self._require_room([problems[widest]], [prompts[widest]])  # the others are padded to it
        width = len(prompts[widest])
        rows = [[self.pad_id] * (width - len(row)) + row for row in prompts]
        seen = [[False] * (width - len(row)) + [True] * len(row) for row in prompts]
        hidden, memory = self._feed_pads(rows, seen)
        return self.begin(hidden, memory)

    def _feed_pads(self, rows: Sequence[Any], seen: Sequence[Any]) -> tuple[Tensor, Memory]:
        """One pass in which pads take positions; the memory then shows them to all that follow."""
        ids = torch.tensor(rows, device=self.device)
        mask = torch.tensor(seen, device=self.device)
        base: Any = self.hf.base_model
        out = base(
            inputs_embeds=self.embed(ids).to(self.hf.dtype),
            attention_mask=mask.long(),
            position_ids=torch.arange(ids.shape[1], device=self.device).expand_as(ids),
            use_cache=True,
        )
        layers = tuple((layer.keys, layer.values) for layer in out.past_key_values.layers)
        following = torch.full((len(ids),), ids.shape[1], device=self.device)
        return out.last_hidden_state[:, -1], Memory(layers, torch.ones_like(mask), following)

    def decode(self, closed: Closed, max_new_tokens: int | None = None) -> list[str]:
        """Write greedily until the end of text, never the last id; return each row's new text."""
        speaker = _Speaker(
            self.hf,
            self.tokenizer,
            n_steps=self.n_steps,
            layout=self.layout,
            name=self.name,
            projection=self.projection,
        )
        return speaker.decode(closed, max_new_tokens)


class _Speaker(Codi):
    """The same model, for which the last id of the vocabulary cannot be written."""

    def head(self, hidden: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n vocab"]:
        """Log-probabilities, with none for the last id."""
        logprobs = super().head(hidden)
        return torch.cat([logprobs[..., :-1], torch.full_like(logprobs[..., -1:], -torch.inf)], -1)
