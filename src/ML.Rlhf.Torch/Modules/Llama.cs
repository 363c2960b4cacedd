using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

// Leaf before root: norm, attention, feed-forward, layer, Llama. Shapes stand at the end of a line, with
// B = rows in the batch, T = tokens per row, C = width, H = heads, G = key-value heads, d = numbers per head, V = vocabulary.
// Field names are the checkpoint's keys (embed_tokens, layers.0.self_attn.q_proj, …).

/// <summary>x/√(mean x² + ε)·w (Zhang and Sennrich 2019).</summary>
internal sealed class RmsNorm : Module<Tensor, Tensor>
{
    private readonly Parameter weight;
    private readonly double _epsilon;

    public RmsNorm(long width, double epsilon) : base(nameof(RmsNorm))
    {
        _epsilon = epsilon;
        weight = ModuleWeights.Parameter(ones(width));
        RegisterComponents();
    }

    public override Tensor forward(Tensor x) => x * (x.square().mean([-1], keepdim: true) + _epsilon).rsqrt() * weight;
}

/// <summary>Cosine and sine of the angles of one forward pass, (B or 1, 1, T, d).</summary>
internal readonly record struct Rotation(Tensor Cosine, Tensor Sine)
{
    public static Rotation At(Tensor positions, Tensor frequencies, double magnitude)
    {
        var angles = positions.to(float32).unsqueeze(-1) * frequencies;                       // (B, T, d/2)
        angles = cat([angles, angles], -1).unsqueeze(1);                                      // (B, 1, T, d)
        return magnitude == 1
            ? new Rotation(angles.cos(), angles.sin())
            : new Rotation(angles.cos() * magnitude, angles.sin() * magnitude);
    }

    /// <summary>Turns numbers i and i + d/2 of each head as one pair.</summary>
    public Tensor Turn(Tensor x)                                                              // (B, heads, T, d)
    {
        long half = x.size(3) / 2;
        var quarterTurn = cat([-x.narrow(-1, half, half), x.narrow(-1, 0, half)], -1);
        return x * Cosine + quarterTurn * Sine;
    }
}

internal sealed class LlamaAttention : Module
{
    private readonly Projection q_proj, k_proj, v_proj, o_proj;
    private readonly RmsNorm? q_norm, k_norm;
    private readonly int _heads, _keyHeads, _headWidth;

    public LlamaAttention(LlamaArchitecture a) : base("self_attn")
    {
        (_heads, _keyHeads, _headWidth) = (a.Heads, a.KeyHeads, a.WidthPerHead);
        bool bias = a.AttentionBias != AttentionBias.None;
        q_proj = new Projection(a.Width, _heads * _headWidth, bias);
        k_proj = new Projection(a.Width, _keyHeads * _headWidth, bias);
        v_proj = new Projection(a.Width, _keyHeads * _headWidth, bias);
        o_proj = new Projection(_heads * _headWidth, a.Width, a.AttentionBias == AttentionBias.All);
        q_norm = a.QueryKeyNorm ? new RmsNorm(_headWidth, a.NormEpsilon) : null;
        k_norm = a.QueryKeyNorm ? new RmsNorm(_headWidth, a.NormEpsilon) : null;
        RegisterComponents();
    }

    public Tensor forward(Tensor x, in AttentionContext context, Rotation rotation, int layer)
    {
        long b = x.size(0), t = x.size(1);
        var q = q_proj.forward(x).view(b, t, _heads, _headWidth);                             // (B, T, H, d)
        var k = k_proj.forward(x).view(b, t, _keyHeads, _headWidth);                          // (B, T, G, d)
        var v = v_proj.forward(x).view(b, t, _keyHeads, _headWidth).transpose(1, 2);          // (B, G, T, d)
        if (q_norm is not null)
            (q, k) = (q_norm.forward(q), k_norm!.forward(k));
        (q, k) = (rotation.Turn(q.transpose(1, 2)), rotation.Turn(k.transpose(1, 2)));        // (B, H, T, d), (B, G, T, d)
        if (context.Cache is { } cache)
            (k, v) = cache.Append(layer, k, v);                                               // (B, G, keys, d)
        var y = Attention.Run(q, k, v, context);                                              // (B, H, T, d)
        y = o_proj.forward(y.transpose(1, 2).reshape(b, t, _heads * _headWidth));             // (B, T, C)
        return context.Dropout > 0 ? functional.dropout(y, context.Dropout, training: true) : y;
    }
}

/// <summary>Feed-forward, gated: (silu(x·G) ⊙ x·U)·D (Shazeer 2020, SwiGLU).</summary>
internal sealed class GatedFeedForward : Module
{
    private readonly Projection gate_proj, up_proj, down_proj;

    public GatedFeedForward(LlamaArchitecture a) : base("mlp")
    {
        gate_proj = new Projection(a.Width, a.FeedForwardWidth, a.FeedForwardBias);
        up_proj = new Projection(a.Width, a.FeedForwardWidth, a.FeedForwardBias);
        down_proj = new Projection(a.FeedForwardWidth, a.Width, a.FeedForwardBias);
        RegisterComponents();
    }

    public Tensor forward(Tensor x, double dropout)
    {
        var y = down_proj.forward(functional.silu(gate_proj.forward(x)) * up_proj.forward(x)); // (B, T, C)
        return dropout > 0 ? functional.dropout(y, dropout, training: true) : y;
    }
}

internal sealed class LlamaLayer : Module
{
    private readonly RmsNorm input_layernorm, post_attention_layernorm;
    private readonly LlamaAttention self_attn;
    private readonly GatedFeedForward mlp;
    private readonly int _layer;

