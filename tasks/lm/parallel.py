"""One model in several processes, each of which holds a part of every layer (tensor parallelism).

transformers says for each family which modules are cut and how, and adds up what the parts give: ``model.tp_plan`` and
``DistributedConfig`` (transformers 5.23, transformers/distributed/tensor_parallel.py). So what attention, an MLP or a block
gives is whole, and the same, in every process. Inside of these each process has features of its own.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.distributed import DistributedConfig

from tasks.errors import InputError
from tasks.lm.modules import find_module
from tasks.lm.names import parse_hook

# Whose output is cut into heads, and where configurations say how many there are.
_HEADS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}


def require_parts(skeleton: Any, n: int) -> None:
    """Refuse a model that ``n`` processes cannot hold together.

    Raises:
        InputError: transformers has no plan for its family, or its heads cannot be dealt out evenly.
    """
    if n == 1:
        return
    plan = getattr(getattr(skeleton, "base_model", skeleton), "_tp_plan", None) or {}
    if not plan:
        raise InputError(
            f"harvest.gpus_per_replica is {n}, but transformers has no plan by which processes could hold parts of a "
            f"{type(skeleton).__name__}. Set it to 1; with model.truncate auto only the layers up to the hooks are loaded."
        )
    text = skeleton.config.get_text_config()
    for rule, style in plan.items():
        name = _HEADS.get(rule.rpartition(".")[2], "") if style == "colwise" else ""
        heads = getattr(text, name, None)
        if isinstance(heads, int) and heads % n:
            raise InputError(f"harvest.gpus_per_replica is {n} but must divide the model's {name}, of which it has {heads}.")


@contextlib.contextmanager
def in_parts(n: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """What ``from_pretrained`` is told so that each of ``n`` processes of a process group loads its part; nothing of 1.

    Meanwhile transformers takes ``device`` for what the machine computes on: it asks torch, which in builds for CUDA
    answers cuda, be there a GPU for this process or none.
    """
    if n == 1:
        yield {}
        return
    ask = torch._C._get_accelerator
    torch._C._get_accelerator = lambda *_: torch.device(device.type)
    try:
        yield {"distributed_config": DistributedConfig(tp_size=n)}
    finally:
        torch._C._get_accelerator = ask


def is_cut(model: Any, hook: str) -> bool:
    """Whether each process sees its own stretch of the features at a hook, the first process the first ones.

    That is so where a layer gives what another takes that is cut alike: from MLP to ``down_proj``, from heads to ``o_proj``.
    """
    found = parse_hook(hook)
    style = (model.tp_plan or {}).get(re.sub(r"\.\d+(?=\.|$)", ".*", found.module))
    return (found.side, style) in {("output", "colwise"), ("input", "rowwise")}


def require_even(model: nn.Module, hook: str, n: int) -> None:
    """Refuse a hook that ``is_cut`` whose stretches are not of one length.

    Raises:
        InputError: ``n`` does not divide its width.
    """
    side = parse_hook(hook).side
    width = getattr(find_module(model, hook), "out_features" if side == "output" else "in_features", 0)
    if width % n:
        raise InputError(f"harvest.gpus_per_replica is {n} but must divide the width at hook {hook!r}, which is {width}.")
