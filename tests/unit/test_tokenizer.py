"""Tokenizers: the ids of published vocabularies, special tokens, rules of BOS and EOS, decoding."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import tokenizers

from tritium.engine.byte_bpe import LETTERS
from tritium.engine.pretokenizers import PRE_TOKENIZERS
from tritium.engine.tokenizer import StreamDetokenizer, Tokenizer
from tritium.engine.vocabulary import BITNET_CHAT_TEMPLATE, TokenType
from tritium.errors import ShapeError, UnsupportedError
from tritium.formats.gguf import open_gguf

N, U, C, D, B = TokenType.NORMAL, TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.BYTE


def byte_level(extra: dict[str, TokenType] | None = None, **keys: object) -> dict[str, object]:
    """Metadata of a vocabulary of 256 letters, a few merges and ``extra`` tokens."""
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r"]
    tokens = [*LETTERS.values(), *(merge.replace(" ", "") for merge in merges), *(extra or {})]
    types = [N] * (256 + len(merges)) + list((extra or {}).values())
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
        "tokenizer.ggml.merges": merges,
    } | {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def sentence_piece(pieces: dict[str, float], **keys: object) -> dict[str, object]:
    """Metadata of a SentencePiece vocabulary: <unk>, <s>, </s>, 256 bytes, then ``pieces`` with their scores."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in (U, C, C, *[B] * 256, *[N] * len(pieces))],
        "tokenizer.ggml.scores": [0.0] * 259 + list(pieces.values()),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    } | {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


@pytest.fixture(scope="module", params=["llama-bpe", "llama-spm"])
def published(request: pytest.FixtureRequest, shared_data: Path) -> tuple[Tokenizer, Path]:
    path = shared_data / "tokenizers" / f"ggml-vocab-{request.param}.gguf"
    return Tokenizer.from_gguf(path), path


def test_published_vocabularies_give_the_published_ids(published: tuple[Tokenizer, Path]) -> None:
    tokenizer, path = published
    texts = path.with_suffix(".gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = path.with_suffix(".gguf.out").read_text().split("\n")
    assert len(texts) == len(lines) > 40
    for text, line in zip(texts, lines, strict=True):
        ids = [int(word) for word in line.split()]
        assert tokenizer.encode(text, add_special_tokens=False) == ids, text
        assert tokenizer.encode(text) == [tokenizer.bos_id, *ids], text
        assert tokenizer.decode(ids) == text


def test_llama3_special_ids_and_load_time(shared_data: Path) -> None:
    path = shared_data / "tokenizers" / "ggml-vocab-llama-bpe.gguf"
    with open_gguf(path) as file:
        start = time.process_time()
        tokenizer = Tokenizer.from_gguf(file)
        assert time.process_time() - start < 2.0
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.eot_id) == (
        128256,
        128000,
        128001,
        128009,
    )
    assert tokenizer.stop_ids == {128001, 128009}
    assert (tokenizer.add_bos, tokenizer.add_eos, tokenizer.notes) == (True, False, [])
    assert tokenizer.is_special(128009)
    assert not tokenizer.is_special(0)


def test_missing_pre_on_a_llama3_vocabulary_acts_as_llama_bpe_and_says_so(shared_data: Path) -> None:
    with open_gguf(shared_data / "tokenizers" / "ggml-vocab-llama-bpe.gguf") as file:
        metadata = {key: value for key, value in file.metadata.items() if key != "tokenizer.ggml.pre"}
        tokenizer = Tokenizer.from_metadata(metadata)
        declared = Tokenizer.from_gguf(file)
    assert tokenizer.pre == "llama-bpe"
    assert len(tokenizer.notes) == 1
    assert "pre is missing" in tokenizer.notes[0]
    text = "3333 apples\n\n  it's 12345"
    assert tokenizer.encode(text) == declared.encode(text)


def test_missing_pre_elsewhere_acts_as_gpt2_and_says_so() -> None:
    metadata = byte_level()
    del metadata["tokenizer.ggml.pre"]
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.pre == "gpt-2"
    assert "gpt-2" in tokenizer.notes[0]
    assert Tokenizer.from_metadata(byte_level()).notes == []


def test_unknown_pre_lists_what_is_known() -> None:
    with pytest.raises(UnsupportedError, match=r"unknown pre-tokenizer.*llama-bpe.*qwen2.*'martian'"):
        Tokenizer.from_metadata(byte_level(pre="martian"))


def test_unknown_tokenizer_model_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="gpt2 or llama, got 'bert'"):
        Tokenizer.from_metadata(byte_level(model="bert"))


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("llama-bpe", "I'LL pay 12345 now", ["I", "'LL", " pay", " ", "123", "45", " now"]),
        ("falcon3", "12345", ["123", "45"]),
        ("qwen2", "it's 123", ["it", "'s", " ", "1", "2", "3"]),
        ("qwen35", "e\u0301a", ["e\u0301a"]),
        ("qwen2", "ae\u0301a", ["ae", "\u0301a"]),
        ("gpt-2", "It's  12345!?\n", ["It", "'s", " ", " 12345", "!?", "\n"]),
        ("gpt-2", "I'LL", ["I", "'", "LL"]),
        ("starcoder", "x12 y", ["x", "1", "2", " y"]),
        ("smollm", "x12", ["x", "1", "2"]),
        ("falcon", "x+=12345", ["x", "+=", "123", "45"]),
        ("gpt-4o", "helloWorld's 1234/", ["hello", "World's", " ", "123", "4", "/"]),
        ("tekken", "helloWorld 12", ["hello", "World", " ", "1", "2"]),
        ("deepseek-coder", "a 12\n", ["a", " ", "1", "2", "\n"]),
        ("deepseek-v3", "1234漢字a", ["123", "4", "漢字", "a"]),
        ("minicpm5", "12345", ["123", "45"]),
        ("bloom", "a b, c", ["a", " b", ",", " c"]),
        ("viking", "a1", ["a", "1"]),
    ],
)
def test_pre_tokenizers_cut_as_their_families_do(pre: str, text: str, pieces: list[str]) -> None:
    cuts = [tokenizers.pre_tokenizers.Split(tokenizers.Regex(p), "isolated") for p in PRE_TOKENIZERS[pre].patterns]
    cut = tokenizers.pre_tokenizers.Sequence(cuts).pre_tokenize_str(text)
    assert [piece for piece, _ in cut] == pieces


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_every_pre_tokenizer_compiles_and_keeps_the_text(pre: str) -> None:
    tokenizer = Tokenizer.from_metadata(byte_level(pre=pre, add_bos_token=False))
    text = "Hello, y'all!  1234 don't\r\n\t漢字 ñ🦙\u0301 a\u00a0b\u3000"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_merges_apply_by_rank_within_words() -> None:
    tokenizer = Tokenizer.from_metadata(byte_level())
    assert [tokenizer.token_text(i) for i in tokenizer.encode("hello hello world")] == [
        *("hello", "Ġ", "hello", "Ġw", "or", "l", "d")
    ]


