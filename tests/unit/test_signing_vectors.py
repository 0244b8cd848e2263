"""The published vectors: current, and right by means that share no code with ours."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def test_the_page_is_current(repository: Path) -> None:
    script = repository / "scripts" / "generate_signing_vectors.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_vectors_hold(repository: Path) -> None:
    page = (repository / "docs" / "signing.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^([^\n]+:)\n\n```\w+\n(.*?)\n```$", page, re.DOTALL | re.MULTILINE))
    keys = dict(re.findall(r"^(.+?)  +(\S+)$", blocks["Keys (RFC 8032 seeds):"], re.MULTILINE))
    der = base64.b64decode("".join(blocks["The runner's PEM:"].split("\n")[1:-1]))
    assert hashlib.sha256(der).hexdigest() == keys["runner key id"]
    receipt = json.loads(blocks["A receipt, not yet canonical:"])
    assert hashlib.sha256(rfc8785.dumps(receipt)).hexdigest() == blocks["Its id:"]
    payload = blocks["Its statement, announced as entry 0 below:"].encode()
    kind = b"application/vnd.in-toto+json"
    message = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])
    signature = bytes.fromhex(blocks["The signature, as hex:"])
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys["runner public key"])).verify(signature, message)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind.decode(),
        "signatures": [{"keyid": keys["runner key id"], "sig": base64.b64encode(signature).decode()}],
    }
    data = rfc8785.dumps(envelope) + b"\n"
    assert hashlib.sha256(data).hexdigest() == blocks["SHA-256 of the envelope, which ends in one newline:"]
    leaves = []
    for title in ("Entry 0, the announcement, and its leaf hash:", "Entry 1, the registration, and its leaf hash:"):
        entry, leaf = blocks[title].split("\n")
        assert hashlib.sha256(b"\0" + entry.encode()).hexdigest() == leaf
        leaves.append(bytes.fromhex(leaf))
    roots = dict(re.findall(r"(\d)  (\w+)", blocks["Roots by size (entry 2 announces again, at 12:05):"]))
    assert roots["1"] == leaves[0].hex()
    assert roots["2"] == hashlib.sha256(b"\1" + leaves[0] + leaves[1]).hexdigest()
    text, line = blocks["The checkpoint of size 3:"].split("\n\n")
    assert base64.b64decode(text.split("\n")[2]).hex() == roots["3"]
    log_key = bytes.fromhex(keys["log public key"])
    value = base64.b64decode(line.split(" ")[2])
    assert value[:4] == hashlib.sha256(text.split("\n")[0].encode() + b"\n\1" + log_key).digest()[:4]
    Ed25519PublicKey.from_public_bytes(log_key).verify(value[4:], (text + "\n").encode())
    proof = blocks["The proof of entry 1:"].split("\n")
    assert hashlib.sha256(b"\0" + base64.b64decode(proof[1].removeprefix("extra "))).digest() == leaves[1]
    below = hashlib.sha256(b"\1" + base64.b64decode(proof[3]) + leaves[1]).digest()
    assert hashlib.sha256(b"\1" + below + base64.b64decode(proof[4])).hexdigest() == roots["3"]
