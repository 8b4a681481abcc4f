"""What identifies a model: its files and nothing else, and hashes that are never out of date."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

import interp
from interp.errors import ModelError
from interp.models import identity, tiny, weights
from interp.models.identity import file_sha256, folder_hash, model_identity
from tests.strategies import says

MODELS = Path(tiny.__file__).parent


def sha(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of our own, and no hub."""
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny.build("tiny-gpt2").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


# ---------------------------------------------------------------- made in code


def test_a_tiny_model_is_its_name_and_the_source_that_builds_it():
    pairs = json.dumps([["tiny.py", sha((MODELS / "tiny.py").read_bytes())]])
    assert model_identity("tiny-llama") == {
        "name": "tiny-llama",
        "source": sha(pairs.encode())[:32],
        "dtype": "float32",
    }
    assert model_identity("tiny-llama", "bfloat16")["dtype"] == "bfloat16"
    assert model_identity("tiny-gpt2")["source"] == model_identity("tiny-llama")["source"]


def test_a_planted_model_depends_on_the_source_of_its_tokenizer_too():
    names = ("planted-steps", "planted-induction", "tiny-gpt2")
    assert len({str(model_identity(name)["source"]) for name in names}) == 3
    files = ("planted.py", "tiny.py")
    pairs = json.dumps([[file, sha((MODELS / file).read_bytes())] for file in files])
    assert model_identity("planted-steps")["source"] == sha(pairs.encode())[:32]


def test_every_name_made_in_code_has_an_identity_of_its_own():
    known = identity.KNOWN.values()
    made = [each.name for each in known if each.kind not in ("smollm2", "hub")]
    found = {json.dumps(model_identity(name)) for name in made}
    assert len(found) == len(made) > 9


def test_nothing_here_needs_torch():
    code = (
        "import sys; from interp.models.identity import model_identity; "
        "model_identity('planted-steps'); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr


# ---------------------------------------------------------------- folders


def test_a_folder_is_what_its_files_hold_wherever_it_lies(folder, tmp_path):
    names = ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"]
    names += ["tokenizer.json", "tokenizer_config.json"]
    pairs = json.dumps([[name, sha((folder / name).read_bytes())] for name in names])
    here = model_identity(str(folder))
    assert here == {"files": sha(pairs.encode())[:32], "dtype": "auto"}
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "of another name")
    assert model_identity(str(copy)) == here
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in folder.iterdir():
        (linked / file.name).symlink_to(file)
    assert model_identity(str(linked)) == here
    assert model_identity(str(folder), "float64") == {**here, "dtype": "float64"}


HERE_A_REVISION_MEANS_NOTHING = (
    "revision 'step0': {} lies in one folder here, and only a Hugging Face id has revisions; leave "
    "it out."
)


def test_a_revision_is_the_folder_of_that_name_and_a_hub_id_asks_for_it(folder, monkeypatch):
    both = folder.parent / "both"
    shutil.copytree(folder, both / "step0")
    assert model_identity(str(both), None, "step0") == model_identity(str(folder))
    with says(ModelError, f"{both / 'step1'} holds no model: there is no config.json in it."):
        model_identity(str(both), None, "step1")
    with says(ModelError, "revision 'step0': tiny-llama has no revisions; leave it out."):
        model_identity("tiny-llama", None, "step0")
    asked: list[dict] = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **more: asked.append(more) or str(folder)
    )
    assert model_identity("owner/name", None, "step0") == model_identity(str(folder))
    assert asked[0]["revision"] == "step0"


def test_a_folder_is_not_loaded_under_a_revision_that_it_lacks(folder):
    with says(ModelError, HERE_A_REVISION_MEANS_NOTHING.format(folder.name)):
        interp.load(str(folder), revision="step0")


@pytest.mark.parametrize(
    "name", ["README.md", "trainer_state.json", "run.log", "pytorch_model.bin"]
)
def test_a_file_that_decides_no_answer_does_not_count(folder, name):
    before = folder_hash(folder)
    (folder / name).write_text("{}")
    assert folder_hash(folder) == before


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "config.json", "generation_config.json", "chat_template.jinja"),
        *("tokenizer.json", "tokenizer_config.json", "merges.txt", "special_tokens_map.json"),
    ],
)
def test_a_file_that_decides_answers_counts(folder, name):
    before, path = folder_hash(folder), folder / name
    old = path.read_bytes() if path.exists() else b""
    path.write_bytes(old[:-1] + b"?")
    changed = folder_hash(folder)
    assert changed != before
    if old:
        path.write_bytes(old)
        assert folder_hash(folder) == before


