"""The bytes of a request, read back by the parts of the server and by standard readers."""

import base64
import json
from email.parser import BytesParser
from email.policy import HTTP

import cv2
import numpy as np
import pytest

from service.http_api.uploads import parse_upload
from service.load_testing.pictures import photograph
from service.load_testing.request_bytes import (
    Picture,
    RequestShape,
    build_request,
    is_secret,
    parse_header,
    parse_option,
    parse_target,
)

PICTURE = Picture(b"\xff\xd8\xff\r\n--not a boundary\x00\n" * 50, 'a "street".jpg')
TARGET = parse_target("http://example.test:8000/detect")


def parts(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """First line, headers by their lower-case names, body."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *rest = head.decode("ascii").split("\r\n")
    headers = dict(each.split(": ", 1) for each in rest)
    assert len(headers) == len(rest)
    lower = {name.lower(): value for name, value in headers.items()}
    assert lower["content-length"] == str(len(body))
    return line, lower, body


@pytest.mark.parametrize(
    ("url", "authority", "resource", "is_tls"),
    [
        ("http://localhost:8000/detect", "localhost:8000", "/detect", False),
        ("http://localhost", "localhost", "/", False),
        ("https://example.test/a/b?c=d&e=f", "example.test", "/a/b?c=d&e=f", True),
        ("https://example.test:80/", "example.test:80", "/", True),
        ("http://[::1]:8000/detect", "[::1]:8000", "/detect", False),
        ("http://localhost/a b?q=ü", "localhost", "/a%20b?q=%C3%BC", False),
        ("http://localhost/a?x=1#part", "localhost", "/a?x=1", False),
    ],
)
def test_target__of_a_url(url: str, authority: str, resource: str, is_tls: bool) -> None:
    target = parse_target(url)
    assert (target.authority, target.resource, target.is_tls) == (authority, resource, is_tls)


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "http://", "http://a:port/", "http://a:99999/", "http://u:p@a/"]
)
def test_target__that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        parse_target(url)


def test_request__raw_has_its_options_in_the_query() -> None:
    options = [("classes", "person,traffic light"), ("score_threshold", "0.4")]
    target = parse_target("http://localhost:8000/detect?model=a")
    line, headers, body = parts(build_request(target, RequestShape(options=options), PICTURE))
    resource = "/detect?model=a&classes=person%2Ctraffic+light&score_threshold=0.4"
    assert line == f"POST {resource} HTTP/1.1"
    assert headers["host"] == "localhost:8000"
    assert headers["content-type"] == "image/jpeg"
    assert body == PICTURE.content


def test_request__multipart_is_what_the_server_and_others_read() -> None:
    shape = RequestShape(body="multipart", field="file", options=[("mask_format", "none")])
    _, headers, body = parts(build_request(TARGET, shape, PICTURE))
    upload = parse_upload(headers["content-type"], body)
    assert upload.images == (PICTURE.content,)
    assert list(upload.options) == [("mask_format", "none")]
    head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + body)
    option, picture = message.iter_parts()
    assert option.get_param("name", header="content-disposition") == "mask_format"
    assert picture.get_param("name", header="content-disposition") == "file"
    assert picture.get_content_type() == "image/jpeg"


def test_request__json_is_what_the_server_reads() -> None:
    options = [("score_threshold", "0.4"), ("mask_format", "none")]
    shape = RequestShape(body="json", options=options)
    _, headers, body = parts(build_request(TARGET, shape, PICTURE))
    upload = parse_upload(headers["content-type"], body)
    assert upload.images == (PICTURE.content,)
    assert dict(upload.options) == {"score_threshold": 0.4, "mask_format": "none"}


def test_request__json_of_other_servers() -> None:
    options = [("inputs.parameters.conf", "0.25"), ("verbose", "true"), ("name", "a b")]
    shape = RequestShape(body="json", json_field="inputs.picture.value", options=options)
    _, _, body = parts(build_request(TARGET, shape, PICTURE))
    assert json.loads(body) == {
        "inputs": {
            "parameters": {"conf": 0.25},
            "picture": {"value": base64.b64encode(PICTURE.content).decode()},
        },
        "verbose": True,
        "name": "a b",
    }


@pytest.mark.parametrize("name", ["image", "image.base64", "image.base64.x", "a.", ""])
def test_request__json_whose_fields_collide_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"value already|empty or given twice"):
        build_request(TARGET, RequestShape(body="json", options=[(name, "1")]), PICTURE)


def test_request__headers_of_the_caller_stand_instead_of_ours() -> None:
    headers = [("content-type", "image/x-mine"), ("X-API-Key", "k")]
    shape = RequestShape(method="PUT", headers=headers)
    line, found, _ = parts(build_request(TARGET, shape, PICTURE))
    assert line.startswith("PUT ")
    assert (found["content-type"], found["x-api-key"]) == ("image/x-mine", "k")


def test_request__is_the_same_every_time() -> None:
    shape = RequestShape(body="multipart")
    assert build_request(TARGET, shape, PICTURE) == build_request(TARGET, shape, PICTURE)


@pytest.mark.parametrize("text", ["no colon", ": v", "a b: c", "a: b\r\nEvil: yes", "a: ü"])
def test_header__that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="header"):
        parse_header(text)


def test_header__of_its_parts() -> None:
    assert parse_header("Authorization:  Bearer a:b ") == ("Authorization", "Bearer a:b")


@pytest.mark.parametrize("name", ["Authorization", "X-API-Key", "Cookie", "X-Auth-Token"])
def test_header__that_says_who_one_is_is_secret(name: str) -> None:
    assert is_secret(name)
    assert not is_secret("Accept")


def test_option__is_parted_at_its_first_sign() -> None:
    assert parse_option("a=b=c") == ("a", "b=c")
    with pytest.raises(ValueError, match="name=value"):
        parse_option("a")


def test_method__that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="method"):
        build_request(TARGET, RequestShape(method="GET /\r\n"), PICTURE)


def test_photograph__is_a_picture_of_that_size_with_the_detail_of_one() -> None:
    picture = photograph(640, 480)
    assert photograph(640, 480).content == picture.content
    assert picture.media_type == "image/jpeg"
    pixels = cv2.imdecode(np.frombuffer(picture.content, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert pixels.shape == (480, 640, 3)
    # A photograph at this quality has some bits a pixel; a plain ground has a hundredth of one.
    assert 0.1 < len(picture.content) / (640 * 480) < 0.6
