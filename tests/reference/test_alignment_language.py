"""A language model cut at a token gives what plain Hugging Face gives with a hand-written hook."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch.nn.functional import cross_entropy

import interp
from experiments.train_ioi import load_trained, twin
from interp.alignment.fitting import Budget, Scores, fit, fresh, score, swapped
from interp.alignment.language import (
    PYTHIA,
    STREAM,
    LanguageSubject,
    among,
    checkpoints,
    score_among,
)
from interp.alignment.maps import Identity, Rotation, consecutive_blocks
from interp.alignment.subjects import PAIRS
from interp.data.ioi import IOI
from interp.engine.fingerprint import fingerprint
from interp.errors import InputError, ModelError, PositionError, SiteError

BLOCKS = {
    "tiny-gpt2": "transformer.h",
    "tiny-llama": "model.layers",
    "tiny-neox": "gpt_neox.layers",
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
"""Float32 rounds sums of other shapes differently; in float64 that is about 1e-15."""


def prompts(n=6, width=11, seed=0):
    """Rows of different lengths, one of them twice."""
    ids = torch.randint(3, 300, (n, width), generator=torch.Generator().manual_seed(seed))
    ids[1, 8:] = -1
    ids[2, 6:] = -1
    ids[n - 1] = ids[0]
    return ids


def changed(cut, seed=1):
    noise = torch.Generator().manual_seed(seed)
    return cut.states + torch.randn(cut.states.shape, generator=noise, dtype=torch.float64).to(
        cut.states.dtype
    )


def by_hand(hf, path, ids, at, state):
    """One prompt through the plain model, with the block's output replaced at one token."""

    def replace(module, args, output):
        out = output[0] if isinstance(output, tuple) else output
        new = torch.cat([out[:, :at], state[None, None], out[:, at + 1 :]], dim=1)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    hook = hf.get_submodule(path).register_forward_hook(replace)
    try:
        return hf(ids[None]).logits[0, -1]
    finally:
        hook.remove()


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float32", "float64"])
@pytest.mark.parametrize("position", ["last", 3])
@pytest.mark.parametrize("name", BLOCKS)
def test_changed_states_give_what_a_hand_written_hook_gives(tiny_model, name, position, dtype):
    model, ids, close = tiny_model(name, dtype=dtype), prompts(), TOLERANCE[dtype]
    cut = LanguageSubject(model, "1.resid_post", position).cut(ids)
    states = changed(cut)
    ours = cut.finish(states, torch.arange(len(ids)))
    for row, found, clean in zip(range(len(ids)), ours, cut.clean(), strict=True):
        real = ids[row][ids[row] >= 0]
        at = len(real) - 1 if position == "last" else position
        judge = by_hand(model.hf, f"{BLOCKS[name]}.1", real, at, states[row])
        torch.testing.assert_close(found, judge, rtol=0, atol=close)
        torch.testing.assert_close(clean, model.hf(real[None]).logits[0, -1], rtol=0, atol=close)
        assert (found - clean).abs().max() > 1e-3


@pytest.mark.parametrize("component", STREAM)
@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama", "tiny-neox", "tiny-gemma3"])
def test_every_site_agrees_with_a_patch_and_with_the_exact_way(tiny_model, name, component):
    model, ids = tiny_model(name, dtype=torch.float64), prompts()
    site = f"1.{component}"
    if site not in model.sites:
        with pytest.raises(SiteError, match=f"^The model has no site '{site}'"):
            LanguageSubject(model, site)
        return
    for position in ("last", 2):
        cut = LanguageSubject(model, site, position).cut(ids)
        whole = LanguageSubject(model, site, position, exact=True).cut(ids)
        states, rows = changed(cut), torch.arange(len(ids))
        assert torch.equal(cut.states, whole.states)
        ours = cut.finish(states, rows)
        torch.testing.assert_close(ours, whole.finish(states, rows), rtol=0, atol=1e-9)
        for row in (0, 2):
            real = ids[row][ids[row] >= 0]
            at = len(real) - 1 if position == "last" else position
            source = torch.zeros(1, len(real), cut.d, dtype=torch.float64)
            source[0, at] = states[row]
            edit = interp.Patch(site, positions=at, source=source)
            judge = model.run(real.tolist(), edits=[edit], logits="last").logits[0]
            torch.testing.assert_close(ours[row], judge, rtol=0, atol=1e-9)


