"""Every edit worked out by hand on the toy model, whose logits are whole numbers.

The toy (see `tests.strategies.ToyModel`) embeds token t as x = t R with R = (1, 2, 3, 4), adds
attn_out = 2 x and then mlp_out = 10 (x + attn_out). So a residual stream of m at resid_mid gives
logits of 11 m: 33 t R without edits. Logits are written below as multiples of R, or whole.
"""

from __future__ import annotations

import hashlib
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import Tensor

from interp.edits import (
    Add,
    Clamp,
    Edit,
    MeanAblate,
    Patch,
    Project,
    ResampleAblate,
    Scale,
    Where,
    ZeroAblate,
)
from interp.errors import EditError, PositionError, SiteError
from interp.sites import Site
from tests.strategies import KINDS, R, ToyModel, noise, says, tensors

TOY = ToyModel()
ONE = [[1]]
"""One prompt of the one token 1: resid_mid is 3 R = (3, 6, 9, 12) and the logits 11 times that."""


def logits(*edits: Edit, prompts=ONE) -> Tensor:
    return TOY.run(prompts, edits=edits).logits


def multiples(*edits: Edit, prompts) -> list[list[float]]:
    """The logits as multiples of R, which they must be; tokens that do not exist left out."""
    found = logits(*edits, prompts=prompts)
    held = [row[: len(prompt)] for row, prompt in zip(found, prompts, strict=True)]
    for row in held:
        assert torch.equal(row, row[:, :1] * R)
    return [row[:, 0].tolist() for row in held]


def mid(*edits: Edit) -> list[float]:
    """The residual stream at resid_mid that the logits of the prompt 1 come from."""
    return (logits(*edits)[0, 0] / 11).tolist()


def attn(tokens: list[list[int]]) -> Tensor:
    """attn_out of a run of the toy: 2 t R."""
    return TOY.run(tokens, capture="0.attn_out").acts["0.attn_out"]


def test_the_toy_without_edits():
    """33 t R, and the parts that make it: z copies its group's half of x to two heads."""
    run = TOY.run([[1, 2, 3]], capture=TOY.sites)
    assert multiples(prompts=[[1, 2, 3]]) == [[33, 66, 99]]
    at_one = {site: act[0, 1].tolist() for site, act in run.acts.items()}
    assert at_one == {
        "embed": [2, 4, 6, 8],
        "0.resid_pre": [2, 4, 6, 8],
        "0.attn.v": [[2, 4], [6, 8]],
        "0.attn.z": [[2, 4], [2, 4], [6, 8], [6, 8]],
        "0.attn_out": [4, 8, 12, 16],
        "0.resid_mid": [6, 12, 18, 24],
        "0.mlp_out": [60, 120, 180, 240],
        "0.resid_post": [66, 132, 198, 264],
        "logits": [66, 132, 198, 264],
    }


# ---------------------------------------------------------------- Patch


def test_patch_lets_attention_act_as_on_another_prompt():
    """On x = R with attention acting as on 3 R: (1 + 2*3) R, and the MLP adds ten times that."""
    assert multiples(Patch("0.attn_out", source=attn([[3]])), prompts=[[1]]) == [[77]]
    direct = [
        Patch("0.attn_out", source=attn([[3]])),
        Patch("0.mlp_out", source=30 * R[None, None]),
    ]
    assert multiples(*direct, prompts=[[1]]) == [[37]]  # 1 + 6 + 30: past the MLP only


def test_patch_takes_the_same_positions_of_each_prompt():
    """Prompts (1, 2, 3) and (2, 2), sources (3, 1, 2) and (0, 3): attn_out 6, 2, 4 and 0, 6.

    Position 1 alone: 33, 11 (2 + 2) = 44, 99 and 66, 11 (2 + 6) = 88.
    """
    edit = Patch("0.attn_out", source=attn([[3, 1, 2], [0, 3]]), positions=1)
    assert multiples(edit, prompts=[[1, 2, 3], [2, 2]]) == [[33, 44, 99], [66, 88]]


def test_patch_takes_source_positions_in_pairs_with_positions():
    """Source (2, 0, 1): attn_out 4, 0, 2. Position 2 takes source 0 and position 0 takes source 1.

    11 (1 + 0), 66, 11 (3 + 4).
    """
    edit = Patch("0.attn_out", source=attn([[2, 0, 1]]), positions=(2, 0), source_positions=(0, 1))
    assert multiples(edit, prompts=[[1, 2, 3]]) == [[11, 66, 77]]


