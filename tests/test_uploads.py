import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest, ServiceError, UnsupportedMediaType
from service.http_api.uploads import parse_upload

PICTURE = bytes(range(256)) * 5


def multipart(*parts: tuple[str, bytes], file_names: bool = True) -> tuple[str, bytes]:
    """Content type and body of a form; every part whose name is no option has a file name."""
    boundary = "XXboundaryXX"
    body = b""
    for name, content in parts:
        is_file = file_names and name not in ("score_threshold", "model")
        disposition = f'form-data; name="{name}"' + ('; filename="a.jpg"' if is_file else "")
        body += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
        body += content + b"\r\n"
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


@pytest.mark.parametrize(
    "content_type", ["image/jpeg", "image/png; charset=x", "application/octet-stream", "IMAGE/PNG"]
)
def test_parse_upload__raw_body(content_type: str) -> None:
    upload = parse_upload(content_type, PICTURE)
    assert upload.images == (PICTURE,)
    assert list(upload.options) == []


@pytest.mark.parametrize("part", ["image", "file"])
def test_parse_upload__form_part_with_options(part: str) -> None:
    upload = parse_upload(*multipart((part, PICTURE), ("score_threshold", b"0.5")))
    assert upload.images == (PICTURE,)
    assert list(upload.options) == [("score_threshold", "0.5")]


def test_parse_upload__form_part_without_a_file_name() -> None:
    upload = parse_upload(*multipart(("image", PICTURE), file_names=False))
    assert upload.images == (PICTURE,)


def test_parse_upload__json_with_options_beside_and_nested() -> None:
    document = {
        "image": {"base64": base64.b64encode(PICTURE).decode()},
        "model": "a",
        "options": {"score_threshold": 0.5},
    }
    upload = parse_upload("application/json", json.dumps(document).encode())
    assert upload.images == (PICTURE,)
    assert list(upload.options) == [("model", "a"), ("score_threshold", 0.5)]


def test_parse_upload__json_data_uri_and_line_breaks() -> None:
    text = "data:image/png;base64," + base64.encodebytes(PICTURE).decode()
    body = json.dumps({"image": {"base64": text}}).encode()
    assert parse_upload("application/json", body).images == (PICTURE,)


@pytest.mark.parametrize(
    ("content_type", "body", "says"),
    [
        ("image/jpeg", b"", "no body"),
        ("multipart/form-data", b"x", "boundary"),
        ("multipart/form-data; boundary=q", b"no such boundary", "damaged|no part"),
        ("application/json", b"{", "no valid JSON"),
        ("application/json", b"[" * 9_000, "no valid JSON"),
        ("application/json", b"[" * 100_000, "too many members"),
        ("multipart/form-data; boundary=" + "b" * 300, b"x", "damaged"),
        ("multipart/form-data; boundary=b" + ";" * 2_000, b"x", "Content-Type has more"),
        ("application/json", b"[]", "must be an object"),
        ("application/json", b"{}", "'image' is missing"),
        ("application/json", b'{"image": "abc"}', "'image' is missing or no object"),
        ("application/json", b'{"image": {"base64": 3}}', "'base64', a string"),
        ("application/json", b'{"image": {"base64": "*"}}', "no valid base64"),
        ("application/json", b'{"image": {"base64": ""}}', "empty"),
        ("application/json", b'{"image": {"url": "http://x"}}', "not fetched"),
        ("application/json", b'{"image": {"base64": "QQ=="}, "options": 3}', "'options'"),
        ("application/json", b'{"image": [{}, {}]}', "several pictures"),
    ],
)
def test_parse_upload__damaged_body(content_type: str, body: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        parse_upload(content_type, body)


def test_parse_upload__two_pictures() -> None:
    with pytest.raises(InvalidRequest, match="2 pictures"):
        parse_upload(*multipart(("image", PICTURE), ("image", PICTURE)))


def test_parse_upload__form_of_thousands_of_options() -> None:
    parts = [("image", PICTURE)] + [("model", b"a")] * 100
    with pytest.raises(InvalidRequest, match="too many or too long options"):
        parse_upload(*multipart(*parts))


def test_parse_upload__form_without_a_picture() -> None:
    with pytest.raises(InvalidRequest, match="no part 'image'"):
        parse_upload(*multipart(("score_threshold", b"0.5")))


def test_parse_upload__picture_under_another_name() -> None:
    with pytest.raises(InvalidRequest, match="part 'photo'; name the part 'image'"):
        parse_upload(*multipart(("photo", PICTURE)))


@pytest.mark.parametrize("content_type", ["text/plain", "", "video/mp4", "application/xml"])
def test_parse_upload__other_content_types(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="image/jpeg"):
        parse_upload(content_type, b"x")


@given(
    st.sampled_from(["application/json", "multipart/form-data; boundary=b", "image/png"]),
    st.one_of(st.binary(), st.binary().map(lambda body: b"--b\r\n" + body)),
)
def test_parse_upload__any_bytes_are_taken_or_refused(content_type: str, body: bytes) -> None:
    with contextlib.suppress(ServiceError):
        assert isinstance(parse_upload(content_type, body).images[0], bytes)
