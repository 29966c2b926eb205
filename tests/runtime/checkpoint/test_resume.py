"""What a run goes on from: the newest checkpoint that is whole, and of this model and data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint_states import DATA, FACTS, assert_is, bundle_manifest, save, saver_of, state_of
from moec.runtime.abi.mesh import Mesh
from moec.runtime.checkpoint import folders
from moec.runtime.checkpoint.compatible import check_compatible
from moec.runtime.checkpoint.inspect import checkpoint_at, checkpoints_of, listed, problems
from moec.runtime.checkpoint.load import Checkpoint
from moec.runtime.checkpoint.saver import CheckpointError
from moec.runtime.checkpoint.start import wants_resume
from moec.runtime.errors import IntegrityError, UserError
from moec.runtime.transport.api import Transport
from moec.runtime.transport.loopback import run_ranks
from moec.runtime.transport.single import SingleTransport

TWO = Mesh(1, 2, 2, 1)
FILES = [
    "manifest.json",
    "model.moe",
    *(f"{part}-0000{rank}.safetensors" for part in ("parameter", "exp_avg", "exp_avg_sq") for rank in (0, 1)),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 5 and 10, by two ranks. Nobody changes them."""
    root = tmp_path_factory.mktemp("run") / "checkpoints"
    save(root, TWO, 5, 10)
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A copy of them, to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "checkpoints"))


