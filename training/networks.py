"""The network that a run trains, from its configuration."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from model.classifier import CSPNeXtClassifier, build_classifier
from model.config import CLASSIFIERS, RTMDetConfig, variant
from model.rtmdet import RTMDet, build_rtmdet
from training.config import ModelConfig


def detector_config(model: ModelConfig, num_classes: int) -> RTMDetConfig:
    """The variant, for the data's classes and the run's input size."""
    return replace(variant(model.name).with_classes(num_classes), input_size=model.input_size)


def build_network(model: ModelConfig, num_classes: int) -> RTMDet | CSPNeXtClassifier:
    """A freshly initialised network; seed torch before, where it must be the same again."""
    if model.is_classifier:
        return build_classifier(CLASSIFIERS[model.name], num_classes)
    return build_rtmdet(detector_config(model, num_classes))


@contextmanager
def in_evaluation_mode(network: nn.Module) -> Iterator[None]:
    """`network` as it is used, for as long as the block lasts."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
