"""How do the threads that share out a matrix wait for each other, on a machine that does other work as well?

OpenMP's threads spin while they wait. That is fastest on an idle machine; beside other busy processes the spinning
takes the processor from the thread that all wait for. Asleep they are slower alone and faster beside others
(benchmarks/beside.py). torch reads the choice once, as it is loaded.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from pathlib import Path

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # of the user's, that are left alone
LOOKS, APART = 5, 0.01  # at what runs, and the seconds between them


def sleep_beside_others(stat: Path = Path("/proc/stat")) -> bool:
    """Let threads sleep while they wait, where other processes leave them no processor of their own.

    To be called before torch is loaded. Nothing is changed where the user has chosen, where one thread works alone,
    and where the system does not say what runs.

    Args:
        stat: where Linux does.

    Returns:
        Whether they will sleep by this choice.
    """
    cores = os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", str(cores))
    if "torch" in sys.modules or threads == "1" or not threads.isdecimal() or any(one in os.environ for one in CHOICES):
        return False
    if others_running(stat) + int(threads) <= cores:
        return False
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return True


def others_running(stat: Path) -> int:
    """How many other threads of this machine run or wait for a processor, the median of a few looks; 0 if unknown."""
    found = []
    for _ in range(LOOKS):
        try:
            running = re.search(r"^procs_running (\d+)$", stat.read_text(encoding="utf-8"), re.MULTILINE)
        except OSError:
            return 0
        found.append(int(running[1]) - 1 if running else 0)  # this one runs as well
        time.sleep(APART)
    return max(0, int(statistics.median(found)))
