"""Receipts prove what an edit did; errors say what is wrong, before anything is touched.

The checks of shapes and types that other tests run under are off here, so that the errors are those
that a user meets.
"""

from __future__ import annotations

import jaxtyping
import pytest
import torch
from torch import nn

import interp
from interp.edits import (
    Add,
    Clamp,
    Edit,
    MeanAblate,
    Patch,
    Project,
    ResampleAblate,
    Scale,
    ZeroAblate,
)
from interp.engine.fingerprint import fingerprint
from interp.engine.loading import load
from interp.engine.model import Run
from interp.engine.receipts import EditReceipt, Receipt, first_few
from interp.errors import (
    EditError,
    InputError,
    ModelError,
    PositionError,
    SilentEditError,
    SiteError,
    nearest,
)
from interp.models import tiny as tiny_models
from interp.sites import Each, New, Site
from tests.strategies import (
    KINDS,
    DeafModel,
    ToyModel,
    TwiceModel,
    make,
    one_of_each,
    same,
    says,
    tiny,
)

PROMPTS = [[5, 60, 7, 200], [9, 33]]
ARCHITECTURES = ("tiny-gpt2", "tiny-llama", "tiny-neox")
BROADCAST = "PyTorch would broadcast, so give exactly that shape."


@pytest.fixture(autouse=True)
def as_a_user_meets_it(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def touched(monkeypatch) -> list[str]:
    """What a run does to a model: each hook that is installed and each forward pass."""
    done: list[str] = []

    def noted(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def method(self, *args, **kwargs):
            done.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, method)

    noted(nn.Module, "register_forward_hook")
    noted(nn.Module, "register_forward_pre_hook")
    noted(nn.Embedding, "forward")  # every forward pass embeds
    return done


# ---------------------------------------------------------------- receipts


def test_a_receipt_by_hand():
    """Prompts (1, 2) and (3): attn_out 2 t R is set to 0 at both prompts' token 0.

    |R|^2 = 1 + 4 + 9 + 16 = 30, so the change is sqrt((2^2 + 6^2) 30) = sqrt(1200), all of it. The
    second edit halves mlp_out = 10 (2 + 4) R of prompt 0 at token 1: sqrt(30^2 * 30) of twice that.
    """
    edits = [
        ZeroAblate("0.attn_out", positions=0),
        Scale("0.mlp_out", factor=0.5, positions=1, rows=0),
    ]
    receipt = ToyModel().run([[1, 2], [3]], edits=edits).receipt
    assert [proof.edit for proof in receipt.edits] == edits
    assert receipt[0] == EditReceipt(
        edits[0], 1, ((0, 0), (1, 0)), pytest.approx(1200**0.5), pytest.approx(1200**0.5)
    )
    assert receipt[1] == EditReceipt(
        edits[1], 1, ((0, 1),), pytest.approx(27_000**0.5), pytest.approx(108_000**0.5)
    )
    assert (len(receipt), receipt.acted) == (2, True)
    assert str(receipt) == (
        "ZeroAblate(0.attn_out, positions=(0,)): fired 1x at 2 tokens, "
        "change 34.64 (100.0% of 34.6)\n"
        "Scale(0.mlp_out, positions=(1,), rows=(0,)): fired 1x at 1 tokens, "
        "change 164.3 (50.0% of 329)"
    )


def test_a_receipt_of_an_edit_that_did_nothing_says_so():
    """Token 0 is embedded as zero: it can be ablated, but nothing changes."""
    receipt = ToyModel().run([[0]], edits=[ZeroAblate("0.attn_out")]).receipt
    assert (receipt[0].fired, receipt[0].acted, receipt.acted) == (1, False, False)
    assert str(receipt) == (
        "ZeroAblate(0.attn_out): fired 1x at 1 tokens, change 0"
        "  NO-OP: it fired and changed nothing"
    )


def test_one_edit_that_did_nothing_is_enough_for_the_receipt_to_say_no():
    edits = [Scale("0.attn_out", factor=1.0), Scale("0.mlp_out", factor=2.0)]
    receipt = ToyModel().run([[1]], edits=edits).receipt
    assert [proof.acted for proof in receipt.edits] == [False, True]
    assert not receipt.acted


def test_no_edits_no_proof():
    run = ToyModel().run([[1]])
    assert (len(run.receipt), str(run.receipt), run.receipt.acted) == (0, "no edits", True)
    assert Receipt() == run.receipt


def test_tokens_are_written_for_a_message():
    pairs = [(0, 4), (1, 4), (1, 5), (2, 0), (2, 1)]
    assert first_few(pairs[:1]) == "prompt 0 position 4"
    assert first_few(pairs) == (
        "prompt 0 position 4, prompt 1 position 4, prompt 1 position 5 and 2 more"
    )


def test_a_run_says_what_it_ran_on():
    run = ToyModel().run([[1, 2], [3]], padding_side="left", capture="0.attn_out")
    assert isinstance(run, Run)
    assert run.ids == ((1, 2), (3,))
    assert list(run.acts) == ["0.attn_out"]
    assert run.acts[Site("attn_out", 0)] is run.acts["0.attn_out"]


# ---------------------------------------------------------------- silence is an error


def test_an_engine_that_never_calls_a_tap_is_an_error_not_a_null_result():
    text = (
        "ZeroAblate(0.attn_out, positions=(0,)) did not act: no forward pass reached it at "
        "prompt 0 position 0, prompt 1 position 0, so the run would show nothing."
    )
    with says(SilentEditError, text):
        DeafModel().run([[1, 2], [3]], edits=[ZeroAblate("0.attn_out", positions=0)])
    with says(SilentEditError, "No forward pass reached 0.attn_out, so nothing was captured."):
        DeafModel().run([[1]], capture="0.attn_out")


@pytest.mark.parametrize("cache", [True, False])
def test_a_generation_whose_taps_never_fire_is_an_error(cache):
    with pytest.raises(SilentEditError, match=r"^Scale\(0\.attn_out\) did not act: no forward"):
        DeafModel().generate(
            [[1]], max_new_tokens=3, edits=[Scale("0.attn_out", factor=2.0)], cache=cache
        )


def test_an_engine_that_calls_a_tap_twice_is_an_error_even_for_an_idempotent_edit():
    text = (
        "ZeroAblate(0.attn_out) was applied twice to one token: its site ran more than once, so "
        "its effect has no meaning; please report the architecture."
    )
    with says(SilentEditError, text):
        TwiceModel().run([[1]], edits=[ZeroAblate("0.attn_out")])


# ---------------------------------------------------------------- errors before a run


BEFORE = {
    "a site of no model": (
        lambda: dict(edits=[Scale("0.atn_out", factor=2.0)]),
        SiteError,
        "'0.atn_out' is no site: write <layer>.<component> such as 5.attn.z, or one of embed, "
        "pos_embed, ln_final, logits. Did you mean '0.attn_out'?",
    ),
    "a capture of no model": (
        lambda: dict(capture=["1.attn_out", "1.mlp.pst"]),
        SiteError,
        "'1.mlp.pst' is no site: write <layer>.<component> such as 5.attn.z, or one of embed, "
        "pos_embed, ln_final, logits. Did you mean '1.mlp.post'?",
    ),
    "a layer too far": (
        lambda: dict(edits=[Scale("3.attn_out", factor=2.0)]),
        SiteError,
        "The model has no site '3.attn_out': its layers are 0 to 2.",
    ),
    "a captured layer too far": (
        lambda: dict(capture="17.resid_post"),
        SiteError,
        "The model has no site '17.resid_post': its layers are 0 to 2.",
    ),
    "a site that it lacks": (
        lambda: dict(capture="pos_embed"),
        SiteError,
        "The model has no site 'pos_embed' (the architecture has no such module)."
        " Did you mean 'embed'?",
    ),
    "a position past the end": (
        lambda: dict(edits=[ZeroAblate("1.attn_out", positions=(0, 4), rows=0)]),
        PositionError,
        "ZeroAblate(1.attn_out, positions=(0, 4), rows=(0,)): position 4 is past the end: prompt 0 "
        "has 4 tokens that the model sees, the last at position 3.",
    ),
    "a position past the end of a shorter prompt": (
        lambda: dict(edits=[ZeroAblate("1.attn_out", positions=2)]),
        PositionError,
        "ZeroAblate(1.attn_out, positions=(2,)): position 2 is past the end: prompt 1 has 2 tokens "
        "that the model sees, the last at position 1.",
    ),
    "a captured position past the end": (
        lambda: dict(capture={"1.attn_out": [0, 2]}),
        PositionError,
        "capture of 1.attn_out: position 2 is past the end: prompt 1 has 2 tokens that the model "
        "sees, the last at position 1.",
    ),
    "a negative captured position": (
        lambda: dict(capture={"1.attn_out": -1}),
        PositionError,
        "Position -1 is negative: positions count real tokens from 0 at the left, so write the "
        "index itself, such as len(tokens) - 1 for the last.",
    ),
    "new tokens captured in a run": (
        lambda: dict(capture={"1.attn_out": "new"}),
        PositionError,
        "capture of 1.attn_out: 'new' cannot be captured; name positions, 'last' or 'all'.",
    ),
    "a head that does not exist": (
        lambda: dict(edits=[ZeroAblate("1.attn.z", heads=(1, 4))]),
        EditError,
        "ZeroAblate(1.attn.z, heads=(1, 4)): there is no head 4; the model's heads are 0 to 3.",
    ),
    "a head that does not exist at a shared site": (
        lambda: dict(edits=[ZeroAblate("1.attn.k", heads=9)]),
        EditError,
        "ZeroAblate(1.attn.k, heads=(9,)): there is no head 9; the model's heads are 0 to 3.",
    ),
    "a row that does not exist": (
        lambda: dict(edits=[ZeroAblate("1.attn_out", rows=(0, 2))]),
        EditError,
        "ZeroAblate(1.attn_out, rows=(0, 2)): there is no prompt 2; the batch has 2.",
    ),
    "what is no edit": (
        lambda: dict(edits=["1.attn_out"]),
        EditError,
        "'1.attn_out' is no edit: pass a list of Patch, Add, ZeroAblate, ...",
    ),
    "new tokens in a run": (
        lambda: dict(edits=[ZeroAblate("1.attn_out", positions="new")]),
        SilentEditError,
        "ZeroAblate(1.attn_out, positions=new) names no token of this run, so it would change "
        "nothing; new tokens exist only in generate(..., max_new_tokens=2 or more).",
    ),
    "logits past the end": (
        lambda: dict(logits=2),
        PositionError,
        "logits: position 2 is past the end of a prompt of 2 tokens.",
    ),
    "logits of new tokens": (
        lambda: dict(logits="new"),
        PositionError,
        "logits='new': give 'all', 'last', or token indices.",
    ),
    "an unknown word": (
        lambda: dict(captures=["1.attn_out"]),
        TypeError,
        "Model.run() got an unexpected keyword argument 'captures'",
    ),
    "prompt tokens captured by name": (
        lambda: dict(capture={"1.attn_out": "prompt"}),
        PositionError,
        "capture of 1.attn_out: 'prompt' cannot be captured; name positions, 'last' or 'all'.",
    ),
    "positions of each prompt captured": (
        lambda: dict(capture={"1.attn_out": Each(((0,), (1,)))}),
        PositionError,
        "capture of 1.attn_out: Each(((0,), (1,))) cannot be captured; name positions, 'last' or "
        "'all'.",
    ),
    "positions of each prompt for other prompts": (
        lambda: dict(edits=[ZeroAblate("1.attn_out", positions=Each(((0,),)))]),
        PositionError,
        "ZeroAblate(1.attn_out, positions=Each(((0,),))): Each names positions for 1 prompts and "
        "the batch has 2; give one tuple a prompt.",
    ),
    "a position of one prompt past its end": (
        lambda: dict(edits=[ZeroAblate("1.attn_out", positions=Each(((3,), (1, 2))))]),
        PositionError,
        "ZeroAblate(1.attn_out, positions=Each(((3,), (1, 2)))): position 2 is past the end: "
        "prompt 1 has 2 tokens that the model sees, the last at position 1.",
    ),
    "a chosen new token in a run": (
        lambda: dict(edits=[ZeroAblate("1.attn_out", positions=New(0))]),
        PositionError,
        "ZeroAblate(1.attn_out, positions=New(0)): the model sees 0 new tokens of prompt 0, so "
        "there is no new token 0; raise max_new_tokens of generate.",
    ),
    "a head of a map that does not exist": (
        lambda: dict(edits=[ZeroAblate("1.attn.scores", heads=4)]),
        EditError,
        "ZeroAblate(1.attn.scores, heads=(4,)): there is no head 4; the model's heads are 0 to 3.",
    ),
}


@pytest.mark.parametrize("case", BEFORE)
def test_what_is_wrong_is_said_before_a_hook_is_installed_or_a_token_embedded(case, touched):
    options, error, text = BEFORE[case]
    model = tiny("tiny-llama")
    assert model.sites  # the address book is settled
    before = fingerprint(model.hf)
    del touched[:]
    with says(error, text):
        model.run(PROMPTS, **options())
    assert touched == []
    assert fingerprint(model.hf) == before


def test_the_fixture_sees_hooks_and_forward_passes(touched):
    tiny("tiny-llama").run(PROMPTS, edits=[ZeroAblate("1.attn_out"), ZeroAblate("1.attn.z")])
    assert sorted(touched) == ["forward", "register_forward_hook", "register_forward_pre_hook"]


def test_a_component_of_parallel_blocks_is_refused_with_the_reason():
    text = (
        "The model has no site '1.resid_mid' (attention is not added before the second norm, as in "
        "parallel blocks). Did you mean '1.resid_pre'?"
    )
    for asked in ({"capture": "1.resid_mid"}, {"edits": [Scale("1.resid_mid", factor=2.0)]}):
        with says(SiteError, text):
            tiny("tiny-neox").run(PROMPTS, **asked)
    assert "1.resid_mid" not in tiny("tiny-neox").sites


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([], "No prompt was given: pass text, token ids, or a list of either."),
        ([[5], []], "Prompt 1 is empty: a prompt needs at least one token."),
        ([5, 349], "Prompt 0 holds token 349, but the vocabulary has 349 tokens."),
        ([[5], [-3]], "Prompt 1 holds token -3, but the vocabulary has 349 tokens."),
        (
            [[5] * 513],
            "A prompt of 513 tokens is longer than the context of tiny-llama, 512 tokens: "
            "shorten it.",
        ),
    ],
)
@pytest.mark.parametrize("ask", ["run", "generate"])
def test_wrong_prompts_are_refused_before_the_model_runs(inputs, text, ask, touched):
    options = {} if ask == "run" else {"max_new_tokens": 2}
    with says(InputError, text):
        getattr(tiny("tiny-llama"), ask)(inputs, **options)
    assert touched == []


