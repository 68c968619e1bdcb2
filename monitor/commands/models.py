"""`tapewatch models`: what a bundle's signature says, and how it comes there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from monitor.errors import Fatal

models = typer.Typer(no_args_is_help=True, help="Bundles and who vouches for them.")
FolderArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")]


@models.command("sign")
def sign(
    folder: FolderArgument,
    key: Annotated[Path, typer.Option("--key", help="An ed25519 private key, PEM.")],
    password_env: Annotated[
        str | None, typer.Option("--password-env", help="The environment variable with the key's password.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a bundle that is whole; whoever has the public key among bundle.trusted_keys will serve it."""
    from monitor.registry import load_bundle, sign_bundle

    password = os.environ.get(password_env) if password_env else None
    if password_env and not password:
        raise Fatal(f"--password-env: environment variable {password_env} is not set")
    bundle = load_bundle(folder)  # nobody vouches for what is not whole
    signature = sign_bundle(folder, key, password=password)
    _show({"model": bundle.model, "key": signature.key}, f"{bundle.model}: signed with key {signature.key}", as_json)


@models.command("verify")
def verify(
    folder: FolderArgument,
    trusted: Annotated[list[Path], typer.Option("--trusted", help="A public key, PEM; may be given several times.")],
    as_json: JsonOption = False,
) -> None:
    """Check every file's hash, the graph, and that one of the keys signed it."""
    from monitor.registry import load_bundle

    bundle = load_bundle(folder, trusted=trusted)
    _show({"model": bundle.model, "ok": True}, f"{bundle.model}: whole, and signed by a trusted key", as_json)


def _show(answer: dict[str, object], text: str, as_json: bool) -> None:
    typer.echo(msgspec.json.encode(answer).decode() if as_json else text)
