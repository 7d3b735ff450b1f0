"""What a scoring task tells of the device that it works on."""

import torch


def device_name(device: str) -> str:
    """As its maker calls it; of a CPU just that."""
    return "cpu" if device == "cpu" else torch.cuda.get_device_name(device)


def peak_bytes(device: str) -> int | None:
    """The most memory of a GPU that this process' tensors have taken so far; None of a CPU."""
    return None if device == "cpu" else torch.cuda.max_memory_allocated(device)
