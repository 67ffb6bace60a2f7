"""The weights that OpenMMLab publishes for this family: where they are and what they reached.

Figures are those of the published tables: at 640x640 on COCO, rotated ones at 1024x1024 on DOTA
1.0, classifiers at 224x224 on ImageNet-1k. Torch-free.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from model.checkpoints.class_names import COCO, DOTA
from model.config import Task

#: Where the files are; a mirror has the same paths below another address.
BASE_URL = "https://download.openmmlab.com/"


@dataclass(frozen=True)
class PublishedModel:
    """One published file.

    `metrics` are percent (`box_ap`, `mask_ap`, `mmap`, `map50`, `map75`, `top1`, `top5`).
    `input_side` is in pixels. `latency_ms` is TensorRT's in fp16 at batch 1, on the GPU that
    `latency_gpu` names. The names of `pretrain` and `augmentation` are the table's: IN for
    ImageNet, MS for multi-scale, RR for random rotation.
    """

    name: str
    variant: str
    task: Task | Literal["classify"]
    dataset: str
    input_side: int
    path: str
    metrics: Mapping[str, float]
    params_m: float | None = None
    gflops: float | None = None
    latency_ms: float | None = None
    latency_gpu: Literal["RTX 3090", "RTX 2080 Ti"] | None = None
    pretrain: str | None = None
    augmentation: str | None = None

    @property
    def url(self) -> str:
        """Where the file is published."""
        return BASE_URL + self.path

    @property
    def file_name(self) -> str:
        """The published name of the file."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def sha256_prefix(self) -> str:
        """The first eight hex digits of the file's sha256: they end its name."""
        return self.file_name.removesuffix(".pth").rsplit("-", 1)[-1]

    @property
    def fractions(self) -> dict[str, float]:
        """The metrics as parts of one, which is how evaluation and manifests give them."""
        return {name: round(percent / 100, 4) for name, percent in self.metrics.items()}

    @property
    def classes(self) -> tuple[str, ...]:
        """What a detector was trained to find; empty for a classifier."""
        return _CLASSES[self.dataset]


_CLASSES: dict[str, tuple[str, ...]] = {
    "COCO": COCO,
    "person (COCO + Objects365)": ("person",),
    "DOTA 1.0": DOTA,
    "ImageNet-1k": (),
}


def _boxes(
    size: str, stamp: str, box_ap: float, params_m: float, gflops: float, latency_ms: float
) -> PublishedModel:
    folder = f"rtmdet_{size}_8xb32-300e_coco"
    return PublishedModel(
        name=f"rtmdet-{size}-coco",
        variant=f"rtmdet-{size}",
        task="detect",
        dataset="COCO",
        input_side=640,
        path=f"mmdetection/v3.0/rtmdet/{folder}/{folder}_{stamp}.pth",
        metrics={"box_ap": box_ap},
        params_m=params_m,
        gflops=gflops,
        latency_ms=latency_ms,
        latency_gpu="RTX 3090",
    )


def _masks(
    size: str,
    stamp: str,
    aps: tuple[float, float],
    params_m: float,
    gflops: float,
    latency_ms: float,
) -> PublishedModel:
    per_gpu = 16 if size == "x" else 32
    folder = f"rtmdet-ins_{size}_8xb{per_gpu}-300e_coco"
    return PublishedModel(
        name=f"rtmdet-ins-{size}-coco",
        variant=f"rtmdet-ins-{size}",
        task="instance",
        dataset="COCO",
        input_side=640,
        path=f"mmdetection/v3.0/rtmdet/{folder}/{folder}_{stamp}.pth",
        metrics=dict(zip(("box_ap", "mask_ap"), aps, strict=True)),
        params_m=params_m,
        gflops=gflops,
        latency_ms=latency_ms,
        latency_gpu="RTX 3090",
    )


#: Size to parameters (millions), GFLOPs and latency (ms), which training does not change.
_ROTATED_COST = {
    "tiny": (4.88, 20.45, 4.4),
    "s": (8.86, 37.62, 4.86),
    "m": (24.67, 99.76, 7.82),
    "l": (52.27, 204.21, 10.82),
}


def _rotated(
    size: str,
    digits: str,
    maps: tuple[float, float, float],
    *,
    multi_scale: bool = False,
    pretrain: Literal["IN", "COCO"] = "IN",
) -> PublishedModel:
    infix = "-coco_pretrain" if pretrain == "COCO" else ""
    folder = f"rotated_rtmdet_{size}{infix}-3x-dota{'_ms' if multi_scale else ''}"
    suffix = ("-coco" if pretrain == "COCO" else "") + "-dota" + ("-ms" if multi_scale else "")
    params_m, gflops, latency_ms = _ROTATED_COST[size]
    return PublishedModel(
        name=f"rtmdet-r-{size}{suffix}",
        variant=f"rtmdet-r-{size}",
        task="rotated",
        dataset="DOTA 1.0",
        input_side=1024,
        path=f"mmrotate/v1.0/rotated_rtmdet/{folder}/{folder}-{digits}.pth",
        metrics=dict(zip(("mmap", "map50", "map75"), maps, strict=True)),
        params_m=params_m,
        gflops=gflops,
        latency_ms=latency_ms,
        latency_gpu="RTX 2080 Ti",
        pretrain=pretrain,
        augmentation="MS+RR" if multi_scale else "RR",
    )


