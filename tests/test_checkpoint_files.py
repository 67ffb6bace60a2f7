import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoints.checkpoint_files import (
    export_published,
    load_checkpoint,
    read_published,
    save_checkpoint,
)
from model.checkpoints.torch_file import UnreadableCheckpoint
from model.config import VARIANTS
from model.manifest import ManifestError, Source
from model.rtmdet import RTMDet, build_rtmdet
from model.weights import load_published, to_published
from tests.golden import golden_config
from tests.saved_files import assert_same, weights, write

SOURCE = Source(kind="initialised", seed=0)


# ------------------------------------------------------------------------------- published files


@pytest.mark.parametrize(
    "meta",
    [
        {"dataset_meta": {"classes": ["cat", "dog"]}},
        {"dataset_meta": {"CLASSES": ("cat", "dog")}},
        {"CLASSES": ("cat", "dog")},
        {"dataset_meta": {"palette": []}, "classes": ("cat", "dog")},
    ],
)
def test_read__finds_the_classes_where_they_stood_over_the_years(
    tmp_path: Path, meta: dict[str, Any]
) -> None:
    path = write({"meta": meta, "state_dict": weights()}, tmp_path / "a.pth")
    assert read_published(path).classes == ("cat", "dog")


@pytest.mark.parametrize("meta", [None, {}, {"classes": []}, {"classes": [1]}, {"classes": 80}])
def test_read__knows_no_classes_where_none_are_named(tmp_path: Path, meta: Any) -> None:
    path = write({"meta": meta, "state_dict": weights()}, tmp_path / "a.pth")
    assert read_published(path).classes is None


def test_read__chooses_between_the_average_and_the_plain_weights_of_mmengine(
    tmp_path: Path,
) -> None:
    content = {
        "state_dict": {"a.weight": torch.tensor([1.0])},
        "ema_state_dict": {"steps": torch.tensor(9), "module.a.weight": torch.tensor([2.0])},
    }
    path = write(content, tmp_path / "a.pth")
    assert_same(read_published(path).weights, {"a.weight": torch.tensor([1.0])})
    plain = read_published(path, which="plain").weights
    assert_same(plain, {"module.a.weight": torch.tensor([2.0])})


def test_read__chooses_between_the_average_and_the_plain_weights_of_mmcv(tmp_path: Path) -> None:
    content = {
        "state_dict": {
            "a.conv_1.weight": torch.tensor([1.0]),
            "a.running_mean": torch.tensor([5.0]),
            "ema_a_conv_1_weight": torch.tensor([2.0]),
        }
    }
    path = write(content, tmp_path / "a.pth")
    buffer = {"a.running_mean": torch.tensor([5.0])}
    averaged = read_published(path).weights
    assert_same(averaged, {"a.conv_1.weight": torch.tensor([1.0])} | buffer)
    plain = read_published(path, which="plain").weights
    assert_same(plain, {"a.conv_1.weight": torch.tensor([2.0])} | buffer)


def test_read__refuses_plain_weights_of_a_file_with_one_set(tmp_path: Path) -> None:
    path = write({"state_dict": weights()}, tmp_path / "a.pth")
    with pytest.raises(UnreadableCheckpoint, match="one set of weights"):
        read_published(path, which="plain")


# ------------------------------------------------------------------------------- files of our own


def nano(*, num_classes: int = 2, seed: int = 0) -> RTMDet:
    torch.manual_seed(seed)
    return build_rtmdet(VARIANTS["rtmdet-nano"].with_classes(num_classes))


def saved(folder: Path) -> Path:
    path = folder / "checkpoints" / "cats.safetensors"
    save_checkpoint(nano(), path, classes=["cat", "dog"], source=SOURCE)
    return path


@pytest.mark.parametrize("name", ["rtmdet-nano", "rtmdet-ins-nano", "rtmdet-r-nano"])
def test_checkpoint__comes_back_as_it_was_saved(tmp_path: Path, name: str) -> None:
    network = build_rtmdet(VARIANTS[name].with_classes(2)).to(memory_format=torch.channels_last)
    path = tmp_path / "cats-1.5.safetensors"
    written = save_checkpoint(
        network,
        path,
        classes=["cat", "dog"],
        source=SOURCE,
        input_size=(256, 416),
        metrics={"box_ap": 0.5},
    )
    loaded, manifest = load_checkpoint(path)
    assert manifest == written
    assert manifest.classes == ("cat", "dog")
    assert (manifest.variant, manifest.input_size) == (name, (256, 416))
    assert loaded.config == replace(network.config, input_size=(256, 416))
    assert_same(dict(loaded.state_dict()), dict(network.state_dict()))
    assert not loaded.training


