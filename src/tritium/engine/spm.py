"""SentencePiece BPE: merge the neighboring pair whose joined piece scores highest, leftmost first, until none is a piece.

What no piece covers falls back to the tokens of its UTF-8 bytes. Merge ranks, as the ``tokenizers`` library has them,
cannot express this order when one piece can be joined from two different overlapping pairs, so it is written out here.
Source: Kudo and Richardson 2018, the BPE model of SentencePiece.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

from tritium.errors import UnsupportedError

SPACE = "\u2581"

_WORD = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")
_INNER_SPACE = re.compile(f"[^{SPACE}]{SPACE}")
_CACHE_ENTRIES = 1 << 14
_CACHED_LENGTH = 64


class SentencePieceBpe:
    """The merge table of one vocabulary.

    pieces: text → id of the tokens that merging may build (not control, unknown or byte tokens); scores: by id, higher
    merges first; byte_ids: 256 ids, None where the vocabulary lacks the byte; unknown_id stands in for such a byte.
    """

    def __init__(
        self,
        pieces: Mapping[str, int],
        scores: Sequence[float],
        byte_ids: Sequence[int | None],
        unknown_id: int | None,
    ) -> None:
        self._pieces = pieces
        self._scores = scores
        self._byte_ids = byte_ids
        self._unknown_id = unknown_id
        # No merge can cross from a letter to the space after it if no piece holds that pair; then words are
        # independent of each other and can be merged, and remembered, one by one.
        self._words_are_independent = not any(_INNER_SPACE.search(piece) for piece in pieces)
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``, whose spaces are tokenized as U+2581. Errors: UnsupportedError on a byte without token."""
        text = text.replace(" ", SPACE)
        if not self._words_are_independent:
            return self._merge(text)
        ids: list[int] = []
        for word in _WORD.findall(text):
            known = self._cache.get(word)
            if known is None:
                known = self._merge(word)
                if len(word) <= _CACHED_LENGTH:
                    if len(self._cache) >= _CACHE_ENTRIES:
                        self._cache.clear()
                    self._cache[word] = known
            ids += known
        return ids

    def _merge(self, text: str) -> list[int]:
        """Merge one stretch of text: n·log n in its length."""
        pieces, scores = self._pieces, self._scores
        # A symbol is named by the position of its first character; an empty one has been merged into its left neighbor.
        symbols = list(text)
        end = len(symbols)
        following = list(range(1, end + 1))
        preceding = list(range(-1, end - 1))

        def candidate(left: int, right: int) -> tuple[float, int, int, int] | None:
            joined = symbols[left] + symbols[right]
            piece = pieces.get(joined)
            return None if piece is None else (-scores[piece], left, right, len(joined))

        queue = [pair for left in range(end - 1) if (pair := candidate(left, left + 1)) is not None]
        heapify(queue)
        while queue:
            _, left, right, length = heappop(queue)
            first, second = symbols[left], symbols[right]
            # Symbols only grow, so a changed length means that the candidate is stale.
            if not first or not second or len(first) + len(second) != length:
                continue
            symbols[left] = first + second
            symbols[right] = ""
            after = following[right]
            following[left] = after
            if after < end:
                preceding[after] = left
                if (pair := candidate(left, after)) is not None:
                    heappush(queue, pair)
            before = preceding[left]
            if before >= 0 and (pair := candidate(before, left)) is not None:
                heappush(queue, pair)
        return self._ids([symbol for symbol in symbols if symbol])

    def _ids(self, symbols: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for symbol in symbols:
            piece = self._pieces.get(symbol)
            if piece is not None:
                ids.append(piece)
                continue
            for byte in symbol.encode():
                byte_id = self._byte_ids[byte]
                if byte_id is None:
                    byte_id = self._unknown_id
                if byte_id is None:
                    raise UnsupportedError(
                        "text cannot be tokenized",
                        expected=f"a byte token <0x{byte:02X}> or an unknown token in the vocabulary",
                        got="neither",
                    )
                ids.append(byte_id)
        return ids
