"""A number that a device is asked for, while it goes on."""

import torch
from torch import Tensor


class AskedNumber:
    """A whole number on its way from a device. Only what was begun before it is waited for, and only when it is read."""

    def __init__(self, number: Tensor) -> None:
        """Send it on its way."""
        self._told: torch.cuda.Event | None = None
        self._number = number
        if number.is_cuda:
            self._number = torch.empty_like(number, device="cpu", pin_memory=True)
            self._number.copy_(number, non_blocking=True)
            self._told = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._told.record()

    def __int__(self) -> int:
        """The number, once it is there."""
        if self._told is not None:
            self._told.synchronize()
        return int(self._number)
