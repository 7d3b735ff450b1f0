"""Another library's own class over folders that saemill exported; runs in that library's environment, for ``__main__.py``.

For each folder: load it, encode and rebuild the rows in float64 and in float32, and store it again as the library does.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

BATCH = 1000

Coder = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], str]
"""Dense codes of rows, reconstructions of rows, and the name of the class that gives them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("format", "rows", "jobs"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    library = {
        "saelens": saelens,
        "sparsify": sparsify,
        "dictionary_learning": dictionary_learning,
        "circuit-tracer": circuit_tracer,
    }[options.format]
    with torch.inference_mode():
        for job in json.loads(Path(options.jobs).read_text()):
            rows = load_file(options.rows)[job["rows"]]
            out, found = Path(job["folder"]), {}
            if (out / "found.safetensors").exists():
                continue
            for dtype in (torch.float32, torch.float64):
                encode, rebuild, name = library(out, out / "stored", dtype)
                found |= results(encode, rebuild, rows.to(dtype), str(dtype).removeprefix("torch."))
            save_file(found, out / ".found", metadata={"class": name})
            (out / ".found").rename(out / "found.safetensors")


def results(
    encode: Callable[[Tensor], Tensor], rebuild: Callable[[Tensor], Tensor], x: Tensor, name: str
) -> dict[str, Tensor]:
    """The codes that are not zero, and reconstructions."""
    places, values, rebuilt = [], [], []
    for start in range(0, len(x), BATCH):
        codes = encode(x[start : start + BATCH])
        place = codes.nonzero()
        values.append(codes[place[:, 0], place[:, 1]])
        place[:, 0] += start
        places.append(place.int())
        rebuilt.append(rebuild(x[start : start + BATCH]))
    found = {"places": torch.cat(places), "values": torch.cat(values), "rebuilt": torch.cat(rebuilt)}
    return {f"{name}.{part}": tensor.contiguous() for part, tensor in found.items()}


def saelens(folder: Path, again: Path, dtype: torch.dtype) -> Coder:
    from sae_lens import SAE

    sae: Any = SAE.load_from_disk(folder)
    sae.save_model(again)
    sae = sae.to(dtype=dtype)
    return sae.encode, sae, type(sae).__name__


def sparsify(folder: Path, again: Path, dtype: torch.dtype) -> Coder:
    from sparsify import SparseCoder

    sae: Any = SparseCoder.load_from_disk(folder)
    sae.save_to_disk(again)
    sae = sae.to(dtype)

    def encode(x: Tensor) -> Tensor:
        values, latents, _ = sae.encode(x)
        return x.new_zeros(len(x), sae.num_latents).scatter(1, latents, values)

    return encode, lambda x: sae(x).sae_out, type(sae).__name__


def dictionary_learning(folder: Path, again: Path, dtype: torch.dtype) -> Coder:
    from dictionary_learning.utils import load_dictionary

    sae, config = load_dictionary(str(folder), "cpu")
    again.mkdir(exist_ok=True)
    torch.save(sae.state_dict(), again / "ae.pt")  # as its training does
    (again / "config.json").write_text(json.dumps(config))
    sae = sae.to(dtype)
    return sae.encode, sae, type(sae).__name__


def circuit_tracer(folder: Path, again: Path, dtype: torch.dtype) -> Coder:
    import yaml
    from circuit_tracer.utils.hf_utils import load_transcoders

    config = yaml.safe_load((folder / "config.yaml").read_text())
    (path,) = folder.glob("layer_*.safetensors")
    # On its own it wants the layers from 0 on; this is the one of the folder.
    loaded: Any = load_transcoders(
        {**config, "transcoders": [str(path)]}, device=torch.device("cpu"), dtype=dtype, lazy_decoder=False
    )
    (transcoder,) = loaded
    again.mkdir(exist_ok=True)
    if dtype == torch.float32:
        transcoder.to_safetensors(str(again / path.name))
        (again / "config.yaml").write_text(yaml.safe_dump(config))
    return transcoder.encode, transcoder, type(transcoder).__name__


if __name__ == "__main__":
    assert importlib.util.find_spec("tasks") is None, "this runs in the other library's environment"
    main()