def test_a_subspace_swap_is_the_swap_edit(tiny_model):
    """An interchange at the last token, made by our map and by an edit of a whole run."""
    model, ids = tiny_model("tiny-llama", dtype=torch.float64), prompts()[[0, 3, 4]]
    cut = LanguageSubject(model, "1.resid_post").cut(ids)
    phi = Rotation(32, consecutive_blocks(["x"], 5), seed=3).double()
    base, source = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    states = phi.swap(cut.states[base], cut.states[source][:, None], torch.ones(3, 1).bool())
    given = model.run(ids[source], capture=["1.resid_post"]).acts["1.resid_post"]
    edit = interp.Swap(
        "1.resid_post", positions="last", source=given, basis=phi.subspace("x").detach()
    )
    judge = model.run(ids[base], edits=[edit], logits="last").logits
    ours = cut.finish(states.detach(), base)
    torch.testing.assert_close(ours, judge, rtol=0, atol=1e-9)
    assert (ours - cut.clean()).abs().max() > 1e-3


@pytest.mark.parametrize("position", ["last", 4])
def test_gradients_are_those_of_the_whole_run(tiny_model, position):
    model, ids = tiny_model("tiny-llama", dtype=torch.float64), prompts()
    cut = LanguageSubject(model, "0.resid_post", position).cut(ids)
    states, labels = changed(cut).requires_grad_(), torch.arange(len(ids))
    cross_entropy(cut.finish(states, torch.arange(len(ids))), labels, reduction="sum").backward()
    for row in range(len(ids)):
        real, own = ids[row][ids[row] >= 0], states[row].detach().clone().requires_grad_()
        at = len(real) - 1 if position == "last" else position
        logits = by_hand(model.hf, "model.layers.0", real, at, own)
        (grad,) = torch.autograd.grad(cross_entropy(logits, labels[row]), own)
        torch.testing.assert_close(states.grad[row], grad, rtol=1e-9, atol=1e-12)
        assert grad.norm() > 1e-4


def test_chunks_change_neither_losses_nor_gradients(tiny_model):
    """Memory for two or three states a pass, against all 24 in one (acceptance check 14)."""
    model, ids = tiny_model("tiny-gpt2", dtype=torch.float64), prompts()
    rows = torch.arange(24) % len(ids)
    found = {}
    for memory in (1e-4, 2.0):
        cut = LanguageSubject(model, "0.resid_post", memory_gib=memory).cut(ids)
        passes = []
        hook = model.hf.register_forward_hook(lambda *_, seen=passes: seen.append(1))
        states = changed(cut)[rows].requires_grad_()
        loss = cross_entropy(cut.finish(states, rows), rows)
        loss.backward()
        hook.remove()
        found[memory] = (loss.detach(), states.grad, len(passes), cut.chunk)
    (few, few_grad, many_passes, small), (whole, whole_grad, one_pass, large) = found.values()
    assert many_passes > 8 and small < 4
    assert one_pass == 1 and 24 <= large <= PAIRS
    torch.testing.assert_close(few, whole, rtol=0, atol=1e-9)
    torch.testing.assert_close(few_grad, whole_grad, rtol=1e-6, atol=1e-15)


def test_only_the_last_token_runs_and_only_the_layers_after_the_site(tiny_model):
    model, ids, seen = tiny_model("tiny-llama"), prompts(), []
    subject = LanguageSubject(model, "1.resid_post")

    def note(module, args, kwargs):
        seen.append((module.layer_idx, tuple(kwargs["hidden_states"].shape[:2])))

    hooks = [
        block.self_attn.register_forward_pre_hook(note, with_kwargs=True)
        for block in model.hf.model.layers
    ]
    try:
        cut = subject.cut(ids)
        assert seen == [(0, (5, 11)), (1, (5, 11)), (2, (5, 11))]  # six prompts, one of them twice
        seen.clear()
        cut.finish(cut.states, torch.arange(6))
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == [(2, (6, 1))]


def test_no_change_changes_no_bit_and_nothing_of_the_model(tiny_model):
    """Acceptance checks 1 and 15: the no-op is exact, and the frozen model stays as it was."""
    model, ids = tiny_model("tiny-neox"), prompts()
    before, weights = fingerprint(model.hf), [w.clone() for w in model.hf.parameters()]
    subject = LanguageSubject(model, "1.mlp_out")
    cut, rows = subject.cut(ids), torch.arange(6)
    own = cut.states[:, None]
    for phi in (Identity(32, {"x": range(16)}), Rotation(32, {"x": range(4)})):
        states = phi.swap(cut.states, own, torch.ones(6, 1).bool())
        out = cut.finish(states, rows)
        assert torch.equal(out, cut.clean())
    out.sum().backward()  # the rotation's own gradient
    assert all(weight.grad is None and weight.requires_grad for weight in subject.weights())
    assert fingerprint(model.hf) == before
    assert all(torch.equal(*pair) for pair in zip(subject.weights(), weights, strict=True))


