"""Byte-level BPE: each byte is written as one letter of a printable alphabet, then letters are merged by rank.

Source: Radford et al. 2019 (GPT-2), the byte alphabet; the merging is that of the ``tokenizers`` library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tokenizers

from tritium.engine.pretokenizers import PreTokenizer
from tritium.errors import FormatError, UnsupportedError

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTABLE]
# Printable Latin-1 stands for itself; the others take the letters from U+0100 on, in order.
LETTERS = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(0x100 + i) for i, byte in enumerate(_HIDDEN)}

# For str.translate to Latin-1: a character outside the alphabet becomes one that Latin-1 cannot encode.
BYTE_OF_LETTER: Mapping[int, int] = dict.fromkeys(_HIDDEN, 0xFFFF) | {
    ord(letter): byte for byte, letter in LETTERS.items()
}


class ByteLevelBpe:
    """The merge table of one vocabulary.

    ids: text → id of the tokens that merging may build, spelled in the byte alphabet; merges by rank.
    Errors: FormatError if a merge names or builds a text that is not in ``ids``.
    """

    def __init__(self, ids: dict[str, int], merges: list[tuple[str, str]], row: PreTokenizer) -> None:
        try:
            model = tokenizers.models.BPE(ids, merges, ignore_merges=row.ignore_merges)
        except Exception as error:
            raise _explain(ids, merges, error) from None
        self._library = tokenizers.Tokenizer(model)
        cuts = [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated", invert=False)
            for pattern in row.patterns
        ]
        spelling = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([*cuts, spelling])
        # The library drops a byte without token; text must not vanish.
        self._missing = bytes(byte for byte, letter in LETTERS.items() if letter not in ids)

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``. Errors: UnsupportedError if a byte of it has no token."""
        if self._missing:
            lost = set(text.encode()).intersection(self._missing)
            if lost:
                raise UnsupportedError(
                    "text cannot be tokenized",
                    expected=f"a token for byte 0x{min(lost):02X} in the vocabulary",
                    got="none",
                )
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids


def _explain(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], error: Exception) -> FormatError:
    for rank, (left, right) in enumerate(merges):
        for text in (left, right, left + right):
            if text not in ids:
                return FormatError(
                    "merge of an unknown token",
                    where=f"tokenizer.ggml.merges, number {rank}",
                    expected="tokens of the vocabulary",
                    got=repr(text[:80]),
                )
    return FormatError("vocabulary refused by the tokenizers library", where="tokenizer.ggml.merges", got=str(error))
