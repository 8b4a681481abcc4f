"""Attention suppression and receiver heads against plain Hugging Face with masks of its own."""

from __future__ import annotations

import copy

import pytest
import torch

from interp.errors import SiteError
from interp.thinking.dependency import locate
from interp.thinking.relatives.attention import receiver_heads, suppress
from interp.thinking.rules import Rules
from interp.thinking.score import Problem, prepare

RULES = Rules()
TEXT = (
    "He took 3 red apples. Then he got 4 more in the park. So 3 + 4 = 7. The dog is big. "
    "She went to school. It is true that 7 is the number.\nThe answer is 7."
)
NAMES = ["tiny-gpt2", "tiny-llama", "tiny-neox", "tiny-qwen3"]


def made(tiny_model, name):
    model = tiny_model(name)
    return model, prepare(model, Problem("q", "How many apples?", TEXT), RULES)


def masked_logprobs(hf, ids, keys=(), after=0):
    """A forward pass with a mask of ours: queries from `after` on do not see `keys`."""
    n = len(ids)
    seen = torch.ones(n, n).tril().bool()
    if keys:
        seen[after:, list(keys)] = False
    mask = torch.zeros(n, n).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        out = hf(torch.tensor([ids]), attention_mask=mask[None, None]).logits[0]
    return out.log_softmax(-1)


@pytest.mark.parametrize("name", NAMES)
def test_suppression_is_a_mask_over_the_steps_keys(tiny_model, tiny_hf, name):
    """Float32, 3 layers: two ways of masking differ by about 1e-5 a log-probability."""
    model, chain = made(tiny_model, name)
    found = suppress(model, chain, RULES, control=False, batch=3)
    where, hf = locate(model, chain, RULES), tiny_hf(name)
    assert len(found.effects) == len(chain.steps) == 6
    clean = masked_logprobs(hf, where.ids)
    first, stop = where.answer

    def answer(logprobs):
        return sum(float(logprobs[i - 1, where.ids[i]]) for i in range(first, stop))

    links = {(link.source, link.target): link.kl for link in found.links}
    for each in found.effects:
        begin, end = where.steps[each.step]
        hidden = masked_logprobs(hf, where.ids, range(begin, end), end)
        assert each.intact == pytest.approx(answer(clean), abs=1e-4)
        assert each.changed == pytest.approx(answer(hidden), abs=1e-4)
        assert abs(each.intact - each.changed) > 1e-4  # a random model: every step moves something
        kl = (clean.exp() * (clean - hidden)).sum(-1)
        assert float(kl[:end].abs().max()) < 1e-5  # what stands before does not change
        for target in range(each.step + 1, 6):
            a, b = where.steps[target]
            assert links[each.step, target] == pytest.approx(float(kl[a:b].mean()), abs=1e-4)


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama"])
def test_received_attention_is_that_of_hugging_faces_eager_kernel(tiny_model, tiny_hf, name):
    model, chain = made(tiny_model, name)
    found = receiver_heads(model, [chain], RULES, gap=2, top=1)
    where = locate(model, chain, RULES)
    hf = copy.deepcopy(tiny_hf(name))
    hf.set_attn_implementation("eager")
    end = where.steps[5][1]
    with torch.no_grad():
        maps = hf(torch.tensor([where.ids[:end]]), output_attentions=True).attentions
    rows = []
    for step in range(4):
        begin, stop = where.steps[step]
        later = [i for other in range(step + 2, 6) for i in range(*where.steps[other])]
        rows.append(torch.stack([m[0][:, later, begin:stop].mean((1, 2)) for m in maps]))
    table = torch.stack(rows, dim=-1).double()  # layer, head, step
    off = table - table.mean(-1, keepdim=True)
    kurt = off.pow(4).mean(-1) / off.square().mean(-1).square() - 3
    best = divmod(int(kurt.argmax()), kurt.shape[1])
    (head,) = found.heads
    assert (head.layer, head.head) == best
    assert head.kurtosis == pytest.approx(float(kurt.max()), abs=1e-3)
    values = [value.value for value in found.values]
    assert values[:4] == pytest.approx(table[best].tolist(), abs=1e-5)
    assert values[4:] == [None, None]


def test_transformer_lens_agrees_and_nnsight_says_that_it_has_no_patterns(tiny_model):
    model, chain = made(tiny_model, "tiny-gpt2")
    ours = suppress(model, chain, RULES, only=[1], control=False)
    other = tiny_model("tiny-gpt2", "transformer_lens")
    theirs = suppress(other, chain, RULES, only=[1], control=False)
    assert theirs.values[0].value == pytest.approx(ours.values[0].value, abs=1e-4)
    none = tiny_model("tiny-gpt2", "nnsight")
    for call in (
        lambda: suppress(none, chain, RULES),
        lambda: receiver_heads(none, [chain], RULES),
    ):
        with pytest.raises(SiteError, match=r"0\.attn\.pattern"):
            call()