def test_patch_of_one_position_from_one_other():
    """Position 0 takes attn_out of source position 2, a longer prompt: 11 (1 + 2*3) = 77."""
    edit = Patch("0.attn_out", source=attn([[0, 0, 3]]), positions=0, source_positions=2)
    assert multiples(edit, prompts=[[1, 2]]) == [[77, 66]]


def test_patch_of_heads_and_units():
    """z of the source (3): heads (3, 6), (3, 6), (9, 12), (9, 12).

    Heads 3 and 0 from it: attn_out = (3+1, 6+2, 3+9, 4+12), so mid = (5, 10, 15, 20).
    Unit 1 of head 2 alone: attn_out = (2, 4, 6, 4 + 12), mid = (3, 6, 9, 20).
    """
    source = TOY.run([[3]], capture="0.attn.z").acts["0.attn.z"]
    assert mid(Patch("0.attn.z", source=source, heads=(3, 0))) == [5, 10, 15, 20]
    assert mid(Patch("0.attn.z", source=source, heads=2, units=1)) == [3, 6, 9, 20]


def test_patch_of_rows_takes_each_rows_own_source():
    """Prompts 1, 1, 1, rows 2 and 1 of sources 3, 2, 0: 33, 11 (1 + 4) = 55, 11 (1 + 0) = 11."""
    edit = Patch("0.attn_out", source=attn([[3], [2], [0]]), rows=(2, 1))
    assert multiples(edit, prompts=[[1], [1], [1]]) == [[33], [55], [11]]


# ---------------------------------------------------------------- ablations


def test_zero_ablation():
    """Without attention at position 1: 11 (2) = 22. Without the MLP: 3 t."""
    prompts = [[1, 2, 3]]
    assert multiples(ZeroAblate("0.attn_out", positions=1), prompts=prompts) == [[33, 22, 99]]
    assert multiples(ZeroAblate("0.mlp_out"), prompts=prompts) == [[3, 6, 9]]
    assert multiples(ZeroAblate("logits", positions=(2, 0)), prompts=prompts) == [[0, 66, 0]]


def test_zero_ablation_of_heads_units_and_rows():
    """Head 1 gone: attn_out = (1, 2, 6, 8), mid = (2, 4, 9, 12). Its unit 0: (2, 6, 9, 12)."""
    assert mid(ZeroAblate("0.attn.z", heads=1)) == [2, 4, 9, 12]
    assert mid(ZeroAblate("0.attn.z", heads=1, units=0)) == [2, 6, 9, 12]
    assert mid(ZeroAblate("0.attn.z", heads=(3, 1))) == [2, 4, 6, 8]
    assert mid(ZeroAblate("0.resid_mid", units=(3, 1))) == [3, 0, 9, 0]
    rows = ZeroAblate("0.attn_out", rows=1)
    assert multiples(rows, prompts=[[1, 2], [3]]) == [[33, 66], [33]]


def test_a_head_at_a_key_value_site_is_the_group_that_it_shares():
    """Heads 2 and 3 share group 1 = (3, 4): without it attn_out = (2, 4, 0, 0)."""
    for heads in (2, 3, (2, 3), (3, 2)):
        assert mid(ZeroAblate("0.attn.v", heads=heads)) == [3, 6, 3, 4]
    assert mid(ZeroAblate("0.attn.v", heads=(1, 2))) == [1, 2, 3, 4]


def test_the_mean_is_over_tokens_not_over_prompts():
    """Reference (3, 3) and (0): attn_out 6, 6 and 0, so 4 a token; a mean of means would be 3.

    Prompt (1, 2, 3): 11 (1 + 4), 11 (2 + 4), 11 (3 + 4).
    """
    mean = TOY.run([[3, 3], [0]], capture="0.attn_out").mean("0.attn_out")
    assert mean.tolist() == [4, 8, 12, 16]
    edit = MeanAblate("0.attn_out", mean=mean)
    assert multiples(edit, prompts=[[1, 2, 3]]) == [[55, 66, 77]]
    assert multiples(replace(edit, positions=2), prompts=[[1, 2, 3]]) == [[33, 66, 77]]


