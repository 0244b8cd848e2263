"""The log: RFC 6962 by two independent ways, C2SP tiles, notes and proofs, crashes, two writers."""

from __future__ import annotations

import base64
import hashlib
import itertools
import multiprocessing
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.errors import FormatError, GateError
from tritium.receipts import ledger, merkle, notes, tiles
from tritium.receipts.keys import PublicKey, Trust, TrustedKey
from tritium.receipts.log_proof import check_consistency, encode_consistency, encode_proof, parse_proof
from tritium.receipts.sign import PrivateKey, private_key_from_seed

ORIGIN = "log.example/runs"
SIGNER = private_key_from_seed(bytes(range(32)))

# The eight entries and the roots after each that Certificate Transparency's own implementation is tested with.
CT_ENTRIES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def trust_of(signer: PrivateKey = SIGNER, origin: str = ORIGIN) -> Trust:
    return Trust.of([TrustedKey(signer.public, origin, frozenset(["log"]))])


def plain_root(entries: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\0" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\1" + plain_root(entries[:k]) + plain_root(entries[k:])).digest()


def plain_path(m: int, entries: list[bytes]) -> list[bytes]:
    """RFC 6962, section 2.1.1."""
    if len(entries) == 1:
        return []
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if m < k:
        return [*plain_path(m, entries[:k]), plain_root(entries[k:])]
    return [*plain_path(m - k, entries[k:]), plain_root(entries[:k])]


def plain_proof(m: int, entries: list[bytes], is_whole: bool = True) -> list[bytes]:
    """RFC 6962, section 2.1.2."""
    if m == len(entries):
        return [] if is_whole else [plain_root(entries)]
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if m <= k:
        return [*plain_proof(m, entries[:k], is_whole), plain_root(entries[k:])]
    return [*plain_proof(m - k, entries[k:], False), plain_root(entries[:k])]


def in_memory(entries: list[bytes]) -> merkle.Subtree:
    return lambda start, end: plain_root(entries[start:end])


def make_log(folder: Path, *counts: int) -> list[bytes]:
    """A log that grew by ``counts`` entries at a time."""
    ledger.create_log(folder, ORIGIN, SIGNER)
    entries: list[bytes] = []
    for count in counts:
        more = [f"entry {len(entries) + i}".encode() for i in range(count)]
        ledger.append(folder, more, SIGNER)
        entries += more
    return entries


def checkpoint_of(folder: Path) -> notes.Checkpoint:
    return ledger.read_checkpoint(folder, trust_of())


def test_roots_of_certificate_transparency(tmp_path: Path) -> None:
    ledger.create_log(tmp_path, ORIGIN, SIGNER)
    for size in range(1, 9):
        assert ledger.append(tmp_path, CT_ENTRIES[size - 1 : size], SIGNER).root.hex() == CT_ROOTS[size - 1]


def test_proofs_are_those_of_the_definition() -> None:
    entries = [bytes([i]) for i in range(35)]
    for size in range(1, len(entries) + 1):
        part = entries[:size]
        root = merkle.range_hash(in_memory(part), 0, size)
        assert root == plain_root(part)
        for index in range(size):
            path = merkle.inclusion_proof(in_memory(part), index, size)
            assert path == plain_path(index, part)
            assert merkle.root_from_inclusion(merkle.leaf_hash(part[index]), index, size, path) == root
        for old in range(1, size + 1):
            proof = merkle.consistency_proof(in_memory(part), old, size)
            assert proof == plain_proof(old, part)
            assert merkle.is_consistent(old, plain_root(part[:old]), size, root, proof)


def test_tiles_give_the_roots_of_the_recursive_definition(tmp_path: Path) -> None:
    entries = make_log(tmp_path, 1, 2, 252, 1, 1, 300)
    checkpoint = checkpoint_of(tmp_path)
    reader = tiles.Tiles(tmp_path, checkpoint.size)
    for size in (1, 2, 3, 255, 256, 257, 512, 513, len(entries)):
        assert merkle.range_hash(reader.subtree, 0, size) == plain_root(entries[:size])
    assert checkpoint.root == plain_root(entries)
    for index in (0, 1, 255, 256, 555, 556):
        assert ledger.prove_inclusion(tmp_path, checkpoint, index).hashes == tuple(plain_path(index, entries))


