"""How long a checkpoint holds up training, against saving it while training waits: a ratio, in one run.

    python benchmarks/checkpoint_stall.py [--saves 5] [--width 512] [--out DIR] [--json]

One rank trains a Mixtral of some 40 million parameters, whose state on disk has 12 bytes a parameter. Every
save is made in both ways, by turns, so that a busy machine or disk is busy for both:

    synchronous    copy, write, fsync, SHA-256, commit: the training thread waits for all of it
    asynchronous   the same by `Checkpointer` beside training; what counts is for how long the training thread
                   was held up, at the save and at all boundaries of steps until it was committed

Steps beside a write are slower, as both need the machine: that is told, and no part of the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from moec import models
from moec.compiler.emit.bundle import save
from moec.compiler.pipeline import compile_spec
from moec.dsl import load
from moec.runtime.checkpoint.describing import Described
from moec.runtime.checkpoint.saver import Checkpointer
from moec.runtime.feeding import DataOptions, make_loader, open_data
from moec.runtime.job import open_job
from moec.runtime.state import make_state
from moec.runtime.training import Trainer
from moec.runtime.transport.single import SingleTransport

LIMIT = 0.1
"""What the project promises of the ratio."""


def main() -> int:
    """Measure, print, and fail where the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--out", type=Path, help="a folder on the disk to measure; default: a temporary one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.out) as scratch:
        found = measure(Path(scratch), options.width, options.saves)
    print(json.dumps(found) if options.json else text(found))
    return 0 if found["ratio"] <= LIMIT else 1


def measure(folder: Path, width: int, saves: int) -> dict[str, float]:
    """Seconds, and their ratio."""
    bundle = folder / "bundle"
    sizes = (f"width={width}", f"experts.experts.width={width}", "train.batch=2 sequences")
    lasting = ("train.steps=100000", "train.checkpoint.every=99999", "train.checkpoint.keep=1")
    save(compile_spec(load("tiny", (*sizes, *lasting), models.read, models.names())), bundle)
    transport = SingleTransport()
    job = open_job(bundle, transport)
    manifest = job.bundle.manifest
    data = open_data(DataOptions(("builtin:python-docs",)), job)
    with make_loader(data, manifest, 0, epochs=None) as loader:
        state = make_state(manifest, 0, transport.device)
        state.draw(manifest.training.seed, manifest.init_std)
        described = Described(manifest, job.bundle.source, job.bundle.digest, 100_000, data.identity)
        saver = Checkpointer(described, state, transport, folder / "checkpoints")
        run = _Run(Trainer(job, state, loader, 100_000), saver)
        return run.measure(saves) | {"state_bytes": float(_written_bytes(folder / "checkpoints"))}


class _Run:
    def __init__(self, trainer: Trainer, saver: Checkpointer) -> None:
        self.trainer, self.saver, self.step = trainer, saver, 0
        self.alone_s: list[float] = []  # steps while nothing is written
        self.beside_s: list[float] = []  # steps while something is

    def measure(self, saves: int) -> dict[str, float]:
        for _ in range(2):
            self.train(self.alone_s)
        self.synchronous()  # the first makes the memory of the copy, and warms up the disk
        waits, stalls = [], []
        for _ in range(saves):
            waits.append(self.synchronous())
            stalls.append(self.asynchronous())
        self.saver.close()
        synchronous_s, stall_s = statistics.median(waits), statistics.median(stalls)
        return {
            "synchronous_s": synchronous_s,
            "stall_s": stall_s,
            "ratio": stall_s / synchronous_s,
            "step_alone_s": statistics.median(self.alone_s),
            "step_beside_a_write_s": statistics.median(self.beside_s),
            "saves": saves,
        }

    def train(self, times_s: list[float]) -> float:
        """One step, and for how long the saver held up the thread after it."""
        result = self.trainer.step(self.step)
        self.step += 1
        times_s.append(result.step_s)
        self.saver.after_step(result)
        return self.saver.take_stall_s() or 0.0

    def synchronous(self) -> float:
        self.train(self.alone_s)
        began_s = time.perf_counter()
        self.saver.save(self.step)
        self.saver.drain()
        return time.perf_counter() - began_s

    def asynchronous(self) -> float:
        self.train(self.alone_s)
        began_s = time.perf_counter()
        self.saver.save(self.step)
        stall_s = time.perf_counter() - began_s
        while self.saver.is_writing:
            stall_s += self.train(self.beside_s)
        return stall_s


def _written_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*.safetensors"))


def text(found: dict[str, float]) -> str:
    """For people."""
    size = found["state_bytes"] / 1e6
    slower = found["step_beside_a_write_s"] / found["step_alone_s"]
    return (
        f"{size:.0f} MB of state, median of {found['saves']:.0f} saves\n"
        f"synchronous save     {found['synchronous_s']:.3f} s\n"
        f"stall of training    {found['stall_s']:.3f} s = {found['ratio']:.1%} (promised: {LIMIT:.0%})\n"
        f"step alone           {found['step_alone_s']:.3f} s; beside a write {slower:.2f} times that"
    )


if __name__ == "__main__":
    sys.exit(main())
