"""What the OpenAPI document says beyond what the code shows: bodies, options, answers."""

from typing import Any

from service.http_api.negotiation import JPEG, PNG
from service.http_api.options import ALIASES, OptionFields
from service.http_api.problems import MEDIA_TYPE
from service.http_api.schemas import DetectSchema, ProblemSchema

_PICTURE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "model": ProblemSchema, "content": {MEDIA_TYPE: {}}}


def _option_schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = OptionFields.model_json_schema()["properties"]
    schemas["classes"] = {
        "type": "string",
        "description": schemas["classes"]["description"],
        "examples": ["person,car"],
    }
    return schemas


def _parameters() -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    for name, schema in _option_schemas().items():
        aliases = [alias for alias, meant in ALIASES.items() if meant == name]
        also = f" Also understood: {', '.join(aliases)}." if aliases else ""
        description = schema.pop("description", "") + also
        parameters.append(
            {"name": name, "in": "query", "schema": schema, "description": description}
        )
    return parameters


def _request_body() -> dict[str, Any]:
    options = _option_schemas()
    part = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["image"], "properties": {"image": part} | options}
    base64 = {"type": "string", "description": "base64 of the picture's bytes"}
    image = {"type": "object", "required": ["base64"], "properties": {"base64": base64}}
    document = {"type": "object", "required": ["image"], "properties": {"image": image} | options}
    return {
        "required": True,
        "content": {
            "image/*": _PICTURE,
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": document},
        },
    }


DETECT: dict[str, Any] = {
    "tags": ["detection"],
    "responses": {
        200: {
            "description": "The detections, or the picture with the detections drawn.",
            "model": DetectSchema,
            "content": {JPEG: _PICTURE, PNG: _PICTURE},
        },
        400: _problem("No picture, a damaged one, or two."),
        404: _problem("No model of that name."),
        406: _problem("None of the offered answer formats is accepted."),
        413: _problem("Too many bytes or pixels."),
        415: _problem("A content type or picture format that is not served."),
        422: _problem("An option with a wrong name or value."),
        503: _problem("Too many requests are waiting, or the model is not loaded."),
        504: _problem("No answer in the time that the request allowed."),
    },
    "openapi_extra": {"parameters": _parameters(), "requestBody": _request_body()},
}

MODELS: dict[str, Any] = {"tags": ["models"]}
LIVEZ: dict[str, Any] = {"tags": ["operation"]}
LIMITS: dict[str, Any] = {"tags": ["operation"]}
METRICS: dict[str, Any] = {
    "tags": ["operation"],
    "responses": {200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}},
}
READYZ: dict[str, Any] = {"tags": ["operation"], "responses": {503: {"description": "Not ready."}}}
PROBLEM: dict[str, Any] = {
    "tags": ["operation"],
    "responses": {404: {"description": "No such code; the answer lists those there are."}},
}