@given(st.integers(1, 70), st.integers(0, 69), st.integers(0, 2**32))
def test_a_changed_proof_proves_nothing(size: int, index: int, seed: int) -> None:
    index %= size
    entries = [bytes([i]) for i in range(size)]
    root, leaf = plain_root(entries), merkle.leaf_hash(entries[index])
    path = merkle.inclusion_proof(in_memory(entries), index, size)
    assert merkle.root_from_inclusion(leaf, index, size, path) == root
    assert merkle.root_from_inclusion(leaf, index, size, [*path, root]) != root
    for other in {0, index - 1, index + 1, size - 1, size} - {index}:
        assert merkle.root_from_inclusion(leaf, other, size, path) != root
    rng = random.Random(seed)
    old = rng.randrange(1, size + 1)
    proof = merkle.consistency_proof(in_memory(entries), old, size)
    for changed in (path, proof):
        if changed:
            at = rng.randrange(len(changed))
            changed[at] = bytes([changed[at][0] ^ 1]) + changed[at][1:]
    if path:
        assert merkle.root_from_inclusion(leaf, index, size, path) != root
        assert merkle.root_from_inclusion(leaf, index, size, path[:-1]) != root
    if proof:
        assert not merkle.is_consistent(old, plain_root(entries[:old]), size, root, proof)
        assert not merkle.is_consistent(old, plain_root(entries[:old]), size, root, proof[:-1])


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 1234067, 256, "tile/0/x001/x234/067"),
        (1, 999, 5, "tile/1/999.p/5"),
        (2, 1000, 255, "tile/2/x001/000.p/255"),
        ("entries", 273, 112, "tile/entries/273.p/112"),
    ],
)
def test_tile_paths(level: int | str, index: int, width: int, path: str) -> None:
    assert tiles.tile_path(level, index, width) == path


def test_a_log_of_70000_has_the_tiles_of_the_specification(tmp_path: Path) -> None:
    ledger.create_log(tmp_path, ORIGIN, SIGNER)
    entries = [i.to_bytes(3, "big") for i in range(70_000)]
    checkpoint = ledger.append(tmp_path, entries, SIGNER)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    expected = {f"tile/{level}/{n:03d}" for level in ("0", "entries") for n in range(273)}
    expected |= {"tile/0/273.p/112", "tile/entries/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"}
    assert found == expected | {"checkpoint", "lock"}
    assert (tmp_path / "tile/1/000").stat().st_size == 8192
    assert (tmp_path / "tile/2/000.p/1").read_bytes() == plain_root(entries[:65536])
    assert checkpoint.root == plain_root(entries)
    assert (tmp_path / "tile/entries/000").read_bytes()[:10] == b"\0\3\0\0\0\0\3\0\0\1"


def test_growing_by_any_steps_gives_the_same_tree(tmp_path: Path) -> None:
    for number, counts in enumerate([(600,), (1,) * 20 + (580,), (255, 1, 1, 255, 88), (256, 256, 88)]):
        folder = tmp_path / str(number)
        entries = make_log(folder, *counts)
        checkpoint = checkpoint_of(folder)
        assert ledger.verify_log(folder, checkpoint) == entries
        assert checkpoint.root == plain_root(entries)


def test_partial_tiles_stay_until_the_full_one_is_there(tmp_path: Path) -> None:
    make_log(tmp_path, 3, 4)
    assert (tmp_path / "tile/0/000.p/3").exists()
    assert (tmp_path / "tile/entries/000.p/3").exists()
    old = checkpoint_of(tmp_path)
    ledger.append(tmp_path, [b"x"] * 250, SIGNER)
    assert not (tmp_path / "tile/0/000.p").exists()
    assert not (tmp_path / "tile/entries/000.p").exists()
    # Who still holds the older checkpoint reads the full tile instead.
    assert len(ledger.verify_log(tmp_path, old)) == 7


def test_every_older_checkpoint_is_consistent(tmp_path: Path) -> None:
    ledger.create_log(tmp_path, ORIGIN, SIGNER)
    history = [checkpoint_of(tmp_path)]
    for count in (1, 1, 253, 1, 1, 300):
        history.append(ledger.append(tmp_path, [os.urandom(8) for _ in range(count)], SIGNER))
    for old, new in itertools.combinations_with_replacement(history, 2):
        proof = ledger.prove_consistency(tmp_path, old, new)
        text = encode_consistency(old.size, proof, new)
        assert check_consistency(text, old, trust_of(), "proof").root == new.root


