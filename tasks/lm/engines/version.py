"""Which engine runs the model, and in which version: known without importing it, since that takes seconds."""

import importlib.metadata
import re

from tasks.lm.config import ModelConfig
from tasks.lm.engines.errors import EngineError

LEAST = (0, 18)
"""vLLM's first version that gives hidden states (https://github.com/vllm-project/vllm/pull/33736)."""
_INSTALL = f"pip install 'vllm>={LEAST[0]}.{LEAST[1]}'"


def engine_identity(config: ModelConfig) -> dict[str, str]:
    """What recipes and manifests say of the engine: its name and version; nothing of transformers, which others are held to.

    Raises:
        EngineError: the engine is not installed here, or is too old.
    """
    if config.engine == "transformers":
        return {}
    try:
        version = importlib.metadata.version(config.engine)
    except importlib.metadata.PackageNotFoundError:
        raise EngineError(f"model.engine is {config.engine}, which is not installed here. Install it: {_INSTALL}") from None
    if _numbers(version) < LEAST:
        raise EngineError(
            f"model.engine is {config.engine}, but version {version}, which is installed here, gives no hidden states. "
            f"Install a later one: {_INSTALL}"
        )
    return {"engine": config.engine, "engine_version": version}


def require_version(config: ModelConfig, wanted: str | None) -> None:
    """Refuse another version of the engine than the one that the results are named after.

    Raises:
        EngineError: it is another, or there is none.
    """
    found = engine_identity(config).get("engine_version")
    if found != wanted:
        raise EngineError(
            f"A machine that harvests has {config.engine} {found}, but the harvest was begun with {wanted}. Install one "
            "version on all machines."
        )


def _numbers(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
