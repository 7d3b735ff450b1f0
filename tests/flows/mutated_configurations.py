"""Configurations spoilt by a seeded generator, and what the command line makes of each, in a process that is watched.

    python -m tests.flows.mutated_configurations 0 3000     # the cases of these numbers; counts, and what went wrong

A case is a file (or what stands where a file should), and what is given with --set and --storage. Its number says all: the
same number is the same case on every machine.
"""

import copy
import gc
import importlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.flows.spoilt_values import DOCUMENTS, ELSEWHERE, LINES, NUMBERS, OTHERS, TEXTS

SEED = "configurations-1"
BATCH = 20
MOST_CPU_S = 10
MOST_WALL_S = 180
"""Of a machine that does other work too."""
MOST_BYTES = 2 * 2**30
"""Above what the process maps to begin with."""


@dataclass(frozen=True)
class Case:
    """What the command line is given."""

    number: int
    data: bytes | str
    """Content of the configuration file, or what else stands there: 'folder', 'missing', 'huge', 'unreadable', 'pipe'."""
    overrides: tuple[str, ...] = ()
    storage: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How it ended."""

    kind: str
    """'accepted', 'refused', or what may not be: 'traceback', 'lines', 'hang', 'memory', 'killed'."""
    told: str


GOOD = ("accepted", "refused")

# --- what is spoilt

_OWN: dict[str, Any] = {
    "name": "own",
    "storage": "runs",
    "activations": {"source": "rows.npy", "labels": "labels.txt", "eval_fraction": 0.25},
    "sae": {"arch": "topk", "d_sae": 16, "k": 2},
    "train": {"tokens": 64, "batch_tokens": 16, "workers": 1},
}
_TEXT: dict[str, Any] = {
    "name": "text",
    "storage": "runs",
    "model": {"name": "model"},
    "text": {"source": "corpus.parquet", "title_columns": ["title"], "context_length": 8, "max_tokens": 1000},
    "harvest": {"hooks": ["model.layers.0", "model.layers.1"]},
    "sae": {"arch": "batchtopk", "d_sae": 32, "k": 4},
    "train": {"tokens": 64, "batch_tokens": 16, "workers": 1, "hook": "model.layers.1"},
}
_SWEEP = _OWN | {"sweep": {"k": [1, 2], "seeds": [0, 1], "lr": [0.001]}}


def case(number: int) -> Case:
    """The case of a number."""
    chance = random.Random(f"{SEED}:{number}")
    base: dict[str, Any] = copy.deepcopy(chance.choice((_OWN, _TEXT, _SWEEP)))
    way = chance.random()
    if way < 0.06:
        return Case(number, DOCUMENTS[number % len(DOCUMENTS)])
    if way < 0.07:
        return Case(number, chance.choice(ELSEWHERE))
    if way < 0.35:
        given = tuple(_override(chance) for _ in range(chance.choice((1, 1, 1, 2, 3))))
        return Case(number, _dumped(base), given, _storage(chance))
    if way < 0.75:
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            _spoil(base, chance)
        return Case(number, _dumped(base), (), _storage(chance))
    data = _dumped(base)
    for _ in range(chance.choice((1, 2, 3))):
        data = _spoilt_bytes(data, chance)
    return Case(number, data)


def _names() -> list[str]:
    from flows.settings import listed

    return [setting.name for setting in listed()]


def _value(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(chance.choice((TEXTS, NUMBERS, NUMBERS, OTHERS))))


def _storage(chance: random.Random) -> str | None:
    return str(chance.choice(TEXTS)) if chance.random() < 0.05 else None


def _override(chance: random.Random) -> str:
    name, value = _misspelt(chance.choice(_names()), chance), _value(chance)
    text = value if isinstance(value, str) else json.dumps(value)
    if chance.random() < 0.15:
        return chance.choice(
            (name, "=", f"={text}", f"{name}={text}={text}", f".{name}={text}", f"{name}.x={text}", f"{name}.={text}")
        )
    # The command line's arguments hold no NUL, and halves of surrogate pairs only where bytes are no UTF-8.
    return f"{name}={text}".replace("\x00", "").replace("\ud800", "\udcff")


def _misspelt(name: str, chance: random.Random) -> str:
    if chance.random() < 0.85:
        return name
    at = chance.randrange(len(name))
    return chance.choice(
        (
            name[:at] + name[at + 1 :],
            name[:at] + "_" + name[at:],
            name.upper(),
            name.rpartition(".")[2],
            f"x.{name}",
            name + "é",
        )
    )


def _spoil(values: dict[str, Any], chance: random.Random) -> None:
    way = chance.random()
    group, _, leaf = _misspelt(chance.choice(_names()), chance).rpartition(".")
    home = values.setdefault(group, {}) if group else values
    if way < 0.05 and home:
        values.pop(chance.choice(sorted(values)), None)
    elif way < 0.1:
        values[chance.choice(sorted(values))] = _value(chance)
    elif way < 0.15:
        deep: Any = _value(chance)
        for _ in range(chance.choice((2, 20, 40, 200))):
            deep = [deep] if chance.random() < 0.5 else {"a": deep}
        values[group or leaf] = deep
    elif isinstance(home, dict):
        home[leaf] = _value(chance) if chance.random() < 0.9 else [_value(chance) for _ in range(3)]


def _dumped(values: Mapping[str, Any]) -> bytes:
    return yaml.safe_dump(dict(values), allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")


def _spoilt_bytes(data: bytes, chance: random.Random) -> bytes:
    at, way = chance.randrange(len(data) + 1), chance.randrange(8)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    if way == 2:
        return data.decode("utf-8", "replace").encode(
            chance.choice(("utf-16", "utf-32", "latin-1", "utf-8-sig", "utf-16-be")), "replace"
        )
    if way == 3:
        lines = data.splitlines(keepends=True)
        return b"".join([*lines, chance.choice(lines or [b""])])
    if way == 4:
        return data.replace(b"  ", chance.choice((b"\t", b" ", b"   ", b"")), chance.randrange(1, 4))
    if way == 5:
        word = str(chance.choice(chance.choice((TEXTS, NUMBERS)))).encode("utf-8", "surrogatepass")
        colon = data.find(b":", at)
        return data[: colon + 1] + b" " + word + data[data.find(b"\n", colon) :] if colon > 0 else data + word
    return data[:at] + chance.choice(LINES) + data[at:]


# --- what is done with it


def prepared(folder: Path, model: str) -> None:
    """Fill a folder with what the configurations name."""
    np.save(folder / "rows.npy", np.random.default_rng(0).standard_normal((64, 8), dtype=np.float32))
    (folder / "labels.txt").write_text("".join(f"row {i}\n" for i in range(64)))
    texts = [f"document {i} has a few words" for i in range(20)]
    pq.write_table(pa.table({"text": texts, "title": texts, "n": list(range(20))}), folder / "corpus.parquet")
    (folder / "model").symlink_to(model)


def outcomes(cases: Iterable[Case], folder: Path) -> Iterator[tuple[int, Outcome]]:
    """How each case ends, by number, in forked processes whose current directory is the prepared ``folder``.

    A fork takes some cases in turn, as forking costs more than most of them; where one ends it, another goes on.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported; where it is already, see _code
    for name in NEEDED:
        importlib.import_module(name)
    gc.freeze()  # else each fork's collections would copy all that is imported
    left = list(cases)
    while left:
        batch = left[:BATCH]
        found = _watched(batch, folder)
        yield from ((given.number, outcome) for given, outcome in zip(batch, found, strict=False))
        left = left[len(found) :]


