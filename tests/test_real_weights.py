"""Real trained weights on real photographs: the published detections, in every runtime."""

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model.boxes import input_priors
from model.checkpoints.checkpoint_files import read_published
from model.config import VARIANTS
from model.decoding import Decoder
from model.deployment.onnx_fp16 import convert_trunk_to_fp16
from model.export import export_graph
from model.graph import Normalise, ServingGraph
from model.manifest import GRAPH_FILE
from model.postprocess import (
    PUBLISHED_SETTINGS,
    DenseOutputs,
    Detections,
    postprocess,
    select_candidates,
)
from model.preprocess import letterbox
from model.rtmdet import RTMDet, build_rtmdet
from model.weights import load_published
from service.runtime.openvino_session import OpenVINOSession

SIZE = (320, 320)
SETTINGS = PUBLISHED_SETTINGS["detect"]
PERSON = 1

Dense = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]


@pytest.fixture(scope="module")
def network(shared_folder: Path) -> RTMDet:
    network = build_rtmdet(VARIANTS["rtmdet-nano"].with_classes(1))
    published = read_published(shared_folder / "real" / "rtmdet_nano_person.pth")
    load_published(network, published.weights)
    return network.eval()


@pytest.fixture(scope="module")
def graph_path(network: RTMDet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / GRAPH_FILE
    onnx.save(export_graph(network, SIZE), path)
    return path


@pytest.fixture(scope="module")
def photographs(shared_folder: Path) -> dict[int, NDArray[np.uint8]]:
    folder = shared_folder / "data" / "coco-mini" / "val"
    found = {int(path.stem): cv2.imread(str(path)) for path in sorted(folder.rglob("*.jpg"))}
    assert len(found) == 47
    return found


def in_torch(network: RTMDet) -> Dense:
    decode, normalise = Decoder(SIZE), Normalise()

    def infer(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            dense = decode(network(normalise(torch.from_numpy(image[None]))))
        return dense.logits[0].numpy(), dense.boxes[0].numpy()

    return infer


def in_openvino(graph_path: Path, precision: str) -> Dense:
    session = OpenVINOSession(
        graph_path,
        input_size=SIZE,
        precision=precision,
        outputs=("dense_logits", "dense_boxes"),
    )

    def infer(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        outputs = session.infer(image[None])
        return outputs["dense_logits"][0], outputs["dense_boxes"][0]

    return infer


def detect_all(
    infer: Dense, photographs: dict[int, NDArray[np.uint8]]
) -> Iterator[tuple[int, Detections]]:
    priors = input_priors(SIZE).numpy()
    for image_id, photograph in photographs.items():
        pixels, geometry = letterbox(photograph, *SIZE)
        logits, boxes = infer(pixels)
        candidates = select_candidates(
            DenseOutputs(logits, boxes, priors),
            SETTINGS.score_threshold,
            SETTINGS.candidates_per_level,
        )
        yield image_id, postprocess(candidates, geometry, SETTINGS)


def person_ap(shared_folder: Path, found: dict[int, Detections]) -> float:
    results = [
        {
            "image_id": image_id,
            "category_id": PERSON,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image_id, detections in found.items()
        for (x1, y1, x2, y2), score in zip(
            detections.boxes_xyxy.tolist(), detections.scores.tolist(), strict=True
        )
    ]
    annotations = next((shared_folder / "data" / "coco-mini").rglob("*val*.json"))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.catIds = [PERSON]
        evaluation.params.imgIds = list(found)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parity
@pytest.mark.parametrize("where", ["torch", "openvino f32"])
def test_person_ap__is_the_published_one_and_so_is_every_detection(
    where: str,
    network: RTMDet,
    graph_path: Path,
    photographs: dict[int, NDArray[np.uint8]],
    shared_folder: Path,
) -> None:
    infer = in_torch(network) if where == "torch" else in_openvino(graph_path, "f32")
    found = dict(detect_all(infer, photographs))
    assert person_ap(shared_folder, found) == pytest.approx(0.4141, abs=0.0005)

    recorded = json.loads(
        (shared_folder / "real" / "rtmdet_nano_person_coco_mini_val.json").read_text()
    )
    theirs: dict[int, list[tuple[NDArray[np.float64], float]]] = {i: [] for i in photographs}
    for one in recorded:
        x, y, w, h = one["bbox"]
        theirs[one["image_id"]].append((np.array([x, y, x + w, y + h]), one["score"]))
    for image_id, detections in found.items():
        # The record ends at 0.05: one that is within rounding of it may stand on either side.
        clear = detections.scores > 0.05 + 1e-4
        unmatched = [
            (box, score)
            for box, score in zip(
                detections.boxes_xyxy[clear], detections.scores[clear], strict=True
            )
        ]
        for box, score in theirs[image_id]:
            if score <= 0.05 + 1e-4:
                continue
            matches = [
                index
                for index, (ours, our_score) in enumerate(unmatched)
                if np.abs(ours - box).max() < 0.02 and abs(our_score - score) < 1e-4
            ]
            assert matches, f"image {image_id}: {box} {score} was not detected"
            unmatched.pop(matches[0])
        assert not unmatched, f"image {image_id}: {unmatched} are not in the record"


@pytest.mark.parity
def test_person_ap__in_the_runtimes_default_precision(
    graph_path: Path, photographs: dict[int, NDArray[np.uint8]], shared_folder: Path
) -> None:
    found = dict(detect_all(in_openvino(graph_path, "auto"), photographs))
    assert person_ap(shared_folder, found) >= 0.410


@pytest.mark.parity
def test_serving_graph__agrees_between_torch_and_openvino(
    network: RTMDet, graph_path: Path, photographs: dict[int, NDArray[np.uint8]]
) -> None:
    session = OpenVINOSession(graph_path, input_size=SIZE, precision="f32")
    graph = ServingGraph(network, SIZE, 1000).eval()
    for photograph in list(photographs.values())[:8]:
        pixels, _ = letterbox(photograph, *SIZE)
        ours = session.infer(pixels[None])
        with torch.inference_mode():
            theirs = graph(torch.from_numpy(pixels[None]))
        clear = theirs["scores"][0].numpy() > 0.05
        np.testing.assert_allclose(
            ours["scores"][0][clear], theirs["scores"][0][clear], rtol=0, atol=5e-5
        )


@pytest.mark.parity
def test_fp16_variant__keeps_the_person_ap(
    graph_path: Path, photographs: dict[int, NDArray[np.uint8]], shared_folder: Path
) -> None:
    import onnxruntime

    model = convert_trunk_to_fp16(onnx.load(graph_path))
    types = {"dense_logits": onnx.TensorProto.FLOAT, "dense_boxes": onnx.TensorProto.FLOAT}
    for name, kind in types.items():
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def infer(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits, boxes = session.run(list(types), {"images": image[None]})
        return logits[0], boxes[0]

    found = dict(detect_all(infer, photographs))
    assert person_ap(shared_folder, found) >= 0.410
