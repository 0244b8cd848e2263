"""An append-only log in a folder: tiles, bundles of entries, and a signed checkpoint that is written last.

A crash leaves the old checkpoint, which names none of the new files. Readers need the files and a public key.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritium.errors import FormatError, GateError, UnsupportedError
from tritium.filesystem import locked, sync_folder
from tritium.receipts.keys import PublicKey, Trust
from tritium.receipts.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    is_consistent,
    leaf_hash,
    range_hash,
    root_from_inclusion,
)
from tritium.receipts.notes import (
    MAX_LOG_SIZE,
    MAX_NOTE_BYTES,
    Checkpoint,
    Signs,
    open_checkpoint,
    read_origin,
    sign_checkpoint,
)
from tritium.receipts.tiles import BUNDLES, WIDTH, Tiles, encode_entries, grow, tile_path

CHECKPOINT = "checkpoint"
LOCK = "lock"


def log_keys(trust: Trust, origin: str) -> list[PublicKey]:
    """Return the keys that may sign for the log called ``origin``: role "log", and the log's name for theirs."""
    return [trusted.key for trusted in trust.with_role("log") if trusted.name == origin]


def read_note(path: Path) -> str:
    """Return a note's text. Errors: OSError; FormatError if it is too long or no UTF-8."""
    with path.open("rb") as file:
        data = file.read(MAX_NOTE_BYTES + 1)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError("not a signed note", where=str(path), expected="UTF-8") from None
    if len(data) > MAX_NOTE_BYTES:
        raise FormatError("not a signed note", where=str(path), expected=f"at most {MAX_NOTE_BYTES} bytes")
    return text


def open_trusted(note: str, trust: Trust, where: str) -> tuple[Checkpoint, PublicKey]:
    """Verify a checkpoint by the trusted keys of the log that it names. Errors: GateError, FormatError."""
    origin = read_origin(note)
    return open_checkpoint(note, origin, log_keys(trust, origin), where)


def read_checkpoint(folder: Path, trust: Trust) -> Checkpoint:
    """Return a log's verified checkpoint. Errors: OSError; GateError or FormatError if it is not to be trusted."""
    path = folder / CHECKPOINT
    return open_trusted(read_note(path), trust, str(path))[0]


def verify_log(folder: Path, checkpoint: Checkpoint) -> list[bytes]:
    """Read the whole log and return its entries: each hashes to its leaf, the leaves to every tile and to the root.

    Errors: GateError naming the first file that disagrees.
    """
    tiles = Tiles(folder, checkpoint.size)
    entries = list(tiles.entries())
    tiles.check_levels()
    _compare_root(tiles, checkpoint)
    return entries


