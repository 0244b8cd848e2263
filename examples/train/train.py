"""Train a small BitNet b1.58 language model by quantization-aware training.

Usage: python train.py --text tinyshakespeare.txt --out build/train [--init build/earlier-stage]

Writes tokenizer.json, best.pt (the checkpoint with the lowest validation loss) and log.jsonl into --out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from data import Crops, bos_id, encode, read_splits, train_tokenizer, windows
from model import BitNet, Shape
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

GRADIENT_CLIP = 1.0
VALIDATION_CONTEXT = 256
FINAL_LR_FRACTION = 0.02


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="the training text, UTF-8")
    parser.add_argument("--init", type=Path, help="a finished stage to start from: its tokenizer, weights and sizes")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tokenizer, checkpoint and log")
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--d-ff", type=int, default=768)
    parser.add_argument("--n-layers", type=int, default=4)
    parser.add_argument("--max-context", type=int, default=512, help="the longest context that any stage will train")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--horizon", type=int, help="where the cosine ends; default --steps, later if a stage follows")
    parser.add_argument("--tokens-per-step", type=int, default=2048)
    parser.add_argument("--context", type=int, default=256, help="crop length")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--eval-every", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="run matrix products in bfloat16 (quantizers stay float32)")
    parser.add_argument("--float", dest="ternary", action="store_false", help="train the float twin, nothing quantized")
    return parser.parse_args()


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Linear warm-up, then a cosine from --lr to FINAL_LR_FRACTION of it."""
    if step < args.warmup:
        return float(args.lr * (step + 1) / args.warmup)
    progress = (step - args.warmup) / max(1, (args.horizon or args.steps) - args.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return float(args.lr * (FINAL_LR_FRACTION + (1 - FINAL_LR_FRACTION) * cosine))


def make_optimizer(model: BitNet, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; matrices decay, gains of norms do not."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)


@torch.inference_mode()
def mean_loss(model: BitNet, pairs: list[tuple[Tensor, Tensor]], ternary: bool) -> float:
    """Mean cross-entropy in nats per token over windows, in float32, dropout off."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(pairs) - 1, 16):
        chunk = pairs[start : min(start + 16, len(pairs) - 1)]
        logits = model(torch.stack([p[0] for p in chunk]), ternary)
        targets = torch.stack([p[1] for p in chunk])
        total += functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        count += targets.numel()
    inputs, targets = pairs[-1]
    total += functional.cross_entropy(model(inputs[None], ternary)[0], targets, reduction="sum").item()
    model.train(was_training)
    return total / (count + targets.numel())


def make_shape(args: argparse.Namespace) -> Shape:
    return Shape(
        vocab_size=args.vocab_size,
        d_model=args.d_model,
        d_ff=args.d_ff,
        n_layers=args.n_layers,
        max_context=args.max_context,
    )


def load_checkpoint(folder: Path, dropout: float = 0.0) -> tuple[BitNet, Tokenizer]:
    """The best checkpoint of a finished stage and its tokenizer."""
    state = torch.load(folder / "best.pt", weights_only=True)
    model = BitNet(Shape(**state["shape"]), dropout)
    model.load_state_dict(state["model"])
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


def train(model: BitNet, crops: Crops, args: argparse.Namespace) -> Iterator[tuple[int, float]]:
    """Run all steps; yield (steps done, mean training loss since the last yield) at each evaluation point."""
    optimizer = make_optimizer(model, args.lr, args.weight_decay)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    losses: list[float] = []
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        inputs, targets = crops.batch(args.tokens_per_step // args.context, args.context)
        logits = model(inputs, args.ternary, dtype)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % args.eval_every == 0 or step + 1 == args.steps:
            yield step + 1, sum(losses) / len(losses)
            losses.clear()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    splits = read_splits(args.text)
    if args.init:
        model, tokenizer = load_checkpoint(args.init, args.dropout)
    else:
        model, tokenizer = BitNet(make_shape(args), args.dropout), train_tokenizer(splits["train"], args.vocab_size)
    tokenizer.save(str(args.out / "tokenizer.json"))
    crops = Crops(tokenizer, encode(tokenizer, splits["train"]), args.seed)
    held = encode(tokenizer, splits["validation"])
    held_windows = windows(held, bos_id(tokenizer), VALIDATION_CONTEXT)
    bits_per_nat = len(held) / len(splits["validation"].encode()) / math.log(2)

    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(crops.ids)} training tokens")

    best, started = math.inf, time.monotonic()
    with (args.out / "log.jsonl").open("w", encoding="utf-8") as log:
        for step, train_loss in train(model, crops, args):
            held_loss = mean_loss(model, held_windows, args.ternary)
            row = {
                "step": step,
                "train_nats_per_token": round(train_loss, 4),
                "validation_bits_per_byte": round(held_loss * bits_per_nat, 4),
                "seconds": round(time.monotonic() - started),
            }
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(row, flush=True)
            if held_loss < best:
                best = held_loss
                torch.save(
                    {"shape": asdict(model.shape), "model": model.state_dict(), "step": step}, args.out / "best.pt"
                )


if __name__ == "__main__":
    main()
