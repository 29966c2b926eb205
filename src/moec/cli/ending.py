"""How a run ended whose ranks were started here: what the ranks could not say themselves."""

from __future__ import annotations

from pathlib import Path


def verdict_of_ranks(out: Path, code: int, elastic: bool = False) -> int:
    """The exit code of a run whose launcher ended with `code`; its verdict is recorded where it has none.

    A launcher may report success of a rank that left before its work was done: the run is complete where its
    record says so, and nowhere else. An `elastic` one may be complete though a rank was lost.
    """
    from moec.runtime.errors import ExitCode, RuntimeFailure
    from moec.runtime.record.recorder import STATUS
    from moec.runtime.record.status import mark_failed, read_status

    if code == 0 or elastic:
        try:
            state = read_status(out / STATUS).state
        except RuntimeFailure:
            state = "running"
        if state == "complete":
            return 0
    if code == 0:
        code = ExitCode.LOST_PEER
        reason = "a rank left with exit code 0 before the run was complete"
    else:
        reason = f"the ranks ended with exit code {code}, and said no more"
    mark_failed(out / STATUS, code, reason)
    return int(code)
