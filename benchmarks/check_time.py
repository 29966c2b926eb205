"""How long `moec check` takes as a whole process, for every shipped model.

    python benchmarks/check_time.py [--repeat N]

Prints the best of N runs in seconds, by the clock and of the processor, the slowest model last. Other
programs on the machine make the first larger, and hardly the second.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

from moec import models


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(name: str) -> tuple[float, float]:
    """One run: (by the clock, of the processor)."""
    start_s, used_s = time.perf_counter(), _processor_s()
    command = [sys.executable, "-m", "moec", "check", name]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start_s, _processor_s() - used_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=int, default=10)
    repeat = parser.parse_args().repeat
    found = {}
    for name in models.names():
        clock_s, processor_s = zip(*(seconds(name) for _ in range(repeat)), strict=True)
        found[name] = min(processor_s), min(clock_s)
    for name, (processor_s, clock_s) in sorted(found.items(), key=lambda one: one[1]):
        print(f"{name:<20} {clock_s:.3f} s, of the processor {processor_s:.3f} s")


if __name__ == "__main__":
    main()
