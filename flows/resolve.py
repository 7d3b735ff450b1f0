"""What precision ``auto`` comes to, and which SAE a version is, settled before addresses are known and before anything runs.

The machines that will do the work decide: of a Ray cluster that is joined its nodes are asked, else this one is. Addresses
and manifests hold what came of it, so ``auto`` and the same precision by name are the same result. Which device trains is in
no address; ``tasks.train.device`` settles it where training begins.
"""

from collections.abc import Sequence
from typing import Literal

from flows.config import PipelineConfig
from flows.first_weights import named_by_uri
from tasks.activations.disk_space import bytes_needed
from tasks.machines import machines_of
from tasks.precision import Choice, Machine, for_training, on_cpus, on_gpus
from tasks.train.device import trains_on_gpus

_WINDOWS = 4


def resolved(config: PipelineConfig) -> PipelineConfig:
    """The configuration with ``model.dtype``, ``train.precision`` and ``train.init_from`` settled.

    Raises:
        InputError: the cluster at ``ray.address`` does not answer, or has no machine that could say what it is; or there is
            no such version as training is to begin from.
    """
    return resolved_and_why(config)[0]


def resolved_and_why(config: PipelineConfig) -> tuple[PipelineConfig, str | None]:
    """The same, and a line that tells the choice and its reason; None where nothing was left to it.

    Raises:
        InputError: as ``resolved``.
    """
    config = with_window(named_by_uri(config))
    if "auto" not in (config.model.dtype, config.train.precision):
        return config, None
    return settled(config, machines_of(config.ray))


def with_window(config: PipelineConfig) -> PipelineConfig:
    """The configuration with ``train.window_tokens`` settled, where rows do not stay: a quarter of what they may take.

    So three windows fit beside held-out rows: one that is trained on, one that is whole, and one in the making.

    Raises:
        InputError: the model cannot be found, or has no such hooks.
    """
    harvest = config.harvest
    if harvest.keep != "window" or harvest.window_bytes is None or config.train.window_tokens is not None:
        return config
    from tasks.lm.hooks import hook_width  # these take seconds, which only such a run needs
    from tasks.lm.load import load_skeleton

    skeleton = load_skeleton(config.model)
    row_bytes = bytes_needed(1, [hook_width(skeleton, hook) for hook in harvest.hooks], harvest.dtype)
    shards = max(1, harvest.window_bytes // (_WINDOWS * row_bytes * harvest.shard_tokens))
    window = {"window_tokens": shards * harvest.shard_tokens}
    return config.model_copy(update={"train": config.train.model_copy(update=window)})


def settled(config: PipelineConfig, machines: Sequence[Machine]) -> tuple[PipelineConfig, str | None]:
    """The same where the machines are known."""
    model, training = _of_model(config, machines), _of_training(config, machines)
    precision: Literal["bf16", "fp32"] = "bf16" if training.dtype == "bfloat16" else "fp32"
    told, found = [], config
    if config.model.dtype == "auto":
        found = found.model_copy(update={"model": config.model.model_copy(update={"dtype": model.dtype})})
        if config.activations.source is None:
            told.append((f"model.dtype {model.dtype}", model.reason))
    if config.train.precision == "auto":
        found = found.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})
        told.append((f"train.precision {precision}", training.reason))
    return found, f"precision: {_line(told)}" if told else None


def _of_model(config: PipelineConfig, machines: Sequence[Machine]) -> Choice:
    there = [machine for machine in machines if machine.gpus]
    wanted = config.harvest.gpus_per_actor
    return on_gpus(there) if there and (wanted is None or wanted > 0) else on_cpus(machines)


def _of_training(config: PipelineConfig, machines: Sequence[Machine]) -> Choice:
    if not trains_on_gpus(config.train, machines):
        return on_cpus(machines)
    return for_training(on_gpus([machine for machine in machines if machine.gpus]))


def _line(told: Sequence[tuple[str, str]]) -> str:
    reasons = {reason for _, reason in told}
    if len(reasons) == 1:
        return f"{' and '.join(what for what, _ in told)}, since {told[0][1]}"
    return "; ".join(f"{what}, since {reason}" for what, reason in told)
