"""Every figure that the workbench claims, as a goal and a function that measures it now.

    python -m experiments.claims [NAME ...] [--json]

prints a table (claim, goal, measured, holds) and exits 1 where a claim fails. Costs are CPU seconds
of this process on one thread, the fast path and the naive one in the same run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import interp
from experiments.chains import counted_chain
from interp.edits import (
    Add,
    Clamp,
    Edit,
    MeanAblate,
    Patch,
    Project,
    ResampleAblate,
    Scale,
    ZeroAblate,
)
from interp.engine.check import check
from interp.engine.fingerprint import fingerprint
from interp.engine.model import Model
from interp.engine.tree import score
from interp.errors import InputError, nearest
from interp.models import planted, tiny
from interp.results import Store
from interp.stats import auc
from interp.thinking.cells import cell_texts, step_texts
from interp.thinking.rules import Rules
from interp.thinking.score import Chain, Problem, Tokeniser, prepare, score_chain

TINY = tuple(tiny.TINY)
PROMPTS = ["One two three four five", "Hello", "a b c d"]


@dataclass(frozen=True)
class Measured:
    """What a claim's function found."""

    text: str
    """The measured figure, and on what."""
    holds: bool
    table: tuple[dict[str, Any], ...] = ()
    """Rows for a reader who wants more than the figure."""


@dataclass(frozen=True)
class Claim:
    """A name, a goal and how to measure it."""

    name: str
    goal: str
    measure: Callable[[], Measured]


def engines_agree() -> Measured:
    """Identities, parity and one edit at every site, three engines on seven architectures."""
    rows, holds = [], True
    for name in TINY:
        for engine in ("torch", "transformer_lens", "nnsight"):
            lines = check(interp.load(name, engine=engine))
            worst = max(lines, key=lambda line: line.error / max(line.tolerance, 1e-30))
            failed = [line.name for line in lines if not line.holds]
            holds = holds and not failed
            error = max(line.error for line in lines)
            rows.append({"model": name, "engine": engine, "largest error": f"{error:.2g}"})
            rows[-1] |= {"at": worst.name, "failed": ", ".join(failed) or "none"}
    error = max(float(row["largest error"]) for row in rows)
    return Measured(f"largest error {error:.2g}, 7 models x 3 engines", holds, tuple(rows))


def example_edits(model: Model) -> list[Edit]:
    """One edit of every kind, at sites and heads of the middle layer."""
    d_model, d_head = model.sizes.d_model, model.sizes.d_head
    spread = torch.linspace(-1, 1, d_model)
    held = model.run(PROMPTS, capture=["1.attn.z", "1.resid_pre"])
    z, resid = held.acts["1.attn.z"], held.acts["1.resid_pre"]
    other = model.run([PROMPTS[0]] * len(PROMPTS), capture=["1.attn.z"]).acts["1.attn.z"]
    return [
        Patch("1.attn.z", source=other, positions=1, heads=1, rows=(0, 2)),
        ZeroAblate("1.mlp_out", positions=1),
        MeanAblate("1.attn.z", mean=z.flatten(0, 1).nanmean(0), heads=(0, 3), positions=(0, 1)),
        ResampleAblate("1.resid_pre", source=resid[:1], donors=(0, 0, 0), positions=1),
        Add("1.resid_post", vector=spread, coefficient=2.0, positions=(0, 1)),
        Add("2.attn.z", vector=torch.ones(d_head), heads=2, positions=1),
        Project("1.resid_post", directions=torch.stack([spread, spread.abs()]), positions=1),
        Scale("1.attn.v", factor=0.5, heads=1, positions=0),
        Clamp("1.resid_post", direction=spread, value=3.0, positions=1),
        Clamp("1.mlp_out", units=(0, 5), low=-0.1, high=0.1, positions=1),
    ]


def positions() -> Measured:
    """Batch, padding side and cache move nothing, for every edit on every architecture."""
    worst, rows = 0.0, []
    for name in TINY:
        model = interp.load(name)
        for edit in example_edits(model):
            errors = position_errors(model, edit)
            rows.append(
                {"model": name, "edit": str(edit)} | {k: f"{v:.2g}" for k, v in errors.items()}
            )
            worst = max(worst, *errors.values())
    return Measured(f"largest difference of logits {worst:.2g}", worst <= 1e-5, tuple(rows))


