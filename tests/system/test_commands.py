"""Every command of `moec` with its options, as a user calls it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moec import dsl, models
from system.command_line import (
    MODEL,
    ON_TWO,
    content,
    moec,
    moec_process,
    sets,
    succeed,
)

OPTIONS = {
    "check": {"--set", "--json"},
    "fmt": {"--check", "--explicit"},
    "models": {"--json"},
    "explain": set(),
    "lsp": set(),
    "diff": {"--json"},
    "show": {"--stage", "--layer", "--json", "--set", "--ranks"},
    "compile": {"--out", "--set", "--ranks"},
    "run": {
        "--data", "--out", "--steps", "--init", "--init-from", "--tokenizer", "--end-of-document",
        "--transport", "--processes", "--set", "--resume", "--strict-resume", "--validation", "--timeout",
        "--enable-fault-injection", "--elastic", "--profile", "--tracker", "--peak-flops",
    },
    "status": {"--json"},
    "watch": {"--once"},
    "checkpoint": set(),
    "launch": {
        "--account", "--bind", "--chdir", "--cpus-per-rank", "--directive", "--gpus-per-node", "--hosts",
        "--like", "--max-restarts", "--mem", "--module", "--mpirun", "--name", "--no-requeue", "--nodes",
        "--out", "--output", "--partition", "--python", "--ranks-per-node", "--requeue", "--scheduler",
        "--setup", "--signal-lead", "--srun", "--step-s", "--time", "--data", "--mpi", "--qos", "--queue",
    },
    "eval": {
        "--batches", "--checkpoint", "--data", "--end-of-document", "--json", "--processes", "--set",
        "--tokenizer", "--transport", "--weights",
    },
    "tokenize": {"--data", "--end-of-document", "--out", "--processes", "--tokenizer"},
    "verify": {"--transport", "--processes", "--set", "--json"},
    "batches": {"--data", "--steps", "--out", "--tokenizer", "--end-of-document"},
    "import": {"--out", "--spec"},
    "export": {"--to"},
    "logits": {"--ids", "--out"},
}  # fmt: skip
"""What these tests know of. One that is new belongs here and into a test."""


# --- help, and the language alone ---


def test_help_names_every_command_and_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "140")  # in a narrow one, long names are cut
    top = succeed("--help").out
    assert set(re.findall(r"^│ ([a-z]+) ", top, re.MULTILINE)) == OPTIONS.keys()
    for command, options in OPTIONS.items():
        shown = succeed(command, "--help").out
        assert set(re.findall(r"--[a-z][a-z-]*", shown)) - {"--help"} == options, command


def test_commands_of_the_language_load_neither_torch_nor_mpi(tmp_path: Path) -> None:
    """So that `check` answers at once, and on a machine where torch is not installed."""
    (tmp_path / "mine.moe").write_text(dsl.format_text(models.read("tiny")[1]))  # type: ignore[index]
    (tmp_path / "wrong.moe").write_text("model wrong { width = }")
    program = f"""
import sys
from moec.cli.main import run
calls = [["--help"], ["run", "--help"], ["--version"], ["check", "tiny"],
         ["check", "tiny", "--json", "--set", "width=64"], ["fmt", "mine.moe"],
         ["fmt", "mine.moe", "--check"], ["fmt", "tiny", "--explicit"], ["models"],
         ["models", "--json"], ["explain", "MOE0101"], ["diff", "tiny", "mine.moe"],
         ["show", "tiny", "--layer", "1"], ["check", "wrong.moe"], ["nonsense"]]
codes = [run(call) for call in calls]
assert codes == [0] * {13} + [1, 1], codes
loaded = {{"torch", "mpi4py", "numpy", "safetensors", "tokenizers"}} & sys.modules.keys()
assert not loaded, loaded
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_check_counts_parameters_and_takes_overrides() -> None:
    assert "1,856,640 / 676,992" in succeed("check", "tiny").out
    one = json.loads(succeed("check", "tiny", "--json").out)
    half = json.loads(succeed("check", "tiny", "--json", *sets("layers=2")).out)
    assert (one["ok"], one["diagnostics"], one["parameters"], one["active_parameters"]) == (
        True,
        [],
        1_856_640,
        676_992,
    )
    layers = one["parameters"] - 2 * 320 * 128 - 128  # all but embedding, logits and the last norm
    assert one["parameters"] - half["parameters"] == layers // 2


