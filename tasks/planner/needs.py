"""What each stage of a run needs: bytes that it stores, requests to object storage, memory of a process, work to be done.

Bytes of rows and weights follow from the formats, to the byte but for footers and headers. What a latent takes in scores and
report was measured on the demo, whose contexts are full.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tasks.activations.disk_space import bytes_needed
from tasks.activations.schema import row_bytes
from tasks.planner.processors import Processor
from tasks.planner.sizes import RowsSize, RunSize, TrainingSize
from tasks.planner.step import COMPILED, IN_COMMON, SHARED_OUT, TRITON, MeshShape, Size, memory_bytes, seconds, terms

StageName = Literal["text", "harvest", "training", "scoring", "report"]
STAGES: dict[str, StageName] = {
    "tokenize": "text",
    "harvest": "harvest",
    "train": "training",
    "score": "scoring",
    "report": "report",
}
"""What plans call each stage."""
OF_THE_MODEL: frozenset[StageName] = frozenset({"harvest", "scoring"})
"""Stages that run it."""
PASSING = "rows until then"
"""What training stores where rows do not stay; deleted when it is done."""
FLOAT = 4
_PROCESS = 600 * 2**20
"""Resident memory of a process with Python, Ray, torch and transformers, without a model (902 MiB with SmolLM2-135M to its
first layer, tests/benchmarks/RESULTS.md)."""
_IN_FLIGHT = 3
"""Shards that a harvester holds at once: one read, one in the model, one behind it."""

# Of the demo's results, 27 November 2026: ten shards of eight row groups, and 4,608 latents with 14 contexts of 25 tokens.
_SHARD, _ROW_GROUP = 1_150, 657
_RECORD, _RECORD_NUMBER = 930, 8 * 4 / 3
_TOKEN, _TOKENIZER = 1.8, 3_600_000
_MANIFEST_NUMBER = 45
_STEP_FILES, _SAE_FILES = 70_000, 20_000
_LATENT, _CONTEXT_TOKEN = 248, 2.13
_PAGE, _PAGE_TOKEN, _ASSETS = 192, 14.0, 70_000
_LATENTS_A_FILE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What one stage takes, from its begin to its end."""

    tokens: int
    """That it reads."""
    rows: int
    """Stored activations that it writes or reads, over all hooks and epochs."""
    stored: Mapping[str, int]
    """Bytes that are left on storage, by what they are; of training also rows that are deleted at its end."""
    puts: int
    gets: int
    lists: int
    memory_bytes: int
    """Of one of its processes, at most."""
    processes: int
    cost: float
    """Work, in a unit of the stage's own: seconds are in proportion to it."""

    @property
    def bytes(self) -> int:
        """That are left on storage, all together."""
        return sum(self.stored.values())


def needs(size: RunSize, processor: Processor) -> dict[StageName, Need]:
    """All stages of a run, in order.

    Args:
        size: the run's.
        processor: by whose constants steps of different sizes compare; the speed itself comes from elsewhere.
    """
    found: dict[StageName, Need] = {} if size.corpus is None else {"text": _text(size)}
    found["harvest"] = _harvest(size)
    found["training"] = _training(size, processor)
    found["scoring"] = _scoring(size)
    found["report"] = _report(size)
    return found


def step_seconds(training: TrainingSize, processor: Processor) -> float:
    """Of a step, by the table that tests/benchmarks/SCALING.md is made of; it has a TopK SAE that reads what it rebuilds."""
    on_cpu = processor.name == "CPU"
    mesh = _mesh(training)
    form, kernels = (IN_COMMON, COMPILED) if on_cpu else (SHARED_OUT, TRITON)
    return seconds(terms(_step(training), mesh, form, kernels), mesh, processor)


def shard_bytes(rows: RowsSize) -> int:
    """Of one whole shard's rows in memory, at all hooks."""
    return min(rows.shard_rows, rows.rows) * sum(row_bytes(width, rows.dtype) for width in rows.widths.values())


def rows_bytes(rows: RowsSize) -> int:
    """Of all rows in Parquet, at all hooks, with footers and page headers."""
    around = len(rows.widths) * (_SHARD * rows.shards + _ROW_GROUP * rows.row_groups)
    return bytes_needed(rows.rows, list(rows.widths.values()), rows.dtype) + around + rows.label_bytes


def harvested_bytes(rows: RowsSize) -> int:
    """Of the rows that a harvest leaves: all, or the held-out ones and a sample for training, of about a shard."""
    found = rows if rows.stay else replace(rows, train=min(rows.train, rows.shard_rows))
    return min(rows_bytes(found), rows.most_bytes or rows_bytes(found))


def passing_bytes(rows: RowsSize) -> int:
    """Of the rows that are stored during the training alone, at once at most."""
    return 0 if rows.stay else min(rows_bytes(rows), rows.most_bytes or rows_bytes(rows)) - harvested_bytes(rows)


def sae_bytes(training: TrainingSize) -> int:
    """Of a finished SAE's weights."""
    return FLOAT * training.numbers


def checkpoint_bytes(training: TrainingSize) -> int:
    """Of one checkpoint: weights, Adam's two moments, how long each latent has been silent, perhaps averaged weights."""
    return (3 + training.averaged) * sae_bytes(training) + 8 * training.d_sae


