"""The files of a checkpoint, read and held against the plan: what is wrong with them shows before a run is made of them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from tasks.errors import ArtifactError
from tasks.sae.architectures.registry import architecture
from tasks.sae.mesh import ProcessGroup
from tasks.sae.parameters import extra_of
from tasks.storage.artifacts import parse_json
from tasks.storage.base import ObjectStore
from tasks.train.checkpoint_names import PART, part_name
from tasks.train.curve import CurveRow
from tasks.train.plan import Plan
from tasks.train.timing import Timing

FLAT = ("parameters", "exp_avg", "exp_avg_sq")
"""Tensors as long as all parameters together."""
BUFFER = "buffer."
_PER_STEP = 5
"""Numbers of a step that waits for its row of the curve."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a checkpoint says beside its tensors."""

    step: int
    timing: Timing
    curve: list[CurveRow]
    pending: list[list[float]]
    """Of the steps since the curve's last row."""

    @staticmethod
    def of(found: Mapping[str, Any]) -> "Facts":
        """Parse what was read.

        Raises:
            ValueError, LookupError, TypeError: it is not what a run writes.
        """
        step, pending = found["step"], found["pending"]
        if type(step) is not int or step < 0:
            raise ValueError(f"its step is {step!r}")
        if not all(len(row) == _PER_STEP and all(type(number) in (int, float) for number in row) for row in pending):
            raise ValueError("its steps since the curve's last row are no rows of numbers")
        rows = [[float(number) for number in row] for row in pending]
        return Facts(step, Timing(**_numbers(found["spent"])), [CurveRow(**_numbers(row)) for row in found["curve"]], rows)


def read_parts(store: ObjectStore, folder: str, plan: Plan, latents: ProcessGroup) -> tuple[list[dict[str, Tensor]], Facts]:
    """The tensors of this worker's part, or of all parts where the run was in others, and what is said beside the first.

    Raises:
        ArtifactError: a part is missing, is not the one that was written, or is of another run.
        Exception: of those that ``DAMAGE`` names; the file is damaged.
    """
    n_parts = _parts_in(store, folder)
    wanted = [latents.rank] if n_parts == latents.world_size else list(range(n_parts))
    found = [_read_part(store, folder, part_name(part, n_parts)) for part in wanted]
    for tensors, _ in found:
        _require_fit(tensors, plan, plan.layout.d_sae // n_parts)
    return [tensors for tensors, _ in found], Facts.of(found[0][1])


def _numbers(found: Mapping[str, Any]) -> Mapping[str, Any]:
    # What is not finite too: json reads it, and a curve may have it.
    wrong = next((name for name, value in found.items() if type(value) not in (int, float)), None)
    if wrong is not None:
        raise ValueError(f"its {wrong} is no number")
    return found


def _parts_in(store: ObjectStore, folder: str) -> int:
    """In how many parts a checkpoint is, all of which are there."""
    names = [PART.fullmatch(info.key.removeprefix(f"{folder}/")) for info in store.list(f"{folder}/")]
    parts = [(int(name[1] or 0), int(name[2] or 1)) for name in names if name is not None]
    counts = {n_parts for _, n_parts in parts}
    if len(counts) != 1 or sorted(part for part, _ in parts) != list(range(*counts)):
        raise ArtifactError(f"The checkpoint {store.uri}/{folder} is not whole: it has the parts {sorted(parts)}.")
    return counts.pop()


def _read_part(store: ObjectStore, folder: str, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    facts = parse_json(store.get(f"{folder}/{name}.json"))
    data = store.get(f"{folder}/{name}.safetensors")
    if hashlib.sha256(data).hexdigest() != facts["sha256"]:
        raise ArtifactError(f"{store.uri}/{folder}/{name}.safetensors is not the file that {name}.json was written with.")
    return tensors_from_bytes(data), facts


def _require_fit(tensors: Mapping[str, Tensor], plan: Plan, d_own: int) -> None:
    size = replace(plan.layout, d_sae=d_own, extra=extra_of(plan.layout, d_own)).size
    expected: dict[str, tuple[int, ...]] = {name: (size,) for name in (*FLAT, *(["averaged"] if plan.ema_decay else []))}
    expected["silent"] = (d_own,)
    buffers = architecture(plan.sae.arch).buffers(plan.sae)
    expected |= {f"{BUFFER}{name}": tuple(buffer.shape) for name, buffer in buffers.items()}
    for name, shape in expected.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            found = list(tensors[name].shape) if name in tensors else "missing"
            raise ValueError(f"its {name} is {found}, but a run of these settings has {list(shape)}")