def resume(root: Path, mesh: Mesh = TWO, *, strict: bool = False) -> int:
    """Resume on all ranks of a mesh: the step, of which all have the state."""

    def rank(transport: Transport) -> int:
        state = state_of(mesh, transport.rank)
        companion = saver_of(state, transport, root)
        try:
            companion.resume(strict=strict)
        finally:
            companion.close()
        assert companion.done is not None
        assert_is(state, companion.done)
        return companion.done

    (step,) = {*run_ranks(mesh.world, rank)}
    return step


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("name", FILES)
def test_a_byte_flipped_in_any_file_is_refused_by_its_name(
    root: Path, name: str, place: float, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever looks finds it: verify, a strict resume, and one that takes the checkpoint before."""
    assert {path.name for path in (root / "step-00000010").iterdir()} == {*FILES}
    path = root / "step-00000010" / name
    flip(path, place)
    (problem,) = problems(path.parent)
    assert str(path) in problem
    with pytest.raises(IntegrityError) as caught:
        resume(root, strict=True)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 76
    assert resume(root) == 5
    assert str(path) in capfd.readouterr().err
    assert folders.complete_steps(root) == [5]
    assert (root / "latest").read_text() == "step-00000005\n"
    assert [p.name.startswith("step-00000010.damaged-") for p in root.glob("*.*")] == [True]


def test_every_file_of_a_checkpoint_is_among_those(written: Path) -> None:
    assert sorted(path.name for path in (written / "step-00000005").iterdir()) == sorted(FILES)


def made_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def made_link(path: Path) -> None:
    path.rename(path.parents[2] / "elsewhere")
    path.symlink_to(path.parents[2] / "elsewhere")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "a folder": made_folder,
    "a link": made_link,
    "that of another step": lambda path: shutil.copy(path.parents[1] / "step-00000005" / path.name, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["manifest.json", "model.moe", "exp_avg-00001.safetensors"])
def test_a_file_that_is_missing_cut_grown_or_another_is_refused_by_its_name(
    root: Path, name: str, damage: str
) -> None:
    if (name, damage) == ("model.moe", "that of another step"):
        return  # it is the same text
    path = root / "step-00000010" / name
    DAMAGES[damage](path)
    (problem, *_) = problems(path.parent)
    # A manifest of another step speaks of other digests, and of each file that is not its own.
    assert (
        str(path if (name, damage) != ("manifest.json", "that of another step") else path.parent) in problem
    )
    assert resume(root) == 5


def test_a_file_too_many_or_files_of_two_ranks_in_each_others_place_are_refused(root: Path) -> None:
    folder = root / "step-00000010"
    (folder / "parameter-00002.safetensors").touch()
    assert [*problems(folder)] == [f"{folder / 'parameter-00002.safetensors'} is no part of the checkpoint"]
    (folder / "parameter-00002.safetensors").unlink()
    one, other = folder / "exp_avg-00000.safetensors", folder / "exp_avg-00001.safetensors"
    one.rename(folder / "x")
    other.rename(one)
    (folder / "x").rename(other)
    assert any(one.name in problem for problem in problems(folder))
    assert resume(root) == 5


def test_where_none_is_whole_the_run_stops_and_says_why_of_each(root: Path) -> None:
    for step in (5, 10):
        flip(root / folders.folder_name(step) / "model.moe", 0.5)
    with pytest.raises(IntegrityError) as caught:
        resume(root)
    assert "step-00000010/model.moe" in str(caught.value)
    assert "step-00000005/model.moe" in str(caught.value)
    assert folders.complete_steps(root) == [10, 5]


def test_where_there_is_nothing_the_run_starts_afresh_and_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "checkpoints"
    assert run_ranks(2, lambda transport: wants_resume(root, transport, resume=True)) == [False, False]
    assert "starts from its first step" in capfd.readouterr().err
    root.mkdir()
    (root / "step-00000010.tmp-01234567").mkdir()
    assert not wants_resume(root, SingleTransport(), resume=True)
    save(root, TWO, 5)
    assert wants_resume(root, SingleTransport(), resume=True)
    assert not wants_resume(root, SingleTransport(), resume=False)


def test_what_a_killed_run_has_left_is_named_and_removed(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    left = Path(shutil.copytree(root / "step-00000010", root / "step-00000015.tmp-0123abcd"))
    assert resume(root) == 10
    assert f"{left} was left unfinished" in capfd.readouterr().err
    assert not left.exists()


@pytest.mark.parametrize("content", ["", "step-00000099\n", "../../etc\n", "\0" * 9])
def test_what_latest_says_is_for_people_only(root: Path, content: str) -> None:
    (root / "latest").write_text(content)
    assert resume(root) == 10


@pytest.mark.parametrize(
    "name",
    ["step-10", "step-000000010", "step-00000010x", "step-0000001a", "STEP-00000010", "step-00000010."],
)
def test_other_names_are_no_checkpoints(root: Path, name: str) -> None:
    (root / "step-00000010").rename(root / name)
    assert resume(root) == 5


def test_a_folder_that_is_a_link_is_none_either(root: Path, tmp_path: Path) -> None:
    (root / "step-00000010").rename(tmp_path / "elsewhere")
    (root / "step-00000010").symlink_to(tmp_path / "elsewhere")
    assert resume(root) == 5


def test_another_layout_reads_it_and_ranks_share_the_reading(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = Checkpoint.verify

    def verify(self: Checkpoint, name: str) -> None:
        read.append(name)
        real(self, name)

    monkeypatch.setattr(Checkpoint, "verify", verify)
    assert resume(root, Mesh(2, 2, 1, 1)) == 10
    assert sorted(read) == sorted(name for name in FILES if name != "manifest.json")


# --- what a run may be that goes on ---


def refused(root: Path, data: str = DATA, **facts: str | None) -> str:
    there = Checkpoint(root / "step-00000010").manifest
    here = {name: text for name, text in (FACTS | _named(facts)).items() if text is not None}
    with pytest.raises(UserError) as caught:
        check_compatible(there, bundle_manifest(TWO, facts=here), data, "it")
    return str(caught.value)


def taken(root: Path, **facts: str) -> list[str]:
    there = Checkpoint(root / "step-00000010").manifest
    return check_compatible(there, bundle_manifest(TWO, facts=FACTS | _named(facts)), DATA, "it")


def _named(facts: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): text for name, text in facts.items()}


def test_another_model_is_refused_by_what_differs(written: Path) -> None:
    assert "it is of another model:\n  width: 6 there, 8 here\n" in refused(written, width="8")
    assert "width: 6 there, absent here" in refused(written, width=None)
    assert "heads: absent there, 2 here" in refused(written, heads="2")
    many = refused(written, **{f"value{i}": "1" for i in range(20)})
    assert "and 14 more" in many


def test_another_order_of_samples_is_refused_by_what_differs(written: Path) -> None:
    for name, text in (("train__seed", "8"), ("train__batch", "48 tokens"), ("train__sequence", "12")):
        message = refused(written, **{name: text})
        assert "samples in another order" in message
        assert name.replace("__", ".") in message
    assert "other data, of which it has seen 40 sequences" in refused(written, data="0e" * 32)


def test_other_layouts_and_lengths_are_taken_and_other_rates_told(written: Path) -> None:
    assert taken(written, model="another name") == []
    assert taken(written, train__steps="200", train__micro_batches="2", train__checkpoint="none") == []
    assert taken(written, train__optimizer__lr="0.1") == [
        "train.optimizer.lr was absent, and is 0.1 from now on"
    ]


def test_the_same_facts_with_other_parameters_are_refused(written: Path) -> None:
    there = Checkpoint(written / "step-00000010").manifest
    here = bundle_manifest(TWO)
    states = here.states()
    del states["head/matrices"]
    here.states = lambda: states  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"another model: logits is .*True.* there, None here"):
        check_compatible(there, here, DATA, "it")


# --- for people ---


def test_a_run_lists_its_checkpoints_and_names_the_newest(root: Path) -> None:
    assert checkpoints_of(root.parent) == checkpoints_of(root) == root
    assert checkpoint_at(root.parent) == root / "step-00000010"
    flip(root / "step-00000010/manifest.json", 0.5)
    assert [(one.step, bool(one.problem)) for one in listed(root)] == [(5, False), (10, True)]
    with pytest.raises(UserError, match="has no checkpoints"):
        checkpoints_of(root / "step-00000005")


def test_a_checkpoint_that_is_there_is_never_written_over(root: Path) -> None:
    before = (root / "step-00000010/manifest.json").read_bytes()
    companion = saver_of(state_of(Mesh(1, 1, 1, 1), 0), SingleTransport(), root)
    companion.save(10)
    with pytest.raises(CheckpointError, match="is there already"):
        companion.drain()
    companion.close()
    assert (root / "step-00000010/manifest.json").read_bytes() == before
    assert folders.complete_steps(root) == [10, 5]
    assert folders.unfinished(root) == []
