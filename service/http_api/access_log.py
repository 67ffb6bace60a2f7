"""A log line for every request that was answered."""

import logging

from service.http_api.request_record import RequestRecord
from service.logs import Event

logger = logging.getLogger("service.access")

#: Asked every few seconds by what watches the server: not worth a line each.
_PROBES = frozenset(
    f"{prefix}{path}" for prefix in ("", "/v1") for path in ("/livez", "/readyz", "/metrics")
)

#: A path is the client's, and may be thousands of characters long.
_LONGEST_PATH = 256


def log_answered(record: RequestRecord) -> None:
    """Write its line: at `info`, and at `debug` for a probe."""
    level = logging.DEBUG if is_probe(record.path) else logging.INFO
    if logger.isEnabledFor(level):
        logger.log(level, _line(record))


def is_probe(path: str) -> bool:
    """Whether what watches the server asks for this path."""
    return path in _PROBES


def _line(record: RequestRecord) -> Event:
    fields: dict[str, object] = {
        "duration_ms": round(record.duration_s * 1000, 3),
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
    }
    if record.path != record.route:
        fields["path"] = record.path[:_LONGEST_PATH]
    known = {
        "client": record.address,
        "key": record.caller and record.caller.key_name,
        "model": record.model,
        "problem": record.problem,
    }
    fields |= {name: value for name, value in known.items() if value}
    method, route, status = record.method, record.route or "other", record.code
    return Event(
        f"{method} {route} {status}",
        told={"method": method, "route": route, "status": status},
        fields=fields,
    )
