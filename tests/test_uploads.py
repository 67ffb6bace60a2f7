import base64
import contextlib
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest, ServiceError, TooManyImages, UnsupportedMediaType
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
    with pytest.raises(InvalidRequest, match="several pictures"):
        parse_upload(*multipart(("image", PICTURE), ("image", PICTURE)))


@pytest.mark.parametrize("file_names", [True, False])
def test_parse_upload__ends_with_the_first_picture_too_many(file_names: bool) -> None:
    """What comes behind it is not even looked at: 500,000 small ones took six seconds."""
    pictures = [("image", PICTURE)] * 4
    content_type, body = multipart(*pictures, file_names=file_names)
    fourth = body.rindex(b"Content-Disposition")
    damaged = body[:fourth] + b"no header\0" + body[fourth:]
    with pytest.raises(TooManyImages, match="send at most 2"):
        parse_upload(content_type, damaged, max_images=2)


def test_parse_upload__form_that_is_cut_off() -> None:
    """Pictures whose end is missing are not left out in silence."""
    content_type, body = multipart(("image", PICTURE), ("image", PICTURE))
    for length in (len(body) - 4, body.rindex(PICTURE) + 9):
        with pytest.raises(InvalidRequest, match="cut off before its closing boundary"):
            parse_upload(content_type, body[:length], max_images=2)


def test_parse_upload__base64_with_spaces_everywhere_takes_little_memory() -> None:
    """Its pieces as strings of their own took 25 times the body."""
    text = "QUJD " * 400_000
    body = json.dumps({"image": {"base64": text}}).encode()
    tracemalloc.start()
    try:
        assert parse_upload("application/json", body).images == (b"ABC" * 400_000,)
        assert tracemalloc.get_traced_memory()[1] < 6 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["QUJD\u00a0QUJD", "QUJD\ud800", "😀"])
def test_parse_upload__base64_that_is_not_ascii(text: str) -> None:
    body = json.dumps({"image": {"base64": text}}).encode()
    with pytest.raises(InvalidRequest, match="no valid"):
        parse_upload("application/json", body)


def test_parse_upload__damaged_forms_leave_nothing_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    content_type, body = multipart(("image", PICTURE))
    encoded = body.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: of a client\r\n\r\n")
    parse_upload(content_type, encoded)
    with pytest.raises(InvalidRequest, match="damaged"):
        parse_upload(content_type, b"no boundary")
    assert caplog.records == []


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
