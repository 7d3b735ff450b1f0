"""Whether an error says that memory ended, on a GPU or on a CPU."""

import torch

# What torch's own allocator says, and oneDNN's when its scratch does not fit.
_OF_A_CPU = ("DefaultCPUAllocator: can't allocate memory", "could not create a memory object", "std::bad_alloc")


def is_out_of_memory(error: Exception) -> bool:
    """Whether the same with less of it at once might go well."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OF_A_CPU)
    )
