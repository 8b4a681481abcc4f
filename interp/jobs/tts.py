"""`interp tts`: score every step of many chains of thought, and keep the records."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

import interp.results as results
from interp.data.rows import Row, read_rows
from interp.data.word_problems import other_steps
from interp.engine.generation import check_settings
from interp.engine.loading import load
from interp.engine.model import Model
from interp.engine.tree import Spent
from interp.errors import InputError
from interp.jobs import runs
from interp.models.tokens import encode
from interp.results.manifest import replace_file
from interp.thinking import answers
from interp.thinking.cells import CELLS
from interp.thinking.rules import Rules, Target, Think, preset
from interp.thinking.score import Chain, ChainScore, Problem, prepare, score_chain

Tables = dict[str, list[dict[str, Any]]]
"""Rows by table name."""
NOTHING = MappingProxyType({"forwards": 0.0, "tokens": 0.0})
"""What a marked row costs."""

NOISE_LIMIT = 0.005
"""Half precision that moves a probability by more than this hides decorative steps."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the scores of a run."""

    preset: str = "default"
    seeds: int = 5
    target: Target = "own"
    think: Think = "open"
    control_seeds: int = 1
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    exact: bool = False
    audit: bool = False

    def __post_init__(self) -> None:
        for name in ("seeds", "max_new_tokens"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} {getattr(self, name)}: ask for at least 1.")
        check_settings(self.max_new_tokens, self.temperature, self.top_p, ())
        if self.control_seeds < 0:
            raise InputError(f"--control-seeds {self.control_seeds}: give 0 (no controls) or more.")
        if self.control_seeds > max(1, self.seeds):
            raise InputError(
                f"--control-seeds {self.control_seeds} is more than --seeds {self.seeds}: the "
                "controls of a seed stand beside its scores."
            )

    @property
    def rules(self) -> Rules:
        """The preset with the target and think state asked for."""
        return replace(preset(self.preset), target=self.target, think=self.think)


@dataclass(frozen=True)
class Outcome:
    """What a run ended with."""

    store: results.Store
    scored: int
    marked: int
    warnings: tuple[str, ...]


def run(
    rows: Sequence[Row],
    model: Model,
    store: results.Store,
    settings: Settings,
    *,
    memory_gib: float,
    console: Console,
) -> Outcome:
    """Score every row that is not finished yet; a bad row is marked and the others are kept."""
    order, pool = [], other_steps()
    with runs.progress(console) as bars:
        task = bars.add_task("chains", total=len(rows))
        for row in rows:
            identity = {"problem": asdict(row), "settings": store.manifest.settings_hash}
            key = results.cell_key(identity)
            order.append(key)
            if not store.has(key):
                started = time.monotonic()
                tables, spent = _cell(row, model, settings, pool, memory_gib, bars)
                seconds = time.monotonic() - started
                tables["chains"][0]["seconds"] = seconds
                store.write(key, identity, tables, {**spent, "seconds": seconds})
            bars.advance(task)
    runs.finish(store, order)
    return _outcome(store)


