"""A checkpoint of any layout is read at any other, bit for bit."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from checkpoint_states import assert_is, buffers, fill, meshes, save, saver_of, state_of, value
from moec.runtime.abi.mesh import Mesh
from moec.runtime.checkpoint.inspect import problems
from moec.runtime.checkpoint.load import Checkpoint, load_state
from moec.runtime.checkpoint.slices import all_slices, parse_slice, writers
from moec.runtime.transport.single import SingleTransport

MESHES = st.sampled_from(meshes(6))


@settings(max_examples=25, deadline=None)
@given(before=MESHES, after=MESHES)
def test_any_layout_reads_what_any_other_has_written(before: Mesh, after: Mesh) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        save(Path(scratch), before, 5)
        folder = Path(scratch) / "step-00000005"
        assert [*problems(folder)] == []
        for rank in range(after.world):
            state = state_of(after, rank)
            state.gradients["embed/matrices"].fill_(torch.nan)
            load_state(state, Checkpoint(folder))
            assert_is(state, 5)


def test_files_are_plain_safetensors_whose_tensors_say_what_they_are(tmp_path: Path) -> None:
    """Another library reads them, and an element is where its name says; every element is there once."""
    save(tmp_path, Mesh(2, 2, 2, 1), 5)
    manifest = json.loads((tmp_path / "step-00000005/manifest.json").read_bytes())
    seen = 0
    for path in (tmp_path / "step-00000005").glob("*.safetensors"):
        tensors = load_file(path)
        assert [*tensors]
        assert {*tensors} == {*manifest["files"][path.name]["slices"]}
        for text, tensor in tensors.items():
            one = parse_slice(text)
            assert one is not None
            shape = tuple(manifest["parameters"][one.name]["shape"])
            assert torch.equal(tensor, value(one.part, one.name, shape, 5)[one.start : one.stop])
            seen += one.count
    numel = sum(
        (3 if parameter["trained"] else 1) * torch.Size(parameter["shape"]).numel()
        for parameter in manifest["parameters"].values()
    )
    assert seen == numel


@given(mesh=MESHES)
def test_what_several_ranks_hold_is_dealt_out(mesh: Mesh) -> None:
    """Each buffer is written by one group that holds it once, and replicas share the work."""
    layout = buffers(mesh)
    axes = mesh.axes()
    for state, ranks in writers(layout, mesh).items():
        assert ranks in axes[layout[state].owner_axis]
    busy = {int(name.split("-")[1].split(".")[0]) for name in all_slices(layout, mesh)}
    if mesh.replicate > 1 and mesh.expert * mesh.expert_shard == mesh.shard:
        assert len(busy) >= 2 * mesh.shard  # two groups at least


def test_moments_in_another_format_keep_it_and_are_read_into_any(tmp_path: Path) -> None:
    """bfloat16 moments beside float32 parameters; a run that goes on in other formats converts."""
    mesh = Mesh(1, 1, 1, 1)
    state = state_of(mesh, 0, moments=torch.bfloat16)
    fill(state, 3)
    saver = saver_of(state, SingleTransport(), tmp_path)
    saver.save(3)
    saver.drain()
    saver.close()
    checkpoint = Checkpoint(tmp_path / "step-00000003")
    assert checkpoint.dtypes("exp_avg", "embed") == {"BF16"}
    assert checkpoint.dtypes("parameter", "embed") == {"F32"}
    for moments in (torch.bfloat16, torch.float32):
        again = state_of(mesh, 0, moments=moments)
        load_state(again, checkpoint)
        assert_is(again, 3)
    wide = state_of(mesh, 0, torch.float64)
    load_state(wide, checkpoint)
    assert_is(wide, 3)
