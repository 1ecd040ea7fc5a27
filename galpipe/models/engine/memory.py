"""Freed memory stays with the process, for the next batch.

As it comes, glibc gives the temporaries of every batch back to the system and fetches them again
page by page: a tenth of a small network's forward pass on a CPU.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt(3)
KEPT = 2**30  # bytes free at the top of the heap before any is given back
LARGEST = 2**25  # bytes of one allocation from the heap: glibc takes no higher threshold


@cache
def keep_freed_memory() -> None:
    """Tell the C library once per process; does nothing where it has no such setting."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(MMAP_THRESHOLD, LARGEST)
            library.mallopt(TRIM_THRESHOLD, KEPT)