NEEDED = (
    "flows.cli",
    "flows.status",
    "datasets",
    "huggingface_hub",
    "tasks.harvest.sources",
    "tasks.lm.hooks",
    "tasks.lm.load",
    "tasks.text.corpus",
    "tasks.train.loggers",
    "tasks.train.sweep.members",
)
"""Modules that each case needs, so that forks have them; none starts threads, which a fork would lose."""


def _watched(batch: Sequence[Case], folder: Path) -> list[Outcome]:
    """How the cases end, up to and with the first that ends the fork."""
    log = folder.parent / "cases.log"
    log.write_bytes(b"")
    child = os.fork()
    if child == 0:
        _be(batch, folder, log)
    size, since = 0, time.monotonic()
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if log.stat().st_size > size:
            size, since = log.stat().st_size, time.monotonic()
        if time.monotonic() - since > MOST_WALL_S:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.003)
    found = [_judged(*json.loads(line)) for line in log.read_text().splitlines()]
    if len(found) < len(batch):
        number = os.WTERMSIG(ended[1])
        hung = number in (signal.SIGXCPU, signal.SIGKILL)
        found.append(Outcome("hang" if hung else "killed", f"status {ended[1]}, signal {number}"))
    return found


def _judged(code: int, told: str) -> Outcome:
    if "Traceback (most recent call last)" in told:
        return Outcome("memory" if "MemoryError" in told else "traceback", told)
    if code == 0:
        return Outcome("accepted", told)
    if code == 2 and told.startswith("saemill: ") and told.count("\n") == 1:
        return Outcome("refused", told)
    return Outcome("lines", f"exit code {code}: {told}")


