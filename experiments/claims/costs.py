"""Claims about time: this workbench beside other tools, by `experiments.benchmarks`.

Every system does the same work in turn in one process on one thread. Beside each ratio stands the
largest difference of the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from experiments.benchmarks.measure import TASKS, Row, measure
from experiments.benchmarks.work import Setting
from experiments.claims.core import Claim, Measured

REPEATS = 3
SAME = 1e-4
"""The largest difference of logit differences that still counts as the same numbers."""


def bench(
    name: str,
    systems: Sequence[str],
    *,
    setting: Setting = Setting(),  # noqa: B008
    repeats: int = REPEATS,
) -> dict[str, Row]:
    """Time some systems of a task on one thread; rows by system."""
    (task,) = [task for task in TASKS if task.name == name]
    task = replace(task, systems={each: task.systems[each] for each in systems})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = measure(task, setting, repeats=repeats)
    finally:
        torch.set_num_threads(threads)
    return {row.system: row for row in rows}


def faster(name: str, goal: float, *, about: str = "") -> Measured:
    """How many times less CPU time than TransformerLens, the numbers being the same."""
    return faster_text(bench(name, ("ours", "raw", "transformer_lens")), goal, about)


def faster_text(rows: dict[str, Row], goal: float, about: str = "") -> Measured:
    """Read the rows of a task whose unit is ours."""
    own, raw, lens = (rows[name] for name in ("ours", "raw", "transformer_lens"))
    if lens.seconds is None or own.seconds is None or own.difference is None:
        return Measured(lens.note or own.note or "not measured", False, _table(rows))
    ratio = lens.ratios["ours"]
    text = (
        f"{ratio:.1f}x less CPU time than TransformerLens {lens.version} and "
        f"{raw.ratios['ours']:.1f}x less than a loop of plain hooks ({own.seconds:.3g} s against "
        f"{lens.seconds:.3g} s and {raw.seconds or 0:.3g} s, {_shares(rows)}one thread{about}); "
        f"numbers differ by {own.difference:.2g} from plain hooks of a span of {own.effect:.2g}"
    )
    return Measured(text, ratio >= goal and own.difference <= SAME, _table(rows))


def _shares(rows: dict[str, Row]) -> str:
    """Which systems did a sample of the work."""
    done = [f"{name} timed on {row.share:.2g} of it" for name, row in rows.items() if row.share < 1]
    return f"{', '.join(done)} and scaled; " if done else ""


def path_all() -> Measured:
    """Path patching, one head of each layer (2376 edges) to every later q, k, v."""
    return faster("path-all", 10.0, about="; of 28512 paths")


def edit_overhead() -> Measured:
    """What one edit costs over a plain forward pass, receipt included."""
    systems = ("plain forward", "ours", "raw")
    real, tiny = (bench(f"edit-overhead{more}", systems, repeats=5) for more in ("", "-tiny"))
    share = real["ours"].ratios["plain forward"] - 1
    own, plain = (tiny[name].seconds or 0.0 for name in ("ours", "plain forward"))
    worst = max(rows["ours"].difference or 0.0 for rows in (real, tiny))
    text = (
        f"{share:+.1%} on SmolLM2 (4 x 16 tokens, {real['plain forward'].seconds or 0:.2g} s), "
        f"{1000 * (own - plain):+.2f} ms on a tiny model ({1000 * plain:.1f} ms); logits differ by "
        f"{worst:.2g} from plain hooks"
    )
    holds = share <= 0.05 and own - plain <= 1e-3 and worst <= SAME
    return Measured(text, holds, _table(real) + _table(tiny))


def steer_overhead() -> Measured:
    """What steering costs while text is written, over Hugging Face's own generation."""
    rows = bench("steer-overhead", ("Hugging Face", "ours, no edit", "ours", "raw"))
    own = rows["ours"]
    share = own.ratios["Hugging Face"] - 1
    text = (
        f"{share:+.1%} over Hugging Face generate, {own.ratios['ours, no edit'] - 1:+.1%} over our "
        f"own loop without an edit (24 tokens, SmolLM2); tokens differ from a plain hook's by "
        f"{own.difference or 0:.2g}"
    )
    return Measured(text, share <= 0.05 and not own.difference, _table(rows))


def _table(rows: dict[str, Row]) -> tuple[dict[str, object], ...]:
    """The rows as records, each with the same columns."""
    return tuple(
        {"task": row.task, "system": row.system, "CPU s": row.seconds, "share": row.share}
        | {"ratios": str({unit: round(ratio, 3) for unit, ratio in row.ratios.items()})}
        | {"difference": row.difference, "note": row.note}
        for row in rows.values()
    )


CLAIMS = (
    Claim("patch-grid", "at least 8x TransformerLens", lambda: faster("patch-grid", 8.0)),
    Claim("patch-late", "at least 12x TransformerLens", lambda: faster("patch-late", 12.0)),
    Claim("path-all", "at least 10x TransformerLens", path_all),
    Claim("edit-overhead", "at most 5% on SmolLM2, 1 ms tiny", edit_overhead),
    Claim("steer-overhead", "at most 5% over plain generation", steer_overhead),
)
