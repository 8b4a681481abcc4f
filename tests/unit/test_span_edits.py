"""Span edits by hand, the arms of a chain, and continuing them; plain Hugging Face as the judge."""

from __future__ import annotations

import json

import pytest
import torch

from experiments.failed_steps import (
    HELD_OUT,
    MOST_WORDS,
    RECORDS,
    ChainRow,
    Config,
    EditRow,
    arms_of,
    difference,
    edited_chains,
    fsf_exact,
    sample,
    summarise,
)
from experiments.train_dfs import RECORDS as TRAINED
from experiments.train_dfs import load_trained
from interp.errors import InputError
from interp.models import dfs
from interp.results.manifest import read_manifest
from interp.thinking import within
from interp.thinking.graph import graph, parse_trace
from interp.thinking.span_edits import (
    ARMS,
    SpanEdit,
    branch_arms,
    edit_spans,
    regenerate,
    remove_branch,
    remove_successful,
    token_ends,
)
from tests.strategies import tiny

TOK = dfs.tokenizer()
TRACE = " A B backtrack A C D E F backtrack E backtrack D"
"""First failed branch ` B backtrack A` (3 tokens), last ` E F backtrack E backtrack D` (6)."""


def test_spans_are_replaced_at_the_offsets_of_the_text_as_given():
    edits = [SpanEdit(6, 9, "X"), SpanEdit(0, 2), SpanEdit(3, 3, "new ")]
    assert edit_spans("ab cd efg", edits) == " new cd X"
    assert edit_spans("ab cd", []) == "ab cd"


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            [SpanEdit(2, 6)],
            "The span 2 to 6 does not lie in the 5 characters of the text: count characters from "
            "0.",
        ),
        (
            [SpanEdit(3, 2)],
            "The span 3 to 2 does not lie in the 5 characters of the text: count characters from "
            "0.",
        ),
        (
            [SpanEdit(2, 4), SpanEdit(0, 3)],
            "The spans 0 to 3 and 2 to 4 overlap: join them into one edit.",
        ),
    ],
)
def test_spans_that_cannot_be_edited_are_refused(edits, message):
    with pytest.raises(InputError) as caught:
        edit_spans("ab cd", edits)
    assert str(caught.value) == message


def test_removing_a_branch_leaves_the_trace_that_never_went_there():
    found = parse_trace(TRACE)
    assert edit_spans(TRACE, [remove_branch(found, 0)]) == " A C D E F backtrack E backtrack D"
    assert edit_spans(TRACE, [remove_branch(found)]) == " A B backtrack A C D"
    both = [remove_branch(found, 0), remove_branch(found, 1)]
    assert edit_spans(TRACE, both) == " A C D"
    summary = remove_branch(found, 0, replacement=" (not B)")
    assert edit_spans(TRACE, [summary]) == " A (not B) C D E F backtrack E backtrack D"


def test_a_branch_that_is_not_there_is_refused():
    with pytest.raises(InputError) as caught:
        remove_branch(parse_trace(" A B C"))
    assert str(caught.value) == (
        "The chain has 0 failed branches and no number -1: there is nothing to remove."
    )
    with pytest.raises(InputError) as caught:
        remove_branch(graph([("a", None), ("b", "a")], failed=["b"]))
    assert str(caught.value) == (
        "The step 'b' has no span, so it cannot be found in the text: give start and end of every "
        "step, or read the graph with `parse_trace`."
    )


def test_the_length_control_removes_good_steps_only_and_keeps_the_last():
    """Good steps are A, C and D; D stays. Two tokens leave one choice, one token two."""
    found = parse_trace(TRACE)
    rest = " B backtrack A D E F backtrack E backtrack D"
    assert edit_spans(TRACE, remove_successful(TOK, TRACE, found, 2)) == rest
    ones = {
        edit_spans(TRACE, remove_successful(TOK, TRACE, found, 1, seed=seed)) for seed in range(9)
    }
    assert ones == {TRACE.removeprefix(" A"), TRACE.replace(" C", "")}


def test_a_control_that_has_too_little_to_remove_says_so():
    with pytest.raises(InputError) as caught:
        remove_successful(TOK, TRACE, parse_trace(TRACE), 3)
    assert str(caught.value) == (
        "The steps that did not fail have 2 tokens before the last one, and the control must "
        "remove 3: leave this chain out of the comparison."
    )
    with pytest.raises(InputError, match=r"^n_tokens=0: a control removes at least one token\.$"):
        remove_successful(TOK, TRACE, parse_trace(TRACE), 0)


def test_tokens_cover_the_text():
    spans = token_ends(TOK, TRACE)
    assert [TRACE[start:end] for start, end in spans] == [f" {word}" for word in TRACE.split()]
    with pytest.raises(InputError, match=r"^The tokenizer has no character offsets"):
        token_ends(object(), TRACE)


