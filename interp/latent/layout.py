"""How a problem becomes tokens: exactly as the model's training wrote it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError


@dataclass(frozen=True)
class Target:
    """Tokens that a read-out forces after the end marker."""

    ids: tuple[int, ...]
    answer: tuple[int, int]
    """First place of the answer in `ids`, and the one after its last."""


@dataclass(frozen=True)
class Layout:
    """Templates of a recipe. `markers` in them are special tokens of the tokenizer."""

    prompt: str = "{question}\n<|start-latent|>"
    """Up to and including the start marker."""
    close: str = "<|end-latent|>"
    """What is fed when the latent steps are over: at least one token."""
    step: str = "{step}\n"
    """A step written as text."""
    target: str = "### {answer}"
    """What is forced after the end marker; `{answer}` once."""
    mark: str = "#"
    """The answer of a generated text stands after the last `mark`; all of it where empty."""
    pattern: str = ""
    """Where given, the answer is the last match of this regular expression in what remains."""
    eos: bool = True
    """Whether the end-of-text token closes the target."""
    bos: bool = False
    """Whether the tokenizer's own first token opens the prompt."""
    squeeze: bool = False
    """Whether the question is stripped and runs of spaces become one."""

    def prompt_ids(self, tokenizer: Any, problem: LatentProblem) -> list[int]:
        """Token ids of a prompt, the start marker included.

        Raises:
            InputError: the question is empty.
        """
        question = problem.question
        if self.squeeze:
            question = re.sub(" +", " ", question.strip())
        if not question.strip():
            raise InputError(f"Problem {problem.id!r} has no question: give one, or leave it out.")
        text = self.prompt.replace("{question}", question)
        ids = list(tokenizer(text, add_special_tokens=False).input_ids)
        return [tokenizer.bos_token_id, *ids] if self.bos else ids

    def close_ids(self, tokenizer: Any) -> list[int]:
        """Token ids of the end marker.

        Raises:
            InputError: the layout names none.
        """
        ids = list(tokenizer(self.close, add_special_tokens=False).input_ids)
        if not ids:
            raise InputError(
                "The layout's `close` has no token: name the end marker, such as <|end-latent|>."
            )
        return ids

    def step_ids(self, tokenizer: Any, step: str) -> list[int]:
        """Token ids of a step in text."""
        text = self.step.replace("{step}", step)
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    def target_of(self, tokenizer: Any, answer: str) -> Target:
        """Tokens of the template, the answer and the end of text, and where the answer stands.

        Raises:
            InputError: the answer is empty, or changes how the template before it is cut.
        """
        before, _, after = self.target.partition("{answer}")
        start, whole = (
            list(tokenizer(text, add_special_tokens=False).input_ids)
            for text in (before.rstrip(" "), f"{before}{answer}")
        )
        if whole[: len(start)] != start or len(whole) == len(start):
            raise InputError(
                f"The answer {answer!r} gives no tokens of its own after {before!r}: "
                "name another answer, or another `target` in the layout."
            )
        rest = list(tokenizer(after, add_special_tokens=False).input_ids) if after else []
        ending = [tokenizer.eos_token_id] if self.eos else []
        return Target((*whole, *rest, *ending), (len(start), len(whole)))

    def read(self, text: str) -> str | None:
        """The answer in a generated text, or None where there is none.

        >>> Layout().read("### 1,234")
        '1234'
        """
        found = text.rpartition(self.mark)[2] if self.mark else text
        if self.pattern:
            matches: Sequence[str] = re.findall(self.pattern, found)
            found = matches[-1] if matches else ""
        return self.plain(found) or None

    @staticmethod
    def plain(answer: str) -> str:
        """An answer as it is compared: no spaces around it, no thousands separators."""
        return re.sub(r"(?<=\d),(?=\d{3})", "", answer.strip())