GENERATION = {
    "no new token": (
        dict(max_new_tokens=0),
        InputError,
        "max_new_tokens=0: ask for at least 1.",
    ),
    "a negative temperature": (
        dict(temperature=-1.0),
        InputError,
        "temperature=-1.0: give 0 (greedy) or a positive number.",
    ),
    "no probability": (
        dict(top_p=0.0),
        InputError,
        "top_p=0.0: give a probability above 0 and at most 1.",
    ),
    "more than all probability": (
        dict(top_p=1.5),
        InputError,
        "top_p=1.5: give a probability above 0 and at most 1.",
    ),
    "too much to write": (
        dict(max_new_tokens=509),
        InputError,
        "4 prompt tokens and max_new_tokens=509 exceed the context of tiny-llama, 512 tokens.",
    ),
    "rotated keys with a cache": (
        dict(edits=[ZeroAblate("1.attn.rot_k")]),
        EditError,
        "ZeroAblate(1.attn.rot_k): the cache keeps what was there before this edit, so later "
        "tokens would not see it: pass cache=False.",
    ),
    "single heads' keys with a cache": (
        dict(edits=[ZeroAblate("1.attn.k_each", heads=1)]),
        EditError,
        "ZeroAblate(1.attn.k_each, heads=(1,)): the cache keeps what was there before this edit, "
        "so later tokens would not see it: pass cache=False.",
    ),
    "single heads' values with a cache": (
        dict(edits=[ZeroAblate("0.attn.v_each")]),
        EditError,
        "ZeroAblate(0.attn.v_each): the cache keeps what was there before this edit, so later "
        "tokens would not see it: pass cache=False.",
    ),
    "the token that is written last": (
        dict(edits=[Scale("1.attn_out", factor=2.0, positions=5, rows=0)]),
        PositionError,
        "Scale(1.attn_out, positions=(5,), rows=(0,)): position 5 is past the end: prompt 0 has 5 "
        "tokens that the model sees, the last at position 4.",
    ),
    "the only new token": (
        dict(edits=[ZeroAblate("1.attn_out", positions="new")], max_new_tokens=1),
        SilentEditError,
        "ZeroAblate(1.attn_out, positions=new) names no token of this run, so it would change "
        "nothing; new tokens exist only in generate(..., max_new_tokens=2 or more).",
    ),
    "what is no edit": (
        dict(edits=[None]),
        EditError,
        "None is no edit: pass a list of Patch, Add, ZeroAblate, ...",
    ),
    "an unknown word": (
        dict(top_k=5),
        TypeError,
        "generate() got an unexpected keyword argument 'top_k'",
    ),
}


