"""Settings from the environment, `RTMDET_*`; a wrong one stops the start with one clear line."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "RTMDET_"

Precision = Literal["auto", "f32", "bf16", "f16"]


class SettingsError(ValueError):
    """A setting that cannot be used; the message names its variable."""


class Settings(BaseSettings):
    """Everything that can be set, with defaults that are safe for those who never read them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000

    #: Folder of models, in Triton's layout.
    model_repository: Path = Path("triton_repo")
    #: Names to load, separated by commas; empty loads every model of the repository.
    models: Annotated[tuple[str, ...], NoDecode] = ()
    #: Answers requests that name no model; unset, the first one loaded does.
    default_model: str | None = None

    runtime: Literal["auto", "openvino", "fake"] = "auto"
    #: Arithmetic of the embedded runtime; `auto` takes bf16 where the processor has it.
    precision: Precision = "auto"
    #: Threads for inference; 0 takes every core.
    inference_threads: Annotated[int, Field(ge=0)] = 0
    #: Threads that decode pictures and post-process; 0 takes one per core.
    worker_threads: Annotated[int, Field(ge=0)] = 0

    #: Requests that may wait for one model; further ones are refused at once.
    max_queue: Annotated[int, Field(ge=1)] = 64
    #: How long a request may take; one may ask for less, more is cut to this.
    request_timeout_ms: Annotated[int, Field(ge=1)] = 30_000
    #: An inference that takes longer will not come back: its requests are answered with an error,
    #: and the engine is replaced.
    hang_timeout_ms: Annotated[int, Field(ge=1)] = 60_000
    max_image_bytes: Annotated[int, Field(ge=1)] = 32 * 1024 * 1024
    #: Bytes of request bodies that may be in memory at once, all clients together.
    max_buffered_bytes: Annotated[int, Field(ge=1)] = 512 * 1024 * 1024
    max_image_pixels: Annotated[int, Field(ge=1)] = 64_000_000

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("models", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value


def load_settings(**overrides: object) -> Settings:
    """The environment's settings; `overrides` (from a command line) win where not None.

    Raises SettingsError naming the variable, what it was, and what is expected.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # pyright: ignore[reportArgumentType] - validated at run time
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise SettingsError(
            f"{PREFIX}{name.upper()}={first.get('input')!r}: {first['msg']}"
        ) from error
