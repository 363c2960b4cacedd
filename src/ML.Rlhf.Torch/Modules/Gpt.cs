using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

// Leaf before root: attention, feed-forward, block, GPT. Shapes stand at the end of a line, with
// B = rows in the batch, T = tokens per row, C = width, H = heads, V = vocabulary.
// Field names are GPT-2's checkpoint keys (wte, wpe, h.0.attn.c_attn, …): they become the names in model.safetensors.

/// <summary>What the blocks of one forward pass share beside the hidden states.</summary>
/// <param name="Mask">Additive attention mask (B, 1, T, keys): 0 to attend, −∞ to hide; null for plain causal attention.</param>
/// <param name="Cache">Keys and values of the tokens before these, or null.</param>
/// <param name="Dropout">Probability of dropping, 0 outside training.</param>
internal readonly record struct AttentionContext(Tensor? Mask, KeyValueCache? Cache, double Dropout);

internal sealed class CausalSelfAttention : Module
{
    private readonly Linear c_attn, c_proj;
    private readonly int _heads;

    public CausalSelfAttention(GptArchitecture a) : base("attn")
    {
        _heads = a.Heads;
        c_attn = Linear(a.Width, 3 * a.Width); // queries, keys and values of all heads, in one product
        c_proj = Linear(a.Width, a.Width);
        RegisterComponents();
    }

    public Tensor forward(Tensor x, in AttentionContext context, int layer)
    {
        long b = x.shape[0], t = x.shape[1], c = x.shape[2];
        var qkv = c_attn.forward(x).view(b, t, 3, _heads, c / _heads).permute(2, 0, 3, 1, 4); // (3, B, H, T, C/H)
        Tensor q = qkv[0], k = qkv[1], v = qkv[2];
        if (context.Cache is { } cache)
            (k, v) = cache.Append(layer, k, v);                                               // (B, H, keys, C/H)

        // Without a mask the kernel's own causal flag applies; a single query sees every key, so it needs none.
        bool causal = context.Mask is null && t > 1;
        var y = functional.scaled_dot_product_attention(q, k, v, context.Mask, context.Dropout, causal); // (B, H, T, C/H)
        y = c_proj.forward(y.transpose(1, 2).reshape(b, t, c));                               // (B, T, C)
        return context.Dropout > 0 ? functional.dropout(y, context.Dropout, training: true) : y;
    }
}

internal sealed class FeedForward : Module
{
    private readonly Linear c_fc, c_proj;

    public FeedForward(GptArchitecture a) : base("mlp")
    {
        c_fc = Linear(a.Width, 4 * a.Width);
        c_proj = Linear(4 * a.Width, a.Width);
        RegisterComponents();
    }

    public Tensor forward(Tensor x, double dropout)
    {
        var y = functional.gelu(c_fc.forward(x), TorchSharp.Modules.GELU.Approximate.tanh);   // (B, T, 4C): GPT-2's "gelu_new"
        y = c_proj.forward(y);                                                                // (B, T, C)
        return dropout > 0 ? functional.dropout(y, dropout, training: true) : y;
    }
}

internal sealed class Block : Module
{
    private readonly LayerNorm ln_1, ln_2;
    private readonly CausalSelfAttention attn;
    private readonly FeedForward mlp;
    private readonly int _layer;

    public Block(GptArchitecture a, int layer) : base($"h.{layer}")
    {
        _layer = layer;
        ln_1 = LayerNorm(a.Width);
        attn = new CausalSelfAttention(a);
        ln_2 = LayerNorm(a.Width);
        mlp = new FeedForward(a);
        RegisterComponents();
    }

    public Tensor forward(Tensor x, in AttentionContext context)
    {
        x = x + attn.forward(ln_1.forward(x), context, _layer);                               // (B, T, C)
        return x + mlp.forward(ln_2.forward(x), context.Dropout);                             // (B, T, C)
    }
}

/// <summary>
/// A decoder-only transformer of GPT-2's shape (Radford et al. 2019): learned positions, layer norm before each
/// sub-layer and once at the end, GELU in its tanh form, and a head that shares the token embedding.
/// </summary>
public sealed class Gpt : Module
{
    private readonly Embedding wte, wpe;
    private readonly ModuleList<Block> h;
    private readonly LayerNorm ln_f;

    /// <summary>The shape that this model was built with.</summary>
    public GptArchitecture Architecture { get; }

    /// <summary>Probability of dropping an activation while training (embeddings, attention, residual branches).</summary>
    /// <value>In [0, 1). 0 by default: small models on one pass of data underfit. Ignored in evaluation mode.</value>
    public double Dropout { get; set; }

