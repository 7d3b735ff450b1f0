"""The hooks that vLLM has: the residual stream behind whole blocks."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from tasks.lm.config import ModelConfig
from tasks.lm.engines.errors import EngineError
from tasks.lm.files import ModelFiles, resolve
from tasks.lm.names import parse_hook


def check_engine(config: ModelConfig, model: nn.Module, hooks: Sequence[str]) -> None:
    """Refuse what the engine cannot do, before it is loaded.

    Args:
        config: names the model and the engine.
        model: a skeleton on the meta device will do.
        hooks: all that will be asked for.

    Raises:
        EngineError: it does not read such files, or has no such hook.
    """
    if config.engine != "transformers":
        readable_files(config)
        blocks_before(model, hooks)


def readable_files(config: ModelConfig) -> ModelFiles:
    """The model's files, which vLLM reads itself.

    Raises:
        EngineError: they are GGUF, whose quantised numbers vLLM would multiply, not those that transformers makes of them.
    """
    files = resolve(config)
    if files.gguf is not None:
        raise EngineError(
            f"model.engine {config.engine} reads no GGUF files, such as {files.gguf}. Name a folder or a Hugging Face model "
            "with safetensors, or set model.engine to transformers."
        )
    return files


def blocks_before(model: nn.Module, hooks: Sequence[str]) -> dict[str, int]:
    """For each hook, how many blocks have run when the residual stream is what stands there: 9 for ``model.layers.8``.

    Raises:
        EngineError: a hook is no whole block's output.
    """
    return {hook: _blocks_before(model, hook) for hook in hooks}


def _blocks_before(model: nn.Module, hook: str) -> int:
    place = parse_hook(hook)
    within, _, number = place.module.rpartition(".")
    if place.side == "output" and number.isdigit() and int(number) < _length(model, within):
        return int(number) + 1
    raise EngineError(
        f"Hook {hook!r} is no output of a whole block of the model, such as model.layers.8, and vLLM has no others. Choose "
        "one, or set model.engine to transformers."
    )


def _length(model: Any, name: str) -> int:
    """Blocks in a list of that name; none where it is not that of all blocks, which the configuration counts."""
    found = dict(model.named_modules()).get(name)
    text = model.config.get_text_config()
    return len(found) if isinstance(found, nn.ModuleList) and len(found) == getattr(text, "num_hidden_layers", None) else 0
