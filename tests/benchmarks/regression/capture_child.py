"""What an actor of a tree's harvest does with its model, batch after batch: run by same_speed.py, in the tree's own folder.

Every line on standard input asks for some seconds of it; the answer is how many tokens were captured and made into rows.
"""

import inspect
import json
import sys
import time
from typing import Any

import numpy as np
import torch

from tasks.harvest.capture import Subject, forward, rows
from tasks.harvest.config import HarvestConfig
from tasks.harvest.pool.memory import keep_freed_memory
from tasks.lm.config import ModelConfig
from tasks.lm.hooks import prune_after
from tasks.lm.load import load_model

SEQUENCES, CONTEXT_LENGTH = 8, 256


def main(task: dict[str, Any]) -> None:
    torch.set_num_threads(task["threads"])
    keep_freed_memory()
    config = HarvestConfig(hooks=task["hooks"], batch_sequences=SEQUENCES)
    known = inspect.signature(load_model).parameters
    model = load_model(ModelConfig(**task["model"]), **({"hooks": config.hooks} if "hooks" in known else {}))
    prune_after(model, config.hooks, CONTEXT_LENGTH)
    subject = Subject(_as_engine(model), "", "", [])
    token_ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (SEQUENCES, CONTEXT_LENGTH), np.int32)
    for line in sys.stdin:
        seconds, passes, began = float(line), 0, time.monotonic()
        while passes == 0 or time.monotonic() - began < seconds:
            rows(subject, config, "", token_ids, forward(subject, config, token_ids, lambda _: None))
            passes += 1
        print(json.dumps({"tokens": passes * token_ids.size, "seconds": time.monotonic() - began}), flush=True)


def _as_engine(model: Any) -> Any:
    """As a tree's subjects hold it: earlier ones hold the model itself."""
    if "engine" not in inspect.signature(Subject).parameters:
        return model
    from tasks.lm.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
