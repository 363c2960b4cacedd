"""A training step of a GPT in plain PyTorch, as fast as PyTorch is on a CPU: float32, eager, one matrix product per projection.

Prints one line: tokens per second, and the most memory that the process had.
"""
import argparse
import resource
import time

import torch
from torch import nn
from torch.nn import functional as F

parser = argparse.ArgumentParser()
for option in ("layers", "heads", "width", "context", "vocabulary", "batch", "warmup", "steps"):
    parser.add_argument(f"--{option}", type=int, required=True)
a = parser.parse_args()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(a.width), nn.LayerNorm(a.width)
        self.attention, self.projection = nn.Linear(a.width, 3 * a.width), nn.Linear(a.width, a.width)
        self.up, self.down = nn.Linear(a.width, 4 * a.width), nn.Linear(4 * a.width, a.width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.attention(self.ln_1(x)).view(b, t, 3, a.heads, c // a.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(y.transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(a.vocabulary, a.width), nn.Embedding(a.context, a.width)
        self.blocks = nn.Sequential(*(Block() for _ in range(a.layers)))
        self.norm = nn.LayerNorm(a.width)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids, labels):
        x = self.blocks(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


torch.manual_seed(1)
model = Gpt()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
for step in range(a.warmup + a.steps):
    if step == a.warmup:
        start = time.perf_counter()
    ids = torch.randint(a.vocabulary, (a.batch, a.context + 1))
    loss = model(ids[:, :-1], ids[:, 1:])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    loss.item()
rate = a.batch * a.context * a.steps / (time.perf_counter() - start)
print(f"peer tokens/s={rate:.1f} peak-MB={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
