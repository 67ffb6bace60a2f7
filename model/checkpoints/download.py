"""Downloads a large file so that it arrives whole or not at all, and goes on where it was cut.

Standard library only. What is there so far stands in `NAME.part`, and `NAME.part.validator` says
which version of the file on the server it is a part of. Torch-free.
"""

import errno
import hashlib
import http.client
import ipaddress
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from model.durable import move_into_place, part_of

#: Seconds without a byte before a connection counts as dead.
TIMEOUT_S = 30.0

#: Attempts in a row that bring no byte before it gives up.
MAX_ATTEMPTS = 4

_CHUNK_BYTES = 1 << 18
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_MAY_PASS = {408, 425, 429, 500, 502, 503, 504}

#: Told the bytes that are there and the bytes that there will be, where the server says.
Progress = Callable[[int, int | None], None]


class DownloadFailed(Exception):
    """The file could not be fetched; what arrived is kept for the next attempt."""


class WrongDigest(DownloadFailed):
    """What arrived is another file than was published; it was removed."""


class _MayPass(Exception):
    """A failure of the network or of the server that another attempt may not meet."""


def download(
    url: str,
    path: Path,
    *,
    sha256_prefix: str | None = None,
    progress: Progress = lambda received, total: None,
    pause: Callable[[float], None] = time.sleep,
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Fetch `url` to `path`, whose folder is made; returns `path`.

    A file that is there and has the digest is left as it is. Raises ValueError for an address
    that is neither https nor on this machine, DownloadFailed where the server or the disk refuses,
    and WrongDigest.
    """
    _require_safe(url)
    if path.exists() and _has_digest(path, sha256_prefix):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(url, part_of(path), progress, timeout_s)
    transfer.run(pause)
    if not _has_digest(transfer.part, sha256_prefix):
        transfer.forget()
        raise WrongDigest(
            f"{url}: the file that arrived does not have the published sha256 "
            f"({sha256_prefix}...) and was removed"
        )
    move_into_place(transfer.part, path)
    transfer.forget()
    return path


def _require_safe(url: str) -> None:
    """https from anywhere; plain http from this machine alone, where nobody stands in between."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_this_machine(parts.hostname or ""):
        return
    raise ValueError(f"'{url}' is no https address")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _has_digest(path: Path, sha256_prefix: str | None) -> bool:
    if sha256_prefix is None:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256_prefix)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but to no address that `download` would not take."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """As the base class does, after a look at the new address."""
        try:
            _require_safe(newurl)
        except ValueError as error:
            raise DownloadFailed(f"{req.full_url}: the server redirects, but {error}") from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass
class _Transfer:
    """One file on its way."""

    url: str
    part: Path
    progress: Progress
    timeout_s: float

    @property
    def validator_file(self) -> Path:
        return self.part.with_name(self.part.name + ".validator")

    def run(self, pause: Callable[[float], None]) -> None:
        """Attempt after attempt until the file is there; only those in vain are counted."""
        in_vain = 0
        while True:
            before = self._received()
            try:
                return self._attempt(before)
            except _MayPass as failure:
                in_vain = 1 if self._received() > before else in_vain + 1
                if in_vain == MAX_ATTEMPTS:
                    raise DownloadFailed(f"{self.url}: {failure}") from failure
            pause(min(_FIRST_PAUSE_S * 2 ** (in_vain - 1), _LONGEST_PAUSE_S))

    def forget(self) -> None:
        """Remove the part and what is known of it."""
        self.part.unlink(missing_ok=True)
        self.validator_file.unlink(missing_ok=True)

    def _received(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _attempt(self, received: int) -> None:
        """One request, from where the last one ended. Raises _MayPass or DownloadFailed."""
        with self._open(received) as response:
            if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return self._finish_or_restart(response, received)
            begin, total = _extent(response)
            if begin not in (0, received):
                self.forget()
                raise _MayPass("the server sent another range than was asked for")
            self._require_room(begin, total)
            if begin == 0:
                self._remember_validator(response)
            arrived = self._write(response, begin, total)
        if total is not None and arrived < total:
            raise _MayPass(f"the connection ended after {arrived} of {total} bytes")
        return None

    def _open(self, received: int) -> Any:
        """The server's answer: 200, 206 or 416."""
        request = urllib.request.Request(self.url, headers={"User-Agent": "rtmdet-serving"})
        if received:
            request.add_header("Range", f"bytes={received}-")
            if self.validator_file.exists():
                request.add_header("If-Range", self.validator_file.read_text("ascii"))
        try:
            opener = urllib.request.build_opener(_SafeRedirects)
            return opener.open(request, timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return error
            error.close()
            answer = f"the server answered {error.code} {error.reason}"
            if error.code in _MAY_PASS:
                raise _MayPass(answer) from error
            raise DownloadFailed(f"{self.url}: {answer}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise DownloadFailed(f"{self.url}: {reason.verify_message}") from error
            raise _MayPass(f"cannot be reached: {reason}") from error

    def _finish_or_restart(self, response: Any, received: int) -> None:
        """Nothing lies behind what is there: it is the whole file, or part of another one."""
        whole = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
        if whole is None or int(whole[1]) != received:
            self.forget()
            raise _MayPass("what was there is no part of the file")

    def _remember_validator(self, response: Any) -> None:
        """Keep what tells this version of the file from others. A weak tag does not (RFC 9110)."""
        tag = response.headers.get("ETag", "")
        validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
        self.validator_file.unlink(missing_ok=True)
        if validator.isascii() and validator:
            self.validator_file.write_text(validator, "ascii")

    def _require_room(self, begin: int, total: int | None) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - begin > free:
            raise DownloadFailed(
                f"{self.part.parent}: the file needs {(total - begin) / 1e6:.0f} MB, "
                f"but {free / 1e6:.0f} MB are free"
            )

    def _write(self, response: Any, begin: int, total: int | None) -> int:
        """Append what arrives, each chunk at once; returns the bytes that are there then."""
        arrived = begin
        with self.part.open("ab" if begin else "wb") as file:
            self.progress(arrived, total)
            while chunk := _read(response):
                try:
                    file.write(chunk)
                    file.flush()
                except OSError as error:
                    raise DownloadFailed(_disk_complaint(self.part, error)) from error
                arrived += len(chunk)
                self.progress(arrived, total)
        return arrived


def _read(response: Any) -> bytes:
    try:
        return response.read1(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _MayPass(f"the connection broke: {error}") from error


def _extent(response: Any) -> tuple[int, int | None]:
    """Where the answer's bytes begin in the file, and how long the file is."""
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if span is None:
            raise _MayPass("the server sent a range without saying which")
        return int(span[1]), int(span[2])
    return 0, response.length


def _disk_complaint(part: Path, error: OSError) -> str:
    room = " when there is room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{part}: {error.strerror}; what arrived is kept: run the same command again{room}"
