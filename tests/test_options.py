import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidOption
from service.http_api.options import ALIASES, OptionFields, parse_options


def test_parse_options__none_given_leaves_the_models_defaults() -> None:
    options = parse_options([])
    assert options.score_threshold is None
    assert options.classes is None
    assert options.mask_format == "rle"
    assert options.priority == "normal"


def test_parse_options__text_and_numbers_mean_the_same() -> None:
    from_query = parse_options([("score_threshold", "0.5"), ("max_detections", "7")])
    from_json = parse_options([("score_threshold", 0.5), ("max_detections", 7)])
    assert from_query == from_json


def test_parse_options__classes_by_commas_by_repetition_and_as_a_list() -> None:
    expected = ("person", "car", "2")
    assert parse_options([("classes", "person, car,2")]).classes == expected
    repeated = [("classes", "person"), ("classes", "car"), ("classes", "2")]
    assert parse_options(repeated).classes == expected
    assert parse_options([("classes", ["person", "car", 2])]).classes == expected


def test_parse_options__timeout_becomes_seconds() -> None:
    assert parse_options([("timeout_ms", "250")]).timeout_s == pytest.approx(0.25)


@pytest.mark.parametrize("alias", ALIASES)
def test_parse_options__aliases_of_other_servers(alias: str) -> None:
    value = 3 if alias == "max_det" else 0.25
    options = parse_options([(alias, value)])
    assert getattr(options, ALIASES[alias]) == value


def test_parse_options__unknown_name_names_the_nearest() -> None:
    with pytest.raises(InvalidOption, match="did you mean 'score_threshold'") as caught:
        parse_options([("score_treshold", "0.5")])
    assert caught.value.errors[0].pointer == "/score_treshold"


def test_parse_options__unlike_any_name_lists_them_all() -> None:
    with pytest.raises(InvalidOption, match="options are: model, score_threshold"):
        parse_options([("zzzz", "1")])


def test_parse_options__twice_under_two_names_is_refused() -> None:
    with pytest.raises(InvalidOption, match="given twice"):
        parse_options([("score_threshold", "0.5"), ("conf", "0.6")])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score_threshold", "1.5"),
        ("score_threshold", "-0.1"),
        ("score_threshold", "nan"),
        ("score_threshold", "high"),
        ("iou_threshold", "2"),
        ("max_detections", "0"),
        ("max_detections", "1e99"),
        ("mask_format", "bitmap"),
        ("priority", "urgent"),
        ("timeout_ms", "-5"),
        ("classes", "person,,car"),
        ("classes", {"a": 1}),
        ("class_agnostic_nms", "perhaps"),
        ("model", ["a", "b"]),
        ("model", "x" * 20_000),
        ("classes", [["nested"]]),
        ("classes", ["x" * 20_000]),
    ],
)
def test_parse_options__value_out_of_range_names_option_and_value(name: str, value: object) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_options([(name, value)])
    assert name in caught.value.detail
    assert caught.value.errors[0].pointer.startswith(f"/{name}")


def test_parse_options__every_fault_is_reported_at_once() -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_options([("score_threshold", "2"), ("iou_threshold", "3")])
    assert {error.pointer for error in caught.value.errors} == {
        "/score_threshold",
        "/iou_threshold",
    }


@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from([*OptionFields.model_fields, *ALIASES]), st.text()),
            st.one_of(
                st.none(),
                st.text(),
                st.integers(),
                st.floats(),
                st.booleans(),
                st.lists(st.text()),
            ),
        ),
        max_size=4,
    )
)
def test_parse_options__anything_is_either_understood_or_refused(
    given_options: list[tuple[str, object]],
) -> None:
    with contextlib.suppress(InvalidOption):
        options = parse_options(given_options)
        assert options.score_threshold is None or 0 <= options.score_threshold <= 1
