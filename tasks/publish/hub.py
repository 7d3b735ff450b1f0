"""The folder of a Hugging Face repository: the same SAEs as saemill, SAELens, sparsify and circuit-tracer keep them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tasks.errors import InputError
from tasks.interchange.formats import FormatName, open_format
from tasks.interchange.named import to_safetensors
from tasks.publish.scored import ScoredSae

FOLDER = "hub"
# As SAELens writes it: log10 of the firing rate, of which the smallest stands for never.
_NEVER = 1e-10


@dataclass(frozen=True, slots=True)
class HubReader:
    """One SAE as one library keeps it."""

    sae: str
    """Its id."""
    format: FormatName
    folder: str
    """Below the repository; empty for its root."""
    refused: str | None = None
    """Why the library cannot hold it; then there is no such folder."""


def readers(found: Sequence[ScoredSae], formats: Sequence[FormatName]) -> list[HubReader]:
    """What each library can hold of the SAEs."""
    return [HubReader(each.id, name, folder_of(each.id, name), _refused(each, name)) for each in found for name in formats]


def folder_of(sae: str, name: FormatName) -> str:
    """circuit-tracer wants all layers and their settings at the root, the others a folder for each SAE."""
    return "" if name == "circuit-tracer" else f"{name}/{sae}"


def require_circuit_tracer(told: Sequence[HubReader]) -> None:
    """Refuse SAEs that circuit-tracer cannot hold.

    Raises:
        InputError: there is one.
    """
    refused = next((each.refused for each in told if each.format == "circuit-tracer" and each.refused), None)
    if refused is not None:
        raise InputError(f"--to circuit-tracer: {refused}")


def own_files(found: Sequence[ScoredSae]) -> Iterator[tuple[str, bytes]]:
    """Each SAE's directory as saemill keeps it, its manifest last."""
    for each in found:
        for name, data in each.files.items():
            yield f"{FOLDER}/saemill/{each.id}/{name}", data


def reader_files(found: Sequence[ScoredSae], told: Sequence[HubReader]) -> Iterator[tuple[str, bytes]]:
    """The folders of the other libraries.

    Raises:
        InputError: two SAEs would have one file, as transcoders of one layer have for circuit-tracer.
    """
    by_id, written = {each.id: each for each in found}, dict[str, bytes]()
    for reader in (each for each in told if each.refused is None):
        for name, data in _files(by_id[reader.sae], reader):
            key = "/".join(filter(None, (FOLDER, reader.folder, name)))
            sha256 = hashlib.sha256(data).digest()
            if written.setdefault(key, sha256) != sha256:
                raise InputError(
                    f"Two transcoders would both be {name} for circuit-tracer, which takes one set of one kind; publish "
                    "them apart."
                )
            yield key, data


def _files(found: ScoredSae, reader: HubReader) -> Iterator[tuple[str, bytes]]:
    yield from open_format(reader.format).files(found.sae).items()
    if reader.format == "saelens":
        density = torch.from_numpy(found.latents["density"].to_numpy().astype(np.float32))
        yield "sparsity.safetensors", to_safetensors({"sparsity": torch.log10(density + _NEVER)})


def _refused(found: ScoredSae, name: FormatName) -> str | None:
    hooks = found.sae.belongs.hooks
    if len(hooks) > 1:
        return f"{name} has no place for a crosscoder of {len(hooks)} hooks."
    try:
        open_format(name).files(found.sae)
    except InputError as error:
        return str(error)
    return None
