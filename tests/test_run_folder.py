import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from training.run.run_folder import RunFolder, RunPaths, RunRefused, differences, read_status

CONFIG = {
    "recipe": "rtmdet-tiny",
    "optimizer": {"lr": 0.004, "betas": (0.9, 0.999)},
    "data": {"num_workers": 4},
}
IDENTITY = {"data": "0123abcd", "classes": ["person", "dog"]}


def changed(lr: float = 0.002, num_workers: int = 4) -> dict[str, object]:
    return {
        **CONFIG,
        "optimizer": {"lr": lr, "betas": (0.9, 0.999)},
        "data": {"num_workers": num_workers},
    }


def create(folder: Path) -> None:
    RunFolder.create(folder, CONFIG, IDENTITY).close()


def test_run_folder__remembers_what_it_is_told(tmp_path: Path) -> None:
    create(tmp_path / "deep" / "run")
    with RunFolder.resume(tmp_path / "deep" / "run") as run:
        assert run.config == json.loads(json.dumps(CONFIG))
        assert run.identity == IDENTITY


def test_run_folder__takes_an_empty_folder(tmp_path: Path) -> None:
    create(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "lock"]


def test_run_folder__takes_what_a_kill_left_while_it_was_made(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "config.json.part").write_text("{")
    create(tmp_path)
    RunFolder.resume(tmp_path, CONFIG, IDENTITY).close()


def test_run_folder__refuses_the_same_run_without_resume(tmp_path: Path) -> None:
    create(tmp_path)
    with pytest.raises(RunRefused, match="holds this run already: go on with it by --resume"):
        RunFolder.create(tmp_path, CONFIG, IDENTITY)


def test_run_folder__names_how_another_run_differs(tmp_path: Path) -> None:
    create(tmp_path)
    with pytest.raises(RunRefused) as refusal:
        RunFolder.create(tmp_path, changed(), {**IDENTITY, "data": "ffff"})
    text = str(refusal.value)
    assert "optimizer.lr: 0.004 there, 0.002 here" in text
    assert 'data: "0123abcd" there, "ffff" here' in text
    assert "--resume" in text
    assert "another --out" in text
    assert "\n" not in text


def test_run_folder__refuses_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunRefused, match=r"no run \(thesis\.tex\)"):
        create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("place", ["file/run", "loop/run", "n" * 300, "/proc/run"])
@pytest.mark.parametrize("resumed", [False, True])
def test_run_folder__refuses_what_cannot_be_a_folder(
    tmp_path: Path, place: str, resumed: bool
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(RunRefused) as refusal:
        RunFolder.resume(tmp_path / place) if resumed else create(tmp_path / place)
    assert str(tmp_path / place) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_run_folder__says_what_to_give_instead_of_a_place_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunRefused, match=r"\(Not a directory\): give a folder .* as --out"):
        create(tmp_path / "file" / "run")


def test_run_folder__refuses_to_resume_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # Modes would not stop a superuser.
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(RunRefused, match=r"\(Permission denied\)"):
        RunFolder.resume(tmp_path)


def test_run_folder__a_full_disk_is_no_mistake_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", fill)
    with pytest.raises(OSError, match="No space left"):
        create(tmp_path / "run")


def test_run_folder__refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(RunRefused, match="is a file"):
        create(tmp_path / "run")


@pytest.mark.parametrize(("name", "found"), [("new", "does not exist"), (".", "is empty")])
def test_run_folder__has_nothing_to_resume(tmp_path: Path, name: str, found: str) -> None:
    with pytest.raises(RunRefused, match=f"nothing to resume: .*{found}"):
        RunFolder.resume(tmp_path / name)


def test_run_folder__refuses_to_resume_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunRefused, match="holds no run"):
        RunFolder.resume(tmp_path)


def test_run_folder__refuses_to_resume_with_other_data(tmp_path: Path) -> None:
    create(tmp_path)
    other = {**IDENTITY, "classes": ["dog"]}
    with pytest.raises(RunRefused, match=r'classes: \["person", "dog"\] there, \["dog"\] here'):
        RunFolder.resume(tmp_path, CONFIG, other)


def test_run_folder__resumes_with_other_settings_that_may_differ(tmp_path: Path) -> None:
    create(tmp_path)
    with RunFolder.resume(tmp_path, changed(0.004, 1), IDENTITY, may_differ=("data.num_workers",)):
        pass
    with pytest.raises(RunRefused, match=r"optimizer\.lr"):
        RunFolder.resume(tmp_path, changed(), IDENTITY, may_differ=("data.num_workers",))


def test_run_folder__refuses_a_damaged_configuration(tmp_path: Path) -> None:
    create(tmp_path)
    (tmp_path / "config.json").write_text('{"config": {')
    with pytest.raises(RunRefused, match=r"config\.json is not what a run writes"):
        RunFolder.resume(tmp_path)


def test_differences__names_what_is_unset() -> None:
    assert differences({"a": {"b": 1}}, {"a": {"c": None}}) == [
        "a.b: 1 there, unset here",
        "a.c: unset there, null here",
    ]


# ------------------------------------------------------------------------------------------- lock

HOLDER = """
import sys
from pathlib import Path
from training.run.run_folder import RunFolder
run = RunFolder.create(Path(sys.argv[1]), {}, {})
print("locked", flush=True)
sys.stdin.read()
"""


def test_run_folder__lets_one_process_train_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunRefused, match=rf"process {holder.pid} on .* trains in"):
            RunFolder.resume(tmp_path)
        holder.kill()
        holder.wait()
        # The system has unlocked what the killed process held.
        RunFolder.resume(tmp_path).close()


# ----------------------------------------------------------------------------------------- status


def test_run_folder__says_how_it_stands(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    with RunFolder.create(tmp_path, CONFIG, IDENTITY) as run:
        run.write_status("running", step=3, epoch=1)
        running = read_status(tmp_path)
        run.write_status("interrupted", step=5, epoch=1, exit_code=75, message="SIGTERM")
        interrupted = read_status(tmp_path)
    assert running is not None
    assert interrupted is not None
    assert (running.state, running.step, running.exit_code) == ("running", 3, None)
    assert (interrupted.state, interrupted.exit_code, interrupted.message) == (
        "interrupted", 75, "SIGTERM",
    )  # fmt: skip
    assert running.started == interrupted.started <= interrupted.updated
    assert not list(tmp_path.glob("*.part"))


def test_run_paths__lie_in_the_folder() -> None:
    paths = RunPaths(Path("run"))
    named = {
        name: getattr(paths, name).name
        for name, member in vars(RunPaths).items()
        if isinstance(member, property)
    }
    assert named == {
        "config": "config.json", "status": "status.json", "lock": "lock",
        "progress": "progress.jsonl", "checkpoints": "checkpoints", "tensorboard": "tensorboard",
        "samples": "samples", "index": "index", "problems": "problems", "ranks": "ranks",
        "evaluations": "evaluations",
    }  # fmt: skip
