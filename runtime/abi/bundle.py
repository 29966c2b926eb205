"""The bundle: what a compilation leaves on disk and a run starts from.

A directory of data; nothing in it is code.

    manifest.json     format version, digests, toolchain, mesh, shapes, buffers, training settings; `digest`,
                      its own, is the SHA-256 of all else in it, as `dump` writes it
    programs.json     the programs of a rank: `step` and what it calls
    checkpoint.json   the weight map: where parameters are in a published checkpoint; empty without one
    model.moe         the resolved source: compiling it gives the same programs, at places of its own
    listing.txt       the programs as text, for people

Written into a sibling directory first and renamed into place. The digest of a bundle is that of its manifest,
which holds the digests of all other files; ranks compare it before they do anything. Digests find damage, not
intent: what they vouch for is checked like everything else.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .codec import FormatError, check_legible, dump, from_data, parse_json, to_data
from .manifest import FORMAT, VERSION, Manifest, Schedule, Toolchain, Training, Validation
from .manifest_check import check_entry, check_manifest
from .program import Program, listing
from .program_json import programs_from_data, programs_to_data
from .weight_map import WeightMap, check_weight_map

__all__ = [
    "EVALUATE_INPUTS", "EVALUATE_RESULTS", "FORMAT", "STATE_PARTS", "STEP_INPUTS", "STEP_RESULTS", "VERSION",
    "Bundle", "Manifest", "NotABundleError", "Schedule", "Toolchain", "Training", "Validation", "WeightMap",
    "read_bundle", "read_manifest", "with_digest", "write_bundle",
]  # fmt: skip

STEP_INPUTS = ("tokens", "targets", "sequences", "first", "lr", "update", "loss_limit")
"""What `step` takes first: (M, B, S) int64 twice, (M,) int64 twice, a number, () float32 of updates from 1, a
number.

`first` are the positions in the run of the first sequences of the micro-batches, counted over all steps and
ranks. Nothing is updated where the loss exceeds `loss_limit`, or a loss or the norm is not finite.
"""

EVALUATE_INPUTS = STEP_INPUTS[:4]
"""What `evaluate` takes first; then the shards of the first of `STATE_PARTS`."""

STATE_PARTS = ("parameter", "gradient", "exp_avg", "exp_avg_sq")
"""What it takes then: for every part the shards (shard_numel,) of all states; but the parts after the first
only of those states that are trained."""

STEP_RESULTS = ("losses", "loads", "grad_norm", "loss_tokens", "batch_tokens")
EVALUATE_RESULTS = ("losses", "loads", "loss_tokens", "batch_tokens")


def with_documents(inputs: tuple[str, ...], documents: bool) -> tuple[str, ...]:
    """The inputs of a program, and where documents are separate `documents`: (M, B, S) int64.

    They say of every token where in its sequence its document starts.
    """
    return (*inputs, "documents") if documents else inputs


_ENTRIES = (
    ("step", STEP_INPUTS, len(STATE_PARTS), STEP_RESULTS),
    ("evaluate", EVALUATE_INPUTS, 1, EVALUATE_RESULTS),
)
"""The programs that a run starts: what they take first, how many parts of the state, and what they give."""

# Of 671 billion parameters in 61 layers and three kinds: 23 kB, 1.6 MB, 4 MB, 7 kB, 1.1 MB.
_LIMITS_BYTES = {
    "manifest.json": 16 << 20,
    "programs.json": 64 << 20,
    "checkpoint.json": 64 << 20,
    "model.moe": 1 << 20,
    "listing.txt": 256 << 20,
}


class NotABundleError(FormatError):
    """The path holds something else: the user's mistake, not damage."""

    exit_code = 1


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory. `digest` names its exact content."""

    manifest: Manifest
    programs: Mapping[str, Program]
    checkpoint: WeightMap
    source: str
    digest: str


def write_bundle(
    path: Path,
    manifest: Manifest,
    programs: Mapping[str, Program],
    checkpoint: WeightMap,
    source: str,
) -> str:
    """Write a bundle at `path`, replacing an older bundle there, and return its digest.

    Raises NotABundleError if `path` is something else than a bundle, OSError if writing fails; `path` is then
    as it was.
    """
    if path.exists():
        _check_replaceable(path)
    files = {
        "programs.json": dump(programs_to_data(programs)),
        "checkpoint.json": dump(to_data(checkpoint)),
        "model.moe": source.encode(),
        "listing.txt": "\n\n".join(map(listing, programs.values())).encode() + b"\n",
    }
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    described = with_digest(to_data(manifest) | {"files": digests})
    files["manifest.json"] = dump(described)
    _write_directory(path, files)
    digest: str = described["digest"]
    return digest


def with_digest(described: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a manifest with `digest`, which covers all else in it."""
    rest = {key: value for key, value in described.items() if key != "digest"}
    return rest | {"digest": hashlib.sha256(dump(rest)).hexdigest()}


