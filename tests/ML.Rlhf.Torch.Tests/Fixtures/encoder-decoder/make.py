# Reference numbers for an encoder–decoder: PyTorch's own layers with random weights. Run it in a folder of its own:
#   python3 make.py
# It writes weights.safetensors, expected.safetensors and expected.json.
import json, math, torch
from torch import nn
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(27)
torch.set_num_threads(1)
L, H, C, FF, V, CONTEXT, END = 2, 3, 18, 28, 23, 16, 22

enc = nn.TransformerEncoder(
    nn.TransformerEncoderLayer(C, H, FF, dropout=0.0, activation="relu", batch_first=True, norm_first=False), L, norm=None,
    enable_nested_tensor=False)
dec = nn.TransformerDecoder(
    nn.TransformerDecoderLayer(C, H, FF, dropout=0.0, activation="relu", batch_first=True, norm_first=False), L, norm=None)
emb = nn.Embedding(V, C)
with torch.no_grad():
    for m in (enc, dec, emb):
        for name, p in m.named_parameters():
            # Large embeddings would make every token predict itself, for the head is the embedding; large vectors, always one.
            p.copy_(torch.randn_like(p) * (0.15 if m is emb else 0.5 if p.ndim == 2 else 0.1))
            if "norm" in name and name.endswith("weight"):
                p.add_(1)

# The weights are those of float32, the numbers made with them are computed in float64: the rounding of one kernel is no reference.
for m in (enc, dec, emb):
    m.double()

def positions(count):
    wave = lambda p, i: (math.cos if i % 2 else math.sin)(p / 10000 ** ((i - i % 2) / C))
    return torch.tensor([[wave(p, i) for i in range(C)] for p in range(count)], dtype=torch.float64)

def run(src, tgt, src_pad):
    n, m = src.shape[1], tgt.shape[1]
    memory = enc(emb(src) * math.sqrt(C) + positions(n), src_key_padding_mask=src_pad)
    causal = torch.triu(torch.full((m, m), float("-inf"), dtype=torch.float64), 1)
    out = dec(emb(tgt) * math.sqrt(C) + positions(m), memory, tgt_mask=causal,
              memory_key_padding_mask=src_pad.double().masked_fill(src_pad, float("-inf")))
    return memory, F.linear(out, emb.weight)

def pad(rows):
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    padding = torch.ones(len(rows), longest, dtype=torch.bool)
    for i, r in enumerate(rows):
        ids[i, :len(r)] = torch.tensor(r)
        padding[i, :len(r)] = False
    return ids, padding

def draw(lengths):
    return [torch.randint(0, END, (n - 1,)).tolist() + [END] for n in lengths]

sources, targets = draw([7, 3, 1, 11]), draw([4, 9, 2, 5])
src, src_pad = pad(sources)
tgt, tgt_pad = pad([[END] + t[:-1] for t in targets])
labels, _ = pad(targets)
labels = labels.masked_fill(tgt_pad, -100)

def names():
    # PyTorch's names, as slices of its fused projections, under ours
    for side, stack in (("encoder", enc), ("decoder", dec)):
        for i, layer in enumerate(stack.layers):
            attentions = [("self_attn", layer.self_attn)] + ([("encoder_attn", layer.multihead_attn)] if side == "decoder" else [])
            for ours, a in attentions:
                for j, which in enumerate("qkv"):
                    yield f"{side}.{i}.{ours}.{which}_proj.weight", a.in_proj_weight, slice(j * C, (j + 1) * C)
                    yield f"{side}.{i}.{ours}.{which}_proj.bias", a.in_proj_bias, slice(j * C, (j + 1) * C)
                yield f"{side}.{i}.{ours}.out_proj.weight", a.out_proj.weight, slice(None)
                yield f"{side}.{i}.{ours}.out_proj.bias", a.out_proj.bias, slice(None)
            norms = ["self_attn_layer_norm"] + (["encoder_attn_layer_norm"] if side == "decoder" else []) + ["final_layer_norm"]
            for j, ours in enumerate(norms):
                norm = getattr(layer, f"norm{j + 1}")
                yield f"{side}.{i}.{ours}.weight", norm.weight, slice(None)
                yield f"{side}.{i}.{ours}.bias", norm.bias, slice(None)
            for ours, linear in (("fc1", layer.linear1), ("fc2", layer.linear2)):
                yield f"{side}.{i}.{ours}.weight", linear.weight, slice(None)
                yield f"{side}.{i}.{ours}.bias", linear.bias, slice(None)
    yield "shared.weight", emb.weight, slice(None)

memory, logits = run(src, tgt, src_pad)
plain = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
smoothed = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, label_smoothing=0.1)
tensors = {
    "encoded": memory.detach().masked_fill(src_pad.unsqueeze(-1), 0),
    "logits": logits.detach().masked_fill(tgt_pad.unsqueeze(-1), 0),
}
for loss, prefix in ((plain, "grad."), (smoothed, "smoothed_grad.")):
    for m in (enc, dec, emb):
        m.zero_grad()
    loss.backward(retain_graph=True)
    for name, p, part in names():
        tensors[prefix + name] = p.grad[part].clone()

# Greedy completions, each step a whole forward pass over one row without padding.
greedy, margin = [], math.inf
with torch.no_grad():
    for source in sources:
        text = [END]
        while len(text) <= 12:
            one = torch.tensor([source])
            last = run(one, torch.tensor([text]), torch.zeros_like(one, dtype=torch.bool))[1][0, -1]
            top = last.topk(2).values
            margin = min(margin, (top[0] - top[1]).item())
            text.append(last.argmax().item())
            if text[-1] == END:
                break
        greedy.append(text[1:])

save_file({name: p.detach()[part].float().clone() for name, p, part in names()}, "weights.safetensors")
save_file({k: v.float().contiguous() for k, v in tensors.items()}, "expected.safetensors")
json.dump({
    "layers": L, "heads": H, "width": C, "feed_forward_width": FF, "vocabulary_size": V, "context_length": CONTEXT, "end_token": END,
    "sources": sources, "targets": targets, "label_count": sum(map(len, targets)),
    "loss": plain.item(), "label_smoothing": 0.1, "smoothed_loss": smoothed.item(),
    "greedy": greedy, "greedy_min_top2_logit_margin": margin,
}, open("expected.json", "w"), indent=1)
print("torch", torch.__version__, "loss", plain.item(), smoothed.item(), "margin", margin, greedy)
import safetensors; print("safetensors", safetensors.__version__)
