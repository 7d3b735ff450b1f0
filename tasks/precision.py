"""What a machine multiplies fast: bfloat16 where its CPU or GPU has instructions for it, else float32.

Without them a CPU emulates bfloat16: SmolLM2-135M up to layer 8, one thread of a Zen 3, comes to 122 tokens/s against 780 in
float32. With them (a Zen 4) it is three times as fast as float32. Nothing here imports torch unless a GPU has to be asked.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.gpus import Capability, gpu_capabilities

HalfOrFull = Literal["bfloat16", "float16", "float32"]

BFLOAT16_GPU: Capability = (8, 0)
"""The first compute capability whose tensor cores know bfloat16 (Ampere)."""
FLOAT16_GPU: Capability = (7, 0)
"""The first that has tensor cores, which know float16 (Volta). A 6.1 has a 64th of its float32 speed in float16: 2 results a
clock of a multiprocessor against 128
(https://docs.nvidia.com/cuda/archive/12.6.0/cuda-c-programming-guide/#throughput-of-native-arithmetic-instructions)."""
_X86 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
"""Flags of /proc/cpuinfo, the fastest first, and what the instructions are called."""
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Machine:
    """What one machine says of itself."""

    cpu: str
    """The processor's name."""
    fast: str | None
    """Which of its instructions multiply bfloat16; None where it has none, or is told not to use them."""
    limit: str | None = None
    """What keeps it from them, such as an environment variable with its value, or what is not known."""
    gpus: tuple[Capability, ...] = ()
    """Compute capabilities."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A precision, and why."""

    dtype: HalfOrFull
    reason: str


def this_machine(*, gpus: bool = True) -> Machine:
    """The machine that this runs on; ``gpus``: look for GPUs too, which this process need not be able to use."""
    return described(_cpuinfo(), os.environ, gpu_capabilities() if gpus else ())


def here(device: str) -> Choice:
    """What fits this machine's CPU, or its GPUs where ``device`` is one of them."""
    if device == "cpu":
        return on_cpus([this_machine(gpus=False)])
    return on_gpus([this_machine()])


def described(cpuinfo: str, environment: Mapping[str, str], gpus: Sequence[Capability] = ()) -> Machine:
    """A machine by the text of its /proc/cpuinfo, its environment and its GPUs' compute capabilities."""
    said = _first_of_each(cpuinfo)
    flags = set((said.get("flags") or said.get("Features") or "").split())
    name = said.get("model name") or platform.processor() or platform.machine()
    if not said:
        return Machine(name, None, f"for all that {platform.system()} says of it", tuple(gpus))
    if "Features" in said:  # Arm
        return Machine(name, "Arm BF16" if "bf16" in flags else None, gpus=tuple(gpus))
    instructions = next((title for flag, title in _X86.items() if flag in flags), None)
    limit = _limit(environment) if instructions else None
    return Machine(name, None if limit else instructions, limit, tuple(gpus))


def on_cpus(machines: Sequence[Machine]) -> Choice:
    """What fits the CPUs of all machines: float32 is slow on none of them, bfloat16 is where one does not know it."""
    slow = [machine for machine in machines if machine.fast is None]
    if not slow:
        return Choice("bfloat16", f"{machines[0].cpu} multiplies bfloat16 fast ({machines[0].fast})")
    reason = f"{slow[0].cpu} multiplies bfloat16 slowly ({slow[0].limit or 'no AVX512-BF16, AMX or Arm BF16'})"
    some = f", as {'does' if len(slow) == 1 else 'do'} {len(slow)} of the {len(machines)} machines"
    return Choice("float32", reason + (some if len(machines) > 1 else ""))


def on_gpus(machines: Sequence[Machine]) -> Choice:
    """What fits the GPUs of all machines: bfloat16 where each has it, else float16, whose largest number is 65,504, where
    each multiplies that fast.
    """
    capabilities = [capability for machine in machines for capability in machine.gpus]
    if not capabilities:
        return Choice("float32", "the GPU does not say its compute capability")
    least = min(capabilities)
    number = ".".join(map(str, least))
    if least >= BFLOAT16_GPU:
        return Choice("bfloat16", f"a GPU of compute capability {number} multiplies it fast")
    if least >= FLOAT16_GPU:
        return Choice("float16", f"a GPU of compute capability {number} has no bfloat16, which came with 8.0")
    return Choice("float32", f"a GPU of compute capability {number} multiplies neither bfloat16 nor float16 fast")


def for_training(choice: Choice) -> Choice:
    """The same for an SAE's training, which is in float32 where a model would run in float16.

    Weights, rows and the gradient of a mean over rows and features span more than float16 holds: at batches of 8,192 rows of
    768 features the gradient has a factor of 3e-7, and float16 has no number between 0 and 6e-8. Loss scaling, which would
    move them into its range (https://arxiv.org/abs/1710.03740), is not made here.
    """
    if choice.dtype != "float16":
        return choice
    return Choice("float32", f"{choice.reason}, and float16 without loss scaling loses small gradients")


def _limit(environment: Mapping[str, str]) -> str | None:
    """The variable that keeps oneDNN, which multiplies, or torch itself from instructions that the CPU has."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        value = environment.get(name, "DEFAULT").upper()
        if value not in ("ALL", "DEFAULT") and not any(part in value for part in ("BF16", "FP16", "AMX", "AVX10")):
            return f"{name}={environment[name]}"
    name = "ATEN_CPU_CAPABILITY"
    return f"{name}={environment[name]}" if environment.get(name) in ("default", "avx2") else None


def _cpuinfo() -> str:
    """What Linux says of the CPU; other systems say nothing here, and get what is slow nowhere."""
    return _CPUINFO.read_text(errors="replace") if _CPUINFO.exists() else ""


def _first_of_each(cpuinfo: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found