def read_bundle(path: Path) -> Bundle:
    """Read and check a bundle.

    Raises NotABundleError or FormatError; nothing of it is executed or trusted.
    """
    manifest, own_digest = _manifest(_read_manifest(path), path)
    content = {name: _read_file(path, name) for name in manifest.files}
    for name, digest in manifest.files.items():
        if hashlib.sha256(content[name]).hexdigest() != digest:
            raise FormatError(
                f"{path / name} is damaged: its content does not have the digest in the manifest"
            )
    programs = programs_from_data(parse_json(content["programs.json"], "programs.json"), "programs.json")
    for name, inputs, parts, results in _ENTRIES:
        given = len(with_documents(inputs, manifest.training.documents == "separate"))
        check_entry(manifest, programs, name, given, parts, results)
    checkpoint = from_data(
        WeightMap, parse_json(content["checkpoint.json"], "checkpoint.json"), "checkpoint.json"
    )
    check_weight_map(checkpoint, "checkpoint.json")
    source = _text(content["model.moe"], "model.moe")
    return Bundle(manifest, programs, checkpoint, source, own_digest)


def read_manifest(path: Path) -> Manifest:
    """The manifest alone, for who only wants to know what a bundle is."""
    return _manifest(_read_manifest(path), path)[0]


def _read_manifest(path: Path) -> bytes:
    if not (path / "manifest.json").is_file():
        raise NotABundleError(f"{path} is no bundle: it has no manifest.json; `moec compile` makes one")
    return _read_file(path, "manifest.json")


def _manifest(raw: bytes, path: Path) -> tuple[Manifest, str]:
    """And its digest."""
    where = str(path / "manifest.json")
    data = parse_json(raw, where)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise NotABundleError(f"{where} is not one of a moec bundle")
    if data.get("version") != VERSION:
        found = str(data.get("version"))[:20]
        raise NotABundleError(f"{path} has bundle format {found}; this moec reads {VERSION}: compile again")
    check_legible(data, where)
    digest: str = with_digest(data)["digest"]
    if data.pop("digest", None) != digest:
        raise FormatError(f"{where} is damaged: its content does not have the digest in it")
    try:
        manifest = from_data(Manifest, data, where)
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from error
    if manifest.files.keys() != _LIMITS_BYTES.keys() - {"manifest.json"}:
        raise FormatError(f"{where}: files are not those of a bundle")
    check_manifest(manifest, where)
    return manifest, digest


def _read_file(path: Path, name: str) -> bytes:
    limit = _LIMITS_BYTES[name]
    if not (path / name).is_file():
        raise FormatError(f"{path / name} is missing")
    with (path / name).open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise FormatError(f"{path / name} is larger than {limit} bytes")
    return raw


def _text(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: not UTF-8: {error}") from error


def _check_replaceable(path: Path) -> None:
    """Nothing but a bundle is ever replaced."""
    try:
        data = parse_json(_read_manifest(path), "manifest.json")
    except FormatError as error:
        raise NotABundleError(f"{path} exists and is no bundle: not replaced") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise NotABundleError(f"{path} exists and is no bundle: not replaced")
    if others := {entry.name for entry in path.iterdir()} - _LIMITS_BYTES.keys():
        raise NotABundleError(f"{path} holds {sorted(others)[0]!r} beside a bundle: not replaced")


def _write_directory(path: Path, files: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for name, content in files.items():
            with (scratch / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        scratch.chmod(0o755)
        _sync_directory(scratch)
        if path.exists():
            _replace(path, scratch)
        else:
            scratch.rename(path)
        _sync_directory(path.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _replace(path: Path, new: Path) -> None:
    """Put `new` in the place of `path`, or leave `path` as it is."""
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        path.rename(old / "bundle")
        try:
            new.rename(path)
        except BaseException:
            (old / "bundle").rename(path)
            raise
    except BaseException:
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync_directory(path: Path) -> None:
    """Make the names in a directory last."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
