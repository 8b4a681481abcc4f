"""The tiny models: right shapes and mechanisms, weights that matter, an exact tokenizer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import ModelError
from interp.models.tiny import SLIDING_WINDOW, TINY, build, tokenizer

TOK = tokenizer()
PROMPT = "When Mary and John went to the store, John gave a drink to"
printable = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def logits(model, ids):
    with torch.no_grad():
        return model(torch.as_tensor(ids)[None]).logits[0]


@pytest.mark.parametrize("name", TINY)
def test_each_model_has_the_declared_sizes_and_reads_the_shared_vocabulary(name):
    model = build(name)
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 32, 4)
    assert config.max_position_embeddings == 512
    assert config.vocab_size == len(TOK)
    assert config.architectures == [type(model).__name__]
    ids = TOK(PROMPT).input_ids
    out = logits(model, ids)
    assert out.shape == (len(ids), len(TOK))
    assert out.isfinite().all()
    assert not model.training


def test_the_seven_architectures_are_the_ones_meant():
    assert {name: type(build(name)).__name__ for name in TINY} == {
        "tiny-gpt2": "GPT2LMHeadModel",
        "tiny-llama": "LlamaForCausalLM",
        "tiny-neox": "GPTNeoXForCausalLM",
        "tiny-qwen3": "Qwen3ForCausalLM",
        "tiny-gemma3": "Gemma3ForCausalLM",
        "tiny-mistral": "MistralForCausalLM",
        "tiny-mixtral": "MixtralForCausalLM",
    }


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_is_random_norms_and_biases_included(name):
    model = build(name)
    spreads = {key: float(value.detach().std()) for key, value in model.named_parameters()}
    assert all(spread > 0.08 for spread in spreads.values()), min(spreads, key=spreads.get)


@pytest.mark.parametrize("name", TINY)
def test_every_matrix_moves_the_logits(name):
    """Else an edit at its site could be lost without a trace."""
    model, ids = build(name), TOK(PROMPT).input_ids
    whole = logits(model, ids)
    for key, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        parameter.data.copy_(kept.flip(-1))
        assert (logits(model, ids) - whole).abs().max() > 1e-3, key
        parameter.data.copy_(kept)
    assert torch.equal(logits(model, ids), whole)


@pytest.mark.parametrize("name", TINY)
def test_a_seed_fixes_the_weights_and_pytorchs_own_random_state_is_left_alone(name):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = build(name, seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    again, other = build(name, seed=3).state_dict(), build(name, seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", TINY)
def test_a_dtype_rounds_the_same_weights(name):
    single, double = build(name), build(name, dtype=torch.float64)
    assert double.dtype == torch.float64
    for key, value in double.state_dict().items():
        assert torch.equal(value.float(), single.state_dict()[key]), key
    ids = TOK(PROMPT).input_ids
    torch.testing.assert_close(
        logits(double, ids).float(), logits(single, ids), rtol=0, atol=1e-4
    )  # float32 rounding of logits near 5, through three layers


@pytest.mark.parametrize(("name", "reaches"), [(name, name != "tiny-mistral") for name in TINY])
def test_only_the_sliding_window_model_forgets_the_first_token(name, reaches):
    """Three layers of window 8 see 3 * 7 tokens back; Gemma-3's one full layer sees them all."""
    model = build(name)
    ids = torch.arange(100, 124)
    changed = ids.clone()
    changed[0] = 50
    difference = (logits(model, ids) - logits(model, changed)).abs().amax(dim=-1)
    assert difference[: 3 * (SLIDING_WINDOW - 1) + 1].min() > 0
    assert (difference[22:].min() > 0) == reaches
    assert (difference[22:].max() == 0) != reaches


def test_a_window_acts_within_twelve_tokens():
    model, ids = build("tiny-mistral"), list(range(100, 112))
    short = logits(model, ids)
    model.config.sliding_window = None
    difference = (logits(model, ids) - short).abs().amax(dim=-1)
    assert difference[:SLIDING_WINDOW].max() < 1e-5
    assert difference[SLIDING_WINDOW:].min() > 1e-3


def test_mechanisms_are_present():
    assert build("tiny-llama").model.layers[0].self_attn.k_proj.weight.shape == (16, 32)
    assert build("tiny-qwen3").model.layers[0].self_attn.q_norm.weight.shape == (8,)
    assert build("tiny-neox").config.use_parallel_residual
    assert build("tiny-neox").config.rope_parameters["partial_rotary_factor"] == 0.5
    assert build("tiny-mixtral").model.layers[0].mlp.experts.down_proj.shape == (4, 32, 64)
    gemma = build("tiny-gemma3")
    assert hasattr(gemma.model.layers[0], "post_feedforward_layernorm")
    assert gemma.config.layer_types.count("full_attention") == 1


def test_an_unknown_name_lists_the_known_ones():
    message = r"^There is no tiny model 'tiny-lama'; there are tiny-gpt2, .*'tiny-llama'\?$"
    with pytest.raises(ModelError, match=message):
        build("tiny-lama")


@given(printable)
@settings(deadline=None, derandomize=True)
def test_any_text_is_decoded_exactly(text):
    ids = TOK(text, add_special_tokens=False).input_ids
    assert TOK.decode(ids) == text
    assert TOK(text).input_ids == [TOK.bos_token_id, *ids]
    assert TOK.decode(TOK(text).input_ids, skip_special_tokens=True) == text
    assert all(i >= 3 for i in ids)


@given(st.integers(0, 10**9), st.sampled_from(["sum is ", "{", "", "$", "x"]))
@settings(deadline=None, derandomize=True)
def test_each_digit_is_a_token_wherever_it_stands(number, before):
    tokens = TOK.convert_ids_to_tokens(TOK(f"{before}{number}}}").input_ids)
    assert tokens[-1] == "}"
    assert tokens[-1 - len(str(number)) : -1] == list(str(number))


def test_words_are_one_token_and_offsets_point_into_the_text():
    coded = TOK(PROMPT, return_offsets_mapping=True)
    cuts = [PROMPT[start:end] for start, end in coded.offset_mapping]
    expected = "|When| Mary| and| John| went| to| the| store|,| John| gave| a| drink| to"
    assert cuts == expected.split("|")


def test_the_chat_template_marks_both_sides_and_opens_the_answer():
    chat = [{"role": "user", "content": "What is 2 plus 3?"}]
    prompt = TOK.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert prompt == "<bos>User:\nWhat is 2 plus 3?\nAssistant:\n"
    full = TOK.apply_chat_template([*chat, {"role": "assistant", "content": "5"}], tokenize=False)
    assert full == "<bos>User:\nWhat is 2 plus 3?\nAssistant:\n5<eos>\n"
    ids = TOK.apply_chat_template(chat, add_generation_prompt=True).input_ids
    assert ids.count(TOK.bos_token_id) == 1
    assert TOK.decode(ids) == prompt


def test_the_tokenizer_is_small_and_made_alike_each_time():
    assert len(TOK) < 500
    assert TOK.convert_tokens_to_ids(["<bos>", "<eos>", "<pad>"]) == [0, 1, 2]
    assert tokenizer().get_vocab() == TOK.get_vocab()


@pytest.mark.parametrize("name", TINY)
def test_a_model_generates_with_its_cache(name):
    ids = torch.tensor([TOK("The sum is").input_ids])
    model = build(name)
    settings_ = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None}
    with_cache = model.generate(ids, **settings_)
    assert with_cache.shape == (1, ids.shape[1] + 12)
    assert torch.equal(with_cache, model.generate(ids, use_cache=False, **settings_))
