"""SAEs from storage and back: saemill's own and those of other libraries."""

import os
from dataclasses import replace
from typing import Any

import torch

from flows.references import sae_at
from tasks.hook_roles import ENTRY, HookRoles
from tasks.interchange.formats import FormatName, format_of, open_format
from tasks.sae import checkpoint
from tasks.sae.model import SparseAutoencoder
from tasks.storage.objects import open_store


def load(
    uri: str | os.PathLike[str],
    *,
    format: FormatName | None = None,
    device: str | torch.device = "cpu",
    storage: str | None = None,
) -> SparseAutoencoder:
    """An SAE from a folder or an ``s3://`` prefix. It has ``encode``, ``decode`` and ``encode_sparse``.

    Raw activations go in and come out, ``[..., d_in]`` in any precision.

    Args:
        uri: a directory that ``saemill train`` or ``saemill import`` wrote, or one of another library; or a version in a
            registry, such as ``name@champion``, ``name@3`` or ``name@champion~1``.
        format: whose files they are, where their names should not decide: saelens, sparsify, dictionary_learning or
            circuit-tracer.
        device: where the weights are to be.
        storage: root of all results, where the registry is. None: as ``SAEMILL_STORAGE`` says, else ``runs``.

    Raises:
        InputError: no SAE is there, or the other library's SAE has a form that is not known here.
        ArtifactError: one of saemill's own is damaged.
    """
    store = open_store(sae_at(os.fspath(uri), storage))
    name = _foreign_format(store.uri) if format is None else format
    if name is None:
        return checkpoint.load(store.uri, device)
    sae = open_format(name).read(store).module()
    sae.belonging = replace(sae.belonging, imported_from=name)
    return sae.requires_grad_(requires_grad=False).to(device)


def save(sae: SparseAutoencoder, uri: str | os.PathLike[str]) -> None:
    """Write an SAE to a folder or an ``s3://`` prefix, in place of one that is there; ``load`` reads it.

    Its hooks and its model are written too, so that ``saemill score`` and ``saemill encode`` know them.
    """
    checkpoint.save(sae, os.fspath(uri), _provenance(sae))


def _foreign_format(uri: str) -> FormatName | None:
    """The other library whose files these are; None where they are saemill's own, or nobody's."""
    store = open_store(uri)
    if store.head(checkpoint.CONFIG) is not None and store.head(checkpoint.WEIGHTS) is not None:
        return None
    return format_of(store)


def _provenance(sae: SparseAutoencoder) -> dict[str, Any]:
    of = sae.belonging
    facts = {
        "hook": of.hooks[0] if of.hooks else None,
        "hooks": list(of.hooks) if len(of.hooks) > 1 else None,
        "target_hook": of.target_hook,
        "model": of.model,
        "revision": of.revision,
        "imported_from": of.imported_from,
        "training": dict(of.training) or None,
    }
    known = {name: value for name, value in facts.items() if value is not None}
    if not of.hooks or of.imported_from is not None:  # the names of another library are no roles in our activations
        return known
    return known | {ENTRY: HookRoles(of.hooks, (of.target_hook,) if of.target_hook else of.hooks).to_json()}
