"""Every published checkpoint layout, written small, read back, and judged by plain Hugging Face."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from interp.latent.explicit import Explicit
from interp.latent.layout import Layout
from interp.latent.loading import Lora, load_checkpoint
from interp.latent.presets import COCONUT, PublishedCodi
from interp.latent.subject import roll_out
from interp.latent.subjects import Coconut, NoLatents, NoRecurrence, Pause
from interp.models import tiny
from tests.latent_checkpoints import (
    ALPHA,
    PROBLEMS,
    RANK,
    base_folder,
    codi_state,
    lora_pairs,
    plain_run,
    random_model,
    random_projection,
    save_safe,
    with_lora,
    write_coconut,
    write_folder,
)

# float32: sums in another order; logits here are of size 10.
NEAR = {"rtol": 1e-5, "atol": 1e-5}
V = len(tiny.tokenizer())
MARKERS = ("<|start-latent|>", "<|end-latent|>", "<|latent|>")


def assert_runs_as(subject, hf, *, start, end, newline, target, projection=None):
    """Latents and forced log-probabilities of a batch equal plain runs of single prompts."""
    tokenizer = tiny.tokenizer()
    rolled = roll_out(subject, subject.prefill(PROBLEMS))
    targets = [subject.target(problem.answer) for problem in PROBLEMS]
    with torch.no_grad():
        forced = subject.force(subject.close(rolled.states[-1]), targets)
    for row, problem in enumerate(PROBLEMS):
        asked = tokenizer(problem.question + newline).input_ids  # <bos> first, as it was trained
        told = target.replace("X", problem.answer)
        said = tokenizer(told, add_special_tokens=False).input_ids
        latents, logprobs = plain_run(
            hf,
            [*asked, start],
            [end],
            [*said, tokenizer.eos_token_id],
            n_steps=subject.n_steps,
            projection=projection,
        )
        for t in range(subject.n_steps):
            assert_close(rolled.node(t + 1).vectors[row, 0].detach(), latents[t], **NEAR)
        assert list(targets[row].ids) == [*said, tokenizer.eos_token_id]
        assert_close(forced.logprobs[row, : len(logprobs)], logprobs, **NEAR)


def as_coconut(subject, hf):
    assert_runs_as(subject, hf, start=V, end=V + 1, newline="\n", target="### X")


def as_codi(subject, hf, projection, *, start=V + 1, end=V + 2):
    assert_runs_as(
        subject,
        hf,
        start=start,
        end=end,
        newline="",
        target="The answer is: X",
        projection=projection,
    )


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama"])
def test_check_13_a_bare_state_dict_of_coconut(tmp_path, name):
    hf = random_model(name, added=3)
    folder = write_coconut(hf, tmp_path / "run")
    subject = load_checkpoint(
        folder, base=base_folder(tmp_path / "base", name), n_steps=4, allow_pickle=True
    )
    assert type(subject) is Coconut and subject.n_steps == 4
    assert subject.layout == replace(COCONUT, bos=True)
    as_coconut(subject, hf)


def test_one_checkpoint_of_several_is_named_by_its_file(tmp_path):
    base = base_folder(tmp_path / "base", "tiny-gpt2")
    old = random_model("tiny-gpt2", added=3, seed=8)
    write_coconut(old, tmp_path / "run", number=3)
    write_coconut(random_model("tiny-gpt2", added=3), tmp_path / "run", number=7)
    file = tmp_path / "run" / "checkpoint_3"
    as_coconut(load_checkpoint(file, base=base, n_steps=2, allow_pickle=True), old)


@pytest.mark.parametrize(
    ("kind", "cls"),
    [("no_recurrence", NoRecurrence), ("no_latents", NoLatents), ("pause", Pause)],
)
def test_the_controls_of_a_coconut_study_come_in_its_layout(tmp_path, kind, cls):
    hf = random_model("tiny-gpt2", added=3)
    folder = write_coconut(hf, tmp_path / "run")
    base = base_folder(tmp_path / "base", "tiny-gpt2")
    subject = load_checkpoint(folder, base=base, kind=kind, n_steps=2, allow_pickle=True)
    assert type(subject) is cls and subject.n_steps == (0 if kind == "no_latents" else 2)
    fed = subject.prefill(PROBLEMS).node.vectors[:, 0]
    pause = hf.get_input_embeddings().weight[V + 2].expand_as(fed)
    assert torch.equal(fed, pause) == (kind == "pause")


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama"])
def test_check_13_codi_with_lora_merged_and_apart(tmp_path, name, merge):
    hf, projection = random_model(name, added=3), random_projection()
    pairs = lora_pairs(hf, name)
    save_safe(codi_state(hf, projection, pairs), tmp_path / "codi" / "model.safetensors")
    subject = load_checkpoint(
        tmp_path / "codi",
        base=base_folder(tmp_path / "base", name),
        n_steps=3,
        lora_alpha=ALPHA,
        merge=merge,
        dtype=torch.float64,
    )
    assert type(subject) is PublishedCodi
    assert any(isinstance(m, Lora) for m in subject.hf.modules()) != merge
    hf.double()
    with_lora(hf, pairs, ALPHA / RANK)
    as_codi(subject, hf, projection.double())


def test_check_13_merged_and_apart_agree_and_lora_matters(tmp_path):
    hf, projection = random_model("tiny-gpt2", added=3), random_projection()
    pairs = lora_pairs(hf, "tiny-gpt2")
    save_safe(codi_state(hf, projection, pairs), tmp_path / "codi" / "model.safetensors")
    base = base_folder(tmp_path / "base", "tiny-gpt2")
    logits = []
    for alpha, merge in ((ALPHA, True), (ALPHA, False), (0.0, True)):
        loaded = load_checkpoint(tmp_path / "codi", base=base, lora_alpha=alpha, merge=merge)
        with torch.no_grad():
            logits.append(loaded.hf(torch.arange(9)[None]).logits)
    assert_close(logits[0], logits[1], **NEAR)
    assert (logits[0] - logits[2]).abs().max() > 0.1
    with torch.no_grad():  # alpha 0 is the base layers alone
        assert torch.equal(logits[2], hf(torch.arange(9)[None]).logits)


def test_codi_as_one_pickle_in_half_precision(tmp_path):
    hf, projection = random_model("tiny-gpt2", added=3), random_projection()
    state = codi_state(hf, projection, {})
    (tmp_path / "codi").mkdir()
    half = {key: tensor.to(torch.bfloat16) for key, tensor in state.items()}
    torch.save(half, tmp_path / "codi" / "pytorch_model.bin")
    base = base_folder(tmp_path / "base", "tiny-gpt2")
    subject = load_checkpoint(tmp_path / "codi", base=base, n_steps=2, allow_pickle=True)
    as_codi(subject, hf.bfloat16().float(), projection.bfloat16().float())


def test_sim_cot_sets_its_decoder_aside(tmp_path):
    hf, projection = random_model("tiny-gpt2", added=3), random_projection()
    decoder = {f"decoder.{key}": tensor for key, tensor in hf.state_dict().items()}
    state = codi_state(hf, projection, {}) | decoder
    folder = save_safe(state, tmp_path / "sim" / "model-00001-of-00001.safetensors")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    base = base_folder(tmp_path / "base", "tiny-gpt2")
    as_codi(load_checkpoint(folder, base=base, n_steps=2), hf, projection)


def test_sim_cots_coconut_sets_its_explainer_aside(tmp_path):
    hf = random_model("tiny-gpt2", added=3)
    folder = write_coconut(hf, tmp_path / "sim")
    held = torch.load(folder / "checkpoint_7", weights_only=True)
    other = random_model("tiny-gpt2", added=0, seed=9).state_dict()
    held |= {f"expainable_llm.{key}": tensor for key, tensor in other.items()}
    torch.save(held, folder / "checkpoint_7")
    base = base_folder(tmp_path / "base", "tiny-gpt2")
    as_coconut(load_checkpoint(folder, base=base, n_steps=2, allow_pickle=True), hf)


def test_two_shards_are_one_model_with_and_without_an_index(tmp_path):
    hf, projection = random_model("tiny-gpt2", added=3), random_projection()
    whole = sorted(codi_state(hf, projection, {}).items())
    for i, part in enumerate((whole[:9], whole[9:]), start=1):
        save_safe(dict(part), tmp_path / "codi" / f"model-0000{i}-of-00002.safetensors")
    base = base_folder(tmp_path / "base", "tiny-gpt2")
    as_codi(load_checkpoint(tmp_path / "codi", base=base, n_steps=2), hf, projection)
    index = '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "rest.safetensors"}}'
    (tmp_path / "codi" / "model-00002-of-00002.safetensors").rename(
        tmp_path / "codi" / "rest.safetensors"
    )
    (tmp_path / "codi" / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    as_codi(load_checkpoint(tmp_path / "codi", base=base, n_steps=2), hf, projection)


def test_a_folder_of_coconut_has_a_line_end_before_its_start_marker(tmp_path):
    hf = random_model("tiny-gpt2", added=3)
    folder = write_folder(hf, tmp_path / "tts", MARKERS)
    subject = load_checkpoint(folder, n_steps=3)
    assert type(subject) is Coconut
    as_coconut(subject, hf)
    without = load_checkpoint(
        folder, n_steps=3, layout=Layout(prompt="{question}<|start-latent|>", bos=True)
    )
    fed = subject.prefill(PROBLEMS).node.vectors
    assert (fed - without.prefill(PROBLEMS).node.vectors).abs().max() > 0.1


def test_a_folder_of_codi_with_its_own_markers(tmp_path):
    hf, projection = random_model("tiny-gpt2", added=3), random_projection()
    folder = write_folder(hf, tmp_path / "tts", ("[PAD]", "<|bot|>", "<|eot|>"), projection)
    as_codi(load_checkpoint(folder, n_steps=3), hf, projection)


def test_check_13_the_two_readings_of_codis_rows_under_coconuts_names(tmp_path):
    """Names start, end, latent over the rows pad, bot, eot; and a converter that moved the rows."""
    hf, projection = random_model("tiny-gpt2", added=3), random_projection()
    folder = write_folder(hf, tmp_path / "tts", MARKERS, projection)
    renamed = load_checkpoint(folder, n_steps=3, rows="pad-bot-eot")
    as_codi(renamed, hf, projection)
    moved = load_checkpoint(folder, n_steps=3, rows="as-named")
    as_codi(moved, hf, projection, start=V, end=V + 1)
    fed = renamed.prefill(PROBLEMS).node.vectors
    assert (fed - moved.prefill(PROBLEMS).node.vectors).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["explicit", "no_latents"])
def test_a_stage_0_model_has_neither_prefix_nor_markers(tmp_path, kind):
    hf = random_model("tiny-gpt2", added=0)
    (tmp_path / "cot").mkdir()
    torch.save(hf.state_dict(), tmp_path / "cot" / "checkpoint_22")
    base = base_folder(tmp_path / "base", "tiny-gpt2")
    subject = load_checkpoint(tmp_path / "cot", base=base, kind=kind, n_steps=2, allow_pickle=True)
    assert type(subject) is {"explicit": Explicit, "no_latents": NoLatents}[kind]
    tokenizer = tiny.tokenizer()
    targets = [subject.target(problem.answer) for problem in PROBLEMS]
    with torch.no_grad():
        forced = subject.force(subject.close(subject.prefill(PROBLEMS)), targets)
    for row, problem in enumerate(PROBLEMS):
        ids = tokenizer(f"{problem.question}\n### {problem.answer}").input_ids
        with torch.no_grad():
            logits = hf(torch.tensor([ids])).logits[0]
        n = len(targets[row].ids) - 1  # all but the end of text
        expected = torch.log_softmax(logits[-n - 1 : -1], -1)
        assert list(targets[row].ids[:n]) == ids[-n:]
        assert_close(forced.logprobs[row, :n], expected, **NEAR)


def test_official_mask_is_what_codis_evaluation_computes(tmp_path):
    """Judge: one batch with the mask in the prompt's pass only, as the public code runs it."""
    hf, projection = random_model("tiny-gpt2", added=3), random_projection()
    save_safe(codi_state(hf, projection, {}), tmp_path / "codi" / "model.safetensors")
    base = base_folder(tmp_path / "base", "tiny-gpt2")
    ours = load_checkpoint(tmp_path / "codi", base=base, n_steps=3, official_mask=True)
    plain = load_checkpoint(tmp_path / "codi", base=base, n_steps=3)
    tokenizer = tiny.tokenizer()
    prompts = [[*tokenizer(p.question).input_ids, V + 1] for p in PROBLEMS]
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id  # the base's own, where it has one
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    with torch.no_grad():
        out = hf(ids, attention_mask=mask, output_hidden_states=True, use_cache=True)
        fed = [projection(out.hidden_states[-1][:, -1:])]
        for _ in range(3):
            out = hf(
                inputs_embeds=fed[-1],
                past_key_values=out.past_key_values,
                output_hidden_states=True,
                use_cache=True,
            )
            fed.append(projection(out.hidden_states[-1][:, -1:]))
        eot = hf.get_input_embeddings()(torch.full((len(ids), 1), V + 2))
        last = hf(inputs_embeds=eot, past_key_values=out.past_key_values).logits[:, -1]
    rolled = roll_out(ours, ours.prefill(PROBLEMS))
    for t in range(3):
        assert_close(rolled.node(t + 1).vectors.detach(), fed[t], **NEAR)
    with torch.no_grad():
        closed = ours.close(rolled.states[-1])
        assert_close(ours.head(closed.hidden), torch.log_softmax(last, -1), **NEAR)
    masked = roll_out(plain, plain.prefill(PROBLEMS))
    change = (masked.node(2).vectors - rolled.node(2).vectors).abs().amax(dim=(1, 2))
    unpadded = [i for i, row in enumerate(prompts) if len(row) == width]
    assert all(bool(change[i] < 1e-5) == (i in unpadded) for i in range(len(prompts)))


