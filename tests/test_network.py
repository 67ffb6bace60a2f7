import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.checkpoints.torch_file import read_torch_file
from model.classifier import build_classifier
from model.config import CLASSIFIERS, VARIANTS
from model.decoding import Decoder
from model.heads.detection import PRIOR_LOGIT
from model.heads.outputs import HeadOutputs
from model.rtmdet import RTMDet, build_rtmdet
from model.weights import load_published, name_table, to_published
from tests.golden import INPUT_SIZE, KINDS, golden_arrays, golden_config, golden_network

torch.set_num_threads(1)

#: Unique parameters of the 14 published models, as counted in the reference.
PARAMETERS = {
    "rtmdet-tiny": 4896168,
    "rtmdet-s": 8886924,
    "rtmdet-m": 24709188,
    "rtmdet-l": 52315804,
    "rtmdet-x": 94855572,
    "rtmdet-ins-tiny": 5638187,
    "rtmdet-ins-s": 10183311,
    "rtmdet-ins-m": 27575111,
    "rtmdet-ins-l": 57365663,
    "rtmdet-ins-x": 102703767,
    "rtmdet-r-tiny": 4877544,
    "rtmdet-r-s": 8862156,
    "rtmdet-r-m": 24672132,
    "rtmdet-r-l": 52266460,
}
INFIX = {"det": "", "ins": "ins-", "rot": "r-"}

#: A prediction's name in the recorded arrays, its field in ours, and the largest allowed error.
MAPS = (
    ("cls_score", "logits", 3e-4),
    ("bbox_pred", "distances", 5e-3),
    ("kernel_pred", "kernels", 3e-4),
    ("angle_pred", "angles", 3e-4),
)


def on_meta(name: str) -> RTMDet:
    """The variant without memory for its weights."""
    with torch.device("meta"):
        return build_rtmdet(VARIANTS[name])


def small(kind: str, *, seed: int = 0) -> RTMDet:
    """A small network with batch norms that are not the identity."""
    torch.manual_seed(seed)
    network = build_rtmdet(golden_config(kind))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()


def flat(outputs: HeadOutputs) -> list[Tensor]:
    """Every tensor of a head's outputs."""
    maps = [*outputs.logits, *outputs.distances, *outputs.angles, *outputs.kernels]
    return maps if outputs.mask_features is None else [*maps, outputs.mask_features]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_network__has_as_many_parameters_as_published(name: str, parameters: int) -> None:
    assert count(on_meta(name)) == parameters


@pytest.mark.parity
def test_network__divides_its_parameters_as_recorded(shared_folder: Path) -> None:
    recorded = json.loads((shared_folder / "reference" / "complexity.json").read_text())
    assert len(recorded) == len(PARAMETERS)
    for key, figures in recorded.items():
        kind, size = key.split("_")
        network = on_meta(f"rtmdet-{INFIX[kind]}{size}")
        parts = {name: count(module) for name, module in network.named_children()}
        wanted = {name: figures[f"params_{name}"] for name in ("backbone", "neck", "head")}
        assert parts == wanted, key


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("cspnext-tiny", 2.73),
        ("cspnext-s", 4.89),
        ("cspnext-m", 13.05),
        ("cspnext-l", 27.16),
        ("cspnext-x", 48.85),
    ],
)
def test_classifier__has_as_many_parameters_as_published(name: str, millions: float) -> None:
    with torch.device("meta"):
        classifier = build_classifier(CLASSIFIERS[name])
    assert round(count(classifier) / 1e6, 2) == millions


def test_classifier__gives_logits_of_the_last_stage() -> None:
    classifier = build_classifier(golden_config("det").backbone, num_classes=7).eval()
    with torch.inference_mode():
        assert classifier(torch.rand(2, 3, 64, 96)).shape == (2, 7)


# ----------------------------------------------------------------------------------------- names


@pytest.mark.parity
def test_names__are_those_of_all_published_models(shared_folder: Path) -> None:
    files = sorted((shared_folder / "reference" / "keys").glob("*.json"))
    assert len(files) == len(PARAMETERS)
    for file in files:
        kind, size = file.stem.split("_")
        published = to_published(on_meta(f"rtmdet-{INFIX[kind]}{size}"))
        shapes = {name: list(tensor.shape) for name, tensor in published.items()}
        assert shapes == json.loads(file.read_text()), file.stem


@pytest.mark.parametrize("name", VARIANTS)
def test_names__give_no_published_name_to_two_of_our_tensors(name: str) -> None:
    names = [other for others in name_table(on_meta(name)).values() for other in others]
    assert len(set(names)) == len(names)


