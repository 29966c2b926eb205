"""`moec launch`: what it refuses, with what would be legal, and what it says of the job that it wrote."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launching.scripts import Stubs, command_of
from moec.launching import legal
from moec.launching.fit import nearest_shapes
from moec.runtime.errors import UserError
from system.command_line import MODEL, Outcome, moec, sets, succeed

LEGAL = {"--scheduler": "slurm", "--nodes": "2", "--ranks-per-node": "4", "--mpi": "openmpi"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For eight ranks: experts on four neighbours, shards on four. Nobody changes it."""
    path = tmp_path_factory.mktemp("bundles") / "eight"
    degrees = ("parallel.expert=4", "parallel.shard=4", "parallel.replicate=2", "train.batch=8 sequences")
    succeed("compile", "tiny", "-o", path, *sets(*MODEL, *degrees))
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def launch(bundle: Path, *more: str, run: tuple[str, ...] = ("--data", "x.txt"), **changed: str) -> Outcome:
    """The command, with what is legal for the bundle unless it is changed."""
    given = LEGAL | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    options = [word for pair in given.items() for word in pair]
    return moec("launch", bundle, *options, "-o", "job.sh", *more, "--", *run)


REFUSED: list[tuple[tuple[str, ...], dict[str, str], str]] = [
    ((), {"nodes": "2", "ranks_per_node": "3"}, "2 nodes x 3 ranks a node = 6 ranks, and"),
    ((), {"nodes": "2", "ranks_per_node": "3"}, "is for 8 (replicate 2 x shard 4)"),
    ((), {"nodes": "2", "ranks_per_node": "3"}, "--nodes 2 --ranks-per-node 4, --nodes 4"),
    ((), {"nodes": "0"}, "'--nodes': Input should be greater than or equal to 1"),
    ((), {"time": "00:02:00"}, "--time 120 s <= --signal-lead 180 s: ranks would be told to stop before"),
    ((), {"time": "00:02:00"}, "the nearest legal values are --time 240s, or --signal-lead 60s"),
    ((), {"time": "3m", "scheduler": "lsf", "signal_lead": "170s"}, "--time 180 s <= --signal-lead 180 s"),
    ((), {"time": "tomorrow"}, "--time 'tomorrow': a time is HH:MM:SS, D-HH:MM:SS, or such as 90m"),
    ((), {"time": "12:61:00"}, "a time is HH:MM:SS"),
    ((), {"time": "0s"}, "is 0 s; it is at least 1 s and at most 366d"),
    ((), {"time": "367d"}, "at most 366d"),
    ((), {"signal_lead": "19h"}, "--signal-lead 19h is 68400 s; it is at most 65535 s"),
    ((), {"name": "my job"}, "the nearest legal name is my_job"),
    ((), {"name": "-x"}, "the nearest legal name is x"),
    ((), {"name": "8x7", "scheduler": "pbs"}, "a letter first, 230 at most; the nearest"),
    ((), {"name": "n" * 65}, f"64 at most; the nearest legal name is {'n' * 64}"),
    ((), {"partition": "a b"}, "--partition 'a b': a name is of letters, digits and any of"),
    ((), {"account": "x\n#SBATCH --uid=0"}, r"--account 'x\n#SBATCH --uid=0': a name is of"),
    ((), {"mem": "lots"}, "--mem 'lots': the memory of a node is a whole number with M, G or T, such as 64G"),
    ((), {"mem": "0G"}, "--mem '0G'"),
    ((), {"directive": "a\nb"}, r"--directive 'a\nb': one printable line is expected"),
    ((), {"setup": "a\x1b[2J"}, "one printable line is expected"),
    ((), {"module": " "}, "--module ' ': one printable line is expected"),
    ((), {"hosts": "a,b"}, "--hosts goes with --scheduler mpirun: slurm chooses the nodes"),
    ((), {"scheduler": "mpirun"}, "--scheduler mpirun with --nodes 2 needs their names: --hosts A,B"),
    ((), {"scheduler": "mpirun", "hosts": "a,a"}, "--hosts names 1 hosts, and --nodes is 2"),
    ((), {"scheduler": "mpirun", "hosts": "a,-b"}, "'-b' is no name of a host"),
    (("--srun",), {"scheduler": "pbs"}, "--srun is Slurm's: pbs starts ranks with mpirun"),
    ((), {"step_s": "1", "like": "run"}, "--step-s and --like are two answers to one question"),
    ((), {"like": "run"}, "--like run: there is no metrics.jsonl, so it is no run"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "changed", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused(
    here: Path, bundle: Path, more: tuple[str, ...], changed: dict[str, str], words: str
) -> None:
    """With the equation that does not hold, or the nearest value that would do; and nothing is written."""
    told = launch(bundle, *more, **changed)
    assert told.code == 1
    assert words in told.text
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ((), "Missing option '--data'"),
        (("--data", "x", "--step", "3"), "No such option: --step"),
        (("--data", "x", "--steps", "three"), "'--steps': Input should be a valid integer"),
        (("--data", "x", "--steps", "11"), "--steps 11: the run has 10 steps"),
        (("--data", "x", "--out", "o"), "--out after `--`: give it before, to `moec launch`"),
        (("--data", "x", "-n", "8"), "-n after `--`: the script starts the ranks"),
        (("--data", "x", "--set", "a=1"), "--set after `--`: it changes a spec"),
        (("--data", "x", "extra"), "unexpected extra argument"),
        (("--data", "x", "--elastic"), "--elastic needs Open MPI's mpirun, not srun of openmpi"),
        (("--data", "x", "--transport", "nccl"), "--ranks-per-node is 4, and --gpus-per-node is not given"),
    ],
    ids=str,
)
def test_a_slip_in_the_options_of_the_run_is_found_now(
    here: Path, bundle: Path, run: tuple[str, ...], words: str
) -> None:
    """Not when the job starts, hours later."""
    told = launch(bundle, run=run)
    assert told.code == 1
    assert words in told.text
    assert list(here.iterdir()) == []


