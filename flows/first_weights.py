"""What training begins from, where ``train.init_from`` names a version of a registry and not an SAE's URI."""

import logging

from flows.config import PipelineConfig
from tasks.registry import resolve
from tasks.registry.moving import position
from tasks.registry.names import CHAMPION
from tasks.registry.reference import VersionReference
from tasks.registry.registry import Registry

logger = logging.getLogger("tasks.registry")  # below "tasks", whose records are shown


def named_by_uri(config: PipelineConfig) -> PipelineConfig:
    """The configuration with an URI in place of a reference.

    The champion of the run's own registry need not be there yet: the first training begins from drawn weights.

    Raises:
        InputError: there is no such registry, version or alias.
        ArtifactError: a record of the registry is damaged.
    """
    reference = config.train.init_from
    if reference is None or VersionReference.parsed(reference) is None:
        return config
    if is_own_champion(config) and position(Registry.at(config.storage, config.registry.name or ""), CHAMPION) is None:
        logger.info("train.init_from: %s is no version yet, so training begins from drawn weights", reference)
        return _begun_from(config, None)
    return _begun_from(config, resolve(reference, config.storage))


def begun_from_champion(config: PipelineConfig, champion: str | None) -> PipelineConfig:
    """The configuration with this SAE where it names its own registry's champion; None: with drawn weights."""
    return _begun_from(config, champion) if is_own_champion(config) else config


def is_own_champion(config: PipelineConfig) -> bool:
    """Whether training is to begin from the champion of the registry in which its SAE will be a version."""
    named = None if config.train.init_from is None else VersionReference.parsed(config.train.init_from)
    return named is not None and (named.name, named.at, named.steps) == (config.registry.name, CHAMPION, 0)


def _begun_from(config: PipelineConfig, sae: str | None) -> PipelineConfig:
    return config.model_copy(update={"train": config.train.model_copy(update={"init_from": sae})})