@pytest.mark.parametrize("case", GENERATION)
def test_wrong_settings_of_a_generation_are_refused_before_the_model_runs(case, touched):
    options, error, text = GENERATION[case]
    with says(error, text):
        tiny("tiny-llama").generate(PROMPTS, **{"max_new_tokens": 2, **options})
    assert touched == []


def test_asking_for_what_was_not_captured():
    run = tiny("tiny-llama").run(PROMPTS, capture=["1.attn_out", "0.mlp_out"])
    rule = "add it to capture=[...]; captured: 1.attn_out, 0.mlp_out."
    with says(
        SiteError,
        f"'0.attn_out' was not captured in this run: {rule} Did you mean '1.attn_out'?",
    ):
        run.acts["0.attn_out"]
    with pytest.raises(SiteError, match=r"was not captured in this run: .* captured: nothing\.$"):
        tiny("tiny-llama").run(PROMPTS).acts["embed"]
    with pytest.raises(SiteError, match=r"'2\.resid_post' was not captured"):
        run.mean("2.resid_post")


# ---------------------------------------------------------------- errors of an edit's tensors

D = "[32]"
WIDE = torch.ones(2, 4, 32)
HEADED = torch.ones(2, 4, 4, 8)
TENSORS = {
    "a source of one number a token": (
        Patch("1.resid_post", source=WIDE[..., :1]),
        f"Patch(1.resid_post): the source has shape [1] a token and the activation {D}; "
        + BROADCAST,
    ),
    "a source without a last axis": (
        Patch("1.resid_post", source=WIDE[..., 0]),
        f"Patch(1.resid_post): the source has shape [] a token and the activation {D}; "
        + BROADCAST,
    ),
    "a source wider than the site": (
        Patch("1.resid_post", source=torch.ones(2, 4, 64)),
        f"Patch(1.resid_post): the source has shape [64] a token and the activation {D}; "
        + BROADCAST,
    ),
    "a source with one head for all": (
        Patch("1.attn.z", source=HEADED[:, :, :1]),
        "Patch(1.attn.z): the source has shape [1, 8] a token and the activation [4, 8]; "
        + BROADCAST,
    ),
    "a source without a head axis": (
        Patch("1.attn.z", source=HEADED[:, :, 0]),
        "Patch(1.attn.z): the source has shape [8] a token and the activation [4, 8]; " + BROADCAST,
    ),
    "a source of one prompt for two": (
        Patch("1.resid_post", source=WIDE[:1]),
        "Patch(1.resid_post): the source holds 1 prompts and the batch 2; expand the source to one "
        "entry a prompt.",
    ),
    "a source with padding": (
        Patch("1.resid_post", source=torch.full_like(WIDE, torch.nan)),
        "Patch(1.resid_post): the source is NaN at a named position: that is padding.",
    ),
    "a reference with padding": (
        ResampleAblate("1.resid_post", source=torch.full_like(WIDE, torch.nan)),
        "ResampleAblate(1.resid_post): the source is NaN at a named position: that is padding.",
    ),
    "a prompt without a donor": (
        ResampleAblate("1.resid_post", source=WIDE, donors=(1,)),
        "ResampleAblate(1.resid_post): prompt 1 has no donor in donors=(1,); give each prompt one "
        "of the 2 reference prompts.",
    ),
    "a donor that does not exist": (
        ResampleAblate("1.resid_post", source=WIDE, donors=(1, 2)),
        "ResampleAblate(1.resid_post): prompt 1 has no donor in donors=(1, 2); give each prompt "
        "one of the 2 reference prompts.",
    ),
    "a vector of one number": (
        Add("1.resid_post", vector=torch.ones(1)),
        f"Add(1.resid_post): the vector has shape [1] a token and the activation {D}; {BROADCAST}",
    ),
    "a number": (
        Add("1.resid_post", vector=torch.tensor(1.0)),
        f"Add(1.resid_post): the vector has shape [] a token and the activation {D}; {BROADCAST}",
    ),
    "a vector for each position": (
        Add("1.resid_post", vector=torch.ones(6, 32)),
        f"Add(1.resid_post): the vector has shape [6, 32] a token and the activation {D}; "
        + BROADCAST,
    ),
    "a vector with one head for all": (
        Add("1.attn.z", vector=torch.ones(1, 8)),
        "Add(1.attn.z): the vector has shape [1, 8] a token and the activation [4, 8]; "
        + BROADCAST,
    ),
    "a vector for all heads where two are named": (
        Add("1.attn.z", vector=torch.ones(4, 8), heads=(0, 2)),
        "Add(1.attn.z, heads=(0, 2)): the vector has shape [4, 8] a token and the activation "
        "[2, 8]; " + BROADCAST,
    ),
    "a vector that is not finite": (
        Add("1.resid_post", vector=torch.full((32,), torch.inf)),
        "Add(1.resid_post) made a value that is not finite; check its vector or scale.",
    ),
    "directions of the wrong width": (
        Project("1.resid_post", directions=torch.ones(2, 16)),
        "Project(1.resid_post): the span of directions has shape [16] a token and the activation "
        "[32]; " + BROADCAST,
    ),
    "no direction at all": (
        Project("1.resid_post", directions=torch.zeros(2, 32)),
        "Project(1.resid_post): all directions are zero, so there is nothing to project.",
    ),
    "a clamped direction of the wrong width": (
        Clamp("1.resid_post", value=0.0, direction=torch.ones(1)),
        f"Clamp(1.resid_post): the direction has shape [1] a token and the activation {D}; "
        + BROADCAST,
    ),
    "a unit too far": (
        Scale("1.resid_post", factor=2.0, units=(3, 32)),
        "Scale(1.resid_post, units=(3, 32)): there is no unit 32; 1.resid_post has 32 units.",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_a_tensor_that_does_not_fit_is_refused_and_the_model_is_as_it_was(case):
    edit, text = TENSORS[case]
    before = fingerprint(tiny("tiny-llama").hf)
    with says(EditError, text):
        tiny("tiny-llama").run([[5, 6, 7], [8, 9, 10]], edits=[edit])
    assert fingerprint(tiny("tiny-llama").hf) == before


MISFITS = {
    "a source without a head axis": Patch(
        "1.attn.z", source=torch.ones(2, 4, 8), heads=3, positions=0
    ),
    "a source of one unit": Patch("1.resid_post", source=torch.ones(2, 4, 1), units=3),
    "a source wider than the site": Patch("1.resid_post", source=torch.ones(2, 4, 64), units=3),
    "a source with more heads than the site": Patch("1.attn.v", source=HEADED, heads=3),
    "a mean without a head axis": MeanAblate("1.attn.z", mean=torch.ones(8), heads=1),
    "a mean wider than the site": MeanAblate("1.resid_post", mean=torch.ones(64), units=3),
    "a donor wider than the site": ResampleAblate(
        "1.resid_post", source=torch.ones(2, 4, 64), units=3
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_naming_heads_or_units_hides_no_misfit(case):
    """Heads and units are taken from a source whose last axes are the site's, and from no other."""
    with pytest.raises(EditError, match=r"has shape .* PyTorch would broadcast"):
        tiny("tiny-llama").run([[5, 6, 7], [8, 9, 10]], edits=[MISFITS[case]])


@pytest.mark.parametrize("width", [2, 16])
def test_a_mean_of_the_wrong_width_is_called_by_its_shape(width):
    """Whether or not the prompt has more tokens than the mean has numbers."""
    edit = MeanAblate("1.resid_post", mean=torch.ones(width))
    with pytest.raises(EditError, match=rf"^MeanAblate\(1\.resid_post\): .*\[{width}\].*\[32\]"):
        tiny("tiny-llama").run([[5, 6, 7], [8, 9, 10]], edits=[edit])


@pytest.mark.parametrize(
    ("edit", "position"),
    [
        (Patch("1.resid_post", source=WIDE[:, :2]), 2),
        (Patch("1.resid_post", source=WIDE, positions=1, source_positions=6), 6),
        (ResampleAblate("1.resid_post", source=WIDE[:, :1]), 2),
        (MeanAblate("1.resid_post", mean=WIDE[0, :2]), 2),
    ],
)
def test_a_source_that_is_too_short_is_refused(edit, position):
    with pytest.raises(
        PositionError,
        match=rf"has no token at position {position}; capture it from a prompt that is long "
        r"enough\.$",
    ):
        tiny("tiny-llama").run([[5, 6, 7], [8, 9, 10]], edits=[edit])


class Broadcasts(Edit):
    """A user's own edit that returns one number for each entry."""

    def new(self, act, where):
        return act[..., :1]


def test_an_edit_of_ones_own_may_not_broadcast():
    text = (
        "Broadcasts(1.resid_post) returned shape [3, 1] for entries of [3, 32]; PyTorch would "
        "broadcast, so return exactly that shape."
    )
    with says(EditError, text):
        tiny("tiny-llama").run([[5, 6, 7]], edits=[Broadcasts("1.resid_post")])


# ---------------------------------------------------------------- loading


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"engine": "transformerlens"},
            InputError,
            "There is no engine 'transformerlens'; there are: torch, transformer_lens, nnsight."
            " Did you mean 'transformer_lens'?",
        ),
        (
            {"dtype": "bfloat61"},
            InputError,
            "There is no dtype 'bfloat61'; there are: float32, float64, bfloat16, float16."
            " Did you mean 'bfloat16'?",
        ),
        ({"device": "gpu"}, InputError, "There is no device 'gpu': write cpu, cuda or cuda:0."),
    ],
)
def test_wrong_settings_of_load_are_refused(options, error, text):
    with says(error, text):
        load("tiny-gpt2", **options)