def test_what_is_no_bundle_or_a_damaged_one_gets_no_script(here: Path, bundle: Path) -> None:
    assert "is no bundle" in launch(here / "missing").text
    assert launch(here / "missing").code == 1
    assert "cannot write none/job.sh" in moec(
        "launch", bundle, *(w for p in LEGAL.items() for w in p), "-o", "none/job.sh", "--", "--data", "x"
    ).text  # fmt: skip


def test_the_script_runs_what_was_asked_for(here: Path, bundle: Path) -> None:
    options = ("--data", "a b.txt", "--resume", "--steps", "3")
    told = launch(bundle, "--python", "py", run=options, chdir=str(here), out="it's here")
    assert told.code == 0, told.err
    stubs = Stubs(here)
    os.rename("job.sh", "written.sh")
    subprocess.run(["bash", "written.sh"], env=stubs.environment(), check=True, timeout=60)
    ((launcher, *argv),) = stubs.calls()
    assert launcher == "srun"
    expected = ["py", "-m", "moec", "run", str(bundle), "--out", "it's here", "--resume"]
    assert command_of(argv) == [*expected, "--data", "a b.txt", "--steps", "3"]


# --- what is said ---


def test_axes_that_cross_nodes_are_named_with_their_bytes(here: Path, bundle: Path) -> None:
    told = launch(bundle).out
    assert "expert_replicate: groups of 2 ranks lie on 2 nodes; a rank receives" in told
    assert "\nexpert: " not in told
    told = launch(bundle, nodes="4", ranks_per_node="2").out
    assert "\nexpert: groups of 4 ranks lie on 2 nodes; a rank receives" in told
    assert "\nshard: groups of 4 ranks lie on 2 nodes; a rank receives" in told
    assert "warning" not in told
    assert "from other nodes" not in launch(bundle, nodes="1", ranks_per_node="8").out


def test_bytes_are_those_of_the_rows_that_leave_a_node(here: Path, bundle: Path) -> None:
    """Counted by hand: one sequence of 16 tokens a rank, two choices, 32 numbers of 4 bytes a row.

    One layer sends rows there and back, forward and backward: four times. With one rank a node, three of four
    rows go to another node.
    """
    told = launch(bundle, nodes="8", ranks_per_node="1").out
    rows, row_bytes, trips, away = 16 * 2, 32 * 4, 4, 3 / 4
    counted_kib = rows * row_bytes * trips * away / 1024
    (line,) = (line for line in told.splitlines() if line.startswith("expert: "))
    found = float(line.split("receives ")[1].split(" KiB")[0])
    assert counted_kib <= found < counted_kib * 1.1, line  # and the counts of rows, a few numbers


def test_an_expert_group_that_is_cut_although_it_would_fit_is_warned_of(here: Path) -> None:
    degrees = ("parallel.expert=4", "parallel.shard=12", "train.batch=12 sequences")
    succeed("compile", "tiny", "-o", "twelve", *sets(*MODEL, *degrees))
    told = launch(Path("twelve"), nodes="2", ranks_per_node="6").text
    assert "warning: expert: groups of 4 ranks lie on 2 nodes" in told
    assert "6 ranks a node % 4 = 2; take a multiple of 4 ranks a node" in told