    /// <summary>Builds a GPT with GPT-2's initial weights.</summary>
    /// <param name="architecture">The shape.</param>
    /// <param name="generator">Source of the initial weights: the same generator state gives the same weights.</param>
    /// <exception cref="ArgumentException">The architecture has values out of range; all are listed.</exception>
    public Gpt(GptArchitecture architecture, Generator generator) : this(architecture) => Initialize(generator);

    /// <summary>Builds a GPT whose weights are about to be overwritten.</summary>
    internal Gpt(GptArchitecture architecture) : base(nameof(Gpt))
    {
        architecture.Validate();
        Architecture = architecture;
        wte = Embedding(architecture.VocabularySize, architecture.Width);
        wpe = Embedding(architecture.ContextLength, architecture.Width);
        h = ModuleList(Enumerable.Range(0, architecture.Layers).Select(i => new Block(architecture, i)).ToArray());
        ln_f = LayerNorm(architecture.Width);
        RegisterComponents();
    }

    /// <summary>Where the weights are.</summary>
    public Device Device
    {
        get
        {
            using var scope = NewDisposeScope(); // an embedding gives a new tensor each time it is asked for its weight
            return wte.weight!.device;
        }
    }

    /// <summary>Runs the blocks and gives the last hidden states.</summary>
    /// <param name="ids">Token ids, int64 (B, T).</param>
    /// <param name="positions">Position of each token, int64 (B, T); null counts from 0, or on from the cache.</param>
    /// <param name="mask">Additive attention mask, (B, 1, T, keys); null is plain causal attention, right where padding stands on the
    /// right.</param>
    /// <param name="cache">Keys and values of the tokens before <paramref name="ids"/>; the new ones are appended to it.</param>
    /// <returns>Hidden states after the final norm, (B, T, C).</returns>
    /// <exception cref="ArgumentException">
    /// The tokens reach past <see cref="GptArchitecture.ContextLength"/> or the cache's capacity, or several tokens follow a filled cache
    /// without a mask.
    /// </exception>
    public Tensor Hidden(Tensor ids, Tensor? positions = null, Tensor? mask = null, KeyValueCache? cache = null)
    {
        using var scope = NewDisposeScope();
        long start = cache?.Length ?? 0, t = ids.shape[1];
        if (positions is null && start + t > Architecture.ContextLength)
            throw new ArgumentException(
                $"{start + t} tokens do not fit the model's context of {Architecture.ContextLength}. Shorten the input, or use a model " +
                "with a longer context.");

        if (start > 0 && t > 1 && mask is null)
            throw new ArgumentException(
                $"{t} tokens follow {start} in the cache without a mask, and the kernel's causal flag counts from the first key. " +
                "Pass a mask, or one token at a time.", nameof(mask));

        double dropout = training ? Dropout : 0;
        positions ??= arange(start, start + t, device: ids.device).unsqueeze(0);              // (1, T)
        var x = wte.forward(ids) + wpe.forward(positions);                                    // (B, T, C)
        if (dropout > 0)
            x = functional.dropout(x, dropout, training: true);
        var context = new AttentionContext(mask, cache, dropout);
        foreach (var block in h)
            x = block.forward(x, context);                                                    // (B, T, C)
        cache?.Advance((int)t);
        return ln_f.forward(x).MoveToOuterDisposeScope();
    }

    /// <summary>Scores every token of the vocabulary as the next one.</summary>
    /// <param name="hidden">Hidden states (…, C).</param>
    /// <returns>Logits (…, V).</returns>
    public Tensor Logits(Tensor hidden)
    {
        using var scope = NewDisposeScope();
        return functional.linear(hidden, wte.weight!).MoveToOuterDisposeScope();
    }

    /// <summary>Copies the shape, the weights and the mode. The copy shares no storage.</summary>
    public Gpt Clone()
    {
        var copy = new Gpt(Architecture) { Dropout = Dropout };
        copy.to(Device);
        copy.CopyWeightsFrom(this);
        copy.train(training);
        return copy;
    }

    /// <summary>
    /// GPT-2's initial weights: matrices and embeddings N(0, 0.02²), biases 0, norms 1. The projections that end a residual branch
    /// use 0.02/√(2·layers), so that the residual stream's variance does not grow with depth (Radford et al. 2019, section 2.3).
    /// </summary>
    private void Initialize(Generator generator)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        double residual = 0.02 / Math.Sqrt(2 * Architecture.Layers);
        foreach (var (name, parameter) in named_parameters())
        {
            if (parameter.ndim >= 2)
                // init.normal_ ignores it
                parameter.normal_(0, name.EndsWith("c_proj.weight", StringComparison.Ordinal) ? residual : 0.02, generator);
            else if (name.EndsWith("bias", StringComparison.Ordinal))
                init.zeros_(parameter);
        }
    }
}
