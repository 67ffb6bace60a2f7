"""The endpoints for models: which there are, and loading, replacing and unloading them."""

import asyncio

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response

from service.errors import FieldError, InvalidOption
from service.http_api import openapi
from service.http_api.asked import detector_of
from service.http_api.negotiation import JSON
from service.registry import ModelStatus

router = APIRouter()


@router.get("/models", **openapi.MODELS)
async def models(request: Request) -> Response:
    """The models of the repository: those that answer, which of them by default, and the others."""
    registry = detector_of(request).registry
    catalogue = await asyncio.to_thread(registry.catalogue)
    listed = [_model(status, registry.default_name) for status in catalogue]
    return Response(to_json({"models": listed}), media_type=JSON)


@router.post("/models/{name}/load", **openapi.LOAD)
async def load(request: Request, name: str) -> Response:
    """Load a model, or replace the version that is served by the newest, without a lost request.

    Waits until it is warm and serves. `version` names another version than the newest. If it cannot
    be loaded, what was served before still is.
    """
    _refuse_unknown(request, "version")
    registry = detector_of(request).registry
    status = await registry.load(name, _version(request.query_params.get("version")))
    return Response(to_json(_model(status, registry.default_name)), media_type=JSON)


@router.post("/models/{name}/unload", **openapi.UNLOAD)
async def unload(request: Request, name: str) -> Response:
    """Take a model out of service, after it has answered what it accepted."""
    _refuse_unknown(request)
    registry = detector_of(request).registry
    status = await registry.unload(name)
    return Response(to_json(_model(status, registry.default_name)), media_type=JSON)


def _refuse_unknown(request: Request, *known: str) -> None:
    """A misspelt name must not do something else than what was meant."""
    for name in request.query_params:
        if name not in known:
            options = f"there is {', '.join(known)}" if known else "there are none"
            detail = f"unknown option '{name[:64]}'; {options}"
            raise InvalidOption(detail, errors=[FieldError("/query", detail)])


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    is_number = text.isascii() and text.isdecimal() and len(text) < 10
    if not (is_number and 0 < int(text) <= openapi.MAX_VERSION):
        detail = "version must be a whole number from 1 on; leave it out for the newest"
        raise InvalidOption(detail, errors=[FieldError("/version", detail)])
    return int(text)


def _model(status: ModelStatus, default_name: str | None) -> dict[str, object]:
    members: dict[str, object] = {"name": status.name, "state": status.state}
    if status.problem is not None:
        members["problem"] = status.problem
    if status.served is None:
        return members
    manifest = status.served.source.manifest
    height, width = manifest.input_size
    return members | {
        "default": status.name == default_name,
        "task": manifest.task,
        "variant": manifest.variant,
        "version": str(status.served.source.version),
        "classes": manifest.classes,
        "input_size": {"width": width, "height": height},
        "thresholds": manifest.thresholds.model_dump(),
        "metrics": manifest.metrics,
        "evaluations": [each.model_dump() for each in manifest.evaluations],
        "runtime": status.served.runtime_description,
        "runtime_reason": status.served.runtime_reason,
    }
