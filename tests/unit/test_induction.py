"""The wired induction model has the circuit that it says, and the trained one is what was stored.

The judge of edges is a forward pass written here, in which every sender's output reaches every
receiver separately, so that one edge can be given the output of another run.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import interp
from experiments import train_induction, training
from experiments.train_induction import RECORDS, Config, Rows, load_trained, rows
from interp.engine.loading import load
from interp.errors import InputError, ModelError
from interp.models.induction import (
    BALLAST,
    CIRCUIT,
    IDLE,
    KINDS,
    LETTERS,
    LOGIT,
    N_FEATURES,
    N_HEADS,
    TOKEN,
    build,
    directions,
    expected,
    prompt_pair,
    tokenizer,
)
from interp.results.manifest import read_manifest

CORRUPTED_DIFFERENCE = {"key": 0, "query": 0, "value": -12, "all": 0, "swap": -12}
HEADS = [(layer, head) for layer in (0, 1) for head in range(N_HEADS)]
PAIRS = [prompt_pair(kind, seed=7) for kind in KINDS]
CLEAN, CORRUPTED = [p.clean for p in PAIRS], [p.corrupted for p in PAIRS]
TOK = tokenizer()
HF = build(dtype=torch.float64)
MODEL = load(build(), tokenizer=TOK)


def difference(logits, pairs=PAIRS):
    """Logit of B minus logit of W after the last token of each pair."""
    row = torch.arange(len(pairs))
    correct, wrong = (torch.tensor([getattr(p, n) for p in pairs]) for n in ("correct", "wrong"))
    return logits[row, correct] - logits[row, wrong]


def moved(patched, clean, corrupted, direction):
    start, end = (clean, corrupted) if direction == "noise" else (corrupted, clean)
    return (patched - start) / (end - start)


def shares(model, direction, *, layer, head, pairs=PAIRS):
    """Share of the gap that one head's output moves, by pair, and how far the output moved."""
    clean, corrupted = ([getattr(p, n) for p in pairs] for n in ("clean", "corrupted"))
    base, source = (clean, corrupted) if direction == "noise" else (corrupted, clean)
    site = f"{layer}.attn.z"
    donor = model.run(source, capture=site).acts[site]
    patch = interp.Patch(site, heads=head, source=donor)
    run = model.run(base, edits=[patch], logits="last")
    ends = [difference(model.run(p, logits="last").logits, pairs) for p in (clean, corrupted)]
    return moved(difference(run.logits, pairs), *ends, direction), run.receipt[0].change


# A forward pass with separate edges.


def senders_before(receiver):
    layer = 2 if receiver == "logits" else int(receiver[1])
    names = ["input"]
    for i in range(min(layer + 1, 2)):
        inside = i < layer or receiver.startswith("m")
        names += [f"a{i}.h{head}" for head in range(N_HEADS)] if inside else []
        names += [f"m{i}"] if i < layer else []
    return names


def receivers():
    slots = [f"a{la}.h{h}<{x}>" for la in (0, 1) for h in range(N_HEADS) for x in "qkv"]
    return [*slots, "m0", "m1", "logits"]


EDGES = [f"{sender}->{to}" for to in receivers() for sender in senders_before(to)]


@torch.no_grad()
def forward(ids, cut=(), other=None):
    """Return every node's output; the edges in `cut` carry what `other` holds for their sender."""
    body, ids = HF.transformer, torch.tensor(ids)
    sent = {"input": body.wte(ids) + body.wpe(torch.arange(ids.shape[1]))}

    def read(receiver, norm):
        edges = [(sender, f"{sender}->{receiver}") for sender in senders_before(receiver)]
        return norm(sum(other[s] if edge in cut else sent[s] for s, edge in edges))

    for layer, block in enumerate(body.h):
        for head in range(N_HEADS):
            sent[f"a{layer}.h{head}"] = attend(block, read, f"a{layer}.h{head}", head)
        sent[f"m{layer}"] = block.mlp(read(f"m{layer}", block.ln_2))
    sent["logits"] = HF.lm_head(read("logits", body.ln_f))[:, -1]
    return sent


def attend(block, read, name, head):
    """One head's write, from the three inputs that it reads."""
    weights = block.attn.c_attn.weight.reshape(128, 3, N_HEADS, 32)[:, :, head]
    q, k, v = (read(f"{name}<{x}>", block.ln_1) @ weights[:, i] for i, x in enumerate("qkv"))
    scores = q @ k.transpose(1, 2) / math.sqrt(32)
    future = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    pattern = scores.masked_fill(future, -math.inf).softmax(dim=-1)
    return pattern @ v @ block.attn.c_proj.weight[head * 32 : head * 32 + 32]


