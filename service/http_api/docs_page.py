"""The page at `/docs`, and the policy under which a browser shows it."""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Page:
    """A page and the headers that it needs."""

    content: bytes
    headers: Mapping[str, str]


@cache
def docs_page() -> Page:
    """The page; nothing but the script and the style inside it may run in it."""
    content = files("service.http_api").joinpath("docs.html").read_bytes()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_sources(content, b'script')}",
            f"style-src {_sources(content, b'style')}",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        # A page of another version asks for what is no longer there.
        "Cache-Control": "no-cache",
    }
    return Page(content, headers)


def _sources(content: bytes, tag: bytes) -> str:
    """The digests (CSP Level 3, section 2.3.1) of what stands between the tags."""
    inside: list[bytes] = re.findall(b"<%s>(.*?)</%s>" % (tag, tag), content, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text).digest()).decode() for text in inside)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
