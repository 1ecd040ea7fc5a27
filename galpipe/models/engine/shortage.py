"""Which errors say that the memory is used up."""

from __future__ import annotations

import torch

# How they call themselves where they have no class of their own.
WORDS = ("DefaultCPUAllocator", "STATUS_ALLOC_FAILED", "std::bad_alloc")
ERRORS = (torch.OutOfMemoryError, MemoryError, RuntimeError)  # what to catch, to ask


def is_of_memory(error: Exception) -> bool:
    """Whether an error says so, of the host's memory or of a GPU's."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        word in str(error) for word in WORDS
    )
