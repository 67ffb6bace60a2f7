"""A process that evaluates without a network: what it does stands in the file `weights.txt`.

python -m tests.evaluating_program PARENT

A number is the score; "hold" says how far it is and waits for a reader of `held`; "raise" and "die"
fail, "print" prints.
"""

import os
import signal
import sys
from pathlib import Path

from training.evaluation.average_precision import Metrics
from training.evaluation.beside.serving import Watch, serve, step_aside
from training.evaluation.beside.snapshots import Outcome


def evaluate(weights: Path, watch: Watch) -> Outcome:
    told = weights.with_suffix(".txt").read_text()
    if told == "raise":
        raise ValueError("img.jpg: truncated\nwith more below")
    if told == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if told == "print":
        sys.stdout.write('{"failed": "not meant"}\n')
        sys.stdout.flush()
    if told == "hold":
        watch(1, 2)
        (weights.parent / "held").write_text("")
    score = float(told) if told[0].isdigit() else 0.0
    return Outcome(Metrics({"score": score, "process": os.getpid()}, {}, 2))


if __name__ == "__main__":
    told = step_aside(int(sys.argv[1]))
    sys.exit(serve(sys.stdin, told, evaluate))
