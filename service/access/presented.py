"""How a key comes with a request: the same two fields in HTTP headers and in gRPC metadata."""

from collections.abc import Iterable

#: Names of the fields, in lower case.
AUTHORIZATION = "authorization"
API_KEY = "x-api-key"

_SCHEME = "bearer"


def presented_keys(authorizations: Iterable[str], api_keys: Iterable[str]) -> frozenset[str]:
    """The different keys of a request, in `Authorization: Bearer KEY` or `X-API-Key: KEY`.

    Other schemes of `Authorization` are somebody else's, a proxy's for instance.
    """
    keys = {key.strip() for key in api_keys}
    for value in authorizations:
        scheme, _, key = value.strip().partition(" ")
        if scheme.lower() == _SCHEME:
            keys.add(key.strip())
    return frozenset(keys - {""})
