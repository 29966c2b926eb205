"""`moec checkpoint`: what is there, whether it is whole, weights of it, and the files of another plan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from moec.runtime.abi.bundle import read_manifest
from moec.runtime.checkpoint import load
from moec.runtime.checkpoint.load import Checkpoint
from moec.runtime.checkpoint.slices import all_slices
from system.checkpointed import edited
from system.command_line import content, moec, succeed


@pytest.fixture(scope="module")
def saving(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """The bundle for one rank, with checkpoints. Nobody changes it."""
    return edited(bundle, tmp_path_factory.mktemp("bundles") / "saving", checkpoint={"every": 4, "keep": 5})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, saving: Path, text: Path) -> Path:
    """Ten steps of it. Nobody changes it."""
    out = tmp_path_factory.mktemp("runs") / "written"
    succeed("run", saving, "--data", text, "--out", out)
    return out


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(written, tmp_path / "run"))


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: x for path in folder.glob("*.safetensors") for name, x in load_file(path).items()}


def flip(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)


def test_ls_lists_steps_layouts_and_what_is_left(run: Path) -> None:
    flip(run / "checkpoints/step-00000008/manifest.json")
    shutil.copytree(run / "checkpoints/step-00000004", run / "checkpoints/step-00000012.tmp-0a1b2c3d")
    told = succeed("checkpoint", "ls", run)
    lines = told.out.splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["4", "8", "10"]
    assert "1 rank (expert 1, shard 1, replicate 1)" in lines[0]
    assert "damaged" in lines[1]
    assert lines[3] == "step-00000012.tmp-0a1b2c3d  unfinished"
    found = json.loads(succeed("checkpoint", "ls", run, "--json").out)
    assert found["unfinished"] == ["step-00000012.tmp-0a1b2c3d"]
    first, second, third = found["checkpoints"]
    assert (first["step"], first["steps"], first["world"], first["problem"]) == (4, 10, 1, "")
    folder = run / "checkpoints/step-00000004"
    assert first["bytes"] == sum(
        path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json"
    )
    assert "step-00000008/manifest.json" in second["problem"]
    assert third["folder"] == str(run / "checkpoints/step-00000010")


def test_what_has_no_checkpoints_is_refused(tmp_path: Path, finished: Path) -> None:
    for command in ("ls", "verify"):
        for folder in (tmp_path, finished, tmp_path / "absent"):
            told = moec("checkpoint", command, folder)
            assert told.code == 1
            assert "has no checkpoints" in told.text


def test_verify_says_what_is_wrong_with_every_file_and_ends_with_76(run: Path) -> None:
    folder = run / "checkpoints/step-00000010"
    for target in (run, folder):
        assert succeed("checkpoint", "verify", target).out == f"{folder} is whole\n"
    names = ("exp_avg-00000.safetensors", "parameter-00000.safetensors")
    for name in names:
        flip(folder / name)
    told = moec("checkpoint", "verify", folder)
    assert told.code == 76
    assert [str(folder / name) in line for name, line in zip(names, told.out.splitlines(), strict=True)]
    found = json.loads(moec("checkpoint", "verify", folder, "--json").out)
    assert found["whole"] is False
    assert len(found["problems"]) == 2
    assert succeed("checkpoint", "verify", folder.parent / "step-00000008").out.endswith("is whole\n")


def test_convert_makes_the_weights_that_the_run_has_written(run: Path, tmp_path: Path) -> None:
    """The last checkpoint is after the last step: the same tensors, which export and logits take."""
    succeed("checkpoint", "convert", run, "--to", "weights", "-o", tmp_path / "weights")
    one, two = (tensors(folder / "weights") for folder in (tmp_path / "weights", run))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    (tmp_path / "ids.json").write_text("[[1, 2, 3, 4]]")
    arguments = ("--ids", tmp_path / "ids.json", "-o")
    succeed("logits", tmp_path / "weights", *arguments, tmp_path / "one")
    succeed("logits", run, *arguments, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    succeed("checkpoint", "convert", run, "--to", "huggingface", "-o", tmp_path / "hf")
    succeed("export", run, "--to", tmp_path / "exported")
    assert content(tmp_path / "hf") == content(tmp_path / "exported")


def test_convert_of_an_earlier_one_is_where_a_run_starts_from(
    run: Path, bundle: Path, text: Path, tmp_path: Path
) -> None:
    folder = run / "checkpoints/step-00000004"
    succeed("checkpoint", "convert", folder, "--to", "weights", "-o", tmp_path / "w")
    succeed("run", bundle, "--data", text, "--init", tmp_path / "w", "--steps", "1", "--out", tmp_path / "on")
    told = moec("checkpoint", "convert", folder, "--to", "weights", "-o", tmp_path / "w")
    assert told.code == 1
    assert "exists already" in told.text
    flip(folder / "parameter-00000.safetensors")
    told = moec("checkpoint", "convert", folder, "--to", "weights", "-o", tmp_path / "v")
    assert told.code == 76
    assert not (tmp_path / "v").exists()


def test_replan_writes_what_the_ranks_of_the_other_plan_would_have(
    run: Path, saving: Path, bundle_of_two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each element is read once, a block at a time; and back again, the files are those of before."""
    monkeypatch.setattr(load, "BLOCK", 1000)
    moved: list[int] = []
    real = Checkpoint.read

    def counted(self: Checkpoint, *arguments: Any) -> Iterator[Tensor]:
        for block in real(self, *arguments):
            moved.append(block.numel())
            yield block

    monkeypatch.setattr(Checkpoint, "read", counted)
    succeed("checkpoint", "replan", run, "--bundle", bundle_of_two, "-o", tmp_path / "two")
    there = Checkpoint(tmp_path / "two/checkpoints/step-00000010")
    manifest = read_manifest(bundle_of_two)
    expected = all_slices(manifest.states(), manifest.mesh)
    assert {name: slices for name, slices in there.manifest.slices.items() if slices} == expected
    assert there.manifest.world == 2
    assert max(moved) <= 1000
    assert sum(moved) == sum(one.count for slices in expected.values() for one in slices)
    assert "is whole" in succeed("checkpoint", "verify", tmp_path / "two").out
    assert (tmp_path / "two/checkpoints/latest").read_text() == "step-00000010\n"
    succeed("checkpoint", "replan", tmp_path / "two", "--bundle", saving, "-o", tmp_path / "one")
    before, after = (content(root / "checkpoints/step-00000010") for root in (run, tmp_path / "one"))
    assert {**before, "manifest.json": ""} == {**after, "manifest.json": ""}
    told = moec("checkpoint", "replan", run, "--bundle", bundle_of_two, "-o", tmp_path / "two")
    assert told.code == 1
    assert "already" in told.text


def test_replan_refuses_another_model_and_damage(
    run: Path, bundle: Path, bundle_of_two: Path, tmp_path: Path
) -> None:
    wide = edited(bundle, tmp_path / "wide", {"width": "48"})
    told = moec("checkpoint", "replan", run, "--bundle", wide, "-o", tmp_path / "new")
    assert told.code == 1
    assert "width: 32 there, 48 here" in told.text
    flip(run / "checkpoints/step-00000010/parameter-00000.safetensors")
    told = moec("checkpoint", "replan", run, "--bundle", bundle_of_two, "-o", tmp_path / "new")
    assert told.code == 76
    assert not (tmp_path / "new").exists()
