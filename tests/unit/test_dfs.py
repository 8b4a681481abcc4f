"""The search subject: problems, oracle, replay, tokenizer, training recipe and stored weights."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from experiments import train_dfs
from experiments.train_dfs import RECORDS, Config, batch_of, load_trained, traces
from interp.errors import InputError
from interp.models import dfs
from interp.models.dfs import PathProblem, Replay, oracle, problems, replay, tokenizer
from interp.results.manifest import read_manifest

TREE = PathProblem("tree", (("C", "F"), ("A", "B"), ("B", "D"), ("A", "C"), ("B", "E")), "A", "F")
"""A has B (D, E) and C (F); the goal is F."""


def test_prompt_and_path_by_hand():
    assert TREE.prompt == " C>F A>B B>D A>C B>E from A to F :"
    assert TREE.path == ("A", "C", "F") and TREE.answer == "A"
    assert TREE.children == {"C": ("F",), "A": ("B", "C"), "B": ("D", "E")}


def test_the_answer_is_two_above_the_goal_or_the_start():
    edges = (("A", "B"), ("B", "C"), ("C", "D"), ("A", "E"))
    answers = {goal: PathProblem("chain", edges, "A", goal).answer for goal in "BCDE"}
    assert answers == {"B": "A", "C": "A", "D": "B", "E": "A"}


def test_the_oracle_writes_every_order_and_counts_its_failures():
    """From A: C first fails nothing; B first fails B, D and E, in either order: 3 of 6."""
    lucky = " A C F answer A"
    found = {search.text: search for search in (oracle(TREE, seed=seed) for seed in range(20))}
    assert set(found) == {
        lucky,
        " A B D backtrack B E backtrack B backtrack A C F answer A",
        " A B E backtrack B D backtrack B backtrack A C F answer A",
    }
    assert found.pop(lucky).fsf == 0
    assert [(s.n_steps, s.n_failed, s.fsf) for s in found.values()] == [(6, 3, 0.5)] * 2


def test_problems_are_trees_of_the_stated_size():
    for problem in problems(200, seed=3):
        children = [child for _, child in problem.edges]
        letters = {*children, problem.start}
        assert len(problem.edges) == dfs.N_NODES - 1 == len(set(children))
        assert len(letters) == dfs.N_NODES and problem.start not in children
        assert problem.goal not in problem.children
        assert max(map(len, problem.children.values())) <= dfs.MOST_CHILDREN
        assert replay(problem, oracle(problem).text).correct


def test_problems_repeat_and_seeds_differ():
    assert problems(5, seed=1) == problems(9, seed=1)[:5]
    assert problems(5, seed=1) != problems(5, seed=2)
    with pytest.raises(InputError, match=r"^n=0: draw at least one problem\.$"):
        problems(0)


STRAY = "The search is not below {!r}, so it cannot return there."
REPLAYS = {
    # a right trace
    " A B D backtrack B E backtrack B backtrack A C F answer A": Replay(6, 3, "A", True, ()),
    # right answer after a wrong search
    " A E backtrack A C F answer A": Replay(4, 1, "A", True, ("There is no edge A>E.",)),
    # back over two steps at once; a wrong answer
    " A B D backtrack A C F answer C": Replay(5, 2, "C", False, ("A is not the parent of D.",)),
    # returns to where it never was, and goes on from B
    " A B backtrack C D backtrack A": Replay(
        3, 2, None, False, (STRAY.format("C"), "A is not the parent of D."), 1
    ),
    # returns to nowhere
    " A backtrack": Replay(1, 0, None, False, (STRAY.format(""),), 1),
    " B C": Replay(2, 0, None, False, ("The search starts at B.", "There is no edge B>C.")),
    " answer A": Replay(0, 0, "A", True, ()),
    " A C F answer A A": Replay(3, 0, "A A", False, ()),
    " A C F answer": Replay(3, 0, "", False, ()),
    "": Replay(0, 0, None, False, ()),
}


@pytest.mark.parametrize("text", REPLAYS)
def test_replay_by_hand(text):
    assert replay(TREE, text) == REPLAYS[text]


def test_the_replayed_fsf_is_none_without_a_step_and_skips_strays():
    assert replay(TREE, "").fsf is None
    assert replay(TREE, " A B D backtrack B").fsf == 1 / 3
    assert replay(TREE, " A B D backtrack F backtrack B").fsf == 1 / 3


def test_every_word_is_one_token_and_text_survives():
    tok, text = tokenizer(), TREE.prompt + oracle(TREE).text
    ids = tok(text).input_ids
    assert len(ids) == 1 + len(text.split())
    assert tok.decode(ids, skip_special_tokens=True) == text
    assert tok.decode(tok(" A>Z odd", add_special_tokens=False).input_ids) == " A>Z odd"


def test_oracle_traces_fit_the_context():
    tok = tokenizer()
    longest = max(len(tok(p.prompt + oracle(p).text).input_ids) for p in problems(300))
    assert longest < dfs.N_CTX


def test_labels_are_the_trace_and_ids_are_the_tokenizers():
    tok = tokenizer()
    pairs = traces(3, seed=5)
    tokens, labels = batch_of(pairs, tok.get_vocab())
    for (prompt, trace), row, label in zip(pairs, tokens.tolist(), labels.tolist(), strict=True):
        whole = [*tok(prompt + trace).input_ids, tok.eos_token_id]
        n_prompt = len(tok(prompt).input_ids)
        assert row == whole + [tok.pad_token_id] * (len(row) - len(whole))
        assert label[:n_prompt] == [train_dfs.IGNORED] * n_prompt
        assert label[n_prompt : len(whole)] == whole[n_prompt:]
        assert set(label[len(whole) :]) <= {train_dfs.IGNORED}


def test_the_loss_is_plain_hugging_faces(monkeypatch):
    config = Config(steps=1, batch=4, d_model=16, n_heads=2)
    model = train_dfs.train(config, Console(quiet=True))
    tokens, labels = batch_of(traces(4, seed=9), tokenizer().get_vocab())
    mask = (tokens != tokenizer().pad_token_id).long()
    theirs = model(tokens, attention_mask=mask, labels=labels).loss
    # float32 sums in another order: 1e-6 of a loss of about 6
    torch.testing.assert_close(
        train_dfs.trace_loss(model, tokens, labels), theirs, rtol=0, atol=1e-5
    )


def test_a_short_training_is_repeatable_and_reads_back(tmp_path):
    config = Config(steps=3, batch=4, d_model=16, n_heads=2, held_out=2, out=tmp_path / "out")
    quiet = Console(quiet=True)
    once, again = (train_dfs.train(config, quiet) for _ in range(2))
    train_dfs.save(once, config, {}, seconds=1.0, flags=["--steps", "C"])
    back = load_trained(config.out).hf
    for name, tensor in once.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
        assert torch.equal(tensor, back.state_dict()[name]), name
    assert back.lm_head.weight is back.transformer.wte.weight


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps=0: give 1 or more."),
        ({"n_heads": 3}, "n_heads=3 does not divide d_model=64: choose heads that do."),
    ],
)
def test_settings_that_train_nothing_are_refused(settings, message):
    with pytest.raises(InputError) as caught:
        Config(**settings)
    assert str(caught.value) == message


def test_the_stored_model_is_small_and_does_what_its_manifest_says():
    made = read_manifest(RECORDS / "manifest.json")
    assert sum(path.stat().st_size for path in RECORDS.iterdir()) < 3_000_000
    found = train_dfs.report(load_trained(), Config(held_out=25))
    for name, value in found.items():
        assert value == pytest.approx(made.notes[name], abs=0.15), name
    assert 0.2 < made.notes["share right"] < 0.95  # neither hopeless nor perfect
