"""A configuration for a model and corpus of one's own, with sizes that fit them and this machine.

Rules of thumb, each told beside the number that comes of it; whoever reads the file can change what it says.
"""

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from tasks.config_errors import validated
from tasks.errors import InputError
from tasks.lm.config import ModelConfig
from tasks.machine import memory_bytes
from tasks.storage.hashed import readable
from tasks.text.config import TextConfig
from tasks.text.volume import PACKED
from tasks.yaml_file import parse_value

if TYPE_CHECKING:
    from tasks.lm.hooks import HookInfo
    from tasks.text.files import CorpusFile

LANES = 16
LEAST_TOKENS, MOST_TOKENS = 200_000, 2_000_000
# Of two CPU cores in half an hour: a thread takes 780 tokens a second through 8 of SmolLM2's 30 blocks in float32, so 4e10.
HARVEST_FLOPS = 1.4e14
# Of the disk that is free, for the activations.
SHARE_OF_DISK = 0.25
BYTES_PER_TOKEN = 4
"""Of English text in UTF-8."""
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Draft:
    """What the file says, and the numbers that are told beside it."""

    name: str
    storage: str
    model: str
    source: str
    column: str
    hook: str
    title: str
    width: int
    n_blocks: int
    """0: the model has no list of blocks, or the hook is in none."""
    positions: int | None
    context_length: int
    max_tokens: int
    harvested: int
    """About how many tokens the corpus has, or max_tokens where these are fewer."""
    d_sae: int
    k: int
    tokens: int
    batch_tokens: int
    workers: int

    @override
    def __str__(self) -> str:
        """The commented YAML, in which FILE stands for its own name."""
        depth = f", in a model of {self.n_blocks} blocks" if self.n_blocks else ""
        positions = f"the model knows {self.positions:,} positions" if self.positions else "the model sets no bound"
        epochs = f"{self.tokens / self.harvested:.2g} times the {self.harvested:,} that are about to be harvested"
        rows = {
            "name": (self.name, "part of every address that is written"),
            "storage": (self.storage, "a folder, or s3://bucket/prefix"),
            "model.name": (self.model, "a folder, a .gguf file, a package that carries one, or a Hugging Face id"),
            "text.source": (self.source, "a path, glob, folder or s3:// URI, or a Hugging Face dataset"),
            "text.column": (self.column, "what holds the text, in Parquet and JSON lines"),
            "text.context_length": (self.context_length, f"tokens per sequence; {positions}"),
            "text.max_tokens": (self.max_tokens, "stop reading here at the latest; a tenth of the documents is held out"),
            "harvest.hooks": ([self.hook], f"{self.width:,} features wide{depth}; saemill hooks MODEL lists all"),
            "sae.arch": ("batchtopk", "saemill architectures explains the others"),
            "sae.d_sae": (self.d_sae, f"{self.d_sae // self.width} latents per feature of the activations"),
            "sae.k": (self.k, "of which so many are active on a token, on average"),
            "train.tokens": (self.tokens, f"rows seen in all, {epochs}"),
            "train.batch_tokens": (self.batch_tokens, f"rows per step, so {self.tokens // self.batch_tokens:,} steps"),
            "train.workers": (self.workers, "training processes; the result does not depend on their number"),
            "report.title": (self.title, "heading of the report"),
        }
        return _HEAD + "\n".join(_lines(rows)) + "\n"


_HEAD = """\
# Written by `saemill init` for this model, corpus and machine. Paths are relative to the directory you start from.
#
#     saemill run FILE
#
# Settings that are not named here keep their defaults; `saemill settings` lists and explains all. Counts may be written as
# 1M or 1e6. Any of them can be changed on the command line: --set sae.k=16

"""