def test_memory_that_a_step_cannot_do_without_is_told_and_asked_for(here: Path, bundle: Path) -> None:
    """The state alone is four numbers of four bytes a parameter of the rank's shards."""
    (line,) = (line for line in launch(bundle).out.splitlines() if line.startswith("memory: "))
    held_kib = float(line.split("holds ")[1].split(" KiB")[0])
    manifest = json.loads((bundle / "manifest.json").read_text())
    kinds = dict(manifest["chain"]).values()
    state = sum(b["numel"] // b["ranks"] * 16 for kind in kinds for b in manifest["buffers"][kind])
    assert state / 1024 < held_kib < 20 * state / 1024
    assert launch(bundle, mem="1G").code == 0
    told = launch(bundle, mem="1M", nodes="1", ranks_per_node="8")
    assert told.code == 1
    assert "--mem 1M < 8 ranks x" in told.text
    assert launch(bundle, mem="1M", run=("--data", "x", "--transport", "nccl"), gpus_per_node="4").code == 0


def test_node_hours_have_a_basis_or_are_not_told(here: Path, bundle: Path) -> None:
    assert "node-hours: no basis: give --step-s SECONDS, or --like RUN" in launch(bundle).out
    told = launch(bundle, step_s="1800", time="2h").out
    assert "node-hours: 10 steps x 1800 s x 2 nodes = 10 (5 h; as given)" in told
    assert "3 jobs of 2 h, each but the last stopped early and saved" in told
    assert "it fits into one job of 6 h" in launch(bundle, step_s="1800", time="6h").out
    assert "node-hours: 4 steps x 1800 s" in launch(
        bundle, step_s="1800", run=("--data", "x", "--steps", "4")
    ).out  # fmt: skip


def test_a_measured_run_is_a_basis(here: Path, bundle: Path) -> None:
    """The median, without the first steps; and whoever measured with other ranks is told."""
    (here / "run").mkdir()
    step = {"loss": 1.0, "aux_loss": 0.0, "grad_norm": 1.0, "lr": 0.1, "tokens": 8, "tokens_per_s": 1.0}
    times = (90.0, 80.0, 3600.0, 1.0, 3600.0)
    lines = [json.dumps({"step": i, **step, "step_s": s, "expert_load": {}}) for i, s in enumerate(times)]
    (here / "run/metrics.jsonl").write_text("\n".join(lines) + "\n")
    told = launch(bundle, like="run").out
    assert "10 steps x 3600 s x 2 nodes = 20 (10 h; the median of 3 steps of run)" in told
    assert "take it as a guess" not in told
    status = {
        "state": "complete",
        "step": 5,
        "steps": 5,
        "loss": 1.0,
        "exit_code": 0,
        "reason": "",
        "world": 2,
    }
    times_of = {"bundle": "", "started": "x", "updated": "x", "state_bytes": {}}
    (here / "run/run_status.json").write_text(json.dumps(status | times_of))
    assert "measured with 2 ranks, and this job has 8: take it as a guess" in launch(bundle, like="run").out


def test_epochs_have_as_many_steps_as_the_data(here: Path) -> None:
    of_epochs = [value for value in MODEL if "steps" not in value and "schedule" not in value]
    succeed("compile", "tiny", "-o", "epochs", *sets(*of_epochs, "train.epochs=1"))
    shape = {"nodes": "1", "ranks_per_node": "1", "step_s": "1"}
    assert "how many steps 1 epochs are depends on the data" in launch(Path("epochs"), **shape).text


# --- values ---


@given(world=st.integers(1, 5000), nodes=st.integers(1, 64), ranks=st.integers(1, 64))
def test_shapes_that_are_offered_are_legal(world: int, nodes: int, ranks: int) -> None:
    found = nearest_shapes(world, nodes, ranks)
    assert found
    assert all(n * r == world for n, r in found)
    if nodes * ranks == world:
        assert found[0] == (nodes, ranks)


@given(text=st.text(max_size=100), scheduler=st.sampled_from(["slurm", "pbs", "lsf", "mpirun"]))
def test_a_name_that_is_offered_is_legal(text: str, scheduler: legal.Scheduler) -> None:
    nearest = legal.nearest_name(text, scheduler)
    assert legal.job_name(nearest, scheduler) == nearest


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24:00:00", 86_400), ("2-12:00:00", 216_000), ("90m", 5400), ("1d12h", 129_600), ("180s", 180)],
)
def test_times(text: str, seconds: int) -> None:
    assert legal.seconds(text, "--time") == seconds


@given(st.text(max_size=20))
def test_any_text_is_a_value_or_refused(text: str) -> None:
    for read in (legal.lead, legal.mebibytes, lambda t: legal.words(t, "--x"), lambda t: legal.hosts(t, 1)):
        try:
            read(text)
        except UserError:
            continue
