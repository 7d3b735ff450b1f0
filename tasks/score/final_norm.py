"""What lies between a model's last layer and its unembedding, found by what it does to vectors that are put in."""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tasks.errors import InputError
from tasks.lm.hooks import capture, replace

_TOLERANCE = 0.05  # bfloat16 keeps 8 bits: what should be equal differs by some .01


@dataclass(frozen=True, slots=True)
class FinalNorm:
    """A factor for each feature, after the mean over features is taken away or not."""

    factor: Float[Tensor, "d_model"]
    centred: bool


@torch.no_grad()
def final_norm(model: Any, head: nn.Module, width: int) -> FinalNorm | None:
    """What the model does to a vector of the residual stream before ``head``; None where it is more than a norm.

    Neither classes nor names are asked: OLMo's norm has no weight and no LayerNorm among its bases, Gemma's multiplies
    by 1 + weight, and some models have none. The vectors have mean 0 and root mean square 1, so that no norm changes
    their size, and each comes with its negative, so that a bias cancels.
    """
    p = _balanced(width)
    q = p[torch.randperm(width, generator=torch.Generator().manual_seed(0))]
    probes = torch.stack([p, -p, q, -q, p + 1, -p + 1])
    try:
        layer = _last_layer(model, head)
        found = None if layer is None else _after(model, layer, _name(model, head), probes)
    except InputError:
        return None
    if found is None:
        return None
    odd, bias = (found[0] - found[1]) / 2, (found[0] + found[1]) / 2
    factor, again = odd / p, (found[2] - found[3]) / 2 / q
    if not _close(factor, again, factor):  # features are mixed, as by a dense layer, or bent, as by an activation
        return None
    shifted = (found[4] + found[5]) / 2 - bias  # what is left of the 1 that was added to each feature
    return FinalNorm(factor, _close(shifted, torch.zeros_like(shifted), factor))


def _close(a: Tensor, b: Tensor, size: Tensor) -> bool:
    return float((a - b).norm()) <= _TOLERANCE * float(size.norm())


def _balanced(width: int) -> Float[Tensor, "{width}"]:
    """1 and -1 in turn; an odd width ends in three values of mean 0 and root mean square 1."""
    p = 1.0 - 2.0 * (torch.arange(width) % 2)
    if width % 2:
        p[-3:] = torch.tensor([2**0.5, -(0.5**0.5), -(0.5**0.5)])[-width:]
    return p


def _after(model: Any, layer: str, head: str, probes: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """What reaches the unembedding when the last layer gives these vectors."""

    def put_in(rows: Tensor) -> Tensor:
        if rows.shape[1] != probes.shape[1]:
            raise InputError(f"{layer} is {rows.shape[1]} wide, not {probes.shape[1]}.")
        return probes.to(rows.device)

    token_ids = torch.zeros(1, len(probes), dtype=torch.long, device=next(model.parameters()).device)
    hook = f"{head}:input"
    with replace(model, layer, put_in):
        return capture(model, [hook], token_ids)[hook][0].float().cpu()


def _last_layer(model: nn.Module, head: nn.Module) -> str | None:
    """Of the members of all lists of modules that lie in no other list, the one that ends last before ``head``."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    ended: list[str] = []
    token_ids = torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device)
    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            if name.rpartition(".")[0] in outer:
                stack.enter_context(module.register_forward_hook(lambda *_, name=name: ended.append(name)))
        capture(model, [f"{_name(model, head)}:input"], token_ids)
    return ended[-1] if ended else None


def _name(model: nn.Module, wanted: nn.Module) -> str:
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    return names[wanted]
