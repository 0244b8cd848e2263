"""Byte-level BPE pre-tokenizers by the name that ``tokenizer.ggml.pre`` gives them: how text is cut before merging.

Each pattern of a row cuts the pieces that the one before it left; text between matches is a piece too. No row
normalizes Unicode: what was encoded decodes to the same bytes.
Source: the ``pre_tokenizer`` of each family's published tokenizer.json.
"""

from __future__ import annotations

from dataclasses import dataclass

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ASCII_PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DEEPSEEK3 = (
    rf"{_ASCII_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_BLANKS}"
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"


def _words(letters: str = r"\p{L}", digits: str = r"\p{N}", after: str = r"[\r\n]*") -> str:
    """The pattern of the cl100k family; it differs between families in what is a letter and how digits group."""
    return (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{_class(letters)}+|{digits}"
        rf"| ?[^\s{letters}\p{{N}}]+{after}|{_BLANKS}"
    )


def _class(letters: str) -> str:
    return letters if letters == r"\p{L}" else f"[{letters}]"


def _cased(digits: str, contractions: str) -> str:
    """The pattern of the o200k family: a word ends where lower case turns to upper."""
    start = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{start}{_UPPER}*{_LOWER}+{contractions}|{start}{_UPPER}+{_LOWER}*{contractions}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_BLANKS}"
    )


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One row: the cutting patterns (Oniguruma syntax) and the defaults that the name implies.

    add_bos: a BOS is prepended unless ``tokenizer.ggml.add_bos_token`` says otherwise;
    ignore_merges: a piece that is a token as a whole is that token, whatever the merges would build.
    """

    patterns: tuple[str, ...]
    add_bos: bool = False
    ignore_merges: bool = False


_LLAMA3 = _words(digits=r"\p{N}{1,3}")
_ROWS: tuple[tuple[PreTokenizer, tuple[str, ...]], ...] = (
    (
        PreTokenizer((_LLAMA3,), add_bos=True, ignore_merges=True),
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon_e", "falcon-h1", "pixtral", "lfm2", "midm-2.0"),
    ),
    (PreTokenizer((_LLAMA3,)), ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe")),
    (
        PreTokenizer((_words(),)),
        ("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "kormo", "solar-open", "grok-2"),
    ),
    (PreTokenizer((_words(letters=r"\p{L}\p{M}"),)), ("qwen35",)),
    (PreTokenizer((r"\p{N}{1,3}", _words(digits=r"\p{N}+"))), ("minicpm5",)),
    (
        PreTokenizer((_GPT2,)),
        ("gpt-2", "mpt", "olmo", "jais", "phi-2", "exaone4", "trillion", "granite-docling", "mellum", "gigachat"),
    ),
    (
        PreTokenizer((r"\p{N}", _GPT2)),
        ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"),
    ),
    (PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")), ("falcon",)),
    (PreTokenizer((_cased(r"\p{N}{1,3}", _CONTRACTIONS + "?"),)), ("gpt-4o", "llama4", "kanana2")),
    (PreTokenizer((_cased(r"\p{N}", ""),), add_bos=True, ignore_merges=True), ("tekken",)),
    (
        PreTokenizer(
            (
                r"\p{N}{1,3}",
                "[一-龥぀-ゟ゠-ヿ]+",
                _DEEPSEEK3,
            )
        ),
        ("deepseek-v3", "hunyuan-dense"),
    ),
    (PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")), ("deepseek-coder",)),
    (PreTokenizer((_BLOOM,)), ("bloom", "poro-chat", "gpt3-finnish")),
    (PreTokenizer((_BLOOM, r"\p{N}")), ("viking",)),
)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: row for row, names in _ROWS for name in names}
