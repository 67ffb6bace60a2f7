"""What the OpenAPI document says of keys: how one is sent, and what each route asks for."""

from typing import Any

from service.access.keys import SCOPES
from service.http_api.problems import MEDIA_TYPE
from service.http_api.route_needs import RouteRule, rule_for
from service.http_api.schemas import ProblemSchema

_HOW = (
    "Only where the server was given keys. A key has scopes, of which none includes another: "
    f"{', '.join(SCOPES)}."
)
_SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": _HOW},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": _HOW},
}


def declare_access(document: dict[str, Any]) -> None:
    """Add the security schemes, and to every operation its scope and its refusals."""
    document.setdefault("components", {})["securitySchemes"] = _SCHEMES
    for path, operations in document["paths"].items():
        rule = rule_for(path)
        for operation in operations.values():
            operation["security"] = _security(rule)
            responses = operation["responses"] | _refusals(rule)
            operation["responses"] = dict(sorted(responses.items()))


def _security(rule: RouteRule) -> list[dict[str, list[str]]]:
    if rule.need == "nothing":
        return []
    scopes = [] if rule.need == "any-key" else [rule.need]
    # Either of them will do.
    return [{scheme: scopes} for scheme in _SCHEMES]


def _refusals(rule: RouteRule) -> dict[str, Any]:
    refusals: dict[str, Any] = {
        "403": _problem("The key lacks the scope, or a page of another site asks.")
    }
    if rule.need != "nothing":
        refusals["401"] = _problem("No valid API key.")
    if rule.is_rate_limited:
        refusals["429"] = _problem("More than this client may ask for now; see Retry-After.")
    return refusals


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{ProblemSchema.__name__}"}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}
