"""Harvest with a durable write, in tokens/s, against the bare truncated forward pass and SAELens' cache runner.

All contenders of a part read the same token ids with the same weights, batch, dtype and threads, in interleaved rounds.
SAELens has an environment of its own, made at first use (``--venv``); what its runner computes is counted, not what was
asked. In ``saemill`` shards go through the actor's own code in this process, in ``saemill on Ray`` through the whole stage.

The parts: ``bf16`` and ``fp32`` (the rivals), ``nodes`` (two actors on two nodes against one of the same threads) and
``memory`` (an actor's peak over N and over 10 N tokens). With ``--json FILE`` each round is kept as soon as it is whole,
and parts that the file has from an earlier run (``--only``) stay in it, with the checks and rows of all.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import transformers

from tasks.lm.config import ModelConfig
from tasks.lm.load import load_model, load_tokenizer
from tests.benchmarks.harness import arguments, environment, show
from tests.benchmarks.harvest.rivals import BATCH, CONTEXT, MORE_HOOKS, Work, bare, in_process, on_ray, saelens, work_of
from tests.benchmarks.peers.venv import SAELENS, make_venv
from tests.benchmarks.rounds import Contender, Found, interleaved, ratio, rows
from tests.conftest import s3_server

# At 7,700 (bf16) and 2,400 (fp32) tokens/s, five rounds of these take 15 and 7 minutes, the other two parts 6.
# Memory: a tenth is 12 shards; the queues between the stages, and so the peak, fill within the first 10.
TOKENS = {"bf16": 172_032, "fp32": 49_152, "nodes": 65_536, "memory": 491_520}
QUICK_TOKENS = {"bf16": 16_384, "fp32": 8_192, "nodes": 16_384, "memory": 163_840}
# The unit of each part's figures, and the contender that the others are compared with.
ROWS = {
    "bf16": ("tokens/s", "bare bf16"),
    "fp32": ("tokens/s", "bare fp32"),
    "nodes": ("tokens/s", "1 actor of 1 thread"),
    "memory": ("MiB", "peak of N tokens"),
}
# Small, so that there are some for the second actor, and so that N tokens fill all of an actor's stages.
SMALL_SHARDS = 2 * BATCH * CONTEXT


@dataclass
class Kept:
    """What has been measured, by this run or an earlier one, and the file that holds it."""

    path: Path | None
    found: dict[str, Found] = field(default_factory=dict)
    where: dict[str, dict[str, Any]] = field(default_factory=dict)
    """On which machine, and how, each part was measured."""

    @classmethod
    def at(cls, path: Path | None) -> "Kept":
        """What the file has; nothing where there is none."""
        if path is None or not path.exists():
            return cls(path)
        there = json.loads(path.read_text())
        return cls(path, there["found"], there["environment"])

    def keep(self, part: str, found: Found, where: dict[str, Any]) -> None:
        """Take in the rounds of a part so far."""
        self.found[part], self.where[part] = found, where
        if self.path is not None:
            content = {"checks": checks(self.found), "rows": self.rows(), "environment": self.where, "found": self.found}
            aside = self.path.with_name(f".{self.path.name}")
            aside.write_text(json.dumps(content, indent=1) + "\n")
            os.replace(aside, self.path)

    def rows(self) -> list[dict[str, Any]]:
        """One per contender of each part."""
        return [{"part": part, **row} for part in ROWS if part in self.found for row in rows(self.found[part], *ROWS[part])]


def main() -> None:
    options = arguments(__doc__, _more_arguments)
    kept = Kept.at(options.json)
    rounds = options.rounds or (2 if options.quick else 5)
    if {"bf16", "fp32"} & set(options.only):
        make_venv("saelens", options.venv)
    with tempfile.TemporaryDirectory() as folder:
        model = _model(folder)
        for part in options.only:
            tokens = options.tokens or (QUICK_TOKENS if options.quick else TOKENS)[part]
            shard_tokens = SMALL_SHARDS if part in ("nodes", "memory") else 32_768
            work = work_of(folder, model, tokens, options.threads, shard_tokens)
            where = environment() | {"tokens": work.ids.size, "threads": work.threads, "batch": BATCH, "context": CONTEXT}
            with _contenders(part, work, options.venv) as contenders:
                interleaved(contenders, rounds, lambda found, part=part, where=where: kept.keep(part, found, where))
    show(kept.rows())
    print(json.dumps(checks(kept.found), indent=1))


def _more_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS), help="parts to measure")
    parser.add_argument("--venv", type=Path, default=SAELENS.venv, help="SAELens' environment")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads of each contender")
    parser.add_argument("--tokens", type=int, help="tokens per round, in all parts")
    parser.add_argument("--rounds", type=int, help="interleaved rounds")


def checks(found: Mapping[str, Found]) -> dict[str, float]:
    """The figures that the project holds itself to, of those parts that have been measured."""
    made = {}
    for name in ("fp32", "bf16"):
        if name in found:
            ours = found[name][f"saemill {name}"]
            made[f"harvest_vs_bare_{name}"] = ratio(ours, found[name][f"bare {name}"])
            made[f"harvest_vs_saelens_{name}"] = ratio(ours, found[name][f"SAELens {name}"])
    if (bf16 := found.get("bf16")) is not None:
        made["harvest_on_ray_vs_bare_bf16"] = ratio(bf16["saemill on Ray bf16"], bf16["bare bf16"])
        made["harvest_s3_vs_bare_bf16"] = ratio(bf16["saemill bf16 to S3"], bf16["bare bf16"])
        made["harvest_s3_vs_disk"] = ratio(bf16["saemill bf16 to S3"], bf16["saemill bf16"])
        # What the second and the third hook cost together.
        made["extra_hook_cost"] = ratio(bf16["saemill bf16"], bf16["saemill bf16, 3 hooks"]) - 1
    if (nodes := found.get("nodes")) is not None:
        made["two_actors_vs_one"] = ratio(nodes["2 actors of 1 thread"], nodes["1 actor of 1 thread"])
    if (memory := found.get("memory")) is not None:
        made["memory_growth_10x"] = ratio(memory["peak of 10 N tokens"], memory["peak of N tokens"])
    return made


def _model(folder: str) -> str:
    """Weights as a folder that both libraries load."""
    transformers.utils.logging.disable_progress_bar()
    source = ModelConfig(dtype="float32")
    load_model(source).save_pretrained(f"{folder}/model")
    load_tokenizer(source).save_pretrained(f"{folder}/model")
    return f"{folder}/model"


@contextlib.contextmanager
def _contenders(part: str, work: Work, venv: Path) -> Iterator[dict[str, Contender]]:
    """A part's contenders, with what they need running beside them."""
    if part == "bf16":
        with s3_server(_made(work.folder, "s3")) as variables:
            os.environ.update(variables)
            yield _bf16(work, venv)
    elif part == "fp32":
        fp32 = {"bare fp32": bare(work, "float32"), "saemill fp32": in_process(work, work.config("float32"), work.folder)}
        yield fp32 | {"SAELens fp32": saelens(work, "float32", venv)}
    elif part == "nodes":
        with _child("nodes", work) as nodes:
            yield {f"{n} actor{'s'[: n - 1]} of 1 thread": lambda n=n: _asked(nodes, n) for n in (1, 2)}
    else:
        few = work_of(work.folder, work.model, work.ids.size // 10, work.threads, SMALL_SHARDS)
        yield {f"peak of {name} tokens": lambda of=of: _peak(of) for name, of in (("N", few), ("10 N", work))}


def _bf16(work: Work, venv: Path) -> dict[str, Contender]:
    import s3fs

    s3fs.S3FileSystem().mkdir("lake")
    config = work.config("bfloat16")
    return {
        "bare bf16": bare(work, "bfloat16"),
        "saemill bf16": in_process(work, config, work.folder),
        "saemill bf16 to S3": in_process(work, config, "s3://lake"),
        "saemill bf16, 3 hooks": in_process(work, work.config("bfloat16", MORE_HOOKS), work.folder),
        "saemill on Ray bf16": on_ray(work, config),
        "SAELens bf16": saelens(work, "bfloat16", venv),
    }


def _made(folder: str, name: str) -> Path:
    path = Path(folder, name)
    path.mkdir()
    return path


@contextlib.contextmanager
def _child(module: str, work: Work) -> Iterator["subprocess.Popen[str]"]:
    """A module beside this one in a process of its own, until the block ends."""
    command = [sys.executable, "-m", f"tests.benchmarks.harvest.{module}", json.dumps(asdict(work))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def _asked(process: "subprocess.Popen[str]", n: int) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    print(n, file=process.stdin, flush=True)
    return float(process.stdout.readline())


def _peak(work: Work) -> float:
    with _child("memory", work) as process:
        said, _ = process.communicate()
    return float(json.loads(said.splitlines()[-1])["peak"])


if __name__ == "__main__":
    main()
