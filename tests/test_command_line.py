"""How every command ends when nobody reads it, and how other broken pipes are told."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from model.command_line import EXIT_FAILURE, EXIT_UNREAD, one_line_errors
from tests.conftest import PROJECT


def unread(*parts: str, both: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run the command with nobody at the other end of its output, or of `both` its streams."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as stdout:
        return subprocess.run(
            [sys.executable, "-m", "rtmdet", *parts],
            stdout=stdout,
            stderr=stdout if both else subprocess.PIPE,
            text=True,
            check=False,
            cwd=PROJECT,
        )


@pytest.mark.parametrize("parts", [("models", "list"), ("train", "--list-recipes")])
def test_command__ends_quietly_when_nobody_reads(parts: tuple[str, ...]) -> None:
    done = unread(*parts)
    assert (done.returncode, done.stderr) == (EXIT_UNREAD, "")


def test_command__ends_alike_when_nobody_reads_its_errors() -> None:
    assert unread("models", "list", both=True).returncode == EXIT_UNREAD


def test_command__tells_of_a_pipe_that_is_not_its_output() -> None:
    app = typer.Typer()

    @app.command()
    @one_line_errors
    def speak() -> None:
        raise BrokenPipeError(32, "Broken pipe", "worker")

    result = CliRunner().invoke(app, [])
    assert (result.exit_code, result.stderr) == (EXIT_FAILURE, "rtmdet: worker: Broken pipe\n")


def with_room_for(num_bytes: int, output: Path, *parts: str, unbuffered: str) -> tuple[int, str]:
    """Exit code and errors of a command whose output's disk has room for so many bytes."""
    with output.open("wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "rtmdet", *parts],
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=os.environ | {"RTMDET_RUNTIME": "fake", "PYTHONUNBUFFERED": unbuffered},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes)),
            text=True,
            check=False,
            cwd=PROJECT,
        )
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("num_bytes", [0, 1000])
def test_doctor__report_that_is_cut_short_is_an_error(
    tmp_path: Path, unbuffered: str, num_bytes: int
) -> None:
    output = tmp_path / "doctor.json"
    ended = with_room_for(num_bytes, output, "doctor", "--json", unbuffered=unbuffered)
    assert ended == (EXIT_FAILURE, "rtmdet: standard output: File too large\n")
    assert output.stat().st_size == num_bytes


def test_doctor__report_to_a_closed_output_is_an_error() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m rtmdet doctor >&-"],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
    )
    assert (done.returncode, done.stderr) == (2, "rtmdet: standard output: it is closed\n")
