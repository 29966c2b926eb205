"""Saving beside training: when, by whom, one at a time, and how it fails."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from checkpoint_states import assert_is, fill, meshes, result_of, save, saver_of, state_of
from moec.runtime.abi.mesh import Mesh
from moec.runtime.checkpoint import folders, saver, write
from moec.runtime.checkpoint.load import Checkpoint, load_state
from moec.runtime.checkpoint.saver import CheckpointError
from moec.runtime.checkpoint.slices import slices_of
from moec.runtime.errors import ExitCode, IntegrityError
from moec.runtime.guard import exit_code_of
from moec.runtime.loop import Wish
from moec.runtime.transport.api import Transport
from moec.runtime.transport.loopback import run_ranks
from moec.runtime.transport.single import SingleTransport

ONE, TWO = Mesh(1, 1, 1, 1), Mesh(1, 2, 2, 1)


def train(root: Path, mesh: Mesh, steps: range, wish: Wish | None = None, **options: Any) -> list[Any]:
    """What a loop does; the state after step k has the values of seed k + 1."""

    def rank(transport: Transport) -> Any:
        state = state_of(mesh, transport.rank)
        companion = saver_of(state, transport, root, **options)
        for step in steps:
            companion.before_step(step)
            fill(state, step + 1)
            companion.after_step(result_of(step))
        companion.finish(wish)
        companion.close()
        return companion

    return run_ranks(mesh.world, rank)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def loaded(root: Path, step: int, mesh: Mesh = ONE) -> None:
    """The checkpoint of `step` is whole and has the values of its step."""
    for rank in range(mesh.world):
        checkpoint = Checkpoint(root / folders.folder_name(step))
        checkpoint.verify_share(0, 1)
        state = state_of(mesh, rank)
        load_state(state, checkpoint)
        assert_is(state, step)


@pytest.mark.parametrize("mesh", [ONE, TWO, Mesh(2, 2, 1, 2)])
def test_it_saves_every_so_many_steps_and_the_last_and_keeps_the_newest(tmp_path: Path, mesh: Mesh) -> None:
    train(tmp_path, mesh, range(23), every=5, keep=3)
    assert names(tmp_path) == ["latest", "step-00000015", "step-00000020", "step-00000023"]
    assert (tmp_path / "latest").read_text() == "step-00000023\n"
    for step in (15, 20, 23):
        loaded(tmp_path, step)


def test_without_checkpoints_only_a_wish_to_stop_saves(tmp_path: Path) -> None:
    train(tmp_path / "off", ONE, range(7), every=None)
    assert not (tmp_path / "off").exists()
    train(tmp_path / "stop", ONE, range(7), Wish("stop", "USR1"), every=None)
    loaded(tmp_path / "stop", 7)


def test_the_copy_is_what_is_written_whatever_training_does_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing waits until the state is another; the file has the old one. The second save uses its memory."""
    allowed = threading.Event()
    real = write.write_shard

    def slow(*arguments: Any) -> Any:
        assert allowed.wait(30)
        return real(*arguments)

    monkeypatch.setattr(saver, "write_shard", slow)
    state = state_of(ONE, 0)
    companion = saver_of(state, SingleTransport(), tmp_path)
    fill(state, 5)
    companion.save(5)
    fill(state, 6)
    assert folders.complete_steps(tmp_path) == []
    allowed.set()
    companion.drain()
    memory = {key: copy.data_ptr() for key, copy in companion._snapshot._copies.items()}
    companion.save(6)
    companion.drain()
    companion.close()
    loaded(tmp_path, 5)
    loaded(tmp_path, 6)
    assert {key: copy.data_ptr() for key, copy in companion._snapshot._copies.items()} == memory


def test_a_save_that_is_due_while_another_is_written_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way: list[str] = []
    real = write.write_shard

    def watched(path: Path, *rest: Any) -> Any:
        under_way.append(path.parent.name)
        assert len({*under_way}) == 1, under_way
        entry = real(path, *rest)
        under_way.remove(path.parent.name)
        return entry

    monkeypatch.setattr(saver, "write_shard", watched)
    train(tmp_path, ONE, range(8), every=1, keep=10)
    assert folders.complete_steps(tmp_path) == [*range(8, 0, -1)]


