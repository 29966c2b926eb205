"""Finding the checkpoint that a run goes on from: the newest that all ranks together find to be whole."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from moec.runtime.errors import IntegrityError, UserError, message_of
from moec.runtime.transport.api import Transport

from . import folders
from .load import Checkpoint


@dataclass(frozen=True)
class _Answer:
    """What a rank says of a checkpoint: what is wrong with it, or the digest of its manifest."""

    problem: str
    digest: str


def say(text: str) -> None:
    """A note to the user, from rank 0."""
    print(f"moec: {text}", file=sys.stderr, flush=True)


def has_checkpoints(root: Path, transport: Transport) -> bool:
    """Whether there is anything to resume; the same on all ranks."""
    found = bool(folders.complete_steps(root)) if transport.rank == 0 else False
    return transport.exchange(b"1" if found else b"0")[0] == b"1"


def clear_unfinished(root: Path, transport: Transport) -> None:
    """Remove what killed runs have left half-written, by name. Raises OSError."""
    for path in folders.unfinished(root) if transport.rank == 0 else []:
        say(f"{path} was left unfinished by a run that ended, and is removed")
        folders.remove(path)


def find(root: Path, transport: Transport, *, strict: bool = False) -> Checkpoint:
    """The newest checkpoint in `root` that is whole; called by all ranks, of which each verifies a share.

    What is damaged is named, and renamed so that it is passed over from now on; `strict` refuses it.

    Raises:
        IntegrityError: none is whole, or, if `strict`, the newest is not. The same on all ranks.
        InputOutputError: reading failed.
    """
    steps: list[int] = json.loads(transport.exchange(json.dumps(folders.complete_steps(root)).encode())[0])
    problems: list[str] = []
    for step in steps:
        folder = root / folders.folder_name(step)
        checkpoint, problem = _verified(folder, transport)
        if problem is None and checkpoint is not None:
            _pass_over(root, steps[: len(problems)], problems, transport)
            return checkpoint
        problems.append(problem or "")
        if strict:
            break
    listed = "\n  ".join(problems)
    raise IntegrityError(f"there is no checkpoint in {root} to resume from:\n  {listed}")


def _verified(folder: Path, transport: Transport) -> tuple[Checkpoint | None, str | None]:
    """The checkpoint if all ranks find it whole, or what the first that does not finds."""
    checkpoint: Checkpoint | None = None
    answer = _Answer("", "")
    try:
        checkpoint = Checkpoint(folder)
        checkpoint.verify_share(transport.rank, transport.world)
        answer = _Answer("", checkpoint.digest())
    except (IntegrityError, UserError) as error:
        answer = _Answer(message_of(error), "")
    words = [json.dumps([answer.problem, answer.digest]).encode()]
    answers = [_Answer(*json.loads(word)) for word in transport.exchange(words[0])]
    problem = next((a.problem for a in answers if a.problem), None)
    if problem is None and len({a.digest for a in answers}) > 1:
        problem = f"{folder}: not all ranks read the same manifest"
    return checkpoint, problem


def _pass_over(root: Path, steps: list[int], problems: list[str], transport: Transport) -> None:
    """Rank 0 says what is wrong with the newer ones, and puts them aside."""
    if transport.rank:
        return
    for step, problem in zip(steps, problems, strict=True):
        aside = folders.pass_over(root / folders.folder_name(step), "damaged")
        say(f"{problem}; the checkpoint is now in {aside.name}, and an older one is taken")
    if steps:
        remaining = folders.complete_steps(root)
        folders.write_latest(root, remaining[0])
