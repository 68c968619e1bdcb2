"""Who vouches for a bundle: an ed25519 signature over its manifest, and so over every file that the manifest names.

Keys are PEM files as `openssl genpkey -algorithm ed25519` makes them. The signature lies beside the manifest and is no part of
what it signs, so that signing changes neither the bundle's fingerprint nor the name under which scores are kept.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from monitor.errors import Fatal
from monitor.records import UNDECODABLE, Record

SIGNATURE = "signature.json"
_PURPOSE = b"tapewatch bundle manifest, version 1\n"  # a signature for anything else is none for this


class Signature(Record, frozen=True, kw_only=True):
    """The file's content. `key` helps to find the right one; only the signature itself proves anything."""

    algorithm: str
    key: str
    signature: str


def sign_bundle(folder: Path, key_file: Path, *, password: str | None = None) -> Signature:
    """Write the signature beside the manifest; returns it. Raises Fatal."""
    key = _private(key_file, password)
    made = Signature(
        algorithm="ed25519",
        key=key_name(key.public_key()),
        signature=base64.b64encode(key.sign(_PURPOSE + _manifest(folder))).decode(),
    )
    half = folder / f"{SIGNATURE}.half"
    try:
        half.write_bytes(msgspec.json.format(msgspec.json.encode(made)) + b"\n")
        half.replace(folder / SIGNATURE)
    except OSError as err:
        raise Fatal(f"{folder / SIGNATURE}: can't be written ({err.strerror})") from err
    return made


def check_signature(folder: Path, manifest: bytes, trusted: Sequence[Path]) -> str:
    """The name of the trusted key that signed these bytes. Raises Fatal when none did."""
    path = folder / SIGNATURE
    try:
        stated = msgspec.json.decode(path.read_bytes(), type=Signature)
        signature = base64.b64decode(stated.signature, validate=True)
    except OSError as err:
        raise Fatal(
            f"{path}: can't be read ({err.strerror}); bundle.trusted_keys asks for a signature: tapewatch models sign"
        ) from err
    except (*UNDECODABLE, binascii.Error, ValueError) as err:
        raise Fatal(f"{path}: not a signature; sign the bundle again") from err
    if stated.algorithm != "ed25519":
        raise Fatal(f"{path}: algorithm is {stated.algorithm[:40]!r}, must be ed25519")
    for key_file in trusted:
        key = public_key(key_file)
        try:
            key.verify(signature, _PURPOSE + manifest)
        except InvalidSignature:
            continue
        return key_name(key)
    names = ", ".join(key_name(public_key(key_file)) for key_file in trusted)
    raise Fatal(f"{path}: signed by none of the trusted keys ({names}) as it is now; it says key {stated.key[:40]!r}")


def public_key(path: Path) -> Ed25519PublicKey:
    """Raises Fatal for anything but an ed25519 public key in PEM."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as err:
        raise Fatal(f"bundle.trusted_keys: {path} can't be read ({err.strerror})") from err
    except (ValueError, UnsupportedAlgorithm) as err:
        raise Fatal(f"bundle.trusted_keys: {path} is not a public key in PEM; openssl pkey -pubout makes one") from err
    if not isinstance(key, Ed25519PublicKey):
        raise Fatal(f"bundle.trusted_keys: {path} is not an ed25519 key")
    return key


def key_name(key: Ed25519PublicKey) -> str:
    """Short, for people and messages."""
    return sha256(key.public_bytes_raw()).hexdigest()[:16]


def _private(path: Path, password: str | None) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password.encode() if password else None)
    except OSError as err:
        raise Fatal(f"--key {path}: can't be read ({err.strerror})") from err
    except (TypeError, ValueError, UnsupportedAlgorithm) as err:  # TypeError: a password too many or too few
        raise Fatal(f"--key {path}: not a private key in PEM that the given password opens") from err
    if not isinstance(key, Ed25519PrivateKey):
        raise Fatal(f"--key {path}: not an ed25519 key; openssl genpkey -algorithm ed25519 makes one")
    return key


def _manifest(folder: Path) -> bytes:
    try:
        return (folder / "manifest.json").read_bytes()
    except OSError as err:
        raise Fatal(f"{folder / 'manifest.json'}: can't be read ({err.strerror}); name a bundle's folder") from err
