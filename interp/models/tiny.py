"""Tiny random models of seven architectures, and one tokenizer for all of them, made in code.

They are real Hugging Face classes with real configurations, only small: 3 layers, d_model 32,
4 heads of size 8, d_mlp 64, n_ctx 512. What an engine gets right on all seven it gets right on
learned and rotary positions, grouped-query heads, parallel blocks, q/k norms, post-norms, sliding
windows and experts. Nothing is downloaded and nothing is written.

The weights are drawn wider than any library would draw them. With the usual 0.02 the blocks hardly
move the residual stream and biases are zero, so an edit at the wrong site changes the logits by
less than a tolerance and passes unseen. Here every parameter is random: matrices have standard
deviation 0.25, vectors (norm weights, norm biases, linear biases) have noise of 0.2 around the
value the architecture starts them with.

Some classes compute parts in float32 whatever the dtype of the weights: the RMS norms of Llama,
Qwen3, Gemma-3, Mistral and Mixtral, and all rotary angles. So in float64 only GPT-2 is exact to
1e-15 against a forward pass written anew; the others agree with it to about 1e-7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from interp.errors import ModelError, nearest

N_LAYERS, D_MODEL, N_HEADS, D_HEAD, D_MLP, N_CTX = 3, 32, 4, 8, 64, 512
SLIDING_WINDOW = 8
"""Of tiny-mistral and of the two sliding layers of tiny-gemma3, in tokens."""

MATRIX_STD, VECTOR_STD = 0.25, 0.2
"""Spread of the weights of two and more axes, and of those of one axis around their start."""

SPECIALS = ("<bos>", "<eos>", "<pad>")
"""The first three ids of `tokenizer()`, in this order."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}:{{ '\n' }}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{{ '\n' }}{% endif %}"
)
"""`<bos>User:`, the text, `Assistant:`, the answer and `<eos>`, each on a line of its own."""

PIECES = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s"
"""How `tokenizer()` cuts text: single digits, words and punctuation with the space before them."""

STARTS = "When The Then So After User Assistant System Question Answer boxed"
"""Words that are one token at the start of a line."""

WORDS = """
    the a an and or to of in at is was are it he she they that this so then but
    Mary John Tom James Dan Sid Martin Amy Alice Bob Anna Paul
    store park school office garden house drink book ball ring apple key
    went gave had got took put saw said gives has
    plus minus times equals sum number first next final answer total true false yes no not
    cat dog bird red blue green big small
"""
"""Words that are one token with the space before them."""


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer that all tiny models share: about 350 tokens, any text, exact.

    Digits, bytes and the words of `WORDS` are tokens; every other word is spelled in bytes.
    `<bos>` comes first unless `add_special_tokens=False`.

    >>> tok = tokenizer()
    >>> tok.convert_ids_to_tokens(tok("The sum is 12").input_ids)
    ['<bos>', 'The', 'Ġsum', 'Ġis', 'Ġ', '1', '2']
    >>> tok.decode(tok("naïve", add_special_tokens=False).input_ids)
    'naïve'
    """
    pieces = STARTS.split() + [f" {word}" for word in WORDS.split()]
    return piece_tokenizer(pieces, pattern=PIECES, n_ctx=N_CTX)


def piece_tokenizer(pieces: Iterable[str], *, pattern: str, n_ctx: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer that keeps `pieces` whole and spells all other text in bytes.

    `pattern` is a regular expression that cuts the text first; a cut that equals a piece is one
    token, any other is one token a byte. So no text is out of reach and decoding is exact. Ids:
    `SPECIALS`, then the 256 bytes, then the pieces in the order given. `n_ctx` is the longest text
    in tokens that its model reads; longer ones are encoded with a warning.
    """
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [to_bytes.pre_tokenize_str(piece)[0][0] for piece in pieces]
    tokens = dict.fromkeys((*SPECIALS, *sorted(to_bytes.alphabet()), *spelled))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])
    core.decoder = decoders.ByteLevel()
    bos, eos, pad = SPECIALS
    core.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B:1", special_tokens=[(bos, vocabulary[bos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        chat_template=CHAT_TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=n_ctx,
        clean_up_tokenization_spaces=False,
    )


