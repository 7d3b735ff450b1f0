"""Publishing real SAEs: how long a folder takes, whether other libraries load it, and what a server has after kills.

    python -m tests.benchmarks.operations.publish [--quick] [--json FILE] [--sae URI --scores URI]

The demo's SAE, or the one given, is built by the command for all targets, and its time is told. SAELens' own class loads the
folder and the registry entry, sparsify's and circuit-tracer's load the same weights published as a TopK SAE and as a
transcoder, each in its own environment; codes of random rows must be saemill's to 1e-6 of the largest, in float64. The
card's snippets run there as they stand. A server with Neuronpedia's rules then gets the latents from the command as a user
gives it, killed (-9) at random moments; the process ends with 1 where a latent is missing or there twice.
"""

import argparse
import contextlib
import gzip
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.interchange.formats import FormatName
from tasks.sae import load
from tasks.storage.artifacts import read_json, to_json
from tests.benchmarks import ROOT
from tests.benchmarks.command_line import SMALL, answered, ran
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.peers.venv import PEERS, make_venv
from tests.publish.fake_neuronpedia import KEY, Troubles, neuronpedia

DEMO = str(ROOT / "configs/demo.yaml")
MODEL, REPO = "HuggingFaceTB/SmolLM2-135M-Instruct", "example/smollm2-saes"
TOLERANCE, ROWS = 1e-6, 200
HELD: dict[FormatName, dict[str, Any]] = {
    "saelens": {},
    "sparsify": {"arch": "topk"},
    "circuit-tracer": {"hook": "model.layers.8.mlp:input", "target_hook": "model.layers.8.mlp", "hook_roles": None},
}
"""How the SAE is labelled anew, so that the library can hold its weights."""


def main() -> None:
    options = arguments(__doc__ or "", _add)
    where = environment()
    with contextlib.ExitStack() as stack:
        scratch = Path(options.keep or stack.enter_context(tempfile.TemporaryDirectory())).absolute()
        scratch.mkdir(parents=True, exist_ok=True)
        sae, scores = options.sae, options.scores
        if sae is None or scores is None:
            made = ran("score", DEMO, options.storage, SMALL if options.quick else ())
            sae, scores = made["sae"], made["scores"]
        before = of_children()
        built, seconds = build(sae, scores, f"{scratch}/out", "hf,neuronpedia,saelens-yaml")
        cpu = of_children() - before
        rows = [loaded(name, sae, scores, scratch) for name in options.only]
        survived = under_fire(built["uri"], 3 if options.quick else options.kills)
    checks = {
        "publish_seconds": seconds,
        "publish_cpu_seconds": cpu,
        "publish_bytes": built["bytes"],
        "publish_latents": sum(built["latents"].values()),
    }
    checks |= {f"publish_codes_{row['library']}": row["difference"] for row in rows} | survived
    finish(options.json, checks, rows, where)
    wrong = [row for row in rows if row["difference"] > TOLERANCE]
    if wrong or survived["publish_lost"] or survived["publish_twice"]:
        raise SystemExit("a library gives other codes, or the server has not each latent once")


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sae", help="an SAE directory; left out: the demo's, made where it is not there")
    parser.add_argument("--scores", help="its scores")
    parser.add_argument("--storage", default="runs", help="where the demo is, or comes to be")
    parser.add_argument("--only", choices=list(HELD), nargs="*", default=list(HELD), help="some of the libraries")
    parser.add_argument("--kills", type=int, default=20, help="of the command that pushes")
    parser.add_argument("--keep", metavar="DIR", help="a folder that keeps what is made")


def build(sae: str, scores: str, out: str, to: str) -> tuple[dict[str, Any], float]:
    """What the command says, and how long it took with its start."""
    begin = time.monotonic()
    told = answered("publish", sae, "--scores", scores, "--to", to, "--out", out, "--name", REPO, "--model", MODEL)
    return told["built"], time.monotonic() - begin


