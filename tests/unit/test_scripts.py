"""The shell scripts and the Makefile, run with stand-ins for srun, scaledl and pip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
BATCH_SCRIPTS = ["slurm/train.sh", "slurm/compress.sh"]
TRAIN_SCRIPTS = ["slurm/train.sh", "launch/local.sh"]
LAUNCHERS = ["launch/local.sh", "launch/multinode.sh", "launch/deepspeed.sh"]
SCRIPTS = [*BATCH_SCRIPTS, *LAUNCHERS, "slurm/tune.sh", "launch/ray.sh", ".ci/run"]
SOURCED = ["slurm/common.sh", "slurm/next.sh", "launch/common.sh"]
ONE = "PYTEST_ARGS=-k one"
SHOW = '#!/bin/sh\necho "{name}"\nfor argument in "$@"; do echo "<$argument>"; done\n'
# srun prints its own line, then becomes the command, as the real one does.
SRUN = """#!/bin/sh
echo "srun $PWD cpus=$SRUN_CPUS_PER_TASK"
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@"
"""
# An interpreter that is asked to run launchers goes straight to the command at the end.
PYTHON = '#!/bin/sh\nwhile [ "$1" != scaledl ]; do shift; done\nexec "$@"\n'
SCONTROL = """#!/bin/sh
echo "$*" >>"$HOME/scontrol.log"
[ "$2" = show ] && echo "JobId=7 JobState=RUNNING Restarts=0" && exit
[ "$(grep -c requeue "$HOME/scontrol.log")" -gt "${FAILURES:-0}" ] || { echo "Socket timed out" >&2; exit 1; }
"""
JOB = {"SLURM_JOB_ID": "7"}


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def make_venv(path: Path, name: str) -> None:
    executable(path / "bin/scaledl", SHOW.format(name=name))
    executable(path / "bin/python", PYTHON)
    executable(path / "bin/activate", f'PATH="{path}/bin:$PATH"\n')


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder with a space in its name, with all scripts and an environment; beside it Slurm's commands."""
    folder = tmp_path / "my project"
    for part in ["slurm", "launch"]:
        shutil.copytree(ROOT / part, folder / part)
    make_venv(folder / ".venv", "project venv")
    executable(tmp_path / "bin/srun", SRUN)
    executable(tmp_path / "bin/scontrol", SCONTROL)
    executable(tmp_path / "bin/sleep", "#!/bin/sh\n")
    return folder