def test_a_folder_without_its_files_is_refused(folder):
    (folder / "config.json").rename(folder / "kept")
    with says(ModelError, f"{folder} holds no model: there is no config.json in it."):
        model_identity(str(folder))
    (folder / "kept").rename(folder / "config.json")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with says(
        ModelError,
        f"{folder} holds no weights in safetensors, the only kind that is read: save them with "
        "`save_pretrained(folder, safe_serialization=True)`.",
    ):
        model_identity(str(folder))


def test_a_shard_that_is_not_there_is_named(folder):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "two.safetensors"}}))
    with says(
        ModelError,
        f"{folder} lacks two.safetensors, which its index of weights names: download or copy the "
        "model again.",
    ):
        folder_hash(folder)
    index.write_text('{"weight_map": ')
    with says(ModelError, f"{index} is no index of weights: download or copy the model again."):
        folder_hash(folder)


@pytest.mark.parametrize("name", ["tiny-lama", "./nowhere", "a/b/c"])
def test_an_unknown_name_gets_the_sentence_that_load_says(name):
    with pytest.raises(ModelError) as ours:
        model_identity(name)
    with pytest.raises(ModelError) as loads:
        weights.find(name, dtype=None, device="cpu", options={})
    assert str(ours.value) == str(loads.value)
    assert str(ours.value).startswith(f"There is no model {name!r}")


