"""Scored chains made by hand, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence

from interp.thinking.score import Chain, Problem, StepScore
from interp.thinking.scored import ScoredChain
from interp.thinking.steps import Step


def scored_chain(
    name: str,
    texts: Sequence[str],
    tts: Sequence[float],
    *,
    prompt: str = "",
    answer: str = "77",
    ops: Sequence[str] = (),
    mentions: Sequence[bool] = (),
    saturated: Sequence[bool] = (),
    signs: Sequence[int] = (),
) -> ScoredChain:
    """Return a chain of these steps, each with one score; its legs are sign times tts."""
    steps, place, tts = [], 0, [float(each) for each in tts]
    for i, text in enumerate(texts):
        steps.append(Step(i, place, place + len(text), text))
        place += len(text)
    chain = Chain(Problem(name, "?"), prompt, "".join(texts), tuple(steps), answer, "gold")
    last = len(steps) - 1
    scores = tuple(
        StepScore(
            id=name, step=i, seed=0, n_steps=len(steps), start=step.start, end=step.end,
            text=step.text, perturbed=step.text, op=ops[i] if ops else "edit",
            s1c1=-1.0, s0c1=-1.0, s1c0=-1.0, s0c0=-1.0, n_answer_tokens=1,
            nec=(signs[i] if signs else 1) * tts[i], suf=(signs[i] if signs else 1) * tts[i],
            tts=tts[i], nec_log_odds=None, suf_log_odds=None,
            nec_mean_logprob=0.0, suf_mean_logprob=0.0,
            mentions_answer=mentions[i] if mentions else False,
            saturated=saturated[i] if saturated else False,
            verification=False, position=i / last if last else 1.0,
        )
        for i, step in enumerate(steps)
    )  # fmt: skip
    return ScoredChain(chain, scores)