def test_named_answers_are_columns_of_the_vocabulary(tiny_model):
    for name in ("tiny-gpt2", "tiny-gemma3"):
        model, ids, answers = tiny_model(name), prompts(), [7, 3, 200]
        full = LanguageSubject(model, "1.resid_post").cut(ids)
        some = LanguageSubject(model, "1.resid_post", answers=answers).cut(ids)
        torch.testing.assert_close(some.clean(), full.clean()[:, answers], rtol=0, atol=1e-5)
        assert some.clean().shape == (6, 3)


def test_smollm2_agrees_with_plain_hugging_face(smollm2):
    ids = smollm2.tokens(["After Anna and Bob met, Anna gave the book to"]).ids
    cut = LanguageSubject(smollm2, "15.resid_post").cut(ids.repeat(2, 1))
    state = cut.states[0] * 0.5
    with torch.no_grad():
        judge = by_hand(smollm2.hf, "model.layers.15", ids[0], ids.shape[1] - 1, state)
        plain = smollm2.hf(ids).logits[0, -1]
    ours = cut.finish(state[None], torch.tensor([1]))[0]
    torch.testing.assert_close(ours, judge, rtol=0, atol=1e-4)  # logits of about 20
    torch.testing.assert_close(cut.clean()[1], plain, rtol=0, atol=1e-4)
    assert (ours - plain).abs().max() > 0.1


def test_checkpoints_are_loaded_one_after_another(tmp_path):
    """Two revisions of a tiny GPT-NeoX as folders: each is aligned as it is."""
    from interp.models import tiny

    preset = PYTHIA["31m"]
    assert preset.site == "3.resid_post" and preset.revisions[0] == "step0"
    for seed, revision in enumerate(["step0", "step1000"]):
        tiny.build("tiny-neox", seed=seed).save_pretrained(tmp_path / revision)
    found = {}
    for revision, model in checkpoints(str(tmp_path), ["step1000", "step0"]):
        cut = LanguageSubject(model, "1.resid_post").cut(prompts())
        plain = tiny.build("tiny-neox", seed=int(revision == "step1000"))
        judge = plain(prompts()[:1]).logits[0, -1]
        torch.testing.assert_close(cut.clean()[0], judge, rtol=0, atol=1e-5)
        found[revision] = cut.clean()
    assert list(found) == ["step1000", "step0"]
    assert (found["step0"] - found["step1000"]).abs().max() > 0.1
    with pytest.raises(ModelError, match=r"has no revision 'step2'; there are: step0, step1000\.$"):
        next(checkpoints(str(tmp_path), ["step2"]))


# ---------------------------------------------------------------- a trained network


CHOICES = ("0.resid_post", "1.resid_post", "2.resid_post")
"""Sites of the network, of which the best on validation pairs is scored."""


class Found(NamedTuple):
    """A rotation of 16 dimensions on validation pairs, and on pairs of names it never saw."""

    validation: float
    unseen: Scores
    of_two: Scores
    neuron: Scores
    """One neuron in place of the rotation."""


def rotated(model, algorithm, site):
    task = IOI(load_trained().tokenizer)
    train, held, unseen = (
        task.table(algorithm, n, seed, split=split, width=20)
        for n, seed, split in [(1500, 0, "train"), (300, 1, "validation"), (500, 2, "unseen names")]
    )
    here, there, new = (LanguageSubject(model, site).cut(t.inputs) for t in (train, held, unseen))
    budget = Budget(steps=150, batch=128, learning_rate=1e-2, check_every=50)
    phi = Rotation(64, consecutive_blocks(train.variables, 16), seed=0)
    feed, some = fresh(train.pairs, budget.batch, 0), held.pairs(400, 1)
    phi = fit(here, phi, feed, budget, validation=(there, some)).map
    pairs, alone = unseen.pairs(500, 2), Identity(64, {train.variables[0]: [0]})
    return Found(
        score(there, phi, some).iia,
        score(new, phi, pairs),
        score_among(new, phi, pairs, task.candidates(unseen)),
        score(new, alone, pairs),
    )


