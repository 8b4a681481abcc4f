"""The report says what is right, escapes what it shows, and a browser runs its scripts alone."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from interp.errors import InputError
from interp.results.report import render
from interp.results.report_charts import (
    legs_chart,
    position_chart,
    visible,
)
from interp.results.report_html import chain_block, script_json, segments, step_details
from interp.results.report_stats import findings, merge_seeds, scored_rows, summaries
from tests.unit.test_report_causal import rows_of_each_kind

ROOT = Path(__file__).parents[2]
MANIFEST = {"experiment": "thinking", "model": {"name": "tiny"}, "settings": {"cue": "\nSo "}}
PWN = "document.documentElement.dataset.pwned = 1"
ATTACK = f"</script><script>{PWN}</script><img src=x onerror='{PWN}'>\u2028\u2029<!--\"&amp;"


def drawn(manifest: dict, **tables: list[dict]) -> str:
    return render(manifest, tables)


def chain_row(name: str, **more) -> dict:
    row = {"id": name, "status": "scored", "reason": None, "question": "1 + 1?", "gold": "2"}
    row |= {"chain": "One. Two.", "answer": "2", "answer_source": "written", "correct": True}
    row |= {"n_steps": 2, "n_tokens": 9, "truncated": False, "tokens": 30, "naive_tokens": 120}
    return row | {"forwards": 4, "seconds": 0.5} | more


def marked_row(name: str, reason: str, **more) -> dict:
    empty = dict.fromkeys(chain_row(name))
    return empty | {"id": name, "status": "marked", "reason": reason, "question": "?"} | more


def step_row(name: str, step: int, seed: int = 0, **more) -> dict:
    place = {"text": "One.", "start": 0, "end": 4} if step == 0 else {"text": "Two."}
    row = {"id": name, "step": step, "seed": seed, "n_steps": 2, "start": 5, "end": 9} | place
    row |= {"perturbed": "Six.", "op": "edit", "n_answer_tokens": 1}
    row |= {"s1c1": math.log(0.8), "s0c1": math.log(0.4), "s1c0": math.log(0.2)}
    row |= {"s0c0": math.log(0.1), "nec": 0.4, "suf": 0.1, "tts": 0.25}
    row |= {"nec_log_odds": 1.0, "suf_log_odds": 1.0, "mentions_answer": False}
    row |= {"saturated": False, "verification": False, "position": float(step)}
    return row | {"null_tts": 0.01, "random_tts": 0.02} | more


@pytest.fixture
def chains() -> list[dict]:
    return [chain_row("p"), chain_row("q", correct=False), marked_row("r", "no answer was parsed")]


@pytest.fixture
def steps() -> list[dict]:
    """Means over seeds: p:0 0.2, p:1 0.9, q:0 0.0, q:1 0.3; 1.4 in all."""
    return [
        step_row("p", 0, tts=0.1),
        step_row("p", 0, seed=1, tts=0.3),
        step_row("p", 1, tts=0.9, mentions_answer=True, null_tts=0.05),
        step_row("q", 0, tts=0.0, nec=0.0, suf=0.0, saturated=True, random_tts=None),
        step_row("q", 1, tts=0.3, nec=-0.4, suf=0.2, op="drop", perturbed=None),
    ]


def without_plotly(page: str) -> str:
    """Return the page without the library, whose text names many addresses that it never opens."""
    assert page.count(get_plotlyjs()) == 1
    return page.replace(get_plotlyjs(), "")


def test_findings_are_the_numbers_worked_out_by_hand(chains, steps):
    """Means: 1.4 / 4; null (0.01 * 3 + 0.05) / 4; random 0.02; thirds 0.2 and 1.2 of 1.4."""
    mean, spread, place = findings(scored_rows(chains, steps))
    assert mean.title == "Mean TTS is 0.350; a null rewrite gives 0.020, a random step 0.020."
    assert "over 2 problems" in mean.detail
    assert "Above the null rewrite by 0.330" in mean.detail
    expected = "25% of steps score at most 0.005; 50% at least 0.3, 25% at least 0.7."
    assert spread.title == expected
    assert spread.detail.startswith("1 of 4 steps hardly move the answer. Of those, 1 are flagged")
    assert place.title == "The last third of the chains holds 86% of all TTS."
    assert "first 14% (from 50% of the steps), middle 0% (from 0%" in place.detail


def test_the_interval_resamples_problems_and_not_steps():
    """Ten equal steps a problem: means 0 and 1, so every resample has mean 0, 0.5 or 1."""
    rows = [
        step_row(name, i, tts=score) for name, score in (("p", 0.0), ("q", 1.0)) for i in range(10)
    ]
    line = summaries(rows)[0]
    assert line.mean is not None
    assert (line.mean.estimate, line.mean.low, line.mean.high) == (0.5, 0.0, 1.0)


def test_the_table_holds_subsets_and_controls(chains, steps):
    lines = {line.name: line for line in summaries(scored_rows(chains, steps))}
    got = {name: (s.n_steps, s.mean and round(s.mean.estimate, 6)) for name, s in lines.items()}
    assert got == {
        "All steps": (4, 0.35),
        "Without steps that mention the answer": (3, round(0.5 / 3, 6)),
        "Without saturated steps": (3, round(1.4 / 3, 6)),
        "Without either": (2, 0.25),
        "Edited steps only": (3, round(1.1 / 3, 6)),
        "Dropped steps only": (1, 0.3),
        "Verification steps only": (0, None),
        "Control: null rewrite": (4, 0.02),
        "Control: random step of another problem": (3, 0.02),
    }
    assert lines["All steps"].shares == (0.25, 0.5, 0.25)
    assert lines["All steps"].nec == pytest.approx((0.4 + 0.4 + 0 - 0.4) / 4)


def test_one_problem_has_a_mean_and_no_interval():
    page = drawn(MANIFEST, chains=[chain_row("p")], steps=[step_row("p", 0), step_row("p", 1)])
    assert "95% interval over 1 problem: no interval." in page
    assert "one problem: no interval" in page


def test_a_step_is_harmful_where_its_legs_lower_the_answer_on_balance():
    """Mean legs: -0.1, then exactly the limit of -0.005, then +0.1 with one negative leg."""
    legs = [(-0.4, 0.2), (-0.01, 0.0), (-0.1, 0.3)]
    steps = merge_seeds(step_row("p", i, nec=n, suf=s) for i, (n, s) in enumerate(legs))
    assert ["harmful" in step.flags for step in steps] == [True, False, False]


def test_details_give_the_cells_as_probabilities_and_the_spread_over_seeds(steps):
    details = step_details(merge_seeds(steps)[0])
    assert details["cells"] == [["0.800", "0.400"], ["0.200", "0.100"]]
    lines = dict(details["lines"])
    assert lines["TTS"] == "0.200"
    assert lines["Over seeds"] == "0.100 to 0.300, 2 seeds"
    assert (lines["Necessity"], lines["Became"]) == ("0.400", "Six.")


def test_a_chain_is_cut_at_the_steps_and_keeps_every_character():
    steps = merge_seeds([step_row("p", 0), step_row("p", 1)])
    pieces = segments("One. Two. Done", steps)
    assert [text for text, _ in pieces] == ["One.", " ", "Two.", " Done"]
    assert [step and step.step for _, step in pieces] == [0, None, 1, None]


def test_steps_whose_offsets_are_wrong_are_shown_by_their_own_text():
    steps = merge_seeds([step_row("p", 0), step_row("p", 1, start=6)])
    assert [text for text, _ in segments("One. Two.", steps)] == ["One.\n", "Two.\n"]


@pytest.mark.parametrize(
    ("score", "shade"), [(0.0, 0), (0.005, 0), (0.006, 1), (0.05, 2), (0.3, 4), (0.7, 5), (1.0, 5)]
)
def test_the_shade_follows_the_mean_score(score, shade):
    (step,) = merge_seeds([step_row("p", 0, tts=score)])
    block = chain_block(chain_row("p", chain="One."), [step], opened=True)
    assert f'class="step t{shade}"' in block


def test_the_chart_by_position_means_what_its_rows_say(steps):
    points, null = position_chart(merge_seeds(steps))["data"]
    assert points["x"] == ["0 to 20%", "80 to 100%"]
    assert points["y"] == pytest.approx([0.1, 0.6])
    assert null["y"] == pytest.approx([0.02, 0.02])


def test_the_legs_are_drawn_with_their_signs(steps):
    others, harmful = legs_chart(merge_seeds(steps))["data"]
    assert (harmful["x"], harmful["y"]) == ([-0.4], [0.2])
    assert len(others["x"]) == 3


def test_a_step_of_an_unknown_problem_is_refused():
    with pytest.raises(InputError, match=r"^Step 0 of problem 'x' has no row among the chains"):
        drawn(MANIFEST, chains=[chain_row("p")], steps=[step_row("x", 0)])


@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_a_score_that_is_no_number_is_refused(score):
    with pytest.raises(InputError, match=r"^Step 1 of problem 'p' has tts (nan|inf|None), which"):
        scored_rows([chain_row("p")], [step_row("p", 1, tts=score)])


def test_steps_of_marked_problems_are_left_out(chains):
    assert scored_rows(chains, [step_row("r", 0)]) == []


def test_a_run_without_a_scored_problem_gives_the_reasons():
    chains = [marked_row("a", "no answer was parsed"), marked_row("b", "the chain has one step")]
    page = without_plotly(drawn(MANIFEST, chains=chains, steps=[]))
    assert "No problem was scored" in page
    assert "no answer was parsed" in page
    assert "the chain has one step" in page
    assert "0 problems scored" in page
    assert 'id="summary"' not in page


def test_marked_problems_stand_beside_scored_ones(chains, steps):
    page = drawn(MANIFEST, chains=chains, steps=steps)
    assert "2 problems scored" in page
    assert "1 marked" in page
    assert "no answer was parsed" in page
    assert page.count('<details class="chain"') == 2
    assert "1 of 2 right" in page
    assert "25% of naive tokens" in page


def test_the_page_fetches_nothing(chains, steps):
    page = without_plotly(drawn(MANIFEST, chains=chains, steps=steps, **rows_of_each_kind()))
    assert not re.search(r"https?:|//[a-z]|\bsrc\s*=|\bhref\s*=|url\(|@import|<link", page)
    assert "default-src 'none'" in page


def test_the_page_is_the_same_twice(chains, steps):
    first, second = (drawn(MANIFEST, chains=chains, steps=steps) for _ in range(2))
    assert first == second


def attacked() -> str:
    """Return a page in which every text from data tries to run a script."""
    chain = f"{ATTACK} Two."
    rows = [
        step_row(ATTACK, 0, start=0, end=len(ATTACK), text=ATTACK, perturbed=ATTACK),
        step_row(ATTACK, 1, start=len(ATTACK) + 1, end=len(chain)),
    ]
    texts = dict.fromkeys(("question", "answer", "gold", "answer_source"), ATTACK)
    return drawn(
        {"experiment": ATTACK, "model": ATTACK, "settings": {ATTACK: [ATTACK]}},
        chains=[chain_row(ATTACK, chain=chain, **texts), marked_row(f"{ATTACK}2", ATTACK)],
        steps=rows,
        **rows_of_each_kind(ATTACK),
    )


def test_text_from_data_stays_text():
    page = without_plotly(attacked())
    assert "<script>document" not in page
    assert "<img" not in page
    assert page.count("</script>") == page.count("<script") == 5  # three scripts, two data blocks
    assert html.escape(ATTACK) in page
    for block in re.findall(r'<script type="application/json" id="[a-z-]+">(.*?)</script>', page):
        assert not set(block) & set("<>&\u2028\u2029")
        json.loads(block)


def test_a_data_block_reads_back_as_it_was():
    block = script_json("d", {"text": ATTACK})
    inner = block.removeprefix('<script type="application/json" id="d">').removesuffix("</script>")
    assert json.loads(inner) == {"text": ATTACK}
    assert "<" not in inner


def test_token_labels_cannot_hold_tags():
    assert visible("<b>\n") == "&lt;b&gt;⏎"


def test_half_a_character_can_be_written():
    page = drawn(MANIFEST, chains=[chain_row("p", question="\ud83d")], steps=[])
    assert page.encode("utf-8")


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


def opened(page: str, folder: Path) -> tuple[dict[str, str], str]:
    """Open a page in a browser; return the root's data attributes, and the page as it became."""
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--no-first-run", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    command = [CHROMIUM, *flags, "--virtual-time-budget=10000", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, encoding="utf-8")
    root = re.search(r"<html [^>]*>", done.stdout)
    assert root, done.stderr
    found = re.findall(r'data-([a-z]+)="([^"]*)"', root[0])
    return {name: html.unescape(value) for name, value in found}, done.stdout