def _text(size: RunSize) -> Need:
    assert size.corpus is not None
    tokens = size.corpus.sequences * size.context_length
    stored = size.corpus.stored_bytes
    return Need(
        tokens=tokens,
        rows=0,
        stored={"tokens": round(_TOKEN * tokens + _TOKENIZER) if stored is None else stored},
        puts=7,  # two tables, three files of the tokenizer, run.json, the manifest
        gets=1,
        lists=1,
        memory_bytes=_PROCESS,
        processes=1,
        cost=float(tokens),
    )


def _harvest(size: RunSize) -> Need:
    rows, hooks = size.rows, len(size.rows.widths)
    sequences = 0 if size.corpus is None else size.corpus.sequences
    widths = sum(rows.widths.values())
    records = rows.shards * round(_RECORD + _RECORD_NUMBER * (widths + 2 * hooks * size.context_length))
    manifest = round(_MANIFEST_NUMBER * (widths + hooks * size.context_length)) + 300 * hooks * rows.shards
    model = size.model
    weights = 0 if model is None else model.numbers_to_hook * model.number_bytes
    return Need(
        tokens=sequences * size.context_length,
        rows=rows.rows * hooks,
        stored={"activations": harvested_bytes(rows), "records": records + manifest},
        puts=rows.shards * (hooks + 1) + 2,
        # Of each shard its tokens in some three ranges, two looks for its record, and the record when the manifest is made.
        gets=6 * rows.shards + 4,
        lists=2 + rows.shards // 1000,
        memory_bytes=_PROCESS + weights + (_IN_FLIGHT + 1) * shard_bytes(rows),
        processes=size.harvesters,
        cost=float(rows_bytes(rows)) if model is None else sequences * model.flop_to_hook,
    )


def _training(size: RunSize, processor: Processor) -> Need:
    training, rows = size.training, size.rows
    epochs = training.tokens / max(1, rows.train)
    of_hooks = max(1, len(rows.widths))
    kept = min(training.keep_checkpoints, training.checkpoints)
    groups = round(epochs * rows.row_groups * rows.train / max(1, rows.rows))
    return Need(
        tokens=training.tokens,
        rows=training.tokens,
        stored={
            "SAE": sae_bytes(training) + _SAE_FILES,
            "checkpoints": kept * (checkpoint_bytes(training) + _STEP_FILES),
            **({} if rows.stay else {PASSING: passing_bytes(rows)}),
        },
        puts=2 * training.latent_shards * training.checkpoints + 8,
        # Each row group once an epoch, and each shard's footer by each worker.
        gets=of_hooks * (groups + training.workers * rows.shards) + 4,
        lists=training.checkpoints + 2,
        memory_bytes=_PROCESS + round(memory_bytes(_step(training), _mesh(training), SHARED_OUT, COMPILED)),
        processes=training.workers,
        cost=training.steps * step_seconds(training, processor),
    )


# Of the encoder's product on a row, on one thread of a Zen 3 (tests/benchmarks/RESULTS.md, "On a CPU without bfloat16"): 512
# rows of it take 40 ms; 16,000 rows were surveyed in 2.4 s, and shown in as much; 2,048 rows took the baselines 2.0 s.
_SURVEYED, _BASELINES = 4.0, 12.5
# Of the model's products in a splice, likewise: 9.9 s for 512 tokens, where these take 7.7 at the harvest's speed.
_SPLICED = 1.29


def _scoring(size: RunSize) -> Need:
    scoring, training, model = size.scoring, size.training, size.model
    product = 2.0 * (training.d_in + training.d_out) / 2 * training.d_sae
    splice = 0.0
    if model is not None:
        # The model as it is, and three times what lies behind the hook (tasks/score/splice.py).
        splice = _SPLICED * scoring.splice_sequences * (model.flop_whole + 3 * (model.flop_whole - model.flop_to_output))
    surveyed = product * _SURVEYED * scoring.rows
    at_once = max(1, min(size.scorers, -(-scoring.rows // 32_768) + -(-scoring.splice_sequences // 8)))
    weights = 0 if model is None else model.numbers * model.number_bytes
    latents, tokens = training.d_sae, training.d_sae * scoring.contexts * scoring.context_tokens
    return Need(
        tokens=scoring.splice_sequences * size.context_length,
        rows=2 * scoring.rows,
        stored={"scores": round(_LATENT * latents + _CONTEXT_TOKEN * tokens) + 20_000},
        puts=5,
        gets=2 * size.rows.row_groups + 6 * size.rows.shards + 10,
        lists=1,
        memory_bytes=_PROCESS + weights + 2 * sae_bytes(training) + 2 * shard_bytes(size.rows),
        processes=at_once,
        cost=(surveyed + splice) / at_once + product * _BASELINES * scoring.baseline_rows,
    )


def _report(size: RunSize) -> Need:
    scoring, latents = size.scoring, min(size.training.d_sae, size.scoring.pages)
    tokens = latents * scoring.contexts * scoring.context_tokens
    return Need(
        tokens=0,
        rows=0,
        stored={"report": round(_PAGE * size.training.d_sae + _PAGE_TOKEN * tokens) + _ASSETS},
        puts=18 + -(-latents // _LATENTS_A_FILE),
        gets=12,
        lists=1,
        memory_bytes=_PROCESS,
        processes=1,
        cost=float(latents),
    )


def _step(training: TrainingSize) -> Size:
    width = (training.d_in + training.d_out) // 2
    return Size(d_in=width, d_sae=training.d_sae, k=min(training.k, training.d_sae), batch=training.batch_rows)


def _mesh(training: TrainingSize) -> MeshShape:
    return MeshShape(training.workers // training.latent_shards, training.latent_shards)
