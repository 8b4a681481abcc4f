"""Directions by hand, on disk and as edits."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.directions import Direction
from interp.edits import Add, Clamp, Project
from interp.errors import EditError, InputError, ModelError, PositionError, SiteError, StoreError
from interp.models.weights import weights_hash
from interp.steering import directions
from interp.steering.directions import FITS
from tests.strategies import ToyModel, says, tiny

POSITIVE, NEGATIVE = [[5, 60, 7, 200], [9, 33], [11, 12, 90]], [[61, 8], [77, 31, 9], [100]]
SITES = ["0.resid_post", "2.resid_pre", "1.mlp_out"]


def toy() -> ToyModel:
    return ToyModel()


# ---------------------------------------------------------------- by hand


def test_the_difference_of_means_of_the_toy():
    """At resid_post token t is 33 t (1, 2, 3, 4). Last tokens 3 and 1 have the mean 2, 0 and 1 the
    mean 1/2: the difference is 33 * 1.5 (1, 2, 3, 4), of length 33 * 1.5 * sqrt(30)."""
    (found,) = directions.fit(toy(), [[1, 3], [1]], [[3, 3, 0], [1]], "0.resid_post")
    unit = torch.tensor([1.0, 2.0, 3.0, 4.0]) / math.sqrt(30)
    torch.testing.assert_close(found.vector, unit, rtol=0, atol=1e-6)
    assert found.norm == pytest.approx(33 * 1.5 * math.sqrt(30))
    assert (found.site, found.method, found.position) == (
        "0.resid_post",
        "difference_of_means",
        "last",
    )
    assert (found.n_positive, found.n_negative, found.seed) == (2, 2, None)
    torch.testing.assert_close(found.raw, 33 * 1.5 * math.sqrt(30) * unit)
    assert str(found) == f"difference_of_means at 0.resid_post (norm {found.norm:.4g})"


def test_a_named_position_is_read_in_every_prompt():
    (found,) = directions.fit(toy(), [[3, 0], [3, 1, 1]], [[1], [1, 2]], "0.resid_pre", position=0)
    assert found.norm == pytest.approx(2 * math.sqrt(30))  # tokens 3 against tokens 1
    assert found.position == "0"


@pytest.mark.parametrize("method", FITS)
def test_one_pass_over_all_sites_gives_what_each_alone_gives(method):
    model = tiny("tiny-llama")
    together = directions.fit(model, POSITIVE, NEGATIVE, SITES, method=method, batch_size=2)
    for site, found in zip(SITES, together, strict=True):
        (alone,) = directions.fit(model, POSITIVE, NEGATIVE, site, method=method)
        assert (found.site, found.method) == (site, method)
        assert found.norm == pytest.approx(alone.norm, rel=1e-5)
        torch.testing.assert_close(found.vector, alone.vector, rtol=0, atol=1e-4)
        assert float(found.vector.norm()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("method", FITS)
def test_every_method_points_from_negative_to_positive(method):
    model = tiny("tiny-llama")
    (found,) = directions.fit(model, POSITIVE, NEGATIVE, "1.resid_post", method=method)
    high, low = (
        torch.stack(
            [
                model.run([ids], capture="1.resid_post").acts["1.resid_post"][0, -1]
                for ids in prompts
            ]
        )
        for prompts in (POSITIVE, NEGATIVE)
    )
    difference = high.mean(0) - low.mean(0)
    assert float(found.vector @ difference) > 0
    assert found.norm == pytest.approx(float(difference.norm()), rel=1e-5)
    (turned,) = directions.fit(model, NEGATIVE, POSITIVE, "1.resid_post", method=method)
    torch.testing.assert_close(turned.vector, -found.vector, rtol=0, atol=1e-4)


def test_the_logit_lens_direction_raises_its_token_against_the_other():
    model = tiny("tiny-gpt2")
    (found,) = directions.logit_lens(model, "2.resid_post", 40, 50)
    rows = model.hf.get_output_embeddings().weight.detach()
    torch.testing.assert_close(found.raw, rows[40] - rows[50], rtol=0, atol=1e-5)
    plain, steered = (
        model.run([POSITIVE[0]], edits=edits, logits="last").logits[0]
        for edits in ([], [found.edit(2.0)])
    )
    assert steered[40] - steered[50] > plain[40] - plain[50] + 1


def test_a_twin_has_the_site_and_the_norm_and_a_seed():
    (found,) = directions.fit(tiny("tiny-gpt2"), POSITIVE, NEGATIVE, "1.resid_post")
    twin, again, other = found.twin(4), found.twin(4), found.twin(5)
    assert (twin.site, twin.norm, twin.method, twin.seed) == (
        found.site,
        found.norm,
        "random",
        4,
    )
    assert torch.equal(twin.vector, again.vector)
    assert float((twin.vector - other.vector).norm()) > 0.5
    assert float(twin.raw.norm()) == pytest.approx(found.norm, rel=1e-5)
    (drawn,) = directions.random(tiny("tiny-gpt2"), "1.resid_post", 4, norm=found.norm)
    assert torch.equal(drawn.vector, twin.vector) and (drawn.seed, drawn.norm) == (4, found.norm)


# ---------------------------------------------------------------- edits


def test_a_dose_is_an_add_a_clamp_or_a_projection():
    """On the toy, token 1 is (33, 66, 99, 132) at resid_post; the direction is the first axis."""
    (held,) = directions.given(toy(), "0.resid_post", torch.tensor([2.0, 0.0, 0.0, 0.0]))
    assert held.norm == 2

    def first(edit) -> list[float]:
        return toy().run([[1]], edits=[edit], logits="last").logits[0].tolist()

    rest = [66.0, 99.0, 132.0]
    assert first(held.edit(3.0)) == [33 + 3 * 2, *rest]
    assert first(held.edit(-0.5)) == [33 - 1, *rest]
    assert first(held.edit(3.0, mode="clamp")) == [3 * 2, *rest]
    assert first(held.edit(mode="project")) == pytest.approx([0, *rest], abs=1e-4)
    kinds = [type(held.edit(1.0, mode=mode)) for mode in ("add", "clamp", "project")]
    assert kinds == [Add, Clamp, Project]
    assert held.edit(2.0, positions="last").positions == "last"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"coefficient": math.inf}, EditError, "coefficient=inf: a dose must be finite."),
        (
            {"coefficient": 0.5, "mode": "project"},
            EditError,
            "coefficient=0.5: project removes the whole coordinate, so it takes 1; use "
            "mode='clamp' to set it.",
        ),
    ],
)
def test_a_dose_without_a_meaning_is_refused(settings, error, message):
    (held,) = directions.given(toy(), "0.resid_post", torch.ones(4))
    with says(error, message):
        held.edit(**settings)


# ---------------------------------------------------------------- on disk


def made() -> Direction:
    return directions.fit(tiny("tiny-gpt2"), POSITIVE, NEGATIVE, "1.resid_post")[0]


def test_a_saved_direction_comes_back_bit_for_bit(tmp_path):
    for held in (made(), made().twin(3)):
        path = held.save(tmp_path / "deep" / "held.safetensors")
        back = Direction.load(path, tiny("tiny-gpt2"))
        assert torch.equal(back.vector, held.vector)
        assert back.manifest() == held.manifest()
    assert [each.name for each in path.parent.iterdir()] == ["held.safetensors"]


def test_the_manifest_names_the_model_its_weights_and_the_data(tmp_path):
    held, other = made(), directions.fit(tiny("tiny-gpt2"), POSITIVE, [[9]], "1.resid_post")[0]
    manifest = held.manifest()
    assert manifest["model"] == "tiny-gpt2"
    assert manifest["weights"] == weights_hash(tiny("tiny-gpt2").hf)
    assert (manifest["n_positive"], manifest["n_negative"], manifest["schema"]) == (3, 3, 1)
    assert manifest["data"] != other.manifest()["data"] and len(manifest["data"]) == 32
    assert json.loads(json.dumps(manifest)) == manifest
    assert set(load_file(held.save(tmp_path / "x.safetensors"))) == {"vector"}


def test_another_model_is_refused(tmp_path):
    path = made().save(tmp_path / "x.safetensors")
    own, other = (weights_hash(tiny(name).hf) for name in ("tiny-gpt2", "tiny-llama"))
    message = (
        f"The direction at 1.resid_post was found in tiny-gpt2 (weights {own[:8]}) and the model "
        f"is tiny-llama (weights {other[:8]}): load the one that it belongs to, or fit it anew."
    )
    with says(ModelError, message):
        Direction.load(path, tiny("tiny-llama"))
    assert Direction.load(path).site == "1.resid_post"  # without a model nothing is compared


def test_every_single_damaged_byte_is_found(tmp_path):
    path = made().save(tmp_path / "x.safetensors")
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(StoreError, match=r"damaged|holds no direction"):
            Direction.load(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="is damaged or no safetensors file"):
        Direction.load(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with says(StoreError, f"There is no direction {path}: check the path."):
        Direction.load(path)
    save_file({"vector": torch.ones(4)}, path)
    with says(StoreError, f"{path} holds no direction: give a file written by Direction.save."):
        Direction.load(path)
    with pytest.raises(StoreError, match=r"^.*file/y cannot be written: "):
        (tmp_path / "file").write_text("")
        made().save(tmp_path / "file" / "y")


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: directions.fit(toy(), [[1]], [[2]], "0.attn.z"),
            SiteError,
            "0.attn.z has no entry of d_model a token, so it has no direction here: choose one of "
            "embed, resid_pre, attn_out, resid_mid, mlp_out, resid_post, ln_final.",
        ),
        (
            lambda: directions.fit(toy(), [[1]], [[1]], "0.resid_pre"),
            InputError,
            "difference_of_means at 0.resid_pre: The two sets have one mean, so there is no "
            "difference to point along: choose another site or position, or sets that differ.",
        ),
        (
            lambda: directions.fit(
                toy(), [[1], [2]], [[1]], "0.resid_pre", method="pca_of_differences"
            ),
            InputError,
            "pca_of_differences needs pairs, and there are 2 positive and 1 negative prompts: give "
            "as many of each, in one order.",
        ),
        (
            lambda: directions.fit(toy(), [[1]], [[2]], "0.resid_pre", batch_size=0),
            InputError,
            "batch_size=0: run at least 1 prompt at a time.",
        ),
        (
            lambda: directions.given(toy(), "0.resid_pre", torch.ones(5)),
            InputError,
            "The vector has 5 entries and toy needs 4.",
        ),
        (
            lambda: directions.given(toy(), "0.resid_pre", torch.zeros(4)),
            InputError,
            "Direction 0 of 1 is zero, so it points nowhere: leave it out.",
        ),
        (
            lambda: directions.logit_lens(tiny("tiny-gpt2"), "0.resid_pre", 10**6, 1),
            InputError,
            "There is no token 1000000: the unembedding has 349 rows.",
        ),
        (
            lambda: replace(made(), vector=torch.ones(4)),
            InputError,
            "The vector of a Direction has length 2 and must have 1: divide it, and give its "
            "length as norm.",
        ),
        (
            lambda: replace(made(), norm=0.0),
            InputError,
            "norm=0.0: the size of a dose must be a positive number.",
        ),
    ],
)
def test_what_gives_no_direction_is_refused(call, error, message):
    with says(error, message):
        call()


def test_a_position_outside_a_prompt_is_refused():
    with pytest.raises(PositionError, match="position 1 is past the end: prompt 1 has 1 tokens"):
        directions.fit(toy(), [[1, 1], [1]], [[2, 2]], "0.resid_pre", position=1)
