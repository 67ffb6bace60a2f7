from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.checkpoints.checkpoint_files import export_published, read_published, save_checkpoint
from model.checkpoints.torch_file import UnreadableCheckpoint
from model.classifier import CSPNeXtClassifier, build_classifier
from model.config import BACKBONES, VARIANTS
from model.export import export_model
from model.manifest import ManifestError, Source
from model.rtmdet import RTMDet, build_rtmdet
from model.weights import ForeignCheckpoint, to_published
from tests.saved_files import write
from training.initialisation import initialise

State = dict[str, Tensor]

CLASSES = ("cat", "dog", "cow")


def detector(name: str = "rtmdet-nano", *, classes: int = 3, seed: int = 0) -> RTMDet:
    torch.manual_seed(seed)
    return build_rtmdet(VARIANTS[name].with_classes(classes))


def classifier(*, classes: int = 7, seed: int = 0, size: str = "nano") -> CSPNeXtClassifier:
    torch.manual_seed(seed)
    return build_classifier(BACKBONES[size], classes)


def state_of(network: torch.nn.Module) -> State:
    return {name: value.clone() for name, value in network.state_dict().items()}


def published_file(network: RTMDet, folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    path = folder / "theirs.pth"
    export_published(network, path, classes=classes)
    return path


def classifier_file(network: CSPNeXtClassifier, folder: Path) -> Path:
    return write({"state_dict": to_published(network)}, folder / "classifier.pth")


def taken(network: torch.nn.Module, donor: torch.nn.Module, before: State) -> set[str]:
    """First parts of the names of what came from the donor; the rest must be as before."""
    given, found = donor.state_dict(), network.state_dict()
    came = {
        name
        for name, value in found.items()
        if name in given
        and given[name].shape == value.shape
        and torch.equal(given[name], value)
        # What has one value in every fresh network tells nothing.
        and not torch.equal(before[name], value)
    }
    for name in found.keys() - came:
        assert torch.equal(found[name], before[name]), name
    return {".".join(name.split(".")[: 2 if name.startswith("head") else 1]) for name in came}


WHOLE_HEAD = {"head.cls_towers", "head.reg_towers", "head.cls_predictors", "head.reg_predictors"}
TRUNK = {"backbone", "neck"}


# -------------------------------------------------------------------------------------- same task


def test_initialise__from_a_published_file_takes_everything(tmp_path: Path) -> None:
    donor, network = detector(seed=1), detector()
    before = state_of(network)
    (line,) = initialise(network, published_file(donor, tmp_path), classes=CLASSES)
    assert line == "all weights are from theirs.pth, those of its 3 classes included"
    assert taken(network, donor, before) == TRUNK | WHOLE_HEAD


def test_initialise__from_a_checkpoint_of_ours_takes_everything(tmp_path: Path) -> None:
    donor, network = detector(seed=1), detector()
    before = state_of(network)
    path = tmp_path / "ours.safetensors"
    save_checkpoint(donor, path, classes=CLASSES, source=Source(kind="initialised"))
    initialise(network, str(path), classes=CLASSES)
    assert taken(network, donor, before) == TRUNK | WHOLE_HEAD


def test_initialise__other_number_of_classes_leaves_their_layer_fresh(tmp_path: Path) -> None:
    donor, network = detector(seed=1), detector(classes=5)
    before = state_of(network)
    (line,) = initialise(network, published_file(donor, tmp_path))
    assert "but the classification layer, which starts at random" in line
    assert "the file predicts 3 classes, and the run 5" in line
    assert taken(network, donor, before) == TRUNK | WHOLE_HEAD - {"head.cls_predictors"}


def test_initialise__other_names_of_classes_are_said(tmp_path: Path) -> None:
    donor, network = detector(seed=1), detector()
    before = state_of(network)
    path = published_file(donor, tmp_path)
    lines = initialise(network, path, classes=("cat", "sheep", "cow"))
    assert lines[1].endswith("class 1 is 'dog' there and 'sheep' here")
    assert taken(network, donor, before) == TRUNK | WHOLE_HEAD


@pytest.mark.parity
def test_initialise__from_real_weights_for_other_classes(shared_folder: Path) -> None:
    network = detector(classes=7)
    path = shared_folder / "real" / "rtmdet_nano_person.pth"
    assert initialise(network, path) == [
        "all weights are from rtmdet_nano_person.pth but the classification layer, which starts "
        "at random: the file predicts 1 class, and the run 7"
    ]
    theirs, ours = read_published(path).weights, to_published(network)
    different = {name for name, value in ours.items() if not torch.equal(value, theirs[name])}
    assert different == {
        f"bbox_head.rtm_cls.{level}.{part}" for level in range(3) for part in ("weight", "bias")
    }


# ------------------------------------------------------------------------------------ other tasks


CLS_HEAD = {"head.cls_towers", "head.cls_predictors"}


@pytest.mark.parametrize(
    ("name", "head", "said"),
    [
        ("rtmdet-ins-nano", CLS_HEAD, "neck, classification towers and class scores are taken"),
        ("rtmdet-r-nano", WHOLE_HEAD, "box distances and class scores are taken"),
    ],
)
def test_initialise__from_a_detector_of_another_task_takes_what_both_have(
    tmp_path: Path, name: str, head: set[str], said: str
) -> None:
    donor, network = detector(seed=1), detector(name)
    before = state_of(network)
    (line,) = initialise(network, published_file(donor, tmp_path), classes=CLASSES)
    assert line.startswith("theirs.pth is of another task ('detect', and the run is '")
    assert said in line
    assert taken(network, donor, before) == TRUNK | head


@pytest.mark.parametrize("name", ["rtmdet-ins-nano", "rtmdet-r-nano"])
@pytest.mark.parametrize("classes", [("dog", "cat", "cow"), ("cat", "dog", "cow", "hen"), ()])
def test_initialise__another_task_and_other_classes_leave_the_scores_fresh(
    tmp_path: Path, name: str, classes: tuple[str, ...]
) -> None:
    donor, network = detector(seed=1), detector(name, classes=len(classes) or 3)
    before = state_of(network)
    (line,) = initialise(network, published_file(donor, tmp_path), classes=classes)
    assert "class scores" not in line
    parts = taken(network, donor, before)
    assert "head.cls_towers" in parts
    assert "head.cls_predictors" not in parts


def test_initialise__from_an_instance_model_takes_no_distances(tmp_path: Path) -> None:
    donor, network = detector("rtmdet-ins-nano", seed=1), detector()
    before = state_of(network)
    (line,) = initialise(network, published_file(donor, tmp_path), classes=CLASSES)
    assert line.endswith("class scores are taken, and the rest starts at random")
    assert taken(network, donor, before) == TRUNK | CLS_HEAD


def test_initialise__from_an_exported_model(tmp_path: Path) -> None:
    donor, network = detector(seed=1), detector()
    manifest = save_checkpoint(
        donor, tmp_path / "a.safetensors", classes=CLASSES, source=Source(kind="initialised")
    )
    folder = export_model(
        donor, manifest, tmp_path / "repository", name="shop", input_size=(64, 64)
    )
    (line,) = initialise(network, folder / "model.onnx", classes=CLASSES)
    assert line == "all weights are from model.onnx, those of its 3 classes included"
    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = network.eval()(picture), donor.eval()(picture)
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.distances, theirs.distances)