def test_the_arms_by_hand_and_an_arm_without_a_text_says_why():
    text = " A C D G B backtrack G E backtrack G H"
    arms = {arm.name: arm for arm in branch_arms(TOK, text, parse_trace(text))}
    assert tuple(arms) == ARMS
    assert arms["no-op"].text == arms["unedited"].text == text
    assert arms["first"].text == " A C D G E backtrack G H"
    assert arms["last"].text == " A C D G B backtrack G H"
    assert [arms[name].removed for name in ARMS] == [0, 0, 3, 3, 3, 3]
    assert arms["control last"].text in (
        " A B backtrack G E backtrack G H",
        " G B backtrack G E backtrack G H",
    )
    short = {arm.name: arm for arm in branch_arms(TOK, TRACE, parse_trace(TRACE))}
    assert short["control first"].text is None
    assert short["control first"].reason.startswith("The steps that did not fail have 2 tokens")
    assert short["first"].text is not None


def test_greedy_regeneration_is_plain_hugging_faces():
    model = tiny("tiny-llama")
    prompts = ["One two", "Three four five six"]
    ours = regenerate(model, prompts, n=2, max_new_tokens=6, temperature=0.0, rows=3)
    for prompt, texts in zip(prompts, ours, strict=True):
        ids = torch.tensor([model.tokenizer(prompt).input_ids])
        out = model.hf.generate(ids, max_new_tokens=6, do_sample=False)
        theirs = model.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert texts == [theirs, theirs]


def test_equal_calls_draw_the_same_numbers_and_seeds_differ():
    model, prompts = tiny("tiny-llama"), ["One two", "Three"]
    one, again, other = (
        regenerate(model, prompts, n=3, max_new_tokens=5, seed=seed) for seed in (0, 0, 1)
    )
    assert one == again != other
    assert [len(texts) for texts in one] == [3, 3] and len(set(one[0])) > 1
    with pytest.raises(
        InputError, match=r"^0 prompts, n=1, rows=256: give at least one of each\.$"
    ):
        regenerate(model, [], n=1, max_new_tokens=1)


# -------------------------------------------------------------------------------- the experiment


def row(problem: str, sample: int, text: str, correct: bool) -> ChainRow:
    return ChainRow(problem, sample, text, 0.5, 2, 3, correct, 0)


def test_wrong_chains_with_two_failed_branches_are_cut_and_edited():
    two = TRACE + " G answer 3"
    chains = [
        row("p", 0, two, True),  # right
        row("p", 1, " A B backtrack A C answer 2", False),  # one branch
        row("p", 2, two, False),
        row("p", 3, two, False),
        row("p", 4, two, False),  # the third of its problem
        row("q", 0, TRACE, False),  # never answers
    ]
    by_branch = edited_chains(chains, "branch", 2)
    assert [(c.problem, c.sample, start) for c, start, _ in by_branch] == [
        ("p", 2, TRACE),
        ("p", 3, TRACE),
        ("q", 0, TRACE),
    ]
    by_answer = edited_chains(chains, "answer", 2)
    assert [(c.sample, start) for c, start, _ in by_answer] == [
        (2, f"{TRACE} G"),
        (3, f"{TRACE} G"),
    ]
    assert len(by_branch[0][2].nodes) == 6 and len(by_answer[0][2].nodes) == 7


def test_the_difference_of_arms_is_paired_and_leaves_out_what_lacks_an_arm():
    made = [
        ("p", "first", 0.5),
        ("p", "unedited", 0.25),
        ("q", "first", 1.0),
        ("q", "unedited", None),
    ]
    rows = [EditRow(problem, 0, "branch", arm, 3, 4, right) for problem, arm, right in made]
    found = difference(rows, "branch", "first", "unedited")
    assert found is not None
    assert (found["gain"]["estimate"], found["chains"], found["left out"]) == (0.25, 1, 1)
    assert difference(rows, "answer", "first", "unedited") is None


def test_the_planted_model_answers_wrong_where_it_fails_more():
    """The summary finds what is planted: chains of FSF 0.6 are wrong, of FSF 0.2 right."""
    chains = [
        ChainRow(
            str(p),
            i,
            "",
            fsf=0.6 if i % 2 else 0.2,
            n_steps=5,
            n_words=9 + i,
            correct=i % 2 == 0,
            flaws=0,
        )
        for p in range(20)
        for i in range(4)
    ]
    found = summarise(chains, [])
    assert found["fsf"]["within"]["estimate"] == pytest.approx(-1)
    assert found["selection"]["gain"]["estimate"] == found["selection"]["gain"]["low"] == 0.5
    assert found["edits"] == []


def test_settings_that_sample_nothing_are_refused():
    with pytest.raises(InputError) as caught:
        Config(samples=0)
    assert str(caught.value) == "samples=0: give 1 or more."
    paper = Config(scale="paper").scaled
    assert (paper.problems, paper.samples) == (400, 64)


