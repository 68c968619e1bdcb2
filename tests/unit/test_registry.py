"""What is served is whole, made of known parts within its own files, and vouched for by somebody we trust."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from monitor.cli import app
from monitor.errors import Fatal
from monitor.registry import load_bundle, sign_bundle
from monitor.settings import load_settings

RUN = CliRunner()


def tensor(name: str, *, external: bool = False) -> Any:
    made = helper.make_tensor(name, TensorProto.FLOAT, [1], [1.0])
    if external:
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value="../../../etc/passwd")
    return made


def graph(*nodes: Any, initializers: tuple[Any, ...] = ()) -> Any:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    return helper.make_graph(list(nodes), "g", [], [value], list(initializers))


def constant(made: Any) -> Any:
    return helper.make_node("Constant", [], ["y"], value=made)


def branch(inner: Any) -> Any:
    """A node that carries a graph, which carries another."""
    nested = graph(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner))
    return helper.make_node("If", ["c"], ["y"], then_branch=nested, else_branch=nested)


def bundle(folder: Path, made: Any | None = None, **more: Any) -> Path:
    """As small as a bundle can be."""
    folder.mkdir()
    model = helper.make_model(made or graph(constant(tensor("t"))), **more)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "tokenizer.json").write_text("{}")
    (folder / "card.md").write_text("# small\n")
    blobs = {name: (folder / name).read_bytes() for name in ("model.onnx", "tokenizer.json", "card.md")}
    manifest = {
        "format": 1,
        "name": "small",
        "base_model": "none",
        "hidden": 1,
        "tokens_max": 8,
        "pad_id": 0,
        "heads": {"mention": {"labels": ["negative", "neutral", "positive"]}},
        "polarity": {},
        "data_fingerprint": "0",
        "code_fingerprint": "0",
        "files": {name: {"sha256": sha256(blob).hexdigest(), "bytes": len(blob)} for name, blob in blobs.items()},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def keys(folder: Path, name: str, *, password: str | None = None) -> tuple[Path, Path]:
    """(private, public) as an operator makes them."""
    private, public = folder / f"{name}.key", folder / f"{name}.pem"
    locked = ["-aes-256-cbc", "-pass", f"pass:{password}"] if password else []
    opened = ["-passin", f"pass:{password}"] if password else []
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", *locked, "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, *opened, "-pubout", "-out", public], check=True)
    return private, public


def test_a_plain_bundle_is_loaded(tmp_path: Path) -> None:
    assert load_bundle(bundle(tmp_path / "b")).name == "small"


HIDING: dict[str, Callable[[], Any]] = {
    "initializer": lambda: graph(initializers=(tensor("evil", external=True),)),
    "constant": lambda: graph(constant(tensor("evil", external=True))),
    "inside of branches": lambda: graph(branch(graph(constant(tensor("evil", external=True))))),
    "initializer inside": lambda: graph(branch(graph(initializers=(tensor("evil", external=True),)))),
}


@pytest.mark.parametrize("place", HIDING)
def test_a_tensor_outside_of_the_file_is_found_wherever_it_hides(tmp_path: Path, place: str) -> None:
    with pytest.raises(Fatal, match=r"model\.onnx: 'evil' lies outside of the file"):
        load_bundle(bundle(tmp_path / "b", HIDING[place]()))


def test_a_sparse_tensor_outside_of_the_file_is_found(tmp_path: Path) -> None:
    made = graph(constant(tensor("t")))
    sparse = made.sparse_initializer.add()
    sparse.values.CopyFrom(tensor("evil", external=True))
    with pytest.raises(Fatal, match="'evil' lies outside"):
        load_bundle(bundle(tmp_path / "b", made))


@pytest.mark.parametrize("deep", [False, True])
def test_an_operator_of_a_foreign_domain_is_refused(tmp_path: Path, deep: bool) -> None:
    node = helper.make_node("Run", [], ["y"], domain="evil.ops")
    with pytest.raises(Fatal, match=r"operators of 'evil\.ops' are not allowed"):
        load_bundle(bundle(tmp_path / "b", graph(branch(graph(node)) if deep else node)))


def test_a_domain_that_is_only_imported_and_functions_are_refused(tmp_path: Path) -> None:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("evil.ops", 1)]
    with pytest.raises(Fatal, match=r"evil\.ops"):
        load_bundle(bundle(tmp_path / "b", opset_imports=imports))
    function = helper.make_function("com.microsoft", "F", [], ["y"], [], [helper.make_opsetid("", 17)])
    with pytest.raises(Fatal, match="local functions"):
        load_bundle(bundle(tmp_path / "c", functions=[function]))


def test_a_graph_that_nests_without_end_is_refused_and_bytes_that_are_none_too(tmp_path: Path) -> None:
    wide = [helper.make_node("If", ["c"], ["y"], then_branch=graph(), else_branch=graph()) for _ in range(600)]
    with pytest.raises(Fatal, match="more than 1000 graphs"):
        load_bundle(bundle(tmp_path / "b", graph(*wide)))
    folder = bundle(tmp_path / "c")
    spoiled = b"\xff" * 50
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.onnx"]["sha256"] = sha256(spoiled).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "model.onnx").write_bytes(spoiled)
    with pytest.raises(Fatal, match="not an ONNX graph"):
        load_bundle(folder)


def test_a_signed_bundle_is_served_to_whoever_trusts_the_key(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b")
    before = load_bundle(folder).fingerprint
    private, public = keys(tmp_path, "ours")
    _, other = keys(tmp_path, "other")
    with pytest.raises(Fatal, match=r"signature\.json: can't be read"):
        load_bundle(folder, trusted=[public])
    sign_bundle(folder, private)
    assert load_bundle(folder, trusted=[other, public]).fingerprint == before, "signing changes no name of the model"
    with pytest.raises(Fatal, match="signed by none of the trusted keys"):
        load_bundle(folder, trusted=[other])


@pytest.mark.parametrize("what", ["manifest", "signature", "algorithm", "garbage"])
def test_whatever_is_changed_afterwards_breaks_the_signature(tmp_path: Path, what: str) -> None:
    folder = bundle(tmp_path / "b")
    private, public = keys(tmp_path, "ours")
    sign_bundle(folder, private)
    path = folder / ("manifest.json" if what == "manifest" else "signature.json")
    content = json.loads(path.read_text())
    if what == "manifest":
        content["heads"]["mention"]["temperature"] = 3.0
    elif what == "signature":
        content["signature"] = ("B" if content["signature"][0] == "A" else "A") + content["signature"][1:]
    elif what == "algorithm":
        content["algorithm"] = "none"
    path.write_text("garbage" if what == "garbage" else json.dumps(content))
    with pytest.raises(Fatal, match=r"signature\.json: (signed by none|algorithm is|not a signature)"):
        load_bundle(folder, trusted=[public])


def test_the_openssl_of_anybody_else_verifies_what_we_sign(tmp_path: Path) -> None:
    """The format is told in the room's docstring; nothing of ours is needed to check it."""
    import base64

    folder = bundle(tmp_path / "b")
    private, public = keys(tmp_path, "ours")
    made = sign_bundle(folder, private)
    (tmp_path / "sig").write_bytes(base64.b64decode(made.signature))
    (tmp_path / "text").write_bytes(b"tapewatch bundle manifest, version 1\n" + (folder / "manifest.json").read_bytes())
    done = subprocess.run(
        [
            "openssl",
            "pkeyutl",
            "-verify",
            "-pubin",
            "-inkey",
            public,
            "-rawin",
            "-in",
            tmp_path / "text",
            "-sigfile",
            tmp_path / "sig",
        ],
        capture_output=True,
        check=False,
    )
    assert b"Verified Successfully" in done.stdout, done


