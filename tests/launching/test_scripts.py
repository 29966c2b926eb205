"""The scripts: their texts, that bash reads them, and that no value leaves the place that is meant for it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launching.scripts import ALLOCATIONS, STARTS, Stubs, command_of, ran_with, start
from moec.launching.quoting import UnquotableError, number, word
from moec.launching.render import _environment, render
from moec.launching.request import Allocation, Scheduler

GOLDENS = Path(__file__).parent / "goldens"
LAUNCHERS = {"srun", "mpirun", "mpiexec.hydra"}


@pytest.mark.parametrize("case", ALLOCATIONS)
def test_golden(case: str, golden: Callable[[str, Path], None]) -> None:
    """The text of each script is the one that was read and accepted."""
    golden(render(ALLOCATIONS[case], STARTS[case]), GOLDENS / f"{case}.sh")


@pytest.mark.parametrize("case", ALLOCATIONS)
def test_bash_reads_every_script(case: str, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(render(ALLOCATIONS[case], STARTS[case]))
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "lsf", "mpirun"])
def test_lines_for_the_scheduler_come_before_the_first_command(scheduler: Scheduler) -> None:
    """It reads no further than that."""
    lines = render(ALLOCATIONS[scheduler], STARTS[scheduler]).splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    mark = {"slurm": "#SBATCH", "pbs": "#PBS", "lsf": "#BSUB", "mpirun": "#none"}[scheduler]
    assert not any(line.lstrip().startswith(mark) for line in lines[first:])
    assert (scheduler == "mpirun") == (not any(line.startswith(mark) for line in lines[:first]))


# --- quoting ---

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
PIECES = (
    "'", '"', "$(touch mark)", "`touch mark`", "${HOME}", "\n", ";touch mark;", "\\", "!!", "*", "~",
    "{{ job }}", "{% raw %}", "#", "&", "|", ">mark", "\x1b[2J", "--", " ", "$'\\n'", "é", "(", ")",
)  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PIECES) | TEXTS, max_size=6).map("".join)


@settings(max_examples=60)
@given(
    scheduler=st.sampled_from(["slurm", "pbs", "lsf", "mpirun"]),
    bundle=HOSTILE,
    out=HOSTILE,
    options=st.lists(HOSTILE, max_size=4),
)
def test_no_text_leaves_its_quotes(
    tmp_path_factory: pytest.TempPathFactory,
    scheduler: Scheduler,
    bundle: str,
    out: str,
    options: list[str],
) -> None:
    """Under a real bash, the launcher is given exactly these words, and nothing else is done."""
    folder = tmp_path_factory.mktemp("hostile")
    stubs = Stubs(folder)
    work = folder / "it's $HOME; `touch mark`"
    work.mkdir()
    described = start(
        starter="srun" if scheduler == "slurm" else "mpirun",
        bundle=bundle,
        out=out,
        run_options=tuple(options),
        python="py'th$on",
        folder=str(work),
    )
    ran = stubs.run(Allocation(scheduler, 1, 2, "name"), described)
    ((launcher, *argv),) = ran.calls
    assert launcher in LAUNCHERS
    assert command_of(argv) == ["py'th$on", "-m", "moec", "run", bundle, "--out", out, "--resume", *options]
    assert {path.name for path in work.iterdir()} <= {"name.log"}
    assert {path.name for path in folder.iterdir()} == {"bin", "job.sh", "record", "starts", work.name}
    assert ran.code == 0


@given(text=HOSTILE)
def test_a_comment_stays_one_line(text: str) -> None:
    """Whatever a bundle's path is, the lines that a scheduler or a shell reads are the same."""
    allocation = replace(ALLOCATIONS["slurm"], directives=("x" + "".join(filter(str.isprintable, text)),))
    script = render(allocation, start(bundle=text, run_options=()))
    plain = render(allocation, start(bundle="plain", run_options=()))
    head, plain_head = (s[: s.index("\ncd ")].split("\n") for s in (script, plain))
    assert head[2:] == plain_head[2:]
    assert head[1].startswith("# ")
    assert head[1].isprintable()


@given(text=TEXTS)
def test_a_name_that_is_none_is_not_written(text: str) -> None:
    """The renderer does not rely on what was checked before."""
    plain = (
        text.isascii() and text != "" and all(letter.isalnum() or letter in "_@%+=:,./-" for letter in text)
    )
    try:
        assert word(text) == text
    except UnquotableError:
        assert not plain
    else:
        assert plain


def test_zero_bytes_and_what_is_no_number_are_refused() -> None:
    with pytest.raises(UnquotableError, match="no script can hold a zero byte"):
        render(ALLOCATIONS["slurm"], start(bundle="a\0b"))
    for value in ("1", 1.0, True, None):
        with pytest.raises(UnquotableError, match="is no whole number"):
            number(value)


def test_a_template_can_write_nothing_that_no_filter_has_quoted() -> None:
    """Nor reach what it was not given, nor leave a name undefined."""
    environment = _environment()
    with pytest.raises(TypeError, match="no filter has quoted"):
        environment.from_string("{{ job.name }}").render(job=ALLOCATIONS["slurm"])
    for text in ("{{ missing | shell }}", "{{ job.missing | shell }}", "{{ job.__class__ | shell }}"):
        with pytest.raises(Exception, match=r"missing|__class__"):
            environment.from_string(text).render(job=ALLOCATIONS["slurm"])


# --- what the user writes as shell ---


@pytest.mark.parametrize("line", ["echo 'open", "if true; then", "echo $(", "exit_code() {", "false"])
def test_a_setup_line_that_does_not_work_ends_the_job_before_the_ranks(line: str, tmp_path: Path) -> None:
    """An open quote in it does not swallow what follows."""
    ran = Stubs(tmp_path).run(
        ALLOCATIONS["slurm"], start(starter="srun", setup=(line,), folder=str(tmp_path))
    )
    assert ran.code == 78
    assert ran.calls == []


def test_setup_lines_and_modules_act_on_what_follows(tmp_path: Path) -> None:
    setup = ("export PATH=$PATH:/extra", 'export RECORD="$RECORD.2"')
    described = start(modules=("open mpi/5;x",), setup=setup, folder=str(tmp_path))
    stubs = Stubs(tmp_path)
    ran = stubs.run(ALLOCATIONS["slurm_mpirun"], described)
    assert ran.calls == [["module", "load", "open mpi/5;x"]]
    assert ran_with(Stubs.calls_of(tmp_path / "record.2"), "mpirun")
    assert "-x PATH" in " ".join(ran_with(Stubs.calls_of(tmp_path / "record.2"), "mpirun")[0])
