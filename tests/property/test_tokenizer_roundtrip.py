"""Properties of tokenizers: what was encoded decodes to itself, streams agree with wholes, merging agrees with its definition."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.engine.byte_bpe import LETTERS
from tritium.engine.pretokenizers import PRE_TOKENIZERS
from tritium.engine.spm import SPACE, SentencePieceBpe
from tritium.engine.tokenizer import StreamDetokenizer, Tokenizer

MERGES = ["Ġ Ġ", "ĠĠ ĠĠ", "h e", "l l", "he ll", "hell o", "Ġ t", "Ġt he", "i n", "1 2", "ðŁ ¦", "ð Ł", "Ċ Ċ"]
CONTROL = ["<|eot_id|>", "<|start|>"]

TEXTS = st.one_of(
    st.text(),
    st.text(alphabet=" \t\n\rhelo'tsTHEin123<|>_é漢🦙\u0301\u00a0"),
    st.lists(st.sampled_from(["hello", " the", "  ", "\n\n", "12", "'LL", *CONTROL, "<|", "🦙", "\u200d"])).map(
        "".join
    ),
)


def small(pre: str) -> Tokenizer:
    merges = sorted(MERGES, key=lambda line: len(line))
    built = [merge.replace(" ", "") for merge in merges]
    tokens = [*LETTERS.values(), *built, *CONTROL]
    return Tokenizer.from_metadata(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1] * (256 + len(built)) + [3] * len(CONTROL),
            "tokenizer.ggml.merges": merges,
            "tokenizer.ggml.add_bos_token": False,
        }
    )


SMALL = {pre: small(pre) for pre in PRE_TOKENIZERS}


@given(text=TEXTS, pre=st.sampled_from(sorted(SMALL)), parse_special=st.booleans())
@settings(max_examples=300)
def test_byte_level_text_survives(text: str, pre: str, parse_special: bool) -> None:
    tokenizer = SMALL[pre]
    ids = tokenizer.encode(text, parse_special=parse_special)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    if not parse_special:
        assert not any(map(tokenizer.is_special, ids))


@given(data=st.data())
@settings(max_examples=300)
def test_published_byte_level_text_survives(shared_data: Path, data: st.DataObject) -> None:
    tokenizer = _published(shared_data, "llama-bpe")
    text = data.draw(TEXTS)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.decode(tokenizer.encode(text, parse_special=True), skip_special_tokens=False).endswith(text)


@given(data=st.data())
@settings(max_examples=300)
def test_published_sentence_piece_text_survives(shared_data: Path, data: st.DataObject) -> None:
    tokenizer = _published(shared_data, "llama-spm")
    # U+2581 is how this format writes a space.
    text = data.draw(TEXTS).replace(SPACE, "")
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


_LOADED: dict[str, Tokenizer] = {}


def _published(shared_data: Path, name: str) -> Tokenizer:
    if name not in _LOADED:
        _LOADED[name] = Tokenizer.from_gguf(shared_data / "tokenizers" / f"ggml-vocab-{name}.gguf")
    return _LOADED[name]


@given(
    ids=st.lists(st.integers(0, SMALL["gpt-2"].vocab_size - 1)),
    skip=st.booleans(),
    continuation=st.booleans(),
)
@settings(max_examples=500)
def test_stream_joins_to_decode(ids: list[int], skip: bool, continuation: bool) -> None:
    tokenizer = SMALL["gpt-2"]
    stream = StreamDetokenizer(tokenizer, skip_special_tokens=skip, continuation=continuation)
    pieces = [*map(stream.push, ids), stream.flush()]
    assert "".join(pieces) == tokenizer.decode(ids, skip, continuation=continuation)
    for piece in pieces:
        piece.encode()


@given(data=st.data(), skip=st.booleans(), continuation=st.booleans())
@settings(max_examples=200)
def test_sentence_piece_stream_joins_to_decode(
    shared_data: Path, data: st.DataObject, skip: bool, continuation: bool
) -> None:
    tokenizer = _published(shared_data, "llama-spm")
    ids = data.draw(st.lists(st.integers(0, 400)))
    stream = StreamDetokenizer(tokenizer, skip_special_tokens=skip, continuation=continuation)
    pieces = [*map(stream.push, ids), stream.flush()]
    assert "".join(pieces) == tokenizer.decode(ids, skip, continuation=continuation)


def merge_by_definition(text: str, scores: dict[str, float]) -> list[str]:
    symbols = list(text.replace(" ", SPACE))
    while True:
        pairs = [(scores.get(a + b), -i) for i, (a, b) in enumerate(pairwise(symbols))]
        best = max((pair for pair in pairs if pair[0] is not None), default=None)
        if best is None:
            return symbols
        i = -best[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


@given(
    pieces=st.dictionaries(
        st.text(alphabet=f"ab{SPACE}", min_size=2, max_size=5), st.integers(-4, 0).map(float), max_size=25
    ),
    text=st.text(alphabet="ab ", max_size=30),
)
@settings(max_examples=500)
def test_sentence_piece_merging_follows_its_definition(pieces: dict[str, float], text: str) -> None:
    pieces |= dict.fromkeys(f"ab{SPACE}", -9.0)
    ids = {piece: index for index, piece in enumerate(pieces)}
    merger = SentencePieceBpe(ids, list(pieces.values()), [None] * 256, None)
    spelled = list(pieces)
    assert [spelled[i] for i in merger.encode(text)] == merge_by_definition(text, pieces)


def test_small_vocabularies_really_merge() -> None:
    tokenizer = SMALL["gpt-2"]
    assert [tokenizer.token_text(i) for i in tokenizer.encode("hello the")] == ["hello", "Ġthe"]
