"""Exports loaded by the other libraries' own classes: codes, reconstructions and L0 of 10,000 real rows beside saemill's.

    python -m tests.benchmarks.quality.parity [--quick] [--json FILE]

Every architecture is trained for a while on the demo's activations of one MLP, exported by ``saemill export`` to every
format, loaded in that library's own environment, run there in float32 and in float64, stored again by the library itself,
and imported from that by ``saemill import``. Where a format refuses, the reason is shown.

Rounding alone can lift one latent over another that is as large to seven digits, or over a threshold. In float64 that does
not happen, so that is what L0 is compared in; the differences in float32 are shown beside it.
"""

import argparse
import contextlib
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from flows.config import load_config
from tasks.activations.reader import read_rows
from tasks.activations.schema import to_float32
from tasks.errors import InputError
from tasks.interchange.formats import NAMES, FormatName
from tasks.interchange.transfer import export_sae, import_sae
from tasks.sae import SparseAutoencoder, load
from tasks.sae.architectures.names import NAMES as ARCHS
from tasks.sae.mesh import OneProcess
from tasks.train.worker import Worker
from tests.benchmarks import ROOT
from tests.benchmarks.command_line import harvested
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.peers.venv import PEERS, make_venv
from tests.composed import run_settings

CONFIG = str(ROOT / "configs/transcoder.yaml")
SOURCE, TARGET, BESIDE = "model.layers.8.mlp:input", "model.layers.8.mlp", "model.layers.4"
TRANSCODERS = [("topk", False), ("topk", True), ("l1", False), ("l1", True), ("batchtopk", False), ("jumprelu", True)]
HARVEST = ["text.max_tokens=65536", f"harvest.hooks=[{BESIDE}, '{SOURCE}', {TARGET}]"]
D_SAE = 1536
TOLERANCE = 1e-4
BATCH = 1000


@dataclass(frozen=True)
class Sae:
    """One SAE that is exported to every format."""

    name: str
    settings: tuple[str, ...]
    rows: str
    """The hook whose rows it reads."""


@dataclass(frozen=True)
class Numbers:
    """Codes of the rows that are not zero, by row and latent, and reconstructions."""

    places: Tensor
    values: Tensor
    rebuilt: Tensor

    @property
    def l0(self) -> float:
        """Active latents of a row."""
        return len(self.values) / len(self.rebuilt)


def main() -> None:
    options = arguments(__doc__ or "", _add)
    where = environment()
    formats: list[FormatName] = [name for name in NAMES if not options.only or name in options.only]
    for name in formats:
        make_venv(name)
    with contextlib.ExitStack() as stack:
        scratch = options.keep or stack.enter_context(tempfile.TemporaryDirectory())
        found, refused = compared(Path(scratch).absolute(), formats, options)
    checks = {
        "parity_exports": len(found),
        "parity_refusals": len(refused),
        **{
            f"parity_{part}_{name}": _worst(found, name, part)
            for name in formats
            for part in ("encode", "decode", "l0", "back")
        },
    }
    rows: list[dict[str, Any]] = [*found, *grouped(refused)]
    finish(options.json, checks, [{key: row.get(key, "") for key in {**rows[0], **rows[-1]}} for row in rows], where)
    bad = [
        row for row in found if max(row["encode"], row["decode"], row["back"]) > TOLERANCE or row["l0"] != row["their l0"]
    ]
    if bad:
        raise SystemExit(f"{len(bad)} of {len(found)} exports differ: {[(row['format'], row['sae']) for row in bad]}")


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--activations", help="an activations directory of configs/transcoder.yaml; left out: harvested")
    parser.add_argument("--storage", default="runs", help="where the activations are harvested to, if they are not there")
    parser.add_argument("--tokens", type=int, default=40_960, help="tokens that each SAE is trained on")
    parser.add_argument("--rows", type=int, default=10_000, help="rows that are compared")
    parser.add_argument("--only", choices=NAMES, nargs="+", help="some of the formats")
    parser.add_argument(
        "--keep", metavar="DIR", help="a folder that keeps what is made; nothing that is there is made again"
    )