def test_a_signed_note_of_another_implementation() -> None:
    """The example of Go's package note; its key in the verifier form is PeterNeumann+c74f20a3+ARpc2QcU…"""
    key = PublicKey(base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:])
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    line = (
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    assert (
        notes.verifier_key("PeterNeumann", key) == "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    )
    assert notes.open_note(f"{text}\n{line}", "PeterNeumann", [key], "note") == (text, key)
    with pytest.raises(GateError, match="the signature of a note is wrong"):
        notes.open_note(f"{text}\n{line}".replace("know", "knew"), "PeterNeumann", [key], "note")
    with pytest.raises(GateError, match="no trusted key signed"):
        notes.open_note(f"{text}\n{line}", "PeterNeumann", [SIGNER.public], "note")


def test_unknown_signatures_on_a_note_are_ignored_and_doubled_ones_refused(tmp_path: Path) -> None:
    make_log(tmp_path, 2)
    text = checkpoint_of(tmp_path).text
    other = private_key_from_seed(b"o" * 32)
    body = text.split("\n\n")[0] + "\n"
    cosigned = text + notes.sign_note(body, "witness.example", other).split("\n\n")[1]
    assert ledger.open_trusted(cosigned, trust_of(), "note")[0].size == 2
    with pytest.raises(GateError, match="signed twice"):
        ledger.open_trusted(text + text.split("\n\n")[1], trust_of(), "note")


@pytest.mark.parametrize(
    "body",
    [
        f"{ORIGIN}\n01\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n-1\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n{10**16}\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n{'9' * 5000}\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n1\n{base64.b64encode(bytes(31)).decode()}\n",
        f"{ORIGIN}\n1\nAAAA\n",
        f"{ORIGIN}\n1\n",
        f"{ORIGIN}\n1\n\n{base64.b64encode(bytes(32)).decode()}\n",
    ],
)
def test_a_signed_note_that_is_no_checkpoint(body: str) -> None:
    note = notes.sign_note(body, ORIGIN, SIGNER)
    with pytest.raises(FormatError, match=r"not a (checkpoint|signed note)"):
        ledger.open_trusted(note, trust_of(), "note")


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u2003b"])
def test_names_that_a_log_cannot_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="not a name for a log"):
        ledger.create_log(tmp_path / "log", name, SIGNER)
    assert not (tmp_path / "log").exists()


def test_a_log_is_never_made_twice(tmp_path: Path) -> None:
    make_log(tmp_path, 2)
    with pytest.raises(FileExistsError):
        ledger.create_log(tmp_path, ORIGIN, SIGNER)
    (tmp_path / "checkpoint").unlink()
    with pytest.raises(FileExistsError):
        ledger.create_log(tmp_path, ORIGIN, SIGNER)


def test_only_the_logs_own_key_appends(tmp_path: Path) -> None:
    make_log(tmp_path, 2)
    with pytest.raises(GateError, match="no trusted key signed"):
        ledger.append(tmp_path, [b"x"], private_key_from_seed(b"o" * 32))
    assert checkpoint_of(tmp_path).size == 2


def test_entries_have_a_greatest_length(tmp_path: Path) -> None:
    make_log(tmp_path, 1)
    with pytest.raises(FormatError, match="too long"):
        ledger.append(tmp_path, [bytes(65536)], SIGNER)
    ledger.append(tmp_path, [bytes(65535), b""], SIGNER)
    assert ledger.verify_log(tmp_path, checkpoint_of(tmp_path))[1:] == [bytes(65535), b""]


def test_a_crash_at_any_step_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies at its n-th sync or rename, for every n; the log stays valid and goes on."""
    real_fsync, real_replace = os.fsync, Path.replace
    outcomes = set()
    for step in range(40):
        folder = tmp_path / str(step)
        entries = make_log(folder, 255)
        countdown = step

        def dies() -> None:
            nonlocal countdown
            countdown -= 1
            if countdown < 0:
                raise KeyboardInterrupt

        def fsync(descriptor: int) -> None:
            dies()
            real_fsync(descriptor)

        def replace(self: Path, target: Path) -> Path:
            dies()
            return real_replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            patch.setattr(Path, "replace", replace)
            try:
                ledger.append(folder, [b"lost?", b"or not"], SIGNER)
                is_done = True
            except KeyboardInterrupt:
                is_done = False
        checkpoint = checkpoint_of(folder)
        assert checkpoint.size in ((257,) if is_done else (255, 257))
        outcomes.add((checkpoint.size, is_done))
        written = [b"lost?", b"or not"] if checkpoint.size == 257 else []
        assert ledger.verify_log(folder, checkpoint) == entries + written
        ledger.append(folder, [b"after"], SIGNER)
        assert ledger.verify_log(folder, checkpoint_of(folder)) == [*entries, *written, b"after"]
        if is_done:
            break
    assert outcomes == {(255, False), (257, False), (257, True)}


def _append_many(folder: Path, name: str) -> None:
    for number in range(20):
        ledger.append(folder, [f"{name} {number}".encode()], SIGNER)


def test_two_writers_at_once(tmp_path: Path) -> None:
    make_log(tmp_path, 250)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(tmp_path, name)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    entries = ledger.verify_log(tmp_path, checkpoint_of(tmp_path))[250:]
    for name in "ab":
        assert [e for e in entries if e.startswith(name.encode())] == [f"{name} {i}".encode() for i in range(20)]


def test_proof_text_round_trip(tmp_path: Path) -> None:
    make_log(tmp_path, 300)
    proof = ledger.prove_inclusion(tmp_path, checkpoint_of(tmp_path), 299)
    text = encode_proof(proof)
    lines = text.split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert base64.b64decode(lines[1].removeprefix("extra ")) == b"entry 299"
    assert lines[2] == "index 299"
    read, key = parse_proof(text, trust_of(), "proof")
    assert read == proof
    assert key == SIGNER.public
    assert read.holds()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v2"),
        ("extra ", "Extra "),
        ("index 4", "index 04"),
        ("index 4", "index -4"),
        ("index 4", "index 99999999999999999"),
        ("index 4", "index ٤"),
        ("index 4\n", "index 4\n\n"),
        ("extra ZW50cnkgNA==", "extra ZW50cnkgNB=="),
    ],
)
def test_texts_that_are_no_proof(tmp_path: Path, old: str, new: str) -> None:
    make_log(tmp_path, 7)
    text = encode_proof(ledger.prove_inclusion(tmp_path, checkpoint_of(tmp_path), 4))
    assert old in text
    with pytest.raises((FormatError, GateError)):
        parse_proof(text.replace(old, new), trust_of(), "proof")
