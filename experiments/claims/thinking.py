"""Claims about the True-Thinking Score and its jobs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import interp
from experiments.chains import counted_chain
from experiments.claims.core import TINY, Claim, Measured
from interp.engine.model import Model
from interp.engine.tree import score
from interp.models import planted
from interp.results import Store
from interp.stats import auc
from interp.thinking.cells import cell_texts, step_texts
from interp.thinking.rules import Rules
from interp.thinking.score import Chain, Problem, Tokeniser, prepare, score_chain


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


QUESTION = "Several friends count their things and add them up. How many are there at the end?"


def cost_chain(model: Model, *, n_steps: int, n_tokens: int) -> Chain:
    """A chain of a wanted size behind a question of about 40 tokens."""
    text = counted_chain(model, n_steps=n_steps, n_tokens=n_tokens)
    problem = Problem("cost", QUESTION, text, gold="42")
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
            for each in planted.chains(16, seed=3)
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
    root = Path(__file__).parents[2]
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


CLAIMS = (
    Claim("tts-exact", "1e-5 tiny, 1e-4 SmolLM2", tts_exact),
    Claim("tts-cost-short", "at least 5x", lambda: cost(20, 300, 5.0, every=1)),
    Claim("tts-cost-long", "at least 15x", lambda: cost(100, 2000, 15.0, every=10)),
    Claim("tts-planted", "AUC at least 0.95, all legs as planted", tts_planted),
    Claim("resume-after-kill", "the same records, nothing twice", resume_after_kill),
)
