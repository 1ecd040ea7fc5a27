"""Memory that stays with the process, in large pages where the system has them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LOOK = """
import re
from pathlib import Path
from galpipe.models.engine.memory import keep_freed_memory


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])


before = resident()
keep_freed_memory()
grown = resident() - before
maps = re.split(r"\\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
heaps = [one for one in maps if "[heap]" in one]
large = sum(
    int(re.search(r"Size: +(\\d+) kB", one)[1])
    for one in heaps
    if "hg" in re.search(r"VmFlags:(.*)", one)[1].split()
)
print(grown, large // 1024)
"""


@pytest.mark.skipif(not LARGE_PAGES.exists(), reason="this system has no large pages")
def test_the_heap_asks_for_large_pages_and_takes_none_before_it_needs_them() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    grown, large = (int(word) for word in done.stdout.split())
    assert large > 500  # MiB of the 512 asked for
    assert grown < 1000  # pages of 4 KiB
