"""Batches: the same sequences at the same step whatever the layout, and nothing lost at the edges."""

import json
from pathlib import Path
from struct import unpack

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from moec.runtime.data.export import write_batches
from moec.runtime.data.loader import Batch, Loader
from moec.runtime.data.order import permute
from moec.runtime.data.samples import NO_LOSS, Source
from moec.runtime.data.source import open_stream
from moec.runtime.data.stream import ArrayStream, Ids, TokenStream
from moec.runtime.data.tokenizer import ByteTokenizer
from moec.runtime.errors import InputOutputError, UserError


def counting(tokens: int) -> ArrayStream:
    """A stream in which the id of every token is its place."""
    return ArrayStream("counting", [np.arange(tokens)], vocab=tokens)


def expected(tokens: int, sequence: int, batch: int, seed: int, epochs: int, step: int) -> list[list[int]]:
    """The sequences of a global batch of a counting stream, from the definition."""
    samples = (tokens - 1) // sequence
    order = [index for epoch in range(epochs) for index in permute(np.arange(samples), samples, seed, epoch)]
    return [list(range(i * sequence, (i + 1) * sequence)) for i in order[step * batch : (step + 1) * batch]]


def real_rows(batch: Batch, micro: int) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens and targets of a micro-batch without the padding, which is checked."""
    real = int(batch.sequences[micro])
    assert (batch.tokens[micro, real:] == 0).all()
    assert (batch.targets[micro, real:] == NO_LOSS).all()
    return batch.tokens[micro, :real].tolist(), batch.targets[micro, :real].tolist()


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(20, 400),
    sequence=st.integers(1, 19),
    batch=st.integers(1, 20),
    micro_batches=st.integers(1, 5),
    data_ranks=st.integers(1, 5),
    seed=st.integers(0, 5),
    epochs=st.integers(1, 3),
)
def test_all_ranks_together_hold_the_global_batch_of_every_step_in_order(
    tokens: int, sequence: int, batch: int, micro_batches: int, data_ranks: int, seed: int, epochs: int
) -> None:
    loaders = [
        Loader(
            [Source(counting(tokens))],
            sequence=sequence,
            batch_sequences=batch,
            micro_batches=micro_batches,
            data_ranks=data_ranks,
            data_rank=rank,
            seed=seed,
            epochs=epochs,
        )
        for rank in range(data_ranks)
    ]
    steps = loaders[0].steps
    assert steps == -(-epochs * ((tokens - 1) // sequence) // batch)
    for step in range(steps):
        batches = [loader.batch(step) for loader in loaders]
        rows = [real_rows(b, micro) for micro in range(micro_batches) for b in batches]
        inputs = [row for some, _ in rows for row in some]
        positions = [
            int(b.first[micro]) + i
            for micro in range(micro_batches)
            for b in batches
            for i in range(int(b.sequences[micro]))
        ]
        assert positions == [*range(step * batch, step * batch + len(inputs))]
        targets = [row for _, some in rows for row in some]
        assert inputs == expected(tokens, sequence, batch, seed, epochs, step)
        assert targets == [[token + 1 for token in row] for row in inputs]
    for loader in loaders:
        loader.close()


def test_tensors_have_the_static_shape_of_the_layout_in_a_short_batch_too() -> None:
    with Loader(
        [Source(counting(101))],
        sequence=10,
        batch_sequences=7,
        micro_batches=2,
        data_ranks=3,
        data_rank=2,
        epochs=1,
    ) as loader:
        for step in (0, 1):
            batch = loader.batch(step)
            assert batch.tokens.shape == batch.targets.shape == (2, 2, 10)
            assert batch.tokens.dtype == batch.targets.dtype == batch.sequences.dtype == torch.int64
        assert batch.sequences.tolist() == [0, 0]


def test_steps_may_be_asked_in_any_order() -> None:
    """A resumed run starts anywhere; what was prepared ahead for another step is not used."""
    with Loader([Source(counting(200))], sequence=7, batch_sequences=3) as ahead:
        batches = {step: ahead.batch(step) for step in (0, 1, 2, 3)}
    with Loader([Source(counting(200))], sequence=7, batch_sequences=3) as loader:
        for step in (3, 1, 1, 2, 0, 3):
            assert torch.equal(loader.batch(step).tokens, batches[step].tokens)


def test_a_run_without_epochs_goes_on_into_new_orders() -> None:
    with Loader([Source(counting(41))], sequence=10, batch_sequences=3) as loader:
        assert loader.steps is None
        starts = [int(row[0]) for step in range(4) for row in loader.batch(step).tokens[0]]
    assert [sorted(starts[i : i + 4]) for i in (0, 4, 8)] == [[0, 10, 20, 30]] * 3


def test_a_stream_of_exactly_one_sequence_is_enough_and_one_token_less_is_not() -> None:
    with Loader([Source(counting(9))], sequence=8, batch_sequences=1, epochs=1) as loader:
        assert loader.steps == 1
        assert loader.batch(0).targets.tolist() == [[[1, 2, 3, 4, 5, 6, 7, 8]]]
    with pytest.raises(UserError, match="counting has 8 tokens; one sequence of 8 needs 9"):
        Loader([Source(counting(8))], sequence=8, batch_sequences=1)


def test_a_step_past_the_end_and_a_rank_outside_are_refused() -> None:
    with Loader([Source(counting(21))], sequence=10, batch_sequences=2, epochs=1) as loader:
        loader.batch(0)
        with pytest.raises(UserError, match="step 1 does not exist"):
            loader.batch(1)
    with pytest.raises(ValueError, match="data rank 2 of 2"):
        Loader([Source(counting(21))], sequence=10, batch_sequences=2, data_ranks=2, data_rank=2)


class Failing:
    """A stream whose storage fails at certain places."""

    name = "failing"

    def __init__(self, whole: TokenStream, broken: set[int]) -> None:
        self.whole, self.broken = whole, broken

    def __len__(self) -> int:
        return len(self.whole)

    def documents(self, start: int, count: int) -> Ids:
        return self.whole.documents(start, count)

    def read(self, start: int, count: int) -> Ids:
        if start in self.broken:
            raise InputOutputError("the disk is gone")
        return self.whole.read(start, count)


def test_a_failure_while_preparing_ahead_is_raised_by_the_step_it_belongs_to_and_can_be_retried() -> None:
    whole = counting(100)
    stream = Failing(whole, {row[0] for row in expected(100, 10, 2, seed=0, epochs=1, step=2)})
    with Loader([Source(stream)], sequence=10, batch_sequences=2) as loader:
        for step in (0, 1):
            assert loader.batch(step).sequences.tolist() == [2]
        for _ in range(2):
            with pytest.raises(InputOutputError, match="the disk is gone"):
                loader.batch(2)
        stream.broken = set()
        assert loader.batch(2).sequences.tolist() == [2]


def export(path: Path, stream: TokenStream, steps: int, epochs: int | None = 2) -> dict[str, torch.Tensor]:
    write_batches(path, [Source(stream)], sequence=64, batch_sequences=5, seed=3, epochs=epochs, steps=steps)
    return load_file(path)


def test_exported_batches_are_those_of_the_run_at_another_layout(tmp_path: Path) -> None:
    stream = open_stream("builtin:python-docs", ByteTokenizer(), 257)
    file = export(tmp_path / "batches.safetensors", stream, steps=6)
    assert file["tokens"].shape == file["targets"].shape == (6, 5, 64)
    options = {
        "sequence": 64,
        "batch_sequences": 5,
        "micro_batches": 3,
        "data_ranks": 2,
        "seed": 3,
        "epochs": 2,
    }
    loaders = [Loader([Source(stream)], data_rank=rank, **options) for rank in range(2)]
    for step in range(6):
        rows = [real_rows(loader.batch(step), micro) for micro in range(3) for loader in loaders]
        assert [row for some, _ in rows for row in some] == file["tokens"][step].tolist()
        assert [row for _, some in rows for row in some] == file["targets"][step].tolist()
    for loader in loaders:
        loader.close()


def test_a_short_last_batch_is_filled_up_in_the_export(tmp_path: Path) -> None:
    file = export(tmp_path / "b.safetensors", counting(64 * 6 + 1), steps=3)
    assert (file["targets"][:2] != NO_LOSS).all()
    assert (file["targets"][2, 2:] == NO_LOSS).all()
    assert (file["tokens"][2, 2:] == 0).all()
    assert torch.equal(file["tokens"][2, :2] + 1, file["targets"][2, :2])


def test_an_exported_file_is_read_by_the_safetensors_library_as_int64_for_torch(tmp_path: Path) -> None:
    export(tmp_path / "b.safetensors", counting(1000), steps=2)
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert sorted(file.keys()) == ["targets", "tokens"]
        assert file.get_slice("tokens").get_dtype() == "I64"
    content = (tmp_path / "b.safetensors").read_bytes()
    (header_bytes,) = unpack("<Q", content[:8])
    assert header_bytes % 8 == 0
    json.loads(content[8 : 8 + header_bytes])


@pytest.mark.parametrize(
    ("steps", "message"), [(4, "step 3 does not exist"), (0, "at least 1"), (-1, "at least 1")]
)
def test_an_export_past_the_end_is_refused_and_leaves_no_file(
    tmp_path: Path, steps: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        export(tmp_path / "b.safetensors", counting(64 * 6 + 1), steps=steps)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_half_way_keeps_the_old_file(tmp_path: Path) -> None:
    export(tmp_path / "b.safetensors", counting(1000), steps=2)
    before = (tmp_path / "b.safetensors").read_bytes()
    last = expected(1000, 64, 5, seed=3, epochs=2, step=1)
    with pytest.raises(InputOutputError, match="the disk is gone"):
        export(tmp_path / "b.safetensors", Failing(counting(1000), {row[0] for row in last}), steps=2)
    with pytest.raises(UserError, match="there is no directory"):
        export(tmp_path / "missing" / "b.safetensors", counting(1000), steps=2)
    assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]
    assert (tmp_path / "b.safetensors").read_bytes() == before