def draft(model: str, source: str, column: str = "text", hook: str | None = None, storage: str = "runs") -> Draft:
    """Sizes for a model, read from its configuration alone, and a corpus, whose files are only measured.

    Raises:
        InputError: there is no such model or corpus, or the model has no such hook.
    """
    from tasks.lm.hooks import hook_width, list_hooks
    from tasks.lm.load import load_skeleton

    settings = validated(ModelConfig, "MODEL", name=model)
    text = validated(TextConfig, "--text", source=source)
    skeleton = load_skeleton(settings)
    blocks = residual_stream(list_hooks(skeleton))
    if hook is None and not blocks:
        raise InputError(f"{model!r} has no list of blocks to choose from: name one of `saemill hooks {model}` with --hook.")
    hook = hook or blocks[(2 * len(blocks)) // 5].name
    width, names = hook_width(skeleton, hook), [block.name for block in blocks]
    place = names.index(hook) if hook in names else None
    positions = _positions(skeleton.config)
    most = _affordable_tokens(sum(p.numel() for p in skeleton.parameters()), width, storage)
    in_corpus = _tokens_in(text.source or source)
    harvested = min(most, in_corpus) if in_corpus else most
    tokens = _round(1.5 * harvested)
    d_sae = _d_sae(width)
    label = Path(settings.label).name.removesuffix(".gguf")
    where = hook if place is None else f"residual stream after block {place}"
    return Draft(
        name=_slug(label),
        storage=storage,
        model=model,
        source=source,
        column=column,
        hook=hook,
        title=f"{label}, {where}",
        width=width,
        n_blocks=len(blocks) if place is not None else 0,
        positions=positions,
        context_length=_power_of_two(min(positions or 256, 512)),
        max_tokens=_round(most),
        harvested=harvested,
        d_sae=d_sae,
        k=min(d_sae, max(8, min(128, _power_of_two(width / 18)))),
        tokens=tokens,
        batch_tokens=max(LANES, min(4096, _power_of_two(tokens / 900))),
        workers=min(8, _power_of_two(os.cpu_count() or 1)),
    )


def residual_stream(hooks: Sequence["HookInfo"]) -> list["HookInfo"]:
    """The blocks of the model's longest list of them, such as model.layers.0 and on; none where there is no list."""
    lists: dict[str, list[HookInfo]] = {}
    for hook in hooks:
        name, _, number = hook.name.rpartition(".")
        if number.isdigit():
            lists.setdefault(name, []).append(hook)
    # Of lists equally long the outermost: blocks, not what a block repeats.
    return max(lists.values(), key=lambda found: (len(found), -found[0].name.count(".")), default=[])


def _positions(config: Any) -> int | None:
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = (getattr(config, name, None) for name in _POSITIONS)
    return next((value for value in found if isinstance(value, int) and value > 1), None)


def _affordable_tokens(n_parameters: int, width: int, storage: str) -> int:
    """Tokens that this machine harvests in about half an hour, and whose activations take a part of the free disk."""
    from tasks.activations.disk_space import free_bytes

    in_time = HARVEST_FLOPS / (2 * 0.4 * max(1, n_parameters))
    free = free_bytes(storage)
    on_disk = math.inf if free is None else SHARE_OF_DISK * free / (2 * width)
    return max(1, int(min(max(LEAST_TOKENS, min(in_time, MOST_TOKENS)), on_disk)))  # of a full disk, preflight tells


def _tokens_in(source: str) -> int | None:
    """About how many tokens the corpus' files hold; None where that is not known, as of a dataset on the hub."""
    from tasks.storage.objects import is_local
    from tasks.text.files import find_files, looks_like_files

    if not looks_like_files(source) or not is_local(source):
        return None
    return max(1000, sum(map(_text_bytes, find_files(source))) // BYTES_PER_TOKEN)


def _text_bytes(file: "CorpusFile") -> int:
    with readable(file.uri, "--text"):
        return os.path.getsize(file.uri) * PACKED.get(Path(file.uri).suffix, 1)


def _d_sae(width: int) -> int:
    """8 latents per feature, or fewer where weights, gradients and moments would take half of the memory."""
    there = memory_bytes() or math.inf
    return next((n * width for n in (8, 4, 2) if 4 * 4 * (2 * width + 1) * n * width <= there / 2), width)


def _power_of_two(value: float) -> int:
    """The largest one that is not above ``value``."""
    return int(2 ** math.floor(math.log2(max(1, value))))


def _round(value: float) -> int:
    """Two digits, the rest zeros."""
    factor = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return max(LANES, int(value // factor * factor))


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "-", label.lower()).strip("-._")[:60] or "run"


def _lines(rows: dict[str, tuple[object, str]]) -> list[str]:
    lines: list[str] = []
    group = None
    for name, (value, about) in rows.items():
        home, _, leaf = name.rpartition(".")
        if home and home != group:
            lines += ["", f"{home}:"]
        group = home
        lines.append(f"{'  ' if home else ''}{leaf}: {_yaml(value)}".ljust(44) + f" # {about}")
    return lines


def _yaml(value: object) -> str:
    """A value as YAML; JSON is YAML too, and quotes what needs it, such as .5 and .inf, which are numbers."""
    if isinstance(value, int):
        return f"{value}"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    text = str(value)
    plain = _PLAIN.fullmatch(text) and text.lower() not in ("true", "false", "null") and parse_value(text) == text
    return text if plain else json.dumps(text, ensure_ascii=False)
