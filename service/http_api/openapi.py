"""What the OpenAPI document says beyond what the code shows: bodies, options, answers."""

from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from service.http_api.negotiation import JPEG, JSON, PNG
from service.http_api.operation_schemas import (
    LimitsSchema,
    LivezSchema,
    MeaningSchema,
    ModelsSchema,
    ModelStateSchema,
    ReadyzSchema,
)
from service.http_api.options import ALIASES, OptionFields
from service.http_api.problems import MEDIA_TYPE
from service.http_api.schemas import DetectBatchSchema, DetectSchema, ProblemSchema

#: One white pixel, so that an example can be sent as it stands.
_TINY_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVQIHWP4DwABAQEANl9ngAAAAABJRU5ErkJggg=="
)

#: An answer of a model for masks.
_EXAMPLE: dict[str, Any] = {
    "id": "req_01946c3f5a7b9f2d6c1e8a4b7d3f",
    "model": {"name": "rtmdet-ins-s-coco", "version": "1", "task": "instance"},
    "image": {"width": 640, "height": 480},
    "detections": [
        {
            "label": "person",
            "class_id": 0,
            "score": 0.91,
            "box": [20.0, 100.0, 26.0, 110.0],
            "mask": {"format": "rle", "size": [480, 640], "counts": "T_9:f>000000000lfo8"},
        }
    ],
    "timings_ms": {
        "decode": 2.1,
        "queue": 0.1,
        "infer": 23.4,
        "postprocess": 0.8,
        "total": 26.6,
    },
    "batch": {"size": 1},
}

#: Largest number of a version that may be asked for.
MAX_VERSION = 999_999_999

_PROBLEM_SCHEMA = {"$ref": f"#/components/schemas/{ProblemSchema.__name__}"}
_PICTURE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: {"schema": _PROBLEM_SCHEMA}}}


def _answer(description: str, schema: type[BaseModel]) -> dict[str, Any]:
    return {"description": description, "model": schema}


def _options_as_text() -> dict[str, Any]:
    """The options in a query or a form, where leaving one out is the way to say nothing."""
    schemas: dict[str, Any] = OptionFields.model_json_schema()["properties"]
    for name, schema in schemas.items():
        if alternatives := schema.pop("anyOf", None):
            schemas[name] = schema | alternatives[0]
        schema = schemas[name]
        if schema.get("default", "") is None:
            del schema["default"]
    description = schemas["classes"]["description"]
    schemas["classes"] = {"type": "string", "description": description, "examples": ["person,car"]}
    return schemas


def _with_aliases(options: dict[str, Any]) -> dict[str, Any]:
    """The options under all their names."""
    also = {alias: options[name] for alias, name in ALIASES.items()}
    return options | also


def _options_in_json() -> dict[str, Any]:
    """The options as members, which may be null; `classes` may be an array."""
    options = _options_as_text()
    described = {key: options["classes"].pop(key) for key in ("description", "examples")}
    element = {"type": ["string", "integer"]}
    options["classes"] = described | {
        "anyOf": [{"type": ["string", "integer"]}, {"type": "array", "items": element}]
    }
    for name, field in OptionFields.model_fields.items():
        if field.default is None:
            schema = options[name]
            described = {key: schema.pop(key) for key in ("description",) if key in schema}
            options[name] = described | {"anyOf": [schema, {"type": "null"}]}
    return options


def _parameters() -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    for name, schema in _options_as_text().items():
        aliases = [alias for alias, meant in ALIASES.items() if meant == name]
        also = f" Also understood: {', '.join(aliases)}." if aliases else ""
        description = schema.pop("description", "") + also
        parameters.append(
            {"name": name, "in": "query", "schema": schema, "description": description}
        )
    return parameters


def _object(required: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [required],
        "properties": properties,
        "additionalProperties": False,
    }


