"""A storage as runs leave it, of objects that a test makes in milliseconds: SAEs, scores, reports, activations and pools."""

import hashlib
from collections.abc import Sequence
from typing import Any

from tasks.registry.moving import considered, promote
from tasks.registry.records import Signed
from tasks.registry.registering import register
from tasks.registry.registry import Registry
from tasks.storage.artifacts import identity, to_json, write_manifest
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store

NOW = Signed.now("ada@engine")


def hashed(name: str) -> str:
    """Twelve hex digits, as in an address."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def address(root: str, stage: str, name: str) -> str:
    return f"{root}/{stage}/toy-{hashed(name)}"


def store_sae(root: str, name: str, activations: str = "rows", size: int = 64, **more: Any) -> str:
    """A finished SAE, with a checkpoint; its URI."""
    uri = address(root, "saes", name)
    store, objects = (
        open_store(uri),
        {"sae.safetensors": name.encode() * size, "config.json": to_json({"model": "m", "k": 4})},
    )
    for key, data in {**objects, "checkpoints/step-1/state.json": b"{}"}.items():
        store.put(key, data)
    hashes = {key: {"sha256": hashlib.sha256(data).hexdigest()} for key, data in objects.items()}
    named = {"stage": "saes", "recipe": {"name": name}, "activations": hashed(activations)}
    write_manifest(uri, {**named, **more, "training": {"fvu": 0.2, "l0": 4.0, "loss": float(len(name))}, "objects": hashes})
    return uri


def store_scores(root: str, sae: str, fvu: float = 0.1, activations: str = "rows") -> str:
    """Finished scores of an SAE."""
    uri = f"{root}/scores/toy-{hashed(identity(sae))}"
    open_store(uri).put("summary.json", to_json({"fvu": fvu, "l0": 5.0, "ce_recovered": None}))
    write_manifest(uri, {"stage": "scores", "sae": identity(sae), "activations": hashed(activations)})
    return uri


def store_report(root: str, sae: str, activations: str = "rows") -> str:
    """A finished report on an SAE."""
    uri = f"{root}/reports/toy-{hashed(identity(sae))}"
    open_store(uri).put("index.html", b"<html>")
    write_manifest(uri, {"stage": "report", "inputs": {"sae": identity(sae), "activations": hashed(activations)}})
    return uri


def store_activations(root: str, name: str, shards: Sequence[str] | None = None, tokens: str | None = None) -> str:
    """Finished activations: own rows beside the manifest or, with names of shards, those in a pool that others share."""
    uri, pool = address(root, "activations", name), f"{root}/shards/m-{hashed('pool')}"
    where = open_store(uri if shards is None else pool)
    entries = [_put_shard(where, shard) for shard in (shards if shards is not None else [f"own-{name}"])]
    hook = {
        "d_in": 1,
        "dtype": "float32",
        "splits": {split: {"rows": len(entries), "shards": entries} for split in ("train", "eval")},
        "statistics": {split: {"mean": [0.0], "variance": 1.0, "median_norm": 1.0} for split in ("train", "eval")},
    }
    more = {} if shards is None else {"shards": f"../../shards/{pool.rpartition('/')[2]}"}
    manifest: dict[str, Any] = {"stage": "activations", "recipe": {"hash": identity(uri)}, "hooks": {"layer": hook}, **more}
    write_manifest(uri, manifest | {"tokens": None if tokens is None else hashed(tokens)})
    return uri


def _put_shard(store: ObjectStore, name: str) -> dict[str, Any]:
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    number = int(sha256[:8], 16)
    key = f"layer/train/{number:08x}-{sha256[:12]}.parquet"
    store.put(key, name.encode())
    store.put(f"commits/train-{number:08x}.json", b"{}")
    return {"key": key, "size": len(name), "sha256": sha256, "rows": 1, "row_groups": [1], "first_sequence": 0}


def keys(root: str, below: str = "") -> list[str]:
    """All keys of a storage, but for the registry's."""
    return [info.key for info in open_store(root).list(below) if not info.key.startswith("registry/")]


def add(registry: Registry, uri: str, signed: Signed = NOW, **more: Any) -> int:
    """Register an SAE; the version."""
    return register(registry, uri, signed, **more)[0].version


def make_champion(registry: Registry, version: int, signed: Signed = NOW) -> None:
    promote(registry, considered(registry, version), signed)
