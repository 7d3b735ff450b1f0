"""The Python example of README and of the package's page, run as it stands there but for the SAE's address."""

from pathlib import Path

import pytest
import torch

from tasks import sae as public
from tests.pages import ROOT, python_blocks

ADDRESS = '"runs/saes/demo-<hash>"'


@pytest.mark.parametrize("page", ["README.md", "tasks/sae/README.md"])
def test_the_example_encodes_and_decodes(page: str, tmp_path: Path, tiny) -> None:
    [example] = [block for block in python_blocks(ROOT / page) if ADDRESS in block]
    public.save(tiny.sae(), str(tmp_path), {"hook": "model.layers.8", "model": "some/model"})
    names = {"x": tiny.raw}
    exec(example.replace(ADDRESS, repr(str(tmp_path))), names)
    assert (names["sae"].model, names["sae"].hook) == ("some/model", "model.layers.8")
    assert torch.equal(names["latents"], tiny.sae().encode(tiny.raw))
    assert torch.equal(names["x_hat"], tiny.sae()(tiny.raw))
