"""SAELens' CacheActivationsRunner on given token ids; runs in SAELens' own environment, started by ``rivals.py``.

Prints JSON: tokens that its runner computed (it fills whole buffers) and the seconds of its ``run``, loading excluded.
"""

import argparse
import json
import time

import numpy as np
import torch
from datasets import Dataset
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "ids", "out", "hook", "dtype"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("d-in", "batch", "threads", "buffer-tokens"):
        parser.add_argument(f"--{name}", required=True, type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ids = np.load(options.ids)
    # HF datasets know no bfloat16; float16 is as many bytes.
    stored = "float16" if options.dtype == "bfloat16" else options.dtype
    row_bytes = options.d_in * getattr(torch, stored).itemsize
    config = CacheActivationsRunnerConfig(
        dataset_path="given",
        model_name=options.model,
        model_class_name="AutoModelForCausalLM",
        model_from_pretrained_kwargs={"dtype": getattr(torch, options.dtype)},
        model_batch_size=options.batch,
        hook_name=options.hook,
        d_in=options.d_in,
        training_tokens=ids.size,
        context_size=ids.shape[1],
        new_cached_activations_path=options.out,
        shuffle=False,
        dtype=stored,
        device="cpu",
        buffer_size_gb=(options.buffer_tokens * row_bytes + 0.5) / 1e9,
        prepend_bos=False,
        streaming=False,
    )
    runner = CacheActivationsRunner(config, override_dataset=Dataset.from_dict({"input_ids": ids}))
    computed = 0
    compute = runner.activations_store.get_raw_llm_batch
    compute()  # a process of its own each round: the first batch, which sets up kernels and memory, is not timed

    def counted(*args: object) -> object:
        nonlocal computed
        batch = compute(*args)
        computed += batch[0].shape[0]
        return batch

    runner.activations_store.get_raw_llm_batch = counted
    began = time.monotonic()
    stored_rows = len(runner.run()) * ids.shape[1]
    print(json.dumps({"tokens": computed, "stored": stored_rows, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
