"""Indirect objects: sentences and labels by hand, splits that share nothing, and the network."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from experiments import train_ioi
from experiments.train_ioi import RECORDS, SCORED, WIDTH, Config, Rows, load_trained, losses, twin
from interp.data.counterfactuals import distinguishing, require_apart
from interp.data.ioi import (
    ALGORITHMS,
    FRAMES,
    IOI,
    NAMES,
    OBJECTS,
    PLACES,
    SPLITS,
    Sentences,
    word_tokenizer,
)
from interp.errors import InputError
from interp.models.tiny import tokenizer
from interp.results.manifest import read_manifest

TOK = word_tokenizer()
TASK = IOI(TOK)


def sentences(*rows):
    frame, first, second, abab, place, thing = torch.tensor(rows).unbind(1)
    return Sentences(frame, first, second, abab.bool(), place, thing)


# ---------------------------------------------------------------- sentences


def test_two_sentences_by_hand():
    """Frame 0 as Amy, Bob, Amy (the answer is Bob) and as Amy, Bob, Bob (the answer is Amy)."""
    both = sentences((0, 0, 1, 1, 1, 4), (0, 0, 1, 0, 1, 4))
    assert both.texts(["Amy", "Bob"]) == [
        "When Amy and Bob met at the park, Amy handed the letter to",
        "When Amy and Bob met at the park, Bob handed the letter to",
    ]
    assert both.subject.tolist() == [0, 1] and both.answer.tolist() == [1, 0]


def test_what_each_algorithm_says_under_an_interchange():
    """Base Amy, Bob, Amy; source Cid, Dan, Dan: the pattern says Amy, the source's answer is Cid.

    The repeated name is Dan, who is not in the base, so its other name is the first: Amy. With
    source Bob, Dan, Bob it is Bob, the base's second, and the other is again the first.
    """
    inputs = {
        "first": torch.tensor([0, 2, 1]),
        "second": torch.tensor([1, 3, 3]),
        "subject": torch.tensor([0, 3, 1]),
    }
    base, active = torch.tensor([0, 0]), torch.ones(2, 1, dtype=torch.bool)
    sources = torch.tensor([[1], [2]])
    found = {}
    for name, model in ALGORITHMS.items():
        values = model.run(inputs)
        assert values["answer"].tolist() == [1, 2, 3]  # alike on every sentence
        found[name] = model.interchange(values, base, sources, active, model.inner).tolist()
    assert found == {"pattern": [0, 1], "answer_name": [2, 3], "repeated_name": [0, 0]}


def test_there_is_enough_of_everything_and_each_is_one_token():
    assert len(FRAMES) >= 15 and len(PLACES) == len(OBJECTS) == 20 and len(NAMES) > 100
    assert [len(group) for group in TASK.groups] == [60, 20, 20]
    assert len(set(TASK.names)) == 100 and len(set(TASK.answer_tokens)) == 100
    words = {word for frame in FRAMES for word in frame.replace(",", " ,").split()}
    spelled = [word for word in words if "{" not in word and word != ","]
    for word in (*spelled, *PLACES, *OBJECTS, *NAMES):
        assert len(TOK(f" {word}", add_special_tokens=False).input_ids) == 1, word
    every = TASK.sentences(2000, 3, split="network")
    assert set(every.frame.tolist()) == set(range(len(FRAMES)))
    for frame in range(len(FRAMES)):  # of both patterns
        assert 0.3 < every.abab[every.frame == frame].double().mean() < 0.7


# ---------------------------------------------------------------- tables and splits


def test_a_table_is_its_sentences_with_right_labels():
    table = TASK.table("pattern", 50, 1, width=WIDTH)
    found = TASK.sentences(50, 1)
    texts, labels = found.texts(TASK.names), TASK.labels(table)
    for row, text, label in zip(table.inputs, texts, labels, strict=True):
        assert TOK.decode(row[row >= 0]) == f"<bos>{text}"
        answer = TOK.decode(label).strip()
        words = text.replace(",", "").split()
        people = [word for word in words if word in NAMES]
        assert len(people) == 3 and people.count(answer) == 1
    names = IOI(TOK, answers="names").table("pattern", 50, 1)
    assert torch.equal(torch.tensor(TASK.answer_tokens)[names.values["answer"]], labels)
    assert torch.equal(TASK.candidates(table)[:, 0], table.values["first"])
    assert torch.equal(TASK.table("answer_name", 50, 1).inputs, TASK.table("pattern", 50, 1).inputs)


def test_labels_of_pairs_are_the_bases_names_under_the_sources_pattern():
    table = TASK.table("pattern", 80, 2)
    pairs = table.pairs(400, 5)
    swap = table.values["abab"][pairs.sources[:, 0]]
    expected = torch.where(
        swap, table.values["second"][pairs.base], table.values["first"][pairs.base]
    )
    assert torch.equal(pairs.labels, expected)
    assert 0.35 < pairs.sensitive.double().mean() < 0.65
    assert torch.equal(table.pairs(400, 5).sources, pairs.sources)
    assert not torch.equal(table.pairs(400, 6).sources, pairs.sources)


def test_splits_share_no_sentence_and_the_held_out_ones_no_name():
    tables = {split: TASK.table("pattern", 400, 0, split=split, width=WIDTH) for split in SPLITS}
    for first in SPLITS:
        for second in SPLITS:
            if first < second and "network" not in (first, second):
                require_apart(tables[first], tables[second])
    for split in SCORED:
        require_apart(tables["network"], tables[split])
    groups = [
        set(torch.tensor(TASK.answer_tokens)[a:b].tolist())
        for a, b in ((0, 60), (60, 80), (80, 100))
    ]
    for split, group in (("train", 0), ("test", 0), ("validation names", 1), ("unseen names", 2)):
        people = {*tables[split].values["first"].tolist(), *tables[split].values["second"].tolist()}
        assert people <= groups[group] and len(people) > 15
    assert len(tables["train"].inputs.unique(dim=0)) == 400


def test_rivals_answer_alike_and_differ_under_interchanges():
    assert TASK.rivals("pattern") == ("answer_name", "repeated_name")
    table = TASK.table("pattern", 200, 0)
    for rival in TASK.rivals("pattern"):
        other = TASK.table(rival, 200, 0)
        assert torch.equal(TASK.labels(table), TASK.labels(other))
        mine, theirs = distinguishing(table, other, 50, 0)
        assert len(mine) == 50 and not (mine.labels == theirs.labels).any()


def test_what_the_task_refuses():
    with pytest.raises(InputError, match=r"^The tokenizer has only \d+ of \d+ names as one token"):
        IOI(tokenizer())
    with pytest.raises(InputError, match=r"^ioi needs the tokenizer of the model, which brings no"):
        IOI(None)
    with pytest.raises(InputError, match=r"no split 'tran'.*Did you mean 'train'\?$"):
        TASK.sentences(5, 0, split="tran")
    with pytest.raises(InputError, match=r"^0 sentences of split 'train': ask for 1 to \d+\.$"):
        TASK.sentences(0, 0)
    with pytest.raises(InputError, match=r"^ioi has no algorithm 'patern'.*Did you mean 'pattern'"):
        TASK.table("patern", 5, 0)
    with pytest.raises(InputError, match=r"^width=5: the longest sentence has 1\d tokens\.$"):
        TASK.table("pattern", 50, 0, width=5)


# ---------------------------------------------------------------- the network


def test_losses_by_hand():
    """Uniform logits over four tokens: log 4 for the answer and for each other real token."""
    data = Rows(torch.tensor([[0, 1, 2, 0], [0, 3, 1, 2]]), torch.tensor([1, 2]))
    answers, others = losses(torch.zeros(2, 4, 4), data)
    assert answers == pytest.approx(1.386294) and others == pytest.approx(1.386294)
    sure = torch.zeros(2, 4, 4)
    sure[0, 1, 2] = sure[1, 2, 2] = 50.0  # right on both answers
    answers, others = losses(sure, data)
    assert answers == pytest.approx(0, abs=1e-6) and others == pytest.approx(1.386294)


def test_rows_hold_the_answer_behind_each_sentence():
    data = train_ioi.rows(TASK, 30, 4, split="test")
    table = TASK.table("pattern", 30, 4, split="test", width=WIDTH)
    assert torch.equal(data.ids[torch.arange(30), data.last + 1], TASK.labels(table))
    assert torch.equal(data.real.sum(1), (table.inputs >= 0).sum(1) + 1)


def test_training_is_repeatable_and_lowers_the_loss():
    config = Config(steps=3, batch=8, sentences=16, d_model=16, n_layers=1, n_heads=2)
    one, two = (train_ioi.train(config, Console(quiet=True)) for _ in range(2))
    start = train_ioi.untrained(config, config.seed)
    data = train_ioi.rows(IOI(TOK), 16, config.seed, split="network")
    before, after = (losses(net(data.ids).logits, data)[1].item() for net in (start, one))
    assert after < before
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_the_stored_network_solves_the_task_and_its_twin_does_not():
    """At least .99 on unseen sentences and on the names of every group, as its manifest says."""
    made = read_manifest(RECORDS / "manifest.json")
    trained, untrained = load_trained(), twin(1)
    for split in SCORED:
        assert made.notes[split]["accuracy"] >= 0.99
        table = TASK.table("pattern", 200, 9, split=split)
        last = (table.inputs >= 0).sum(1) - 1
        for model, low, high in ((trained, 0.98, 1.0), (untrained, 0.0, 0.1)):
            logits = model.hf(table.inputs.clamp(min=0)).logits[torch.arange(200), last]
            right = (logits.argmax(1) == TASK.labels(table)).double().mean()
            assert low <= right <= high
    assert trained.tokenizer.get_vocab() == TOK.get_vocab()


def test_the_defaults_are_what_the_network_was_trained_with():
    from dataclasses import asdict

    settings = read_manifest(RECORDS / "manifest.json").settings
    defaults = asdict(Config())
    assert defaults.pop("out") == RECORDS
    assert defaults == settings


def test_what_the_recipe_refuses():
    with pytest.raises(InputError, match=r"^--steps 0, --batch 128, --held-out 2000, --n-layers 4"):
        Config(steps=0)
    with pytest.raises(InputError, match=r"^--d-model 65 --n-heads 4 --others 0\.1: give heads"):
        Config(d_model=65)


def test_the_rate_by_hand():
    rates = [train_ioi._rate(step, 1000) for step in (0, 99, 500, 800, 900, 1000)]
    assert rates == pytest.approx([0.01, 1, 1, 1, 0.5, 0])
