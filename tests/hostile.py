"""Receivers that behave badly, each a raw socket on loopback, and certificates for those that speak TLS."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class HostileServer:
    """Accepts on loopback and leaves each connection, its request read, to `behave`; `requests` keeps what came."""

    def __init__(
        self,
        behave: Callable[[socket.socket, threading.Event], None],
        *,
        context: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self._behave, self._context = behave, context
        self.requests: list[bytes] = []
        self.names: list[str | None] = []
        self.sent = 0
        self._over = threading.Event()
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]
        if context is not None:
            context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> HostileServer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                self.requests.append(_request(connection))
                self._behave(connection, self._over)


def answering(status_line: str, *headers: str, body: bytes = b"") -> Callable[[socket.socket, threading.Event], None]:
    """One well-formed answer."""
    head = "\r\n".join([f"HTTP/1.1 {status_line}", f"Content-Length: {len(body)}", *headers, "", ""]).encode()
    return lambda connection, _over: connection.sendall(head + body)


def hang(_connection: socket.socket, over: threading.Event) -> None:
    """Takes the request and says nothing."""
    over.wait()


def drip_headers(connection: socket.socket, over: threading.Event) -> None:
    """A header that never ends, a byte at a time."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not over.wait(0.05):
        connection.sendall(b"a")


def drip_body(connection: socket.socket, over: threading.Event) -> None:
    """An answer whose body never ends, a byte at a time."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not over.wait(0.05):
        connection.sendall(b"a")


def endless_continue(connection: socket.socket, over: threading.Event) -> None:
    """Interim answers for ever."""
    while not over.wait(0.01):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


class Flood:
    """Ten gigabytes as fast as they are taken; `sent` says how far it came."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = threading.Event()

    def __call__(self, connection: socket.socket, over: threading.Event) -> None:
        total = 10 * 1024**3
        try:
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n".encode())
            chunk = bytes(1024 * 1024)
            while self.sent < total and not over.is_set():
                self.sent += connection.send(chunk)
        finally:
            self.ended.set()


class Authority:
    """A certificate authority of the test's own: `certificate` makes key and certificate files for a name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("tests")
        basic = x509.BasicConstraints(ca=True, path_length=None)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self._certificate = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(basic, critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def certificate(self, name: str, *, password: bytes | None = None) -> tuple[Path, Path]:
        """(certificate, key) as PEM files, valid for the DNS name and for 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = (
            _builder(_named(name), self._name, key.public_key())
            .add_extension(names, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        certificate, private = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        private.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return certificate, private

    def server_context(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate(name))
        return context


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
    )


def _request(connection: socket.socket) -> bytes:
    """Headers and as much body as they announce."""
    got = b""
    while b"\r\n\r\n" not in got:
        chunk = connection.recv(65_536)
        if not chunk:
            return got
        got += chunk
    head, _, body = got.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body
