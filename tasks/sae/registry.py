"""Architectures by the name that ``sae.arch`` gives them; a new one is a file beside ``topk`` and a line here."""

from tasks.sae.architecture import Architecture
from tasks.sae.relu import L1, Dense
from tasks.sae.topk import TopK

ARCHITECTURES: dict[str, Architecture] = {"topk": TopK(), "l1": L1(), "dense": Dense()}
