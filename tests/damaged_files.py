"""Damaged and hostile files of every format that is read, drawn by a seed, and what reading each comes to.

    python -m tests.damaged_files [FORMAT ...]        all cases of these formats, a line for each that is not refused well

Each case is a whole file, spoilt, and read by what reads it for a user: in a process of its own, forked from one that has
imported everything, with 2 GiB of memory more than that and 20 s of CPU (120 on the clock). It must end well or with one
sentence.
"""

import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import SaemillError

MEMORY_BYTES = 2 * 2**30
CPU_SECONDS = 20
SECONDS = 120.0
"""On the clock: a machine that is busy makes things slow, not wrong."""
CASES_EACH = 11
_MAX_SENTENCE = 2_000


@dataclass(frozen=True, slots=True)
class Format:
    """A file among others in a folder, and what reads it."""

    make: Callable[[Path], None]
    """Fills an empty folder with whole files."""
    file: str
    """The one that is spoilt; a glob that one file matches."""
    read: Callable[[Path], object]
    """Reads the folder as a command would."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one case ended."""

    case: str
    damage: str
    how: str
    """'read', 'refused', or what should not be: 'traceback', 'no sentence', 'too long', 'killed'."""
    said: str
    seconds: float
    peak_mib: int

    @property
    def well(self) -> bool:
        """Whether it ended as it should."""
        return self.how in ("read", "refused")


def spoil(path: Path, others: list[Path], rng: random.Random) -> str:
    """Damage a file in place; what was done, in words."""
    as_json = path.suffix == ".json"
    kinds = [*_ANY, *([*_JSON] * 3 if as_json else [_hostile_number] * 3)]
    kind = rng.choice(kinds)
    if kind is _another_file:
        path.write_bytes(rng.choice(others).read_bytes() if others else b"")
        return "another file"
    said = kind(path, rng)
    return f"{kind.__name__.strip('_')} {said or ''}".strip()