@pytest.mark.skipif(not CHROMIUM, reason="no chromium is installed, so no browser opened the page")
def test_a_browser_draws_the_page_without_an_error(chains, steps, tmp_path):
    page = drawn(MANIFEST, chains=chains, steps=steps, **rows_of_each_kind())
    root, dom = opened(page, tmp_path)
    assert root == {"errors": "[]", "ready": "1", "steps": "4", "charts": "9", "shown": "4"}
    assert dom.count('class="main-svg"') >= 4  # Plotly's own drawings


@pytest.mark.skipif(not CHROMIUM, reason="no chromium is installed, so no browser opened the page")
def test_a_browser_runs_no_script_from_the_data(tmp_path):
    """A script that the policy blocks is an error too, so no error means that none was there."""
    root, dom = opened(attacked(), tmp_path)
    assert root == {"errors": "[]", "ready": "1", "steps": "2", "charts": "9", "shown": "2"}
    assert "<img" not in dom.replace(get_plotlyjs(), "")


@pytest.mark.skipif(not CHROMIUM, reason="no chromium is installed, so no browser opened the page")
def test_the_browser_would_tell_of_an_injected_script(chains, steps, tmp_path):
    page = drawn(MANIFEST, chains=chains, steps=steps)
    root, _ = opened(page.replace("<main>", f"<main><script>{PWN}</script>"), tmp_path)
    assert "blocked script-src-elem inline" in root["errors"]
    assert "pwned" not in root