def run(script: Path, *arguments: str, path: Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{path}:/usr/bin:/bin", "HOME": str(cwd), **JOB} | env
    return subprocess.run(["bash", str(script), *arguments], env=env, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("script", [*SCRIPTS, *SOURCED])
def test_script_parses_and_is_executable(script: str) -> None:
    result = subprocess.run(["bash", "-n", str(ROOT / script)], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert os.access(ROOT / script, os.X_OK) == (script in SCRIPTS)


@pytest.mark.parametrize("script", TRAIN_SCRIPTS)
def test_no_argument_prints_usage_and_exits_2(script: str, project: Path, tmp_path: Path) -> None:
    result = run(project / script, path=tmp_path / "bin", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("usage: ")
    assert script in result.stderr


@pytest.mark.parametrize("script", BATCH_SCRIPTS)
def test_slurm_script_copied_away_finds_the_project_it_was_submitted_from(
    script: str, project: Path, tmp_path: Path
) -> None:
    spool = tmp_path / "spool/slurm_script"
    spool.parent.mkdir()
    shutil.copy(project / script, spool)
    result = run(
        spool,
        "configs/a b.yaml",
        "run.name=x y",
        path=tmp_path / "bin",
        cwd=tmp_path,
        SLURM_SUBMIT_DIR=str(project),
        SLURM_CPUS_PER_TASK="3",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"srun {project} cpus=3",
        "project venv",
        f"<{Path(script).stem}>",
        "<configs/a b.yaml>",
        "<run.name=x y>",
    ]


@pytest.mark.parametrize("script", BATCH_SCRIPTS)
def test_slurm_script_outside_a_job_says_how_to_start_it(script: str, project: Path, tmp_path: Path) -> None:
    result = run(project / script, "c.yaml", path=tmp_path / "bin", cwd=tmp_path, SLURM_JOB_ID="")
    assert (result.returncode, result.stdout) == (2, "")
    assert "sbatch" in result.stderr
    assert "launch/local.sh" in result.stderr


def test_slurm_script_without_srun_says_so(project: Path, tmp_path: Path) -> None:
    (tmp_path / "bin/srun").unlink()
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ["bash", "dirname", "timeout"]:
        (programs / name).symlink_to(Path(shutil.which(name) or name).resolve())
    env = {"PATH": str(programs), **JOB}
    result = subprocess.run(
        [programs / "bash", project / "slurm/train.sh", "c.yaml"], env=env, cwd=project, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "srun was not found" in result.stderr


def test_local_script_keeps_the_working_directory_and_the_arguments(project: Path, tmp_path: Path) -> None:
    result = run(project / "launch/local.sh", "c.yaml", "a=b c", path=tmp_path / "bin", cwd=tmp_path)
    assert result.stdout.splitlines() == ["project venv", "<train>", "<c.yaml>", "<a=b c>"]


@pytest.mark.parametrize("script", TRAIN_SCRIPTS)
def test_scaledl_venv_wins_over_the_project_environment(script: str, project: Path, tmp_path: Path) -> None:
    make_venv(tmp_path / "other", "other venv")
    result = run(project / script, "c.yaml", path=tmp_path / "bin", cwd=tmp_path, SCALEDL_VENV=str(tmp_path / "other"))
    assert "other venv" in result.stdout
    assert "project venv" not in result.stdout


@pytest.mark.parametrize("script", TRAIN_SCRIPTS)
def test_wrong_scaledl_venv_is_named_and_nothing_starts(script: str, project: Path, tmp_path: Path) -> None:
    result = run(project / script, "c.yaml", path=tmp_path / "bin", cwd=tmp_path, SCALEDL_VENV="/no/such")
    assert (result.returncode, result.stdout) == (2, "")
    assert "/no/such" in result.stderr


@pytest.mark.parametrize("script", TRAIN_SCRIPTS)
def test_scaledl_on_the_path_serves_when_there_is_no_environment(script: str, project: Path, tmp_path: Path) -> None:
    shutil.rmtree(project / ".venv")
    without = run(project / script, "c.yaml", path=tmp_path / "bin", cwd=tmp_path)
    assert without.returncode == 2
    assert "SCALEDL_VENV" in without.stderr
    make_venv(tmp_path, "on the path")
    assert "on the path" in run(project / script, "c.yaml", path=tmp_path / "bin", cwd=tmp_path).stdout


@pytest.mark.parametrize("script", TRAIN_SCRIPTS)
def test_exit_code_of_the_run_comes_through(script: str, project: Path, tmp_path: Path) -> None:
    for code in (2, 75):
        executable(project / ".venv/bin/scaledl", f"#!/bin/sh\nexit {code}\n")
        assert run(project / script, "c.yaml", path=tmp_path / "bin", cwd=tmp_path).returncode == code


def requeue(project: Path, **env: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """A job whose rank was stopped after it saved; what was asked of scontrol."""
    executable(project / ".venv/bin/scaledl", "#!/bin/sh\nexit 75\n")
    result = run(project / "slurm/train.sh", "c.yaml", path=project.parent / "bin", cwd=project.parent, **env)
    log = project.parent / "scontrol.log"
    return result, [line for line in log.read_text().splitlines() if line.startswith("requeue")]


def test_slurm_script_asks_again_when_the_requeue_fails(project: Path) -> None:
    result, asked = requeue(project, FAILURES="2")
    assert (result.returncode, asked) == (75, ["requeue 7"] * 3)
    assert result.stderr.count("trying again") == 2
    assert "requeued: restart 1 of job 7" in result.stderr


def test_slurm_script_gives_up_at_its_deadline_and_says_how_to_go_on(project: Path) -> None:
    result, asked = requeue(project, FAILURES="99", SCALEDL_REQUEUE_SECONDS="2")
    assert (result.returncode, asked) == (75, ["requeue 7"])
    assert "not requeued: scontrol said: Socket timed out" in result.stderr
    assert "run.id=7" in result.stderr


def test_slurm_script_requeues_its_own_element_of_an_array(project: Path) -> None:
    _, asked = requeue(project, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")
    assert asked == ["requeue 7_3"]


def test_slurm_script_does_not_believe_files_of_an_earlier_attempt(project: Path) -> None:
    """An orphan on a lost node may still write one."""
    folder = project / "runs/.slurm/7"
    folder.mkdir(parents=True)
    (folder / "rank-00001.status").write_text("launch=slurm-7.0-r0\nstatus=refused\nrank=1\nexit=2\n")
    result, asked = requeue(project, SLURM_RESTART_COUNT="1")
    assert (result.returncode, asked) == (75, ["requeue 7"])


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment whose Python only notes what it is asked to do, in `log` beside it."""
    log = tmp_path / "log"
    note = f'#!/bin/sh\necho "$(basename $0) $*" >> "{log}"\n'
    for name in ["pip", "python", "scaledl", "ruff", "mypy"]:
        executable(tmp_path / "venv/bin" / name, note)
    return tmp_path / "venv"


def make(venv: Path, *arguments: str, folder: Path = ROOT) -> list[str]:
    """Run make against the environment and return what the environment was asked to do."""
    log = venv.parent / "log"
    log.unlink(missing_ok=True)
    result = raw_make(f"VENV={venv}", *arguments, folder=folder)
    assert result.returncode == 0, result.stderr
    return log.read_text().splitlines()


def raw_make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Without the outer environment: these tests may themselves run under make."""
    command = ["make", "-s", "-C", str(folder), *arguments]
    return subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)


def test_make_demo_installs_once_with_the_extra_arguments(venv: Path) -> None:
    install, demo = make(venv, "demo", "PIP_ARGS=--find-links wheels")
    assert install == "python -m pip install -qq -c constraints.txt --find-links wheels -e .[tune]"
    assert demo == "scaledl chain configs/digits.yaml --id demo"
    assert make(venv, "demo") == [demo]


def test_all_tests_run_in_two_parts_and_one_that_fails_hides_nothing(venv: Path) -> None:
    make(venv, "test", ONE)
    (venv / "bin/python").write_text('#!/bin/sh\necho "python $*"\nexit 1\n')
    done = raw_make("test", f"VENV={venv}")
    assert done.returncode != 0
    assert [line.partition(" --")[0] for line in done.stdout.splitlines()] == [
        "python -m pytest -m not integration or beside",
        "python -m pytest -m integration and not beside",
    ]


def test_make_in_a_second_clone_lets_the_environment_mean_that_clone(venv: Path, tmp_path: Path) -> None:
    make(venv, "test", ONE)
    clone = tmp_path / "second clone"
    clone.mkdir()
    for name in ["Makefile", "pyproject.toml", "constraints.txt"]:
        shutil.copy(ROOT / name, clone)
    point = "python -m pip install -qq -c constraints.txt --no-deps --no-build-isolation -e ."
    demo = "scaledl chain configs/digits.yaml --id demo"
    assert make(venv, "demo", folder=clone) == [point, demo]
    assert make(venv, "demo", folder=clone) == [demo]
    assert make(venv, "test", ONE) == [point, "python -m pytest -k one"]
    assert make(venv, "test", ONE) == ["python -m pytest -k one"]


def test_make_with_other_versions_installs_again_and_so_does_the_first_clone(venv: Path, tmp_path: Path) -> None:
    make(venv, "demo")
    clone = tmp_path / "second clone"
    clone.mkdir()
    for name in ["Makefile", "pyproject.toml"]:
        shutil.copy(ROOT / name, clone)
    (clone / "constraints.txt").write_text("torch==0\n")
    assert make(venv, "demo", folder=clone)[0].endswith("-e .[tune]")
    assert make(venv, "demo")[0].endswith("-e .[tune]")


def test_make_demo_after_make_test_installs_nothing(venv: Path) -> None:
    install, tests = make(venv, "test", "PYTEST_ARGS=-m unit")
    assert install.endswith("-e .[dev,tune,vision,deepspeed,s3,models]")
    assert tests == "python -m pytest -m unit"
    assert make(venv, "demo") == ["scaledl chain configs/digits.yaml --id demo"]
    assert make(venv, "check") == ["ruff check .", "ruff format --check .", "mypy "]


def test_make_names_an_unfit_python(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    executable(old, '#!/bin/sh\ncase "$1" in --version) echo "Python 3.9.2";; *) exit 1;; esac\n')
    result = raw_make("demo", f"VENV={tmp_path / 'new'}", f"PYTHON={old}")
    assert result.returncode == 2
    assert "Python 3.9.2 found, 3.11 to 3.13 needed" in result.stderr
    assert not (tmp_path / "new").exists()


def test_make_says_what_to_install_when_venv_is_missing(tmp_path: Path) -> None:
    bare = tmp_path / "python-bare"
    executable(bare, f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; *) exec "{sys.executable}" "$@";; esac\n')
    result = raw_make("demo", f"VENV={tmp_path / 'new'}", f"PYTHON={bare}")
    assert result.returncode == 2
    assert "apt install python3-venv" in result.stderr
