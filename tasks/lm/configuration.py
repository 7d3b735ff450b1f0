"""A model's configuration: read without trust, since anybody may have written it, and held against what can be built."""

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import AutoConfig, PretrainedConfig

from tasks.errors import InputError
from tasks.lm.files import ModelFiles

logger = logging.getLogger(__name__)

# Ways to compute that transformers has itself. Any other name, such as owner/kernel, it looks up on the hub as native code.
_ATTENTION = (None, "eager", "sdpa")
_EXPERTS = (None, "eager", "batched_mm", "grouped_mm")

# Far above what any model has: 2^31 - 1 of anything, layers below 200. A list with an entry for each layer is made before
# any module is, so a wrong number of layers would fill the memory there.
_MOST = {
    r"layers?$|blocks?$": 1_024,
    r"(size|dim|heads?|positions?|embeddings|experts|embd|inner|ctx|rank|seq_len)$": 2**31,
}
_MOST_MODULES = 200_000  # some 600 MB of Python objects; DeepSeek-V3 with each expert a module of its own has 60,000
_MOST_PARAMETERS = 10**13
_AT_LEAST_ONE = ("hidden_size", "vocab_size", "num_attention_heads", "num_hidden_layers")


def read_configuration(files: ModelFiles) -> Any:
    """The configuration of a model, without what would have transformers fetch code.

    Raises:
        InputError: a size in it is impossible.
        Exception: whatever transformers raises at a damaged one.
    """
    if files.gguf is None:  # to parse a GGUF file's header takes longer, and its sizes must fit its tensors
        _check_sizes(PretrainedConfig.get_config_dict(files.location, trust_remote_code=False, **files.arguments)[0])
    found = AutoConfig.from_pretrained(files.location, trust_remote_code=False, **files.arguments)
    text = found.get_text_config()
    for name in _AT_LEAST_ONE:
        size = getattr(text, name, None)
        if isinstance(size, int) and size < 1:
            raise InputError(f"The model's configuration says {name} {size}, which must be at least 1.")
    _use_own_code(found)
    return found


def _check_sizes(raw: Any, within: str = "") -> None:
    if not isinstance(raw, dict):
        return
    for name, value in raw.items():
        path = f"{within}{name}"
        _check_sizes(value, f"{path}.")
        for pattern, most in _MOST.items():
            if isinstance(value, int) and value > most and re.search(pattern, str(name)):
                raise InputError(f"The model's configuration says {path} {value}, which cannot be more than {most}.")


def _use_own_code(config: Any) -> None:
    """Let no configuration name an attention or experts' code that would be fetched: transformers' own choice instead."""
    for attribute, known in (("_attn_implementation", _ATTENTION), ("_experts_implementation", _EXPERTS)):
        asked = getattr(config, attribute, None)
        if asked not in known:
            logger.warning("the model's configuration asks for %s %r, which is not used", attribute.strip("_"), asked)
            setattr(config, attribute, None)
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            _use_own_code(part)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """While this is open, a model that could never be held is refused as soon as so much of it has been built.

    Raises:
        InputError: it has too many modules or parameters.
    """
    modules = parameters = 0

    def module_made(*_: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > _MOST_MODULES:
            raise InputError(f"The model's configuration describes more than {_MOST_MODULES} modules.")

    def parameter_made(_: nn.Module, __: str, parameter: Any) -> None:
        nonlocal parameters
        parameters += 0 if parameter is None else parameter.numel()
        if parameters > _MOST_PARAMETERS:
            raise InputError(f"The model's configuration describes more than {_MOST_PARAMETERS:.0e} parameters.")

    with contextlib.ExitStack() as stack:
        stack.callback(register_module_module_registration_hook(module_made).remove)
        stack.callback(register_module_parameter_registration_hook(parameter_made).remove)
        yield