def position_errors(model: Model, edit: Edit) -> dict[str, float]:
    """Differences of logits: padding side, one by one, cached generation, one pass."""
    right = model.run(PROMPTS, edits=[edit]).logits
    left = model.run(PROMPTS, edits=[edit], padding_side="left").logits
    cached = model.generate(PROMPTS, max_new_tokens=3, edits=[edit], keep_logits=True)
    plain = model.generate(PROMPTS, max_new_tokens=3, edits=[edit], cache=False, keep_logits=True)
    whole = [[*a, *b] for a, b in zip(cached.prompt_ids, cached.new_ids, strict=True)]
    once = model.run(whole, edits=[edit]).logits
    n_new, one_pass = [len(ids) for ids in cached.new_ids], 0.0
    assert cached.logits is not None and plain.logits is not None
    for row, ids in enumerate(whole):
        stepwise = cached.logits[row, : n_new[row]]
        start = len(ids) - n_new[row] - 1
        one_pass = max(one_pass, gap(stepwise, once[row, start : start + n_new[row]]))
    return {
        "left - right": gap(left, right),
        "batch - single": batch_error(model, edit, right),
        "cache on - off": gap(cached.logits, plain.logits),
        "prefill - one pass": one_pass,
    }


def batch_error(model: Model, edit: Edit, batched: torch.Tensor) -> float:
    """Each prompt alone, with the same edit restricted to it, against the batch."""
    worst = 0.0
    for row, prompt in enumerate(PROMPTS):
        if edit.rows is not None and row not in edit.rows:
            edits = []
        else:
            own = {"source": edit.source[row : row + 1]} if isinstance(edit, Patch) else {}
            edits = [replace(edit, rows=None, **own)]
        alone = model.run(prompt, edits=edits).logits[0]
        worst = max(worst, gap(alone, batched[row, : len(alone)]))
    return worst


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference; infinite where one is missing and the other is not."""
    if bool((one.isnan() != other.isnan()).any()):
        return float("inf")
    return float((one - other).nan_to_num().abs().max())


class Interrupting(Edit):
    """An edit that stops the run as a user or a bug would."""

    def new(self, act: Any, where: Any) -> Any:
        """Raise."""
        raise KeyboardInterrupt


def no_leaks() -> Measured:
    """The model's fingerprint is the same after runs, generations and interrupted runs."""
    changed, n_runs, n_interrupted = [], 0, 0
    for name in TINY:
        for engine in ("torch", "transformer_lens", "nnsight"):
            model = interp.load(tiny.build(name), engine=engine, tokenizer=tiny.tokenizer())
            before = fingerprint(model.hf)
            for edit in example_edits(model):
                model.run(PROMPTS, edits=[edit])
                n_runs += 1
            model.generate(PROMPTS, max_new_tokens=2, edits=[Scale("1.mlp_out", factor=0.5)])
            for site in {"1.resid_post", "1.attn.z", "0.attn.rot_q"} & set(model.sites):
                with suppress(KeyboardInterrupt):
                    model.run(PROMPTS, edits=[Interrupting(site)])
                n_interrupted += 1
            if fingerprint(model.hf) != before:
                changed.append(f"{name}/{engine}")
    text = (
        f"{len(changed)} of 21 models changed after {n_runs} runs and {n_interrupted} stopped ones"
    )
    return Measured(text, not changed)


def tts_exact() -> Measured:
    """The shared token tree gives the log-probabilities of one plain forward pass a cell."""
    rows = []
    for name, limit in [*((name, 1e-5) for name in TINY), ("smollm2-135m", 1e-4)]:
        model = interp.load(name)
        chain = cost_chain(model, n_steps=6, n_tokens=90)
        options = {"seeds": (0, 1), "control_seeds": 1, "pool": ("Then 4 + 9 = 13. ",)}
        fast = score_chain(model, chain, Rules(), **options)
        slow = score_chain(model, chain, Rules(), exact=True, **options)
        pairs = zip(fast.audit, slow.audit, strict=True)
        error = max(abs(a.logprob - b.logprob) for a, b in pairs)
        rows.append({"model": name, "cells": len(fast.audit), "difference": error, "limit": limit})
    holds = all(row["difference"] <= row["limit"] for row in rows)
    worst = max(row["difference"] for row in rows[:-1])
    text = f"tiny models {worst:.2g}, SmolLM2 {rows[-1]['difference']:.2g} (log-probability)"
    return Measured(text, holds, tuple(rows))