def test_check_gives_mistakes_as_json_too(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.moe"
    wrong.write_text(models.read("tiny")[1].replace("heads: 4", "heads: 5"))  # type: ignore[index]
    told = moec("check", wrong, "--json")
    assert (told.code, told.err) == (1, "")
    found = json.loads(told.out)
    assert found["ok"] is False
    assert [entry["code"] for entry in found["diagnostics"]] == ["MOE0403", "MOE0403"]


def test_fmt_writes_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    """A link stays one, the mode stays; where the new text cannot be written the old one is there."""
    path, link = tmp_path / "mine.moe", tmp_path / "link.moe"
    untidy = succeed("fmt", "tiny").out.replace("    vocab   = 320", "vocab=320")
    path.write_text(untidy)
    path.chmod(0o640)
    link.symlink_to(path)
    full = f"ulimit -f 0; {sys.executable} -m moec fmt {path}"
    told = subprocess.run(["bash", "-c", full], check=False, capture_output=True, text=True, timeout=60)

    assert told.returncode == 74
    assert path.read_text() == untidy
    succeed("fmt", link)
    assert link.is_symlink()
    assert path.read_text() == succeed("fmt", "tiny").out
    assert path.stat().st_mode & 0o777 == 0o640
    assert {p.name for p in tmp_path.iterdir()} == {"mine.moe", "link.moe"}


def test_fmt_makes_a_file_canonical_in_place_and_then_leaves_it_alone(tmp_path: Path) -> None:
    shipped = models.read("tiny")[1]  # type: ignore[index]
    path = tmp_path / "mine.moe"
    path.write_text(shipped.replace("    width   = 128", "  width=128   # as wide as this"))
    before = path.read_text()
    told = moec("fmt", path, "--check")
    assert told.code == 1
    assert f"run moec fmt {path}" in told.err
    assert path.read_text() == before
    succeed("fmt", path)
    after = path.read_text()
    assert after == shipped.replace("width   = 128", "width   = 128  # as wide as this")
    succeed("fmt", path)
    assert path.read_text() == after
    assert succeed("fmt", path, "--check").out == ""


def test_fmt_takes_many_files_and_names_those_that_would_change(tmp_path: Path) -> None:
    """One with mistakes is told of, and the others are dealt with all the same."""
    canonical = succeed("fmt", "tiny").out
    texts = {"good": canonical, "loose": canonical.replace("vocab   =", "vocab="), "wrong": "model {"}
    paths = {name: tmp_path / f"{name}.moe" for name in texts}
    for name, text in texts.items():
        paths[name].write_text(text)
    told = moec("fmt", "--check", paths["loose"], paths["good"])
    assert told.code == 1
    assert str(paths["loose"]) in told.err
    assert str(paths["good"]) not in told.err
    told = moec("fmt", paths["wrong"], paths["loose"], paths["good"])
    assert told.code == 1
    assert "MOE0104" in told.err
    assert [path.read_text() for path in paths.values()] == [canonical, canonical, "model {"]
    assert moec("fmt", "--explicit", paths["good"], "tiny").code == 1


def test_fmt_prints_a_shipped_model_and_every_default(tmp_path: Path) -> None:
    assert succeed("fmt", "tiny").out == models.read("tiny")[1]  # type: ignore[index]
    explicit = tmp_path / "explicit.moe"
    explicit.write_text(succeed("fmt", "tiny", "--explicit").out)
    assert "betas: (0.9, 0.95)" in explicit.read_text()
    assert dsl.load(explicit).model == dsl.load("tiny", (), models.read).model


def test_models_and_explain() -> None:
    listed = succeed("models").out
    shipped = json.loads(succeed("models", "--json").out)
    assert [entry["name"] for entry in shipped] == list(models.names())
    for entry in shipped:
        line = next(line for line in listed.splitlines() if line.startswith(entry["name"]))
        assert f"{entry['parameters']:,}" in line
        assert f"{entry['active_parameters']:,}" in line
    assert succeed("explain", "MOE0403").out.startswith("MOE0403: ")


# --- show, compile, verify ---


STAGES = {
    "model": "rms_norm(eps: 1e-5)",
    "reference": "all_to_all",
    "plan": "embed",
    "partitioned": "all_to_all",
    "programs": "all_to_all_start",
}
"""A word of each stage; the reference alone has no collective."""


def test_show_shows_each_stage_and_a_bundle(bundle_of_two: Path) -> None:
    small = sets(*MODEL, *ON_TWO)
    shown = {stage: succeed("show", "tiny", "--stage", stage, *small).out for stage in STAGES}
    for stage, word in STAGES.items():
        assert (word in shown[stage]) == (stage != "reference"), stage
    assert shown["programs"].strip() in succeed("show", bundle_of_two).out
    assert succeed("show", bundle_of_two, "--stage", "programs").out == succeed("show", bundle_of_two).out
    everything = succeed("show", "tiny", *small).out
    assert all(shown[stage].strip() in everything for stage in ("plan", "partitioned", "programs"))
    assert (
        "plan for 4 ranks: replicate 2"
        in succeed("show", "tiny", "--stage", "plan", "--ranks", "4", *small).out
    )


def test_compile_takes_ranks_and_says_what_it_made(tmp_path: Path) -> None:
    told = succeed(
        "compile", "tiny", "-o", tmp_path / "four", "--ranks", "4", *sets(*MODEL, "parallel.replicate=rest")
    )
    assert "32,160 parameters for 4 ranks (expert 1, shard 1, replicate 4)" in told.text
    assert _manifest(tmp_path / "four")["mesh"] == {
        "replicate": 4, "shard": 1, "expert": 1, "expert_shard": 1,
    }  # fmt: skip


def test_compile_replaces_a_bundle_and_nothing_else(
    bundle: Path, bundle_of_two: Path, tmp_path: Path
) -> None:
    """And compiling the same again gives the same bundle, byte by byte; its own text gives the same plan."""
    path = tmp_path / "bundle"
    shutil.copytree(bundle, path)
    succeed("compile", "tiny", "-o", path, *sets(*MODEL, *ON_TWO))
    assert content(path) == content(bundle_of_two)
    succeed("compile", bundle_of_two / "model.moe", "-o", path)
    assert (path / "model.moe").read_bytes() == (bundle_of_two / "model.moe").read_bytes()
    digests = {"files": {}, "digest": ""}
    assert _manifest(path) | digests == _manifest(bundle_of_two) | digests
    (path / "notes.txt").write_text("mine")
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "mine").touch()
    file.touch()
    before = content(tmp_path)
    for other in (path, folder, file):
        told = moec("compile", "tiny", "-o", other, *sets(*MODEL))
        assert (told.code, "not replaced" in told.err) == (1, True), other
    assert content(tmp_path) == before


def _manifest(bundle: Path) -> dict[str, object]:
    found = json.loads((bundle / "manifest.json").read_text())
    assert isinstance(found, dict)
    return found


def test_verify_compares_one_rank_in_this_process(bundle: Path) -> None:
    told = json.loads(succeed("verify", bundle, "--json").out)
    assert told["ok"] is True
    names = [deviation["name"] for deviation in told["deviations"]]
    assert {"loss", "aux_loss", "expert load", "gradient of layers.0.experts.expert.7.down"} <= set(names)
    assert "equal: " in succeed("verify", bundle).out


@pytest.mark.mpi
def test_verify_starts_ranks_and_compares_them(bundle_of_two: Path) -> None:
    """Standard output stays JSON, for whoever reads it."""
    told = moec_process("verify", bundle_of_two, "-n", "2", "--json")
    assert told.code == 0, told.err
    found = json.loads(told.out)
    assert found["ok"] is True
    assert max(deviation["relative"] for deviation in found["deviations"]) <= found["tolerance"] == 1e-10