def test_an_unknown_model_gets_the_nearest_name():
    with pytest.raises(ModelError, match=r"Did you mean 'tiny-llama'\?"):
        load("tiny-lama")


def test_a_model_in_training_mode_is_refused():
    hf = tiny_models.build("tiny-gpt2").train()
    text = (
        "GPT2LMHeadModel is in training mode, where dropout makes runs random: call .eval() first."
    )
    with says(ModelError, text):
        load(hf)
    assert hf.training  # it is not changed either


def test_a_live_model_is_taken_as_it_is():
    hf = tiny_models.build("tiny-gpt2")
    text = (
        "A live model is taken as it is: convert it yourself, or load it by name to give dtype or "
        "options."
    )
    for options in ({"dtype": "float64"}, {"revision": "main"}):
        with says(ModelError, text):
            load(hf, **options)
    assert load(hf, dtype="float32").hf is hf
    with says(
        ModelError, "A model is a name, a folder or a Hugging Face PreTrainedModel, not Linear."
    ):
        load(nn.Linear(2, 2))


def test_the_nearest_name_is_given_only_where_one_is_near():
    assert nearest("0.atn_out", ["0.attn_out", "0.mlp_out"]) == " Did you mean '0.attn_out'?"
    assert nearest("qqq", ["0.attn_out"]) == nearest("x", []) == ""