def test_the_mean_at_each_position():
    """Reference (3, 3) and (0): position 0 has (6 + 0) / 2 = 3, position 1 only 6.

    Prompts (1, 2) and (2): 11 (1 + 3), 11 (2 + 6) and 11 (2 + 3).
    """
    run = TOY.run([[3, 3], [0]], capture="0.attn_out")
    mean = run.mean(Site.parse("0.attn_out"), per_position=True)
    edit = MeanAblate("0.attn_out", mean=mean)
    assert multiples(edit, prompts=[[1, 2], [2]]) == [[44, 88], [55]]


def test_the_mean_of_heads_and_units():
    """Mean of z over tokens 3 and 1 is that of token 2: heads (2, 4), (2, 4), (6, 8), (6, 8).

    Head 3 alone: attn_out = (2, 4, 3 + 6, 4 + 8), mid = (3, 6, 12, 16). Its unit 0: (3, 6, 12, 12).
    """
    mean = TOY.run([[3, 1]], capture="0.attn.z").mean("0.attn.z")
    assert mid(MeanAblate("0.attn.z", mean=mean, heads=3)) == [3, 6, 12, 16]
    assert mid(MeanAblate("0.attn.z", mean=mean, heads=3, units=0)) == [3, 6, 12, 12]
    per_position = TOY.run([[3, 1]], capture="0.attn.z").mean("0.attn.z", per_position=True)
    assert mid(MeanAblate("0.attn.z", mean=per_position, heads=3)) == [3, 6, 15, 20]


def test_resampling_from_named_donors():
    """Reference (3, 0) and (1, 2): attn_out 6, 0 and 2, 4.

    Prompt (1, 1) takes donor 1: 11 (1 + 2), 11 (1 + 4); (2, 2) takes donor 0: 11 (2 + 6), 22.
    """
    edit = ResampleAblate("0.attn_out", source=attn([[3, 0], [1, 2]]), donors=(1, 0))
    assert multiples(edit, prompts=[[1, 1], [2, 2]]) == [[33, 55], [88, 22]]


def test_resampling_of_heads_rows_and_positions():
    """Head 0 of row 1 at position 1 from donor 0, token 3: attn_out = (3 + 1, 6 + 2, 6, 8)."""
    source = TOY.run([[0, 3], [2, 2]], capture="0.attn.z").acts["0.attn.z"]
    edit = ResampleAblate("0.attn.z", source=source, donors=(1, 0), heads=0, rows=1, positions=1)
    found = logits(edit, prompts=[[1, 1], [1, 1]]) / 11
    assert found[1, 1].tolist() == [5, 10, 9, 12]
    assert found[0].tolist() == [[3, 6, 9, 12]] * 2
    assert found[1, 0].tolist() == [3, 6, 9, 12]


@pytest.mark.parametrize("seed", [0, 1, 12])
def test_a_donor_is_drawn_from_the_seed_and_the_place_in_the_batch(seed):
    """Each row's donor is SHA-256 of `seed/row`, its first eight bytes modulo the references."""
    edit = ResampleAblate("0.attn_out", source=attn([[0], [1], [2], [3], [1]]), seed=seed)
    donors = []
    for row in range(6):
        digest = hashlib.sha256(f"{seed}/{row}".encode()).hexdigest()
        donors.append(int(digest[:16], 16) % 5)
    assert [edit.donor(row) for row in range(6)] == donors
    assert len(set(donors)) > 1
    tokens = [[0, 1, 2, 3, 1][donor] for donor in donors]
    expected = [[11 * (1 + 2 * t)] for t in tokens]
    assert multiples(edit, prompts=[[1]] * 6) == expected


# ---------------------------------------------------------------- Add, Project, Scale, Clamp


def test_add_with_a_coefficient():
    """mid = (3, 6, 9, 12) + 2 (1, 0, 0, -1) at position 0 only."""
    edit = Add("0.resid_mid", vector=torch.tensor([1.0, 0, 0, -1]), coefficient=2.0, positions=0)
    found = logits(edit, prompts=[[1, 1]])
    assert found.tolist() == [[[55, 66, 99, 110], [33, 66, 99, 132]]]


def test_add_to_heads_pairs_the_vectors_rows_with_the_heads_in_their_order():
    """Head 3 gets (10, 0) and head 1 (0, 1): attn_out = (2, 4 + 1, 6 + 10, 8)."""
    vector = torch.tensor([[10.0, 0], [0, 1]])
    assert mid(Add("0.attn.z", vector=vector, heads=(3, 1))) == [3, 7, 19, 12]
    assert mid(Add("0.attn.z", vector=vector, heads=(1, 3))) == [13, 6, 9, 13]


