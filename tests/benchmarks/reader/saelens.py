"""SAELens' ActivationsStore over a cached dataset; runs in SAELens' own environment, started by ``rivals.py``.

``make`` writes the dataset as CacheActivationsRunner stores it; ``read`` prints GB/s of shuffled batches, start-up excluded.
"""

import argparse
import os
import time
import warnings

import numpy as np
import torch
from datasets import Array2D, Dataset, Features, Sequence, Value, concatenate_datasets
from sae_lens.training.activations_store import ActivationsStore

# HF datasets know no bfloat16; float16 is as many bytes.
DTYPE = "float16"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("make", "read"))
    for name in ("path", "hook"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("context", "d-in", "rows", "batch", "core"):
        parser.add_argument(f"--{name}", required=True, type=int)
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)
    make(options) if options.what == "make" else print(read(options))


def make(options: argparse.Namespace) -> None:
    features = Features(
        {
            options.hook: Array2D(shape=(options.context, options.d_in), dtype=DTYPE),
            "token_ids": Sequence(Value("int32"), length=options.context),
        }
    )
    rng = np.random.default_rng(0)
    n, parts = options.rows // options.context // 8, []
    for _ in range(8):
        x = rng.standard_normal((n, options.context, options.d_in), np.float32).astype(DTYPE)
        columns = {options.hook: x, "token_ids": np.zeros((n, options.context), np.int32)}
        parts.append(Dataset.from_dict(columns, features=features))
    concatenate_datasets(parts).save_to_disk(options.path)


def read(options: argparse.Namespace) -> float:
    warnings.filterwarnings("ignore", "All samples in the training dataset have been exhausted")
    store = ActivationsStore(
        model=torch.nn.Module(),  # never asked: everything is cached
        dataset=None,
        cached_activations_path=options.path,
        streaming=False,
        hook_name=options.hook,
        hook_head_index=None,
        context_size=options.context,
        d_in=options.d_in,
        n_batches_in_buffer=4 * options.batch // options.context,  # four batches, as Ray Data is given
        total_training_tokens=options.rows,
        store_batch_size_prompts=options.batch // options.context,
        train_batch_size_tokens=options.batch,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype=DTYPE,
    )
    batches, total = iter(store), options.rows // options.batch
    for _ in range(total // 4):  # fills its buffer
        next(batches)
    began, seen = time.monotonic(), 0
    for _ in range(total):
        batch = next(batches)
        seen += batch.nbytes
    return seen / (time.monotonic() - began) / 1e9


if __name__ == "__main__":
    main()