# --------------------------------------------------------------------------------------- forward


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_forward__gives_the_recorded_features(shared_folder: Path, kind: str) -> None:
    arrays = golden_arrays(shared_folder, kind, "forward")
    network = golden_network(shared_folder, kind)
    with torch.inference_mode():
        trunk = network.backbone(torch.from_numpy(arrays["input"]))
        pyramid = network.neck(trunk)
    for level, (backbone, neck) in enumerate(zip(trunk, pyramid, strict=True), start=3):
        np.testing.assert_allclose(backbone, arrays[f"C{level}"], atol=3e-4)
        np.testing.assert_allclose(neck, arrays[f"P{level}"], atol=3e-4)


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_forward__gives_the_recorded_predictions(shared_folder: Path, kind: str) -> None:
    arrays = golden_arrays(shared_folder, kind, "forward")
    network = golden_network(shared_folder, kind)
    with torch.inference_mode():
        outputs = network(torch.from_numpy(arrays["input"]))
    compared = 0
    for recorded, field, tolerance in MAPS:
        for level, tensor in enumerate(getattr(outputs, field)):
            np.testing.assert_allclose(
                tensor, arrays[f"{recorded}_{level}"], atol=tolerance, rtol=0
            )
            compared += 1
    assert compared == sum(name[-2:] in ("_0", "_1", "_2") for name in arrays if "_if_" not in name)
    if kind == "ins":
        np.testing.assert_allclose(outputs.mask_features, arrays["mask_feat"], atol=3e-4)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["det", "rot"])
def test_forward__with_exponential_distances_gives_the_recorded_ones(
    shared_folder: Path, kind: str
) -> None:
    arrays = golden_arrays(shared_folder, kind, "forward")
    network = golden_network(shared_folder, kind, exp_on_reg=True)
    with torch.inference_mode():
        outputs = network(torch.from_numpy(arrays["input"]))
    for level, distances in enumerate(outputs.distances):
        # Up to e^10 strides: the error grows with the value.
        np.testing.assert_allclose(
            distances, arrays[f"bbox_pred_if_exp_on_reg_{level}"], atol=5e-3, rtol=1e-4
        )


@pytest.mark.parity
def test_forward__of_real_nano_weights_gives_the_recorded_predictions(shared_folder: Path) -> None:
    network = build_rtmdet(VARIANTS["rtmdet-nano"].with_classes(1)).eval()
    file = read_torch_file(shared_folder / "real" / "rtmdet_nano_person.pth")
    load_published(network, file.tensors(file.content["state_dict"]))
    arrays = dict(np.load(shared_folder / "real" / "rtmdet_nano_person_forward.npz"))
    images = [name.removesuffix("_input") for name in arrays if name.endswith("_input")]
    assert len(images) == 2
    for image in images:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(arrays[f"{image}_input"]))
        for level in range(3):
            np.testing.assert_allclose(
                outputs.logits[level], arrays[f"{image}_cls_score_{level}"], atol=2e-3
            )
            np.testing.assert_allclose(
                outputs.distances[level], arrays[f"{image}_bbox_pred_{level}"], atol=2e-3
            )


@pytest.mark.parametrize("kind", KINDS)
def test_forward__of_a_row_equals_the_same_picture_alone(kind: str) -> None:
    network = small(kind)
    images = torch.rand(3, 3, 64, 96)
    with torch.inference_mode():
        together, alone = network(images), network(images[1:2])
    for many, one in zip(flat(together), flat(alone), strict=True):
        torch.testing.assert_close(many[1:2], one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["rtmdet-nano", "rtmdet-ins-nano", "rtmdet-r-nano"])
def test_forward__of_nano_has_the_shapes_of_the_family(name: str) -> None:
    network = build_rtmdet(VARIANTS[name]).eval()
    with torch.inference_mode():
        outputs = network(torch.rand(1, 3, 64, 96))
        dense = Decoder((64, 96))(outputs)
    num_priors = 8 * 12 + 4 * 6 + 2 * 3
    assert dense.logits.shape == (1, network.config.num_classes, num_priors)
    assert dense.boxes.shape == (1, 5 if network.config.task == "rotated" else 4, num_priors)
    assert (dense.kernels is not None) == (network.config.task == "instance")


# -------------------------------------------------------------------------------- initial values