def test_add_one_vector_to_each_head():
    """(1, 0) to heads 3 and 1: attn_out = (3, 4, 7, 8). To all four: (4, 4, 8, 8)."""
    vector = torch.tensor([1.0, 0])
    assert mid(Add("0.attn.z", vector=vector, heads=(3, 1))) == [4, 6, 10, 12]
    assert mid(Add("0.attn.z", vector=vector)) == [5, 6, 11, 12]


def test_add_to_a_key_value_group_once_however_many_of_its_heads_are_named():
    """Group 1 becomes (3 + 1, 4), which heads 2 and 3 copy: attn_out = (2, 4, 8, 8)."""
    for heads in (2, (2, 3)):
        assert mid(Add("0.attn.v", vector=torch.tensor([[1.0, 0]]), heads=heads)) == [3, 6, 11, 12]


def test_add_to_units_in_their_order():
    """Unit 3 gets 5 and unit 0 gets 1: mid = (4, 6, 9, 17)."""
    assert mid(Add("0.resid_mid", vector=torch.tensor([5.0, 1]), units=(3, 0))) == [4, 6, 9, 17]


def close(found: list[float], expected: list[float]) -> None:
    """Compare what passed through a projector: float32 rounding of numbers near 10."""
    assert found == pytest.approx(expected, rel=0, abs=1e-5)


def test_project_on_one_direction_that_is_no_unit_vector():
    """(3, 6, 9, 12) along (5, 5, 0, 0): the mean of the first two, (4.5, 4.5, 0, 0), is inside."""
    direction = torch.tensor([5.0, 5, 0, 0])
    close(mid(Project("0.resid_mid", directions=direction)), [-1.5, 1.5, 9, 12])
    close(mid(Project("0.resid_mid", directions=direction, keep="inside")), [4.5, 4.5, 0, 0])


@pytest.mark.parametrize("extra", [[], [[2.0, 1, 0, 0]], [[0.0, 0, 0, 0]]])
def test_project_on_directions_that_are_not_orthogonal_nor_independent(extra):
    """(3, 0, 0, 0) and (1, 1, 0, 0) span the first two coordinates, with or without a third."""
    directions = torch.tensor([[3.0, 0, 0, 0], [1, 1, 0, 0], *extra])
    close(mid(Project("0.resid_mid", directions=directions)), [0, 0, 9, 12])
    close(mid(Project("0.resid_mid", directions=directions, keep="inside")), [3, 6, 0, 0])


def test_project_heads_and_units():
    """Head 1 is (1, 2); without (0, 7) it is (1, 0): attn_out = (2, 2, 6, 8), mid (3, 4, 9, 12).

    Units 0 and 2 are (3, 9); along (1, 1) they are (6, 6), which leaves (-3, 3).
    """
    close(mid(Project("0.attn.z", directions=torch.tensor([0.0, 7]), heads=1)), [3, 4, 9, 12])
    edit = Project("0.resid_mid", directions=torch.tensor([1.0, 1]), units=(0, 2))
    close(mid(edit), [-3, 6, 3, 12])
    close(mid(replace(edit, keep="inside")), [6, 6, 6, 12])


def test_scale():
    """Three times attn_out at position 2: 11 (3 + 18) = 231. Minus head 2: mid = (3, 6, 3, 4)."""
    edit = Scale("0.attn_out", factor=3.0, positions=2)
    assert multiples(edit, prompts=[[1, 2, 3]]) == [[33, 66, 231]]
    assert mid(Scale("0.attn.z", factor=-1.0, heads=2)) == [3, 6, 3, 4]
    assert mid(Scale("0.resid_mid", factor=0.5, units=(1, 3))) == [3, 3, 9, 6]


def test_clamp_each_entry():
    """mid is (3, 6, 9, 12)."""
    assert mid(Clamp("0.resid_mid", low=4.0)) == [4, 6, 9, 12]
    assert mid(Clamp("0.resid_mid", high=7.0)) == [3, 6, 7, 7]
    assert mid(Clamp("0.resid_mid", low=5.0, high=10.0)) == [5, 6, 9, 10]
    assert mid(Clamp("0.resid_mid", value=7.0)) == [7, 7, 7, 7]
    assert mid(Clamp("0.resid_mid", value=0.0, units=(2, 0))) == [0, 6, 0, 12]


