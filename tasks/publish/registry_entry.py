"""An entry for SAELens' registry ``pretrained_saes.yaml``, for a pull request there; only its maintainers merge.

Fields: ``sae_lens/loading/pretrained_saes_directory.py`` of sae-lens 6.54.12.
"""

from collections.abc import Mapping, Sequence

import yaml

from tasks.publish.dashboards import number
from tasks.publish.scored import ScoredSae, hub_id

FILE = "pretrained_saes.yaml"


def entry(
    found: Sequence[ScoredSae], release: str, repo: str, folders: Mapping[str, str], pages: Mapping[str, str]
) -> bytes:
    """One release in YAML.

    Args:
        found: SAEs of one model.
        release: its key.
        repo: the hub repository that has the folders.
        folders: SAE's id to its folder in SAELens' layout; SAEs without one are left out.
        pages: SAE's id to its place on Neuronpedia, where it has one.
    """
    model = found[0].sae.belongs.model
    hub = hub_id(model)
    links = {"model": f"https://huggingface.co/{hub}"} if hub else {}
    saes = [
        {
            "id": each.id,
            "path": folders[each.id],
            "l0": number(each.summary["l0"]),
            **({} if each.summary.get("fvu") is None else {"variance_explained": number(1 - each.summary["fvu"])}),
            **({"neuronpedia": pages[each.id]} if each.id in pages else {}),
        }
        for each in found
        if each.id in folders
    ]
    about = {"conversion_func": None, "model": model, "repo_id": repo, **({"links": links} if links else {}), "saes": saes}
    return yaml.safe_dump({release: about}, sort_keys=False, allow_unicode=True).encode()
