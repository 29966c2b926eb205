"""Models larger than memory: import and export hold a block of a tensor, logits the weights of one region."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import pytest
from torch import Tensor

from exchange.families import Published
from moec import dsl, models
from moec.cli.exchange import export_hf
from moec.cli.exchange import logits as read_out
from moec.cli.exchange.export_hf import export_checkpoint
from moec.cli.exchange.import_hf import import_checkpoint
from moec.cli.exchange.source import region_shapes
from moec.runtime.weights import load as weights_load
from moec.runtime.weights.stored import StoredTensors


class Watch:
    """`most`: elements of all tensors that a function made and that were alive after a call, at most."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function, self.calls, self.most = function, 0, 0
        self._alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def __call__(self, *args: object) -> Tensor:
        made = self.function(*args)
        self._alive.add(made)
        self.calls += 1
        self.most = max(self.most, sum(t.numel() for t in self._alive))
        return made

    def __get__(self, instance: object, owner: type) -> Callable[..., Tensor]:
        return lambda *args: self(instance, *args)


@pytest.fixture(autouse=True)
def _without_collector() -> Iterator[None]:
    """Memory is freed because nobody holds it, not because the collector happens to run."""
    gc.disable()
    yield
    gc.enable()


def test_import_and_export_hold_a_block_or_two(
    published: Callable[[str], Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = 1000
    monkeypatch.setattr(weights_load, "BLOCK", block)
    monkeypatch.setattr(export_hf, "BLOCK", block)
    watch = Watch(StoredTensors.read)
    monkeypatch.setattr(StoredTensors, "read", watch)
    import_checkpoint(published("mixtral").directory, tmp_path / "imported", find_model=models.read)
    export_checkpoint(tmp_path / "imported", tmp_path / "exported")
    assert watch.calls > 500
    assert watch.most <= 2 * block


def test_logits_hold_the_weights_of_one_region(
    imported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = imported("mixtral")
    regions = region_shapes(dsl.load(source / "model.moe")).values()
    sizes = [sum(map(prod, shapes.values())) for shapes in regions]
    watch = Watch(read_out._read)
    monkeypatch.setattr(read_out, "_read", watch)
    (tmp_path / "ids.json").write_text("[[1, 2, 3]]")
    read_out.logits(source, tmp_path / "ids.json", tmp_path / "logits.safetensors")
    assert watch.most == max(sizes)