def test_without_the_official_mask_a_row_does_not_depend_on_its_batch(tmp_path):
    hf, projection = random_model("tiny-gpt2", added=3), random_projection()
    save_safe(codi_state(hf, projection, {}), tmp_path / "codi" / "model.safetensors")
    base = base_folder(tmp_path / "base", "tiny-gpt2")
    for official in (False, True):
        subject = load_checkpoint(tmp_path / "codi", base=base, official_mask=official)
        batch = roll_out(subject, subject.prefill(PROBLEMS)).node(3).vectors[1]
        alone = roll_out(subject, subject.prefill(PROBLEMS[1:2])).node(3).vectors[0]
        assert bool((batch - alone).abs().max() < 1e-5) != official


def test_codi_never_writes_the_last_id(tmp_path):
    """Judge: greedy decoding by whole passes, with the last id left out of the choice."""
    hf, projection = random_model("tiny-llama", added=3), random_projection()
    base, folder = base_folder(tmp_path / "base", "tiny-llama"), tmp_path / "codi"
    for _ in range(2):  # once to see what the head reads, once with an eot that it would choose
        save_safe(codi_state(hf, projection, {}), folder / "model.safetensors")
        subject = load_checkpoint(folder, base=base, n_steps=2)
        closed = subject.close(roll_out(subject, subject.prefill(PROBLEMS)).states[-1])
        with torch.no_grad():
            hf.lm_head.weight[-1] = closed.hidden[0]
    text = subject.decode(closed, 6)
    tokenizer = tiny.tokenizer()
    barred = 0
    for row, problem in enumerate(PROBLEMS):
        said: list[int] = []
        prompt = [*tokenizer(problem.question).input_ids, V + 1]
        for _ in range(6):
            _, logprobs = plain_run(
                hf, prompt, [V + 2], [*said, 0], n_steps=2, projection=projection
            )
            barred += int(logprobs[-1].argmax() == V + 2)
            said.append(int(logprobs[-1, :-1].argmax()))
            if said[-1] == tokenizer.eos_token_id:
                break
        assert text[row] == subject.tokenizer.decode(said, skip_special_tokens=True)
    assert barred > 0  # else the test shows nothing