def test_a_rotation_finds_the_answer_in_the_trained_network_and_not_in_its_twin():
    """The site is chosen by validation; names of the test stand in no sentence of the fitting."""
    tried = {site: rotated(load_trained(), "answer_name", site) for site in CHOICES}
    site = max(tried, key=lambda name: tried[name].validation)
    best, other = tried[site], rotated(twin(5), "answer_name", site)
    assert best.validation > 0.95 and best.unseen.iia > 0.7
    assert best.unseen.iia_of(best.unseen.pairs.sensitive) > 0.7
    assert best.neuron.iia < 0.2
    assert other.unseen.iia < 0.1


def test_a_rotation_does_not_find_the_pattern_that_the_network_does_without():
    """Its last token holds the answer, not the order of names: a base keeps its own answer."""
    found = rotated(load_trained(), "pattern", "1.resid_post")
    sensitive = found.unseen.pairs.sensitive
    assert found.unseen.iia_of(sensitive) < 0.2 and found.unseen.iia_of(~sensitive) > 0.5
    assert found.of_two.iia >= found.unseen.iia and found.of_two.iia < 0.65


def test_a_restricted_choice_is_made_among_the_candidates_alone(tiny_model):
    cut = LanguageSubject(tiny_model("tiny-gpt2"), "1.resid_post").cut(prompts())
    logits = cut.clean()
    two = torch.tensor([[5, 9]]).expand(6, -1)
    chosen = among(logits, two).argmax(1)
    assert torch.equal(chosen, torch.where(logits[:, 5] >= logits[:, 9], 5, 9))
    assert not torch.isin(logits.argmax(1), two).all()


# ---------------------------------------------------------------- what is refused


def test_what_is_refused_before_any_run(tiny_model, monkeypatch):
    model, ids = tiny_model("tiny-gpt2"), prompts()
    model.sites  # noqa: B018  the address book runs the model once
    cases = [
        ({"site": "1.attn.z"}, SiteError, r"^'1\.attn\.z' has no vector of d_model for each token"),
        ({"site": "9.resid_post"}, SiteError, r"site '9\.resid_post': its layers are 0 to 2\.$"),
        ({"position": -1}, PositionError, r"^position=-1: write 'last', or a token index"),
        ({"position": "first"}, PositionError, r"^position='first': write 'last'"),
        ({"answers": []}, InputError, r"^answers: name at least one token, and each once\.$"),
        ({"answers": [4, 4]}, InputError, r"^answers: name at least one token, and each once\.$"),
        ({"answers": [10**6]}, InputError, r"^answers: token 1000000 is not among the \d+ of"),
        ({"memory_gib": 0.0}, InputError, r"^memory_gib=0\.0: give more than 0\.$"),
    ]
    monkeypatch.setattr(type(model.hf), "forward", lambda *_, **__: pytest.fail("it ran"))
    for given, kind, text in cases:
        with pytest.raises(kind, match=text):
            LanguageSubject(model, **{"site": "1.resid_post", **given})
    with pytest.raises(PositionError, match=r"^position=7: a prompt has only 6 tokens, counted"):
        LanguageSubject(model, "1.resid_post", 7).cut(ids)
    with pytest.raises(PositionError, match=r"^Nothing behind 2\.resid_post@3 reads token 3 of a"):
        LanguageSubject(model, "2.resid_post", 3).cut(ids)
    inside = ids.clone()
    inside[0, 2] = -1
    with pytest.raises(InputError, match=r"has -1 before its end: pad prompts on the right only"):
        LanguageSubject(model, "1.resid_post").cut(inside)
    with pytest.raises(InputError, match=r"^A prompt has no token: leave empty prompts out\.$"):
        LanguageSubject(model, "1.resid_post").cut(torch.full((1, 3), -1))
    with pytest.raises(InputError, match=r"^5 prompts of 11 tokens need 0\.0 GiB of states, keys"):
        LanguageSubject(model, "1.resid_post", memory_gib=1e-9).cut(ids)


def test_another_engine_and_another_width_are_refused(tiny_model):
    with pytest.raises(ModelError, match=r"is behind the engine nnsight, and a part of a forward"):
        LanguageSubject(tiny_model("tiny-gpt2", "nnsight"), "1.resid_post")
    cut = LanguageSubject(tiny_model("tiny-gpt2"), "1.resid_post").cut(prompts())
    with pytest.raises(
        InputError, match=r"^States of shape \[2, 5\] at 1\.resid_post@last: it tak"
    ):
        cut.finish(torch.zeros(2, 5), torch.tensor([0, 1]))
    phi = Rotation(32, {"y": [0, 1]})
    with pytest.raises(InputError, match=r"^The map has blocks for y and the pairs interchange"):
        table = IOI(load_trained().tokenizer).table("pattern", 5, 0)
        swapped(cut, phi, table.pairs(3, 0))
