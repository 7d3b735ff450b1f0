"""Loading a subject model, its tokenizer, or a weightless skeleton of it: quietly, quickly and never from pickles."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForTextEncoding, AutoTokenizer, GgufConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
)

from tasks.errors import InputError
from tasks.lm.config import ModelConfig
from tasks.lm.configuration import bounded, read_configuration
from tasks.lm.files import ModelFiles, model_identity, resolve
from tasks.lm.gguf import only_layers, quick_gguf, without_vocabulary
from tasks.lm.parallel import in_parts
from tasks.lm.truncate import Truncation, truncation
from tasks.lm.weight_files import needed_files
from tasks.precision import here

__all__ = [
    "ModelFiles",
    "known_tokens",
    "load_model",
    "load_skeleton",
    "load_tokenizer",
    "model_identity",
    "resolve",
]

logger = logging.getLogger(__name__)

_REASON_CHARACTERS = 500  # transformers' own sentences run to whole lists of models


def load_tokenizer(config: ModelConfig) -> Any:
    """The model's fast tokenizer.

    Raises:
        InputError: there is no such model, its tokenizer is missing or damaged, or it has no fast one.
    """
    files = resolve(config)
    with _reading(config, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(files.location, trust_remote_code=False, **files.arguments)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes up where there are no files
        raise InputError(f"Model {config.name!r} comes without a tokenizer; put its tokenizer.json beside its weights.")
    if not tokenizer.is_fast:
        raise InputError(f"Model {config.name!r} has only a slow Python tokenizer, but needs a fast one (tokenizer.json).")
    return tokenizer


def load_model(config: ModelConfig, device: str | torch.device = "cpu", hooks: Sequence[str] = (), parts: int = 1) -> Any:
    """The model in ``config.dtype`` (auto: what fits ``device``), in eval mode, without gradients, on ``device``.

    A causal language model where the checkpoint is one, else its encoder. GGUF weights are unpacked tensor by tensor
    straight into ``config.dtype``: SmolLM2-135M takes 2.4 s on one core and 270 MB of weights, at a peak of 400 MB.

    Args:
        config: names the model.
        device: where it goes.
        hooks: if given, the model is for ``capture`` of these alone, and unless ``config.truncate`` is off, layers behind
            the last of them are not read where its activations are the same without them.
        parts: of more than one, this process loads its own: the processes of torch's process group hold the model together.

    Raises:
        InputError: there is no such model, its files are damaged or incomplete, or its architecture is not supported.
    """
    files = resolve(config)
    with _reading(config, "weights"):
        model_config = read_configuration(files)
        short = _truncation(config, model_config, hooks)
        model, lacking = None if short is None else _load_short(config, files, short, device, parts), list[str]()
        if model is None:
            model, lacking = _load(config, files, model_config, device, parts)
    _refuse_random_weights(config, model, lacking)
    model = model.eval().requires_grad_(False)
    return model.to(device) if parts == 1 else model  # a part is there already


def _load_short(config: ModelConfig, files: ModelFiles, short: Truncation, device: str | torch.device, parts: int) -> Any:
    """The first layers; None where their weights are not all stored under their names, but with a layer that shares them."""
    with needed_files(files, short) as needed, only_layers(short.kept):
        model, lacking = _load(config, needed, short.config, device, parts)
    if lacking:
        logger.info("the whole model is loaded: its first %d layers lack %s", short.kept, lacking[0])
    return None if lacking else model


def _load(
    config: ModelConfig, files: ModelFiles, model_config: Any, device: str | torch.device, parts: int
) -> tuple[Any, list[str]]:
    """The model, and the names of weights that its files lack, in whose place it has random numbers."""
    unpack = {"quantization_config": GgufConfig(dequantize=True)} if files.gguf else {}
    with in_parts(parts, torch.device(device)) as shared, without_vocabulary():
        model, report = auto_class(model_config).from_pretrained(
            files.location,
            config=model_config,
            dtype=_dtype(config, torch.device(device).type),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **files.arguments,
            **unpack,
            **shared,
        )
    missing = sorted(report["missing_keys"])
    if any(key.startswith("pooler.") for key in missing):
        model.pooler = None  # encoders are often saved without it, and know how to do without
    return model, [key for key in missing if not key.startswith("pooler.")]


def load_skeleton(config: ModelConfig, *, as_run: bool = False) -> Any:
    """The model without weights, on the meta device: to list modules and widths at no cost in memory.

    Args:
        config: names the model.
        as_run: in bfloat16 where ``config.dtype`` is that, to see whether the model computes in it; else in float32.
            Not in float16, of which a CPU that plans for GPUs may lack operations.

    Raises:
        InputError: there is no such model, or its configuration is damaged or not supported.
    """
    files = resolve(config)
    dtype = torch.bfloat16 if as_run and config.dtype == "bfloat16" else torch.float32
    with _reading(config, "configuration"):
        return _skeleton(read_configuration(files), dtype)


def _truncation(config: ModelConfig, model_config: Any, hooks: Sequence[str]) -> Truncation | None:
    return truncation(model_config, hooks, _skeleton) if hooks and config.truncate == "auto" else None


def _skeleton(model_config: Any, dtype: torch.dtype = torch.float32) -> Any:
    with torch.device("meta"), bounded():
        model = auto_class(model_config).from_config(model_config, dtype=dtype)
    return model.eval().requires_grad_(False)


def known_tokens(config: ModelConfig) -> int | None:
    """Number of tokens that the model has an embedding for, by its configuration; None where that does not say.

    Raises:
        InputError: there is no such model, or its configuration is damaged or not supported.
    """
    files = resolve(config)
    with _reading(config, "configuration"):
        size = getattr(read_configuration(files).get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) else None


def _dtype(config: ModelConfig, device: str) -> torch.dtype:
    """Of a pipeline's run this was settled before it began (``flows.resolve``), for all machines alike."""
    found: torch.dtype = getattr(torch, here(device).dtype if config.dtype == "auto" else config.dtype)
    return found


