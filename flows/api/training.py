"""Training in this process, without Ray and without storage, on stored activations or on an array."""

import os
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, NamedTuple

import numpy.typing as npt
import pandas as pd
import torch
from pydantic import ValidationError
from torch import Tensor

from flows.api.activations import Activations
from flows.api.training_rows import InMemory, Stored, TrainingRows
from tasks.config_errors import mistakes_of, told
from tasks.errors import InputError
from tasks.lm.names import nearest
from tasks.sae.belonging import Belonging
from tasks.sae.config import SAEConfig
from tasks.sae.model import SparseAutoencoder
from tasks.settings import Settings
from tasks.train import loop
from tasks.train.config import OF_WARM_START, TrainConfig
from tasks.train.curve import CurveRow
from tasks.train.finish import finished_weights
from tasks.train.loop import Run
from tasks.train.plan import Plan, plan
from tasks.train.train_state import initial_state
from tasks.train.worker import SAMPLE_ROWS

_OF_SAE = frozenset(field.name for field in fields(SAEConfig)) - {"d_in", "skip"}
_OF_HOOKS = frozenset({"hook", "hooks", "target_hook"})
_NOT_HERE = {"lanes", "window_tokens"}
_OF_TRAINING = frozenset(TrainConfig.model_fields) - TrainConfig.not_in_recipe - _OF_HOOKS - OF_WARM_START - _NOT_HERE


class TrainingSettings(Settings):
    """The settings that decide an SAE."""

    sae: SAEConfig
    train: TrainConfig


class Trained(NamedTuple):
    """What training gives: ``sae, curve = saemill.train(...)``."""

    sae: SparseAutoencoder
    """The finished SAE, for raw activations."""
    curve: pd.DataFrame
    """Loss, FVU, L0 and the share of dead latents on the way: some 250 rows, each the mean of the steps before it."""


def train(
    activations: "str | os.PathLike[str] | Activations | npt.ArrayLike | Tensor",
    *,
    d_sae: int,
    arch: str = "batchtopk",
    k: int = 32,
    tokens: int = 1_000_000,
    hook: str | None = None,
    device: str | torch.device = "cpu",
    on_row: Callable[[CurveRow], object] | None = None,
    **settings: Any,
) -> Trained:
    """Train an SAE in this process. It takes the same steps as a run with one worker.

    Nothing is written; ``saemill.save`` keeps the SAE.

    Args:
        activations: the URI of an activations directory, what ``saemill.activations`` gives, or rows ``[n, d_in]`` in an
            array or tensor.
        d_sae: number of latents, usually 4 to 64 times d_in.
        arch: how codes are made sparse; ``saemill architectures`` lists the names.
        k: latents per row: kept, kept on average, or aimed at.
        tokens: rows that are seen in all, over as many epochs as that takes.
        hook: whose activations, where the directory has several.
        device: where it is trained.
        on_row: is called with each row of the curve.
        settings: any others of ``sae`` and ``train`` that decide the result, such as ``lr``, ``batch_tokens`` or ``seed``;
            ``saemill settings`` lists them.

    Raises:
        InputError: a setting is unknown or impossible, the rows are none, or the loss is not finite any more.
        ArtifactError: the directory is unfinished or damaged.
    """
    of_sae, of_training = _sorted(settings)
    use_gpu = torch.device(device).type == "cuda"
    of_rows = {}
    if isinstance(activations, Activations):
        of_rows = {"batch_tokens": activations.batch_size, "seed": activations.seed}
    checked = _checked(
        sae={"arch": arch, "d_sae": d_sae, "k": k} | of_sae,
        train={"tokens": tokens, "workers": 1, "lanes": 1, "use_gpu": use_gpu} | of_rows | of_training,
    )
    rows = _rows(activations, hook, checked.train, device)
    return _trained(plan(checked.sae, checked.train, rows.d_in), rows, device, on_row)


def _trained(
    plan: Plan, rows: TrainingRows, device: str | torch.device, on_row: Callable[[CurveRow], object] | None
) -> Trained:
    def tell(run: Run) -> None:
        if on_row is not None:
            on_row(run.curve[-1])

    run = Run(initial_state(plan, _sample(plan, rows), device))
    loop.train(run, rows.batches(0, plan.n_steps), plan, rows.scaling, on_row=tell)
    last = run.curve[-1]
    summary = {"tokens": last.tokens, "steps": last.step, "lr": plan.lr}
    training = summary | {name: getattr(last, name) for name in ("loss", "fvu", "l0", "dead_fraction")}
    belonging = Belonging(model=rows.model, hooks=rows.hooks, training=training)
    sae = SparseAutoencoder(plan.sae, finished_weights(plan, run.state, rows.scaling), belonging)
    return Trained(sae.requires_grad_(requires_grad=False), pd.DataFrame([asdict(row) for row in run.curve]))


def _sample(plan: Plan, rows: TrainingRows) -> Tensor:
    """Scaled rows of the first batches, from which the weights start: as many as a run of the pipeline takes."""
    n_batches = -(-min(SAMPLE_ROWS, rows.rows) // plan.batch_rows)
    return rows.scaling.apply(torch.cat(list(rows.batches(0, n_batches)))).cpu()


def _rows(activations: Any, hook: str | None, config: TrainConfig, device: str | torch.device) -> TrainingRows:
    if isinstance(activations, Activations):
        if activations.split != "train":
            raise InputError(f"These are the {activations.split} rows, which are held out; training wants the train rows.")
        return Stored(activations.uri, activations.hooks, config, device)
    if isinstance(activations, (str, os.PathLike)):
        return Stored.of(os.fspath(activations), hook, config, device)
    return InMemory(activations, config, device)


def _sorted(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the SAE and of its training.

    Raises:
        InputError: one is of neither, or decides nothing here.
    """
    for name in settings:
        if name not in _OF_SAE | _OF_TRAINING:
            raise InputError(f"There is no setting {name!r} of saemill.train.{nearest(name, _OF_SAE | _OF_TRAINING)}")
    of_sae = {name: value for name, value in settings.items() if name in _OF_SAE}
    return of_sae, {name: value for name, value in settings.items() if name in _OF_TRAINING}


def _checked(**settings: dict[str, Any]) -> TrainingSettings:
    try:
        return TrainingSettings.model_validate(settings)
    except ValidationError as error:
        raise InputError(told(mistakes_of(error), TrainingSettings)) from None