def test_the_stall_is_told_once_and_only_where_there_was_one(tmp_path: Path) -> None:
    state = state_of(ONE, 0)
    companion = saver_of(state, SingleTransport(), tmp_path, every=2)
    stalls = []
    for step in range(4):
        companion.after_step(result_of(step))
        stalls.append(companion.take_stall_s())
        companion.drain()
    companion.close()
    assert [stall is not None for stall in stalls] == [False, True, False, True]


@contextmanager
def failing(point: str, rank: int | None, error: Callable[[], BaseException]) -> Iterator[None]:
    """`fault_point(point)` raises on one rank's own thread, or wherever it is."""

    def strike(name: str) -> None:
        here = threading.current_thread().name
        if name == point and (rank is None or f"-{rank}-" in here):
            raise error()

    patch = pytest.MonkeyPatch()
    patch.setattr(write, "fault_point", strike)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def named_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of each rank's saver has the rank in its name."""
    real = ThreadPoolExecutor

    def made(workers: int, thread_name_prefix: str) -> Any:
        rank = threading.current_thread().name.removeprefix("rank ")
        return real(workers, thread_name_prefix=f"{thread_name_prefix}-{rank}-")

    monkeypatch.setattr(saver, "ThreadPoolExecutor", made)


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", "shard")


def test_a_full_disk_on_one_rank_is_raised_on_all_and_leaves_what_was_there(tmp_path: Path) -> None:
    """The same message everywhere, exit code 74; what was begun is gone, the one before is whole."""
    save(tmp_path, TWO, 5)
    messages = []

    def rank(transport: Transport) -> None:
        state = state_of(TWO, transport.rank)
        companion = saver_of(state, transport, tmp_path)
        companion.save(10)
        with pytest.raises(CheckpointError) as caught:
            companion.drain()
        assert exit_code_of(caught.value) == ExitCode.INPUT_OUTPUT
        messages.append(str(caught.value))
        companion.close()

    with failing("checkpoint.write", 1, full):
        run_ranks(2, rank)
    assert messages[0] == messages[1]
    assert messages[0].startswith("the checkpoint of step 10 could not be written on rank 1")
    assert "No space left on device" in messages[0]
    assert names(tmp_path) == ["latest", "step-00000005"]
    loaded(tmp_path, 5, TWO)


def test_a_failure_is_raised_at_the_next_boundary_of_a_step(tmp_path: Path) -> None:
    state = state_of(ONE, 0)
    companion = saver_of(state, SingleTransport(), tmp_path, every=1)
    with failing("checkpoint.write", None, full):
        companion.after_step(result_of(0))
        companion._flight.work.exception()  # type: ignore[union-attr]
        with pytest.raises(CheckpointError, match="step 1 could not be written"):
            companion.after_step(result_of(1))
    companion.close()


def test_a_folder_that_cannot_be_made_is_told_on_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def rank(transport: Transport) -> str:
        companion = saver_of(state_of(TWO, transport.rank), transport, tmp_path / "file" / "checkpoints")
        with pytest.raises(CheckpointError) as caught:
            companion.save(1)
        companion.close()
        return str(caught.value)

    first, second = run_ranks(2, rank)
    assert first == second
    assert "Not a directory" in first


POINTS = ("write", "before_manifest", "before_rename", "before_latest", "before_prune")


