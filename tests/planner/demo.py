"""The demo's sizes, and what one run of it stored and took (27 November 2026, two slow cores, commit 9406846)."""

from dataclasses import replace

from tasks.planner.accounts import Account, StageAccount
from tasks.planner.needs import StageName
from tasks.planner.sizes import CorpusSize, ModelSize, RowsSize, RunSize, ScoringSize, TrainingSize

MODEL = ModelSize(
    flop_to_hook=1.7e10,
    flop_whole=7.4e10,
    flop_to_output=1.7e10,
    numbers_to_hook=60_000_000,
    numbers=134_515_008,
    number_bytes=4,
)
DEMO = RunSize(
    context_length=256,
    corpus=CorpusSize(train_sequences=970, eval_sequences=201, specials=24),
    model=MODEL,
    rows=RowsSize(
        train=247_328,
        held_out=51_253,
        widths={"model.layers.8": 576},
        dtype="bfloat16",
        shard_rows=32_768,
        row_group_rows=4_096,
    ),
    training=TrainingSize(
        arch="batchtopk",
        d_in=576,
        d_out=576,
        d_sae=4608,
        k=32,
        skip=False,
        tokens=1_000_000,
        batch_rows=1024,
        checkpoint_tokens=100_000,
        keep_checkpoints=2,
        averaged=False,
        workers=2,
        latent_shards=1,
        lanes=16,
    ),
    scoring=ScoringSize(rows=51_253, baseline_rows=8192, splice_sequences=16, contexts=14, context_tokens=25, pages=4608),
    harvesters=2,
    scorers=2,
)
STORED: dict[StageName, int] = {
    "text": 4_072_705,
    "harvest": 57_960 + 348_952_605,
    "training": 149_059_451,
    "scoring": 4_586_894,
    "report": 23_563_608,
}
SECONDS: dict[StageName, tuple[float, float]] = {
    "text": (5.23, 0.0),
    "harvest": (211.8, 18.6),
    "training": (121.1, 11.8),
    "scoring": (73.6, 0.0),
    "report": (6.3, 0.0),
}
"""Of each stage, and of these those that did not depend on its size."""
KEYS = {stage: {"machine": "two slow cores"} for stage in SECONDS}
ACCOUNT = Account(
    at="2026-11-27 15:54",
    name="demo",
    planned_seconds=None,
    planned_bytes=530_000_000,
    seconds=430.0,
    begin_seconds=9.0,
    bytes=sum(STORED.values()),
    stages={
        stage: StageAccount(seconds=seconds, fixed=fixed, bytes=STORED[stage], key=KEYS[stage])
        for stage, (seconds, fixed) in SECONDS.items()
    },
    hooks=["model.layers.8"],
    size=replace(DEMO, model=None),
)
