"""Whether a run was begun in another precision than ``auto`` comes to now, as it does on other machines.

A precision is part of an address. So such a run begins anew, beside what is unfinished of it, and that is to be said.
"""

from collections.abc import Iterator
from typing import get_args

from flows.addresses import Addresses
from flows.config import PipelineConfig
from flows.stages import stages
from tasks.lm.config import ModelConfig
from tasks.storage.artifacts import read_manifest
from tasks.storage.objects import open_store
from tasks.train.checkpoint_names import CHECKPOINTS, kept
from tasks.train.config import TrainConfig


def begun_in_another_precision(given: PipelineConfig, config: PipelineConfig, at: Addresses) -> str | None:
    """A sentence with what is there and how to go on with it; None where this run has begun, or never did.

    Args:
        given: the settings before anything was settled: only what was left to ``auto`` there may have come out otherwise.
        config: the settings with the precision that ``auto`` comes to now.
        at: the addresses of ``config``.

    Raises:
        InputError: an input is not there any more.
    """
    if read_manifest(at.sae) is not None or _is_unfinished(at.sae):
        return None
    for other in _others(given, config):
        sae = _sae_address(other, at)
        if _is_unfinished(sae):
            then, now = _settings(given, other), _settings(given, config)
            return f"this run begins anew with {now}. It was begun with {then}, as {sae}; name these to go on with that."
    return None


def _others(given: PipelineConfig, config: PipelineConfig) -> Iterator[PipelineConfig]:
    """The same run in each other precision that ``auto`` may have come to."""
    asked = given.model.dtype if given.activations.source is None else config.model.dtype
    for dtype in _choices(ModelConfig, "dtype", asked):
        for precision in _choices(TrainConfig, "precision", given.train.precision):
            model = config.model.model_copy(update={"dtype": dtype})
            train = config.train.model_copy(update={"precision": precision})
            if (model, train) != (config.model, config.train):
                yield config.model_copy(update={"model": model, "train": train})


def _choices(group: type[ModelConfig] | type[TrainConfig], name: str, given: str) -> list[str]:
    if given != "auto":
        return [given]
    return [choice for choice in get_args(group.model_fields[name].annotation) if choice != "auto"]


def _sae_address(config: PipelineConfig, at: Addresses) -> str:
    """Where the SAE of another precision lies; text and tokens are those of ``at``."""
    found = dict(at.by_result)
    root = open_store(config.storage).uri
    for stage in stages(config):
        if stage.result in ("activations", "sae"):
            found |= stage.reading(found).places(root, config.name)
    return found["sae"]


def _is_unfinished(sae: str) -> bool:
    """Whether there are checkpoints of it, and no manifest."""
    return bool(kept(open_store(sae), f"{CHECKPOINTS}/")) and read_manifest(sae) is None


def _settings(given: PipelineConfig, config: PipelineConfig) -> str:
    """The precisions that were left to ``auto``, as they are set by name."""
    both: dict[str, tuple[str, str]] = {}
    if given.activations.source is None:
        both["model.dtype"] = given.model.dtype, config.model.dtype
    both["train.precision"] = given.train.precision, config.train.precision
    return " and ".join(f"{name} {value}" for name, (asked, value) in both.items() if asked == "auto")
