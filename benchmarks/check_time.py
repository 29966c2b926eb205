"""How long `moec check` takes as a whole process, for every shipped model.

    python benchmarks/check_time.py [--repeat N]

Prints the best and the median of N runs in seconds, the slowest model last. Other programs on the machine
make every number larger, never smaller: the best is the one to compare.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from moec import models


def seconds(name: str, repeat: int) -> list[float]:
    """The times of some runs."""
    times = []
    for _ in range(repeat):
        start_s = time.perf_counter()
        command = [sys.executable, "-m", "moec", "check", name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start_s)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=int, default=10)
    repeat = parser.parse_args().repeat
    found = {name: seconds(name, repeat) for name in models.names()}
    for name, times in sorted(found.items(), key=lambda one: min(one[1])):
        print(f"{name:<20} best {min(times):.3f} s, median {statistics.median(times):.3f} s")


if __name__ == "__main__":
    main()