def _be(batch: Sequence[Case], folder: Path, log: Path) -> None:
    """The forked process: the command line, and what comes before a run; a line of ``log`` for each case."""
    try:
        os.chdir(folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, used + MOST_BYTES))
        for given in batch:
            spent = int(sum(os.times()[:2]))
            resource.setrlimit(resource.RLIMIT_CPU, (spent + MOST_CPU_S, resource.RLIM_INFINITY))
            faults, code = io.StringIO(), 70
            with redirect_stderr(faults), redirect_stdout(io.StringIO()):
                try:
                    code = _code(given)
                except BaseException:
                    faults.write(traceback.format_exc())
            with open(log, "a") as lines:
                lines.write(json.dumps([code, faults.getvalue()]) + "\n")
    finally:
        os._exit(0)


def _code(given: Case) -> int:
    import datasets
    import huggingface_hub

    from flows import cli
    from flows.config import load_config
    from flows.preflight import check
    from tests.composed import members

    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    path = _placed(given)
    more = [part for override in given.overrides for part in ("--set", override)]
    more += ["--storage", given.storage] if given.storage is not None else []
    code = _exit_code(lambda: cli.main(["status", path, *more]))
    if code != 0:
        return code

    def before_a_run() -> int:
        config = load_config(path, given.overrides, given.storage)
        if config.sweep.lists:
            members(config)
        check(config)
        return 0

    return _exit_code(lambda: sys.exit(cli.exit_code(before_a_run, [])))


def _exit_code(call: Callable[[], object]) -> int:
    try:
        call()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    raise AssertionError("it goes on after its end")


def _placed(given: Case) -> str:
    path = Path("case.yaml")
    path.unlink(missing_ok=True)  # may be a pipe
    if isinstance(given.data, bytes):
        path.write_bytes(given.data)
    elif given.data == "folder":
        return "."
    elif given.data == "huge":
        with open(path, "wb") as file:
            file.truncate(100 * 2**20)
    elif given.data == "unreadable":
        return "/proc/self/mem"
    elif given.data == "pipe":
        os.mkfifo(path)
    elif given.data == "long name":
        return "x" * 300
    elif given.data == "nul name":
        return "a\0b"
    else:
        return "missing.yaml"
    return str(path)


def main() -> None:
    """Try the cases of a range of numbers, and print counts and what may not be; with ``--json NUMBER...`` every outcome."""
    from transformers import LlamaConfig

    from tests.text.conftest import byte_tokenizer, save

    with tempfile.TemporaryDirectory() as scratch:
        folder, model = Path(scratch, "here"), Path(scratch, "model")
        folder.mkdir()
        save(byte_tokenizer(), model)
        LlamaConfig(
            vocab_size=258, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        ).save_pretrained(model)
        prepared(folder, str(model))
        if sys.argv[1] == "--json":
            for number, outcome in outcomes(map(case, map(int, sys.argv[2:])), folder):
                sys.stdout.write(json.dumps([number, outcome.kind, outcome.told]) + "\n")
        else:
            first, last = map(int, sys.argv[1:3])
            _tell(outcomes(map(case, range(first, last)), folder))


def _tell(found: Iterable[tuple[int, Outcome]]) -> None:
    counts: Counter[str] = Counter()
    for number, outcome in found:
        counts[outcome.kind] += 1
        if number % 100 == 99:
            sys.stdout.write(f"{number + 1}: {json.dumps(counts)}\n")
        if outcome.kind not in GOOD:
            sys.stdout.write(f"== {number} {outcome.kind}: {outcome.told[-1500:]}\n")
        sys.stdout.flush()
    sys.stdout.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    main()
