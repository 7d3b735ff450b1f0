"""What a run is called where runs are listed: which model, which hook and which SAE."""

import contextlib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from flows.config import PipelineConfig
from tasks.lm.config import ModelConfig


def run_name(config: PipelineConfig) -> str:
    """Such as 'SmolLM2-135M-Instruct layers.8 batchtopk 4608 k32'."""
    return f"{_studied(config)} {config.sae.arch} {config.sae.d_sae} k{config.sae.k}"


def sweep_name(config: PipelineConfig) -> str:
    """Such as 'SmolLM2-135M-Instruct layers.8 sweep of 8'."""
    return f"{_studied(config)} sweep of {sum(1 for _ in config.sweep.points())}"


def run_tags(config: PipelineConfig) -> list[str]:
    """By what a run is found: name, model, hooks, architecture."""
    return _tags(config, [config.sae.arch])


def sweep_tags(config: PipelineConfig) -> list[str]:
    """By what a sweep is found: name, model, hooks, every architecture that it trains."""
    return _tags(config, config.sweep.archs or [config.sae.arch])


def _tags(config: PipelineConfig, archs: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([config.name, *_studied(config).split(), *archs]))


def _studied(config: PipelineConfig) -> str:
    if config.activations.source is not None:
        return Path(config.activations.source).name
    read = "+".join(_short(hook) for hook in config.roles.inputs)
    target = "" if config.train.target_hook is None else f"->{_short(config.train.target_hook)}"
    return f"{_model(config.model)} {read}{target}"


def _short(hook: str) -> str:
    return re.sub(r"^(model|transformer|gpt_neox)\.", "", hook)


def _model(model: ModelConfig) -> str:
    """A hub id's or a path's last part; of a package, the file that it carries."""
    found = None
    with contextlib.suppress(ValueError, ImportError):  # such as of __main__
        found = importlib.util.find_spec(model.name) if model.name.isidentifier() else None
    folders = found.submodule_search_locations if found is not None else None
    carried = [file for folder in folders or () for file in Path(folder).glob("*.gguf")]
    name = carried[0].stem if len(carried) == 1 else model.label.rsplit("/", 1)[-1].removesuffix(".gguf")
    return re.sub(r"\.(I?Q\d\w*|B?F16|F32)$", "", name).replace(" ", "-")
