"""Loading latent reasoners: sums by hand, presets, and what each wrong checkpoint says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from interp.data.latent_problems import LatentProblem
from interp.errors import InputError, ModelError
from interp.latent import loading
from interp.latent.loading import Lora, load_checkpoint, local
from interp.latent.loading_formats import is_pickle, read_checkpoint, sort_keys
from interp.latent.presets import CODI, PRESETS, PublishedCodi, preset
from interp.models import tiny
from tests.latent_checkpoints import (
    PROBLEMS,
    RANK,
    base_folder,
    codi_state,
    lora_pairs,
    random_model,
    random_projection,
    save_safe,
    write_adapter_config,
    write_coconut,
    write_folder,
)

V = len(tiny.tokenizer())
MARKERS = ("<|start-latent|>", "<|end-latent|>", "<|latent|>")
NAME = "tiny-gpt2"


def refused(message: str, error: type[Exception] = ModelError):
    """The whole message, word for word."""
    return pytest.raises(error, match=rf"^{re.escape(message)}$")


@pytest.fixture
def base(tmp_path) -> Path:
    return base_folder(tmp_path / "base", NAME)


def codi_file(tmp_path: Path, *, lora: bool = False, **changed: Tensor | None) -> Path:
    """A CODI checkpoint in which the keys given are replaced, added, or left out (None)."""
    hf = random_model(NAME, added=3)
    state = codi_state(hf, random_projection(), lora_pairs(hf, NAME) if lora else {})
    for key, tensor in changed.items():
        state.pop(key, None)
        if tensor is not None:
            state[key] = tensor
    return save_safe(state, tmp_path / "codi" / "model.safetensors")


# ---- by hand ----


@pytest.mark.parametrize("merge", [True, False])
def test_the_change_of_a_square_conv1d_is_transposed(merge):
    """B A = [1; 2] [3, 4] = [[3, 4], [6, 8]], times 2; on x = (1, 0) B A x = (3, 6)."""

    class Holder(torch.nn.Module):
        dtype = torch.float32

        def __init__(self):
            super().__init__()
            self.conv, self.linear = Conv1D(2, 2), torch.nn.Linear(2, 2, bias=False)

    holder = Holder()
    pair = (torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [2.0]]))
    for layer in (holder.conv, holder.linear):
        torch.nn.init.zeros_(layer.weight)
    for name in ("conv", "linear"):
        loading._put(holder, name, pair, 2.0, merge=merge)
    x = torch.tensor([1.0, 0.0])
    assert torch.equal(holder.conv(x[None])[0].detach(), torch.tensor([6.0, 12.0]))
    assert torch.equal(holder.linear(x).detach(), torch.tensor([6.0, 12.0]))
    if merge:
        assert torch.equal(holder.linear.weight.detach(), torch.tensor([[6.0, 8.0], [12.0, 16.0]]))
        assert torch.equal(holder.conv.weight.detach(), torch.tensor([[6.0, 12.0], [8.0, 16.0]]))


def test_a_pair_of_zeros_changes_nothing_at_all():
    layer = torch.nn.Linear(3, 2)
    x = torch.randn(5, 3)
    apart = Lora(layer, (torch.ones(1, 3), torch.zeros(2, 1)), 7.0)
    assert torch.equal(apart(x), layer(x))


@pytest.mark.parametrize(
    ("settings", "scale"),
    [({"r": RANK, "lora_alpha": 32}, 8.0), ({"lora_alpha": 2, "use_rslora": True}, 1.0)],
)
def test_the_scale_is_alpha_over_r_of_the_adapter_config(tmp_path, base, settings, scale):
    """r = 4: 32 / 4, and with rank-stabilised LoRA 2 / sqrt(4)."""
    folder = codi_file(tmp_path, lora=True)
    write_adapter_config(folder, **settings)
    subject = load_checkpoint(folder, base=base, merge=False)
    assert {m.scale for m in subject.hf.modules() if isinstance(m, Lora)} == {scale}


def test_weights_are_counted_with_a_tied_head_once():
    table = torch.arange(6.0).reshape(3, 2)
    keys = {
        "codi.base_model.model.transformer.wte.weight": table,
        "codi.base_model.model.lm_head.weight": table.clone(),
        "codi.base_model.model.h.0.c.base_layer.weight": torch.ones(2, 4),
        "codi.base_model.model.h.0.c.lora_A.default.weight": torch.ones(1, 2),
        "codi.base_model.model.h.0.c.lora_B.default.weight": torch.ones(4, 1),
        "prj.1.weight": torch.ones(2, 2),
        "decoder.wte.weight": torch.ones(9, 9),
    }
    found = sort_keys(keys, Path("x"))
    assert (found.form, found.rank, found.dropped) == ("codi", 1, ("decoder.wte.weight",))
    assert found.n_weights == 6 + 8 + 2 + 4 + 4
    untied = keys | {"codi.base_model.model.lm_head.weight": table + 1}
    assert sort_keys(untied, Path("x")).n_weights == found.n_weights + 6


@pytest.mark.parametrize(
    ("key", "form", "plain"),
    [
        ("base_causallm.transformer.wte.weight", "coconut", "transformer.wte.weight"),
        ("codi.base_model.model.model.norm.weight", "codi", "model.norm.weight"),
        ("codi.transformer.wte.weight", "codi", "transformer.wte.weight"),  # without LoRA
        ("transformer.wte.weight", "plain", "transformer.wte.weight"),
    ],
)
def test_the_form_is_told_by_the_keys(key, form, plain):
    found = sort_keys({key: torch.zeros(1)}, Path("x"))
    assert found.form == form and list(found.weights) == [plain]


def test_the_published_sizes_add_up():
    """GPT-2 with 50,260 rows, LoRA of r 128 on four layers a block, a projection of width 768."""
    d, block = 768, 128 * ((768 + 2304) + (768 + 768) + (768 + 3072) + (3072 + 768))
    base = 50_260 * d + 1024 * d + 12 * (12 * d * d + 13 * d) + 2 * d
    projection = 2 * (d * d + d) + 2 * d
    assert (base, 12 * block, projection) == (124_442_112, 18_874_368, 1_182_720)
    assert base + 12 * block + projection == 144_499_200


# ---- presets ----


def test_presets_are_the_published_recipes():
    assert {name: (p.kind, p.n_steps, p.layout.bos) for name, p in PRESETS.items()} == {
        "coconut-gsm8k": ("coconut", 6, False),
        "coconut-prosqa": ("coconut", 6, False),
        "coconut-prontoqa": ("coconut", 6, False),
        "codi-gpt2": ("codi", 6, False),
        "codi-llama": ("codi", 6, True),
    }
    coconut = preset("coconut-gsm8k").layout
    assert coconut.prompt == "{question}\n<|start-latent|>" and coconut.close == "<|end-latent|>"
    assert coconut.target == "### {answer}" and coconut.eos
    assert coconut.read("no # here ### 1,319") == "1319"
    with refused(
        "There is no preset 'codi-gpt'; there are coconut-gsm8k, coconut-prosqa, "
        "coconut-prontoqa, codi-gpt2, codi-llama. Did you mean 'codi-gpt2'?",
        InputError,
    ):
        preset("codi-gpt")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is: 18", "18"),
        ("The answer is: 12.5.", "12.5"),
        ("3 of 4 make -1,000", "-1000"),
        ("none", None),
    ],
)
def test_codi_answers_with_the_last_number(text, answer):
    assert CODI.read(text) == answer


def test_codi_asks_the_bare_question_with_single_spaces(tmp_path, base):
    subject = load_checkpoint(codi_file(tmp_path), base=base)
    problem = LatentProblem("x", "  The  sum   is 1 ", (), "1")
    ids = subject.layout.prompt_ids(subject.tokenizer, problem)
    assert ids == [*tiny.tokenizer()("The sum is 1").input_ids, V + 1]
    assert subject.close_ids == [V + 2]
    assert subject.tokenizer.decode(subject.target("7").ids) == "The answer is: 7<eos>"
    assert subject.read("The answer is: 7") == "7"


def test_official_mask_needs_the_pad():
    with refused("official_mask shows the model its pads: name their token in pad_id.", InputError):
        PublishedCodi(
            random_model(NAME, added=3),
            tiny.tokenizer(),
            n_steps=1,
            layout=replace(CODI, prompt="{question}", close="#"),
            name="x",
            projection=random_projection(),
            official_mask=True,
        )


def test_the_official_mask_still_minds_the_context(tmp_path, base):
    subject = load_checkpoint(codi_file(tmp_path), base=base, official_mask=True)
    long = replace(PROBLEMS[0], id="long", question="1 " * 300)
    with pytest.raises(InputError, match=r"'long' takes \d+ tokens with .* codi reads 512"):
        subject.prefill([PROBLEMS[1], long])
    with refused("There is no problem to run: give at least one.", InputError):
        subject.prefill([])


# ---- pickles ----


def test_a_pickle_is_refused_with_the_flag_and_the_reason(tmp_path, base):
    folder = write_coconut(random_model(NAME, added=3), tmp_path / "run")
    with refused(
        f"{folder}/checkpoint_7 is a pickle, which can run code as it is read, so it is refused "
        "unless allow_pickle=True; even then only its tensors are taken (weights_only)."
    ):
        load_checkpoint(folder, base=base)


def test_a_pickle_is_known_by_its_bytes_not_by_its_name(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    save_safe({"transformer.a": torch.ones(1)}, tmp_path / "checkpoint_3")
    assert is_pickle(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="is a pickle"):
        read_checkpoint(tmp_path / "model.safetensors")
    found = read_checkpoint(tmp_path / "checkpoint_3")  # safetensors under a bare name
    assert torch.equal(found.weights["transformer.a"], torch.ones(1))


def test_a_pickle_with_more_than_tensors_runs_nothing(tmp_path):
    touched = tmp_path / "touched"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (touched,)

    torch.save({"a": Bomb()}, tmp_path / "checkpoint_1")
    with pytest.raises(ModelError, match="checkpoint_1 cannot be read with weights only: "):
        read_checkpoint(tmp_path, allow_pickle=True)
    assert not touched.exists()


def test_a_nested_state_dict_is_refused(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}, "epoch": 3}, tmp_path / "checkpoint_1")
    with refused(
        f"{tmp_path}/checkpoint_1 is no bare state dict of names and tensors (it holds model, "
        "epoch): save model.state_dict() alone."
    ):
        read_checkpoint(tmp_path, allow_pickle=True)


# ---- files ----


def test_a_folder_without_weights(tmp_path, base):
    with refused(
        f"{base} holds no weights: neither *.safetensors nor *.bin, *.pt, *.pth, checkpoint_* "
        "lies in it."
    ):
        load_checkpoint(base)


def test_several_epochs_are_not_chosen_from(tmp_path, base):
    for number in (3, 12):
        write_coconut(random_model(NAME, added=3), tmp_path / "run", number=number)
    with refused(
        f"{tmp_path}/run holds 2 weight files (checkpoint_12, checkpoint_3): name the one to load."
    ):
        load_checkpoint(tmp_path / "run", base=base, allow_pickle=True)


def test_a_shard_that_is_not_there(tmp_path):
    save_safe({"a": torch.zeros(1)}, tmp_path / "model-00002-of-00003.safetensors")
    with refused(
        f"{tmp_path} lacks model-00001-of-00003.safetensors, model-00003-of-00003.safetensors of "
        "its 3 shards: fetch all."
    ):
        read_checkpoint(tmp_path)


def test_a_damaged_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"not a header at all")
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read as safetensors: "):
        read_checkpoint(tmp_path)


def test_a_name_twice_in_two_shards(tmp_path):
    for i in (1, 2):
        save_safe({"a": torch.zeros(1)}, tmp_path / f"model-0000{i}-of-00002.safetensors")
    with refused(
        f"{tmp_path}/model-00002-of-00002.safetensors holds a that another file of {tmp_path} "
        "holds too."
    ):
        read_checkpoint(tmp_path)


# ---- keys ----


def test_missing_and_unexpected_keys_are_named_and_counted(tmp_path, base):
    model = "codi.base_model.model.transformer"
    folder = codi_file(
        tmp_path, **{f"{model}.h.0.ln_1.weight": None, f"{model}.h.9.x": torch.zeros(2)}
    )
    with refused(
        f"{folder}, read as codi, does not hold the model exactly: 1 missing (first: "
        "transformer.h.0.ln_1.weight) and 1 unexpected (first: transformer.h.9.x). Give the base "
        "that it was trained from, or a whole file."
    ):
        load_checkpoint(folder, base=base)


def test_a_projection_without_its_norm(tmp_path, base):
    folder = codi_file(tmp_path, **{"prj.ln.weight": None, "prj.ln.bias": None})
    with refused(
        f"{folder}, read as codi, does not hold CODI's projection exactly: 2 missing (first: "
        "prj.ln.weight, prj.ln.bias). Give the base that it was trained from, or a whole file."
    ):
        load_checkpoint(folder, base=base)


def test_a_shape_that_does_not_fit_names_its_tensor(tmp_path, base):
    key = "codi.base_model.model.transformer.ln_f.weight"
    folder = codi_file(tmp_path, **{key: torch.zeros(31)})
    with refused(
        f"{folder}: transformer.ln_f.weight has shape [31] and the model needs [32]: give the base "
        "that it was trained from."
    ):
        load_checkpoint(folder, base=base)


def test_a_projection_of_another_width_names_its_tensor(tmp_path, base):
    folder = codi_file(tmp_path, **{"prj.3.weight": torch.zeros(24, 32)})
    with pytest.raises(ModelError, match=r"prj\.down\.weight has shape \[24, 32\]"):
        load_checkpoint(folder, base=base)


def test_rows_that_are_not_the_bases_and_three(tmp_path):
    folder = codi_file(tmp_path)
    base = base_folder(tmp_path / "other", NAME, n_less=10)
    with refused(
        f"{folder} has {V + 3} rows of embeddings; the base's {V - 10} and 3 added tokens make "
        f"{V - 7}. Give the base that it was trained from."
    ):
        load_checkpoint(folder, base=base)


def test_a_coconut_whose_embeddings_were_not_resized(tmp_path, base):
    folder = write_coconut(random_model(NAME, added=0), tmp_path / "run")
    with refused(
        f"{folder} has {V} rows of embeddings; the base's {V} and 3 added tokens make {V + 3}. "
        "Give the base that it was trained from."
    ):
        load_checkpoint(folder, base=base, allow_pickle=True)


def test_a_tied_head_that_differs(tmp_path, base):
    key = "codi.base_model.model.lm_head.weight"
    folder = codi_file(tmp_path, **{key: torch.zeros(V + 3, 32)})
    with refused(
        f"{folder} holds two different matrices as transformer.wte.weight and lm_head.weight, "
        "which the configuration ties: set tie_word_embeddings to false in the base's config.json."
    ):
        load_checkpoint(folder, base=base)


def test_keys_of_two_methods():
    keys = {"base_causallm.a": torch.zeros(1), "codi.b": torch.zeros(1)}
    with refused(
        "x holds keys of Coconut (base_causallm.*) and of CODI (codi.*), so it is neither: save "
        "one model alone."
    ):
        sort_keys(keys, Path("x"))


# ---- LoRA ----


def test_a_scale_is_not_guessed(tmp_path, base):
    folder = codi_file(tmp_path, lora=True)
    with refused(
        f"{folder} has LoRA weights of rank 4 and says nothing of their scale, alpha / r: give "
        "lora_alpha (CODI's published runs have alpha 32 at r 128), or put adapter_config.json "
        "beside the weights.",
        InputError,
    ):
        load_checkpoint(folder, base=base)
    write_adapter_config(folder, r=8, lora_alpha=32)
    with refused(
        f"{folder}: adapter_config.json says r 8, and the weights have rank 4: they are of two "
        "runs."
    ):
        load_checkpoint(folder, base=base)


def test_half_a_pair_two_adapters_and_a_pair_for_no_layer(tmp_path, base):
    inside = "codi.base_model.model.transformer.h.0"
    a, b = torch.zeros(1, 32), torch.zeros(64, 1)
    with refused("x holds half of the LoRA pair of transformer.h.0.c: load both."):
        sort_keys({f"{inside}.c.lora_A.default.weight": a}, Path("x"))
    with refused("x holds 2 LoRA adapters (a, b): save the one to be studied alone."):
        sort_keys({f"{inside}.c.lora_{s}.weight": a for s in ("A.a", "B.b")}, Path("x"))
    folder = codi_file(
        tmp_path,
        **{f"{inside}.c.lora_A.default.weight": a, f"{inside}.c.lora_B.default.weight": b},
    )
    with pytest.raises(ModelError, match=r"1 unexpected \(first: transformer\.h\.0\.c\.lora_A\)"):
        load_checkpoint(folder, base=base, lora_alpha=1.0)


def test_a_pair_that_does_not_fit_its_layer(tmp_path, base):
    layer = "codi.base_model.model.transformer.h.0.attn.c_proj"
    wrong = {f"{layer}.lora_B.default.weight": torch.zeros(33, RANK)}
    with pytest.raises(ModelError, match=r"c_proj\.lora_B @ lora_A has shape \[33, 32\]"):
        load_checkpoint(codi_file(tmp_path, lora=True, **wrong), base=base, lora_alpha=1.0)
    wrong = {f"{layer}.lora_B.default.weight": torch.zeros(32, RANK + 1)}
    with pytest.raises(ModelError, match=r"c_proj\.lora_B has shape \[32, 5\] .* needs \[32, 4\]"):
        load_checkpoint(codi_file(tmp_path, lora=True, **wrong), base=base, lora_alpha=1.0)


# ---- tokens, kinds, places ----


def test_the_order_trap_is_not_walked_into(tmp_path):
    folder = write_folder(
        random_model(NAME, added=3), tmp_path / "tts", MARKERS, random_projection()
    )
    with refused(
        f"{folder} is CODI, whose rows {V} to {V + 2} are pad, bot, eot, and its tokenizer says "
        f"<|start-latent|> at {V}, <|end-latent|> at {V + 1}, <|latent|> at {V + 2}; read so, the "
        "start marker would be pad and the end marker bot. Give rows='pad-bot-eot' if only the "
        "names changed, or rows='as-named' if the rows were moved with them.",
        InputError,
    ):
        load_checkpoint(folder)


def test_codis_own_names_in_another_order(tmp_path):
    tokens = ("<|bot|>", "<|eot|>", "[PAD]")
    folder = write_folder(
        random_model(NAME, added=3), tmp_path / "tts", tokens, random_projection()
    )
    with refused(
        f"{folder}: the tokenizer puts [PAD], <|bot|>, <|eot|> at [{V + 2}, {V}, {V + 1}], and "
        f"their rows are {V} to {V + 2}. Give the base's own tokenizer, without them."
    ):
        load_checkpoint(folder)


def test_a_marker_beyond_the_embeddings(tmp_path):
    folder = write_folder(random_model(NAME, added=3), tmp_path / "tts", ("<more>", *MARKERS))
    with refused(
        f"{folder} has {V + 3} rows of embeddings and the tokenizer puts a marker at {V + 3}: give "
        "the tokenizer that it was trained with."
    ):
        load_checkpoint(folder)


def test_codi_on_a_vocabulary_wider_than_its_tokenizer(tmp_path):
    """Rows follow the configuration's size; ids between the tokenizer's end and it are filled."""
    hf, projection = random_model(NAME, added=13), random_projection()
    folder = save_safe(codi_state(hf, projection, {}), tmp_path / "codi" / "model.safetensors")
    base = base_folder(tmp_path / "base", NAME, n_less=-10)
    subject = load_checkpoint(folder, base=base)
    ids = subject.tokenizer.convert_tokens_to_ids(["[PAD]", "<|bot|>", "<|eot|>"])
    assert ids == [V + 10, V + 11, V + 12] and len(subject.tokenizer) == V + 13


@pytest.mark.parametrize("text", [None, "{}", ""])
def test_a_checkpoint_without_a_configuration_asks_for_its_base(tmp_path, text):
    folder = codi_file(tmp_path)
    if text is not None:
        (folder / "config.json").write_text(text, encoding="utf-8")
    what = "no config.json" if text is None else "an empty config.json"
    with refused(
        f"{folder} has {what}, so nothing says what model this is: give base=, the folder of the "
        "model that it was trained from.",
        InputError,
    ):
        load_checkpoint(folder)


def test_a_base_without_a_tokenizer_or_with_a_strange_configuration(tmp_path):
    folder = codi_file(tmp_path)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps({"model_type": "gpt2"}), encoding="utf-8")
    with refused(f"{bare} has no tokenizer: give base=, a folder that has one.", InputError):
        load_checkpoint(folder, base=bare)
    strange = base_folder(tmp_path / "strange", NAME)
    (strange / "config.json").write_text(json.dumps({"model_type": "codi"}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"strange cannot be read: "):
        load_checkpoint(folder, base=strange)


def test_a_stage_0_model_is_asked_what_it_is(tmp_path, base):
    (tmp_path / "cot").mkdir()
    torch.save(random_model(NAME, added=0).state_dict(), tmp_path / "cot" / "checkpoint_22")
    with refused(
        f"{tmp_path}/cot has plain keys and its tokenizer has no <|start-latent|>: a stage-0 model "
        "of Coconut looks so. Say what it is: kind='explicit' or 'no_latents', or 'coconut' if its "
        "last three rows are the markers.",
        InputError,
    ):
        load_checkpoint(tmp_path / "cot", base=base, allow_pickle=True)


def test_a_kind_that_the_keys_contradict(tmp_path, base):
    codi = codi_file(tmp_path)
    with refused(f"{codi} holds CODI's projection, so it is codi and not coconut.", InputError):
        load_checkpoint(codi, base=base, kind="coconut")
    folder = write_folder(random_model(NAME, added=3), tmp_path / "tts", MARKERS)
    with refused(
        f"{folder} holds no projection (prj.* or projector.*), so it is not codi.", InputError
    ):
        load_checkpoint(folder, kind="codi")
    with refused("official_mask is a habit of CODI's code, and this is coconut.", InputError):
        load_checkpoint(folder, official_mask=True)


def test_a_folder_of_our_own_is_sent_to_its_own_reader(tmp_path):
    (tmp_path / "latent.json").write_text("{}", encoding="utf-8")
    with refused(
        f"{tmp_path} was saved by this workbench: read it with `load_subject`.", InputError
    ):
        load_checkpoint(tmp_path)


# ---- the hub ----


def test_the_hub_is_not_asked_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with refused(
        "zen-E/CODI-gpt2 is not on this disk and the hub is switched off (HF_HUB_OFFLINE): fetch "
        "it where there is a network, and give its folder."
    ):
        load_checkpoint("zen-E/CODI-gpt2")
    with refused("There is no checkpoint ./nowhere/run: give a folder or a hub id (owner/name)."):
        load_checkpoint("./nowhere/run")


@pytest.mark.parametrize(("weights", "pickles"), [(True, False), (True, True), (False, True)])
def test_a_hub_id_is_fetched_to_a_folder(tmp_path, monkeypatch, weights, pickles):
    asked = {}

    def download(name, allow_patterns):
        asked[name] = set(allow_patterns)
        return str(tmp_path)

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert local("zen-E/CODI-gpt2", weights=weights, allow_pickle=pickles) == tmp_path
    patterns = asked["zen-E/CODI-gpt2"]
    assert ("*.safetensors" in patterns) == weights
    assert ("*.bin" in patterns) == (weights and pickles)


def test_a_hub_that_does_not_answer_ends_in_a_sentence(monkeypatch):
    def download(name, allow_patterns):
        raise OSError("404: no such repository\nand more")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with refused("a/b could not be fetched from the hub: 404: no such repository"):
        local("a/b", weights=True)