# ---------------------------------------------------------------- large files


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Files that were really hashed; every file counts as large, and as left alone long ago."""
    seen, hashed = [], identity._sha256

    def counting(path):
        seen.append(path.name)
        return hashed(path)

    monkeypatch.setattr(identity, "_sha256", counting)
    monkeypatch.setattr(identity, "LARGE", 1)
    monkeypatch.setattr(identity, "SETTLED", 0.0)
    return seen


def test_a_large_file_is_hashed_once(tmp_path, reads):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert [file_sha256(file) for _ in range(3)] == [sha(b"one")] * 3
    (tmp_path / "link").symlink_to(file)
    assert file_sha256(tmp_path / "link") == sha(b"one")
    assert reads == ["weights"]


def test_a_small_file_is_hashed_every_time(tmp_path, reads, monkeypatch, cache):
    monkeypatch.setattr(identity, "LARGE", 4)
    file = tmp_path / "config"
    file.write_bytes(b"one")
    assert [file_sha256(file) for _ in range(2)] == [sha(b"one")] * 2
    assert len(reads) == 2 and not (cache / "hashes").exists()


def test_a_changed_file_of_the_same_size_and_date_is_hashed_again(tmp_path, reads):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert file_sha256(file) == sha(b"one")
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file_sha256(file) == sha(b"two")
    other = tmp_path / "other"
    other.write_bytes(b"six")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert file_sha256(file) == sha(b"six")
    assert len(reads) == 3


def test_the_hash_of_a_file_written_a_moment_ago_is_not_kept(tmp_path, reads, monkeypatch, cache):
    monkeypatch.setattr(identity, "SETTLED", 60.0)
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert [file_sha256(file) for _ in range(2)] == [sha(b"one")] * 2
    assert len(reads) == 2 and not (cache / "hashes").exists()
    ahead = file.stat().st_mtime_ns + 10**15  # a clock that went back
    monkeypatch.setattr(identity, "SETTLED", 0.0)
    os.utime(file, ns=(ahead, ahead))
    assert [file_sha256(file) for _ in range(2)] == [sha(b"one")] * 2
    assert len(reads) == 4


@pytest.mark.parametrize(
    "text", ["", '{"file":', "[1]", '{"sha256": "00"}', '{"file": {"size": 3}, "sha256": "00"}']
)
def test_a_damaged_or_foreign_entry_of_the_cache_is_not_used(tmp_path, reads, cache, text):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    file_sha256(file)
    (entry,) = (cache / "hashes").iterdir()
    entry.write_text(text)
    assert file_sha256(file) == sha(b"one")
    assert len(reads) == 2
    assert json.loads(entry.read_text())["sha256"] == sha(b"one")  # and it is whole again


def test_a_cache_that_cannot_be_written_is_no_matter(tmp_path, reads, cache):
    cache.write_text("a file where a folder is needed")
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert [file_sha256(file) for _ in range(2)] == [sha(b"one")] * 2
    assert len(reads) == 2


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, reads, cache):
    file = tmp_path / "weights"
    file.write_bytes(b"one")

    def overtaken(path):
        path.write_bytes(b"longer")
        return sha(b"one")

    monkeypatch.setattr(identity, "_sha256", overtaken)
    with says(ModelError, f"{file} changed while it was read: wait until it is whole."):
        file_sha256(file)
    assert not (cache / "hashes").exists()


def test_a_file_that_is_not_there_is_refused(tmp_path):
    file = tmp_path / "none"
    with says(ModelError, f"{file} cannot be hashed: No such file or directory. Check the path."):
        file_sha256(file)


# ---------------------------------------------------------------- SmolLM2


def converted(folder: Path, source: bytes) -> None:
    folder.mkdir(parents=True)
    files = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"t"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    hashes = {name: sha(content) for name, content in files.items()} | {"source": sha(source)}
    (folder / "sha256.json").write_text(json.dumps(hashes))


def test_smollm2_is_one_model_before_and_after_it_is_converted(tmp_path, monkeypatch, cache):
    gguf = tmp_path / "weights.gguf"
    gguf.write_bytes(b"quantised")
    monkeypatch.setattr(identity, "packaged_gguf", lambda: gguf)
    before = model_identity("smollm2-135m")
    assert before == {"name": "smollm2-135m", "gguf": sha(b"quantised"), "dtype": "float32"}
    converted(cache / "smollm2-135m", b"quantised")
    assert model_identity("smollm2-135m") == before
    monkeypatch.setattr(identity, "packaged_gguf", lambda: None)
    assert model_identity("smollm2-135m") == before


def test_a_damaged_conversion_does_not_identify_smollm2(tmp_path, monkeypatch, cache):
    gguf = tmp_path / "weights.gguf"
    gguf.write_bytes(b"quantised")
    monkeypatch.setattr(identity, "packaged_gguf", lambda: gguf)
    converted(cache / "smollm2-135m", b"another")
    assert model_identity("smollm2-135m")["gguf"] == sha(b"another")
    (cache / "smollm2-135m" / "model.safetensors").write_bytes(b"wrong")
    assert model_identity("smollm2-135m")["gguf"] == sha(b"quantised")


def test_smollm2_that_is_nowhere_is_refused(monkeypatch):
    monkeypatch.setattr(identity, "packaged_gguf", lambda: None)
    start = r"^The model 'HuggingFaceTB/SmolLM2-135M-Instruct' is not in the local cache of the hub"
    with pytest.raises(ModelError, match=start):
        model_identity("smollm2-135m")


# ---------------------------------------------------------------- the hub


def snapshot(folder: Path, hub: Path) -> Path:
    """Lay a folder down as the hub's client does: names that link to blobs."""
    root, commit = hub / "models--owner--name", "c" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    (root / "blobs").mkdir()
    place = root / "snapshots" / commit
    place.mkdir(parents=True)
    for file in folder.iterdir():
        blob = root / "blobs" / sha(file.read_bytes())
        shutil.copy(file, blob)
        (place / file.name).symlink_to(blob)
    return place


def test_a_hub_id_is_the_same_model_as_a_folder_with_its_files(folder, tmp_path):
    place = snapshot(folder, tmp_path / "hub")
    assert model_identity("owner/name") == model_identity(str(folder))
    (place / "model.safetensors").unlink()
    with says(
        ModelError,
        f"{place} holds no weights in safetensors, the only kind that is read: save them with "
        "`save_pretrained(folder, safe_serialization=True)`.",
    ):
        model_identity("owner/name")


def test_a_hub_id_that_is_not_here_is_refused_offline():
    message = (
        r"^The model 'owner/other' is not in the local cache of the hub and could not be "
        r"downloaded \(HF_HUB_OFFLINE is set\): .* Download it first, or give a folder\.$"
    )
    with pytest.raises(ModelError, match=message):
        model_identity("owner/other")


def test_only_files_that_decide_answers_are_downloaded(folder, monkeypatch):
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert model_identity("owner/name") == model_identity(str(folder))
    assert (asked["name"], asked["local_files_only"]) == ("owner/name", False)
    endings = {each.rpartition(".")[2] for each in asked["allow_patterns"]}
    assert "*.safetensors" in asked["allow_patterns"] and not endings & {"bin", "gguf", "py", "pt"}
