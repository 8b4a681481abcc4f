"""Laws of step graphs, traces and span edits, for every tree and search."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from interp.models import dfs
from interp.thinking.graph import failed_step_fraction, graph, parse_trace
from interp.thinking.span_edits import branch_arms, edit_spans, remove_branch, token_ends

TOK = dfs.tokenizer()
seeds = st.integers(0, 10_000)
many = settings(deadline=None, derandomize=True, max_examples=40)


@st.composite
def trees(draw) -> tuple[list[tuple[str, str | None]], set[str]]:
    """Draw a tree of up to 9 steps and a set of failed ones, closed downwards."""
    n = draw(st.integers(1, 9))
    parents = [None, *(draw(st.integers(0, i - 1)) for i in range(1, n))]
    steps = [(f"s{i}", None if p is None else f"s{p}") for i, p in enumerate(parents)]
    failed: set[str] = set()
    for step, parent in steps:
        if parent in failed or draw(st.booleans()):
            failed.add(step)
    return steps, failed


def search(seed: int) -> tuple[dfs.PathProblem, dfs.Search]:
    problem = dfs.problems(1, seed=seed)[0]
    return problem, dfs.oracle(problem, seed=seed)


@many
@given(trees(), st.randoms(use_true_random=False))
def test_fsf_is_the_share_failed_whatever_the_order(tree, rng):
    steps, failed = tree
    one = graph(steps, failed=failed)
    shuffled = rng.sample(steps, len(steps))
    other = graph(shuffled, failed=failed)
    assert failed_step_fraction(one) == failed_step_fraction(other) == len(failed) / len(steps)


@many
@given(trees())
def test_failed_branches_split_the_failed_steps(tree):
    steps, failed = tree
    branches = graph(steps, failed=failed).failed_branches
    listed = [step for branch in branches for step in branch.steps]
    assert sorted(listed) == sorted(failed)
    parent = dict(steps)
    for branch in branches:
        assert parent[branch.steps[0]] not in failed
        assert all(parent[step] in branch.steps for step in branch.steps[1:])


@many
@given(seeds)
def test_the_parser_finds_what_the_search_did(seed):
    problem, truth = search(seed)
    found = parse_trace(truth.text)
    assert failed_step_fraction(found) == truth.fsf == dfs.replay(problem, truth.text).fsf
    way = [node.id.partition(":")[2] for node in found.nodes if not node.failed]
    assert way == list(problem.path)


@many
@given(seeds)
def test_removing_every_failed_branch_leaves_the_straight_way(seed):
    problem, truth = search(seed)
    found = parse_trace(truth.text)
    edits = [remove_branch(found, i) for i in range(len(found.failed_branches))]
    straight = "".join(f" {word}" for word in [*problem.path, dfs.ANSWER, problem.answer])
    assert edit_spans(truth.text, edits) == straight


@many
@given(seeds)
def test_removing_one_branch_removes_its_steps_and_nothing_else(seed):
    _, truth = search(seed)
    found = parse_trace(truth.text)
    for i, branch in enumerate(found.failed_branches):
        left = parse_trace(edit_spans(truth.text, [remove_branch(found, i)]))
        assert len(left.nodes) == len(found.nodes) - len(branch.steps)
        assert len(left.failed) == len(found.failed) - len(branch.steps)
        assert len(left.failed_branches) == len(found.failed_branches) - 1


@settings(many, max_examples=15)
@given(seeds)
def test_every_prefix_of_a_search_has_a_graph_or_a_reason(seed):
    """Steps that failed stay failed as the trace goes on."""
    _, truth = search(seed)
    words, before = truth.text.split(), 0
    for n in range(1, len(words) + 1):
        if words[n - 1] == dfs.BACKTRACK:
            continue
        n_failed = len(parse_trace(" ".join(words[:n])).failed)
        assert n_failed >= before
        before = n_failed


@many
@given(seeds)
def test_arms_remove_as_many_tokens_as_they_say_and_controls_as_their_arm(seed):
    _, truth = search(seed)
    found = parse_trace(truth.text)
    if not found.failed_branches:
        return
    arms = {arm.name: arm for arm in branch_arms(TOK, truth.text, found, seed=seed)}
    whole = len(token_ends(TOK, truth.text))
    for arm in arms.values():
        if arm.text is not None:
            assert whole - len(token_ends(TOK, arm.text)) == arm.removed
    for name in ("first", "last"):
        control = arms[f"control {name}"]
        if control.text is not None:
            assert control.removed == arms[name].removed > 0
            kept = control.text.split().count(dfs.BACKTRACK)
            assert kept == truth.text.split().count(dfs.BACKTRACK)
    assert arms["no-op"].text == truth.text and arms["no-op"].removed == 0
