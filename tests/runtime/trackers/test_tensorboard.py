"""TensorBoard's event files, read by their format: records with checksums that hold events."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from moec.runtime.record.metrics import StepMetrics
from moec.runtime.trackers.api import RunFacts
from moec.runtime.trackers.bank import Trackers
from moec.runtime.trackers.load import find_tracker


def crc32c(data: bytes) -> int:
    """Castagnoli's, bit by bit, masked as TFRecord masks it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: length, its checksum, data, their checksum."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        (length,), (check,) = struct.unpack_from("<Q", data, at), struct.unpack_from("<I", data, at + 8)
        assert check == crc32c(data[at : at + 8])
        body = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 12 + length) == (crc32c(body),)
        yield body
        at += 16 + length


def events(folder: Path) -> list[Any]:
    """All events of a folder, in the order in which TensorBoard reads its files."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in records(path):
            event = Event()
            event.ParseFromString(record)
            found.append(event)
    return found


def numbers(found: list[Any]) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, number)."""
    by_tag: dict[str, list[tuple[int, float]]] = {}
    for event in found:
        for value in event.summary.value:
            if value.HasField("simple_value"):
                by_tag.setdefault(value.tag, []).append((event.step, value.simple_value))
    return by_tag


def texts(found: list[Any]) -> dict[str, str]:
    return {
        value.tag: value.tensor.string_val[0].decode()
        for event in found
        for value in event.summary.value
        if value.tensor.string_val
    }


def step(number: int, loss: float, **more: Any) -> StepMetrics:
    return StepMetrics(number, loss, 1.0, 3e-4, 64, 128.0, 0.5, **more)


def track(out: Path, argument: str = "") -> Trackers:
    trackers = Trackers(pytest.fail)
    facts = RunFacts(out, "tiny", 100, 50, 2, 10, 0, "digest", {"training": {"lr": 0.1}})
    trackers.open([find_tracker(f"tensorboard:{argument}" if argument else "tensorboard")], facts)
    return trackers


def test_numbers_and_texts_of_a_run(tmp_path: Path) -> None:
    trackers = track(tmp_path)
    for number, loss in enumerate((6.5, 6.25, float("nan"))):
        trackers.step(step(number, loss, router_entropy={"layers.0.experts": 1.5 - number}))
    trackers.step(step(3, 5.0, validation_loss={"held.txt": 2.0}))
    trackers.event("warning", "hot")
    trackers.finish("failed", 86, "no progress")
    found = events(tmp_path / "tensorboard")
    by_tag = numbers(found)
    assert by_tag["loss"][:2] == [(0, 6.5), (1, 6.25)]
    assert by_tag["loss"][2][1] != by_tag["loss"][2][1]  # not-a-number
    assert by_tag["router_entropy/layers.0.experts"] == [(0, 1.5), (1, 0.5), (2, -0.5)]
    assert by_tag["validation_loss/held.txt"] == [(4, 2.0)]
    said = {tag.split("/")[0]: text for tag, text in texts(found).items()}
    assert said["warning"] == "hot"
    assert said["end"] == "failed (exit code 86): no progress"
    assert '"lr": 0.1' in said["run"]


def test_a_run_that_goes_back_makes_later_steps_void(tmp_path: Path) -> None:
    """A reader drops what earlier files have of the step that a file starts at, and of later ones."""
    trackers = track(tmp_path, str(tmp_path / "elsewhere"))
    for number in range(4):
        trackers.step(step(number, 6.0 - number))
    trackers.rewound(2)
    trackers.step(step(2, 9.0))
    trackers.finish("complete", 0, "")
    found = events(tmp_path / "elsewhere")
    starts = [(at, e.step) for at, e in enumerate(found) if e.session_log.status == SessionLog.START]
    assert starts[-1][1] == 2
    kept = [e for e in found[: starts[-1][0]] if e.step < 2] + found[starts[-1][0] :]
    assert numbers(kept)["loss"] == [(0, 6.0), (1, 5.0), (2, 9.0)]
