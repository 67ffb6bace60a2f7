"""TLS of the server: opened from files, and opened again when the files change."""

import logging
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from service.settings import PREFIX, Settings, SettingsError

logger = logging.getLogger(__name__)

#: For TLS 1.2; those of 1.3 are all good. Forward secrecy and authenticated encryption only.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

#: Of certificates of all authorities there are, with comments, a quarter.
_MAX_FILE_BYTES = 1024 * 1024

_Signature = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: a certificate chain, its key, and who signs clients' certificates, if any."""

    certificate: Path
    key: Path
    client_ca: Path | None


def tls_files(settings: Settings) -> TlsFiles | None:
    """The files that the settings name, or None without TLS. Raises SettingsError."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is not None and key is not None:
        return TlsFiles(certificate, key, settings.tls_client_ca)
    if certificate is not None:
        raise SettingsError(f"{PREFIX}TLS_CERTIFICATE is set, so {PREFIX}TLS_KEY must be too")
    if key is not None:
        raise SettingsError(f"{PREFIX}TLS_KEY is set, so {PREFIX}TLS_CERTIFICATE must be too")
    if settings.tls_client_ca is not None:
        raise SettingsError(
            f"{PREFIX}TLS_CLIENT_CA needs TLS: set {PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY"
        )
    return None


class ServerTls:
    """`context` is for the next connection; it is replaced whole, never changed."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises SettingsError naming the setting whose file is wrong."""
        self._files = files
        # Before the files are read: what changes meanwhile is seen as a change.
        self._opened = self._seen = _signature(files)
        self.context = _open(files)

    def reload_if_changed(self) -> None:
        """Open the files again once they have changed and then stayed as they are for a call.

        A renewal writes one file after the other. What cannot be used is logged, and the previous
        certificate stays.
        """
        before, self._seen = self._seen, _signature(self._files)
        if self._seen == self._opened or self._seen != before:
            return
        self._opened = self._seen
        try:
            self.context = _open(self._files)
        except SettingsError as error:
            logger.error("the previous TLS certificate stays in use: %s", error)
        else:
            logger.info("TLS certificate %s opened again", self._files.certificate)


def _open(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    _require(files.certificate, "TLS_CERTIFICATE", "-----BEGIN CERTIFICATE-----")
    _require(files.key, "TLS_KEY", "PRIVATE KEY-----")
    try:
        # Without a password at hand OpenSSL would ask for one on the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except ssl.SSLError as error:
        raise _unusable(files, error) from error
    if files.client_ca is not None:
        _require(files.client_ca, "TLS_CLIENT_CA", "-----BEGIN CERTIFICATE-----")
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError as error:
            raise _wrong("TLS_CLIENT_CA", files.client_ca, "is damaged") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _require(path: Path, setting: str, marker: str) -> None:
    """The file must be readable, and hold what it is for."""
    try:
        status = path.stat()
        # Before it is opened: a pipe would wait for ever, a device never end.
        if not stat.S_ISREG(status.st_mode):
            raise _wrong(setting, path, "is no regular file")
        if status.st_size > _MAX_FILE_BYTES:
            raise _wrong(setting, path, f"has more than {_MAX_FILE_BYTES} bytes")
        text = path.read_text("ascii", errors="replace")
    except OSError as error:
        raise _wrong(setting, path, f"cannot be read: {error.strerror}") from error
    if marker not in text:
        what = "private key" if "KEY" in marker else "certificate"
        raise _wrong(setting, path, f"holds no {what} in PEM form")


def _unusable(files: TlsFiles, error: ssl.SSLError) -> SettingsError:
    if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
        return _wrong("TLS_KEY", files.key, f"is not the key of {files.certificate}")
    if "ENCRYPTED" in files.key.read_text("ascii", errors="replace"):
        return _wrong("TLS_KEY", files.key, "is encrypted; store it without a passphrase")
    try:
        # Only the certificate stands in for the key here: if it can be read, it is not at fault.
        ssl.create_default_context(cafile=str(files.certificate))
    except ssl.SSLError:
        return _wrong("TLS_CERTIFICATE", files.certificate, "is damaged")
    if error.reason in ("EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "CA_KEY_TOO_SMALL"):
        return _wrong("TLS_CERTIFICATE", files.certificate, f"is too weak: {error.reason}")
    return _wrong("TLS_KEY", files.key, "is damaged")


def _wrong(setting: str, path: Path, what: str) -> SettingsError:
    return SettingsError(f"{PREFIX}{setting}: {path} {what}")


def _signature(files: TlsFiles) -> _Signature:
    """What changes when a file is replaced or rewritten; links are followed."""
    return tuple(
        None if path is None else _stat(path)
        for path in (files.certificate, files.key, files.client_ca)
    )


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
