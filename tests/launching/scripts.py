"""Job scripts under a real bash, with schedulers and launchers that write down how they were called."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from moec.launching.render import render
from moec.launching.request import Allocation, Start

ALLOCATIONS: dict[str, Allocation] = {
    "slurm": Allocation(
        "slurm", 2, 4, "tiny", 86_400, queue="long", account="physics", gpus_per_node=4, cpus_per_rank=8,
        memory_mib=262_144, directives=("--qos=high",),
    ),
    "slurm_mpirun": Allocation("slurm", 2, 4, "tiny", 86_400, lead_s=300),
    "slurm_once": Allocation("slurm", 1, 2, "tiny", 3600, most_restarts=0),
    "pbs": Allocation(
        "pbs", 2, 4, "tiny", 43_200, queue="workq", account="physics", gpus_per_node=4, cpus_per_rank=8,
        memory_mib=262_144,
    ),
    "pbs_mpich": Allocation("pbs", 2, 4, "tiny", most_restarts=0),
    "lsf": Allocation(
        "lsf", 2, 4, "tiny", 43_200, lead_s=200, queue="normal", account="physics", gpus_per_node=4,
        cpus_per_rank=8, memory_mib=262_144,
    ),
    "lsf_intel": Allocation("lsf", 2, 4, "tiny", most_restarts=0),
    "mpirun": Allocation("mpirun", 1, 2, "tiny", most_restarts=3),
    "mpirun_hosts": Allocation("mpirun", 2, 4, "tiny", 3600, cpus_per_rank=2, hosts=("node-1", "node-2")),
    "mpirun_mpich": Allocation("mpirun", 2, 4, "tiny", hosts=("node-1", "node-2")),
}  # fmt: skip


def start(**changed: object) -> Start:
    """What starts the ranks: Open MPI's mpirun of the PATH, unless something else is said."""
    usual: dict[str, object] = {
        "starter": "mpirun",
        "mpi": "openmpi",
        "mpirun": "mpirun",
        "python": "/opt/moec/bin/python",
        "bind": "core",
        "folder": "/scratch/me",
        "script": "/scratch/me/job.sh",
        "bundle": "tiny.bundle",
        "out": "runs/tiny",
        "run_options": ("--data", "corpus dir/a.jsonl"),
    }
    return Start(**(usual | changed))  # type: ignore[arg-type]


STARTS: dict[str, Start] = {
    "slurm": start(starter="srun", modules=("openmpi/5.0", "python"), setup=("source ~/env/bin/activate",)),
    "slurm_mpirun": start(setup=("ulimit -c 0",)),
    "slurm_once": start(starter="srun", mpi="mpich", bind="none"),
    "pbs": start(bind="socket"),
    "pbs_mpich": start(mpi="mpich"),
    "lsf": start(elastic=True),
    "lsf_intel": start(mpi="intel", mpirun="mpiexec.hydra"),
    "mpirun": start(bind="none"),
    "mpirun_hosts": start(),
    "mpirun_mpich": start(mpi="mpich", bind="socket"),
}

RECORDING = """\
#!/bin/bash
# Write down how it was called, and do what the environment says.
printf '%s\\0' "$#" "${0##*/}" "$@" >> "$RECORD"
"""
RANKS = """
# The ranks of a run: they wait for a signal if they have to, leave a verdict and an exit code.
n=$(cat "$STARTS" 2> /dev/null || echo 0)
echo $((n + 1)) > "$STARTS"
code=0
set -- $CODES
[ "$n" -ge "$#" ] || code=${@:n+1:1}
if [ -n "$WAITING" ]; then
    trap 'signalled=1' USR1
    touch "$READY"
    for _ in $(seq 1000); do [ -n "$signalled" ] && break; sleep 0.01; done
    [ -n "$signalled" ] || code=99
fi
if [ -n "$VERDICT" ]; then
    mkdir -p "$VERDICT"
    printf '{\\n "state": "x",\\n "exit_code": %s,\\n "reason": ""\\n}\\n' "$code" > "$VERDICT/new.json"
    mv "$VERDICT/new.json" "$VERDICT/run_status.json"
    [ -z "$LIES" ] || exit "$LIES"
fi
exit "$code"
"""


@dataclass(frozen=True)
class Ran:
    """How a script ended: its code, the calls it made, each a list of words, and what it said."""

    code: int
    calls: list[list[str]]
    said: str


@dataclass
class Stubs:
    """Launchers and schedulers that record their calls, in a folder."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "bin").mkdir()
        for name in ("srun", "mpirun", "mpiexec.hydra"):
            self._write(name, RECORDING + RANKS)
        for name in ("scontrol", "qsub", "bsub", "module"):
            self._write(name, RECORDING)

    def _write(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        """The variables for scripts and stubs; `more` are those of one test."""
        return {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "RECORD": str(self.folder / "record"),
            "STARTS": str(self.folder / "starts"),
            "READY": str(self.folder / "ready"),
            "PBS_NODEFILE": "/var/spool/nodes",
            "LSB_DJOB_HOSTFILE": "/var/spool/hosts",
            "SLURM_JOB_ID": "7",
            "LSB_JOBID": "8",
            "HOME": str(self.folder),
            **dict.fromkeys(("CODES", "WAITING", "VERDICT", "LIES"), ""),
            **more,
        }

    def write(self, allocation: Allocation, start: Start) -> Path:
        """The script on disk."""
        path = self.folder / "job.sh"
        path.write_text(render(allocation, start), encoding="utf-8")
        return path

    def run(self, allocation: Allocation, start: Start, **environment: str) -> Ran:
        """Render a script and run it to its end."""
        for name in ("record", "starts"):
            (self.folder / name).unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", self.write(allocation, start)],
            env=self.environment(**environment),
            capture_output=True,
            timeout=60,
            check=False,
        )
        said = (done.stdout + done.stderr).decode(errors="replace")
        return Ran(done.returncode, self.calls(), said)

    def calls(self) -> list[list[str]]:
        """What was called so far."""
        return self.calls_of(self.folder / "record")

    @staticmethod
    def calls_of(record: Path) -> list[list[str]]:
        """What is in a record: calls, each the number of its arguments, a name, and those."""
        raw = record.read_bytes() if record.exists() else b""
        words, calls = raw.decode("utf-8", "surrogateescape").split("\0")[:-1], []
        while words:
            end = int(words[0]) + 2
            calls.append(words[1:end])
            words = words[end:]
        return calls


def ran_with(calls: list[list[str]], name: str) -> list[list[str]]:
    """The arguments of the calls of one program."""
    return [call[1:] for call in calls if call[0] == name]


def command_of(argv: list[str]) -> list[str]:
    """From a launcher's arguments, what the ranks run."""
    return argv[argv.index("-m") - 1 :]