def of_children() -> float:
    """Seconds that processors have worked for commands which ended, however busy the machine is with others."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def loaded(name: FormatName, sae: str, scores: str, scratch: Path) -> dict[str, Any]:
    """Codes of the built folder in a library's own class, beside saemill's."""
    make_venv(name)
    labelled = relabelled(sae, scratch / name, HELD[name])
    built, _ = build(labelled, scores, f"{scratch}/{name}/out", "hf,saelens-yaml" if name == "saelens" else "hf")
    hub = Path(built["uri"], "hub")
    folder = {"circuit-tracer": hub}.get(name) or next((hub / name).iterdir())
    copied = scratch / name / "theirs"
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(folder, copied)
    ours = load(labelled).to(torch.float64)
    x = 20 * torch.randn(ROWS, ours.d_in, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    save_file({"x": x}, scratch / "rows.safetensors")
    (scratch / "jobs.json").write_text(json.dumps([{"folder": str(copied), "rows": "x"}]))
    peer = ROOT / "tests/benchmarks/quality/parity/peer.py"
    asked = ["--format", name, "--rows", f"{scratch}/rows.safetensors", "--jobs", f"{scratch}/jobs.json"]
    in_library(name, str(peer), *asked)
    with torch.inference_mode():
        difference = compared(ours.encode(x), load_file(copied / "found.safetensors"))
    snippets = run_snippets(name, hub)
    entry = registered(Path(built["uri"]), hub) if name == "saelens" else "not of this library"
    return {"library": PEERS[name].version, "difference": difference, "snippets run": snippets, "registry entry": entry}


def relabelled(sae: str, folder: Path, changes: dict[str, Any]) -> str:
    """The same weights under other settings, in a directory of the same hash."""
    if not changes:
        return sae
    copied = folder / "saes" / sae.rstrip("/").rpartition("/")[2]
    copied.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(sae, "sae.safetensors"), copied)
    settings = {
        name: value for name, value in ((read_json(sae, "config.json") or {}) | changes).items() if value is not None
    }
    (copied / "config.json").write_bytes(to_json(settings))
    return str(copied)


def compared(codes: Tensor, found: dict[str, Tensor]) -> float:
    """The largest difference, as a share of the largest code."""
    places = found["float64.places"].long()
    theirs = torch.zeros_like(codes).index_put((places[:, 0], places[:, 1]), found["float64.values"].to(codes.dtype))
    return float((theirs - codes).abs().max() / codes.abs().max())


def run_snippets(name: FormatName, hub: Path) -> int:
    """How many of the card's snippets are for the library; each runs as it stands."""
    package = {"saelens": "sae_lens", "sparsify": "sparsify"}.get(name, "")
    blocks = re.findall(r"^```python\n(.*?)^```$", (hub / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    wanted = [block for block in blocks if package and package in block]
    for block in wanted:
        in_library(name, "-c", block, cwd=hub)
    return len(wanted)


def registered(folder: Path, hub: Path) -> str:
    """What SAELens itself makes of the entry, with the folder in place of the hub."""
    script = ROOT / "tests/benchmarks/operations/saelens.py"
    return in_library("saelens", str(script), str(folder / "pretrained_saes.yaml"), str(hub)).strip().splitlines()[-1]


def in_library(name: FormatName, *arguments: str, cwd: Path | None = None) -> str:
    """What a script says in the library's environment, where saemill is not installed."""
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment = plain | {"HF_HUB_OFFLINE": "1"}
    words = [PEERS[name].python, *arguments]
    return subprocess.run(words, cwd=cwd or "/", env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout


def under_fire(folder: str, kills: int) -> dict[str, int]:
    """Push from the command line, killed again and again, to a server that is slow; what it has in the end."""
    rng, killed, commands = random.Random(0), 0, 0
    with neuronpedia(Troubles(longest_s=0.4)) as (base, state):
        words = [sys.executable, "-m", "flows.cli", "publish", folder, "--push", f"neuronpedia:{base}", "--settle", "1"]
        code: int | None = None
        while code != 0:
            commands += 1
            process = subprocess.Popen(
                words, cwd=ROOT, env={**os.environ, "NEURONPEDIA_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
            )
            before = state.asked.total()
            while killed < kills and process.poll() is None and state.asked.total() == before:
                time.sleep(0.01)
            if killed < kills and process.poll() is None:
                time.sleep(rng.uniform(0, 1.5))
                if process.poll() is None:
                    process.kill()
                    killed += 1
            code = process.wait()
        wanted = latents_of(Path(folder))
        there = {index: len(found) for (_, _, index), found in state.activations.items()}
        return {
            "publish_kills": killed,
            "publish_commands": commands,
            "publish_questions": state.asked["/api/features"],
            "publish_lost": len(wanted.keys() - there.keys()),
            "publish_twice": sum(there[index] != wanted.get(index) for index in there),
        }


def latents_of(folder: Path) -> Counter[int]:
    """Latents with how many contexts each has in the calls that were built."""
    found: Counter[int] = Counter()
    for path in folder.glob("neuronpedia/calls/**/*.gz"):
        for each in json.loads(gzip.decompress(path.read_bytes()))["features"]:
            found[each["index"]] += len(each["activations"])
    return found


if __name__ == "__main__":
    main()
