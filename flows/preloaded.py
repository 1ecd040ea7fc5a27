"""What the workers of this machine import, in the process that they are forked from.

Importing this module imports it, and hides it from the collector of garbage: nothing of it is
garbage, a worker shares its memory for as long as nobody counts its references, and a process ends
a fifth of a second earlier.
"""

import gc
import importlib

MODULES = (
    "distributed.nanny", "galpipe.archives.fetching", "galpipe.archives.fieldcuts",
    "galpipe.archives.filed", "galpipe.stamps.prepare",
)  # fmt: skip

gc.disable()
for name in MODULES:
    importlib.import_module(name)
gc.freeze()
gc.enable()