# ---------------------------------------------------------------- no leaks


EACH = [(name, site) for name in ARCHITECTURES for site in one_of_each(name)]


class Raises(Edit):
    """An edit that fails inside a hook."""

    error: type[BaseException] = RuntimeError

    def new(self, act, where):
        raise self.error("from inside a hook")


class Interrupted(Raises):
    """An edit during which the user presses Ctrl-C."""

    error = KeyboardInterrupt


@pytest.mark.parametrize(("name", "site"), EACH)
def test_nothing_is_left_on_the_model_at_any_site_whatever_happens(name, site):
    model = tiny(name)
    clean = model.run(PROMPTS).logits
    before = fingerprint(model.hf)
    for edit in (ZeroAblate(site), Scale(site, factor=2.0, positions=1)):
        run = model.run(PROMPTS, edits=[edit], capture=["1.attn.pattern", site])
        assert run.receipt.acted
        assert not same(run.logits, clean)
        assert fingerprint(model.hf) == before
    with pytest.raises(RuntimeError, match=r"^from inside a hook$"):
        model.run(PROMPTS, edits=[ZeroAblate("0.attn.rot_q"), Raises(site)], capture="2.attn.z")
    assert fingerprint(model.hf) == before
    with pytest.raises(KeyboardInterrupt):
        model.run(PROMPTS, edits=[Interrupted(site), ZeroAblate("2.attn.q")])
    assert fingerprint(model.hf) == before
    assert same(model.run(PROMPTS).logits, clean)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("cache", [True, False])