def cost_chain(model: Model, *, n_steps: int, n_tokens: int) -> Chain:
    """A chain of a wanted size behind a question of about 40 tokens."""
    text = counted_chain(model, n_steps=n_steps, n_tokens=n_tokens)
    question = "Several friends count their things and add them up. How many are there at the end?"
    problem = Problem("cost", question, text, gold="42")
    rules = Rules(target="gold")
    return prepare(model, problem, rules)


def cost(n_steps: int, n_tokens: int, goal: float, every: int) -> Measured:
    """CPU seconds of the four cells of every step: shared tree against one forward pass a cell."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = interp.load("smollm2-135m")
        chain = cost_chain(model, n_steps=n_steps, n_tokens=n_tokens)
        rules = Rules(target="gold")
        texts = step_texts("cost", chain.steps, 0, rules)
        start = time.process_time()
        tokens = Tokeniser(model, chain, rules)
        cells = list(cell_texts("cost", texts, rules, controls=False))
        every_cell = [c for c in map(tokens.continuation, cells) if c is not None]
        fast = score(model, every_cell)
        seconds = time.process_time() - start
        sample = [i for i, cell in enumerate(cells) if cell.step % every == 0]
        start = time.process_time()
        slow = score(model, [every_cell[i] for i in sample], exact=True)
        naive = (time.process_time() - start) * len(every_cell) / len(sample)
    finally:
        torch.set_num_threads(threads)
    fast_logprobs = [fast.logprobs[i] for i in sample]
    error = max(abs(a - b) for a, b in zip(fast_logprobs, slow.logprobs, strict=True))
    ratio = naive / seconds
    scaled = f", naive timed on every {every}th step and scaled" if every > 1 else ""
    table = (
        {"path": "naive", "CPU s": round(naive, 1), "tokens": fast.spent.naive_tokens},
        {"path": "shared", "CPU s": round(seconds, 1), "tokens": fast.spent.tokens},
    )
    text = (
        f"{ratio:.1f}x less CPU time ({naive:.0f} s against {seconds:.1f} s, one thread{scaled}; "
        f"{fast.spent.tokens} of {fast.spent.naive_tokens} tokens; {len(chain.steps)} steps, "
        f"{chain_tokens(model, chain)} tokens); log-probabilities differ by {error:.2g}"
    )
    return Measured(text, ratio >= goal and error <= 1e-4, table)


def chain_tokens(model: Model, chain: Chain) -> int:
    """How long a chain is in tokens."""
    return len(model.tokenizer(chain.text, add_special_tokens=False)["input_ids"])


def tts_planted() -> Measured:
    """On the hand-wired model the score tells causal steps from decorative ones."""
    scores: dict[str, list[tuple[float, float, float]]] = {}
    model = interp.load("planted-steps")
    for each in planted.chains(30, seed=7):
        chain = prepare(model, Problem(each.id, each.question, each.chain), Rules())
        for step in score_chain(model, chain, Rules(), seeds=(0, 1)).steps:
            kind = each.kinds[step.step]
            scores.setdefault(kind, []).append((step.nec, step.suf, step.tts))
    causal = [s[2] for kind in ("and", "or", "harmful") for s in scores[kind]]
    area = auc(causal, [s[2] for s in scores["decorative"]])
    wrong, table = 0, []
    for kind in ("and", "or", "harmful", "decorative"):
        signs = planted.expected(kind)
        for leg, sign in ((0, signs[0]), (1, signs[1])):
            values = [s[leg] for s in scores[kind]]
            wrong += sum(not_as(value, sign) for value in values)
            span = f"{min(values):.3f} to {max(values):.3f}"
            table.append({"kind": kind, "leg": ("nec", "suf")[leg], "expected": sign, "is": span})
    text = f"AUC {area:.3f}; {wrong} of {2 * sum(map(len, scores.values()))} legs not as planted"
    return Measured(text, area >= 0.95 and not wrong, tuple(table))


def not_as(value: float, sign: int) -> bool:
    """Whether a leg is not large with the planted sign, or not near zero where none is planted."""
    return abs(value) > 0.05 if sign == 0 else value * sign < 0.5


def resume_after_kill() -> Measured:
    """A scoring job killed with SIGKILL several times ends with the records of an unkilled one."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            {"id": each.id, "question": each.question, "cot": each.chain}
            for each in planted.chains(24, seed=3)
        ]
        data = Path(folder) / "rows.jsonl"
        data.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        start_job(data, whole).wait()
        kills = 0
        while kills < 40:
            job = start_job(data, killed)
            if not killed_after(job, killed, cells=4):
                break
            kills += 1
        same = comparable(whole) == comparable(killed)
        doubled = len(comparable(killed)) - len({row[:3] for row in comparable(killed)})
        n_rows = len(comparable(whole))
    text = f"{kills} kills, {n_rows} step records, equal: {same}, doubled: {doubled}"
    return Measured(text, same and kills >= 3 and doubled == 0 and n_rows > 0)


