"""Every line of audit.jsonl computed again with plain transformers: no code of the package."""

from __future__ import annotations

import io
import json
import math

import pytest
import torch
from rich.console import Console

from interp.jobs import tts
from interp.models import tiny

SETTINGS = tts.Settings(seeds=2, control_seeds=1, audit=True)
CELLS = ("s1c1", "s0c1", "s1c0", "s0c0")
ROWS = (
    {
        "id": "written",
        "question": "How many apples are there?",
        "cot": "First he has 12 apples. Then 5 + 3 = 8 are red. So that is good.\n"
        "Wait, the sum is 1,033. The answer is 33.",
    },
    {
        "id": "one token",
        "question": "And how many are left?",
        "cot": "It is 7 and no more.\nThe answer is \\boxed{7}.",
    },
)


@torch.no_grad()
def recomputed(hf, line: dict) -> float:
    """The joint log-probability of the answer ids after the prompt ids, in nats."""
    prompt, answer = line["prompt_ids"], line["answer_ids"]
    logprobs = hf(torch.tensor([prompt + answer])).logits.float().log_softmax(-1)[0]
    return sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(answer))


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama", "tiny-gemma3", "tiny-mixtral"])
def test_every_audited_cell_is_what_anyone_computes_from_its_tokens(name, preset, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    outcome = tts.tts(
        data,
        model=name,
        out=tmp_path / "run",
        settings=tts.Settings(**{**vars(SETTINGS), "preset": preset}),
        limit=None,
        dtype=None,
        device="cpu",
        memory_gib=2.0,
        console=Console(file=io.StringIO()),
    )
    assert (outcome.scored, outcome.marked) == (2, 0)
    text = (tmp_path / "run" / "audit.jsonl").read_text()
    four = [json.loads(line) for line in text.splitlines()]
    lines = outcome.store.rows("audit")  # the cells of the controls too
    assert four == [line for line in lines if line["cell"] in CELLS]
    steps = {(s["id"], s["step"], s["seed"]): s for s in outcome.store.rows("steps")}
    hf, tok = tiny.build(name), tiny.tokenizer()
    answers = {"written": "33", "one token": "7"}
    assert (len(four), len(lines)) == (5 * 4 * 2, 5 * 4 * 2 + 5 * 6)  # controls under one seed
    for line in lines:
        expected = recomputed(hf, line)
        assert line["logprob"] == pytest.approx(expected, rel=0, abs=1e-5)
        closing = "}" if preset == "default" else ""
        assert tok.decode(line["answer_ids"]) == answers[line["id"]] + closing
        step = steps[line["id"], line["step"], line["seed"]]
        if line["cell"] in CELLS:
            assert step[line["cell"]] == line["logprob"]
            if line["cell"] == "s1c1":
                chain = next(row["cot"] for row in ROWS if row["id"] == line["id"])
                intact = chain[: step["end"]].rstrip()
                assert intact in tok.decode(line["prompt_ids"])
    for step in steps.values():
        chance = {cell: math.exp(step[cell]) for cell in CELLS}
        nec, suf = chance["s1c1"] - chance["s0c1"], chance["s1c0"] - chance["s0c0"]
        assert step["tts"] == (abs(nec) + abs(suf)) / 2
