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
    assert align_decoders._sizes(10_000_001) == ((250, 500), (1024, 2048))


def test_no_split_shares_a_sentence_and_unseen_names_are_others(about):
    tables = [about.table("answer_name", split, 400) for split in SPLITS]
    for place, one in enumerate(tables):
        for other in tables[place + 1 :]:
            require_apart(one, other)
    names = [set(t.values["first"].tolist()) | set(t.values["second"].tolist()) for t in tables]
    assert names[0] == names[1] == names[2] == set(range(60))
    assert names[3] == set(range(80, 100))


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
    assert cuts[0].clean().shape == (30, 100)


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
    tokens = torch.tensor(about._task.answer_tokens)[about._task.labels(table)]
    for net, kind, low, high in ((0, "trained", 0.99, 1.0), (1, "twin", 0.0, 0.1)):
        logits = about.model(net, kind).hf(table.inputs[:, : last.max() + 1].clamp(min=0)).logits
        found = logits[torch.arange(len(table)), last].argmax(1)
        share = float((found == tokens).double().mean())
        assert about.accuracy(net, kind, "pattern") == pytest.approx(
            share, abs=0.002
        )  # one near tie
        assert low <= share <= high


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
        assert each["iia"] <= each["restricted_iia"] <= 1  # two names in place of a hundred
        assert each["unseen_iia"] <= each["unseen_restricted_iia"] <= 1
        assert each["noop"] == 0.0 and each["noop_flipped"] == 0
    found = {guard["guard"]: guard["found"] for guard in done.store.rows("align_guards")}
    assert found["held-out identities"].startswith("unseen names: ")
    assert found["positive control"].startswith(
        "a network for distributive with and_or_and planted"
    )
    assert len(found) == 13 and "missing" not in found.values()
