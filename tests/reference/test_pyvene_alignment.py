"""pyvene's interventions and ours are one function of one rotation, and so is what they learn from.

Tolerances: float32 logits of two orders of summation differ by about 1e-6 here.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from experiments.benchmarks.pyvene_alignment import batched, on_classifier, on_language_model
from interp.alignment.fitting import descend, swapped
from interp.alignment.language import LanguageSubject
from interp.alignment.maps import Rotation, consecutive_blocks
from interp.alignment.subjects import LayerSubject
from interp.causal_models import CausalModel, Variable
from interp.data.alignment_tasks import task_named
from interp.data.counterfactuals import Table, uniform
from interp.models.classifiers import mlp, site
from tests.strategies import tiny

pytest.importorskip("pyvene", reason="pyvene is not installed: extra bench")


@pytest.mark.parametrize("layer", [1, 2])
def test_a_rotation_of_a_classifier_gives_equal_logits_and_losses(layer: int):
    net, table = mlp(16, 16, 3, 2, seed=0), task_named("equality").table("both_equality", 64, 0)
    phi = Rotation(16, consecutive_blocks(table.variables, 8), seed=3)
    cut = LayerSubject(net, site(layer)).cut(table.inputs)
    rival = on_classifier(net, site(layer), phi)
    for pairs in batched(table, 3, 20, seed=1):
        mine, other = swapped(cut, phi, pairs), rival.logits(table.inputs, pairs)
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
        clean = cut.finish(cut.states[pairs.base], pairs.base)
        assert float((mine - clean).detach().abs().max()) > 1e-3
        loss = float(cross_entropy(other, pairs.labels).detach())
        assert descend(cut, phi, pairs) == pytest.approx(loss, abs=1e-5)


def test_a_low_rank_rotation_of_a_language_model_gives_equal_logits():
    model = tiny("tiny-llama")
    stream = torch.Generator().manual_seed(0)
    ids = torch.randint(3, model.sizes.d_vocab, (12, 7), generator=stream)
    variables = (
        Variable("last", ("token",), torch.clone),
        Variable("next", ("last",), torch.clone),
    )
    copied = CausalModel("copied", ("token",), variables, "next")
    table = Table(copied, ("last",), ids, copied.run({"token": ids[:, -1]}), uniform)
    phi = Rotation(model.sizes.d_model, consecutive_blocks(("last",), 4), seed=2)
    cut = LanguageSubject(model, "0.resid_post").cut(ids)
    rival = on_language_model(model.hf, 0, phi, 6)
    (pairs,) = batched(table, 1, 16, seed=1)
    mine, other = swapped(cut, phi, pairs), rival.logits(ids, pairs)
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
    plain = model.hf(ids).logits[:, -1][pairs.base]
    assert float((mine - plain).detach().abs().max()) > 1e-3
    assert not any(block._forward_hooks for block in model.hf.model.layers)
