import torch, json, os, shutil, transformers
from safetensors.torch import save_file
from transformers import *
torch.set_num_threads(1)
root = "model-variants"; shutil.rmtree(root, ignore_errors=True); os.makedirs(root)
L=dict(vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-5)
def rope(**k): return dict(rope_theta=10000.0, **k)
cases={
 "llama-linear": LlamaForCausalLM(LlamaConfig(**L, rope_parameters=rope(rope_type="linear", factor=4.0))),
 "llama-dynamic": LlamaForCausalLM(LlamaConfig(**L, rope_parameters=rope(rope_type="dynamic", factor=4.0))),
 "llama-yarn": LlamaForCausalLM(LlamaConfig(**L, rope_parameters=rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=2.0, beta_slow=0.1))),
 "llama-yarn-mscale": LlamaForCausalLM(LlamaConfig(**L, rope_parameters=rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=3.0, beta_slow=0.2, mscale=0.7, mscale_all_dim=1.3, truncate=False))),
 "llama-llama3": LlamaForCausalLM(LlamaConfig(**L, rope_parameters=rope(rope_type="llama3", factor=8.0, original_max_position_embeddings=32, low_freq_factor=1.0, high_freq_factor=4.0), attention_bias=True, mlp_bias=True)),
 "llama-reward": LlamaForSequenceClassification(LlamaConfig(**L, num_labels=1, pad_token_id=0)),
 "qwen2-window": Qwen2ForCausalLM(Qwen2Config(**L, use_sliding_window=True, sliding_window=6, max_window_layers=0, rope_parameters=rope(rope_type="default"))),
 "qwen3-bias": Qwen3ForCausalLM(Qwen3Config(**L, head_dim=10, attention_bias=True, rope_parameters=rope(rope_type="default"))),
 "openai-gpt": OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=61, n_positions=64, n_embd=24, n_layer=2, n_head=3, resid_pdrop=0., embd_pdrop=0., attn_pdrop=0.)),
 "gpt2-gelu": GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=64, n_embd=24, n_layer=2, n_head=3, n_inner=40, activation_function="gelu", layer_norm_epsilon=1e-3, tie_word_embeddings=False, resid_pdrop=0., embd_pdrop=0., attn_pdrop=0.)),
}
g=torch.Generator().manual_seed(7)
for name, m in cases.items():
    m=m.float().eval(); m.set_attn_implementation("eager") if hasattr(m,"set_attn_implementation") and name!="openai-gpt" else None
    with torch.no_grad():
        for n,p in m.named_parameters():
            p.copy_(torch.randn(p.shape, generator=g)*0.15 + (1.0 if p.ndim==1 and n.endswith("weight") else 0.0))
    d=f"{root}/{name}"; m.save_pretrained(d)
    for f in os.listdir(d):
        if f not in ("config.json","model.safetensors"): os.remove(f"{d}/{f}")
    ids=torch.randint(1,61,(2,40),generator=g)
    out=m(input_ids=ids)
    loss=out.logits.float().square().mean()
    m.zero_grad(); loss.backward()
    exp=dict(architecture=type(m).__name__, transformers_version=transformers.__version__, torch_version=torch.__version__, input_ids=ids.tolist(), mean_square=float(f"{loss.item():.9g}"),
      grad_norms_all={n: float(f"{p.grad.norm().item():.9g}") for n,p in m.named_parameters()})
    json.dump(exp, open(f"{d}/expected.json","w"), indent=1)
    save_file({"logits": out.logits.detach().contiguous()}, f"{d}/expected.safetensors")
    print(name, out.logits.shape, loss.item(), [n for n,_ in m.named_parameters()][-2:])
