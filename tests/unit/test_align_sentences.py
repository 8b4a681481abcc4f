"""The world of sentences: bounded tables, cuts made once, random twins, and a whole small run."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from experiments.train_ioi import RECORDS
from interp.alignment.verdicts import WORDS
from interp.data.counterfactuals import require_apart
from interp.errors import InputError
from interp.jobs import align_decoders
from interp.jobs.align import INCOMPLETE, Settings, align
from interp.jobs.align_cells import World
from interp.jobs.align_decoders import Sentences, at_most
from interp.jobs.align_worlds import world
from tests.small_alignments import shrink

SPLITS = ("train", "validation", "test", "unseen")


@pytest.fixture(scope="module")
def about() -> Sentences:
    return Sentences(str(RECORDS), 2)


def test_it_is_a_world_of_one_network_with_seeds_and_twins(about):
    assert isinstance(about, World)
    assert (about.nets, about.map_seeds, about.twins) == ((0,), (0, 1), (1, 2))
    assert about.sites == tuple(f"{layer}.resid_post" for layer in range(4))
    assert (about.width, about.algorithms[0], about.unseen) == (64, "pattern", "unseen names")
    assert about.variables("pattern") == ("abab",)
    assert about.rivals("pattern") == ("answer_name", "repeated_name")


def test_tables_and_pairs_are_bounded_and_the_same_each_time(about):
    """A budget for vectors asks for more; what is asked for below the bound is given."""
    most = {split: about.table("pattern", split, 10**6) for split in SPLITS}
    assert [len(most[split]) for split in SPLITS] == [8192, 1000, 1000, 1000]
    assert [len(most[split].pairs(10**6, 0)) for split in SPLITS] == [10_000, 1000, 1000, 1000]
    few = about.table("pattern", "test", 40)
    assert len(few) == 40 and len(few.pairs(30, 0)) == 30
    assert torch.equal(few.inputs, about.table("repeated_name", "test", 40).inputs)
    assert torch.equal(few.pairs(30, 5).base, few.pairs(30, 5).base)
    assert not torch.equal(few.pairs(30, 5).base, few.pairs(30, 6).base)


def test_a_large_model_has_smaller_tables():
    assert align_decoders._sizes(10_000_000) == ((1000, 1000), (8192, 10_000))
    assert align_decoders._sizes(10_000_001) == ((500, 1000), (2048, 4096))


def test_no_split_shares_a_sentence_and_unseen_names_are_others(about):
    tables = [about.table("answer_name", split, 400) for split in SPLITS]
    for place, one in enumerate(tables):
        for other in tables[place + 1 :]:
            require_apart(one, other)
    names = [set(t.values["first"].tolist()) | set(t.values["second"].tolist()) for t in tables]
    tokens = about._task.answer_tokens
    assert names[0] == names[1] == names[2] == set(tokens[:60])
    assert names[3] == set(tokens[80:])


def test_draws_at_most_so_many(about):
    table = about.table("pattern", "test", 40)
    three = at_most(3, table.draw)
    base, sources, active = three(table, 100, torch.Generator().manual_seed(0))
    assert len(base) == len(sources) == len(active) == 3
    assert len(three(table, 2, torch.Generator())[0]) == 2


def test_a_split_is_run_to_a_site_once_whatever_the_algorithm(about):
    subject = about.subject(0, "trained", "2.resid_post")
    passes: list[int] = []
    model = about.model(0, "trained").hf
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    try:
        cuts = [
            subject.cut(about.table(name, split, 30).inputs)
            for name in about.algorithms
            for split in ("test", "unseen")
        ]
    finally:
        hook.remove()
    assert len(passes) == 2
    assert cuts[0] is cuts[2] is cuts[4] and cuts[1] is cuts[3]
    assert not torch.equal(cuts[0].states, cuts[1].states)
    assert cuts[0].clean().shape == (30, 557)


def test_twins_are_random_repeatable_and_of_the_same_configuration(about):
    again = Sentences(str(RECORDS), 2)
    assert about.weights == again.weights == about.fingerprint(0, "trained")
    prints = [about.fingerprint(net, "twin") for net in about.twins]
    assert prints == [again.fingerprint(net, "twin") for net in again.twins]
    assert len({*prints, about.weights}) == 3
    twin = about.model(1, "twin").hf
    assert twin.config.to_dict() == about.model(0, "trained").hf.config.to_dict()


def test_accuracy_is_that_of_the_plain_model_over_all_tokens(about):
    table = about.table("pattern", "test", 500)
    last = (table.inputs >= 0).sum(1) - 1
    tokens = about._task.labels(table)
    for net, kind, low, high in ((0, "trained", 0.99, 1.0), (1, "twin", 0.0, 0.1)):
        logits = about.model(net, kind).hf(table.inputs[:, : last.max() + 1].clamp(min=0)).logits
        found = logits[torch.arange(len(table)), last].argmax(1)
        share = float((found == tokens).double().mean())
        assert about.accuracy(net, kind, "pattern") == pytest.approx(
            share, abs=0.002
        )  # one near tie
        assert low <= share <= high


def test_solved_only_keeps_what_the_plain_model_completes_right(about, monkeypatch):
    """One name is never said, so its sentences are left out; all algorithms get the same ones."""
    some = Sentences(str(RECORDS), 2, solved_only=True)
    assert some.inputs.startswith(f"{about.inputs}, of them the ")
    with torch.no_grad():  # one name is never said, so its sentences are lost
        some.model(0, "trained").hf.transformer.wte.weight[about._task.answer_tokens[3]] = 0.0
    for split in ("train", "test"):
        table, every = some.table("pattern", split, 300), about.table("pattern", split, 300)
        lost = every.values["answer"] == about._task.answer_tokens[3]
        last = (every.inputs >= 0).sum(1) - 1
        hf = some.model(0, "trained").hf
        logits = hf(every.inputs[:, : last.max() + 1].clamp(min=0)).logits
        right = logits[torch.arange(300), last].argmax(1) == every.values["answer"]
        assert bool(lost.any()) and not bool(right[lost].any())
        assert torch.equal(table.inputs, every.inputs[right]) and 50 < len(table) < 300
        assert table.hash != every.hash
        passes: list[int] = []
        hook = hf.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        rival = some.table("answer_name", split, 300)
        hook.remove()
        assert passes == []
        assert torch.equal(rival.inputs, table.inputs)
        assert len(table.pairs(40, 1)) == 40 and int(table.pairs(900, 1).base.max()) < len(table)
    assert some.accuracy(0, "trained", "pattern") == 1.0
    assert some.accuracy(1, "twin", "pattern") < 0.1
    monkeypatch.setattr(align_decoders, "LEAST_SOLVED", 41)
    with pytest.raises(InputError, match=r"^--solved-only: the model completes \d+ of 40 prompts"):
        some.table("pattern", "validation", 40)


def test_a_dtype_is_that_of_the_model_its_twins_and_maps():
    plain = Sentences(str(RECORDS), 1)
    double = Sentences(str(RECORDS), 1, dtype="float64")
    for kind, net in (("trained", 0), ("twin", 1)):
        assert double.model(net, kind).dtype == torch.float64
        assert plain.model(net, kind).dtype == torch.float32
    cut = double.subject(0, "trained", "2.resid_post").cut(
        double.table("pattern", "test", 20).inputs
    )
    assert cut.states.dtype == torch.float64


def test_candidates_are_the_names_of_the_base(about):
    table = about.table("pattern", "unseen", 6)
    two = about.candidates(table)
    assert torch.equal(two[:, 0], table.values["first"])
    assert torch.equal(two[:, 1], table.values["second"])


def test_what_is_refused():
    with pytest.raises(InputError, match=r"^ioi needs a language model: give --model\.$"):
        world("ioi", nets=2, folder=None, model=None)
    with pytest.raises(InputError, match=r"^--folder \S+: ioi has one model, that of --"):
        world("ioi", nets=2, folder=RECORDS, model="tiny-llama")
    with pytest.raises(InputError, match=r"^--solved-only: equality has small networks, not a mo"):
        world("equality", nets=2, folder=None, model=None, solved_only=True, revision=None)
    with pytest.raises(InputError, match=r"^The tokenizer has only \d+ of \d+ names as one token"):
        world("ioi", nets=2, folder=None, model="tiny-llama")


def test_a_whole_run_has_every_guard_and_scores_unseen_names(monkeypatch, tmp_path):
    shrink(monkeypatch)
    settings = Settings(
        task="ioi", model=str(RECORDS), sites=("3.resid_post",), sizes=(2, 4), nets=2
    )
    done = align(settings, out=tmp_path / "run", console=Console(file=io.StringIO()))
    fits, (row,) = done.store.rows("align_fits"), done.verdicts
    assert row["verdict"] in WORDS and row["verdict"] != INCOMPLETE and row["task_accuracy"] > 0.9
    assert len(fits) == 2 * 2 + 2 + 2 * 2  # sizes and seeds, twins, rivals and seeds
    for each in fits:
        assert 0 <= each["unseen_iia"] <= 1 and each["n_pairs"] == 60
        assert (each["restricted_iia"] is None) == (each["algorithm"] == "answer_name")
        if each["algorithm"] == "pattern":  # two names in place of all tokens
            assert each["iia"] <= each["restricted_iia"] <= 1
            assert each["unseen_iia"] <= each["unseen_restricted_iia"] <= 1
        assert each["noop"] == 0.0 and each["noop_flipped"] == 0
    # 5,000 pairs are asked for, and the model affords 1,100: a curve has two sizes nevertheless
    assert {point["n_pairs"] for point in done.store.rows("align_curve")} == {100, 1100}
    found = {guard["guard"]: guard["found"] for guard in done.store.rows("align_guards")}
    assert found["held-out identities"].startswith("unseen names: ")
    assert found["positive control"].startswith(
        "a network for distributive with and_or_and planted"
    )
    assert len(found) == 13 and "missing" not in found.values()