def test_nothing_is_left_on_the_model_by_a_generation(name, cache):
    model = tiny(name)
    before = fingerprint(model.hf)
    edits = [make(name, "Add", site, PROMPTS) for site in ("1.attn.q", "0.mlp.post", "logits")]
    model.generate(PROMPTS, max_new_tokens=3, edits=edits, cache=cache)
    assert fingerprint(model.hf) == before
    for error in (Raises, Interrupted):
        with pytest.raises((RuntimeError, KeyboardInterrupt), match=r"^from inside a hook$"):
            model.generate(
                PROMPTS,
                max_new_tokens=3,
                edits=[*edits, error("1.attn.rot_q", positions="new")],
                cache=cache,
            )
        assert fingerprint(model.hf) == before


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_fingerprint_sees_each_kind_of_leak(name):
    hf = tiny_models.build(name)
    seen = [fingerprint(hf)]
    assert fingerprint(hf) == seen[0]
    handle = hf.register_forward_hook(lambda *_: None)
    seen.append(fingerprint(hf))
    handle.remove()
    assert fingerprint(hf) == seen[0]
    handle = hf.base_model.register_forward_pre_hook(lambda *_: None)
    seen.append(fingerprint(hf))
    handle.remove()
    held = hf.config._attn_implementation_internal
    hf.config._attn_implementation_internal = "eager"
    seen.append(fingerprint(hf))
    hf.config._attn_implementation_internal = held
    hf.base_model.forward = hf.base_model.forward
    seen.append(fingerprint(hf))
    del hf.base_model.forward
    assert fingerprint(hf) == seen[0]
    with torch.no_grad():
        next(hf.parameters()).mul_(1.0)
    seen.append(fingerprint(hf))
    hf.train()
    seen.append(fingerprint(hf))
    assert len(set(seen)) == len(seen)