def test_special_text_is_text_unless_asked_for() -> None:
    tokenizer = Tokenizer.from_metadata(byte_level({"<|eot_id|>": C, "<tool>": D}))
    eot, tool = tokenizer.token_id("<|eot_id|>"), tokenizer.token_id("<tool>")
    plain = tokenizer.encode("hello<|eot_id|>")
    assert eot not in plain
    assert tokenizer.decode(plain) == "hello<|eot_id|>"
    assert tokenizer.encode("hello<|eot_id|>", parse_special=True)[-1] == eot
    assert tokenizer.encode("<tool>") == [tool], "a user-defined token is text of its own"
    assert tokenizer.decode([eot, tool], skip_special_tokens=True) == "<tool>"
    assert tokenizer.decode([eot]) == "<|eot_id|>"


def test_a_whole_word_cannot_become_a_control_token() -> None:
    # llama-bpe takes a word that is a token as a whole; a control token spelled like a word must not count.
    tokenizer = Tokenizer.from_metadata(byte_level({"endoftext": C}, pre="llama-bpe", add_bos_token=False))
    assert tokenizer.token_id("endoftext") not in tokenizer.encode("endoftext")


def test_the_longest_of_several_special_tokens_wins() -> None:
    tokenizer = Tokenizer.from_metadata(byte_level({"<a": D, "<a><b>": D, "<a>": D}))
    assert [tokenizer.token_text(i) for i in tokenizer.encode("<a><a><b><ab")] == ["<a>", "<a><b>", "<a", "b"]


def test_end_of_generation_tokens_stop_and_cannot_be_forged() -> None:
    extra = {"<|im_end|>": D, "<|endoftext|>": C, "<|im_start|>": C, "</s>": N}
    tokenizer = Tokenizer.from_metadata(byte_level(extra, eos_token_id=0))
    ids = {text: tokenizer.token_id(text) for text in extra}
    assert tokenizer.stop_ids == {0, ids["<|im_end|>"], ids["<|endoftext|>"]}
    assert tokenizer.eot_id == ids["<|im_end|>"]
    assert ids["<|im_end|>"] not in tokenizer.encode("<|im_end|>"), "marked user-defined, but it ends a generation"


def test_return_makes_end_a_mere_separator() -> None:
    tokenizer = Tokenizer.from_metadata(byte_level({"<|end|>": C, "<|return|>": C}))
    assert tokenizer.stop_ids == {tokenizer.token_id("<|return|>")}


def test_bos_and_eos_rules() -> None:
    ids = {"bos_token_id": 5, "eos_token_id": 6}
    assert Tokenizer.from_metadata(byte_level(**ids)).encode("h") == [LETTER_H]
    assert Tokenizer.from_metadata(byte_level(pre="llama-bpe", **ids)).encode("h") == [5, LETTER_H]
    both = Tokenizer.from_metadata(byte_level(add_bos_token=True, add_eos_token=True, **ids))
    assert both.encode("h") == [5, LETTER_H, 6]
    assert both.encode("h", add_special_tokens=False) == [LETTER_H]
    lacking = Tokenizer.from_metadata(byte_level(pre="llama-bpe"))
    assert lacking.encode("h") == [LETTER_H]
    assert "bos_token_id is missing" in lacking.notes[0]