def test_clamp_heads():
    """Heads (1, 2), (1, 2), (3, 4), (3, 4); head 2 at most 3.5 gives attn_out (2, 4, 6, 7.5)."""
    assert mid(Clamp("0.attn.z", high=3.5, heads=2)) == [3, 6, 9, 11.5]


def test_clamp_the_coordinate_along_a_direction_alone():
    """Along (0, 0, 5, 0) the coordinate of (3, 6, 9, 12) is 9, whatever the direction's length."""
    direction = torch.tensor([0.0, 0, 5, 0])
    assert mid(Clamp("0.resid_mid", high=2.0, direction=direction)) == [3, 6, 2, 12]
    assert mid(Clamp("0.resid_mid", low=20.0, direction=direction)) == [3, 6, 20, 12]
    assert mid(Clamp("0.resid_mid", value=-1.0, direction=direction)) == [3, 6, -1, 12]
    assert mid(Clamp("0.resid_mid", low=8.0, high=10.0, direction=direction)) == [3, 6, 9, 12]


def test_clamp_along_a_slanted_direction():
    """(3, 4, 0, 0) has length 5: the coordinate is (3*3 + 4*6) / 5 = 6.6.

    At 1.6 it is 5 less, which takes 5 (3, 4) / 5 = (3, 4) away: (0, 2, 9, 12).
    """
    direction = torch.tensor([3.0, 4, 0, 0])
    close(mid(Clamp("0.resid_mid", value=1.6, direction=direction)), [0, 2, 9, 12])
    close(mid(Clamp("0.resid_mid", high=1.6, direction=direction)), [0, 2, 9, 12])
    close(mid(Clamp("0.resid_mid", low=1.6, direction=direction)), [3, 6, 9, 12])


# ---------------------------------------------------------------- several edits


def test_edits_of_one_site_act_in_the_order_given():
    """(3, 6, 9, 12) + (1, 0, 0, 0), doubled: (8, 12, 18, 24); doubled first: (7, 12, 18, 24)."""
    add = Add("0.resid_mid", vector=torch.tensor([1.0, 0, 0, 0]))
    double = Scale("0.resid_mid", factor=2.0)
    assert mid(add, double) == [8, 12, 18, 24]
    assert mid(double, add) == [7, 12, 18, 24]


def test_an_edit_upstream_is_seen_downstream_and_a_capture_is_read_after_the_edits():
    """attn_out doubled: mid = 1 + 4 = 5, mlp_out = 50; the last is then scaled by 0.1 to 5."""
    edits = [Scale("0.mlp_out", factor=0.5), Scale("0.attn_out", factor=2.0)]
    run = TOY.run([[1]], edits=edits, capture=["0.attn_out", "0.resid_mid", "0.mlp_out"])
    assert {site: act[0, 0, 0].item() for site, act in run.acts.items()} == {
        "0.attn_out": 4,
        "0.resid_mid": 5,
        "0.mlp_out": 25,
    }
    assert run.logits[0, 0].tolist() == [30, 60, 90, 120]


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_count_real_tokens_whatever_the_padding(side):
    """Position 0 of (1, 2, 3) and of (2) without attention: 11 and 22."""
    run = TOY.run(
        [[1, 2, 3], [2]], edits=[ZeroAblate("0.attn_out", positions=0)], padding_side=side
    )
    assert run.logits[0, :, 0].tolist() == [11, 66, 99]
    assert run.logits[1, 0].tolist() == [22, 44, 66, 88]
    assert run.logits[1, 1:].isnan().all()
    assert run.receipt[0].tokens == ((0, 0), (1, 0))


# ---------------------------------------------------------------- what an edit is


EVERYWHERE = Where(
    rows=torch.tensor([0, 0, 1]),
    pos=torch.tensor([0, 2, 1]),
    select=lambda tensor: tensor,
    n_rows=2,
    token=(4,),
)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_returns_a_new_tensor_and_changes_none_that_it_was_given(kind):
    edit = KINDS[kind]("0.resid_mid", (4,), 2, 3)
    act = noise(3, 4)
    kept, held = act.clone(), {name: tensor.clone() for name, tensor in tensors(edit).items()}
    new = edit.new(act, EVERYWHERE)
    assert new.shape == act.shape
    assert not torch.equal(new, kept)
    assert torch.equal(act, kept)
    assert all(torch.equal(tensor, held[name]) for name, tensor in tensors(edit).items())
    new.fill_(7.0)  # the answer shares no memory with the activation
    assert torch.equal(act, kept)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_cannot_be_changed_but_copied_with_other_positions(kind):
    edit = KINDS[kind]("0.resid_mid", (4,), 2, 3)
    with pytest.raises(FrozenInstanceError):
        edit.positions = (1,)
    moved = replace(edit, positions=1)
    assert (edit.positions, moved.positions) == ("all", (1,))
    plain, there = logits(prompts=[[1, 2]] * 2), logits(moved, prompts=[[1, 2]] * 2)
    assert torch.equal(there[:, 0], plain[:, 0])
    assert torch.equal(there[:, 1], logits(edit, prompts=[[1, 2]] * 2)[:, 1])