@pytest.mark.parity
def test_initialisation__has_the_recorded_distribution(shared_folder: Path) -> None:
    path = shared_folder / "reference" / "golden" / "sched" / "init_stats.json"
    torch.manual_seed(0)
    boxes = to_published(build_rtmdet(VARIANTS["rtmdet-tiny"]))
    masks = to_published(build_rtmdet(VARIANTS["rtmdet-ins-tiny"]))
    for name, stats in json.loads(path.read_text()).items():
        tensor = masks[name.removeprefix("ins::")] if name.startswith("ins::") else boxes[name]
        assert list(tensor.shape) == stats["shape"], name
        if stats["std"] == 0:
            assert tensor.min() == tensor.max() == pytest.approx(stats["min"], abs=1e-6), name
            continue
        # Four standard errors of a standard deviation's estimate, in both samples.
        error = 4 * (2 / (2 * tensor.numel())) ** 0.5
        assert tensor.std().item() == pytest.approx(stats["std"], rel=error), name
        assert tensor.abs().max().item() == pytest.approx(
            max(-stats["min"], stats["max"]), rel=0.35
        ), name


@pytest.mark.parametrize(("kind", "distance"), [("det", 0.0), ("ins", 1.0), ("rot", 0.0)])
def test_initialisation__starts_at_a_score_of_a_hundredth(kind: str, distance: float) -> None:
    published = to_published(build_rtmdet(golden_config(kind)))
    for level in range(3):
        logits = published[f"bbox_head.rtm_cls.{level}.bias"]
        assert torch.equal(logits, torch.full_like(logits, PRIOR_LOGIT))
        assert logits.sigmoid()[0].item() == pytest.approx(0.01)
        assert (published[f"bbox_head.rtm_reg.{level}.bias"] == distance).all()


@pytest.mark.parametrize("name", ["rtmdet-tiny", "rtmdet-ins-nano", "cspnext-tiny"])
def test_initialisation__of_the_trunk_is_bounded_by_the_fan_in(name: str) -> None:
    torch.manual_seed(0)
    network = (
        build_rtmdet(VARIANTS[name])
        if name in VARIANTS
        else build_classifier(CLASSIFIERS[name], num_classes=10)
    )
    convs = [module for module in network.backbone.modules() if isinstance(module, nn.Conv2d)]
    for conv in convs:
        bound = conv.weight[0].numel() ** -0.5
        assert 0.9 * bound < conv.weight.abs().max() <= bound
        assert conv.bias is None or not conv.bias.any()


# -------------------------------------------------------------------------------------- training


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_training_mode__moves_the_statistics_as_recorded(shared_folder: Path, kind: str) -> None:
    network = golden_network(shared_folder, kind)
    images = golden_arrays(shared_folder, kind, "forward")["input"]
    with torch.no_grad():
        network.train()(torch.from_numpy(images))
    after = to_published(network)
    recorded = {
        name.removeprefix("A_train::"): array
        for name, array in golden_arrays(shared_folder, kind, "train").items()
        if name.startswith("A_train::")
    }
    assert len(recorded) == 8
    for name, array in recorded.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_training_mode__gives_every_parameter_a_gradient(kind: str) -> None:
    network = small(kind).train()
    outputs = network(torch.rand(2, 3, 64, 64))
    torch.stack([tensor.square().mean() for tensor in flat(outputs)]).sum().backward()
    without = [name for name, value in network.named_parameters() if value.grad is None]
    assert without == []


# ------------------------------------------------------------------ precision, layout, compilers


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16__as_a_whole_is_close_and_predicts_in_float32(kind: str) -> None:
    network = small(kind)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        exact = flat(network(images))
        rounded = flat(network.bfloat16()(images.bfloat16()))
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, one, atol=0.05 * max(1, one.abs().max()), rtol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16__by_autocast_is_close_and_predicts_in_float32(kind: str) -> None:
    network = small(kind)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        exact = flat(network(images))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = flat(network(images))
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, one, atol=0.05 * max(1, one.abs().max()), rtol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_last__gives_the_same_predictions(kind: str) -> None:
    network = small(kind)
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        usual = flat(network(images))
        network.to(memory_format=torch.channels_last)
        turned = flat(network(images.contiguous(memory_format=torch.channels_last)))
    for one, other in zip(usual, turned, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_compile__takes_the_network_as_one_graph(kind: str) -> None:
    network = small(kind)
    images = torch.rand(1, 3, 64, 64)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.inference_mode():
        for one, other in zip(flat(network(images)), flat(compiled(images)), strict=True):
            torch.testing.assert_close(other, one)


@pytest.mark.parity
def test_golden__input_has_the_recorded_size(shared_folder: Path) -> None:
    arrays = golden_arrays(shared_folder, "det", "forward")
    assert arrays["input"].shape == (2, 3, *INPUT_SIZE)
