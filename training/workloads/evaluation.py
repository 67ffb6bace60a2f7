"""What is done to evaluate a run's weights, for each kind of training; in a process of its own."""

from pathlib import Path

import torch
from torch import nn

from model.checkpoints.checkpoint_files import load_checkpoint, read_published
from model.classifier import CSPNeXtClassifier
from model.weights import load_published
from training.classification.accuracy import AccuracyEvaluator
from training.config import TrainConfig
from training.data.indexing.detection_index import DetectionIndex
from training.datasets import ClassificationData, DetectionData
from training.evaluation.beside.serving import Evaluate, Watch
from training.evaluation.beside.snapshots import Outcome
from training.evaluation.evaluator import EvaluationSettings, Evaluator
from training.evaluation.predictors.torch_network import torch_predictor
from training.networks import build_network

#: Images that are evaluated at once; more gain nothing.
_MAX_BATCH_SIZE = 16


class TooFewReadable(ValueError):
    """So many validation images cannot be read that the rest says little."""


def evaluation_of(
    config: TrainConfig, data: DetectionData | ClassificationData, device: torch.device
) -> Evaluate:
    """Evaluates what the workload of these data has saved, on all its validation images.

    It raises TooFewReadable where more than `data.max_unreadable` of them cannot be read, and
    ValueError for weights that are damaged.
    """
    if isinstance(data, ClassificationData):
        evaluate = _of_classifier(config, data, device)
    else:
        evaluate = _of_detector(config, data, device)

    def checked(weights: Path, watch: Watch) -> Outcome:
        outcome = evaluate(weights, watch)
        limit = config.data.max_unreadable
        if len(outcome.unreadable) > limit:
            raise TooFewReadable(
                f"{len(outcome.unreadable)} validation images could not be read, and "
                f"data.max_unreadable is {limit}; the last one: {outcome.unreadable[-1]}"
            )
        return outcome

    return checked


def detection_evaluator(config: TrainConfig, images: DetectionIndex) -> Evaluator:
    """Of the run's settings. Raises ValueError if there is nothing to be found in the images."""
    settings = EvaluationSettings(
        task=images.task,
        input_size=config.model.input_size,
        batch_size=min(config.data.batch_size, _MAX_BATCH_SIZE),
        num_threads=config.evaluation.num_threads,
        skips_unreadable=True,
    )
    return Evaluator(images, settings)


def _of_detector(config: TrainConfig, data: DetectionData, device: torch.device) -> Evaluate:
    assert data.val is not None
    evaluator = detection_evaluator(config, data.val)

    def evaluate(weights: Path, watch: Watch) -> Outcome:
        network, _ = load_checkpoint(weights.with_suffix(".safetensors"))
        _place(network, config, device)
        predictor = torch_predictor(
            network,
            task=network.config.task,
            input_size=config.model.input_size,
            device=device,
            precision=config.runtime.precision if device.type == "cuda" else "float32",
        )
        evaluated = evaluator.evaluate(predictor, watch)
        assert evaluated is not None
        return Outcome(evaluated.metrics, evaluated.unreadable)

    return evaluate


def _of_classifier(config: TrainConfig, data: ClassificationData, device: torch.device) -> Evaluate:
    assert data.val is not None
    evaluator = AccuracyEvaluator(data.val, config, device)
    network = build_network(config.model, len(data.classes))
    assert isinstance(network, CSPNeXtClassifier)
    _place(network, config, device)

    def evaluate(weights: Path, watch: Watch) -> Outcome:
        load_published(network, read_published(weights.with_suffix(".pth")).weights)
        accuracy = evaluator.evaluate(network, watch)
        assert accuracy is not None
        return Outcome(accuracy.metrics, accuracy.unreadable)

    return evaluate


def _place(network: nn.Module, config: TrainConfig, device: torch.device) -> None:
    network.to(device)
    if config.runtime.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