def _worst(found: list[dict[str, Any]], name: str, part: str) -> float:
    rows = [row for row in found if row["format"] == name]
    if part == "l0":
        return max(abs(row["l0"] - row["their l0"]) for row in rows)
    return max(float(row[part]) for row in rows)


def grouped(refused: list[dict[str, str]]) -> list[dict[str, str]]:
    """One row for each reason of a format, with all SAEs that it is given for."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in refused:
        reason = row["refused"].replace(f" {row['sae'].split()[0]}", " *").replace(f"/{row['sae']}", "/*")
        found.setdefault((row["format"], reason), []).append(row["sae"])
    return [{"format": name, "sae": ", ".join(names), "refused": reason} for (name, reason), names in found.items()]


def saes() -> list[Sae]:
    """Every architecture, transcoders of those that some format knows, and a crosscoder, which none does."""
    plain = [Sae(arch, (f"sae.arch={arch}", f"train.hook={TARGET}", "train.target_hook=null"), TARGET) for arch in ARCHS]
    transcoders = [
        Sae(f"{arch}{' skip' if skip else ''} transcoder", (f"sae.arch={arch}", f"sae.skip={str(skip).lower()}"), SOURCE)
        for arch, skip in TRANSCODERS
    ]
    several = f"train.hooks=[{BESIDE}, {TARGET}]"
    crosscoder = Sae("topk crosscoder", ("sae.arch=topk", several, "train.hook=null", "train.target_hook=null"), TARGET)
    return [*plain, *transcoders, crosscoder]


def compared(
    scratch: Path, formats: list[FormatName], options: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """A row for each SAE that a format can hold, and one for each refusal."""
    activations = options.activations or harvested(CONFIG, options.storage, HARVEST)
    tokens, n_rows = (20_480, 2_000) if options.quick else (options.tokens, options.rows)
    x = {hook: real_rows(activations, hook, n_rows) for hook in (SOURCE, TARGET)}
    scratch.mkdir(parents=True, exist_ok=True)
    save_file(x, scratch / "rows.safetensors")
    uris = {sae: trained(sae, activations, scratch, tokens) for sae in saes()}
    jobs, refused = exported(uris, formats, scratch)
    for name in formats:
        run_peer(name, [job for job in jobs if job["format"] == name], scratch)
    found = []
    for sae, uri in uris.items():
        held = [job for job in jobs if job["sae"] == sae.name]
        ours = {dtype: numbers(load(uri).to(dtype), x[sae.rows]) for dtype in (torch.float32, torch.float64) if held}
        for job in held:
            found.append({"format": job["format"], "sae": sae.name, **row_of(job, ours, x[sae.rows])})
            print(json.dumps(found[-1]), flush=True)
    return sorted(found, key=lambda row: formats.index(row["format"])), refused


def exported(
    uris: dict[Sae, str], formats: list[FormatName], scratch: Path
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """What each format holds, and what it refuses."""
    jobs, refused = [], []
    for name in formats:
        for sae, uri in uris.items():
            folder = scratch / name / sae.name
            try:
                export_sae(uri, name, str(folder))
            except InputError as error:
                refused.append({"format": name, "sae": sae.name, "refused": str(error).replace(str(scratch), "...")})
            else:
                jobs.append({"format": name, "sae": sae.name, "folder": str(folder), "rows": sae.rows})
    return jobs, refused


def real_rows(activations: str, hook: str, n: int) -> Tensor:
    """The first held-out rows, and training rows after them where those are too few."""
    parts = []
    for split in ("eval", "train"):
        stored = read_rows(activations, hook, split, n)
        parts.append(torch.tensor(to_float32(stored, "bfloat16")))
    return torch.cat(parts)[:n].contiguous()


def trained(sae: Sae, activations: str, scratch: Path, tokens: int) -> str:
    """The SAE directory of a short run by one worker."""
    config = load_config(
        CONFIG, [*HARVEST, *sae.settings, f"sae.d_sae={D_SAE}", f"train.tokens={tokens}", "train.workers=1"], str(scratch)
    )
    out = f"{scratch}/saes/{sae.name}"
    if Path(out, "config.json").exists():
        return out
    worker = Worker(run_settings(config), activations, out, OneProcess())
    run = worker.train()
    worker.finish(run)
    print(f"{sae.name}: {json.dumps({'fvu': run.curve[-1].fvu, 'l0': run.curve[-1].l0})}", flush=True)
    return out


@torch.inference_mode()
def numbers(sae: SparseAutoencoder, x: Tensor) -> Numbers:
    """What saemill itself gives of the rows."""
    places, values, rebuilt = [], [], []
    for start in range(0, len(x), BATCH):
        rows = x[start : start + BATCH].to(sae.W_enc.dtype)
        codes = sae.encode(rows)
        place = codes.nonzero()
        values.append(codes[place[:, 0], place[:, 1]])
        place[:, 0] += start
        places.append(place)
        rebuilt.append(sae.decode(codes, rows))
    return Numbers(torch.cat(places), torch.cat(values), torch.cat(rebuilt))


def run_peer(name: FormatName, jobs: list[dict[str, str]], scratch: Path) -> None:
    """Let the library's own class work on its folders."""
    (scratch / f"{name}.json").write_text(json.dumps(jobs))
    script = str(Path(__file__).with_name("peer.py"))
    command = [PEERS[name].python, script, "--format", name, "--rows", str(scratch / "rows.safetensors")]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    quiet.pop("PYTHONPATH", None)
    subprocess.run([*command, "--jobs", str(scratch / f"{name}.json")], check=True, env=quiet, cwd=scratch)