def start_job(data: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start `interp tts` on the planted model in a process of its own."""
    words = ["-m", "interp.cli", "tts", str(data), "--model", "planted-steps", "--seeds", "2"]
    words += ["--out", str(out), "--threads", "1"]
    root = Path(__file__).parents[1]
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, cwd=root)


def killed_after(job: subprocess.Popen[bytes], out: Path, *, cells: int) -> bool:
    """Kill a job once it has finished some more cells; False where it ended by itself."""
    folder = out / "cells"
    before = len(list(folder.glob("[!.]*"))) if folder.exists() else 0
    while job.poll() is None:
        now = len(list(folder.glob("[!.]*"))) if folder.exists() else 0
        if now >= before + cells:
            job.send_signal(signal.SIGKILL)
            job.wait()
            return True
        time.sleep(0.005)
    return False


def comparable(folder: Path) -> list[tuple[Any, ...]]:
    """The step records of a run as sortable values."""
    return sorted(
        (
            row["id"],
            row["step"],
            row["seed"],
            *(row[cell] for cell in ("s1c1", "s0c1", "s1c0", "s0c0")),
        )
        for row in Store.open(folder).rows("steps")
    )


CLAIMS = {
    claim.name: claim
    for claim in (
        Claim("engines-agree", "all identities hold, 1e-5", engines_agree),
        Claim("positions", "1e-5", positions),
        Claim("no-leaks", "0 changed", no_leaks),
        Claim("tts-exact", "1e-5 tiny, 1e-4 SmolLM2", tts_exact),
        Claim("tts-cost-short", "at least 5x", lambda: cost(20, 300, 5.0, every=1)),
        Claim("tts-cost-long", "at least 15x", lambda: cost(100, 2000, 15.0, every=10)),
        Claim("tts-planted", "AUC at least 0.95, all legs as planted", tts_planted),
        Claim("resume-after-kill", "the same records, nothing twice", resume_after_kill),
    )
}
CHEAP = ("engines-agree", "positions", "no-leaks", "tts-planted", "resume-after-kill")
"""Claims measured in the tests too."""


@dataclass(frozen=True)
class Command:
    """Measure claims."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Which claims; all by default."""
    json: bool = False
    """One JSON object a claim instead of the table."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure claims, print them, and exit 1 where one fails."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    command = tyro.cli(Command, args=argv, description=__doc__)
    console = Console()
    try:
        claims = [find(name) for name in command.names] or list(CLAIMS.values())
    except InputError as error:
        sys.stderr.write(f"claims: {error}\n")
        sys.exit(error.exit_code)
    results = []
    for claim in claims:
        if not command.json:
            console.print(f"measuring {claim.name} ...", style="dim")
        results.append((claim, claim.measure()))
        if command.json:
            print(json.dumps(as_json(*results[-1])), flush=True)
    if not command.json:
        show(results, console)
    sys.exit(0 if all(measured.holds for _, measured in results) else 1)


def find(name: str) -> Claim:
    """Return a claim by name.

    Raises:
        InputError: no such claim.
    """
    if name not in CLAIMS:
        raise InputError(f"There is no claim {name!r}.{nearest(name, CLAIMS)}")
    return CLAIMS[name]


def as_json(claim: Claim, measured: Measured) -> dict[str, Any]:
    """A claim and what was measured, as plain values."""
    return {
        "claim": claim.name,
        "goal": claim.goal,
        "measured": measured.text,
        "holds": measured.holds,
        "table": list(measured.table),
    }


def show(results: Sequence[tuple[Claim, Measured]], console: Console) -> None:
    """Print the table, and the rows of the cost claims and of failed ones."""
    table = Table("claim", "goal", "measured", "holds")
    for claim, measured in results:
        holds = "yes" if measured.holds else "NO"
        table.add_row(claim.name, claim.goal, escape(measured.text), holds)
    console.print(table)
    for claim, measured in results:
        if measured.table and ("cost" in claim.name or not measured.holds):
            detail = Table(*measured.table[0], title=claim.name)
            for row in measured.table:
                detail.add_row(*(escape(str(value)) for value in row.values()))
            console.print(detail)


if __name__ == "__main__":
    main()