def test_the_trained_model_writes_what_plain_hugging_face_ranks_first():
    model = load_trained()
    problem = dfs.problems(1, seed=-5)[0]
    (ours,) = regenerate(model, [problem.prompt], n=1, max_new_tokens=20, temperature=0.0)
    ids = torch.tensor([model.tokenizer(problem.prompt).input_ids])
    out = model.hf.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
    )
    theirs = model.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    assert ours == [theirs] and ours[0].startswith(f" {problem.start}")


def test_fsf_is_exact_on_the_oracle_and_on_the_models_own_traces():
    text, holds = fsf_exact(n=200, samples=1)
    assert holds and text.startswith("0 of 200 oracle traces and 0 of 100 traces of the trained")


def test_sampled_chains_agree_with_a_replay_of_their_search():
    asked = dfs.problems(3, seed=-7)
    chains = sample(load_trained(), asked, Config(problems=3, samples=4))
    assert [(c.problem, c.sample) for c in chains] == [(p.id, i) for p in asked for i in range(4)]
    for chain in chains:
        walked = dfs.replay(asked[int(chain.problem.split("-")[-1])], chain.text)
        assert (chain.fsf, chain.correct) == (walked.fsf, walked.correct)
        assert (chain.fsf is None) == bool(chain.reason)


def test_the_records_are_of_the_stored_model_and_say_what_the_summary_says():
    made, trained = (read_manifest(each / "manifest.json") for each in (RECORDS, TRAINED))
    assert {k: v for k, v in made.model.items() if k != "name"} == trained.model
    lines = (RECORDS / "chains.jsonl").read_text(encoding="utf-8").splitlines()
    chains = [ChainRow(**json.loads(line)) for line in lines]
    config = Config()
    assert len(chains) == config.problems * config.samples
    asked = {p.id: p for p in dfs.problems(config.problems, seed=HELD_OUT)}
    for chain in chains[::50]:
        walked = dfs.replay(asked[chain.problem], chain.text)
        assert (chain.fsf, chain.correct, chain.strays) == (
            walked.fsf,
            walked.correct,
            walked.strays,
        )
    said = json.loads((RECORDS / "summary.json").read_text(encoding="utf-8"))
    known = [chain for chain in chains if chain.fsf is not None]
    columns = [[c.fsf for c in known], [c.correct for c in known], [c.problem for c in known]]
    again = within.association(*columns, n_boot=1).within.estimate
    assert again == pytest.approx(said["fsf"]["within"]["estimate"], abs=1e-12)
    assert said["fsf"]["within"]["high"] < 0  # more failed steps, fewer right answers


def test_acceptance_failed_branches_hurt_the_last_at_least_as_much_beyond_the_length_control():
    """Sheet (d): the signs, of problems on which neither model nor settings were chosen."""
    said = json.loads((RECORDS / "summary.json").read_text(encoding="utf-8"))
    gains = {
        (each["arm"], each["against"]): each["gain"]
        for each in said["edits"]
        if each["cut"] == "answer"
    }
    assert said["fsf, chains without a flaw"]["within"]["high"] < 0
    assert gains["no-op", "unedited"]["estimate"] == gains["no-op", "unedited"]["high"] == 0
    assert gains["last", "unedited"]["low"] > 0
    assert gains["last", "first"]["low"] > 0
    assert gains["last", "control last"]["low"] > 0
    assert said["selection"]["gain"]["low"] > 0


def test_starts_that_leave_too_little_room_are_not_edited():
    long = TRACE + " E backtrack D" * (MOST_WORDS // 3)
    chains = [row("p", 0, long, False), row("q", 0, TRACE, False)]
    assert [c.problem for c, _, _ in edited_chains(chains, "branch", 2)] == ["q"]


def test_what_cannot_be_correlated_is_none_and_the_summary_goes_on():
    chains = [row("p", 0, TRACE, True), row("p", 1, TRACE, True)]
    found = summarise(chains, [])
    assert found["fsf"] is None and found["share right"] == 1 and found["arms"] == []


def test_the_arms_are_averaged_over_the_chains_that_have_them():
    made = [("first", 0.5, 3), ("first", 1.0, 6), ("control first", None, 0), ("last", 0.25, 3)]
    rows = [EditRow("p", i, "answer", a, n, 4, right) for i, (a, right, n) in enumerate(made)]
    assert arms_of(rows) == [
        {
            "cut": "answer",
            "arm": "first",
            "chains": 2,
            "share right": 0.75,
            "tokens removed": 4.5,
        },
        {
            "cut": "answer",
            "arm": "last",
            "chains": 1,
            "share right": 0.25,
            "tokens removed": 3.0,
        },
    ]