def test_checkpoint__of_a_loaded_network_trains(tmp_path: Path) -> None:
    loaded, _ = load_checkpoint(saved(tmp_path))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert all(parameter.is_leaf for parameter in loaded.parameters())


def test_checkpoint__leaves_nothing_but_its_two_files(tmp_path: Path) -> None:
    path = saved(tmp_path)
    save_checkpoint(nano(seed=1), path, classes=["cat", "dog"], source=SOURCE)
    assert sorted(file.name for file in path.parent.iterdir()) == ["cats.json", "cats.safetensors"]
    assert_same(dict(load_checkpoint(path)[0].state_dict()), dict(nano(seed=1).state_dict()))


def test_checkpoint__can_be_read_by_other_users(tmp_path: Path) -> None:
    path = saved(tmp_path)
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (["cat"], "1 classes are named, but the network has 2"),
        (["cat", "cat"], "'cat' is named twice"),
        (["cat", " "], "class 1 is empty"),
        ([], "no classes"),
    ],
)
def test_checkpoint__is_not_saved_with_wrong_classes(
    tmp_path: Path, classes: list[str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        save_checkpoint(nano(), tmp_path / "a.safetensors", classes=classes, source=SOURCE)
    assert list(tmp_path.iterdir()) == []


def test_checkpoint__is_not_saved_where_it_could_not_be_loaded(tmp_path: Path) -> None:
    classes = list("abcde")
    with pytest.raises(ValueError, match="this network is not rtmdet-tiny"):
        save_checkpoint(
            build_rtmdet(golden_config("det")),
            tmp_path / "a.safetensors",
            classes=classes,
            source=SOURCE,
        )
    with pytest.raises(ValueError, match=r"named NAME\.safetensors"):
        save_checkpoint(nano(), tmp_path / "a.pth", classes=["a", "b"], source=SOURCE)
    with pytest.raises(ValueError, match="multiples of 32"):
        save_checkpoint(
            nano(),
            tmp_path / "a.safetensors",
            classes=["a", "b"],
            source=SOURCE,
            input_size=(100, 100),
        )


def test_checkpoint__refuses_changed_weights(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ManifestError, match="its sha256 is not the one in cats"):
        load_checkpoint(path)


def manifest_with(path: Path, **changes: Any) -> None:
    manifest = path.with_suffix(".json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"variant": "rtmdet-huge"}, "unknown model variant"),
        ({"task": "instance"}, "task 'instance', but rtmdet-nano is detect"),
        ({"classes": []}, "at least one class"),
        ({"input_size": [100, 100]}, "multiples of 32"),
        ({"format": "rtmdet-checkpoint-9"}, "format"),
    ],
)
def test_checkpoint__refuses_a_manifest_that_is_wrong(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    path = saved(tmp_path)
    manifest_with(path, **changes)
    with pytest.raises(ManifestError, match=sentence) as caught:
        load_checkpoint(path)
    assert "cats.json" in str(caught.value)


def test_checkpoint__refuses_weights_of_another_variant(tmp_path: Path) -> None:
    path = saved(tmp_path)
    manifest_with(path, variant="rtmdet-tiny")
    with pytest.raises(UnreadableCheckpoint, match="no weights of rtmdet-tiny"):
        load_checkpoint(path)


def test_checkpoint__refuses_a_missing_half(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(ManifestError, match="cannot be read"):
        load_checkpoint(path)
    path.unlink()
    with pytest.raises(UnreadableCheckpoint, match="no such file"):
        load_checkpoint(path)


def test_checkpoint__refuses_bytes_that_are_no_safetensors(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(b"nothing of the kind")
    manifest_with(path, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(UnreadableCheckpoint, match="no weights of rtmdet-nano"):
        load_checkpoint(path)


def test_export_published__writes_what_can_be_read_again(tmp_path: Path) -> None:
    network = build_rtmdet(golden_config("ins"))
    path = tmp_path / "out" / "published.pth"
    export_published(network, path, classes=list("abcde"))
    read = read_published(path)
    assert read.classes == tuple("abcde")
    copy = build_rtmdet(golden_config("ins"))
    assert load_published(copy, read.weights) == []
    assert_same(dict(copy.state_dict()), dict(network.state_dict()))


def test_export_published__can_be_read_by_torch_alone(tmp_path: Path) -> None:
    network = build_rtmdet(golden_config("det"))
    path = tmp_path / "published.pth"
    export_published(network, path, classes=list("abcde"))
    content = torch.load(path, weights_only=True)
    assert content["meta"]["dataset_meta"]["classes"] == tuple("abcde")
    assert_same(dict(content["state_dict"]), to_published(network))