def _classifier(
    size: str, file: str, tops: tuple[float, float], params_m: float, gflops: float
) -> PublishedModel:
    return PublishedModel(
        name=f"cspnext-{size}-imagenet",
        variant=f"cspnext-{size}",
        task="classify",
        dataset="ImageNet-1k",
        input_side=224,
        path=f"mmdetection/v3.0/rtmdet/cspnext_rsb_pretrain/cspnext-{size}_{file}.pth",
        metrics=dict(zip(("top1", "top5"), tops, strict=True)),
        params_m=params_m,
        gflops=gflops,
    )


_NANO_PERSON = PublishedModel(
    name="rtmdet-nano-person",
    variant="rtmdet-nano",
    task="detect",
    dataset="person (COCO + Objects365)",
    input_side=320,
    path="mmpose/v1/projects/rtmpose/rtmdet_nano_8xb32-100e_coco-obj365-person-05d8511e.pth",
    metrics={"box_ap": 40.3},
)

#: Name to published file. Of several files for one variant, the first is the one to start with.
PUBLISHED: dict[str, PublishedModel] = {
    model.name: model
    for model in (
        _NANO_PERSON,
        _boxes("tiny", "20220902_112414-78e30dcc", 41.1, 4.8, 8.1, 0.98),
        _boxes("s", "20220905_161602-387a891e", 44.6, 8.89, 14.8, 1.22),
        _boxes("m", "20220719_112220-229f527c", 49.4, 24.71, 39.27, 1.62),
        _boxes("l", "20220719_112030-5a0be7c4", 51.5, 52.3, 80.23, 2.44),
        _boxes("x", "20220715_230555-cc79b9ae", 52.8, 94.86, 141.67, 3.1),
        _masks("tiny", "20221130_151727-ec670f7e", (40.5, 35.4), 5.6, 11.8, 1.7),
        _masks("s", "20221121_212604-fdc5d7ec", (44.0, 38.7), 10.18, 21.5, 1.93),
        _masks("m", "20221123_001039-6eba602e", (48.8, 42.1), 27.58, 54.13, 2.69),
        _masks("l", "20221124_103237-78d1d652", (51.2, 43.7), 57.37, 106.56, 3.68),
        _masks("x", "20221124_111313-33d4595b", (52.4, 44.6), 102.7, 182.7, 5.31),
        _rotated("tiny", "9d821076", (47.37, 75.36, 50.64)),
        _rotated("tiny", "f12286ff", (53.59, 79.82, 58.87), multi_scale=True),
        _rotated("s", "11f6ccf5", (48.16, 76.93, 50.59)),
        _rotated("s", "20ead048", (54.43, 79.98, 60.07), multi_scale=True),
        _rotated("m", "beeadda6", (50.56, 78.24, 54.47)),
        _rotated("m", "c71eb375", (55.0, 80.26, 61.26), multi_scale=True),
        _rotated("l", "23992372", (51.01, 78.85, 55.21)),
        _rotated("l", "2738da34", (55.52, 80.54, 61.47), multi_scale=True),
        _rotated("l", "06d248a2", (56.74, 81.33, 63.45), multi_scale=True, pretrain="COCO"),
        _classifier("tiny", "imagenet_600e-3a2dd350", (69.44, 89.45), 2.73, 0.34),
        _classifier("s", "imagenet_600e-ea671761", (74.41, 92.23), 4.89, 0.66),
        _classifier("m", "8xb256-rsb-a1-600e_in1k-ecb3bbd9", (79.27, 94.79), 13.05, 1.93),
        _classifier("l", "8xb256-rsb-a1-600e_in1k-6a760974", (81.3, 95.62), 27.16, 4.19),
        _classifier("x", "8xb256-rsb-a1-600e_in1k-b3f78edd", (82.1, 95.69), 48.85, 7.76),
    )
}


def published_model(name: str) -> PublishedModel:
    """The published file of that name, or the first one of the variant of that name.

    Raises ValueError, which names those there are.

    >>> published_model("rtmdet-r-tiny").name
    'rtmdet-r-tiny-dota'
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    for model in PUBLISHED.values():
        if model.variant == name:
            return model
    raise ValueError(f"no published weights are named '{name}'; there are: {', '.join(PUBLISHED)}")