BOTH = {"noise": (CLEAN, CORRUPTED), "denoise": (CORRUPTED, CLEAN)}


@torch.no_grad()
def test_the_forward_with_edges_is_the_models_own():
    clean, corrupted = forward(CLEAN), forward(CORRUPTED)
    for ids, sent in ((CLEAN, clean), (CORRUPTED, corrupted)):
        logits = HF(torch.tensor(ids)).logits[:, -1]
        torch.testing.assert_close(sent["logits"], logits, rtol=0, atol=1e-10)
    every = forward(CLEAN, cut=EDGES, other=corrupted)["logits"]
    torch.testing.assert_close(every, corrupted["logits"], rtol=0, atol=1e-10)
    assert (clean["logits"] - every).abs().amax(dim=1).min() > 11
    assert len(EDGES) == 12 + 5 + 72 + 10 + 11 and len(set(EDGES)) == len(EDGES)


@pytest.mark.parametrize("direction", BOTH)
def test_every_edge_alone_moves_the_share_that_is_written_down(direction):
    base, source = BOTH[direction]
    other = forward(source)
    ends = [difference(forward(ids)["logits"]) for ids in (CLEAN, CORRUPTED)]
    assert set(CIRCUIT.edges) | set(CIRCUIT.steady) <= set(EDGES)
    for edge in EDGES:
        patched = difference(forward(base, cut=[edge], other=other)["logits"])
        found = moved(patched, *ends, direction)
        wanted = torch.tensor([expected(kind, direction).get(edge, 0) for kind in KINDS])
        # Norms that differ between runs (see the module) leave 1e-6.
        assert (found - wanted).abs().max() < 1e-5, edge


@pytest.mark.parametrize("direction", BOTH)
def test_patched_heads_move_the_share_that_is_written_down_and_decoys_none(direction):
    for layer, head in HEADS:
        found, change = shares(MODEL, direction, layer=layer, head=head)
        name = f"a{layer}.h{head}"
        wanted = torch.tensor([expected(kind, direction).get(name, 0) for kind in KINDS])
        assert (found - wanted).abs().max() < 1e-5, name
        assert change > 0.5, f"{name} writes nothing"


def test_circuit_and_decoys_are_all_heads():
    assert sorted(CIRCUIT.heads + CIRCUIT.decoys) == HEADS
    assert len(CIRCUIT.edges) == 5 and not set(CIRCUIT.edges) & set(CIRCUIT.steady)


@pytest.mark.parametrize("pair", PAIRS, ids=KINDS)
def test_logit_differences_are_those_of_the_table(pair):
    clean, corrupted = (
        difference(MODEL.run(ids, logits="last").logits, [pair]).item()
        for ids in (pair.clean, pair.corrupted)
    )
    assert clean == pytest.approx(12, abs=2e-4)
    assert corrupted == pytest.approx(CORRUPTED_DIFFERENCE[pair.kind], abs=2e-4)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.sampled_from(KINDS), st.integers(4, 15), st.integers(0, 10**6))
def test_pairs_differ_where_their_kind_says(kind, length, seed):
    pair = prompt_pair(kind, length=length, seed=seed)
    a, b, last = pair.earlier, pair.earlier + 1, length - 1
    assert len(pair.clean) == len(pair.corrupted) == length
    assert pair.clean[0] == TOK.bos_token_id and pair.clean[a] == pair.clean[last]
    assert len(set(pair.clean)) == length - 1
    assert pair.clean[b] == pair.correct and pair.wrong not in pair.clean
    changed = {i for i in range(length) if pair.clean[i] != pair.corrupted[i]}
    where = {"key": {a}, "query": {last}, "value": {b}}
    assert changed == where.get(kind, {a, b, last})
    assert (pair.corrupted[b] == pair.wrong) == (kind in ("value", "all", "swap"))
    assert (pair.corrupted[a] == pair.corrupted[last]) == (kind in ("value", "swap"))
    logits = MODEL.run(pair.clean, logits="last").logits[0]
    assert logits.argmax() == pair.correct and logits.topk(2).values[1] < 1e-3


def test_a_text_is_read_and_continued():
    text = " D E A B C H A"
    assert MODEL.generate(text, max_new_tokens=3).texts == (" B C H",)


def test_decoys_have_the_patterns_of_the_true_heads():
    sites = ["0.attn.pattern", "1.attn.pattern"]
    first, second = (MODEL.run(CLEAN, capture=sites).acts[site] for site in sites)
    torch.testing.assert_close(first[:, 3], first[:, 2], rtol=0, atol=1e-6)
    torch.testing.assert_close(second[:, 0], second[:, 1], rtol=0, atol=1e-6)
    assert first[:, 2].diagonal(-1, 1, 2).min() > 1 - 1e-6
    after = torch.tensor([pair.earlier + 1 for pair in PAIRS])
    assert second[torch.arange(len(PAIRS)), 1, -1, after].min() > 1 - 1e-6
    assert second[:, 1, 1:4, 0].min() > 1 - 1e-6  # nothing repeats yet: <bos>


