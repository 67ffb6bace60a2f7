from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.classifier import CSPNeXtClassifier, build_classifier
from model.config import CLASSIFIERS, VARIANTS, BackboneConfig, RTMDetConfig
from model.rtmdet import RTMDet, build_rtmdet
from model.weights import (
    ForeignCheckpoint,
    from_published,
    load_backbone,
    load_published,
    num_published_classes,
    recognise,
    to_published,
)
from tests.golden import KINDS, golden_config, golden_state

torch.set_num_threads(1)

State = dict[str, Tensor]

CONFIGS: dict[str, RTMDetConfig] = {
    **{kind: golden_config(kind) for kind in KINDS},
    **{
        name: VARIANTS[name].with_classes(5)
        for name in ("rtmdet-nano", "rtmdet-ins-nano", "rtmdet-r-nano")
    },
}


def network_of(name: str, *, seed: int = 0) -> RTMDet:
    torch.manual_seed(seed)
    return build_rtmdet(CONFIGS[name])


def published_state(name: str = "det", *, seed: int = 1) -> State:
    """Published weights of a network: other ones than `network_of(name)` has."""
    return {key: value.clone() for key, value in to_published(network_of(name, seed=seed)).items()}


def small_classifier(*, seed: int = 0, num_classes: int = 7) -> CSPNeXtClassifier:
    torch.manual_seed(seed)
    return build_classifier(golden_config("det").backbone, num_classes=num_classes)


def assert_same(found: State, wanted: State) -> None:
    assert found.keys() == wanted.keys()
    different = [name for name in wanted if not torch.equal(found[name], wanted[name])]
    assert different == []


# ------------------------------------------------------------------------------ both directions