def test_keys_of_another_kind_are_named(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b")
    rsa, rsa_public = tmp_path / "rsa.key", tmp_path / "rsa.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "rsa", "-out", rsa], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", rsa, "-pubout", "-out", rsa_public], check=True)
    private, _ = keys(tmp_path, "ours")
    sign_bundle(folder, private)
    with pytest.raises(Fatal, match="not an ed25519 key"):
        sign_bundle(folder, rsa)
    with pytest.raises(Fatal, match=r"rsa\.pem is not an ed25519 key"):
        load_bundle(folder, trusted=[rsa_public])
    with pytest.raises(Fatal, match="is not a public key in PEM"):
        load_bundle(folder, trusted=[private])


def test_the_commands_sign_and_verify_and_the_password_stays_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundle(tmp_path / "b")
    private, public = keys(tmp_path, "ours", password="open-sesame")
    monkeypatch.setenv("KEY_PASSWORD", "wrong-sesame")
    command = ["models", "sign", str(folder), "--key", str(private)]
    refused = RUN.invoke(app, [*command, "--password-env", "KEY_PASSWORD"])
    assert isinstance(refused.exception, Fatal)
    assert "sesame" not in str(refused.exception)
    assert isinstance(RUN.invoke(app, command).exception, Fatal)
    monkeypatch.setenv("KEY_PASSWORD", "open-sesame")
    assert RUN.invoke(app, [*command, "--password-env", "KEY_PASSWORD"]).exit_code == 0
    done = RUN.invoke(app, ["models", "verify", str(folder), "--trusted", str(public), "--json"])
    assert json.loads(done.output)["ok"] is True
    (folder / "card.md").write_text("# another\n")
    assert isinstance(RUN.invoke(app, ["models", "verify", str(folder), "--trusted", str(public)]).exception, Fatal)


def test_trusted_keys_of_a_configuration_are_relative_to_it(tmp_path: Path) -> None:
    file = tmp_path / "tapewatch.toml"
    file.write_text('[watchlist]\npath = "w"\n[rules]\npath = "r"\n[bundle]\ntrusted_keys = ["keys/desk.pem"]\n')
    assert load_settings(file, {}).bundle.trusted_keys == (tmp_path / "keys" / "desk.pem",)


def test_check_config_refuses_a_bundle_that_nobody_signed(tmp_path: Path) -> None:
    _, public = keys(tmp_path, "ours")
    configs = Path(__file__).parents[2] / "configs"
    file = tmp_path / "tapewatch.toml"
    file.write_text(
        f'[watchlist]\npath = "{configs}/watchlists/us_large.csv"\n[rules]\npath = "{configs}/rules/default.toml"\n'
        f'[bundle]\npath = "{bundle(tmp_path / "b")}"\ntrusted_keys = ["{public}"]\n'
    )
    result = RUN.invoke(app, ["check-config", str(file)])
    assert result.exit_code == 2
    assert "bundle.trusted_keys asks for a signature" in result.output