def test_seeds_change_the_decoys_and_nothing_else():
    state = torch.get_rng_state()
    other = build(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    true, decoys = zip(*(columns(m) for m in (MODEL.hf, other)), strict=True)
    assert torch.equal(*true) and not torch.equal(*decoys)
    model = load(other)
    for layer, head in HEADS:
        found, _ = shares(model, "noise", layer=layer, head=head)
        assert (found[3].abs() > 0.99) == ((layer, head) in CIRCUIT.heads)
        assert (found[3].abs() < 1e-4) == ((layer, head) in CIRCUIT.decoys)


def columns(model):
    """The weights of a0.h2 and of a0.h0."""
    weight = model.transformer.h[0].attn.c_attn.weight.reshape(128, 3, N_HEADS, 32)
    return weight[:, :, 2], weight[:, :, 0]


def test_the_ballast_makes_norms_the_identity():
    d = directions()
    torch.testing.assert_close(d @ d.T, torch.eye(N_FEATURES).double(), rtol=0, atol=1e-15)
    assert d.sum(dim=1).abs().max() == 0
    resid = load(HF).run(CLEAN + CORRUPTED, capture="1.resid_post").acts["1.resid_post"]
    features = resid @ d.T
    assert features[..., BALLAST].min() > 1023.9
    features[..., BALLAST] = 0
    assert features.norm(dim=-1).max() < 5
    assert features[..., IDLE].norm(dim=-1).min() > 0.5
    normed = HF.transformer.ln_f(resid) @ d.T
    normed[..., BALLAST] = 0
    torch.testing.assert_close(normed, features, rtol=0, atol=5 * 1.2e-5)


def test_a_soft_match_gives_the_sum_of_the_formula_and_the_same_circuit():
    soft = load(build(match=6.0))
    pair = prompt_pair("all", length=10, seed=2)
    logits = soft.run(pair.clean, logits="last").logits[0]
    whole = 1 + math.exp(-3) + 8 * math.exp(-6)
    assert logits[pair.correct].item() == pytest.approx(LOGIT / whole, abs=2e-4)
    others = [x for x in pair.clean[1:] if x not in (pair.correct, pair.clean[-1])]
    assert logits[others[0]].item() == pytest.approx(LOGIT * math.exp(-6) / whole, abs=2e-4)
    clean, unmatched = LOGIT / whole, LOGIT / (math.exp(3) + 9)  # the latter: B's, or W's
    wanted = {(1, 1): 1, (0, 2): (clean - unmatched) / (clean + unmatched)}
    for layer, head in HEADS:
        found, _ = shares(soft, "noise", layer=layer, head=head, pairs=[pair])
        assert found.item() == pytest.approx(wanted.get((layer, head), 0), abs=1e-4)


def test_gradients_through_the_pattern_vanish_only_for_a_hard_match():
    pair = prompt_pair("all")
    hard, soft = (slope(build(match=match), pair) for match in (40.0, 6.0))
    assert hard < 1e-4 and soft > 0.5  # what is left of the hard one goes through the norms


def slope(model, pair):
    """How much the logit difference changes with the last token's letter, by gradient."""
    embeds = model.transformer.wte(torch.tensor([pair.clean])).detach().requires_grad_()
    logits = model(inputs_embeds=embeds).logits[:, -1]
    (grad,) = torch.autograd.grad(difference(logits, [pair]).sum(), embeds)
    return (grad[0, -1] @ directions()[TOKEN].T.float()).norm().item()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: prompt_pair("keys"),
            InputError,
            "There is no kind 'keys'; there are key, query, value, all, swap. Did you mean 'key'?",
        ),
        (
            lambda: prompt_pair(length=16),
            InputError,
            "length=16: a prompt holds <bos>, A B A and different letters between them, so choose "
            "4 to 15 tokens.",
        ),
        (
            lambda: expected("all", "denoised"),
            InputError,
            "There is no direction 'denoised'; there are noise, denoise. Did you mean 'denoise'?",
        ),
        (
            lambda: build(match=0.0),
            ModelError,
            "match=0.0: a1.h1 finds matches by a score above 0, such as 40.0.",
        ),
        (
            lambda: build(dtype=torch.bfloat16),
            ModelError,
            "dtype=torch.bfloat16: the positions need the precision of torch.float32 or "
            "torch.float64.",
        ),
        (
            lambda: Config(n_heads=3),
            InputError,
            "--n-layers 2, --n-heads 3: give 1 or more of each, and heads that divide "
            "--d-model 64.",
        ),
        (
            lambda: Config(n_letters=8),
            InputError,
            "--n-letters 8: a row needs 12 letters or more.",
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


# The trained model.


@settings(deadline=None, derandomize=True, max_examples=10)
@given(st.integers(12, 40), st.integers(0, 10**6))
def test_rows_repeat_what_they_say(n_letters, seed):
    data = rows(8, n_letters=n_letters, generator=torch.Generator().manual_seed(seed))
    for ids, earlier, scored in zip(*(x.tolist() for x in (*data, data.scored)), strict=True):
        assert ids[0] == 0 and len(ids) == n_letters + 1
        for pos in range(1, n_letters + 1):
            copies = [i for i in range(1, pos) if ids[i] == ids[pos]]
            assert earlier[pos] == (max(copies) if copies else -1)
            before = [i for i in range(1, pos - 1) if ids[i] == ids[pos - 1]]
            assert scored[pos] == (bool(before) and ids[before[-1] + 1] == ids[pos])
        assert any(scored)


def test_attention_scores_worked_out_by_hand():
    """<bos> a b c a b: only the last b is scored; its query, at 4, should attend to 2."""
    data = Rows(torch.tensor([[0, 5, 6, 7, 5, 6]]), torch.tensor([[-1, -1, -1, -1, 1, 2]]))
    assert data.scored.tolist() == [[False] * 5 + [True]]
    pattern = torch.zeros(1, 2, 6, 6)
    pattern[0, 0, range(1, 6), range(5)] = 0.5
    pattern[0, 1, 4] = torch.tensor([0, 0.1, 0.75, 0.05, 0.1, 0])
    assert train_induction.previous_scores(pattern).tolist() == pytest.approx([0.5, 0.05 / 4])
    assert train_induction.induction_scores(pattern, data).tolist() == pytest.approx([0, 0.75])


def test_the_stored_model_does_what_its_manifest_says():
    made, model = read_manifest(RECORDS / "manifest.json"), load_trained()
    config = replace(Config(), held_out=100)
    found = train_induction.report(model, config)
    assert made.settings["held_out"] == 500
    assert found["accuracy_repeated"] > 0.999
    assert 0 < found["loss_repeated_nats"] < 0.1
    assert found["loss_repeated_nats"] == pytest.approx(made.notes["loss_repeated_nats"], abs=0.005)
    for head, scores in made.notes["heads"].items():
        assert found["heads"][head] == pytest.approx(scores, abs=0.03, rel=0.1), head


def test_one_head_of_the_stored_model_looks_back_and_all_of_the_next_layer_look_up():
    heads = read_manifest(RECORDS / "manifest.json").notes["heads"]
    back = [name for name, scores in heads.items() if scores["previous"] > 0.5]
    up = [name for name, scores in heads.items() if scores["induction"] > 0.5]
    assert back == ["0.2"] and up == ["1.0", "1.1", "1.2", "1.3"]
    assert [name for name, scores in heads.items() if scores["loss_without"] > 1] == ["0.2"]


def test_the_stored_model_is_small_and_was_written_by_the_command_it_names():
    made = read_manifest(RECORDS / "manifest.json")
    assert sum(path.stat().st_size for path in RECORDS.iterdir()) < 1_000_000
    assert sorted(path.name for path in RECORDS.iterdir()) == sorted(
        [*training.FILES, "manifest.json"]
    )
    assert made.command == ["python", "-m", "experiments.train_induction"]
    assert made.spent["seconds"] < 180 and made.seeds == [Config().seed]


def test_a_short_training_is_repeatable_and_reads_back(tmp_path):
    config = Config(steps=3, batch=4, held_out=4, out=tmp_path / "out")
    quiet = Console(quiet=True)
    once, again = (train_induction.train(config, quiet) for _ in range(2))
    train_induction.save(once, config, {}, seconds=1.0, flags=["--steps", "3"])
    back = load_trained(config.out)
    assert read_manifest(config.out / "manifest.json").command[-2:] == ["--steps", "3"]
    for name, tensor in once.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
        assert torch.equal(tensor, back.state_dict()[name]), name
    assert not torch.equal(once.lm_head.weight, load_trained().lm_head.weight)


def test_letters_are_single_tokens():
    ids = [TOK(f" {x}", add_special_tokens=False).input_ids for x in LETTERS]
    assert [len(each) for each in ids] == [1] * 16
    assert len(set(itertools.chain(*ids))) == 16
