"""The vocabulary that a model file carries: tokens, types, merges or scores, and special ids, checked once on reading."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritium.errors import FormatError, UnsupportedError
from tritium.formats.gguf_header import StringArray

_PREFIX = "tokenizer.ggml."
_MAX_TOKENS = 1 << 22
_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")
_NEVER = "(?!)"

END_OF_GENERATION = frozenset(
    {
        "<|eot_id|>",
        "<|end_of_text|>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<eos>",
        "<EOT>",
        "</s>",
        "<｜end▁of▁sentence｜>",
    }
)
# Source: the chat template of BitNet b1.58 2B4T's published tokenizer.
BITNET_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
_END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<EOT>")


class TokenType(IntEnum):
    """``tokenizer.ggml.token_type``, by the numbers in the file."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the tokenizer needs of a file's metadata; ids are valid, lengths agree, tokens are unique.

    model: ``gpt2`` (byte-level BPE) or ``llama`` (SentencePiece); pre: the name of the pre-tokenizer, None if missing;
    tokens (n,) and types (n,) u8 by id; merges by rank; scores (n,) by id, empty without; flags are None where unset.
    """

    model: str
    pre: str | None
    tokens: list[str]
    types: bytes
    ids: dict[str, int]
    merges: list[tuple[str, str]]
    scores: list[float]
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    unknown_id: int | None
    stop_ids: frozenset[int]
    add_bos: bool | None
    add_eos: bool | None
    add_space_prefix: bool | None
    chat_template: str | None
    architecture: str

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> Vocabulary:
        """Read and check the ``tokenizer.*`` keys. Errors: FormatError, UnsupportedError on an unknown tokenizer model."""
        read = _Reader(metadata)
        model = read.text("model")
        if model is None:
            raise FormatError("no tokenizer in this file", expected=f"the key {_PREFIX}model")
        if model not in ("gpt2", "llama"):
            raise UnsupportedError(
                "unknown tokenizer model", where=_PREFIX + "model", expected="gpt2 or llama", got=repr(model)
            )
        tokens = read.tokens()
        ids = {token: index for index, token in enumerate(tokens)}
        if len(ids) != len(tokens):
            raise _duplicate(tokens)
        types = read.types(len(tokens))
        _check_byte_tokens(tokens, types)
        eot_id = read.token_id("eot_token_id", len(tokens))
        declared = [read.token_id(name, len(tokens)) for name in ("eos_token_id", "eom_token_id")]
        types, stops, found_eot = _end_of_generation(ids, types, has_types=_PREFIX + "token_type" in metadata)
        eot_id = found_eot if eot_id is None else eot_id
        return cls(
            model=model,
            pre=read.text("pre"),
            tokens=tokens,
            types=types,
            ids=ids,
            merges=read.merges() if model == "gpt2" else [],
            scores=read.scores(len(tokens)) if model == "llama" else [],
            bos_id=read.token_id("bos_token_id", len(tokens)),
            eos_id=declared[0],
            eot_id=eot_id,
            unknown_id=read.token_id("unknown_token_id", len(tokens)),
            stop_ids=frozenset(stops | {index for index in (*declared, eot_id) if index is not None}),
            add_bos=read.flag("add_bos_token"),
            add_eos=read.flag("add_eos_token"),
            add_space_prefix=read.flag("add_space_prefix"),
            chat_template=read.chat_template(),
            architecture=read.architecture(),
        )

    def of_type(self, *types: TokenType) -> dict[str, int]:
        """Return text → id of the tokens of these types."""
        wanted = bytes(kind in types for kind in range(256))
        return dict(compress(self.ids.items(), self.types.translate(wanted)))


def _duplicate(tokens: Sequence[str]) -> FormatError:
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if token in seen:
            return FormatError(
                "two tokens have the same text",
                where=_PREFIX + "tokens",
                expected="unique tokens",
                got=f"{token[:80]!r} as ids {seen[token]} and {index}",
            )
        seen[token] = index
    raise AssertionError("called with unique tokens")


def _check_byte_tokens(tokens: Sequence[str], types: bytes) -> None:
    index = types.find(TokenType.BYTE)
    while index >= 0:
        if not _BYTE_TOKEN.fullmatch(tokens[index]):
            raise FormatError(
                "malformed byte token",
                where=f"{_PREFIX}tokens[{index}]",
                expected="<0x00> to <0xFF>",
                got=repr(tokens[index][:80]),
            )
        index = types.find(TokenType.BYTE, index + 1)


def _end_of_generation(ids: Mapping[str, int], types: bytes, *, has_types: bool) -> tuple[bytes, set[int], int | None]:
    """Find the tokens that end a generation by their texts: the types, their ids, and the end of turn.

    Converters mark some of them user-defined, which would let plain text forge them; here they are control tokens.
    A normal token is left alone, unless the file has no types at all.
    """
    stops = set()
    mutable = bytearray(types)
    for text in END_OF_GENERATION:
        index = ids.get(text)
        if index is None or (has_types and types[index] not in (TokenType.CONTROL, TokenType.USER_DEFINED)):
            continue
        mutable[index] = TokenType.CONTROL
        stops.add(index)
    # Where <|return|> ends a generation, <|end|> ends one message of several.
    if ids.get("<|return|>") in stops:
        stops.discard(ids.get("<|end|>", -1))
    eot_id = next((ids[text] for text in _END_OF_TURN if ids.get(text) in stops), None)
    return bytes(mutable), stops, eot_id


class _Reader:
    """Typed access to ``tokenizer.ggml.*``."""

    def __init__(self, metadata: Mapping[str, object]) -> None:
        self._metadata = metadata

    def text(self, name: str) -> str | None:
        value = self._metadata.get(_PREFIX + name)
        if value is not None and not isinstance(value, str):
            raise _wrong(_PREFIX + name, "a string", value)
        return value or None

    def flag(self, name: str) -> bool | None:
        value = self._metadata.get(_PREFIX + name)
        if value is not None and not isinstance(value, (bool, np.bool_)):
            raise _wrong(_PREFIX + name, "a boolean", value)
        return None if value is None else bool(value)

    def token_id(self, name: str, n_tokens: int) -> int | None:
        value = self._metadata.get(_PREFIX + name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise _wrong(_PREFIX + name, "a token id", value)
        if not 0 <= value < n_tokens:
            raise FormatError(
                "token id out of range", where=_PREFIX + name, expected=f"0 to {n_tokens - 1}", got=int(value)
            )
        return int(value)

    def architecture(self) -> str:
        value = self._metadata.get("general.architecture", "")
        if not isinstance(value, str):
            raise _wrong("general.architecture", "a string", value)
        return value

    def chat_template(self) -> str | None:
        value = self._metadata.get("tokenizer.chat_template")
        if value is not None and not isinstance(value, str):
            raise _wrong("tokenizer.chat_template", "a string", value)
        return value or None

    def tokens(self) -> list[str]:
        tokens = self._strings("tokens")
        if not 0 < len(tokens) <= _MAX_TOKENS:
            raise FormatError(
                "absurd vocabulary size", where=_PREFIX + "tokens", expected=f"1 to {_MAX_TOKENS}", got=len(tokens)
            )
        if "" in tokens:
            # An empty text matches nowhere; a name of its own keeps the texts unique.
            tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]
        return tokens

    def merges(self) -> list[tuple[str, str]]:
        # One split of one text is several times faster than a split a line, and there are 280,000 lines.
        text, n_lines = self._joined("merges", " \n ")
        if not n_lines:
            return []
        words = text.split(" ")
        n_breaks = n_lines - 1
        fits = len(words) == n_lines + n_breaks + n_lines and words.count("\n") == n_breaks
        if not fits or words[2::3].count("\n") != n_breaks or "" in words:
            lines = self._strings("merges")
            bad = next(
                i for i, line in enumerate(lines) if line.count(" ") != 1 or not all(line.split(" ")) or "\n" in line
            )
            raise FormatError(
                "malformed merge",
                where=f"{_PREFIX}merges[{bad}]",
                expected="two tokens and a space between",
                got=repr(lines[bad][:80]),
            )
        pairs = list(zip(words[0::3], words[1::3], strict=True))
        # A later copy of a merge can never apply before the first; the first keeps its rank.
        return pairs if len(set(pairs)) == n_lines else list(dict.fromkeys(pairs))

    def scores(self, n_tokens: int) -> list[float]:
        scores = self._numbers("scores", n_tokens, "fiu").astype(np.float64)
        if not np.isfinite(scores).all():
            raise FormatError("token scores are not finite", where=_PREFIX + "scores")
        result: list[float] = scores.tolist()
        return result

    def types(self, n_tokens: int) -> bytes:
        if _PREFIX + "token_type" not in self._metadata:
            return bytes([TokenType.NORMAL]) * n_tokens
        types = self._numbers("token_type", n_tokens, "iu")
        if types.min() < 1 or types.max() > 6:
            bad = int(np.flatnonzero((types < 1) | (types > 6))[0])
            raise FormatError(
                "unknown token type", where=f"{_PREFIX}token_type[{bad}]", expected="1 to 6", got=int(types[bad])
            )
        return types.astype(np.uint8).tobytes()

    def _strings(self, name: str) -> list[str]:
        value = self._metadata.get(_PREFIX + name)
        if value is None:
            raise FormatError("incomplete tokenizer", expected=f"the key {_PREFIX}{name}")
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            raise _wrong(_PREFIX + name, "an array of strings", value)
        strings = list(value)
        if set(map(type, strings)) - {str}:
            bad = next(index for index, item in enumerate(strings) if type(item) is not str)
            raise _wrong(f"{_PREFIX}{name}[{bad}]", "a string", strings[bad])
        return strings

    def _joined(self, name: str, separator: str) -> tuple[str, int]:
        """The strings of an array with ``separator`` between them, and their number."""
        value = self._metadata.get(_PREFIX + name)
        if isinstance(value, StringArray):
            return value.joined(separator), len(value)
        strings = self._strings(name)
        return separator.join(strings), len(strings)

    def _numbers(self, name: str, n_tokens: int, kinds: str) -> NDArray[Any]:
        value = self._metadata.get(_PREFIX + name)
        if value is None:
            raise FormatError("incomplete tokenizer", expected=f"the key {_PREFIX}{name}")
        if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, np.ndarray)):
            raise _wrong(_PREFIX + name, "an array of numbers", value)
        try:
            numbers = np.asarray(value)
        except (ValueError, OverflowError):
            raise _wrong(_PREFIX + name, "an array of numbers", value) from None
        if numbers.ndim != 1 or numbers.dtype.kind not in kinds:
            raise _wrong(_PREFIX + name, "an array of numbers", value)
        if len(numbers) != n_tokens:
            raise FormatError(
                "tokenizer arrays disagree in length",
                where=_PREFIX + name,
                expected=f"{n_tokens}, one for each token",
                got=len(numbers),
            )
        return numbers


def _wrong(where: str, expected: str, value: object) -> FormatError:
    shown = re.sub(r"\s+", " ", repr(value)[:80])
    return FormatError("wrong type in tokenizer metadata", where=where, expected=expected, got=shown)


class TokenMatcher:
    """Finds token texts in a text: leftmost first, the longest where several start.

    Candidates are looked up by their first character and length, so the cost is the text's length times the number
    of different lengths that tokens with that first character have.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids
        lengths: dict[str, set[int]] = {}
        for text in ids:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._first = re.compile("|".join(map(re.escape, sorted(lengths))) or _NEVER)

    def split(self, text: str) -> list[str | int]:
        """Cut ``text`` into ids of the tokens found and the non-empty texts between."""
        pieces: list[str | int] = []
        start = 0
        candidate = self._first.search(text)
        while candidate is not None:
            position = candidate.start()
            for length in self._lengths[text[position]]:
                found = self._ids.get(text[position : position + length])
                if found is not None:
                    if position > start:
                        pieces.append(text[start:position])
                    pieces.append(found)
                    start = position + length
                    break
            candidate = self._first.search(text, max(start, position + 1))
        if start < len(text):
            pieces.append(text[start:])
        return pieces
