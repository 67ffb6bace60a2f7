"""Until when the server's certificate is valid."""

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from service.diagnosis.findings import Finding

_AREA = "certificate"
_NAME = "RTMDET_TLS_CERTIFICATE"

_SOON = timedelta(days=14)

_RENEW = "renew it; a running server takes the new one up by itself"

#: The first of a file is the server's own; those of its chain follow.
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

# Tags of DER.
_VERSION = 0xA0
_UTC_TIME = 0x17


def check_certificate(path: Path, now: datetime) -> Finding:
    """Whether the certificate has expired, or is about to."""
    try:
        until = valid_until(path.read_text("ascii", errors="replace"))
    except OSError as error:
        return Finding(_AREA, _NAME, "problem", f"{path}: {error.strerror}", "create it")
    except ValueError as error:
        return Finding(_AREA, _NAME, "problem", f"{path}: {error}", "create it again")
    shown = f"{until:%Y-%m-%d %H:%M} UTC"
    days_left = (until - now).days
    data = {"valid_until": until.isoformat(), "days_left": days_left}
    if until <= now:
        return Finding(_AREA, _NAME, "problem", f"{path} expired at {shown}", _RENEW, data)
    if until <= now + _SOON:
        left = f"{path} expires at {shown}, days left: {days_left}"
        return Finding(_AREA, _NAME, "warning", left, _RENEW, data)
    return Finding(_AREA, _NAME, "ok", f"{path} is valid until {shown}", data=data)


def valid_until(pem: str) -> datetime:
    """When the first certificate of a PEM file expires. Raises ValueError.

    Python's own `ssl` tells it of a connection alone, so the few fields before it are walked over
    here (RFC 5280, section 4.1).
    """
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("there is no certificate in PEM form in it")
    try:
        (_, certificate) = next(_elements(ssl.PEM_cert_to_DER_cert(found[0])))
        (_, signed) = next(_elements(certificate))
        fields = [each for each in _elements(signed) if each[0] != _VERSION]
        # After serial number, algorithm and issuer.
        (_, validity) = fields[3]
        _, (tag, time) = _elements(validity)
        text = time.decode("ascii")
        if tag == _UTC_TIME:
            text = ("19" if text >= "5" else "20") + text
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except (ValueError, IndexError, StopIteration) as error:
        raise ValueError("the certificate is damaged") from error


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tags and contents of what stands side by side in DER (X.690). Raises IndexError."""
    position = 0
    while position < len(der):
        tag, length = der[position], der[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[position : position + size])
            position += size
        yield tag, der[position : position + length]
        position += length
