"""`load`: put a model behind an engine."""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any, Literal, get_args

import torch
from transformers import PreTrainedModel

from interp.engine.model import Model
from interp.errors import InputError, MissingPackageError, ModelError, nearest

Engine = Literal["torch", "transformer_lens", "nnsight"]
ENGINES: dict[str, str] = {
    "torch": "interp.engine.torch_engine:TorchModel",
    "transformer_lens": "interp.engine.transformer_lens_engine:TransformerLensModel",
    "nnsight": "interp.engine.nnsight_engine:NNsightModel",
}
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load(
    model: str | PreTrainedModel,
    *,
    engine: Engine | str = "torch",
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
    tokenizer: Any = None,
    **options: Any,
) -> Model:
    """Load a model behind an engine.

    Args:
        model: a registry name (`smollm2-135m`, `tiny-llama`, ... see `interp models`), a local
            folder, a Hugging Face id, or a live model. A live model is never changed: the torch
            engine hooks it for the length of a run, the transformer_lens and nnsight engines wrap
            a twin that has modules of its own and shares the weights.
        engine: `torch` (the plain model with our hooks: the reference), `transformer_lens`
            (TransformerBridge) or `nnsight`.
        dtype: float32, float64, bfloat16 or float16; by default that of the weights.
        device: where to put the model.
        tokenizer: for a live model.
        options: passed to `from_pretrained` (`revision`, `device_map`, `trust_remote_code`, ...).

    Raises:
        ModelError: no such model, or a live model in training mode.
        MissingPackageError: the engine's package is not installed.
    """
    if engine not in get_args(Engine):
        raise InputError(
            f"There is no engine {engine!r}; there are: {', '.join(ENGINES)}."
            f"{nearest(str(engine), ENGINES)}"
        )
    dtype, device = dtype_of(dtype), device_of(device)
    engine_class = _engine_class(str(engine))
    if isinstance(model, str):
        if tokenizer is not None:
            raise InputError("tokenizer= goes with a live model: a named model brings its own.")
        from interp.models.weights import find

        return engine_class(*find(model, dtype=dtype, device=device, options=options))
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"A model is a name, a folder or a Hugging Face PreTrainedModel, not "
            f"{type(model).__name__}."
        )
    if options or (dtype is not None and dtype != model.dtype):
        raise ModelError(
            "A live model is taken as it is: convert it yourself, or load it by name to give "
            "dtype or options."
        )
    return engine_class(model, tokenizer, type(model).__name__)


def dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return the dtype of a name in `DTYPES`; None stays None.

    Raises:
        InputError: there is none of that name.
    """
    if dtype is None or dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    if dtype not in DTYPES:
        raise InputError(
            f"There is no dtype {dtype!r}; there are: {', '.join(DTYPES)}."
            f"{nearest(str(dtype), DTYPES)}"
        )
    return DTYPES[dtype]  # type: ignore[index]


def device_of(name: str | torch.device) -> torch.device:
    """Return a device that can be used here.

    Raises:
        InputError: there is none of that name, or it cannot be used.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"There is no device {name!r}: write cpu, cuda or cuda:0.") from error
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"The device {str(device)!r} cannot be used here: use cpu.") from error
    return device


def _engine_class(engine: str) -> type[Model]:
    module, _, name = ENGINES[engine].partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != engine:  # something inside the package is missing, not the package
            raise
        raise MissingPackageError(
            f"The engine {engine} needs a package: pip install {engine.replace('_', '-')}."
        ) from error


def twin(hf: PreTrainedModel) -> PreTrainedModel:
    """Return a model with modules of its own that shares every weight and buffer."""
    shared = {id(tensor): tensor for tensor in [*hf.parameters(), *hf.buffers()]}
    return copy.deepcopy(hf, memo=shared)  # type: ignore[arg-type]
