"""The planted circuit is found by every method, and by none where it cannot be seen."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from experiments import planted_circuit
from experiments.planted_circuit import (
    METHODS,
    RECORD,
    THRESHOLD,
    Method,
    Prompts,
    Row,
    attributed_edges,
    attributed_heads,
    edge_name,
    judge,
    patched_heads,
    patched_paths,
    rows,
    truth,
)
from interp.engine.loading import load
from interp.models import induction
from interp.patching.path import Edge

KEYS = ("method", "pairs", "direction", "match")
"""What identifies a row."""
QUICK = [method for method in METHODS if "activations" not in method.name]


@pytest.fixture(scope="module")
def found() -> list[Row]:
    """Most methods on the last pairs that they have; the claim measures all on all."""
    return rows([replace(method, settings=method.settings[-1:]) for method in QUICK])


def test_every_method_names_the_planted_heads_and_edges_and_only_those(found):
    for row in found:
        assert set(row.named) == truth(row.what), row
        assert (row.precision, row.recall) == (1.0, 1.0)
        assert row.candidates == {"heads": 8, "edges": 110}[row.what]
        assert row.weakest > 0.1 and row.strongest < 1e-5  # the threshold lies far from both
    assert [row.method for row in found] == [method.name for method in QUICK]


def test_the_committed_record_is_of_every_setting_and_says_the_same(found):
    lines = [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()]
    settings = [(method.name, *setting) for method in METHODS for setting in method.settings]
    assert [tuple(line[key] for key in KEYS) for line in lines] == settings
    assert all(set(line["named"]) == truth(line["what"]) for line in lines)
    assert all(line["precision"] == line["recall"] == 1.0 for line in lines)
    recorded = {tuple(line[key] for key in KEYS): line for line in lines}
    for row in found:
        line = recorded[row.method, row.pairs, row.direction, row.match]
        now = json.loads(json.dumps(row.record()))
        assert line["weakest"] == pytest.approx(now.pop("weakest"), rel=1e-3)
        assert line["strongest"] < 1e-5 and now.pop("strongest") < 1e-5  # rounding
        assert now.items() <= line.items()


@pytest.fixture(scope="module")
def sharp():
    return load("planted-induction")


HAND = [(patched_heads, kind, way) for kind in ("all", "swap") for way in induction.DIRECTIONS]
HAND += [(patched_paths, "all", "noise"), (patched_paths, "swap", "denoise")]


@pytest.mark.parametrize(("find", "kind", "direction"), HAND)
def test_patching_gives_the_share_that_was_worked_out_by_hand(sharp, find, kind, direction):
    expected = induction.expected(kind, direction)
    shares = find(sharp, Prompts.draw(kind, direction))
    for name, each in shares.items():
        assert each.tolist() == pytest.approx([expected.get(name, 0.0)] * len(each), abs=1e-4), name
    named = {name for name in expected if ("->" in name) == ("->" in next(iter(shares)))}
    assert named <= set(shares)


def test_a_pair_that_breaks_one_thing_shows_only_what_carries_it(sharp):
    shares = patched_paths(sharp, Prompts.draw("key", "noise"))
    assert set(shares) == set(attributed_edges("none")(sharp, Prompts.draw("key", "noise")))
    judged = judge(shares, truth("edges"))
    assert set(judged["named"]) == {"input->a0.h2<v>", "a0.h2->a1.h1<k>", "a1.h1->logits"}
    assert (judged["precision"], judged["recall"]) == (1.0, 0.6)


def test_a_gradient_at_the_base_cannot_see_saturated_attention(sharp):
    """With a match of 40 nats the softmax is flat: q and k have no score, so a0.h2 has none."""
    prompts = Prompts.draw("swap", "noise")
    edges = judge(attributed_edges("none")(sharp, prompts), truth("edges"))
    heads = judge(attributed_heads("none")(sharp, prompts), truth("heads"))
    assert set(edges["named"]) == {"input->a1.h1<v>", "a1.h1->logits"}
    assert heads["named"] == ("a1.h1",)
    assert (edges["recall"], heads["recall"]) == (0.4, 0.5)


def test_the_judge_by_hand():
    found = {
        "a": torch.tensor([0.5, -0.4]),  # its mean is small, its size is not
        "b": torch.tensor([THRESHOLD, THRESHOLD], dtype=torch.float64),
        "c": torch.tensor([0.9 * THRESHOLD, 0.0]),
        "d": torch.tensor([0.0, 0.0]),
    }
    judged = judge(found, frozenset({"a", "c"}))
    assert judged["named"] == ("a", "b")
    assert (judged["precision"], judged["recall"], judged["candidates"]) == (0.5, 0.5, 4)
    assert (judged["weakest"], judged["strongest"]) == (0.0, THRESHOLD)
    assert judge({"d": torch.zeros(1)}, frozenset({"a"}))["precision"] == 0.0


def test_the_margin_divides_the_weakest_true_share_by_the_strongest_false_one(found):
    row = found[0]
    assert row.margin == row.weakest / row.strongest > 1e4


@pytest.mark.parametrize(
    ("ends", "name"),
    [
        (("embed", "0.h2.v"), "input->a0.h2<v>"),
        (("1.mlp_out", "logits"), "m1->logits"),
        (("0.h2", "1.mlp"), "a0.h2->m1"),
        (("0.h2", "1.h1.k"), "a0.h2->a1.h1<k>"),
    ],
)
def test_edges_have_one_name_in_all_methods(ends, name):
    assert edge_name(Edge.of(ends)) == name


def test_main_prints_the_table_and_writes_one_line_a_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(planted_circuit, "RECORD", tmp_path / "record.jsonl")
    only = Method("activation patching", "heads", patched_heads, (("all", "noise", 40.0),))
    made = rows([only])
    monkeypatch.setattr(planted_circuit, "rows", lambda: made)
    planted_circuit.main()
    assert "a1.h1" in capsys.readouterr().out
    (line,) = (tmp_path / "record.jsonl").read_text().splitlines()
    assert json.loads(line)["named"] == ["a0.h2", "a1.h1"]
