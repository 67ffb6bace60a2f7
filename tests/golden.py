"""The recorded reference: its small networks, their weights and the arrays that they gave.

`folder` is the fixture `shared_folder`; a kind is `det`, `ins` or `rot`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from model.config import VARIANTS, BackboneConfig, RTMDetConfig
from model.rtmdet import RTMDet, build_rtmdet
from model.weights import load_published

KINDS = ("det", "ins", "rot")

#: Height and width of the recorded inputs.
INPUT_SIZE = (256, 320)

_VARIANT = {"det": "rtmdet-tiny", "ins": "rtmdet-ins-tiny", "rot": "rtmdet-r-tiny"}


def golden_config(kind: str, *, exp_on_reg: bool = False) -> RTMDetConfig:
    """The small network that the arrays were recorded with: no member of the family."""
    return replace(
        VARIANTS[_VARIANT[kind]],
        backbone=BackboneConfig(deepen=0.167, widen=0.125),
        num_classes=5,
        exp_on_reg=exp_on_reg,
        input_size=INPUT_SIZE,
    )


def golden_state(folder: Path, kind: str) -> dict[str, Tensor]:
    """Its weights under their published names."""
    return load_file(_folder(folder, kind) / "state_dict.safetensors")


def golden_network(folder: Path, kind: str, *, exp_on_reg: bool = False) -> RTMDet:
    """The network with its weights, in evaluation mode."""
    network = build_rtmdet(golden_config(kind, exp_on_reg=exp_on_reg))
    load_published(network, golden_state(folder, kind))
    return network.eval()


def golden_arrays(folder: Path, kind: str, part: str) -> dict[str, NDArray]:
    """The arrays of one part: `forward`, `predict` or `train`."""
    return dict(np.load(_folder(folder, kind) / f"{part}.npz"))


def golden_units(folder: Path, unit: str) -> dict[str, NDArray]:
    """The arrays of one unit: `geometry`, `assigner`, `losses` or `maskhead`."""
    return dict(np.load(folder / "reference" / "golden" / "units" / f"{unit}.npz"))


def _folder(folder: Path, kind: str) -> Path:
    return folder / "reference" / "golden" / kind
