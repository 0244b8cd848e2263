"""Signatures, keys, envelopes and statements, against the RFCs, ``cryptography``, ``securesystemslib`` and ``rfc8785``."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib import dsse as other_dsse
from securesystemslib.signer import CryptoSigner, SSlibKey

from tritium.errors import FormatError, UnsupportedError
from tritium.receipts import ed25519, jcs
from tritium.receipts.dsse import Envelope, Signature, pae, parse_envelope, sign_payload, signature_fault
from tritium.receipts.keys import (
    PublicKey,
    Trust,
    TrustedKey,
    parse_public_key,
    parse_trust,
    read_trust,
    trust_document,
)
from tritium.receipts.sign import generate_key, private_key_from_seed, read_private_key, write_key_pair
from tritium.receipts.statement import (
    RECEIPT_TYPE,
    IntentReference,
    parse_receipt_statement,
    parse_statement,
    receipt_id,
    receipt_statement,
    result_statement,
    timing_sha256,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
KEY = private_key_from_seed(bytes(range(32)))
RECEIPT: dict[str, Any] = {
    "schema_version": "1.0.0",
    "tokens_per_second": 15.0,
    "model": {"sha256": "a" * 64},
    "evidence": {
        "model": {"sha256": "a" * 64, "tensors_sha256": "b" * 64},
        "run": {"prompt_sha256": "c" * 64, "output_sha256": "d" * 64, "token_ns": [10, 20, 31, 45, 60]},
    },
}

# RFC 8032, section 7.1: seed, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


def find_key(key_id: str) -> PublicKey | None:
    return KEY.public if key_id == KEY.public.id else None


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_ed25519_vectors(seed: str, public: str, message: str, signature: str) -> None:
    key = private_key_from_seed(bytes.fromhex(seed))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert ed25519.is_valid(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))


@settings(max_examples=60)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80), st.integers(0, 64 * 8 - 1), st.integers(0, 255))
def test_ed25519_agrees_with_cryptography(seed: bytes, message: bytes, bit: int, key_bit: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes_raw()
    signature = private.sign(message)
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    other_key = bytearray(public)
    other_key[key_bit // 8] ^= 1 << key_bit % 8
    for key, made in ((public, signature), (public, bytes(flipped)), (bytes(other_key), signature)):
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(made, message)
            theirs = True
        except InvalidSignature:
            theirs = False
        assert ed25519.is_valid(key, message, made) == theirs == (key is public and made is signature)


def test_a_signature_has_no_second_form() -> None:
    signature = KEY.sign(b"message")
    s = int.from_bytes(signature[32:], "little") + ed25519.L
    assert not ed25519.is_valid(KEY.public.raw, b"message", signature[:32] + s.to_bytes(32, "little"))
    assert not ed25519.is_valid(KEY.public.raw, b"message", signature + b"\0")
    assert not ed25519.is_valid(KEY.public.raw, b"message", signature[:63])


# The eight points of small order and their other encodings, from RFC 7748's curve in Edwards form, and y = p + 3.
UNUSABLE = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0200000000000000000000000000000000000000000000000000000000000000",
]


@pytest.mark.parametrize("encoded", UNUSABLE)
def test_points_that_are_no_keys(encoded: str) -> None:
    assert not ed25519.is_public_key(bytes.fromhex(encoded))
    with pytest.raises(FormatError, match="not an Ed25519 public key"):
        PublicKey(bytes.fromhex(encoded))


def test_the_example_of_the_dsse_specification() -> None:
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("http://example.com/HelloWorld", b"hello world") == expected
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


@given(st.text(max_size=20), st.binary(max_size=40))
def test_pae_is_that_of_securesystemslib(kind: str, payload: bytes) -> None:
    assert pae(kind, payload) == other_dsse.Envelope(payload, kind, {}).pae()


def test_securesystemslib_accepts_our_envelope_and_we_theirs() -> None:
    theirs = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    key = SSlibKey.from_crypto(theirs.public_key(), keyid=KEY.public.id)
    payload = receipt_statement(RECEIPT, NOW, nonce="n")
    ours = sign_payload(payload, [KEY])
    read = other_dsse.Envelope.from_dict(json.loads(ours.to_bytes()))
    assert read.payload == payload
    assert set(read.verify([key], 1)) == {KEY.public.id}
    signed = other_dsse.Envelope(payload, ours.payload_type, {})
    signed.sign(CryptoSigner(theirs, key))
    back = parse_envelope(rfc8785.dumps(signed.to_dict()) + b"\n", "envelope")
    assert signature_fault(back, find_key) is None
    assert back == ours


def test_the_statement_is_the_form_of_rfc8785() -> None:
    payload = receipt_statement(RECEIPT, NOW, nonce="n", intent=IntentReference("log.example", 3, "e" * 64))
    assert rfc8785.dumps(json.loads(payload)) == payload
    assert receipt_id(RECEIPT) == hashlib.sha256(rfc8785.dumps(RECEIPT)).hexdigest()


def test_spelling_does_not_change_the_id() -> None:
    spelled = json.loads('{"b": 15.00, "a": 1e2}')
    assert receipt_id(spelled) == receipt_id({"a": 100, "b": 15})


def test_a_statement_names_what_the_receipt_carries() -> None:
    receipt = copy.deepcopy(RECEIPT)
    signed = parse_receipt_statement(receipt_statement(receipt, NOW))
    assert [(each["name"], *each["digest"].items()) for each in signed.subjects] == [
        ("receipt", ("sha256", receipt_id(receipt))),
        ("model file", ("sha256", "a" * 64)),
        ("model tensors", ("tritiumTensorRoot", "b" * 64)),
        ("prompt ids", ("sha256", "c" * 64)),
        ("output ids", ("sha256", "d" * 64)),
    ]
    receipt["evidence"]["model"]["tokenizer_sha256"] = "e" * 64
    receipt["evidence"]["build"] = {"library_sha256": "f" * 64, "commit": "1" * 40, "dirty": True}
    extra = parse_receipt_statement(receipt_statement(receipt, NOW)).subjects
    assert [each["name"] for each in extra] == [
        "receipt", "model file", "model tensors", "tokenizer", "native library", "source", "prompt ids", "output ids",
    ]  # fmt: skip
    source = next(each for each in extra if each["name"] == "source")
    assert source == {"name": "source", "digest": {"gitCommit": "1" * 40}, "annotations": {"dirty": True}}
    bare = {"schema_version": "1.0.0", "model": {"sha256": "a" * 64}}
    assert [each["name"] for each in parse_receipt_statement(receipt_statement(bare, NOW)).subjects] == [
        "receipt", "model file",
    ]  # fmt: skip


def test_a_statement_says_all_it_was_given() -> None:
    intent = IntentReference("log.example", 3, "e" * 64)
    signed = parse_receipt_statement(receipt_statement(RECEIPT, NOW, nonce="n", intent=intent))
    assert (signed.receipt, signed.signed_at, signed.nonce, signed.intent) == (RECEIPT, NOW, "n", intent)


def test_timing_is_that_of_the_intervals() -> None:
    later = copy.deepcopy(RECEIPT)
    later["evidence"]["run"]["token_ns"] = [n + 1000 for n in RECEIPT["evidence"]["run"]["token_ns"]]
    assert timing_sha256(later) == timing_sha256(RECEIPT) == jcs.digest([10, 11, 14, 15])
    later["evidence"]["run"]["token_ns"][-1] += 1
    assert timing_sha256(later) != timing_sha256(RECEIPT)
    later["evidence"]["run"]["token_ns"] = [1, 2, 3]
    assert timing_sha256(later) is None


def test_a_verdict_is_a_simple_verification_result() -> None:
    levels = {"output": "E5", "speed": "E2"}
    about, predicate = parse_statement(
        result_statement(RECEIPT, "accepted", levels, "9" * 64, NOW), "https://in-toto.io/attestation/svr/v0.1"
    )
    assert about[0] == {"name": "receipt", "digest": {"sha256": receipt_id(RECEIPT)}}
    assert predicate == {
        "properties": ["TRITIUM_OUTPUT_E5", "TRITIUM_SPEED_E2"],
        "receiptId": receipt_id(RECEIPT),
        "timeCreated": "2026-05-01T12:00:00Z",
        "verdict": "accepted",
        "verifier": {"id": "urn:tritium:verify-receipt:v1", "policy": {"digest": {"sha256": "9" * 64}}},
    }
    refused = result_statement(RECEIPT, "rejected", levels, "9" * 64, NOW)
    assert json.loads(refused)["predicate"]["properties"] == []
    with pytest.raises(FormatError, match="another type"):
        parse_statement(refused, RECEIPT_TYPE)


def test_every_byte_of_an_envelope_counts() -> None:
    data = sign_payload(receipt_statement({"a": 1}, NOW, nonce="n"), [KEY]).to_bytes()
    assert signature_fault(parse_envelope(data, "envelope"), find_key) is None
    survivors = []
    for at in range(len(data)):
        for value in {data[at] ^ 1, ord(" "), ord("\n"), ord("A")} - {data[at]}:
            edited = data[:at] + bytes([value]) + data[at + 1 :]
            try:
                fault = signature_fault(parse_envelope(edited, "envelope"), find_key)
            except FormatError:
                continue
            if fault is None:
                survivors.append((at, value))
    assert not survivors


@pytest.mark.parametrize("change", [lambda d: d + b"\n", lambda d: d[:-1], lambda d: b" " + d, lambda d: d[:-1] + b" "])
def test_an_envelope_has_one_form(change: Any) -> None:
    data = sign_payload(b"{}", [KEY]).to_bytes()
    with pytest.raises(FormatError, match="another form"):
        parse_envelope(change(data), "envelope")


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"payload": "", "payloadType": "t"},
        {"payload": "", "payloadType": "t", "signatures": []},
        {"payload": "", "payloadType": "t", "signatures": [{"sig": "AA=="}]},
        {"payload": "", "payloadType": "t", "signatures": [{"keyid": "k", "sig": "AA=="}] * 17},
        {"payload": "e30", "payloadType": "t", "signatures": [{"keyid": "k", "sig": "AA=="}]},
        {"payload": "-_-_", "payloadType": "t", "signatures": [{"keyid": "k", "sig": "AA=="}]},
        {"payload": "e31=", "payloadType": "t", "signatures": [{"keyid": "k", "sig": "AA=="}]},
        {"payload": 1, "payloadType": "t", "signatures": [{"keyid": "k", "sig": "AA=="}]},
        {"payload": "", "payloadType": "t", "signatures": [{"keyid": "k", "sig": "AA=="}], "more": 1},
    ],
)
def test_documents_that_are_no_envelope(document: object) -> None:
    with pytest.raises(FormatError, match=r"not (an envelope|a signature|Base64)"):
        parse_envelope(rfc8785.dumps(document) + b"\n", "envelope")


def test_no_signature_is_no_signature() -> None:
    assert signature_fault(Envelope("t", b"", ()), find_key) == "no signature"
    assert signature_fault(Envelope("t", b"", (Signature(KEY.public.id, b""),)), find_key) is not None


def test_a_key_id_is_the_hash_of_the_der_form() -> None:
    theirs = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
    der = theirs.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pem = theirs.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert KEY.public.id == hashlib.sha256(der).hexdigest()
    assert KEY.public.to_pem().encode() == pem
    assert parse_public_key(pem.decode(), "key") == KEY.public
    with pytest.raises(FormatError, match="not a public key"):
        parse_public_key(pem.decode().replace("PUBLIC", "PRIVATE"), "key")


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "run.key"
    old_mask = os.umask(0)
    try:
        key = generate_key()
        public = write_key_pair(key, path)
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert public == tmp_path / "run.key.pub"
    assert read_private_key(path).public == key.public == parse_public_key(public.read_text(), "key")
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert path.read_text().split("\n")[1] not in repr(key) + str(key)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        write_key_pair(generate_key(), path)
    assert path.read_bytes() == before
    write_key_pair(generate_key(), path, force=True)
    assert path.read_bytes() != before


def test_a_key_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "run.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="run.key"):
        write_key_pair(generate_key(), tmp_path / "run.key")
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    write_key_pair(generate_key(), tmp_path / "run.key")
    (tmp_path / "run.key").chmod(0o640)
    with pytest.raises(FormatError, match="expected mode 0600, got 0640"):
        read_private_key(tmp_path / "run.key")


def test_files_that_are_no_private_key(tmp_path: Path) -> None:
    encoding, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    path = tmp_path / "key"
    for content in (
        b"",
        b"secret words",
        KEY.public.to_pem().encode(),
        X25519PrivateKey.generate().private_bytes(encoding, pkcs8, plain),
        Ed25519PrivateKey.generate().private_bytes(encoding, pkcs8, serialization.BestAvailableEncryption(b"pw")),
    ):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(FormatError, match="not a private key") as caught:
            read_private_key(path)
        assert "secret" not in str(caught.value)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_key_pair(KEY, tmp_path / "run.key")
    envelope = sign_payload(b"{}", [KEY])
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    for call in (
        generate_key,
        lambda: read_private_key(tmp_path / "run.key"),
        lambda: private_key_from_seed(bytes(32)),
    ):
        with pytest.raises(UnsupportedError, match=r"pip install 'tritium\[sign\]'") as caught:
            call()
        assert caught.value.exit_code == 4
    assert signature_fault(envelope, find_key) is None


def test_a_stranger_needs_the_standard_library_alone() -> None:
    """Judging signatures and logs imports nothing else, not even ``cryptography`` where it is installed."""
    code = (
        "import sys; import tritium.gates, tritium.receipts.ledger, tritium.receipts.sign, tritium.receipts.log_proof; "
        "print(*sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"cryptography", "numpy", "click", "rich", "tokenizers", "jinja2"} & set(loaded)


def test_trust_file_round_trip() -> None:
    keys = [
        TrustedKey(KEY.public, "lab", frozenset(["receipt", "verdict"]), NOW, NOW.replace(year=2027)),
        TrustedKey(generate_key().public, "log.example/runs", frozenset(["log"]), revoked_at=NOW),
    ]
    trust = Trust.of(keys)
    assert parse_trust(json.loads(json.dumps(trust_document(trust))), "trust") == trust
    assert [each.name for each in trust.with_role("log")] == ["log.example/runs"]


def _row(**changes: object) -> dict[str, Any]:
    row: dict[str, Any] = trust_document(Trust.of([TrustedKey(KEY.public, "lab", frozenset(["receipt"]))]))["keys"][0]  # type: ignore[index]
    return {name: value for name, value in {**row, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "not a trust file"),
        ({"keys": []}, "not a trust file"),
        ({"keys": {}, "version": 1}, "expected a list"),
        ({"keys": [_row(), _row()], "version": 1}, "a key is listed twice"),
        ({"keys": [_row(key_id="0" * 64)], "version": 1}, "the key has another id"),
        ({"keys": [_row(expires="2027")], "version": 1}, "not a trusted key"),
        ({"keys": [_row(public_key=None)], "version": 1}, "not a trusted key"),
        ({"keys": [_row(public_key="AAAA")], "version": 1}, "not a public key"),
        ({"keys": [_row(roles=["admin"])], "version": 1}, "not a list of roles"),
        ({"keys": [_row(roles=[])], "version": 1}, "not a list of roles"),
        ({"keys": [_row(name="")], "version": 1}, "not a name"),
        ({"keys": [_row(not_after="2027-01-01")], "version": 1}, "not a time"),
        ({"keys": [_row(not_after="2027-13-01T00:00:00Z")], "version": 1}, "not a time"),
    ],
)
def test_trust_files_that_are_refused(document: object, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_trust(document, "trust")


@pytest.mark.parametrize("data", [KEY.public.to_pem().encode(), b'{"keys": [], "keys": [], "version": 1}', b"\xff"])
def test_a_file_that_is_no_json_is_named_with_what_makes_one(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "run.key.pub"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"not a trust file: .*run\.key\.pub: .*tritium keygen --trust"):
        read_trust(path)
    path.write_text(json.dumps(trust_document(Trust({}))), encoding="utf-8")
    assert read_trust(path) == Trust({})