def _truncated(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    at = rng.randrange(len(data)) if data else 0
    path.write_bytes(data[:at])
    return f"to {at} of {len(data)} bytes"


def _emptied(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def _bits_flipped(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    places = [rng.randrange(len(data)) for _ in range(rng.choice([1, 1, 3, 20]))] if data else []
    for at in places:
        data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"at {places}"


def _footer_flipped(path: Path, rng: random.Random) -> str:
    """Where Parquet and zip keep their sizes."""
    data = bytearray(path.read_bytes())
    places = [max(0, len(data) - 1 - rng.randrange(600)) for _ in range(3)] if data else []
    for at in places:
        data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"at {places}"


def _hostile_number(path: Path, rng: random.Random) -> str:
    """A size in a header as large as it can be, or negative."""
    data = bytearray(path.read_bytes())
    width = rng.choice([4, 8])
    at = rng.randrange(max(1, min(len(data), rng.choice([16, 64, 512, 10**9]))))
    value = rng.choice([b"\xff" * width, b"\xff" * (width - 1) + b"\x7f", bytes(width), b"\x00" * (width - 1) + b"\x40"])
    data[at : at + width] = value
    path.write_bytes(data)
    return f"{value.hex()} at {at}"


def _blanked(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    at = rng.randrange(max(1, len(data)))
    data[at : at + 64] = bytes(len(data[at : at + 64]))
    path.write_bytes(data)
    return f"at {at}"


def _noise(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(rng.choice([3, 100, 5000])))


def _utf_16(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes().decode("latin1").encode("utf-16"))


def _nested(path: Path, rng: random.Random) -> str:
    """JSON, YAML and Python literals nested too deep for any stack."""
    opening = rng.choice(["[", '{"a":', "("])
    path.write_text(opening * 100_000)
    return repr(opening)


def _a_folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _a_link_to_itself(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _another_file(path: Path, rng: random.Random) -> None:
    raise NotImplementedError("done by spoil, which knows the others")


def _doubled(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() * 2)


_ANY = (
    _truncated,
    _truncated,
    _emptied,
    _bits_flipped,
    _bits_flipped,
    _footer_flipped,
    _hostile_number,
    _blanked,
    _noise,
    _utf_16,
    _nested,
    _a_folder,
    _a_link_to_itself,
    _another_file,
    _doubled,
)
_VALUES = (
    None,
    True,
    -1,
    -8,
    0,
    1e308,
    float("nan"),
    float("inf"),
    2**63,
    10**400,
    "",
    "x",
    "\0",
    "../../../../etc/passwd",
    "/etc/passwd",
    "\ud800",
    "y" * 10**6,
    [],
    [1],
    [[]],
    {},
    {"a": 1},
)


def _a_value_changed(path: Path, rng: random.Random) -> str:
    """One value, wherever it stands in a JSON document."""
    document = {"document": json.loads(path.read_bytes())}
    places = list(_places(document))
    holder, key = rng.choice(places)
    value = rng.choice(_VALUES)
    holder[key] = value
    _rewritten(path, document)
    return f"{key!r} to {str(value)[:40]!r}"


def _a_value_nested(path: Path, rng: random.Random) -> str:
    """One value 100,000 deep."""
    document = {"document": json.loads(path.read_bytes())}
    holder, key = rng.choice(list(_places(document)))
    holder[key] = "MARK"
    _rewritten(path, document)
    path.write_text(path.read_text().replace('"MARK"', "[" * 100_000 + "]" * 100_000))
    return repr(key)


def _a_value_removed(path: Path, rng: random.Random) -> str:
    document = {"document": json.loads(path.read_bytes())}
    holder, key = rng.choice([place for place in _places(document) if place[0] is not document] or [(document, "document")])
    del holder[key]
    document.setdefault("document", None)
    _rewritten(path, document)
    return repr(key)


_JSON = (_a_value_changed, _a_value_changed, _a_value_changed, _a_value_removed, _a_value_nested)


def _rewritten(path: Path, document: dict[str, object]) -> None:
    sys.set_int_max_str_digits(0)
    path.write_text(json.dumps(document["document"]), encoding="utf-8")


def _places(value: object) -> Iterator[tuple[object, object]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def run(names: list[str], cases: dict[str, list[int]] | None = None) -> Iterator[Outcome]:
    """Read cases of these formats, by default all, one after the other."""
    from tests.damaged_formats import FORMATS

    with tempfile.TemporaryDirectory(prefix="damaged-") as scratch:
        for name in names:
            whole = Path(scratch, name, "whole")
            whole.mkdir(parents=True)
            FORMATS[name].make(whole)
            # The undamaged folder must be read, or the cases show nothing.
            shutil.copytree(whole, whole.with_name("copy"), symlinks=True)
            yield _watched(FORMATS[name], whole.with_name("copy"), f"{name} whole", "")
            for number in (cases or {}).get(name, range(CASES_EACH)):
                folder = Path(scratch, name, str(number))
                shutil.copytree(whole, folder, symlinks=True)
                file = next(folder.glob(FORMATS[name].file))
                rng = random.Random(f"{name} {number}")
                others = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != file]
                damage = spoil(file, others, rng)
                yield _watched(FORMATS[name], folder, f"{name} {number}", damage)
                shutil.rmtree(folder)


def _watched(form: Format, folder: Path, case: str, damage: str) -> Outcome:
    reading, writing = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if not child:
        os.close(reading)
        _read_and_tell(form, folder, writing)
    os.close(writing)
    said = _told(reading, child, began + SECONDS)
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - began
    how, _, text = said.partition("\n")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        how = "too long" if number in (signal.SIGKILL, signal.SIGXCPU) else f"killed by {signal.Signals(number).name}"
    return Outcome(case, damage, how, text, seconds, usage.ru_maxrss // 1024)


def _told(reading: int, child: int, deadline: float) -> str:
    parts = []
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            break
        part = os.read(reading, 65536)
        if not part:
            break
        parts.append(part)
    os.close(reading)
    return b"".join(parts).decode(errors="replace")


def _read_and_tell(form: Format, folder: Path, writing: int) -> None:
    """What the child does; it never returns."""
    said = "killed"
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        form.read(folder)
        said = "read"
    except SaemillError as error:
        text = str(error)
        one = "\n" not in text and 0 < len(text) <= _MAX_SENTENCE and text.rstrip(")").endswith(".")
        said = f"{'refused' if one else 'no sentence'}\n{text[:3000]}"
    except BaseException:
        said = f"traceback\n{traceback.format_exc()[-3000:]}"
    finally:
        os.write(writing, said.encode(errors="replace"))
        os._exit(0)


def main() -> None:
    """Run the formats that are named, or all; exit code 1 where a case ended badly."""
    from tests.damaged_formats import FORMATS

    as_json = "--json" in sys.argv
    named = [name for name in sys.argv[1:] if not name.startswith("--")]
    chosen = [name.partition(":") for name in named]
    cases = {name: [int(n) for n in numbers.split(",") if n] for name, _, numbers in chosen if numbers != ""}
    counts: Counter[str] = Counter()
    bad = 0
    for outcome in run([name for name, _, _ in chosen] or list(FORMATS), cases):
        counts[outcome.how] += 1
        bad += not outcome.well or (outcome.case.endswith("whole") and outcome.how != "read")
        if as_json:
            fields = {name: getattr(outcome, name) for name in Outcome.__slots__}
            print(json.dumps(fields), flush=True)  # noqa: T201
        elif not outcome.well or "--all" in sys.argv or (outcome.case.endswith("whole") and outcome.how != "read"):
            about = f"{outcome.how} {outcome.seconds:.1f} s {outcome.peak_mib} MiB"
            said = outcome.said.replace("\n", "\n    ")
            print(f"{outcome.case} | {outcome.damage} | {about}\n    {said}", flush=True)  # noqa: T201
    if not as_json:
        print(dict(counts))  # noqa: T201
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
