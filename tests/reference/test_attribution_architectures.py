"""Attribution, edges and circuits on seven tiny architectures.

The judges: derivatives of real patches; edges patched by hooks on the plain Hugging Face model,
written here for single modules; and sums that must come out. Scores are derivatives, so they are
compared in float64 with central differences, whose error is about the step squared; architectures
that compute norms in float32 whatever the dtype leave up to 1e-3 of the largest score.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from interp.edits import Patch
from interp.engine.fingerprint import fingerprint
from interp.metrics import LogitDiff
from interp.models.tiny import TINY
from interp.patching.attribution import Rule, attribute, verify
from interp.patching.circuits import (
    Circuit,
    Evaluator,
    curve,
    faithfulness,
    random_edges,
    select_edges,
    verify_edges,
)
from interp.patching.edges import eap, graph_of
from interp.sites import ATTENTION_MAPS, Site

BASE = [[5, 300, 41, 42, 7, 199, 260, 8, 12, 20], [9, 77, 310, 15, 281]]
SOURCE = [[5, 310, 41, 99, 7, 199, 160, 8, 12, 20], [9, 78, 310, 17, 281]]
METRIC = LogitDiff([30, 40], [31, 41])
PAIR = BASE, SOURCE, METRIC
STEP = 1e-3


@pytest.fixture(scope="module")
def bench(tiny_model) -> Callable[..., Evaluator]:
    @cache
    def get(name: str, dtype: torch.dtype = torch.float32) -> Evaluator:
        return Evaluator(tiny_model(name, dtype=dtype), *PAIR)

    return get


def score(logits: Tensor) -> Tensor:
    return METRIC(logits, torch.arange(2))


def without(evaluator: Evaluator, *edges: str) -> Circuit:
    """Every edge but some."""
    inside = evaluator.graph.exists.clone()
    for edge in edges:
        inside[evaluator.graph.find(edge)] = False
    return Circuit(evaluator.graph, inside)


# ---------------------------------------------------------------- nodes


@pytest.mark.parametrize("name", TINY)
def test_scores_of_every_site_are_derivatives_of_patching_it(name, tiny_model):
    model = tiny_model(name, dtype=torch.float64)
    skipped = (*ATTENTION_MAPS, "attn.result")
    sites = [
        site
        for site in model.sites
        if Site.parse(site).component not in skipped and Site.parse(site).layer in (None, 1)
    ]
    found = attribute(model, *PAIR, sites)
    base, source = (model.run(prompts, capture=sites).acts for prompts in (BASE, SOURCE))
    scale = max(float(found.by_position(site).sum(1).abs().max()) for site in sites)
    for site in sites:
        ends = [
            score(
                model.run(
                    BASE,
                    edits=[Patch(site, source=torch.lerp(base[site], source[site], step))],
                    logits="last",
                ).logits
            )
            for step in (STEP, -STEP)
        ]
        slope = (ends[0] - ends[1]) / (2 * STEP)
        assert (found[site].flatten(1).sum(1) - slope).abs().max() < 2e-3 * scale, site


@pytest.mark.parametrize("name", TINY)
def test_identical_prompts_score_exactly_zero(name, tiny_model):
    model = tiny_model(name)
    found = attribute(model, BASE, BASE, METRIC, ["1.attn.z", "2.mlp_out", "1.attn.k_each"])
    assert not any(entries.any() for entries in found.entries.values())
    assert torch.equal(found.base, found.source)
    assert not eap(model, BASE, BASE, METRIC, steps=1).values.any()
    assert eap(model, *PAIR, steps=1).values.any()


@pytest.mark.parametrize(("rule", "order"), [("midpoint", 2), ("left", 1)])
def test_the_error_of_the_sum_falls_at_the_rate_of_its_rule(rule: Rule, order, tiny_model):
    """Twice the steps: a quarter of the error for the midpoint rule, half for the others."""
    model = tiny_model("tiny-gpt2", dtype=torch.float64)
    site, errors = "0.resid_pre", []
    for steps in (16, 32):
        nodes = attribute(model, *PAIR, site, along="inputs", steps=steps, rule=rule)
        effect = nodes.source - nodes.base
        errors.append((nodes.by_position(site).sum(1) - effect).abs().max())
    assert 0.85 * 2**order < errors[0] / errors[1] < 1.2 * 2**order


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-neox", "tiny-gemma3"])
def test_scores_add_up_to_what_really_happens(name, tiny_model):
    """Midpoint sums: what is left of effects of order 1 is below 1e-2.

    (Not in a mixture of experts: where a token changes its expert, no gradient sees the jump.)
    """
    model, site = tiny_model(name), "1.attn_out"
    inputs = attribute(model, *PAIR, "0.resid_pre", along="inputs", steps=32)
    effect = inputs.source - inputs.base
    assert (inputs.by_position("0.resid_pre").sum(1) - effect).abs().max() < 1e-2
    assert effect.abs().max() > 0.1
    own = attribute(model, *PAIR, site, along="activations", steps=12)
    source = model.run(SOURCE, capture=site).acts[site]
    patched = model.run(BASE, edits=[Patch(site, source=source)], logits="last").logits
    effect = score(patched) - own.base
    assert (own.by_position(site).sum(1) - effect).abs().max() < 1e-2
    assert effect.abs().max() > 0.1


@pytest.mark.parametrize("name", TINY)
def test_edges_out_of_what_moves_add_up_to_the_node(name, tiny_model):
    """The same points, so the same sum to rounding, however few steps there are."""
    model = tiny_model(name)
    edges = eap(model, *PAIR, along="inputs", steps=1)
    node = attribute(model, *PAIR, "0.resid_pre", along="inputs", steps=1)["0.resid_pre"]
    torch.testing.assert_close(
        edges.values[:, 0].sum(-1), node.flatten(1).sum(1), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-neox", "tiny-gemma3"])
def test_edges_along_activations_add_up_to_each_node(name, tiny_model):
    model = tiny_model(name)
    edges = eap(model, *PAIR, along="activations", steps=1)
    assert edges.gradients == 2 * 3 + 1
    senders = {"0.resid_pre": slice(0, 1), "1.attn_out": slice(6, 10), "1.mlp_out": slice(10, 11)}
    nodes = attribute(model, *PAIR, senders, along="activations", steps=1)
    for site, places in senders.items():
        ours = edges.values[:, places].sum((1, 2))
        torch.testing.assert_close(ours, nodes[site].flatten(1).sum(1), rtol=1e-4, atol=1e-4)


def test_verify_measures_real_patches(tiny_model):
    model = tiny_model("tiny-qwen3")
    found = attribute(model, *PAIR, ["0.attn.z", "2.mlp_out"], along="activations", steps=8)
    checked = verify(model, *PAIR, found, k=6)
    source = model.run(SOURCE, capture=["0.attn.z", "2.mlp_out"]).acts
    base = score(model.run(BASE, logits="last").logits)
    for name, measured in zip(checked.names, checked.measured, strict=True):
        site, pos, *head = name.replace("position ", "").replace("head ", "").split(", ")
        edit = Patch(
            site, source=source[site], positions=int(pos), heads=int(head[0]) if head else None
        )
        effect = score(model.run(BASE, edits=[edit], logits="last").logits) - base
        assert measured == pytest.approx(float(effect.mean()), abs=1e-5)
    assert checked.agreement is not None and checked.agreement > 0.5


# ---------------------------------------------------------------- edges


@pytest.mark.parametrize("name", TINY)
def test_edge_scores_are_derivatives_of_patching_the_edge(name, tiny_model, bench):
    evaluator = bench(name, torch.float64)
    found = eap(tiny_model(name, dtype=torch.float64), *PAIR, along="none")
    edges = [edge for edge, _ in found.top(3)] + list(evaluator.graph.edges[::97])
    difference = evaluator.theirs - evaluator.ours
    scale = float(found.values.abs().max())
    for edge in edges:
        circuit = without(evaluator, edge)
        up, down = (
            evaluator.run(circuit, source=evaluator.ours + step * difference)
            for step in (STEP, -STEP)
        )
        assert ((up - down) / (2 * STEP) - found[edge]).abs().max() < 1e-3 * scale, edge


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-mistral"])
def test_a_batch_scores_as_its_pairs_do_alone(name, tiny_model):
    model = tiny_model(name)
    both = eap(model, *PAIR, steps=2)
    for row in range(2):
        metric = LogitDiff(METRIC.correct[row], METRIC.wrong[row])  # type: ignore[index]
        alone = eap(model, [BASE[row]], [SOURCE[row]], metric, steps=2)
        torch.testing.assert_close(both.values[row], alone.values[0], rtol=0, atol=1e-4)


def test_another_engine_gives_the_same_edges(tiny_model):
    ours = eap(tiny_model("tiny-llama"), *PAIR, steps=1).values
    theirs = eap(tiny_model("tiny-llama", "transformer_lens"), *PAIR, steps=1).values
    assert torch.equal(ours, theirs) and ours.any()


# ---------------------------------------------------------------- edges by hand


def outputs(hf, path: str, prompts: list[list[int]], *, side: str = "output") -> Tensor:
    """What a module of the plain model puts out (or gets) on one prompt."""
    kept = []
    module = hf.get_submodule(path)

    def after(module, args, out):
        kept.append(out[0] if isinstance(out, tuple) else out)

    def before(module, args, kwargs):
        kept.append(args[0] if args else kwargs["hidden_states"])

    if side == "output":
        handle = module.register_forward_hook(after)
    else:
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    with torch.no_grad():
        hf(torch.tensor(prompts))
    handle.remove()
    return kept[0]


def replaced(hf, path: str, new: Callable[[Tensor], Tensor]) -> Tensor:
    """The metric on the first base prompt while a module puts out something else."""
    handle = hf.get_submodule(path).register_forward_hook(lambda module, args, out: new(out))
    with torch.no_grad():
        logits = hf(torch.tensor(BASE[:1])).logits[:, -1]
    handle.remove()
    return METRIC(logits, torch.tensor([0]))


def changed(hf, path: str, *, side: str = "output") -> Tensor:
    """What a module puts out on the source prompt less what it does on the base prompt."""
    return outputs(hf, path, SOURCE[:1], side=side) - outputs(hf, path, BASE[:1], side=side)


def agrees(bench, name: str, by_hand: Tensor, *edges: str) -> None:
    """Both ways of patching some edges agree, and the edges matter."""
    evaluator = bench(name)
    ours = evaluator.run(without(evaluator, *edges))[:1]
    torch.testing.assert_close(ours, by_hand, rtol=0, atol=2e-5)
    assert (ours - evaluator.full[:1]).abs() > 1e-3


def test_a_key_edge_of_gpt2_by_hand(tiny_hf, bench):
    """a0.h1->a2.h3<k>: in the fused projection, keys of head 3 are columns 32 + 24 to 32 + 32."""
    hf = tiny_hf("tiny-gpt2")
    z = changed(hf, "transformer.h.0.attn.c_proj", side="input")
    move = z[..., 8:16] @ hf.transformer.h[0].attn.c_proj.weight[8:16]
    stream = outputs(hf, "transformer.h.2", BASE[:1], side="input")
    block = hf.transformer.h[2]
    keys = block.attn.c_attn.forward(block.ln_1(stream + move))[..., 56:64]

    def new(out: Tensor) -> Tensor:
        return torch.cat([out[..., :56], keys, out[..., 64:]], dim=-1)

    by_hand = replaced(hf, "transformer.h.2.attn.c_attn", new)
    agrees(bench, "tiny-gpt2", by_hand, "a0.h1->a2.h3<k>")


def test_a_query_edge_of_llama_by_hand(tiny_hf, bench):
    hf = tiny_hf("tiny-llama")
    move = changed(hf, "model.layers.0.mlp")
    stream = outputs(hf, "model.layers.1", BASE[:1], side="input")
    layer = hf.model.layers[1]
    queries = layer.self_attn.q_proj.forward(layer.input_layernorm(stream + move))[..., 16:24]

    def new(out: Tensor) -> Tensor:
        return torch.cat([out[..., :16], queries, out[..., 24:]], dim=-1)

    by_hand = replaced(hf, "model.layers.1.self_attn.q_proj", new)
    agrees(bench, "tiny-llama", by_hand, "m0->a1.h2<q>")


@pytest.mark.parametrize("port", ["k", "v"])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen3", "tiny-mistral"])
def test_a_shared_key_or_value_is_the_edges_into_all_its_heads(name, port, tiny_hf, bench):
    """Key-value head 1 is read by query heads 2 and 3."""
    hf = tiny_hf(name)
    move = changed(hf, "model.layers.0.mlp")
    stream = outputs(hf, "model.layers.1", BASE[:1], side="input")
    layer = hf.model.layers[1]
    projection = getattr(layer.self_attn, f"{port}_proj")
    shared = projection.forward(layer.input_layernorm(stream + move))[..., 8:]

    def new(out: Tensor) -> Tensor:
        return torch.cat([out[..., :8], shared], dim=-1)

    by_hand = replaced(hf, f"model.layers.1.self_attn.{port}_proj", new)
    agrees(bench, name, by_hand, f"m0->a1.h2<{port}>", f"m0->a1.h3<{port}>")
    one = bench(name).run(without(bench(name), f"m0->a1.h2<{port}>"))[:1]
    assert (one - by_hand).abs() > 1e-3  # one head's copy is not the shared one


def test_an_mlp_edge_of_parallel_blocks_by_hand(tiny_hf, bench):
    hf = tiny_hf("tiny-neox")
    move = changed(hf, "gpt_neox.layers.1.mlp")
    stream = outputs(hf, "gpt_neox.layers.2", BASE[:1], side="input")
    layer = hf.gpt_neox.layers[2]
    moved = layer.mlp.forward(layer.post_attention_layernorm(stream + move))
    by_hand = replaced(hf, "gpt_neox.layers.2.mlp", lambda out: moved)
    agrees(bench, "tiny-neox", by_hand, "m1->m2")
    assert bench("tiny-neox").graph.parallel
    assert "a2.h0->m2" not in bench("tiny-neox").graph.edges


def test_a_head_of_gemma_before_its_norm_by_hand(tiny_hf, bench):
    """a2.h3->logits: the head's output by the factor that its run's norm gave the whole."""
    hf = tiny_hf("tiny-gemma3")
    layer, parts = hf.model.layers[2], []
    for prompts in (BASE, SOURCE):
        z = outputs(hf, "model.layers.2.self_attn.o_proj", prompts[:1], side="input")
        whole = z @ layer.self_attn.o_proj.weight.T
        own = z[..., 24:32] @ layer.self_attn.o_proj.weight[:, 24:32].T
        norm = layer.post_attention_layernorm
        rms = (whole.square().mean(-1, keepdim=True) + norm.eps).sqrt()
        parts.append(own / rms * (1 + norm.weight))
    stream = outputs(hf, "model.norm", BASE[:1], side="input")
    final = hf.model.norm.forward(stream + parts[1] - parts[0])
    by_hand = replaced(hf, "model.norm", lambda out: final)
    agrees(bench, "tiny-gemma3", by_hand, "a2.h3->logits")


# ---------------------------------------------------------------- circuits


@pytest.mark.parametrize("name", TINY)
def test_full_and_empty_circuits_are_the_two_runs(name, tiny_model, bench):
    evaluator, model = bench(name), tiny_model(name)
    full = Circuit(evaluator.graph, evaluator.graph.exists)
    empty = Circuit(evaluator.graph, torch.zeros_like(evaluator.graph.exists))
    plain, corrupted = (score(model.run(each, logits="last").logits) for each in (BASE, SOURCE))
    assert (plain - corrupted).abs().min() > 0.1
    torch.testing.assert_close(evaluator.run(full), plain, rtol=0, atol=2e-5)
    torch.testing.assert_close(evaluator.run(empty), corrupted, rtol=0, atol=2e-5)
    # every reader reads anew, and nothing has changed:
    same = evaluator.run(empty, source=evaluator.ours)
    torch.testing.assert_close(same, plain, rtol=0, atol=2e-5)
    half = evaluator.run(random_edges(evaluator.graph, len(full) // 2, seed=5))
    assert (half - plain).abs().max() > 1e-2 and (half - corrupted).abs().max() > 1e-2


@pytest.mark.parametrize("name", TINY)
def test_blocks_before_the_first_patched_reader_need_not_run(name, bench):
    """One more edge, into block 0, carries what it does anyway, and makes every block run."""
    evaluator = bench(name)
    late = [e for e in evaluator.graph.edges if e.split("->")[1].startswith(("a2.h1", "m2"))]
    late = [edge for edge in late if not edge.startswith("input")]
    source = evaluator.theirs.clone()
    source[0] = evaluator.ours[0]
    reused = evaluator.run(without(evaluator, *late), source=source)
    whole = evaluator.run(without(evaluator, *late, "input->a0.h0<q>"), source=source)
    torch.testing.assert_close(reused, whole, rtol=0, atol=2e-5)
    assert (reused - evaluator.full).abs().max() > 1e-3


def test_a_run_leaves_the_model_as_it_was(tiny_model):
    model = tiny_model("tiny-mistral")
    before = fingerprint(model.hf)
    scores = eap(model, *PAIR, steps=2)
    faithfulness(model, BASE, SOURCE, select_edges(scores.graph, scores.mean, 30), METRIC)
    assert fingerprint(model.hf) == before
    assert all(parameter.grad is None for parameter in model.hf.parameters())
    assert not any(module._forward_pre_hooks for module in model.hf.modules())


def test_verify_edges_and_a_curve_with_its_control(tiny_model):
    model = tiny_model("tiny-llama")
    scores = eap(model, *PAIR, steps=8)
    checked = verify_edges(model, *PAIR, scores, k=6)
    assert checked.names == tuple(edge for edge, _ in scores.top(6))
    evaluator = Evaluator(model, *PAIR)
    for name, measured in zip(checked.names, checked.measured, strict=True):
        effect = evaluator.run(without(evaluator, name)) - evaluator.full
        assert measured == pytest.approx(float(effect.mean()), abs=1e-6)
    assert checked.agreement is not None and checked.agreement > 0.5

    drawn = curve(model, *PAIR, scores, fractions=(0.05, 0.5, 1.0), n_random=2)
    total = int(scores.graph.exists.sum())
    assert drawn.n_edges[-1] == total and drawn.n_edges[0] <= 0.05 * total
    assert drawn.faithfulness[-1] == pytest.approx(1, abs=1e-4)
    assert [len(draw) for draw in drawn.random] == [3, 3]
    assert drawn.random[0][-1] == pytest.approx(1, abs=1e-4)
    assert drawn.cpr != drawn.random_cpr


def test_the_graph_of_each_architecture(tiny_model):
    for name in TINY:
        graph = graph_of(tiny_model(name))
        assert (graph.n_layers, graph.n_heads, graph.d_model) == (3, 4, 32)
        assert graph.parallel == (name == "tiny-neox")
