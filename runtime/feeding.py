"""The data of a job: opened on every rank, found to be the same on all, and cut into batches for one."""

from __future__ import annotations

from dataclasses import dataclass

from moec.runtime.abi.manifest import Manifest
from moec.runtime.data.given import parse_data
from moec.runtime.data.loader import Loader
from moec.runtime.data.samples import Source
from moec.runtime.data.source import identity, open_sources
from moec.runtime.data.tokenizer import open_tokenizer
from moec.runtime.job import Job, agree


@dataclass(frozen=True)
class DataOptions:
    """What the user gave: sources, with weights or without, and how their text becomes tokens."""

    data: tuple[str, ...]
    tokenizer: str | None = None
    end_of_document: str | None = None


@dataclass(frozen=True)
class JobData:
    """Sources, the same on all ranks, and the digest that tells them from others."""

    sources: tuple[Source, ...]
    identity: str


def open_data(options: DataOptions, job: Job, what: str = "data") -> JobData:
    """The data of a job; `what` is what messages call it.

    Raises:
        EnvironmentMismatch: not all ranks have the same.
        UserError, InputOutputError, IntegrityError: it is wrongly given, not there or not readable.
    """
    manifest = job.bundle.manifest
    tokenizer = open_tokenizer(options.tokenizer, options.end_of_document)
    sources = open_sources(parse_data(options.data), tokenizer, manifest.vocab)
    found = identity(sources, separate(manifest))
    agree({what: found}, job.transport)
    return JobData(sources, found)


def make_loader(data: JobData, manifest: Manifest, rank: int, *, epochs: int | None) -> Loader:
    """The batches of one rank, as the bundle cuts them.

    Raises:
        UserError: a source has fewer tokens than one sequence needs.
    """
    training = manifest.training
    return Loader(
        data.sources,
        sequence=training.sequence,
        batch_sequences=training.batch_sequences,
        micro_batches=training.micro_batches,
        data_ranks=manifest.world,
        data_rank=rank,
        seed=training.seed,
        epochs=epochs,
        separate_documents=separate(manifest),
    )


def separate(manifest: Manifest) -> bool:
    """Whether documents are separate."""
    return manifest.training.documents == "separate"
