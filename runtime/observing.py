"""What is looked at in a run, as its options have it: a profiler, trackers, and how steps are measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moec.runtime.abi.codec import to_data
from moec.runtime.abi.dtypes import DTYPES
from moec.runtime.errors import UserError
from moec.runtime.job import Job
from moec.runtime.loop import Companion
from moec.runtime.measure import Measure
from moec.runtime.observe_options import Observing
from moec.runtime.profile.peak import measured_flops_per_s
from moec.runtime.profile.profiler import Profiler
from moec.runtime.trackers.api import RunFacts
from moec.runtime.trackers.bank import Trackers
from moec.runtime.trackers.load import find_tracker


def check_profiled(observing: Observing, steps: int) -> None:
    """Raises UserError where a run of `steps` steps ends before those to profile."""
    profile = observing.profile
    if profile is not None and profile.start >= steps:
        raise UserError(f"--profile {profile.start}..{profile[-1]}: the last step of this run is {steps - 1}")


def profilers(observing: Observing, job: Job, out: Path) -> tuple[Companion, ...]:
    """The companion that profiles, if steps are to be."""
    return () if observing.profile is None else (Profiler(job, observing.profile, out),)


def measure_of(observing: Observing, job: Job) -> Measure:
    """How steps are measured. On all ranks together: each measures its device while the others do, too."""
    manifest, peak = job.bundle.manifest, observing.peak_flops_per_s
    if peak is None:
        peak = measured_flops_per_s(DTYPES[manifest.compute], job.transport.device)
    peaks = [json.loads(answer) for answer in job.transport.exchange(json.dumps(peak).encode())]
    return Measure(manifest.flops_per_token, None if None in peaks else sum(peaks))


def open_trackers(observing: Observing, job: Job, out: Path, steps: int, done: int) -> Trackers:
    """The trackers that were asked for; on rank 0."""
    manifest = job.bundle.manifest
    settings: dict[str, Any] = {"mesh": to_data(manifest.mesh), "training": to_data(manifest.training)}
    facts = RunFacts(
        out=out,
        model=manifest.model,
        parameters=manifest.parameters,
        active_parameters=manifest.active_parameters,
        world=manifest.world,
        steps=steps,
        done=done,
        bundle=job.bundle.digest,
        settings=settings | {"facts": dict(manifest.facts), "options": dict(manifest.options)},
    )
    trackers = Trackers()
    trackers.open([find_tracker(text) for text in observing.trackers], facts)
    return trackers