def auto_class(model_config: Any) -> Any:
    """Causal language models keep their unembedding; whatever else a checkpoint was made for, its body is an encoder."""
    named = set(model_config.architectures or ())
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    known = model_config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if known and (not named or named & causal):
        return AutoModelForCausalLM
    # T5 may have been saved without its decoder, and then AutoModel, which has one, finds no weights for it.
    alone = MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(model_config.model_type, "")
    return AutoModelForTextEncoding if alone.endswith("EncoderModel") else AutoModel


def _refuse_random_weights(config: ModelConfig, model: Any, lacking: list[str]) -> None:
    """transformers fills weights that a checkpoint lacks with random numbers."""
    if lacking:
        shown = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        raise InputError(
            f"Model {config.name!r} lacks {len(lacking)} weights that {type(model).__name__} needs ({shown}); "
            "its files are incomplete or of another architecture."
        )


@contextlib.contextmanager
def _reading(config: ModelConfig, part: str) -> Iterator[None]:
    """Silence transformers while it loads, and turn what it raises at bad files into one sentence.

    Damaged files have raised OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, ZeroDivisionError,
    AssertionError, NotImplementedError, RuntimeError, RecursionError, SafetensorError and pydantic-like errors of others'.
    """
    with _quiet(), quick_gguf():
        try:
            yield
        except InputError as error:
            raise InputError(f"Model {config.name!r} cannot be loaded. {error}") from None
        except Exception as error:
            raise InputError(f"The {part} of model {config.name!r} cannot be loaded: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    """An error's words in one line; of an error that only a programmer understands, its kind as well."""
    words = " ".join(str(error).split()).rstrip(".")[:_REASON_CHARACTERS]
    plain = isinstance(error, (OSError, ValueError, SafetensorError)) and words
    return words if plain else f"{type(error).__name__}: {words}".rstrip(": ")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
