"""How well an SAE rebuilds held-out rows, whoever made it; needs torch alone."""

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 2048
HIGH_NORM = 2.0
"""Rows whose norm is more than this many times the median are left out of ``fvu_usual``."""


def usual_rows(rows: Tensor) -> Tensor:
    """Which rows are not of very high norm, [m]."""
    norms: Tensor = torch.linalg.vector_norm(rows.float(), dim=1)
    return norms <= HIGH_NORM * norms.median()


def deviation(rows: Tensor) -> float:
    """Sum of the squared distances of rows to their mean."""
    exact = rows.double()
    return float((exact - exact.mean(0)).square().sum())


@torch.inference_mode()
def scores(encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor], rows: Tensor) -> dict[str, float]:
    """FVU of all rows and of the usual ones, active latents a row, and the share of latents that never fire on them."""
    errors, n_active, fired = [], 0, None
    for x in rows.split(CHUNK):
        codes = encode(x.float())
        active = codes > 0
        errors.append((decode(codes) - x.float()).double().square().sum(1))
        n_active += int(active.sum())
        fired = active.any(0) if fired is None else fired | active.any(0)
    error, usual = torch.cat(errors), usual_rows(rows)
    assert fired is not None
    return {
        "fvu": float(error.sum()) / deviation(rows),
        "fvu_usual": float(error[usual].sum()) / deviation(rows[usual]),
        "l0": n_active / len(rows),
        "dead": 1 - float(fired.double().mean()),
    }