class Killed(BaseException):
    """A process that ends here."""


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("mesh", [ONE, TWO])
def test_a_run_that_ends_at_any_point_of_a_save_loses_no_checkpoint(
    tmp_path: Path, point: str, mesh: Mesh
) -> None:
    """What is left is what the disk has at that moment; the next run finds the new one or the one before."""
    save(tmp_path, mesh, 1, 2, 3, keep=2)

    def rank(transport: Transport) -> None:
        state = state_of(mesh, transport.rank)
        companion = saver_of(state, transport, tmp_path, keep=2)
        fill(state, 4)
        companion.save(4)
        with pytest.raises(CheckpointError):
            companion.drain()
        companion.close()

    where = 0 if mesh.world > 1 else None
    with failing(f"checkpoint.{point}", where, Killed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # the dead clean up nothing
        run_ranks(mesh.world, rank)
    committed = point in ("before_latest", "before_prune")
    assert bool(folders.unfinished(tmp_path)) != committed

    def resume(transport: Transport) -> int:
        state = state_of(mesh, transport.rank)
        companion = saver_of(state, transport, tmp_path, keep=2)
        companion.resume(strict=True)
        assert companion.done is not None
        assert_is(state, companion.done)
        fill(state, 9)
        companion.save(9)
        companion.drain()
        companion.close()
        return companion.done

    assert run_ranks(mesh.world, resume) == [4 if committed else 3] * mesh.world
    assert names(tmp_path) == ["latest", f"step-{4 if committed else 3:08}", "step-00000009"]


def test_rewinding_loads_the_newest_and_saves_nothing_in_that_step(tmp_path: Path) -> None:
    """Whoever rewinds in a step does it before the saver is told of that step."""

    def rank(transport: Transport) -> None:
        state = state_of(TWO, transport.rank)
        companion = saver_of(state, transport, tmp_path, every=2)
        for step in range(3):
            fill(state, step + 1)
            companion.after_step(result_of(step))
        fill(state, 99)
        companion.before_step(3)
        assert companion.rewind() == 2
        companion.after_step(result_of(3))  # would be due
        assert_is(state, 2)
        for step in (2, 3):
            companion.before_step(step)
            fill(state, step + 1)
            companion.after_step(result_of(step))
        companion.finish(None)
        companion.close()

    run_ranks(2, rank)
    assert folders.complete_steps(tmp_path) == [4, 2]
    loaded(tmp_path, 4, TWO)


def test_there_is_nothing_to_rewind_to_without_a_checkpoint(tmp_path: Path) -> None:
    companion = saver_of(state_of(ONE, 0), SingleTransport(), tmp_path, every=5)
    with pytest.raises(IntegrityError, match="no checkpoint"):
        companion.rewind()
    companion.close()


def test_slices_that_do_not_make_up_the_state_are_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coverage is proved before the manifest is written."""
    real = slices_of

    def short(*arguments: Any) -> Any:
        return {name: held for name, held in real(*arguments).items() if not name.startswith("exp_avg_sq")}

    monkeypatch.setattr(saver, "slices_of", short)
    companion = saver_of(state_of(ONE, 0), SingleTransport(), tmp_path)
    companion.save(1)
    with pytest.raises(CheckpointError, match="elements 0 to 42 of exp_avg_sq of 'embed' are missing"):
        companion.drain()
    companion.close()
    assert folders.complete_steps(tmp_path) == []


def test_leaving_does_not_wait_for_a_long_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that fails closes its saver: what is half-written is given up at the next block."""
    monkeypatch.setattr(write, "BLOCK_BYTES", 1)
    passed = threading.Event()
    blocks = []

    def counted(_: str) -> None:
        blocks.append(1)
        passed.set()
        threading.Event().wait(0.02)

    monkeypatch.setattr(write, "fault_point", counted)
    companion = saver_of(state_of(ONE, 0), SingleTransport(), tmp_path)
    companion.save(1)
    assert passed.wait(30)
    companion.close()
    assert len(blocks) < 100
    (left,) = folders.unfinished(tmp_path)
    folders.remove(left)


def test_a_checkpoint_that_is_half_deleted_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at that, a run would leave what looks like a damaged one."""
    for step in (1, 2):
        save(tmp_path, ONE, step)
    with monkeypatch.context() as patch:
        patch.setattr(folders.shutil, "rmtree", lambda path: None)
        write.prune(tmp_path, keep=1)
    assert folders.complete_steps(tmp_path) == [2]
    (left,) = folders.unfinished(tmp_path)
    folders.remove(left)
    assert folders.unfinished(tmp_path) == []


def test_every_mesh_gives_every_rank_the_same_manifest(tmp_path: Path) -> None:
    """What rank 0 writes says of each file what the rank that wrote it has told."""
    for number, mesh in enumerate(meshes(3)):
        save(tmp_path / str(number), mesh, 1)
        manifest = json.loads((tmp_path / str(number) / "step-00000001/manifest.json").read_bytes())
        assert manifest["mesh"] == {
            "replicate": mesh.replicate, "shard": mesh.shard,
            "expert": mesh.expert, "expert_shard": mesh.expert_shard,
        }  # fmt: skip
        assert manifest["data"]["sequences"] == 4
