"""How a run ended whose ranks were started here: what the ranks could not say themselves."""

from __future__ import annotations

from pathlib import Path

_INTERRUPTED, _TERMINATED = 130, 143  # as shells report SIGINT and SIGTERM


def verdict_of_ranks(out: Path, code: int, elastic: bool = False) -> int:
    """The exit code of a run whose launcher ended with `code`; its verdict is recorded where it has none.

    A launcher may report success of a rank that left before its work was done: the run is complete where its
    record says so, and nowhere else. An `elastic` one may be complete though a rank was lost.
    """
    from moec.runtime.errors import ExitCode
    from moec.runtime.record.claim import OccupiedError, check_free
    from moec.runtime.record.recorder import STATUS
    from moec.runtime.record.status import mark_failed

    try:
        check_free(out, 0)
    except OccupiedError:  # the record is of another run, which was there first
        return int(code)
    state, known = _verdict(out / STATUS)
    if (code == 0 or elastic) and state == "complete":
        return 0
    if code == 0:
        code = ExitCode.LOST_PEER
        reason = "a rank left with exit code 0 before the run was complete"
    elif code == _INTERRUPTED:
        reason = "interrupted"
    else:
        reason = f"the ranks ended with exit code {code}, and said no more"
    # mpirun makes SIGTERM of an interrupt: ranks cannot know better, who was interrupted does
    replaces = code == _INTERRUPTED and known == _TERMINATED
    mark_failed(out / STATUS, code, reason, replaces=replaces)
    return int(code)


def _verdict(status: Path) -> tuple[str, int | None]:
    """State and exit code, as far as they are known."""
    from moec.runtime.errors import RuntimeFailure
    from moec.runtime.record.status import read_status

    try:
        found = read_status(status)
    except RuntimeFailure:
        return "running", None
    return found.state, found.exit_code