def test_safetensors_come_first_and_a_pickle_beside_them_is_not_read(tmp_path):
    hf = random_model("tiny-gpt2", added=3)
    folder = write_folder(hf, tmp_path / "both", MARKERS)
    torch.save({"nonsense": torch.zeros(2)}, folder / "pytorch_model.bin")
    as_coconut(load_checkpoint(folder, n_steps=2), hf)


def test_constants_of_older_libraries_are_set_aside(tmp_path):
    hf = random_model("tiny-gpt2", added=3)
    folder = write_folder(hf, tmp_path / "old", MARKERS)
    state = {k: v.clone().contiguous() for k, v in hf.state_dict().items()}
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(state, folder / "model.safetensors")
    as_coconut(load_checkpoint(folder, n_steps=2), hf)


def test_loading_leaves_the_checkpoint_and_the_seed_alone(tmp_path):
    hf = random_model("tiny-gpt2", added=3)
    folder = write_folder(hf, tmp_path / "a", MARKERS)
    before = (folder / "model.safetensors").read_bytes()
    first, second = (load_checkpoint(folder, n_steps=2) for _ in range(2))
    assert (folder / "model.safetensors").read_bytes() == before
    for a, b in zip(first.hf.parameters(), second.hf.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not first.hf.training
    read_by_hf = AutoModelForCausalLM.from_pretrained(folder)
    for key, tensor in read_by_hf.state_dict().items():
        assert torch.equal(tensor, first.hf.state_dict()[key]), key
