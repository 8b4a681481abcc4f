"""Published reasoning models: where they are, and how each opens its thought.

A model of this table is loaded by its short name. What differs between them is the end of the
prompt: a template may already hold the opening tag (R1 distillations), or leave it to the model
(Qwen3, whose thinking mode is the default of its template). Both are found in the rendered prompt
and in the output, not assumed; `opens` is what the tests hold a template of that layout to.

Sampling is what the model's own `generation_config.json` or card asks for: greedy decoding sends
these models into loops. Layouts were read from the published tokenizer configurations.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reasoning:
    """A published reasoning model."""

    hub: str
    """Hugging Face id."""
    what: str
    opens: bool
    """Whether the rendered prompt already holds the opening tag."""
    weights_gib: float
    """Size of the weights in bfloat16, in GiB: parameters x 2 bytes."""
    dtype: str = "bfloat16"
    think_tags: tuple[str, str] = ("<think>", "</think>")
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 8192
    """The longest chain that is written by default; longer ones are marked as truncated."""


_R1 = "deepseek-ai/DeepSeek-R1-Distill-"

REASONING: dict[str, Reasoning] = {
    "r1-distill-qwen-1.5b": Reasoning(
        _R1 + "Qwen-1.5B", "R1 distilled into Qwen2.5-Math-1.5B (MIT)", True, 3.3
    ),
    "r1-distill-qwen-7b": Reasoning(
        _R1 + "Qwen-7B", "R1 distilled into Qwen2.5-Math-7B (MIT)", True, 14.2
    ),
    "r1-distill-llama-8b": Reasoning(
        _R1 + "Llama-8B", "R1 distilled into Llama-3.1-8B (Llama licence)", True, 15.0
    ),
    "qwen3-1.7b": Reasoning(
        "Qwen/Qwen3-1.7B", "Qwen3-1.7B, thinking mode (Apache-2.0)", False, 3.8
    ),
    "qwen3-4b": Reasoning("Qwen/Qwen3-4B", "Qwen3-4B, thinking mode (Apache-2.0)", False, 7.5),
    "qwen3-8b": Reasoning("Qwen/Qwen3-8B", "Qwen3-8B, thinking mode (Apache-2.0)", False, 15.3),
}
"""By the short name that `interp.load` and every command take."""

LAYOUTS: dict[str, str] = {
    "r1": (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message.role == 'system' %}{{ message.content }}"
        "{% elif message.role == 'user' %}<\uff5cUser\uff5c>{{ message.content }}"
        "{% else %}<\uff5cAssistant\uff5c>{{ message.content.split('</think>')[-1] }}"
        "<\uff5cend\u2581of\u2581sentence\uff5c>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<\uff5cAssistant\uff5c><think>\n{% endif %}"
    ),
    "qwen3": (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
        "{% endif %}{% endif %}"
    ),
}
"""The layout of one turn in the words of each family's template: what a tiny model is given to
test a preset without its weights. A loaded model always uses the template that it comes with."""


def writing(name: str) -> tuple[float, float, int]:
    """Return temperature, top_p and the longest chain that a model is asked for by default.

    >>> writing("smollm2-135m"), writing("qwen3-4b")
    ((0.0, 1.0, 256), (0.6, 0.95, 8192))
    """
    if name not in REASONING:
        return 0.0, 1.0, 256
    known = REASONING[name]
    return known.temperature, known.top_p, known.max_new_tokens