LETTER_H = list(LETTERS.values()).index("h")


def test_a_byte_without_token_is_refused_not_dropped() -> None:
    metadata = byte_level()
    metadata["tokenizer.ggml.tokens"] = [
        "removed" if token == LETTERS[0xF0] else token
        for token in metadata["tokenizer.ggml.tokens"]  # type: ignore[attr-defined]
    ]
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.decode(tokenizer.encode("hello é")) == "hello é"
    with pytest.raises(UnsupportedError, match="byte 0xF0"):
        tokenizer.encode("🦙")


def test_lone_surrogates_and_bad_ids_are_the_callers_fault() -> None:
    tokenizer = Tokenizer.from_metadata(byte_level())
    with pytest.raises(ShapeError, match=r"character 1.*U\+D800"):
        tokenizer.encode("a\ud800")
    for bad in (-1, tokenizer.vocab_size):
        with pytest.raises(ShapeError, match="token id out of range"):
            tokenizer.decode([bad])
        with pytest.raises(ShapeError, match="token id out of range"):
            StreamDetokenizer(tokenizer).push(bad)


def test_a_placeholder_chat_template_is_set_aside_and_said() -> None:
    metadata = byte_level() | {
        "general.architecture": "bitnet-b1.58",
        "tokenizer.chat_template": "{{ 'Human: ' }}BITNETAssistant: ",
    }
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.chat_template == BITNET_CHAT_TEMPLATE
    assert "placeholder" in tokenizer.notes[0]
    other = Tokenizer.from_metadata(metadata | {"general.architecture": "llama"})
    assert other.chat_template == metadata["tokenizer.chat_template"]


def test_sentence_piece_merges_by_score_with_byte_fallback() -> None:
    tokenizer = Tokenizer.from_metadata(sentence_piece({"▁": -9, "a": -8, "b": -7, "ab": -2, "▁a": -1, "ba": -3}))
    spell = [tokenizer.token_text(i) for i in tokenizer.encode("ab baé")]
    assert spell == ["<s>", "▁a", "b", "▁", "ba", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("ab baé"), skip_special_tokens=True) == "ab baé"
    assert tokenizer.decode_bytes([259 + 1, 3 + 0xC3]) == b"a\xc3"


def test_sentence_piece_ties_go_to_the_left() -> None:
    tokenizer = Tokenizer.from_metadata(
        sentence_piece({"a": -9, "aa": -1}, add_space_prefix=False, add_bos_token=False)
    )
    assert [tokenizer.token_text(i) for i in tokenizer.encode("aaa")] == ["aa", "a"]


def test_sentence_piece_cannot_merge_into_a_control_token() -> None:
    tokenizer = Tokenizer.from_metadata(sentence_piece({"<": -1, "s": -2, ">": -3, "<s": -4}, add_space_prefix=False))
    assert tokenizer.encode("<s>")[1:] == [tokenizer.token_id("<s"), tokenizer.token_id(">")]
    assert tokenizer.encode("<s>", parse_special=True) == [1, 1]


def test_sentence_piece_space_prefix_comes_and_goes() -> None:
    pieces = {"▁": -3.0, "a": -2.0, "▁a": -1.0}
    tokenizer = Tokenizer.from_metadata(sentence_piece(pieces, add_bos_token=False))
    word = tokenizer.token_id("▁a")
    assert tokenizer.encode("a") == [word]
    assert tokenizer.encode("") == []
    assert tokenizer.decode([word, word]) == "a a"
    assert tokenizer.decode([word], continuation=True) == " a"
    bare = Tokenizer.from_metadata(sentence_piece(pieces, add_bos_token=False, add_space_prefix=False))
    assert bare.encode("a") == [bare.token_id("a")]
    assert bare.decode([word]) == " a"


def test_stream_never_emits_half_a_code_point() -> None:
    tokenizer = Tokenizer.from_metadata(byte_level())
    stream = StreamDetokenizer(tokenizer)
    assert [stream.push(i) for i in tokenizer.encode("é🦙")] == ["", "é", "", "", "", "🦙"]
    assert stream.flush() == ""
    stream = StreamDetokenizer(tokenizer)
    first, second = tokenizer.encode("é")
    assert stream.push(first) == ""
    assert stream.push(LETTER_H) == "\ufffdh", "the code point can no longer be completed"
    assert stream.push(second) == "\ufffd"
    assert stream.push(first) == ""
    assert stream.flush() == "\ufffd"


def test_stream_options_match_decode() -> None:
    tokenizer = Tokenizer.from_metadata(sentence_piece({"▁": -3.0, "a": -2.0, "▁a": -1.0}))
    ids = [1, *tokenizer.encode("a a")]
    for skip in (True, False):
        for continuation in (True, False):
            stream = StreamDetokenizer(tokenizer, skip_special_tokens=skip, continuation=continuation)
            pieces = "".join(stream.push(i) for i in ids) + stream.flush()
            assert pieces == tokenizer.decode(ids, skip, continuation=continuation)
