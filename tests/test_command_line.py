"""How every command ends when nobody reads it, and how other broken pipes are told."""

import os
import subprocess
import sys

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
