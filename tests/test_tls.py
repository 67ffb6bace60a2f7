"""TLS of the server, with certificates made for the test, on the real command."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from service.http_api.serving.tls import ServerTls, tls_files
from service.settings import Settings, SettingsError
from tests.repositories import write_model
from tests.serving_process import (
    PATIENCE_S,
    ServingProcess,
    get,
    read_all,
    read_answer,
    ready_server,
    serving_process,
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    write_model(root, "boxes")
    return root


@dataclass
class Files:
    """A server's certificate and key, who signed it, and who signs clients'."""

    folder: Path
    authority: trustme.CA
    client_authority: trustme.CA

    def __post_init__(self) -> None:
        self.renew()
        self.client_authority.cert_pem.write_to_path(self.client_ca)

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def client_ca(self) -> Path:
        return self.folder / "client-ca.pem"

    @property
    def settings(self) -> dict[str, object]:
        return {"tls_certificate": self.certificate, "tls_key": self.key}

    def renew(self) -> None:
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))

    def client(self, *, certified_by: trustme.CA | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if certified_by is not None:
            certified_by.issue_cert("client@example.org").configure_cert(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, trustme.CA(), trustme.CA())


@pytest.fixture(scope="module")
def module_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"), trustme.CA(), trustme.CA())


@pytest.fixture(scope="module")
def server(repository: Path, module_files: Files) -> Iterator[ServingProcess]:
    settings = module_files.settings
    with ready_server(repository, header_timeout_ms=500, **settings) as serving:
        yield serving


def secured(serving: ServingProcess, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(serving.connect(), server_hostname="localhost")


def status_of(connection: socket.socket) -> int:
    connection.sendall(get("/livez"))
    return read_answer(connection)[0]


def test_tls__serves_https(server: ServingProcess, module_files: Files) -> None:
    assert "ready: https://" in server.log.wait_for("ready: ")
    with closing(secured(server, module_files.client())) as connection:
        assert status_of(connection) == 200
        assert connection.version() == "TLSv1.3"


def test_tls__1_2_is_the_least_and_has_forward_secrecy(
    server: ServingProcess, module_files: Files
) -> None:
    context = module_files.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with closing(secured(server, context)) as connection:
        assert status_of(connection) == 200
        cipher = connection.cipher()
        assert cipher is not None
        assert cipher[0].startswith("ECDHE")
    context.set_ciphers("AES128-GCM-SHA256:AES256-SHA")
    with closing(server.connect()) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")


def test_tls__strangers_to_it_are_closed_and_harm_nobody(
    server: ServingProcess, module_files: Files
) -> None:
    with closing(server.connect()) as plain:
        plain.sendall(get("/livez"))
        assert b"HTTP/1.1 200" not in read_all(plain)
    with closing(server.connect()) as silent:
        assert read_all(silent) == b""
    with closing(secured(server, module_files.client())) as connection:
        assert status_of(connection) == 200
    assert not [line for line in server.log.lines if "Traceback" in line or " ERROR " in line]


def test_tls__handshakes_that_never_end_make_room(repository: Path, files: Files) -> None:
    settings = {"max_connections": 4, "header_timeout_ms": 600_000} | files.settings
    with ready_server(repository, **settings) as serving:
        silent = [serving.connect() for _ in range(8)]
        for _ in range(3):
            with closing(secured(serving, files.client())) as connection:
                assert status_of(connection) == 200
        assert read_all(silent[0]) == b""
        for connection in silent:
            connection.close()


def test_tls__clients_certificate_is_required(repository: Path, files: Files) -> None:
    settings = files.settings | {"tls_client_ca": files.client_ca}
    with ready_server(repository, **settings) as serving:
        own = files.client(certified_by=files.client_authority)
        with closing(secured(serving, own)) as connection:
            assert status_of(connection) == 200
        for context in (files.client(), files.client(certified_by=trustme.CA())):
            # TLS 1.3: a client learns only after its handshake that it is refused.
            with pytest.raises((ssl.SSLError, ConnectionError)):  # noqa: SIM117
                with closing(secured(serving, context)) as connection:
                    status_of(connection)
        with closing(secured(serving, own)) as connection:
            assert status_of(connection) == 200


def test_tls__renewed_certificate_is_served_without_a_restart(
    repository: Path, files: Files
) -> None:
    with ready_server(repository, **files.settings) as serving:
        first = serial_number(serving, files)
        with closing(secured(serving, files.client())) as kept:
            assert status_of(kept) == 200
            files.renew()
            serving.log.wait_for("opened again")
            assert serial_number(serving, files) != first
            assert status_of(kept) == 200

        second = serial_number(serving, files)
        files.key.write_text("no key at all")
        assert "RTMDET_TLS_KEY" in serving.log.wait_for("stays in use")
        assert serial_number(serving, files) == second

        files.certificate.unlink()
        assert "cannot be read" in serving.log.wait_for("stays in use", times=2)
        assert serial_number(serving, files) == second

        files.renew()
        serving.log.wait_for("opened again", times=2)
        assert serial_number(serving, files) != second


def serial_number(serving: ServingProcess, files: Files) -> object:
    with closing(secured(serving, files.client())) as connection:
        certificate = connection.getpeercert()
        assert certificate is not None
        return certificate["serialNumber"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"tls_key": ""}, "RTMDET_TLS_KEY must be too"),
        ({"tls_certificate": ""}, "RTMDET_TLS_CERTIFICATE must be too"),
        (
            {"tls_certificate": "/nowhere.pem"},
            "RTMDET_TLS_CERTIFICATE: /nowhere.pem cannot be read",
        ),
        ({"tls_key": "{certificate}"}, "RTMDET_TLS_KEY: {certificate} holds no private key"),
        ({"tls_certificate": "{key}"}, "RTMDET_TLS_CERTIFICATE: {key} holds no certificate"),
        ({"tls_key": "{other}"}, "RTMDET_TLS_KEY: {other} is not the key of {certificate}"),
        ({"tls_key": "/dev/zero"}, "RTMDET_TLS_KEY: /dev/zero is no regular file"),
        ({"tls_certificate": "/dev/zero"}, "RTMDET_TLS_CERTIFICATE: /dev/zero is no regular file"),
        ({"tls_key": "{encrypted}"}, "RTMDET_TLS_KEY: {encrypted} is encrypted"),
        ({"tls_certificate": "{damaged}"}, "RTMDET_TLS_CERTIFICATE: {damaged} is damaged"),
        ({"tls_client_ca": "{key}"}, "RTMDET_TLS_CLIENT_CA: {key} holds no certificate"),
        ({"tls_client_ca": "{damaged}"}, "RTMDET_TLS_CLIENT_CA: {damaged} is damaged"),
        (
            {"tls_key": "", "tls_certificate": "", "tls_client_ca": "{certificate}"},
            "RTMDET_TLS_CLIENT_CA needs TLS",
        ),
    ],
)
def test_tls__wrong_file_stops_the_start(files: Files, spoil: dict[str, str], says: str) -> None:
    names = written(files)
    settings = files.settings | {name: path.format(**names) for name, path in spoil.items()}
    with pytest.raises(SettingsError) as raised:
        open_tls(settings)
    assert says.format(**names) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_tls__wrong_file_is_one_line_before_models_load(repository: Path, files: Files) -> None:
    settings = files.settings | {"tls_key": files.folder / "nothing.pem"}
    with serving_process(repository, **settings) as serving:
        assert serving.process.wait(PATIENCE_S) == 2
        (line,) = serving.log.all()
    assert line.startswith("rtmdet: RTMDET_TLS_KEY: ")


def open_tls(settings: dict[str, object]) -> ServerTls:
    files = tls_files(Settings(**settings))
    assert files is not None
    return ServerTls(files)


def written(files: Files) -> dict[str, str]:
    """Paths of a server's files, and of wrong ones."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    wrong = {
        "other": trustme.CA().issue_cert("localhost").private_key_pem.bytes(),
        "encrypted": encrypted,
        "damaged": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    }
    for name, content in wrong.items():
        (files.folder / name).write_bytes(content)
    return {name: str(files.folder / name) for name in wrong} | {
        "certificate": str(files.certificate),
        "key": str(files.key),
    }
