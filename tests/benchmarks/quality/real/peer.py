"""A peer's SAE on the very batches that ours is trained on; runs in the peer's environment, for ``__main__.py``."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from peers import LIBRARIES, Settings
from scores import scores
from torch import Tensor


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    settings = Settings(**asked["settings"])
    rows = _rows(asked["train"])
    batches = [rows[i : i + settings.batch] for i in range(0, settings.n_steps * settings.batch, settings.batch)]
    trainer = LIBRARIES[asked["library"]](settings, batches[0].float())
    began = time.monotonic()
    for number, batch in enumerate(batches):
        trainer.step(batch.float())
        if (number + 1) % 100 == 0:
            print(f"{number + 1} of {settings.n_steps} steps, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    found = scores(*trainer.coder(), _rows(asked["held_out"])[: asked["held_out_rows"]])
    Path(asked["out"]).write_text(json.dumps({"seconds": seconds, **found}))


def _rows(path: str) -> Tensor:
    """bfloat16 rows, mapped from their bits."""
    return torch.from_numpy(np.load(path, mmap_mode="c").view(np.int16)).view(torch.bfloat16)


if __name__ == "__main__":
    main()
