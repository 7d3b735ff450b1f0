"""Which NVIDIA GPUs this machine has and this process is to see, without torch where the driver's own tool can tell."""

import os
import runpy
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

Capability = tuple[int, int]

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_NONE = ("", "-1", "NoDevFiles")
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver names it."""

    index: str
    uuid: str
    capability: Capability


def visible_gpus(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process may use a GPU, if there is one."""
    return environment.get(_VISIBLE, "0").strip() not in _NONE


def gpu_capabilities() -> tuple[Capability, ...]:
    """Compute capabilities of the GPUs that CUDA_VISIBLE_DEVICES names, or of all where it names none.

    Where it is empty all are told of too: Ray empties it in whatever asks for no GPU. See ``visible_gpus``. None where the
    installed torch was built for CPUs, which can use no GPU.
    """
    if not any(Path(name).exists() for name in _GPU_FILES) or not torch_is_built_for_gpus():
        return ()
    return asked_of_the_driver() or _asked_of_torch()


@cache
def torch_is_built_for_gpus() -> bool:
    """By the file that tells torch's version, which is run alone: to import torch takes seconds."""
    found = find_spec("torch")
    return found is not None and found.origin is not None and built_for_gpus(Path(found.origin).with_name("version.py"))


def built_for_gpus(version_file: Path) -> bool:
    """Whether a torch with this file was built with CUDA or, for AMD's GPUs, with HIP."""
    told = runpy.run_path(str(version_file))
    return any(told.get(name) is not None for name in ("cuda", "hip"))


def asked_of_the_driver(
    run: Callable[..., "subprocess.CompletedProcess[str]"] = subprocess.run, environment: Mapping[str, str] = os.environ
) -> tuple[Capability, ...]:
    """Without torch, whose import takes seconds, and without a context, which takes memory of the GPU.

    Nothing where the driver does not answer, or where only CUDA knows which GPUs are meant.
    """
    command = ["nvidia-smi", "--query-gpu=index,uuid,compute_cap", "--format=csv,noheader"]
    try:
        answer = run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        found = [_gpu(line) for line in answer.splitlines() if line.strip()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()
    return tuple(gpu.capability for gpu in named_gpus(found, environment))


def named_gpus(found: Sequence[Gpu], environment: Mapping[str, str]) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES names, up to the first name that none has; none where that depends on CUDA's order."""
    if not visible_gpus(environment) or _VISIBLE not in environment:
        return list(found)
    names = [name.strip() for name in environment[_VISIBLE].split(",")]
    # CUDA counts the fastest first unless told otherwise, the driver by the bus: it matters where GPUs differ.
    by_bus = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if any(name.isdigit() for name in names) and len({gpu.capability for gpu in found}) > 1 and not by_bus:
        return []
    chosen: list[Gpu] = []
    for name in names:
        meant = [gpu for gpu in found if _is_named(gpu, name)]
        if len(meant) != 1:
            break
        chosen += meant
    return chosen


def _is_named(gpu: Gpu, name: str) -> bool:
    # A UUID may be cut short, as long as one GPU alone begins so; a part of a GPU was named by the whole's UUID.
    whole = name.removeprefix("MIG-").partition("/")[0]
    return gpu.index == name or (whole.startswith("GPU-") and gpu.uuid.startswith(whole))


def _gpu(line: str) -> Gpu:
    index, uuid, capability = (part.strip() for part in line.split(","))
    major, minor = capability.split(".")
    return Gpu(index, uuid, (int(major), int(minor)))


def _asked_of_torch() -> tuple[Capability, ...]:
    import torch

    return tuple(torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count()))
