"""A Slurm of one node on this machine, for tests: Debian's packages, unpacked into a folder, not installed.

    with cluster(folder) as slurm:
        slurm.run("sbatch", "--test-only", "job.sh")

It needs `apt-get` and `dpkg` of a Debian that has Slurm, or `sbatch`, `slurmctld` and `slurmd` on PATH; and
root, since slurmd starts the tasks of others.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    "slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "libslurm38", "libmunge2", "libhwloc15",
    "libpmix2", "libevent-core-2.1-7", "libevent-pthreads-2.1-7",
)  # fmt: skip
UNPACKED = Path(__file__).parents[2] / ".slurm"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
NEEDED = (
    "this test needs a real Slurm: apt-get install slurm-wlm, or a Debian of which `apt-get download` gets "
    f"{' '.join(PACKAGES)}; and root"
)

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmctldPort={port}
SlurmdPort={slurmd_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
PluginDir={plugins}
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0,requeue_delay=1
KillWait=5
MinJobAge=300
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=4096 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=long Nodes={host} Default=NO MaxTime=INFINITE State=UP OverSubscribe=NO
"""


@dataclass(frozen=True)
class Slurm:
    """A running cluster: where its commands are, what to put before them, and the environment they need."""

    bin: Path
    before: tuple[str, ...]
    environment: dict[str, str]
    folder: Path

    def run(self, *command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run one of its commands."""
        name, *arguments = map(str, command)
        return subprocess.run(
            [*self.before, str(self.bin / name), *arguments],
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def state(self, job: str) -> str:
        """A job's state, such as RUNNING; and how often it was restarted."""
        shown = self.run("scontrol", "-o", "show", "job", job).stdout
        fields = dict(part.split("=", 1) for part in shown.split() if "=" in part)
        return f"{fields.get('JobState')} {fields.get('Restarts')}"


@contextmanager
def cluster(folder: Path) -> Iterator[Slurm]:
    """A cluster of this machine alone, with its files in `folder`."""
    root = _root()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    ports = _free_ports()
    (folder / "slurm.conf").write_text(
        CONFIG.format(
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            folder=folder,
            port=ports[0],
            slurmd_port=ports[1],
            plugins=root / _LIBRARIES / "slurm-wlm",
        )
    )
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    environment["PATH"] = f"{root / 'usr/bin'}:{environment['PATH']}"
    before, daemon = _laid_over(root), root / "usr/sbin"
    daemons = [
        _start([*before, daemon / "slurmctld-wlm", "-D"], environment),
        _start([*before, daemon / "slurmd-wlm", "-D", "-d", daemon / "slurmstepd-wlm"], environment),
    ]
    slurm = Slurm(root / "usr/bin", before, environment, folder)
    try:
        _wait_for_node(slurm)
        yield slurm
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)


def _root() -> Path:
    """Where `usr/sbin/slurmctld-wlm` and the rest are."""
    if Path("/usr/sbin/slurmctld-wlm").exists() and shutil.which("sbatch"):
        return Path("/")
    if not (UNPACKED / "usr/sbin/slurmctld-wlm").exists():
        debs = UNPACKED / "debs"
        debs.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=debs, check=True, timeout=300)
            for deb in debs.glob("*.deb"):
                subprocess.run(["dpkg", "-x", deb, UNPACKED], check=True, timeout=60)
            (UNPACKED / _LIBRARIES / "pmix2/lib/libpmix.so").symlink_to("libpmix.so.2")
        except (OSError, subprocess.SubprocessError) as error:
            raise AssertionError(f"{NEEDED} ({error})") from error
    return UNPACKED


def _laid_over(root: Path) -> tuple[str, ...]:
    """What to put before a command so that it finds the unpacked libraries at the paths built into Slurm.

    They are laid over the system's, in a mount namespace of the command's own. A search path in the
    environment would not do: jobs inherit it, and find libraries that are not for them.
    """
    if root == Path("/"):
        return ()
    system = Path("/") / _LIBRARIES
    lay_over = f"mount -t overlay overlay -o lowerdir={root / _LIBRARIES}:{system} {system}"
    return ("unshare", "-m", "sh", "-c", f'{lay_over} && exec "$@"', "sh")


def _start(command: list[str | Path], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(map(str, command)),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], other.getsockname()[1]]


def _wait_for_node(slurm: Slurm) -> None:
    deadline = time.monotonic() + 60
    while (shown := slurm.run("sinfo", "-h", "-o", "%T").stdout.split()) != ["idle"]:
        logs = "".join(path.read_text()[-1500:] for path in slurm.folder.glob("slurm*.log"))
        assert time.monotonic() < deadline, f"no idle node, but {shown}; {NEEDED}\n{logs}"
        time.sleep(0.5)