def _request_body(*, several: bool) -> dict[str, Any]:
    """Bodies of `/detect`, or of `/detect:batch`."""
    name = "images" if several else "image"
    part: dict[str, Any] = {"type": "string", "format": "binary"}
    base64 = {
        "type": "string",
        "format": "byte",
        "description": "base64 of the picture's bytes; it may be a data URI.",
    }
    image = _object("base64", {"base64": base64})
    if several:
        part = {"type": "array", "items": part}
        image = {"type": "array", "items": image, "minItems": 1}
    form = _object(name, {name: part} | _with_aliases(_options_as_text()))
    options = _with_aliases(_options_in_json())
    nested = {"type": "object", "properties": options, "additionalProperties": False}
    document = _object(name, {name: image} | options | {"options": nested})
    in_json: Any = [{"base64": _TINY_PNG}] * 2 if several else {"base64": _TINY_PNG}
    content: dict[str, Any] = {
        "multipart/form-data": {"schema": form},
        "application/json": {
            "schema": document,
            "example": {name: in_json, "score_threshold": 0.4},
        },
    }
    return {"required": True, "content": content if several else {"image/*": _PICTURE} | content}


_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: _problem("No picture, a damaged one, or more than one request may have."),
    404: _problem("No model of that name."),
    406: _problem("None of the offered answer formats is accepted."),
    408: _problem("The body did not arrive in time."),
    413: _problem("Too many bytes or pixels, or masks that would take too much memory."),
    415: _problem("A content type or picture format that is not served."),
    422: _problem("An option with a wrong name or value."),
    500: _problem("The runtime failed on the picture."),
    503: _problem("Too many requests are waiting, or the model is not loaded."),
    504: _problem("No answer in the time that the request allowed."),
}

DETECT: dict[str, Any] = {
    "tags": ["detection"],
    "responses": {
        200: {
            "description": "The detections, or the picture with the detections drawn.",
            "model": DetectSchema,
            "content": {JSON: {"example": _EXAMPLE}, JPEG: _PICTURE, PNG: _PICTURE},
        },
        **_REFUSALS,
    },
    "openapi_extra": {"parameters": _parameters(), "requestBody": _request_body(several=False)},
}

DETECT_BATCH: dict[str, Any] = {
    "tags": ["detection"],
    "responses": {
        200: {
            "description": "A result for each picture, in their order.",
            "model": DetectBatchSchema,
            "content": {JSON: {"example": {"id": _EXAMPLE["id"], "results": [_EXAMPLE]}}},
        },
        **_REFUSALS,
    },
    "openapi_extra": {"parameters": _parameters(), "requestBody": _request_body(several=True)},
}

LOAD: dict[str, Any] = {
    "tags": ["models"],
    "responses": {
        200: _answer("The model, as it is served now.", ModelStateSchema),
        404: _problem("No model of that name in the repository."),
        409: _problem("The model cannot be loaded; what was served before still is."),
        422: _problem("`version` is no number, or an option that there is not."),
        503: _problem("The server is shutting down."),
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": "version",
                "in": "query",
                "schema": {"type": "integer", "minimum": 1, "maximum": MAX_VERSION},
                "description": "Version to load; the newest where it is left out.",
            }
        ]
    },
}
UNLOAD: dict[str, Any] = {
    "tags": ["models"],
    "responses": {
        200: _answer("The model, which is not served any more.", ModelStateSchema),
        404: _problem("No model of that name is loaded."),
        422: _problem("An option that there is not."),
        503: _problem("The server is shutting down."),
    },
}

MODELS: dict[str, Any] = {
    "tags": ["models"],
    "responses": {200: _answer("All models of the repository.", ModelsSchema)},
}
LIVEZ: dict[str, Any] = {
    "tags": ["operation"],
    "responses": {200: _answer("The process answers.", LivezSchema)},
}
LIMITS: dict[str, Any] = {
    "tags": ["operation"],
    "responses": {200: _answer("What a request may be.", LimitsSchema)},
}
METRICS: dict[str, Any] = {
    "tags": ["operation"],
    "response_class": Response,
    "responses": {
        200: {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
}
READYZ: dict[str, Any] = {
    "tags": ["operation"],
    "responses": {
        200: _answer("Ready.", ReadyzSchema),
        503: _answer("Not ready.", ReadyzSchema),
    },
}
PROBLEM: dict[str, Any] = {
    "tags": ["operation"],
    "responses": {
        200: _answer("What it means.", MeaningSchema),
        404: _problem("No such code; `detail` lists those there are."),
    },
}


def drop_unused_refusals(document: dict[str, Any]) -> None:
    """Take out what FastAPI adds for parameters that it would check; ours are checked by us."""
    schemas = document["components"]["schemas"]
    for operations in document["paths"].values():
        for operation in operations.values():
            refusal = operation["responses"].get("422", {})
            if JSON in refusal.get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
