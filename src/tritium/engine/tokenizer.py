"""Text to token ids and back, from the vocabulary inside a model file."""

from __future__ import annotations

import codecs
import gc
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from tritium.engine.byte_bpe import BYTE_OF_LETTER, ByteLevelBpe
from tritium.engine.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from tritium.engine.spm import SPACE, SentencePieceBpe
from tritium.engine.vocabulary import BITNET_CHAT_TEMPLATE, TokenMatcher, TokenType, Vocabulary
from tritium.errors import FormatError, ShapeError, UnsupportedError
from tritium.formats.gguf import GGUFFile, open_gguf

_SPECIAL = (TokenType.CONTROL, TokenType.UNKNOWN)


class _Merger(Protocol):
    def encode(self, text: str) -> list[int]: ...


class Tokenizer:
    """One model's vocabulary. Immutable; may be shared between threads.

    ``notes`` lists what was assumed where the file is silent; a program should show it to its user.
    ``stop_ids`` holds every token that ends a generation; ``vocab_size`` counts the tokens, ids run from 0 to it.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.notes: list[str] = []
        self.model = vocabulary.model
        self.pre = ""
        self.architecture = vocabulary.architecture
        self.chat_template = self._choose_chat_template(vocabulary)
        self.vocab_size = len(vocabulary.tokens)
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.eot_id = vocabulary.eot_id
        self.unknown_id = vocabulary.unknown_id
        self.stop_ids = vocabulary.stop_ids
        self._ids = vocabulary.ids
        self._tokens = vocabulary.tokens
        self._types = vocabulary.types
        self._bytes: list[bytes | None] = [None] * self.vocab_size
        self._texts: list[str | None] = [None] * self.vocab_size
        self._special = vocabulary.of_type(*_SPECIAL)
        always = vocabulary.of_type(TokenType.USER_DEFINED)
        self._always = TokenMatcher(always)
        self._with_special = TokenMatcher(always | self._special)
        self._merger: _Merger
        if self.model == "gpt2":
            row = self._choose_pre_tokenizer(vocabulary)
            letters = vocabulary.of_type(TokenType.NORMAL, TokenType.UNUSED, TokenType.BYTE)
            self._merger = ByteLevelBpe(letters, vocabulary.merges, row)
            add_bos, self._add_space_prefix = row.add_bos, False
        else:
            self._merger = _sentence_piece_bpe(vocabulary)
            add_bos, self._add_space_prefix = True, vocabulary.add_space_prefix is not False
        self.add_bos = self._rule("add_bos_token", vocabulary.add_bos, add_bos, self.bos_id)
        self.add_eos = self._rule("add_eos_token", vocabulary.add_eos, False, self.eos_id)

    @classmethod
    def from_gguf(cls, file: str | os.PathLike[str] | GGUFFile) -> Tokenizer:
        """Read the tokenizer of a GGUF file, given as a path or opened; a file of vocabulary only will do.

        Errors: OSError if it cannot be read; FormatError if it is malformed; UnsupportedError if the kind is unknown.
        """
        if isinstance(file, GGUFFile):
            return cls.from_metadata(file.metadata)
        with open_gguf(file) as opened:
            return cls.from_metadata(opened.metadata)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> Tokenizer:
        """Read the tokenizer from GGUF keys and values. Errors: FormatError, UnsupportedError."""
        # Merges are hundreds of thousands of tuples: the collector of cycles would go through them again and again, to no
        # avail, and is off until they are gone.
        was_on = gc.isenabled()
        gc.disable()
        try:
            return cls(Vocabulary.from_metadata(metadata))
        finally:
            if was_on:
                gc.enable()

    def encode(self, text: str, add_special_tokens: bool = True, parse_special: bool = False) -> list[int]:
        """Return the ids of ``text``.

        add_special_tokens: BOS and EOS are added where the model asks for them. parse_special: the texts of control
        tokens become those tokens; otherwise they are text like any other, as input from users must be.
        Errors: ShapeError if ``text`` holds a lone surrogate; UnsupportedError if the vocabulary lacks one of its bytes.
        """
        _check_unicode(text)
        pieces = (self._with_special if parse_special else self._always).split(text)
        return self._framed(self._encode_pieces(pieces), add_special_tokens)

    def encode_template(self, text: str, literals: Mapping[int, str], add_special_tokens: bool = True) -> list[int]:
        """Return the ids of ``text`` with control tokens parsed, except where a code point of ``literals`` stands in one.

        literals: code point → the character that it stands for, once control tokens have been found.
        A BOS that ``text`` starts with is not doubled. Errors: as ``encode``.
        """
        _check_unicode(text)
        pieces: list[str | int] = []
        for piece in self._with_special.split(text):
            if isinstance(piece, int) or not literals:
                pieces.append(piece)
            else:
                pieces += self._always.split(piece.translate(literals))
        return self._framed(self._encode_pieces(pieces), add_special_tokens, has_bos=pieces[:1] == [self.bos_id])

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False, *, continuation: bool = False) -> str:
        """Return the text of ``ids``; bytes that are not UTF-8 become U+FFFD.

        SentencePiece puts a space in front of a text when encoding; decoding takes it away again, unless
        ``continuation`` says that the ids follow others. Errors: ShapeError if an id is out of range.
        """
        chunks = self.chunks(ids, skip_special_tokens, strip=not continuation)
        return b"".join(chunks).decode(errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ``ids``, one token after the other. Errors: ShapeError if an id is out of range."""
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that one token stands for; of a special token, its name. Errors: ShapeError if out of range."""
        self._check_id(token_id)
        known = self._bytes[token_id]
        if known is None:
            known = self._bytes[token_id] = self._spell(token_id)
        return known

    def text_of(self, token_id: int) -> str | None:
        """Return the text of a token that stands for whole characters; None of another, and of a special one.

        Errors: ShapeError if the id is out of range.
        """
        text = self._texts[token_id] if 0 <= token_id < self.vocab_size else None
        if text is None and not self.is_special(token_id):
            try:
                text = self._texts[token_id] = self.token_bytes(token_id).decode()
            except UnicodeDecodeError:
                return None
        return text

    def token_text(self, token_id: int) -> str:
        """Return the token as it is spelled in the file. Errors: ShapeError if the id is out of range."""
        self._check_id(token_id)
        return self._tokens[token_id]

    def token_type(self, token_id: int) -> TokenType:
        """Return the type of one token. Errors: ShapeError if the id is out of range."""
        self._check_id(token_id)
        return TokenType(self._types[token_id])

    def token_id(self, text: str) -> int | None:
        """Return the id of the token that is spelled ``text`` in the file, or None."""
        return self._ids.get(text)

    def is_special(self, token_id: int) -> bool:
        """True for control and unknown tokens, which carry no text. Errors: ShapeError if the id is out of range."""
        self._check_id(token_id)
        return self._types[token_id] in _SPECIAL

    def special_tokens(self) -> dict[str, int]:
        """Return text → id of the control and unknown tokens."""
        return dict(self._special)

    def _choose_chat_template(self, vocabulary: Vocabulary) -> str | None:
        template = vocabulary.chat_template
        # A converter of BitNet writes this one whatever the model was trained on; under it the model never ends a turn.
        if template and "BITNETAssistant" in template and vocabulary.architecture.startswith("bitnet"):
            self.notes.append("tokenizer.chat_template is a converter's placeholder: BitNet's own is used instead")
            return BITNET_CHAT_TEMPLATE
        return template

    def _choose_pre_tokenizer(self, vocabulary: Vocabulary) -> PreTokenizer:
        name = vocabulary.pre
        if name in (None, "default"):
            is_llama3 = {"<|begin_of_text|>", "<|end_of_text|>"} <= vocabulary.ids.keys()
            self.pre = "llama-bpe" if is_llama3 else "gpt-2"
            missing = "tokenizer.ggml.pre is missing" if name is None else "tokenizer.ggml.pre is 'default'"
            reason = ", as the vocabulary is Llama 3's" if is_llama3 else ""
            self.notes.append(f"{missing}: text is cut as by '{self.pre}'{reason}")
        else:
            self.pre = str(name)
        if self.pre not in PRE_TOKENIZERS:
            raise UnsupportedError(
                "unknown pre-tokenizer",
                where="tokenizer.ggml.pre",
                expected="one of " + ", ".join(sorted(PRE_TOKENIZERS)),
                got=repr(self.pre[:80]),
            )
        return PRE_TOKENIZERS[self.pre]

    def _rule(self, key: str, asked: bool | None, default: bool, token_id: int | None) -> bool:
        """Whether a token is added to each text: as the file says, else as its kind of tokenizer does."""
        rule = default if asked is None else asked
        if not rule or token_id is not None:
            return rule
        name = key.removeprefix("add_")
        if asked:
            raise FormatError(
                "incomplete tokenizer", where=f"tokenizer.ggml.{key}", expected=f"the key tokenizer.ggml.{name}_id"
            )
        self.notes.append(f"tokenizer.ggml.{name}_id is missing: none is added to the text")
        return False

    def _encode_pieces(self, pieces: Iterable[str | int]) -> list[int]:
        ids: list[int] = []
        after_special = True
        for piece in pieces:
            if isinstance(piece, int):
                ids.append(piece)
            else:
                prefix = " " if self._add_space_prefix and after_special else ""
                ids += self._merger.encode(prefix + piece)
            after_special = isinstance(piece, int)
        return ids

    def _framed(self, ids: list[int], add_special_tokens: bool, *, has_bos: bool = False) -> list[int]:
        if not add_special_tokens:
            return ids
        bos = [self.bos_id] if self.add_bos and self.bos_id is not None and not has_bos else []
        eos = [self.eos_id] if self.add_eos and self.eos_id is not None else []
        return [*bos, *ids, *eos]

    def chunks(self, ids: Iterable[int], skip_special_tokens: bool, *, strip: bool) -> Iterator[bytes]:
        """Yield the bytes of each token; ``strip`` takes away the space that encoding put in front of the text."""
        strip = strip and self._add_space_prefix
        for index in ids:
            special = self.is_special(index)
            if special and skip_special_tokens:
                continue
            chunk = self.token_bytes(index)
            if strip and not special:
                chunk = chunk.removeprefix(b" ")
                strip = False
            yield chunk

    def _spell(self, index: int) -> bytes:
        text, kind = self._tokens[index], self._types[index]
        if kind == TokenType.BYTE:
            return bytes([int(text[3:5], 16)])
        if kind in (TokenType.NORMAL, TokenType.UNUSED):
            if self.model == "llama":
                return text.replace(SPACE, " ").encode()
            try:
                return text.translate(BYTE_OF_LETTER).encode("latin-1")
            except UnicodeEncodeError:
                pass  # Not spelled in the byte alphabet: an added token, which stands for its own text.
        return text.encode()

    def _check_id(self, index: int) -> None:
        if not 0 <= index < self.vocab_size:
            raise ShapeError("token id out of range", expected=f"0 to {self.vocab_size - 1}", got=index)


class StreamDetokenizer:
    """Text of a growing sequence of tokens, in pieces that never end inside a code point.

    All pieces joined, the last one from ``flush``, are ``tokenizer.decode`` of all ids with the same options.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = False, continuation: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._at_start = not continuation
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._is_whole = True  # no code point has begun

    def push(self, token_id: int) -> str:
        """Return the text that became complete with this token. Errors: ShapeError if the id is out of range."""
        if self._is_whole and not self._at_start:
            text = self._tokenizer.text_of(token_id)
            if text is not None:
                return text
        chunks = self._tokenizer.chunks((token_id,), self._skip, strip=self._at_start)
        text = "".join(map(self._decoder.decode, chunks))
        # Only the first token that carries text can hold the space put in front of it.
        self._at_start &= self._tokenizer.is_special(token_id)
        self._is_whole = not self._decoder.getstate()[0]
        return text

    def flush(self) -> str:
        """Return what is left: U+FFFD if the last code point is unfinished. The stream ends here."""
        return self._decoder.decode(b"", final=True)


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ShapeError(
            "text is not Unicode",
            where=f"character {error.start}",
            expected="no lone surrogate",
            got=f"U+{ord(text[error.start]):04X}",
        ) from None


def _sentence_piece_bpe(vocabulary: Vocabulary) -> SentencePieceBpe:
    # Control, unknown and byte tokens are no pieces: merging "<", "s" and ">" must not build a BOS.
    pieces = vocabulary.of_type(TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
    byte_ids: list[int | None] = [None] * 256
    for text, index in vocabulary.of_type(TokenType.BYTE).items():
        byte_ids[int(text[3:5], 16)] = index
    unknown = next(iter(vocabulary.of_type(TokenType.UNKNOWN).values()), None)
    return SentencePieceBpe(
        pieces, vocabulary.scores, byte_ids, unknown if vocabulary.unknown_id is None else vocabulary.unknown_id
    )
