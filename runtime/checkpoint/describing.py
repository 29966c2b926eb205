"""What a checkpoint says of its run: everything in the manifest that is not a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moec.runtime.abi.bundle import Manifest
from moec.runtime.record.status import utc_now
from moec.runtime.weights.index import FileEntry

from .manifest import FORMAT, VERSION, CheckpointManifest, DataPosition, StoredFile, StoredParameter
from .slices import all_slices, parameters_of


@dataclass(frozen=True)
class Described:
    """A run: its bundle (manifest, text of the model, digest), and its data.

    `steps` are those of the whole run, `data` is the fingerprint of its tokens.
    """

    bundle: Manifest
    source: str
    digest: str
    steps: int
    data: str

    def manifest(
        self, step: int, entries: Mapping[str, FileEntry], passed_over: int = 0
    ) -> CheckpointManifest:
        """The manifest of the state after `step` steps, whose files are `entries`.

        `passed_over`: see `TrainState`.
        """
        bundle, states = self.bundle, self.bundle.states()
        slices = all_slices(states, bundle.mesh)
        return CheckpointManifest(
            format=FORMAT,
            version=VERSION,
            step=step,
            steps=self.steps,
            saved=utc_now().isoformat(timespec="seconds"),
            moec=bundle.toolchain.moec,
            torch=bundle.toolchain.torch,
            bundle=self.digest,
            model=bundle.model,
            seed=bundle.training.seed,
            facts=bundle.facts,
            mesh=bundle.mesh,
            data=DataPosition(self.data, (step + passed_over) * bundle.training.batch_sequences),
            parameters={
                name: StoredParameter(shape, trained)
                for name, (shape, trained) in parameters_of(states).items()
            },
            files={
                name: StoredFile(entry.size_bytes, entry.sha256, tuple(map(str, slices.get(name, ()))))
                for name, entry in sorted(entries.items())
            },
        )