def special_ids(tok: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return the vocabulary size and special token ids as a configuration names them."""
    return {
        "vocab_size": len(tok),
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
        "pad_token_id": tok.pad_token_id,
    }


def build(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return the tiny model `name` with random weights, on the CPU and in eval mode.

    Equal names and seeds give equal weights; another dtype rounds them. PyTorch's own random
    state is the same afterwards.

    Raises:
        ModelError: there is no tiny model of that name.
    """
    if name not in TINY:
        raise ModelError(
            f"There is no tiny model {name!r}; there are {', '.join(TINY)}.{nearest(name, TINY)}"
        )
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(
            TINY[name](),
            dtype=torch.float32,
            experts_implementation="eager",  # the default, a grouped product, has no float64
        )
    model.config.architectures = [type(model).__name__]
    _randomise(model, torch.Generator().manual_seed(seed))
    return model.to(dtype).eval()


@torch.no_grad()
def _randomise(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Draw every matrix afresh, and add noise to every vector, in place."""
    for parameter in model.parameters():  # a tied matrix is met once
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:  # starts at 0 or 1: norm weights and biases, linear biases
            parameter.add_(VECTOR_STD * noise)
        else:
            parameter.copy_(MATRIX_STD * noise)


def _sizes() -> dict[str, Any]:
    """Return the settings that all configurations but GPT-2's name alike."""
    return special_ids(tokenizer()) | {
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "max_position_embeddings": N_CTX,
    }


def _grouped() -> dict[str, Any]:
    """Return `_sizes` with two key-value heads, each shared by two query heads."""
    return _sizes() | {"num_key_value_heads": 2, "head_dim": D_HEAD}


def _gpt2() -> GPT2Config:
    """Learned positions, biases everywhere, tied unembedding."""
    return GPT2Config(
        **special_ids(tokenizer()),
        n_embd=D_MODEL,
        n_inner=D_MLP,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        n_positions=N_CTX,
    )


def _llama() -> LlamaConfig:
    """Rotary positions, gated MLP, grouped-query heads."""
    return LlamaConfig(**_grouped())


def _neox() -> GPTNeoXConfig:
    """Attention and MLP in parallel; half of each head is rotated."""
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
    return GPTNeoXConfig(**_sizes(), use_parallel_residual=True, rope_parameters=rope)


def _qwen3() -> Qwen3Config:
    """Norms on each head's q and k, grouped-query heads."""
    return Qwen3Config(**_grouped())


def _gemma3() -> Gemma3TextConfig:
    """Norms before and after each part, scaled embeddings, sliding and full layers."""
    return Gemma3TextConfig(
        **_grouped(),
        query_pre_attn_scalar=D_HEAD,
        sliding_window=SLIDING_WINDOW,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )


def _mistral() -> MistralConfig:
    """Llama with a window so short that a prompt of twelve tokens overruns it."""
    return MistralConfig(**_grouped(), sliding_window=SLIDING_WINDOW)


def _mixtral() -> MixtralConfig:
    """Four experts in each layer, two of them active for a token."""
    return MixtralConfig(**_grouped(), num_local_experts=4, num_experts_per_tok=2)


TINY: Mapping[str, Callable[[], PreTrainedConfig]] = MappingProxyType(
    {
        "tiny-gpt2": _gpt2,
        "tiny-llama": _llama,
        "tiny-neox": _neox,
        "tiny-qwen3": _qwen3,
        "tiny-gemma3": _gemma3,
        "tiny-mistral": _mistral,
        "tiny-mixtral": _mixtral,
    }
)
"""Name of each tiny model, and the function that returns its configuration."""
