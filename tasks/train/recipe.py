"""The settings of ``train`` and ``sae`` as version 2 of the stage fixed them; see ``tasks/recipe.py``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tasks.recipe import differing
from tasks.sae.config import SAEConfig
from tasks.sae.reads import read_by, unread_by
from tasks.train.config import OF_COLD_START, OF_WARM_START, TrainConfig

FIXED: Mapping[str, Any] = MappingProxyType(
    {
        "tokens": 1_000_000,
        "batch_tokens": 1024,
        "lr": None,
        "warmup_fraction": 0.05,
        "decay_fraction": 0.7,
        "adam_beta2": None,
        "dead_after_tokens": None,
        "sparsity_warmup_fraction": None,
        "k_anneal_fraction": 0.5,
        "max_grad_norm": None,
        "ema_decay": 0,
        "precision": "auto",
        "seed": 0,
        "init_seed": None,
        "init_lr_factor": 0.5,
        "init_warmup_fraction": 0.15,
        "lanes": 16,
        "window_tokens": None,
    }
)
FIXED_OF_SAE: Mapping[str, Any] = MappingProxyType(
    {
        "arch": "batchtopk",
        "d_sae": 4608,
        "k": 32,
        "k_start": None,
        "aux_k": None,
        "aux_coefficient": 0.03125,
        "prefixes": None,
        "l1_coefficient": None,
        "p_final": 0.2,
        "l0_coefficient": None,
        "tanh_coefficient": None,
        "tanh_scale": 4.0,
        "pre_act_coefficient": 3e-6,
        "bandwidth": None,
        "skip": False,
        "b_dec": "mean",
    }
)
_OF_HOOKS = frozenset({"hook", "hooks", "target_hook"})
"""Told by the roles of the hooks, whichever of these settings they come from."""
_PENALTIES = frozenset({"l1_coefficient", "l0_coefficient", "tanh_coefficient"})


def training_recipe(train: TrainConfig, sae: SAEConfig) -> dict[str, Any]:
    """What of the settings decides the SAE."""
    return {
        "train": differing(train, FIXED, unread_of_training(train, sae)),
        "sae": differing(sae, FIXED_OF_SAE, unread_by(sae.arch)),
    }


def unread_of_training(train: TrainConfig, sae: SAEConfig) -> frozenset[str]:
    """Settings of the training that change nothing of such an SAE."""
    unread = type(train).not_in_recipe | _OF_HOOKS | (OF_WARM_START if train.init_from is None else OF_COLD_START)
    if sae.k_start is None or "k_start" not in read_by(sae.arch):
        unread |= {"k_anneal_fraction"}
    if not _PENALTIES & read_by(sae.arch):
        unread |= {"sparsity_warmup_fraction"}
    if train.weights_seed == train.seed:  # naming the seed that the weights would have anyway makes no other SAE
        unread |= {"init_seed"}
    return unread