DRIVE = """
const step = document.querySelector('[data-key="p:0"]');
step.focus();
document.documentElement.dataset.tip = document.getElementById("tip").innerText;
step.blur();
document.documentElement.dataset.hidden = document.getElementById("tip").hidden;
document.querySelector('[data-hide="drop"]').click();
document.documentElement.dataset.undropped = document.documentElement.dataset.shown;
document.getElementById("slider").value = "0.5";
document.getElementById("slider").dispatchEvent(new Event("input"));
document.documentElement.dataset.high = document.documentElement.dataset.shown;
document.getElementById("reset").click();
document.querySelector('[data-only="harmful"]').click();
"""


@pytest.mark.skipif(not CHROMIUM, reason="no chromium is installed, so no browser opened the page")
def test_focus_shows_the_cells_and_the_filters_pick_out_steps(chains, steps, tmp_path):
    """The policy is taken out here: it would stop the script that plays the reader."""
    page = drawn(MANIFEST, chains=chains, steps=steps)
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    root, _ = opened(free.replace("</body>", f"<script>{DRIVE}</script></body>"), tmp_path)
    assert root["tip"].startswith("Step 1")
    assert "0.100 to 0.300, 2 seeds" in root["tip"]
    assert re.search(r"Context intact\s+0\.800\s+0\.400", root["tip"])
    assert (root["hidden"], root["undropped"], root["high"]) == ("true", "3", "1")
    assert (root["shown"], root["errors"]) == ("1", "[]")


def test_reports_are_rendered_without_torch():
    code = "import sys, interp.results.report as r; r.render({}, {}); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
