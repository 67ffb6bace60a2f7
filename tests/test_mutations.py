"""Pictures and bodies that were damaged at random: each is answered, and none costs the server.

A failure names the seed and the index; `Mutations(SEED).picture(INDEX)` gives the file again. The
long run is `python -m benchmarks.mutations --count 20000`.
"""

import os
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.codecs.images import ImageLimits, decode
from service.errors import ServiceError
from service.http_api.app import create_app
from service.settings import Settings
from service.wiring import build_detector
from tests.measured_decoding import measure
from tests.mutations import Mutations, sound_pictures, with_mended_checksums
from tests.repositories import write_model
from tests.servers import running_server

SEED = int(os.environ.get("MUTATIONS_SEED", "0"))
LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000)


def test_mutations__the_files_they_start_from_are_sound() -> None:
    for data in sound_pictures():
        assert decode(data, LIMITS).width > 1


def test_mutations__follow_from_their_seed() -> None:
    one, other = Mutations(5), Mutations(6)
    pictures = [one.picture(index) for index in range(50)]
    assert pictures == [Mutations(5).picture(index) for index in range(50)]
    assert pictures != [other.picture(index) for index in range(50)]
    assert len(set(pictures)) > 45
    assert one.body(3) == Mutations(5).body(3)


def test_mutations__reach_behind_the_checksums() -> None:
    png = next(data for data in sound_pictures() if data.startswith(b"\x89PNG"))
    assert with_mended_checksums(png) == png
    broken = png[:29] + bytes(4) + png[33:]
    assert with_mended_checksums(broken) == png


def test_decode__mutated_pictures_raise_our_errors_alone() -> None:
    mutations = Mutations(SEED)
    outcomes: set[str] = set()
    for index in range(1500):
        data = mutations.picture(index)
        try:
            image = decode(data, LIMITS)
        except ServiceError as error:
            outcomes.add(error.code)
            continue
        except BaseException as error:
            raise AssertionError(f"Mutations({SEED}).picture({index}): {error!r}") from error
        assert image.pixels_bgr.dtype == np.uint8
        assert image.pixels_bgr.shape == (image.height, image.width, 3)
        outcomes.add(image.header.format)
    # Damage of every kind, and files that still show something.
    assert outcomes >= {"undecodable-image", "unsupported-media-type", "image-too-large"}
    assert outcomes >= {"jpeg", "png", "webp", "gif", "tiff", "bmp"}


def test_decode__mutated_pictures_take_what_their_headers_claim(tmp_path: Path) -> None:
    """A header that we and a decoder read in different ways would show here."""
    mutations = Mutations(SEED)
    files = [tmp_path / f"{index}" for index in range(400)]
    for index, file in enumerate(files):
        file.write_bytes(mutations.picture(index))
    for index, taken in enumerate(measure(files, max_pixels=64_000_000)):
        most = (taken.working_bytes or 0) + (16 << 20)
        assert taken.peak_bytes <= most, f"Mutations({SEED}).picture({index}): {taken}"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory):
    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "boxes")
    settings = Settings(model_repository=repository, runtime="fake", max_image_bytes=1 << 20)
    with running_server(create_app(build_detector(settings), max_buffered_bytes=10**8)) as client:
        yield client


def test_detect__mutated_bodies_are_answered(client: httpx.Client) -> None:
    mutations = Mutations(SEED)
    statuses: set[int] = set()
    for index in range(500):
        hostile = mutations.body(index)
        headers = {"Content-Type": hostile.content_type.encode("latin-1")}
        response = client.post(hostile.target, content=hostile.body, headers=headers)
        where = f"Mutations({SEED}).body({index}): {response.status_code} {response.text[:300]}"
        assert response.status_code < 500 or response.status_code in (503, 504), where
        if response.status_code != 200:
            assert response.headers["content-type"] == "application/problem+json", where
            assert response.json()["status"] == response.status_code, where
        statuses.add(response.status_code)
    assert statuses >= {200, 400, 415, 422}
