"""Sampling from a GPT-2 by transformers' generate(): key-value cache, no filters, completions of a fixed length.

Prints one line: new tokens per second (the median of some runs), and the most memory that the process had.
"""
import argparse
import resource
import statistics
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

parser = argparse.ArgumentParser()
for option in ("layers", "heads", "width", "vocabulary", "batch", "prompt", "tokens", "runs"):
    parser.add_argument(f"--{option}", type=int, required=True)
parser.add_argument("--bf16", action="store_true")
a = parser.parse_args()

torch.manual_seed(0)
config = GPT2Config(
    n_layer=a.layers, n_head=a.heads, n_embd=a.width, vocab_size=a.vocabulary, bos_token_id=0, eos_token_id=0, pad_token_id=0)
model = GPT2LMHeadModel(config).eval().to(torch.bfloat16 if a.bf16 else torch.float32)
ids = torch.randint(1, a.vocabulary, (a.batch, a.prompt))


def seconds(tokens):
    start = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=True, top_k=0)
    return time.perf_counter() - start


seconds(8)
rate = a.batch * a.tokens / statistics.median(seconds(a.tokens) for _ in range(a.runs))
print(f"peer tokens/s={rate:.1f} peak-MB={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
