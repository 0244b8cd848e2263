"""Make a key that signs receipts, checkpoints of a log or verdicts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tritium.cli import json_option, note, print_json

if TYPE_CHECKING:
    from tritium.receipts.keys import PublicKey


@click.command(short_help=__doc__)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace the files that are there. What the old key signed stays as it is.")
@click.option(
    "--trust",
    "trust_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Add the public key to this trust file.",
)
@click.option("--name", help="With --trust: whose key it is; for a log's key, the log's name.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(["receipt", "log", "verdict"]),
    help="With --trust: what it may sign; may be given again.",
)
@click.option(
    "--retire", metavar="KEY_ID", help="With --trust: that key's last moment is now. What it signed before stays valid."
)
@json_option
def command(
    path: Path, force: bool, trust_path: Path | None, name: str | None, roles: tuple[str, ...], retire: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Write a new Ed25519 key to PATH (PKCS #8 PEM, mode 0600) and its public half to PATH.pub.

    A file that is there is never overwritten without --force. A key's id is the SHA-256 of its public half in DER. A
    trust file lists public keys, what each may sign, and from when to when.
    """
    if (trust_path is not None) != bool(name and roles) or (retire is not None and trust_path is None):
        raise click.UsageError("--trust goes with --name and --role; --retire goes with --trust")
    from tritium.filesystem import PRIVATE
    from tritium.receipts.sign import generate_key, write_key_pair

    key = generate_key()
    trusted = None
    if trust_path is not None:
        assert name is not None
        trusted = _rotate(trust_path, key.public, name, frozenset(roles), retire)
    public_path = write_key_pair(key, path, force=force)
    if trust_path is not None and trusted is not None:
        _replace(trust_path, trusted)
    facts = {"key_id": key.public.id, "private": str(path), "public": str(public_path)}
    if as_json:
        print_json(facts)
        return
    click.echo(key.public.id)
    note(f"{path}: the private key, {PRIVATE}; keep it where only you can read it")
    note(f"{public_path}: the public key, for everybody")


def _rotate(path: Path, key: PublicKey, name: str, roles: frozenset[str], retire: str | None) -> str:
    """The trust file's new text: the key added from now on, the retired one ended now."""
    from dataclasses import replace

    from tritium.receipts.keys import Trust, TrustedKey, parse_trust, read_trust, trust_document
    from tritium.receipts.strict_json import text_of

    now = datetime.now(UTC).replace(microsecond=0)
    keys = dict(read_trust(path).keys) if path.exists() else {}
    if retire is not None:
        if retire not in keys:
            raise click.UsageError(f"--retire: {path} has no key {retire}")
        keys[retire] = replace(keys[retire], not_after=now)
    keys[key.id] = TrustedKey(key, name, roles, not_before=now)
    document = trust_document(Trust(keys))
    parse_trust(document, str(path))
    return text_of(document) + "\n"


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
