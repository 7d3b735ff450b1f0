"""An SAE whose latents stand where those of the version before stood, so that links and lists of indices stay right."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from tasks.errors import ArtifactError, InputError
from tasks.sae import SparseAutoencoder, load, save
from tasks.sae.architectures.batchtopk import BatchTopK
from tasks.sae.checkpoint import CONFIG, WEIGHTS
from tasks.sae.parameters import SHARED
from tasks.sae.scaling import Weights
from tasks.storage.artifacts import MANIFEST, read_json, read_manifest, write_manifest
from tasks.storage.claims import claim, sweep
from tasks.storage.objects import open_store, require

REQUEST = "permuted.json"
_COPIED = ("curve.parquet", "shuffle.json", "run.json", "import.json")
"""What of an SAE's directory does not depend on the order of its latents."""

Order = Int64[np.ndarray, "d_sae"]
"""``order[i]`` is the index in B of the latent that comes to stand at i."""


@dataclass(frozen=True, slots=True)
class Permuted:
    """An SAE of the same latents in another order, as it is stored."""

    uri: str
    order: Order
    sha256: str
    """Of its weights."""


def groups(sae: SparseAutoencoder) -> tuple[int, ...]:
    """Ends of the groups of latents whose members may change places: of nested prefixes, or d_sae."""
    architecture = sae.architecture
    return architecture.bounds(sae.config) if isinstance(architecture, BatchTopK) else (sae.d_sae,)


def order_like(partner: Int64[np.ndarray, "d_sae"], ends: tuple[int, ...]) -> Order:
    """The order in which latents stand at the indices of their partners, and the others in the places that are left.

    Groups keep their members, in which prefixes stay what they are. So a latent whose partner stands in another group, or
    beyond the last index, does not come to its place.

    Args:
        partner: of each latent of B its partner's index in A, or -1.
        ends: of B's groups, rising to d_sae.
    """
    order = np.full(len(partner), -1, np.int64)
    group = np.searchsorted(ends, np.arange(len(partner)), side="right")
    inside = (partner >= 0) & (partner < len(partner))
    inside[inside] = group[partner[inside]] == group[inside]
    order[partner[inside]] = np.flatnonzero(inside)
    for number in range(len(ends)):
        free = np.flatnonzero((order < 0) & (group == number))
        order[free] = np.flatnonzero(~inside & (group == number))
    return order


def permuted(sae: SparseAutoencoder, order: Order) -> SparseAutoencoder:
    """The same SAE, whose latents stand in another order: no number is changed, only where it is."""
    places = torch.from_numpy(order).to(sae.W_dec.device)
    weights = sae.weights

    def moved(name: str, tensor: Tensor) -> Tensor:
        return tensor if name in SHARED else tensor[places]

    found = Weights(
        W_enc=weights.W_enc[:, places].contiguous(),
        b_enc=weights.b_enc[places],
        W_dec=weights.W_dec[places].contiguous(),
        b_dec=weights.b_dec,
        extra={name: moved(name, tensor) for name, tensor in weights.extra.items()},
    )
    return SparseAutoencoder(sae.config, found, sae.belonging).requires_grad_(requires_grad=False)


@dataclass(frozen=True, slots=True)
class Kept:
    """How exactly a permuted SAE does on some rows what it did before."""

    rows: int
    codes_differing: int
    """Codes, of all rows and latents, whose bits differ."""
    reconstruction_difference: float
    """Largest difference of a feature of a reconstruction, over the largest feature: sums are taken in another order."""


@torch.inference_mode()
def kept(before: SparseAutoencoder, after: SparseAutoencoder, order: Order, x: Float32[Tensor, "n d_in"]) -> Kept:
    """Compare codes and reconstructions of raw activations."""
    codes, again = before.encode(x), after.encode(x)
    x_hat, x_hat_again = before.decode(codes, x), after.decode(again, x)
    moved = codes[:, torch.from_numpy(order).to(codes.device)]
    largest = x_hat.abs().max().clamp_min(torch.finfo(x_hat.dtype).tiny)
    difference = (x_hat - x_hat_again).abs().max() / largest
    return Kept(len(x), int((moved.view(torch.int32) != again.view(torch.int32)).sum()), float(difference))


def claim_permuted(uri: str, like: str, out: str) -> bool:
    """Claim a folder for the permuted copy of an SAE; whether it is there already.

    Args:
        uri: the SAE.
        like: the SAE whose indices it takes over.
        out: the folder or ``s3://`` prefix; empty, or not there yet, or of the same.

    Raises:
        InputError: ``out`` holds something else, or one of the SAEs is not there.
    """
    store, request = open_store(out), _request(uri, like)
    there = claim(store, REQUEST, request, [WEIGHTS, CONFIG, MANIFEST, *_copied(uri)], "permuted SAE", "--permute-out")
    return MANIFEST in there


def permute_on_save(uri: str, like: str, order: Order, out: str) -> Permuted:
    """Write an SAE in another order to a folder or ``s3://`` prefix: a finished SAE directory as any other.

    ``permuted.json`` comes first and says what it is made of, the manifest last. What is finished is left as it is, with
    the order that it has.

    Args:
        uri: the SAE.
        like: the SAE whose indices it takes over.
        order: of its latents.
        out: where to; see ``claim_permuted``.

    Raises:
        InputError: ``out`` holds something else, or one of the SAEs is not there.
        ArtifactError: the SAE is damaged.
    """
    store = open_store(out)
    if not claim_permuted(uri, like, out):
        sweep(store)
        _write(uri, order, store.uri, _request(uri, like))
    return _stored(store.uri, len(order))


def _request(uri: str, like: str) -> dict[str, Any]:
    return {"format_version": 1, "sae_sha256": weights_sha256(uri), "like_sha256": weights_sha256(like)}


def _copied(uri: str) -> list[str]:
    source = open_store(uri)
    return [key for key in _COPIED if source.head(key) is not None]


def weights_sha256(uri: str) -> str:
    """The content hash of an SAE's weights.

    Raises:
        InputError: there are none.
    """
    store = open_store(uri)
    if store.head(WEIGHTS) is None:
        raise InputError(f"There is no SAE at {uri}: it lacks {WEIGHTS}.")
    return hashlib.sha256(require(store, WEIGHTS)).hexdigest()


def _write(uri: str, order: Order, out: str, request: Mapping[str, Any]) -> None:
    source, store, copied = open_store(uri), open_store(out), _copied(uri)
    save(permuted(load(uri), order), out, {**(read_json(uri, CONFIG) or {}), "permuted": dict(request)})
    for key in copied:
        store.put(key, source.get(key))
    files = [WEIGHTS, CONFIG, *copied]
    objects = {key: {"sha256": hashlib.sha256(store.get(key)).hexdigest()} for key in files}
    before = read_manifest(uri) or {"format_version": 1, "stage": "saes"}
    write_manifest(out, {**before, "objects": objects, "permuted": {**request, "order": order.tolist()}})


def _stored(uri: str, d_sae: int) -> Permuted:
    entry = (read_manifest(uri) or {}).get("permuted")
    order = entry.get("order") if isinstance(entry, dict) else None
    if not isinstance(order, list) or sorted(order) != list(range(d_sae)):
        raise ArtifactError(f"{uri}/{MANIFEST} does not say how its latents were ordered. Delete {uri} and match again.")
    return Permuted(uri, np.array(order, np.int64), weights_sha256(uri))