def _cell(
    row: Row,
    model: Model,
    settings: Settings,
    pool: Sequence[str],
    memory_gib: float,
    bars: Progress,
) -> tuple[Tables, dict[str, float]]:
    """Compute one row's tables, or the one that says why it is marked."""
    task = bars.add_task(f"  {row.id[:24]}", total=None)
    try:
        return score_row(
            row,
            prepared(model, row, settings),
            model,
            settings,
            seeds=range(settings.seeds),
            pool=pool,
            memory_gib=memory_gib,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    finally:
        bars.remove_task(task)


def prepared(model: Model, row: Row, settings: Settings) -> Chain | str:
    """The chain of a row, written by the model if the row has none; or why it is marked.

    Of the settings it depends on the rules and on how a chain is written, not on any draw of the
    perturbation.
    """
    if row.reason:
        return row.reason
    try:
        return prepare(
            model,
            _problem(row),
            settings.rules,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
        )
    except InputError as error:
        return str(error)


def score_row(
    row: Row,
    chain: Chain | str,
    model: Model,
    settings: Settings,
    *,
    seeds: Sequence[int],
    pool: Sequence[str],
    memory_gib: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tables, dict[str, float]]:
    """The tables of one row and what they cost; one table that says why, where it is marked.

    Args:
        chain: what `prepared` gave for the row.
        seeds: draws of the perturbation, the first `settings.control_seeds` with controls.
        pool: steps of other problems, from which the random-step control draws.
    """
    if isinstance(chain, str):
        return _marked(row, None, chain), dict(NOTHING)
    try:
        longest = len(encode(model.tokenizer, chain.prompt + chain.text)) + 64
        result = score_chain(
            model,
            chain,
            settings.rules,
            seeds=seeds,
            control_seeds=settings.control_seeds,
            pool=pool,
            exact=settings.exact,
            chunk=chunk_for(model, longest, memory_gib),
            progress=progress,
        )
    except InputError as error:
        return _marked(row, chain, str(error)), dict(NOTHING)
    return _tables(row, model, result, audit=settings.audit), _cost(result.spent)


def _problem(row: Row) -> Problem:
    gold = answers.gold_answer(row.answer) if row.answer else None
    return Problem(row.id, row.question, row.cot, gold, row.spans, row.paraphrases, row.checks)


def chunk_for(model: Model, longest: int, memory_gib: float) -> int:
    """Tokens a forward pass that keep its activations within a memory limit (at most 512).

    A token of the chunk costs its row of attention scores (all heads, 4 bytes, held twice), its
    activations and its logits; the cache and the weights come on top.
    """
    sizes = model.sizes
    scores = 2 * 4 * sizes.n_heads * (longest + 512)
    a_token = scores + 4 * (40 * sizes.d_model + 2 * sizes.d_vocab)
    return int(max(16, min(512, memory_gib * 2**30 / a_token)))


def _marked(row: Row, chain: Chain | None, reason: str) -> Tables:
    about = {
        "id": row.id,
        "status": "marked",
        "reason": reason,
        "question": row.question,
        "chain": chain.text if chain else row.cot,
        "gold": answers.gold_answer(row.answer) if row.answer else None,
    }
    return {"chains": [about]}


def _tables(row: Row, model: Model, result: ChainScore, *, audit: bool) -> Tables:
    chain, spent = result.chain, result.spent
    gold = chain.problem.gold
    about = {
        "id": row.id,
        "status": "scored",
        "reason": None,
        "question": row.question,
        "prompt": chain.prompt,
        "chain": chain.text,
        "answer": chain.answer,
        "answer_source": chain.answer_source,
        "gold": gold,
        "correct": _correct(chain),
        "n_steps": len(chain.steps),
        "starts": [step.start for step in chain.steps],
        "checks": None if chain.problem.checks is None else list(chain.problem.checks),
        "n_tokens": len(model.tokenizer(chain.text, add_special_tokens=False)["input_ids"]),
        "truncated": chain.truncated,
        "n_marked_steps": len(result.marked),
        "noise": result.noise,
        "tokens": spent.tokens,
        "naive_tokens": spent.naive_tokens,
        "forwards": spent.forwards,
    }
    tables: Tables = {
        "chains": [about],
        "steps": [asdict(step) for step in result.steps],
        "marked_steps": result.marked,
    }
    if audit:
        tables["audit"] = [_audit_row(asdict(each)) for each in result.audit]
    return tables


def _correct(chain: Chain) -> bool | None:
    """Whether the model's own answer is the gold one; None where it is not known."""
    gold = chain.problem.gold
    if not gold or chain.answer_source == "gold":
        return None
    return answers.same_answer(chain.answer, gold)


def _audit_row(audit: dict[str, Any]) -> dict[str, Any]:
    lists = {name: list(audit[name]) for name in ("prompt_ids", "answer_ids")}
    return {**audit, **lists}


def _cost(spent: Spent) -> dict[str, float]:
    return {name: float(value) for name, value in asdict(spent).items()}


def _outcome(store: results.Store) -> Outcome:
    chains = runs.rows(store, "chains")
    marked = [chain for chain in chains if chain["status"] == "marked"]
    steps = runs.rows(store, "marked_steps")
    warnings = []
    noisy = [c["noise"] for c in chains if c.get("noise") and c["noise"] > NOISE_LIMIT]
    if noisy:
        warnings.append(
            f"Half precision alone moves a probability by up to {max(noisy):.3g}, more than "
            f"{NOISE_LIMIT}: use --dtype float32 before you call a step decorative."
        )
    if steps:
        warnings.append(f"{len(steps)} steps could not be scored; see `--table marked_steps`.")
    return Outcome(store, len(chains) - len(marked), len(marked), tuple(warnings))


def write_audit(store: results.Store) -> Path:
    """Write `audit.jsonl`: one line for each of the four cells, with the exact token ids.

    The cells of the controls are in the table `audit` beside them.
    """
    four = [row for row in runs.rows(store, "audit") if row["cell"] in CELLS]
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in four]
    path = store.folder / "audit.jsonl"
    replace_file(path, "".join(lines).encode())
    return path


def tts(
    input: Path,
    *,
    model: str,
    out: Path,
    settings: Settings,
    limit: int | None,
    dtype: str | None,
    device: str,
    memory_gib: float,
    console: Console,
) -> Outcome:
    """Read rows, load the model, score, and write records, audit and report."""
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: ask for at least 1 row, or leave it out for all.")
    if memory_gib <= 0:
        raise InputError(f"--memory-gib {memory_gib}: give a positive number of GiB.")
    rules = settings.rules  # refuses an unknown preset before anything is loaded
    rows = read_rows(input, limit=limit)
    refuse_file(out)
    loaded = load(model, dtype=dtype, device=device)
    require_text(loaded)
    store = runs.begin(
        loaded,
        experiment="tts",
        out=out,
        settings={**asdict(settings), "rules": asdict(rules)},
        data={"path": str(input), "sha256": results.file_hash(input)},
        seeds=range(settings.seeds),
        source=model,
    )
    outcome = run(rows, loaded, store, settings, memory_gib=memory_gib, console=console)
    if settings.audit:
        write_audit(store)
    runs.write_report(store)
    return outcome


def refuse_file(out: Path) -> None:
    """Say before the model is loaded that a folder cannot be made there."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file, and a run needs a folder: pick another.")


def require_text(model: Model) -> None:
    """Refuse a model without a tokenizer."""
    if model.tokenizer is None:
        raise InputError(f"{model.name} has no tokenizer, so it cannot read a chain of thought.")


def generated_rows(problems: Iterable[Any]) -> list[Row]:
    """Rows from generated word problems; the model writes the chains."""
    return [Row(each.id, each.question, None, each.answer) for each in problems]


MOST_THREADS = 1024
"""Above any machine's cores; far beyond it torch ends the process without a word."""


def set_threads(threads: int | None) -> None:
    """Set the threads for arithmetic on the CPU."""
    if threads is None:
        return
    if not 1 <= threads <= MOST_THREADS:
        raise InputError(f"--threads {threads}: give 1 to {MOST_THREADS}.")
    torch.set_num_threads(threads)
