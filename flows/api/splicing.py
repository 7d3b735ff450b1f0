"""A language model that goes on with an SAE's reconstructions in place of its own activations."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from tasks.errors import InputError
from tasks.lm.hooks import replace
from tasks.sae.model import SparseAutoencoder


@contextlib.contextmanager
def spliced(
    model: Any,
    sae: SparseAutoencoder,
    hook: str | None = None,
    *,
    reads: str | None = None,
    where: Bool[Tensor, "batch context"] | None = None,
) -> Iterator[None]:
    """While this is open, the model's forward passes go on with what the SAE rebuilds at a hook.

    Args:
        model: a transformers model, or any whose modules take or give ``[batch, context, ...]``.
        sae: an SAE of this model, or a transcoder.
        hook: where the reconstructions go: a module's dotted name, or the name with ``:input`` behind it. None: as the SAE
            says.
        reads: the hook whose activations are encoded, which the forward pass has to come to first. None: as the SAE says,
            which is ``hook`` itself but for a transcoder.
        where: which tokens are replaced; None: all. Training leaves out position 0 and tokens of very high norm, and an
            SAE rebuilds badly what it has never seen.

    Raises:
        InputError: the SAE does not say which hook it is of, the model has none of that name, or their widths differ.
    """
    read, written = _places(sae, hook, reads)
    held: list[Tensor] = []

    def keep(rows: Tensor) -> Tensor:
        held[:] = [rows.clone()]  # the rest of the pass may work in place
        return rows

    def substitute(rows: Tensor) -> Tensor:
        if read != written and not held:
            raise InputError(f"The forward pass comes to {written!r} before {read!r}, from which it is to be rebuilt.")
        source = rows if read == written else held.pop()
        mask = _mask(where, len(rows))
        if mask is None:
            return _rebuilt(sae, source).to(rows.device)
        changed = rows.to(torch.float32, copy=True)
        changed[mask.to(rows.device)] = _rebuilt(sae, source[mask.to(source.device)]).to(rows.device)
        return changed

    with contextlib.ExitStack() as open_hooks:
        if read != written:
            open_hooks.enter_context(replace(model, read, keep))
        open_hooks.enter_context(replace(model, written, substitute))
        yield


def _places(sae: SparseAutoencoder, hook: str | None, reads: str | None) -> tuple[str, str]:
    """The hook that is read and the one that is written.

    Raises:
        InputError: it is not known which they are.
    """
    of = sae.belonging
    if len(of.hooks) > 1:
        raise InputError(
            f"This SAE is a crosscoder of {', '.join(of.hooks)}; one that reads a single hook can be spliced in."
        )
    own = of.hooks[0] if of.hooks else None
    written = hook or of.target_hook or own
    read = reads or (own if of.target_hook is not None else written)
    if written is None or read is None:
        raise InputError("This SAE does not say which hook it is of: name it, spliced(model, sae, hook).")
    return read, written


def _mask(where: Tensor | None, n: int) -> Tensor | None:
    if where is None:
        return None
    if where.dtype != torch.bool or where.numel() != n:
        raise InputError(
            f"where is {where.dtype} of shape {list(where.shape)}; expected was one true or false for each of {n} tokens."
        )
    return where.flatten()


def _rebuilt(sae: SparseAutoencoder, x: Tensor) -> Tensor:
    """What is rebuilt of raw activations [n, d_in]; gradients pass through."""
    x = x.to(sae.W_enc.device)
    return sae.decode_sparse(*sae.encode_sparse(x), x) if sae.keeps_k else sae.forward(x)
