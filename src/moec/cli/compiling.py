"""show, compile: from a spec to graphs, programs and a bundle."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from moec.cli.language import AsJson, Overrides, Specification, load

Ranks = Annotated[
    int | None, typer.Option("--ranks", min=1, help="Number of ranks, where a degree of the spec is `rest`.")
]


class Stage(StrEnum):
    """What `show` shows."""

    MODEL = "model"
    REFERENCE = "reference"
    PLAN = "plan"
    MEMORY = "memory"
    PARTITIONED = "partitioned"
    PROGRAMS = "programs"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(show)
    app.command(name="compile")(compile_bundle)


def show(
    target: Annotated[
        str, typer.Argument(metavar="SPEC|BUNDLE", help="A .moe file, a shipped model, or a bundle.")
    ],
    stage: Annotated[Stage | None, typer.Option("--stage", help="One stage alone.")] = None,
    layer: Annotated[
        int | None,
        typer.Option("--layer", metavar="N", help="One layer, from 0: equations, shapes, parameters."),
    ] = None,
    as_json: AsJson = False,
    overrides: Overrides = None,
    ranks: Ranks = None,
) -> int:
    """Print a model, its plan, its graphs and the programs of a rank, as text."""
    if as_json and layer is None:
        raise typer.BadParameter("--json goes with --layer")
    if layer is not None and (stage is not None or ranks is not None):
        raise typer.BadParameter("--layer is of the model alone: --stage and --ranks do not go with it")
    if (Path(target) / "manifest.json").is_file():
        if overrides or ranks or layer is not None or stage not in (None, Stage.PROGRAMS):
            raise typer.BadParameter(
                "a bundle has programs only: --stage, --layer, --set and --ranks are for a spec"
            )
        _show_bundle(Path(target))
        return 0
    from moec import dsl

    spec = load(target, overrides)
    if layer is not None:
        _show_layer(spec, layer, as_json)
        return 0
    if stage in (None, Stage.MODEL):
        print(dsl.summary_text(spec))
    if stage is Stage.MODEL:
        print(spec.text, end="")
        return 0
    _show_stages(spec, stage, ranks)
    return 0


def _show_layer(spec: object, layer: int, as_json: bool) -> None:
    from moec.dsl import Spec
    from moec.dsl.layer_view import data, layer_view, text

    assert isinstance(spec, Spec)
    layers = len(spec.model.layers)
    if not 0 <= layer < layers:
        raise typer.BadParameter(f"{spec.model.name} has layers 0..{layers}, the last is {layers - 1}")
    view = layer_view(spec.model, layer)
    print(json.dumps(data(view), indent=1) + "\n" if as_json else text(view), end="")


def _show_bundle(path: Path) -> None:
    from moec.runtime.abi.bundle import read_bundle
    from moec.runtime.abi.program import listing
    from moec.runtime.errors import printable

    bundle = read_bundle(path)
    manifest = bundle.manifest
    plural = "s" * (manifest.world > 1)
    print(
        f"{printable(manifest.model)}: {manifest.parameters:,} parameters, {manifest.world} rank{plural}, "
        f"digest {bundle.digest[:16]}\n"
    )
    print(printable("\n\n".join(map(listing, bundle.programs.values()))))


def _show_stages(spec: object, stage: Stage | None, ranks: int | None) -> None:
    from moec.compiler.dump import dump_plan, dump_region
    from moec.compiler.memory.report import memory_text
    from moec.compiler.pipeline import CompileOptions, compile_spec
    from moec.dsl import Spec
    from moec.runtime.abi.program import listing

    assert isinstance(spec, Spec)
    compiled = compile_spec(spec, CompileOptions(ranks=ranks))
    texts = {
        Stage.REFERENCE: lambda: "\n\n".join(map(dump_region, compiled.reference.kinds.values())),
        Stage.PLAN: lambda: dump_plan(compiled.plan),
        Stage.MEMORY: lambda: memory_text(compiled),
        Stage.PARTITIONED: lambda: "\n\n".join(map(dump_region, compiled.partitioned.values())),
        Stage.PROGRAMS: lambda: "\n\n".join(map(listing, compiled.programs.values())),
    }
    chosen = [stage] if stage is not None else [Stage.PLAN, Stage.MEMORY, Stage.PARTITIONED, Stage.PROGRAMS]
    print("\n\n".join(texts[one]() for one in chosen))


def compile_bundle(
    spec: Specification,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="BUNDLE", help="Where the bundle goes.")],
    overrides: Overrides = None,
    ranks: Ranks = None,
) -> int:
    """Compile a spec into a bundle that ranks can run."""
    import time

    start_s = time.perf_counter()
    compiled = compile_to(spec, out, overrides, ranks)
    print(compiled)
    print(f"  written to {out} in {time.perf_counter() - start_s:.1f} s")
    return 0


def compile_to(spec: str, out: Path, overrides: list[str] | None, ranks: int | None) -> str:
    """Compile into `out` and say what it is."""
    from moec.compiler.emit.bundle import manifest, save
    from moec.compiler.pipeline import CompileOptions, compile_spec

    compiled = compile_spec(load(spec, overrides), CompileOptions(ranks=ranks))
    digest = save(compiled, out)
    described = manifest(compiled)
    mesh, plural = described.mesh, "s" * (described.mesh.world > 1)
    kinds = len(described.buffers)
    instructions = sum(len(program.instructions) for program in compiled.programs.values())
    return (
        f"{described.model}: {described.parameters:,} parameters for {mesh.world} rank{plural} "
        f"(expert {mesh.expert}, shard {mesh.shard}, replicate {mesh.replicate})\n"
        f"  {kinds} kinds of region, {instructions:,} instructions, digest {digest[:16]}"
    )