def row_of(job: dict[str, str], ours: dict[torch.dtype, Numbers], x: Tensor) -> dict[str, Any]:
    """How far the other library is from saemill, and saemill from itself after there and back."""
    folder = Path(job["folder"])
    with safe_open(folder / "found.safetensors", framework="pt") as file:
        kind = file.metadata()["class"]
    held = load_file(folder / "found.safetensors")
    theirs = {
        dtype: Numbers(*(held[f"{str(dtype).removeprefix('torch.')}.{part}"] for part in ("places", "values", "rebuilt")))
        for dtype in ours
    }
    back = import_sae(str(folder / "stored"), cast(FormatName, job["format"]), str(folder / "back")).uri
    again = numbers(load(back).to(torch.float64), x)
    exact, single = torch.float64, torch.float32
    return {
        "class": kind,
        "l0": ours[exact].l0,
        "their l0": theirs[exact].l0,
        "encode": code_difference(ours[exact], theirs[exact]),
        "decode": difference(ours[exact].rebuilt, theirs[exact].rebuilt),
        "back": max(code_difference(ours[exact], again), difference(ours[exact].rebuilt, again.rebuilt)),
        "encode fp32": code_difference(ours[single], theirs[single]),
        "decode fp32": difference(ours[single].rebuilt, theirs[single].rebuilt),
        "others active fp32": others_active(ours[single], theirs[single]),
    }


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    return float((ours - theirs).abs().max() / ours.abs().max())


def code_difference(ours: Numbers, theirs: Numbers) -> float:
    """The same of codes; one that only one of both has counts whole."""
    here, there, alone = _paired(ours, theirs)
    apart = [(ours.values[here] - theirs.values[there]).abs(), ours.values[alone[0]].abs(), theirs.values[alone[1]].abs()]
    return float(torch.cat(apart).max() / ours.values.abs().max())


def others_active(ours: Numbers, theirs: Numbers) -> int:
    """Codes that only one of both has, of all rows."""
    return sum(int(alone.sum()) for alone in _paired(ours, theirs)[2])


def _paired(ours: Numbers, theirs: Numbers) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Where both have a code, in the order of rows and latents, and masks of those that only one has."""
    one, two = (each.places[:, 0].long() * D_SAE + each.places[:, 1].long() for each in (ours, theirs))
    if torch.equal(one, two):
        alike = torch.ones(len(one), dtype=torch.bool)
        return alike, alike, (~alike, ~alike)
    here, there = torch.isin(one, two, assume_unique=True), torch.isin(two, one, assume_unique=True)
    return here, there, (~here, ~there)


if __name__ == "__main__":
    main()