def test_indices_are_read_into_tuples():
    edit = Scale("0.attn.z", factor=2.0, heads=[3, 1], units=0, rows=[2], positions=range(2))
    assert (edit.heads, edit.units, edit.rows, edit.positions) == ((3, 1), (0,), (2,), (0, 1))
    assert edit.site == Site("attn.z", 0)


def test_an_edit_is_written_with_what_it_selects():
    assert str(ZeroAblate("0.mlp_out")) == "ZeroAblate(0.mlp_out)"
    edit = Scale("5.attn.z", factor=2.0, heads=[3, 1], positions="new", rows=0)
    assert str(edit) == "Scale(5.attn.z, positions=new, heads=(3, 1), rows=(0,))"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"heads": -1}, "heads=-1: give indices from 0, each once, such as (0, 3)."),
        ({"heads": (1, 1)}, "heads=(1, 1): give indices from 0, each once, such as (0, 3)."),
        ({"units": ()}, "units=(): give indices from 0, each once, such as (0, 3)."),
        ({"rows": [0, -2]}, "rows=[0, -2]: give indices from 0, each once, such as (0, 3)."),
        ({"rows": True}, "rows=True: give indices from 0, each once, such as (0, 3)."),
    ],
)
def test_wrong_indices_are_refused(arguments, text):
    with says(EditError, text):
        ZeroAblate("0.attn.z", **arguments)


@pytest.mark.parametrize("component", ["resid_post", "mlp.post", "attn_out"])
def test_heads_at_a_site_without_heads_are_refused(component):
    rule = "drop the argument, or name a site with heads such as attn.z."
    with says(EditError, f"5.{component} has no heads, yet heads=(2,): {rule}"):
        ZeroAblate(f"5.{component}", heads=2)


@pytest.mark.parametrize("component", ["attn.pattern", "attn.scores"])
def test_attention_maps_are_edited_by_query_and_head(component):
    edit = Scale(f"1.{component}", factor=0.0, heads=(2, 0), positions=3)
    assert (edit.site, edit.heads, edit.positions) == (Site(component, 1), (2, 0), (3,))
    assert str(edit) == f"Scale(1.{component}, positions=(3,), heads=(2, 0))"


def test_a_misspelt_site_and_a_negative_position_are_refused_when_the_edit_is_made():
    with pytest.raises(SiteError, match=r"Did you mean '0\.attn_out'\?$"):
        ZeroAblate("0.atn_out")
    with pytest.raises(PositionError, match=r"^Position -1 is negative: .* for the last\.$"):
        ZeroAblate("0.attn_out", positions=-1)


def test_source_positions_must_pair_with_positions():
    source = torch.zeros(1, 3, 4)
    rule = "must pair with positions one to one; give as many of each."
    with says(EditError, f"Patch(0.attn_out): source_positions=(1,) {rule}"):
        Patch("0.attn_out", source=source, source_positions=1)
    with says(EditError, f"Patch(0.attn_out, positions=(0,)): source_positions=(1, 2) {rule}"):
        Patch("0.attn_out", source=source, positions=0, source_positions=(1, 2))
    with pytest.raises(PositionError, match=r"^Position -2 is negative"):
        Patch("0.attn_out", source=source, positions=0, source_positions=-2)


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ({}, "Clamp(0.mlp_out): Clamp needs low, high or value."),
        ({"low": 2.0, "high": 1.0}, "Clamp(0.mlp_out): low=2.0 lies above high=1.0; swap them."),
        (
            {"low": 2.0, "value": 1.0},
            "Clamp(0.mlp_out): give value, or low and high, not both.",
        ),
    ],
)
def test_bounds_that_make_no_interval_are_refused(bounds, text):
    with says(EditError, text):
        Clamp("0.mlp_out", **bounds)
