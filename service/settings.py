"""Settings from the environment, `RTMDET_*`; a wrong one stops the start with one clear line."""

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.environment import PREFIX, is_service_link, unknown_variables

Precision = Literal["auto", "f32", "bf16", "f16"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "text", "json"]


#: What the most demanding picture takes while it is decoded, one of 16 bits with transparency, and
#: any while it is drawn; the usual JPEG takes 6.
WORKING_BYTES_PER_PIXEL = 16


class SettingsError(ValueError):
    """A setting that cannot be used; the message names its variable."""


class Settings(BaseSettings):
    """Everything that can be set, with defaults that are safe for those who never read them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    tls_certificate: Path | None = Field(
        None,
        description="PEM file with the server's certificate and its chain; with `tls_key`, the "
        "server speaks https. Both are read again when they change.",
    )
    tls_key: Path | None = Field(
        None, description="PEM file with the certificate's key, without a passphrase."
    )
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file with who may sign clients' certificates; set, each client needs one.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses or networks, by commas, whose X-Forwarded-For and "
        "X-Forwarded-Proto are believed; they may have any number of connections.",
    )
    max_connections: int = Field(
        1024, ge=1, description="Open connections; idle ones are closed in favour of new ones."
    )
    max_connections_per_client: int = Field(
        256,
        ge=0,
        description="Open connections of one address (IPv6: of one /64 network); 0 is no limit.",
    )
    max_header_bytes: int = Field(
        32 * 1024, ge=1024, description="Largest head of a request: target and header fields."
    )
    max_headers: int = Field(100, ge=1, description="Header fields that a request may have.")
    header_timeout_ms: int = Field(
        10_000, ge=1, description="How long the head of a request (or a TLS handshake) may take."
    )
    body_timeout_ms: int = Field(
        30_000,
        ge=1,
        description="How long a body may be silent, or come more slowly than 128 KiB a second.",
    )
    write_timeout_ms: int = Field(
        30_000,
        ge=1,
        description="How long a client may leave an answer unread; every 128 KiB of it add a "
        "second.",
    )
    idle_timeout_ms: int = Field(
        75_000, ge=1, description="How long a connection is kept open between requests."
    )
    drain_delay_ms: int = Field(
        3_000,
        ge=0,
        description="After SIGTERM, how long requests are still taken while `/readyz` answers 503.",
    )

    model_repository: Path = Field(
        Path("triton_repo"), description="Folder of models, in Triton's layout."
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Names to load, by commas; empty loads every model of the repository."
    )
    default_model: str | None = Field(
        None,
        description="Answers requests that name no model; unset, the first by name for boxes does, "
        "or else for masks, or else for rotated boxes.",
    )

    runtime: Literal["auto", "openvino", "torch", "fake"] = Field(
        "auto",
        description="What runs the models; `auto` takes torch where it can use an NVIDIA GPU, else "
        "OpenVINO.",
    )
    precision: Precision = Field(
        "auto",
        description="Arithmetic of the runtime; `auto` takes the fastest in which a model finds "
        "what it finds in f32.",
    )
    inference_threads: int = Field(
        0,
        ge=0,
        description="Threads for inference on the processor; 0 takes one for every core that the "
        "process may use, by its container's quota too.",
    )
    inference_nice: int = Field(
        5,
        ge=0,
        le=19,
        description="How far threads for inference on the processor yield to those that talk to "
        "clients (Linux' niceness); 0 beside other programs that shall not go first either.",
    )
    max_batch_size: int = Field(
        16, ge=1, le=256, description="Pictures that a GPU takes in one batch, if they fit into it."
    )
    fake: str = Field(
        "",
        description="Pace and faults of the runtime `fake`, as in "
        "`call_ms=2,image_ms=1,fail_every=100`.",
    )
    worker_threads: int = Field(
        0, ge=0, description="Threads that decode pictures and post-process; 0 takes one per core."
    )

    max_queue: int = Field(
        64, ge=1, description="Pictures that may wait for one model; further ones are refused."
    )
    request_timeout_ms: int = Field(
        30_000,
        ge=1,
        description="How long a request may take; one may ask for less, more is cut to this.",
    )
    hang_timeout_ms: int = Field(
        60_000,
        ge=1,
        description="An inference that takes longer will not come back: its requests are answered "
        "with an error, and the engine is replaced.",
    )
    max_image_bytes: int = Field(
        32 * 1024 * 1024, ge=1, description="Largest encoded picture, in bytes."
    )
    max_image_pixels: int = Field(
        64_000_000, ge=1, description="Largest picture, in pixels (width times height)."
    )
    max_buffered_bytes: int = Field(
        512 * 1024 * 1024,
        ge=1,
        description="Bytes of request bodies that may be in memory at once, all clients together; "
        "one client may have half of them.",
    )

    max_working_bytes: int = Field(
        1024 * 1024 * 1024,
        ge=1,
        description="Bytes of decoded pictures and masks that may be in memory at once; "
        f"at least {WORKING_BYTES_PER_PIXEL} for each pixel of `max_image_pixels`.",
    )
    max_images_per_request: int = Field(
        32, ge=1, description="Pictures that one request to `/detect:batch` may have."
    )

    api_keys_file: Path | None = Field(
        None,
        description="File of API keys, as `rtmdet keys` writes it; once set, requests need a key. "
        "Changes are noticed while the server runs.",
    )
    allow_anonymous: bool = Field(
        False,
        description="Serve everyone who reaches the server, without keys; needed to listen on more "
        "than this machine without them.",
    )
    rate_limit: str = Field(
        "",
        description="Pictures that one client (key, else address) may send, such as `50/second` or "
        "`1000/minute;20/second`; empty sets no limit.",
    )

    log_level: LogLevel = Field(
        "info", description="The least grave lines that are logged: debug, info, warning or error."
    )
    log_format: LogFormat = Field(
        "auto",
        description="Log lines for people (`text`) or one JSON object each (`json`); `auto` writes "
        "text to a terminal and JSON to anything else.",
    )
    access_log: bool = Field(
        True, description="A log line for every request; probes are logged at `debug` alone."
    )
    tracing: Literal["off", "otlp"] = Field(
        "off",
        description="`otlp` sends traces as the standard variables `OTEL_*` say; it needs the "
        "`otel` extra.",
    )

    @field_validator("port", mode="before")
    @classmethod
    def _not_a_service_link(cls, value: object) -> object:
        # Kubernetes sets RTMDET_PORT in every pod beside a Service named `rtmdet`.
        return cls.model_fields["port"].default if is_service_link(value) else value

    @field_validator("tls_certificate", "tls_key", "tls_client_ca", mode="before")
    @classmethod
    def _none_if_empty(cls, value: object) -> object:
        """An empty variable is none, as deployments write it."""
        return None if value == "" else value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """As networks; what is none is refused rather than never matched."""
        return tuple(str(ip_network(text, strict=False)) for text in value)

    @field_validator("models", "trusted_proxies", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @model_validator(mode="after")
    def _largest_picture_fits(self) -> Self:
        least = self.max_image_pixels * WORKING_BYTES_PER_PIXEL
        if self.max_working_bytes < least:
            raise ValueError(
                f"{PREFIX}MAX_WORKING_BYTES={self.max_working_bytes} is less than the {least} that "
                f"a picture of {PREFIX}MAX_IMAGE_PIXELS={self.max_image_pixels} takes; change one"
            )
        return self


def load_settings(**overrides: object) -> Settings:
    """The environment's settings; `overrides` (from a command line) win where not None.

    Raises SettingsError naming the variable, what it was, and what is expected; also for one that
    is none of ours, which would do nothing.
    """
    if unknown := unknown_variables(os.environ, Settings.model_fields):
        raise SettingsError(str(unknown[0]))
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # pyright: ignore[reportArgumentType] - validated at run time
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            # Settings that do not go together: the message names them.
            raise SettingsError(first["msg"].removeprefix("Value error, ")) from error
        name = str(first["loc"][0])
        raise SettingsError(
            f"{PREFIX}{name.upper()}={first.get('input')!r}: {first['msg']}"
        ) from error
