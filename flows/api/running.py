"""The whole pipeline from Python."""

import json
import os
from collections.abc import Mapping
from typing import Any

from flows.config import PipelineConfig, apply_overrides, load_config, parse_config
from flows.in_process import run_in_process
from flows.pipeline import LAST_STAGE, Result


def run(
    config: str | os.PathLike[str] | Mapping[str, Any] | PipelineConfig,
    *,
    settings: Mapping[str, Any] | None = None,
    until: str = LAST_STAGE,
) -> Result:
    """Run a configuration, from text to report, and give the URIs of all results.

    What is finished is not done again, so a run that was stopped goes on. Progress is told on stderr.

    Args:
        config: a YAML file of settings, or the settings themselves, such as ``{"sae": {"k": 16}}``.
        settings: changes by name, such as ``{"sae.k": 16}``; ``saemill settings`` lists the names.
        until: the stage to stop after, such as harvest, train or score.

    Raises:
        InputError: settings, files or the machine are not fit for the run; nothing was written.
        ArtifactError: a stored result is damaged.
    """
    return run_in_process(_loaded(config, settings or {}), until)


def _loaded(
    config: str | os.PathLike[str] | Mapping[str, Any] | PipelineConfig, settings: Mapping[str, Any]
) -> PipelineConfig:
    overrides = [f"{name}={json.dumps(value)}" for name, value in settings.items()]  # JSON is YAML
    if isinstance(config, (str, os.PathLike)):
        return load_config(os.fspath(config), overrides)
    given = config.model_dump(mode="json") if isinstance(config, PipelineConfig) else config
    values = json.loads(json.dumps(given))  # a copy, in which the changes are made
    apply_overrides(values, overrides)
    return parse_config(values)