    public LlamaLayer(LlamaArchitecture a, int layer) : base($"layers.{layer}")
    {
        _layer = layer;
        input_layernorm = new RmsNorm(a.Width, a.NormEpsilon);
        self_attn = new LlamaAttention(a);
        post_attention_layernorm = new RmsNorm(a.Width, a.NormEpsilon);
        mlp = new GatedFeedForward(a);
        RegisterComponents();
    }

    public Tensor forward(Tensor x, in AttentionContext context, Rotation rotation)
    {
        x = x + self_attn.forward(input_layernorm.forward(x), context, rotation, _layer);     // (B, T, C)
        return x + mlp.forward(post_attention_layernorm.forward(x), context.Dropout);         // (B, T, C)
    }
}

/// <summary>
/// A decoder-only transformer of Llama's shape (Touvron et al. 2023), which Mistral, Qwen2 and Qwen3 share: rotary positions, RMS norms,
/// gated feed-forward layers, query heads that share keys and values.
/// </summary>
public sealed class Llama : CausalLanguageModel
{
    private readonly Embedding embed_tokens;
    private readonly ModuleList<LlamaLayer> layers;
    private readonly RmsNorm norm;
    private readonly Projection? lm_head;
    private readonly float[] _frequencies;                                                    // (d/2)

    /// <summary>The shape that this model was built with.</summary>
    public new LlamaArchitecture Architecture { get; }

    /// <summary>Builds a model with GPT-2's initial weights.</summary>
    /// <param name="architecture">The shape.</param>
    /// <param name="generator">Source of the initial weights: the same generator state gives the same weights.</param>
    /// <exception cref="ArgumentException">The architecture has values out of range; all are listed.</exception>
    public Llama(LlamaArchitecture architecture, Generator generator) : this(architecture) => Initialize(generator);

    /// <summary>Builds a model whose weights are about to be overwritten.</summary>
    internal Llama(LlamaArchitecture architecture) : base(nameof(Llama), architecture)
    {
        Architecture = architecture;
        embed_tokens = Embedding(architecture.VocabularySize, architecture.Width);
        layers = ModuleList(Enumerable.Range(0, architecture.Layers).Select(i => new LlamaLayer(architecture, i)).ToArray());
        norm = new RmsNorm(architecture.Width, architecture.NormEpsilon);
        lm_head = architecture.TiedHead ? null : new Projection(architecture.Width, architecture.VocabularySize, hasBias: false);
        using (var frequencies = architecture.Positions.Frequencies(architecture.WidthPerHead))
            _frequencies = frequencies.data<float>().ToArray();
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Device Device
    {
        get
        {
            using var scope = NewDisposeScope(); // an embedding gives a new tensor each time it is asked for its weight
            return embed_tokens.weight!.device;
        }
    }

    private protected override Tensor Run(
        Tensor ids, Tensor positions, Tensor? mask, DecodingCache? cache, double dropout, ForwardTrace? trace)
    {
        var x = embed_tokens.forward(ids);                                                    // (B, T, C)
        if (dropout > 0)
            x = functional.dropout(x, dropout, training: true);
        ForwardTrace.Add(trace?.HiddenStates, x);
        var rotation = Rotation.At(positions, tensor(_frequencies, device: x.device), Architecture.Positions.Magnitude);
        var context = new AttentionContext(
            Windowed(mask, ids.size(1), cache?.Length ?? 0, x.device), (KeyValueCache?)cache, dropout, trace);
        foreach (var layer in layers)
        {
            x = ActivationCheckpointing                                                       // (B, T, C)
                ? ActivationCheckpoint.Run(x, [context.Mask, rotation.Cosine, rotation.Sine], dropout > 0, (x, shared) =>
                    layer.forward(x, context with { Mask = shared[0] }, new Rotation(shared[1]!, shared[2]!)))
                : layer.forward(x, context, rotation);
            ForwardTrace.Add(trace?.HiddenStates, x);
        }
        x = norm.forward(x);
        trace?.ReplaceLast(x);
        return x;
    }

    internal override bool HasCheckpoints => true;

    /// <summary>The mask that also hides what lies before the sliding window, or the mask as it is where the window hides nothing.</summary>
    private Tensor? Windowed(Tensor? mask, long t, long start, Device device)
    {
        if (Architecture.SlidingWindow is not { } window || start + t <= window)
            return mask;
        // Columns are as far apart as the positions in them: padding and packing move whole rows.
        var distances = arange(start, start + t, device: device).unsqueeze(1) - arange(start + t, device: device); // (T, keys)
        var hidden = mask is null ? (distances < 0) | (distances >= window) : distances >= window;
        var band = zeros([t, start + t], device: device).masked_fill(hidden, double.NegativeInfinity);
        return mask is null ? band : mask + band;
    }

    /// <inheritdoc/>
    public override Tensor Logits(Tensor hidden)
    {
        using var scope = NewDisposeScope();
        return (lm_head is null ? functional.linear(hidden, embed_tokens.weight!) : lm_head.forward(hidden)).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public override DecodingCache CreateCache(int rows, int capacity) => new KeyValueCache(
        Architecture.Layers, rows, Architecture.KeyHeads, capacity, Architecture.WidthPerHead, Device);

    internal override IEnumerable<(string Name, Tensor Target)> CheckpointTensors()
    {
        foreach (var (name, parameter) in BaseParameters())
            yield return (CheckpointName(name), parameter);
    }

    internal override string CheckpointName(string parameter) => parameter == "lm_head.weight" ? parameter : "model." + parameter;

    private protected override bool EndsResidualBranch(string name) =>
        name.EndsWith("o_proj.weight", StringComparison.Ordinal) || name.EndsWith("down_proj.weight", StringComparison.Ordinal);
}
