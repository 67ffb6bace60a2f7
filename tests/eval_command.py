"""The command `rtmdet eval`, run in this process, and what it says."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import rtmdet


@dataclass(frozen=True)
class Result:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict:
        return json.loads(self.stdout)


#: Takes what would stand behind `rtmdet eval`.
Run = Callable[..., Result]


def eval_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Run:
    """The real command, in `folder`, on one thread."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("RTMDET_MODEL_REPOSITORY", raising=False)
    torch.set_num_threads(1)

    def invoke(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["rtmdet", "eval", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            rtmdet.main()
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return invoke


def one_line(result: Result) -> str:
    """The one line that says what is wrong."""
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    (line,) = [each for each in result.stderr.splitlines() if each.startswith("rtmdet: ")]
    assert "Traceback" not in result.stderr
    return line
