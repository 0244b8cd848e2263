"""Measure a checkpoint on the held-out test split, in bits per byte: its ternary form and its float form.

Usage: python measure.py build/train --text tinyshakespeare.txt

The float form uses the same master weights with nothing quantized, neither weights nor activations. In both forms the
embeddings are rounded to float16, as the exported file holds them.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from data import bos_id, encode, read_splits, windows
from train import load_checkpoint, mean_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the --out folder of train.py")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--context", type=int, help="window length in tokens (default: the model's)")
    parser.add_argument("--split", choices=["train", "validation", "test"], default="test")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    model, tokenizer = load_checkpoint(args.run)
    with torch.no_grad():
        model.token_embd.copy_(model.token_embd.half().float())
    text = read_splits(args.text)[args.split]
    ids = encode(tokenizer, text)
    bits_per_nat = len(ids) / len(text.encode()) / math.log(2)
    pairs = windows(ids, bos_id(tokenizer), args.context or model.shape.max_context)
    report = {
        "split": args.split,
        "bytes": len(text.encode()),
        "tokens": len(ids),
        "ternary_bits_per_byte": round(mean_loss(model, pairs, ternary=True) * bits_per_nat, 4),
        "float_bits_per_byte": round(mean_loss(model, pairs, ternary=False) * bits_per_nat, 4),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
