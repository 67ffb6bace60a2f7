"""What the NVIDIA driver shows of its GPUs in files, without a library or a program of its own."""

from pathlib import Path


def gpu_names(root: Path = Path("/")) -> list[str]:
    """The model of each GPU; none where there is no driver. `root` is where `proc` lies."""
    return [
        line.partition(":")[2].strip()
        for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
        for line in path.read_text(errors="replace").splitlines()
        if line.startswith("Model:")
    ]