@pytest.mark.parametrize("name", CONFIGS)
def test_from_published__undoes_to_published(name: str) -> None:
    donor = network_of(name, seed=1)
    network = network_of(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    ours = from_published(to_published(donor), network)
    assert_same(ours, dict(donor.state_dict()))
    assert_same(dict(network.state_dict()), before)


@pytest.mark.parametrize("name", CONFIGS)
def test_load_published__fills_the_whole_network(name: str) -> None:
    network = network_of(name)
    assert load_published(network, published_state(name)) == []
    assert_same(dict(network.state_dict()), dict(network_of(name, seed=1).state_dict()))


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_load_published__and_back_gives_the_recorded_weights(
    shared_folder: Path, kind: str
) -> None:
    state = golden_state(shared_folder, kind)
    network = build_rtmdet(golden_config(kind))
    load_published(network, state)
    assert_same(to_published(network), state)


@pytest.mark.parametrize(("kind", "copies"), [("det", 3), ("rot", 3), ("ins", 6)])
def test_to_published__repeats_shared_convolutions_under_every_name(kind: str, copies: int) -> None:
    published = to_published(network_of(kind))
    shared = published["bbox_head.cls_convs.0.1.conv.weight"]
    names = [name for name, tensor in published.items() if tensor is shared]
    assert len(names) == copies


def test_classifier__is_filled_from_its_published_layout() -> None:
    donor, network = small_classifier(seed=1), small_classifier()
    state = to_published(donor)
    assert {"backbone.stem.0.conv.weight", "head.fc.weight", "head.fc.bias"} <= state.keys()
    assert load_published(network, state) == []
    assert_same(dict(network.state_dict()), dict(donor.state_dict()))


# -------------------------------------------------------------------------------------- leniency


LAYOUTS: dict[str, Callable[[State], State]] = {
    "module.": lambda state: {f"module.{name}": value for name, value in state.items()},
    "model.": lambda state: {f"model.{name}": value for name, value in state.items()},
    "both": lambda state: {f"module.model.{name}": value for name, value in state.items()},
    "preprocessor": lambda state: state | {"data_preprocessor.mean": torch.zeros(3, 1, 1)},
    "wrapped preprocessor": lambda state: state | {"module.data_preprocessor.std": torch.ones(3)},
    "no counters": lambda state: {
        name: value for name, value in state.items() if "num_batches" not in name
    },
    "another order": lambda state: dict(reversed(state.items())),
    "float64": lambda state: {
        name: value.double() if value.is_floating_point() else value
        for name, value in state.items()
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_from_published__takes_the_layouts_that_there_are(layout: str) -> None:
    network = network_of("ins")
    ours = from_published(LAYOUTS[layout](published_state("ins")), network)
    assert_same(ours, dict(network_of("ins", seed=1).state_dict()))
    wanted = network.state_dict()
    assert all(value.dtype == wanted[name].dtype for name, value in ours.items())


def test_from_published__takes_half_precision_as_float32() -> None:
    state = {name: value.half() for name, value in published_state().items()}
    ours = from_published(state, network_of("det"))
    assert ours["backbone.stem.0.conv.weight"].dtype == torch.float32


# ------------------------------------------------------------------------------------- strictness


def test_from_published__names_what_is_missing() -> None:
    state = published_state()
    del state["neck.out_convs.1.conv.weight"]
    with pytest.raises(ForeignCheckpoint, match=r"1 missing \(neck\.out_convs\.1\.conv\.weight\)"):
        from_published(state, network_of("det"))


def test_from_published__misses_a_shared_tensor_under_any_of_its_names() -> None:
    state = published_state()
    del state["bbox_head.cls_convs.2.0.conv.weight"]
    with pytest.raises(ForeignCheckpoint, match="1 missing"):
        from_published(state, network_of("det"))


def test_from_published__names_what_is_too_many() -> None:
    state = published_state() | {f"mask_head.{index}": torch.zeros(1) for index in range(9)}
    with pytest.raises(
        ForeignCheckpoint,
        match=r"9 unexpected \(mask_head\.0, mask_head\.1, mask_head\.2, \.\.\.\)",
    ):
        from_published(state, network_of("det"))


def test_from_published__names_shapes_that_are_wrong() -> None:
    state = published_state() | {"backbone.stem.0.conv.weight": torch.zeros(4, 3, 5, 5)}
    with pytest.raises(
        ForeignCheckpoint,
        match=r"1 of another shape \(backbone\.stem\.0\.conv\.weight "
        r"\[4, 3, 5, 5\] instead of \[4, 3, 3, 3\]\)",
    ):
        from_published(state, network_of("det"))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("det", "bbox_head.reg_convs.2.1.conv.weight"),
        ("ins", "bbox_head.reg_convs.0.0.conv.weight"),
        ("ins", "bbox_head.reg_convs.1.1.bn.running_var"),
    ],
)
def test_from_published__refuses_copies_that_differ(kind: str, name: str) -> None:
    state = published_state(kind)
    state[name][0] += 1
    with pytest.raises(ForeignCheckpoint, match="are one tensor, but differ"):
        from_published(state, network_of(kind))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_from_published__refuses_weights_that_are_not_finite(value: float) -> None:
    state = published_state()
    state["backbone.stem.1.bn.weight"][0] = value
    with pytest.raises(ForeignCheckpoint, match=r"'backbone\.stem\.1\.bn\.weight' has values"):
        from_published(state, network_of("det"))


def test_from_published__refuses_a_name_under_two_prefixes() -> None:
    state = published_state()
    state["module.backbone.stem.0.conv.weight"] = state["backbone.stem.0.conv.weight"]
    with pytest.raises(ForeignCheckpoint, match="twice, under different prefixes"):
        from_published(state, network_of("det"))


def test_from_published__says_which_variant_the_weights_are_of() -> None:
    state = to_published(build_rtmdet(VARIANTS["rtmdet-nano"].with_classes(3)))
    with pytest.raises(
        ForeignCheckpoint, match=r"do not fit rtmdet-tiny with 80 classes: .* like rtmdet-nano$"
    ):
        from_published(state, build_rtmdet(VARIANTS["rtmdet-tiny"]))


@pytest.mark.parametrize("state", [{}, {"fc.weight": torch.zeros(2, 2)}])
def test_from_published__refuses_weights_of_no_member(state: State) -> None:
    with pytest.raises(ForeignCheckpoint, match="missing") as caught:
        from_published(state, network_of("det"))
    assert "looks like" not in str(caught.value)


# ----------------------------------------------------------------------------- numbers of classes


def with_classes(name: str, num_classes: int) -> RTMDet:
    torch.manual_seed(3)
    return build_rtmdet(replace(CONFIGS[name], num_classes=num_classes))


@pytest.mark.parametrize("kind", KINDS)
def test_class_layer__of_another_size_is_refused_with_both_numbers(kind: str) -> None:
    with pytest.raises(ForeignCheckpoint, match="predict 5 classes and the network 2"):
        from_published(published_state(kind), with_classes(kind, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_class_layer__is_kept_fresh_on_request_and_reported(kind: str) -> None:
    network = with_classes(kind, 2)
    fresh = load_published(network, published_state(kind), class_layer="reinitialise")
    assert fresh == [
        f"head.cls_predictors.levels.{level}.{part}"
        for level in range(3)
        for part in ("weight", "bias")
    ]
    loaded = network.state_dict()
    untouched = with_classes(kind, 2).state_dict()
    donor = network_of(kind, seed=1).state_dict()
    for name, value in loaded.items():
        assert torch.equal(value, (untouched if name in fresh else donor)[name]), name


def test_class_layer__that_fits_is_loaded_even_when_it_may_be_fresh() -> None:
    network = network_of("det")
    assert load_published(network, published_state(), class_layer="reinitialise") == []


def test_class_layer__does_not_hide_another_difference() -> None:
    state = published_state()
    del state["neck.out_convs.1.conv.weight"]
    for choice in ("strict", "reinitialise"):
        with pytest.raises(ForeignCheckpoint, match="1 missing"):
            from_published(state, with_classes("det", 2), class_layer=choice)


def test_class_layer__of_a_classifier_may_be_fresh_too() -> None:
    state = to_published(small_classifier(seed=1))
    network = small_classifier(num_classes=3)
    with pytest.raises(ForeignCheckpoint, match="predict 7 classes and the network 3"):
        load_published(network, state)
    assert load_published(network, state, class_layer="reinitialise") == ["fc.weight", "fc.bias"]


def test_num_published_classes__reads_the_class_layer() -> None:
    assert num_published_classes(published_state("rot")) == 5
    assert num_published_classes(LAYOUTS["module."](published_state("ins"))) == 5
    assert num_published_classes(to_published(small_classifier())) == 7
    assert num_published_classes({}) is None


# -------------------------------------------------------------------------------------- recognise


@pytest.mark.parametrize("name", [*VARIANTS, *CLASSIFIERS])
def test_recognise__names_every_member_of_the_family(name: str) -> None:
    with torch.device("meta"):
        if name in VARIANTS:
            network = build_rtmdet(VARIANTS[name].with_classes(3))
        else:
            network = build_classifier(CLASSIFIERS[name], num_classes=3)
    assert recognise(to_published(network)) == name


def test_recognise__knows_no_name_for_other_weights() -> None:
    assert recognise({}) is None
    assert recognise(published_state("det")) is None


# --------------------------------------------------------------------------------------- backbone


def backbone_of(network: RTMDet | CSPNeXtClassifier) -> State:
    return {key: value.clone() for key, value in network.backbone.state_dict().items()}


def rest_of(network: RTMDet) -> State:
    return {
        key: value.clone()
        for key, value in network.state_dict().items()
        if not key.startswith("backbone.")
    }


def test_load_backbone__takes_it_from_a_classifier_and_leaves_the_rest() -> None:
    classifier, network = small_classifier(seed=1), network_of("rot")
    rest = rest_of(network)
    load_backbone(network, to_published(classifier))
    assert_same(backbone_of(network), backbone_of(classifier))
    assert_same(rest_of(network), rest)


def test_load_backbone__takes_it_from_a_detector_for_any_network() -> None:
    donor = network_of("det", seed=1)
    for network in (network_of("ins"), small_classifier()):
        load_backbone(network, to_published(donor))
        assert_same(backbone_of(network), backbone_of(donor))


def test_load_backbone__refuses_another_size() -> None:
    other = build_classifier(BackboneConfig(deepen=0.167, widen=0.25), num_classes=2)
    with pytest.raises(ForeignCheckpoint, match=r"of another shape \(backbone\.stem"):
        load_backbone(network_of("det"), to_published(other))


def test_load_backbone__refuses_weights_without_one() -> None:
    head = {name: value for name, value in published_state().items() if "bbox" in name}
    with pytest.raises(ForeignCheckpoint, match="missing"):
        load_backbone(network_of("det"), head)
