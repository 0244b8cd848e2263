"""The text, its splits, the tokenizer trained on it, and random crops."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

BOS, EOS, EOT = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
CONTROL_TOKENS = (BOS, EOS, EOT)

# The split that `tokenizer.ggml.pre = "llama-bpe"` names. It keeps ":\n" and ".\n\n" whole, which suits a play.
LLAMA_BPE_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_splits(path: Path) -> dict[str, str]:
    """Split the text by byte position: the first 90 % train, the next 5 % validation, the last 5 % test."""
    text = path.read_bytes()
    first, second = len(text) * 90 // 100, len(text) * 95 // 100
    parts = {"train": text[:first], "validation": text[first:second], "test": text[second:]}
    return {name: part.decode("utf-8") for name, part in parts.items()}


def train_tokenizer(text: str, vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE whose ids are: 256 bytes, merges by frequency, the control tokens last."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA_BPE_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.add_special_tokens(list(CONTROL_TOKENS))
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"the text yields {tokenizer.get_vocab_size()} tokens, not {vocab_size}: lower --vocab-size")
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> Tensor:
    """Encode text without control tokens: (n,) i64."""
    return torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)


def bos_id(tokenizer: Tokenizer) -> int:
    return int(tokenizer.get_vocab()[BOS])


class Crops:
    """Random training crops. Every crop begins with BOS; half of them begin where a speech begins.

    So BOS is always at position 0, as when the model is run, and a prompt may start a speech or continue one.
    """

    def __init__(self, tokenizer: Tokenizer, ids: Tensor, seed: int) -> None:
        ends_speech = torch.tensor(
            [tokenizer.decode([i]).endswith("\n\n") for i in range(tokenizer.get_vocab_size())], dtype=torch.bool
        )
        self.ids = ids
        self.bos = bos_id(tokenizer)
        self.speeches = torch.cat([torch.zeros(1, dtype=torch.int64), ends_speech[ids].nonzero().flatten() + 1])
        self.generator = torch.Generator().manual_seed(seed)

    def batch(self, n: int, length: int) -> tuple[Tensor, Tensor]:
        """Draw n crops: inputs (n, length) i64 starting with BOS, targets (n, length) i64."""
        last = len(self.ids) - length
        speeches = self.speeches[self.speeches <= last]
        aligned = speeches[torch.randint(len(speeches), (n,), generator=self.generator)]
        anywhere = torch.randint(last + 1, (n,), generator=self.generator)
        starts = torch.where(torch.arange(n) % 2 == 0, aligned, anywhere)
        targets = self.ids[starts[:, None] + torch.arange(length)]
        inputs = torch.cat([torch.full((n, 1), self.bos), targets[:, :-1]], dim=1)
        return inputs, targets


def windows(ids: Tensor, bos: int, context: int) -> list[tuple[Tensor, Tensor]]:
    """Cut ids into consecutive windows of `context` tokens, each read after its own BOS; each id is a target once."""
    pairs = []
    for start in range(0, len(ids), context):
        targets = ids[start : start + context]
        pairs.append((torch.cat([torch.tensor([bos]), targets[:-1]]), targets))
    return pairs
