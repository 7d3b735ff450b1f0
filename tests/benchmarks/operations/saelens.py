"""SAELens' own registry with our entry, and the hub's files in a folder; runs in its environment, for ``publish.py``.

python saelens.py PRETRAINED_SAES_YAML HUB_FOLDER
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
import yaml


def main() -> None:
    entry, hub = Path(sys.argv[1]), Path(sys.argv[2])
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders, pretrained_saes_directory

    def downloaded(repo_id: str, filename: str, **_: Any) -> str:
        if not (hub / filename).exists():
            from huggingface_hub.errors import EntryNotFoundError

            raise EntryNotFoundError(f"{repo_id} has no {filename}")
        return str(hub / filename)

    pretrained_saes_directory.files = lambda _: entry.parent  # type: ignore[attr-defined]
    pretrained_sae_loaders.hf_hub_download = downloaded  # type: ignore[attr-defined]
    release, about = next(iter(yaml.safe_load(entry.read_text()).items()))
    for each in about["saes"]:
        sae, settings, sparsity = SAE.from_pretrained_with_cfg_and_sparsity(release, each["id"])
        plain = SAE.load_from_disk(hub / each["path"])
        x = torch.randn(50, sae.cfg.d_in, generator=torch.Generator().manual_seed(0))
        assert torch.equal(sae.encode(x), plain.encode(x))
        assert sparsity is not None
        assert len(sparsity) == sae.cfg.d_sae
        assert settings["neuronpedia_id"] == each.get("neuronpedia")
    sys.stdout.write(f"loads {len(about['saes'])} of release {release}\n")


if __name__ == "__main__":
    assert importlib.util.find_spec("tasks") is None, "this runs in SAELens' environment"
    main()