def test_a_users_own_hooks_stay_and_go_on_working():
    """A hook that doubles the first MLP's output acts in every run, and is there afterwards."""
    hf = tiny_models.build("tiny-llama")
    model = load(hf)
    doubled = model.run(PROMPTS, edits=[Scale("0.mlp_out", factor=2.0)]).logits
    calls: list[int] = []

    def double(module, args, output):
        calls.append(1)
        return 2 * output

    handle = hf.model.layers[0].mlp.register_forward_hook(double)
    before = fingerprint(hf)
    assert same(model.run(PROMPTS).logits, doubled)
    edited = model.run(PROMPTS, edits=[ZeroAblate("1.attn.q")], capture="0.mlp_out")
    assert not same(edited.logits, doubled)
    with pytest.raises(RuntimeError, match="from inside a hook"):
        model.run(PROMPTS, edits=[Raises("0.mlp_out")])
    assert len(calls) == 3
    assert fingerprint(hf) == before
    assert list(hf.model.layers[0].mlp._forward_hooks.values()) == [double]
    handle.remove()
    assert same(model.run(PROMPTS, edits=[Scale("0.mlp_out", factor=2.0)]).logits, doubled)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_edit_is_proved_and_written(kind):
    edit = make("tiny-llama", kind, "1.attn.z", PROMPTS, positions=1, heads=2)
    proof = tiny("tiny-llama").run(PROMPTS, edits=[edit]).receipt[0]
    assert (proof.fired, proof.tokens, proof.acted) == (1, ((0, 1), (1, 1)), True)
    written = f"{type(edit).__name__}(1.attn.z, positions=(1,), heads=(2,)): fired 1x at 2 tokens"
    assert str(proof).startswith(f"{written}, change ")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m: interp.load("tiny-gpt2", revison="x"), "tiny-gpt2 is made in code and takes no"),
        (lambda m: interp.load("tiny-gpt2", tokenizer="gpt2"), "tokenizer= goes with a live model"),
        (
            lambda m: interp.load("tiny-gpt2", dtype=torch.int8),
            "There is no dtype torch.int8; there are: ",
        ),
        (lambda m: m.run(None), "inputs=None: pass text, token ids"),
        (lambda m: m.run(["a", 3]), "Prompt 1 is 3: pass text or a list of whole token ids"),
        (lambda m: m.run([[1.5, 2]]), r"Prompt 0 is \[1.5, 2\]: pass text"),
        (lambda m: m.run("a", padding_side="middle"), "padding_side='middle': write 'left' or"),
        (lambda m: m.generate("a", max_new_tokens=2.5), "max_new_tokens=2.5: give a whole number"),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused_in_a_sentence(call, text):
    with pytest.raises(InputError, match=f"^{text}"):
        call(tiny("tiny-gpt2"))
