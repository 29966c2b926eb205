"""Play the whole matrix and write what was seen into docs/faults.md.

    PYTHONPATH=tests .venv/bin/python -m system.faults.write_table [--only NUMBER] [--seen FILE]

Takes about half an hour. What was seen is kept in a file, `docs` is written from all that is there; rows that
have not been played again keep what they had. A row that does not do what it promises is named, and the exit
code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from mpi_job import MPIS, Mpi
from system.faults.play import Row, Seen, Stage
from system.faults.rows import ROWS
from system.faults.test_matrix import check

PAGE = Path(__file__).resolve().parents[3] / "docs" / "faults.md"
BEGIN, END = "<!-- matrix: written by tests/system/faults/write_table.py -->", "<!-- end of the matrix -->"
NAMES: dict[Mpi, str] = {"openmpi": "Open MPI", "mpich": "MPICH"}
_LONGEST = 110


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", default=[], help="a row's number, several times")
    parser.add_argument("--seen", type=Path, default=Path(tempfile.gettempdir()) / "moec-faults.json")
    given = parser.parse_args()
    seen: dict[str, Any] = json.loads(given.seen.read_text()) if given.seen.exists() else {}
    broken = []
    with tempfile.TemporaryDirectory(prefix="moec-faults-") as folder:
        stage = Stage(Path(folder))
        for row in ROWS:
            for mpi in MPIS:
                if (row.started and mpi == "mpich") or (given.only and row.number not in given.only):
                    continue
                played = stage.play(row, mpi, Path(folder) / f"run{len(seen)}-{mpi}-{ROWS.index(row)}")
                seen[f"{row.title}, {mpi}"] = _facts(row, played)
                given.seen.write_text(json.dumps(seen, indent=1))
                broken += _problems(row, mpi, played)
    write(seen)
    print("\n".join(broken) or "all rows do what they promise")
    return 1 if broken else 0


def _problems(row: Row, mpi: Mpi, played: Seen) -> list[str]:
    try:
        check(row, mpi, played)
    except AssertionError as error:
        print(f"--- {row.number} {row.title}, {mpi}: {str(error)[:3000]}", flush=True)
        return [f"{row.number} {row.title}, {mpi} does not do what it promises"]
    print(f"{row.number} {row.title}, {mpi}: {played.seconds:.1f} s", flush=True)
    return []


def _facts(row: Row, played: Seen) -> dict[str, Any]:
    return {
        "says": _message(played),
        "seconds": round(played.seconds, 1),
        "rc": played.result.rc,
        "state": played.status.get("state"),
        "exit_code": played.status.get("exit_code"),
        "resumed": None if played.resumed is None else played.same,
    }


def _message(played: Seen) -> str:
    """The first line of ours that tells of the fault, else of the verdict."""
    lines = played.text.splitlines()
    said = [line.strip() for line in lines if line.strip().startswith(("moec: error", "moec: warning"))]
    text = said[0] if said else str(played.status.get("reason") or "").partition("\n")[0]
    if "Traceback" in text:
        text = f"{text} ... {next((x for x in reversed(lines) if 'Error' in x), '').strip()}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def write(seen: dict[str, Any]) -> None:
    """The page with a table of all that was seen."""
    rows = [
        f"| {row.number} | {row.title} | {NAMES[mpi]} | {_cell(facts['says'])} | {facts['seconds']:.1f} | "
        f"{facts['rc']} | {facts['state']} {'' if facts['exit_code'] is None else facts['exit_code']} | "
        f"{_after(facts['resumed'])} |"
        for row in ROWS
        for mpi in MPIS
        if (facts := seen.get(f"{row.title}, {mpi}"))
    ]
    head = "| # | fault | MPI | what is said | s to the end | exit code | verdict | resumed |"
    table = "\n".join([BEGIN, "", head, "|---|---|---|---|---|---|---|---|", *rows, "", END])
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + table + rest.partition(END)[2])


def _cell(text: str) -> str:
    return f"`{text.replace('|', '/').replace('`', '')}`" if text else "nothing"


def _after(resumed: bool | None) -> str:
    return "-" if resumed is None else "equal, bit for bit" if resumed else "NOT equal"


if __name__ == "__main__":
    sys.exit(main())