def test_initialise__from_a_classifier_takes_the_backbone(tmp_path: Path) -> None:
    donor, network = classifier(seed=1), detector()
    before = state_of(network)
    lines = initialise(network, classifier_file(donor, tmp_path))
    assert lines == ["the backbone is from classifier.pth; all else starts at random"]
    assert taken(network, donor, before) == {"backbone"}


def test_initialise__of_a_classifier_from_a_detector_takes_the_backbone(tmp_path: Path) -> None:
    donor, network = detector(seed=1), classifier()
    before = state_of(network)
    initialise(network, published_file(donor, tmp_path))
    assert taken(network, donor, before) == {"backbone"}


@pytest.mark.parametrize(("classes", "parts"), [(7, {"backbone", "fc"}), (4, {"backbone"})])
def test_initialise__of_a_classifier_from_a_classifier(
    tmp_path: Path, classes: int, parts: set[str]
) -> None:
    donor, network = classifier(seed=1), classifier(classes=classes)
    before = state_of(network)
    initialise(network, classifier_file(donor, tmp_path))
    assert taken(network, donor, before) == parts


def test_initialise__from_nothing_says_so() -> None:
    network = detector()
    before = state_of(network)
    (line,) = initialise(network, None)
    assert "start at random" in line
    assert taken(network, detector(seed=1), before) == set()


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "network", [detector("rtmdet-tiny"), detector("rtmdet-r-tiny"), classifier(size="tiny")]
)
def test_initialise__another_size_names_the_first_mismatch(
    tmp_path: Path, network: RTMDet | CSPNeXtClassifier
) -> None:
    before = state_of(network)
    path = published_file(detector(seed=1), tmp_path)
    with pytest.raises(ForeignCheckpoint) as caught:
        initialise(network, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: the weights do not fit ")
    first = "backbone.stem.0.conv.weight [8, 3, 3, 3] instead of [12, 3, 3, 3]"
    assert first in message
    assert "\n" not in message
    assert taken(network, network, before) == set()


def test_initialise__another_size_says_what_it_looks_like(tmp_path: Path) -> None:
    with pytest.raises(ForeignCheckpoint, match="This looks like rtmdet-nano"):
        initialise(detector("rtmdet-tiny"), published_file(detector(), tmp_path))


def test_initialise__missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"none\.pth: there is no such file"):
        initialise(detector(), tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("missing", "there"), [("tiny.safetensors", "tiny.pth"), ("tiny.pth", "tiny.safetensors")]
)
def test_initialise__missing_file_beside_one_of_its_name(
    tmp_path: Path, missing: str, there: str
) -> None:
    (tmp_path / there).touch()
    with pytest.raises(UnreadableCheckpoint) as refusal:
        initialise(detector(), tmp_path / missing)
    assert f"did you mean {tmp_path / there}" in str(refusal.value)


def test_initialise__our_weights_without_their_manifest_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    save_checkpoint(detector(), path, classes=CLASSES, source=Source(kind="initialised"))
    path.with_suffix(".json").unlink()
    with pytest.raises(ManifestError, match=r"ours\.json"):
        initialise(detector(), path)
