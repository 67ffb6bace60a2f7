import pytest

from service.errors import NotAcceptable
from service.http_api.negotiation import choose_media_type


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("image/png", "image/png"),
        ("image/jpeg", "image/jpeg"),
        ("IMAGE/PNG", "image/png"),
        ("image/*", "image/jpeg"),
        ("image/png, image/jpeg;q=0.9", "image/png"),
        ("text/html, */*;q=0.1", "application/json"),
        ("image/*;q=0.5, image/png;q=0.8", "image/png"),
        ("application/json;q=0, */*", "image/jpeg"),
        ("image/avif,image/webp,image/png,image/*;q=0.8,*/*;q=0.5", "image/png"),
    ],
)
def test_choose_media_type__follows_the_header(accept: str | None, chosen: str) -> None:
    assert choose_media_type(accept) == chosen


@pytest.mark.parametrize("accept", ["text/html", "image/webp", "*/*;q=0", "image/png;q=x"])
def test_choose_media_type__nothing_offered_is_accepted(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/json"):
        choose_media_type(accept)