def _compare_root(tiles: Tiles, checkpoint: Checkpoint) -> None:
    root = tiles.root()
    if root != checkpoint.root:
        raise GateError(
            "the tree does not have the root of its checkpoint", where=str(tiles.folder),
            expected=checkpoint.root.hex(), got=root.hex(), hint="An entry was changed, or the log was forked",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inclusion:
    """An entry, its place, and the hashes that lead from it to the root of ``checkpoint``."""

    entry: bytes
    index: int
    hashes: tuple[bytes, ...]
    checkpoint: Checkpoint

    def holds(self) -> bool:
        """Tell whether the hashes lead from the entry to the checkpoint's root."""
        root = root_from_inclusion(leaf_hash(self.entry), self.index, self.checkpoint.size, self.hashes)
        return root == self.checkpoint.root


def prove_inclusion(folder: Path, checkpoint: Checkpoint, index: int) -> Inclusion:
    """Return an entry with the proof that the checkpoint covers it.

    Errors: GateError if the files do not lead to the root; ValueError unless 0 ≤ index < size.
    """
    tiles = Tiles(folder, checkpoint.size)
    entry = tiles.entry(index)
    proof = Inclusion(entry, index, tuple(inclusion_proof(tiles.subtree, index, checkpoint.size)), checkpoint)
    if not proof.holds():
        _compare_root(tiles, checkpoint)
        raise GateError("a tile contradicts the root", where=str(folder), got=f"no path for entry {index}")
    return proof


def prove_consistency(folder: Path, old: Checkpoint, new: Checkpoint) -> list[bytes]:
    """Return the proof that the log of ``new`` begins with that of ``old``.

    Errors: GateError if it does not: other names, ``old`` ahead of ``new``, or a fork.
    """
    if old.origin != new.origin:
        raise GateError("the checkpoints are of two logs", expected=old.origin, got=new.origin)
    if old.size > new.size:
        raise GateError(
            "the checkpoint is ahead of the log", where=str(folder), expected=f"at least {old.size} entries",
            got=new.size, hint="Entries were taken away, or the checkpoint is of another copy",
        )  # fmt: skip
    tiles = Tiles(folder, new.size)
    proof = consistency_proof(tiles.subtree, old.size, new.size)
    if not is_consistent(old.size, old.root, new.size, new.root, proof):
        _compare_root(tiles, new)
        raise GateError(
            "the log is forked", where=str(folder), expected=f"root {old.root.hex()} at {old.size} entries",
            got=range_hash(tiles.subtree, 0, old.size).hex(),
        )  # fmt: skip
    return proof


def create_log(folder: Path, origin: str, signer: Signs) -> Checkpoint:
    """Make an empty log called ``origin``. Errors: FileExistsError if there is one; FormatError for an unfit name."""
    checkpoint = sign_checkpoint(origin, 0, EMPTY_ROOT, signer)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK):
        if (folder / CHECKPOINT).exists() or (folder / "tile").exists():
            raise FileExistsError(errno.EEXIST, "there is a log already", str(folder))
        _publish(folder, [(CHECKPOINT, checkpoint.text.encode())])
    return checkpoint


def append(folder: Path, entries: Sequence[bytes], signer: Signs) -> Checkpoint:
    """Append entries and return the new checkpoint; when it returns, all is on disk.

    The files are compared with the present checkpoint first: a damaged log takes no more entries.
    Errors: OSError; FormatError for an entry over 65 535 bytes; GateError if the log is damaged or not the signer's.
    """
    encode_entries(entries)
    with locked(folder / LOCK):
        path = folder / CHECKPOINT
        note = read_note(path)
        old, _ = open_checkpoint(note, read_origin(note), [signer.public], str(path))
        tiles = Tiles(folder, old.size)
        _compare_root(tiles, old)
        if old.size + len(entries) >= MAX_LOG_SIZE:
            raise UnsupportedError("the log is full", where=str(folder), expected=f"below {MAX_LOG_SIZE} entries")
        if not entries:
            return old
        _publish(folder, grow(tiles, entries))
        grown = Tiles(folder, old.size + len(entries))
        new = sign_checkpoint(old.origin, grown.size, grown.root(), signer)
        prove_consistency(folder, old, new)
        _publish(folder, [(CHECKPOINT, new.text.encode())])
        _drop_partial(folder, old.size, new.size)
    return new


def _publish(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write each file beside its place, sync it, and rename it there; then sync the folders."""
    folders = {folder}
    for name, content in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp")
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folders |= {parent for parent in path.parents if folder in (parent, *parent.parents)}
    for each in folders:
        sync_folder(each)


def _drop_partial(folder: Path, old: int, new: int) -> None:
    """Delete partial tiles whose full tile is there now, as the format allows."""
    level = 0
    while new >> 8 * level:
        full = range((old >> 8 * level) // WIDTH, (new >> 8 * level) // WIDTH)
        for name in (level, BUNDLES) if level == 0 else (level,):
            for index in full:
                partial = folder / (tile_path(name, index) + ".p")
                if partial.is_dir():
                    for file in partial.iterdir():
                        file.unlink()
                    partial.rmdir()
        level += 1
