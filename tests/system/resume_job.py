"""Several runs, one after another, by the ranks of one job: for `test_resume.py`, started by mpirun.

    python resume_job.py PLAN.json

The plan lists the options of runs. As under `moec run`, a rank that fails ends the job.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from moec.runtime.guard import run_rank
from moec.runtime.run import RunOptions, run_training


def main() -> int:
    """The runs; the first exit code that is not 0."""
    torch.set_num_threads(1)
    for run in json.loads(Path(sys.argv[1]).read_text()):
        options = RunOptions(Path(run.pop("bundle")), (run.pop("data"),), Path(run.pop("out")), **run)
        if code := run_training(options):
            return int(code)
    return 0


if __name__ == "__main__":
    sys.exit(run_rank(main))
