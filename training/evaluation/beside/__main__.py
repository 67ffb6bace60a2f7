"""The process that evaluates a run's snapshots; `training.session` starts it.

python -m training.evaluation.beside FOLDER DEVICE PARENT    reads requests from stdin
"""

import sys
from pathlib import Path

from training.evaluation.beside.serving import serve, step_aside


def main() -> int:
    """Evaluate on the data and with the settings of the run in FOLDER."""
    folder, device, parent = sys.argv[1:]
    told = step_aside(int(parent))
    # Here, for it takes seconds, and until then nobody would know that the parent has ended.
    import torch

    from training.config_json import from_json
    from training.datasets import open_data
    from training.run.run_folder import RunPaths, read_config
    from training.workloads.evaluation import evaluation_of

    config = from_json(read_config(Path(folder))["config"])
    torch.set_num_threads(config.evaluation.num_threads)
    data = open_data(config, RunPaths(Path(folder)).index)
    return serve(sys.stdin, told, evaluation_of(config, data, torch.device(device)))


if __name__ == "__main__":
    sys.exit(main())
