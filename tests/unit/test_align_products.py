"""The world of products: splits, variables by name, accuracy by digit, refusals, a small run."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from experiments.train_multiplication import RECORDS
from interp.alignment.verdicts import WORDS
from interp.data import multiplication
from interp.errors import InputError
from interp.jobs.align import Settings, align
from interp.jobs.align_cells import World
from interp.jobs.align_decoders import Products
from interp.jobs.align_worlds import world
from tests.small_alignments import shrink
from tests.strategies import says

TWO, THREE = (str(RECORDS / name) for name in ("two_digit", "sft"))
SPLITS = ("train", "validation", "test", "unseen")


@pytest.fixture(scope="module")
def about() -> Products:
    return Products(TWO, 2)


def test_it_is_a_world_and_each_variable_names_an_algorithm(about):
    assert isinstance(about, World)
    assert about.algorithms == ("chat_1", "r_0", "chat_2", "r_1", "chat_3", "r_2")
    assert about.rivals("chat_2") == ("r_1",) and about.rivals("r_1") == ("chat_2",)
    assert about.variables("r_1") == ("r_1",)
    assert about.sites == ("0.resid_mid", "0.resid_post", "1.resid_mid", "1.resid_post")
    assert len(Products(THREE, 2).algorithms) == 10


def test_both_variables_lie_on_the_way_to_one_digit_by_hand(about):
    """19 * 25 = 475 is the base, 57 * 42 = 2394 the source; the digit asked for is c_1."""
    digits = ([[9, 1], [7, 5]], [[5, 2], [2, 4]])
    data = multiplication.products(*(torch.tensor(rows) for rows in digits))
    base, source = torch.tensor([0]), torch.tensor([[1]])
    labels = {}
    for name in ("chat_1", "r_0"):
        table = multiplication.alignment_table(data, 1, (name,))
        assert table.inputs.tolist() == [[9, 1, 10, 5, 2, 11, 12, 5], [7, 5, 10, 2, 4, 11, 12, 4]]
        labels[name] = table.label(base, source, torch.tensor([[True]])).labels.tolist()
    # chat_1 of the source is 7*4 + 5*2 + 1 = 39; the own sum 9*2 + 1*5 with its carry 1 is 24
    assert labels == {"chat_1": [9], "r_0": [4]}


def test_no_split_shares_a_pair_and_unseen_first_numbers_are_others():
    for n_digits in (2, 3):
        pairs, firsts = {}, {}
        for split in SPLITS:
            stream = torch.Generator().manual_seed(5)
            data = multiplication.draw_apart(2000, n_digits, stream, split=split)
            a, b = multiplication.numbers_of(data.a), multiplication.numbers_of(data.b)
            pairs[split], firsts[split] = (
                set(zip(a.tolist(), b.tolist(), strict=True)),
                set(a.tolist()),
            )
            held = multiplication.is_held_out(torch.stack([a, b], dim=1))
            assert bool(held.all()) if split == "test" else split == "unseen" or not held.any()
        for place, one in enumerate(SPLITS):
            assert not any(pairs[one] & pairs[other] for other in SPLITS[place + 1 :])
        assert not firsts["unseen"] & (firsts["train"] | firsts["validation"] | firsts["test"])


def test_accuracy_is_of_the_digit_that_is_asked_for(about):
    stored = Products(THREE, 2)
    assert stored.accuracy(0, "trained", "chat_1") > 0.97  # the middle digits are not learnt
    assert stored.accuracy(0, "trained", "chat_3") < 0.3
    assert about.accuracy(0, "trained", "chat_2") > 0.97 > 0.3 > about.accuracy(1, "twin", "chat_2")
    table = about.table("chat_2", "test", 500)
    logits = about.model(0, "trained").hf(table.inputs).logits[:, -1]
    share = float((logits.argmax(1) == table.values["c_2"]).double().mean())
    assert about.accuracy(0, "trained", "chat_2") == pytest.approx(share, abs=1e-9)


def test_what_is_refused(about):
    with says(InputError, "multiplication needs a language model: give --model."):
        world("multiplication", nets=2, folder=None, model=None)
    with says(
        InputError,
        "multiplication has no algorithm 'chat_9'; there are: chat_1, r_0, chat_2, r_1, chat_3, "
        "r_2. Did you mean 'chat_3'?",
    ):
        about.rivals("chat_9")
    with pytest.raises(InputError, match=r"^--model tiny-llama: multiplication needs one of 16 "):
        world("multiplication", nets=2, folder=None, model="tiny-llama")


def test_a_whole_run_scores_unseen_numbers_and_its_rival(monkeypatch, tmp_path):
    shrink(monkeypatch)
    asked = Settings(
        task="multiplication",
        model=TWO,
        algorithm="chat_2",
        sites=("1.resid_mid",),
        sizes=(2,),
        nets=2,
    )
    done = align(asked, out=tmp_path / "run", console=Console(file=io.StringIO()))
    fits, (row,) = done.store.rows("align_fits"), done.verdicts
    assert row["verdict"] in WORDS and row["task_accuracy"] > 0.9
    assert {(fit["algorithm"], fit["kind"]) for fit in fits} == {
        ("chat_2", "trained"),
        ("chat_2", "twin"),
        ("r_1", "trained"),
    }
    assert all(0 <= fit["unseen_iia"] <= 1 and "restricted_iia" not in fit for fit in fits)
    found = {guard["guard"]: guard["found"] for guard in done.store.rows("align_guards")}
    assert found["held-out identities"].startswith("unseen first numbers: ")
    assert found["wrong algorithm"].startswith("r_1: ")
