using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

// Leaf before root: positions, attention, residual, encoder layer, decoder layer, encoder–decoder. Shapes stand at the end of a line,
// with B = rows in the batch, S = tokens per source (prompt), T = tokens per target (completion), C = width, F = feed-forward width,
// H = heads, V = vocabulary. Fields have the names that the same parts have in checkpoints of BART and Marian.

/// <summary>
/// Positions without parameters (Vaswani et al. 2017, section 3.5): PE(p, 2i) = sin(p / 10000^(2i/C)), PE(p, 2i+1) = cos of the same.
/// </summary>
internal static class SinusoidalPositions
{
    /// <summary>Positions <paramref name="start"/> … <paramref name="start"/> + <paramref name="count"/> − 1, (count, C).</summary>
    public static Tensor Of(long start, long count, int width, Device device)
    {
        using var scope = NewDisposeScope();
        // In float64: the angle of a late position has few digits left behind the point in float32.
        var positions = arange(start, start + count, dtype: float64, device: device).unsqueeze(-1); // (count, 1)
        var wavelengths = (arange(0, width, 2, dtype: float64, device: device) * (-Math.Log(10000) / width)).exp(); // (C/2)
        var angles = positions * wavelengths;                                                 // (count, C/2)
        return stack([angles.sin(), angles.cos()], dim: -1).view(count, width).to(float32).MoveToOuterDisposeScope();
    }
}

/// <summary>
/// softmax(Q·Kᵀ/√d)·V in H heads (section 3.2). Queries come from one sequence, keys and values from the same or another.
/// </summary>
internal sealed class MultiHeadAttention : Module
{
    private readonly Projection q_proj, k_proj, v_proj, out_proj;
    private readonly int _heads;

    public MultiHeadAttention(EncoderDecoderArchitecture a, string name) : base(name)
    {
        _heads = a.Heads;
        q_proj = new Projection(a.Width, a.Width);
        k_proj = new Projection(a.Width, a.Width);
        v_proj = new Projection(a.Width, a.Width);
        out_proj = new Projection(a.Width, a.Width);
        RegisterComponents();
    }

    /// <summary>What can be attended to in a sequence (B, S, C): keys and values, (B, H, S, C/H).</summary>
    public (Tensor Keys, Tensor Values) KeysAndValues(Tensor x) => (Split(k_proj.forward(x)), Split(v_proj.forward(x)));

    /// <param name="x">Where the queries come from, (B, T, C).</param>
    /// <param name="keys">(B, H, S, C/H).</param>
    /// <param name="values">(B, H, S, C/H).</param>
    /// <param name="mask">Additive, broadcast to (B, H, T, S); null hides nothing.</param>
    /// <param name="causal">Whether query t sees keys 0 … t only.</param>
    public Tensor forward(Tensor x, Tensor keys, Tensor values, Tensor? mask, bool causal)
    {
        var queries = Split(q_proj.forward(x));                                               // (B, H, T, C/H)
        var y = functional.scaled_dot_product_attention(queries, keys, values, mask, 0, causal); // (B, H, T, C/H)
        return out_proj.forward(y.transpose(1, 2).reshape(x.shape));                          // (B, T, C)
    }

    private Tensor Split(Tensor x) => x.view(x.size(0), x.size(1), _heads, x.size(2) / _heads).transpose(1, 2);
}

/// <summary>What stands around every sub-layer.</summary>
internal static class Residual
{
    /// <summary>Norm after adding (section 3.1; "post-norm"): norm(x + dropout(sub-layer(x))).</summary>
    public static Tensor Add(Tensor x, Tensor sublayer, LayerNorm norm, double dropout) => norm.forward(x + Drop(sublayer, dropout));

    /// <summary>Dropout, where its probability is above 0.</summary>
    public static Tensor Drop(Tensor x, double dropout) => dropout > 0 ? functional.dropout(x, dropout, training: true) : x;
}

internal sealed class EncoderLayer : Module
{
    private readonly MultiHeadAttention self_attn;
    private readonly LayerNorm self_attn_layer_norm, final_layer_norm;
    private readonly Projection fc1, fc2;

    public EncoderLayer(EncoderDecoderArchitecture a, int layer) : base($"encoder.{layer}")
    {
        self_attn = new MultiHeadAttention(a, nameof(self_attn));
        self_attn_layer_norm = LayerNorm(a.Width);
        fc1 = new Projection(a.Width, a.FeedForwardWidth);
        fc2 = new Projection(a.FeedForwardWidth, a.Width);
        final_layer_norm = LayerNorm(a.Width);
        RegisterComponents();
    }

    public Tensor forward(Tensor x, Tensor? mask, double dropout)
    {
        var (keys, values) = self_attn.KeysAndValues(x);                                      // (B, H, S, C/H)
        var attended = self_attn.forward(x, keys, values, mask, causal: false);               // (B, S, C)
        x = Residual.Add(x, attended, self_attn_layer_norm, dropout);
        var bent = fc2.forward(functional.relu(fc1.forward(x)));                              // (B, S, F), then (B, S, C)
        return Residual.Add(x, bent, final_layer_norm, dropout);
    }
}

internal sealed class DecoderLayer : Module
{
    private readonly MultiHeadAttention self_attn, encoder_attn;
    private readonly LayerNorm self_attn_layer_norm, encoder_attn_layer_norm, final_layer_norm;
    private readonly Projection fc1, fc2;
    private readonly int _layer;

    public DecoderLayer(EncoderDecoderArchitecture a, int layer) : base($"decoder.{layer}")
    {
        _layer = layer;
        self_attn = new MultiHeadAttention(a, nameof(self_attn));
        self_attn_layer_norm = LayerNorm(a.Width);
        encoder_attn = new MultiHeadAttention(a, nameof(encoder_attn));
        encoder_attn_layer_norm = LayerNorm(a.Width);
        fc1 = new Projection(a.Width, a.FeedForwardWidth);
        fc2 = new Projection(a.FeedForwardWidth, a.Width);
        final_layer_norm = LayerNorm(a.Width);
        RegisterComponents();
    }

    /// <summary>What this layer attends to in what the encoder read, (B, S, C): keys and values, (B, H, S, C/H).</summary>
    public (Tensor Keys, Tensor Values) OfSource(Tensor encoded) => encoder_attn.KeysAndValues(encoded);

    public Tensor forward(Tensor x, (Tensor Keys, Tensor Values) source, Tensor? sourceMask, KeyValueCache? cache, double dropout)
    {
        var (keys, values) = self_attn.KeysAndValues(x);                                      // (B, H, T, C/H)
        if (cache is not null)
            (keys, values) = cache.Append(_layer, keys, values);
        // One query at a time sees every key that there is yet; several see those before them.
        var attended = self_attn.forward(x, keys, values, mask: null, causal: x.size(1) > 1); // (B, T, C)
        x = Residual.Add(x, attended, self_attn_layer_norm, dropout);
        attended = encoder_attn.forward(x, source.Keys, source.Values, sourceMask, causal: false);
        x = Residual.Add(x, attended, encoder_attn_layer_norm, dropout);
        var bent = fc2.forward(functional.relu(fc1.forward(x)));                              // (B, T, F), then (B, T, C)
        return Residual.Add(x, bent, final_layer_norm, dropout);
    }
}

/// <summary>
/// The original transformer (Vaswani et al. 2017, arXiv 1706.03762): an encoder that reads a source in both directions, and a decoder that
/// writes a target token by token and attends to the source in every layer. Norm after each sub-layer, ReLU, sinusoidal positions, and one
/// embedding for encoder, decoder and head.
/// </summary>
public sealed class EncoderDecoder : Module
{
    private readonly Embedding shared;
    private readonly ModuleList<EncoderLayer> encoder;
    private readonly ModuleList<DecoderLayer> decoder;

    /// <summary>The shape that this model was built with.</summary>
    public EncoderDecoderArchitecture Architecture { get; }

    /// <summary>
    /// Probability of dropping an activation while training: of each sub-layer's output before it is added, and of the sums of embeddings
    /// and positions (section 5.4).
    /// </summary>
    /// <value>In [0, 1). 0 by default; the paper trained with 0.1. Ignored in evaluation mode.</value>
    public double Dropout { get; set; }

    /// <summary>Builds a model with random weights.</summary>
    /// <param name="architecture">The shape.</param>
    /// <param name="generator">Source of the initial weights: the same generator state gives the same weights.</param>
    /// <exception cref="ArgumentException">The architecture has values out of range; all are listed.</exception>
    public EncoderDecoder(EncoderDecoderArchitecture architecture, Generator generator) : this(architecture) => Initialize(generator);

    /// <summary>Builds a model whose weights are about to be overwritten.</summary>
    internal EncoderDecoder(EncoderDecoderArchitecture architecture) : base(nameof(EncoderDecoder))
    {
        architecture.Validate();
        Architecture = architecture;
        shared = Embedding(architecture.VocabularySize, architecture.Width);
        encoder = ModuleList(Enumerable.Range(0, architecture.Layers).Select(i => new EncoderLayer(architecture, i)).ToArray());
        decoder = ModuleList(Enumerable.Range(0, architecture.Layers).Select(i => new DecoderLayer(architecture, i)).ToArray());
        RegisterComponents();
    }

    /// <summary>Where the weights are.</summary>
    public Device Device
    {
        get
        {
            using var scope = NewDisposeScope(); // an embedding gives a new tensor each time it is asked for its weight
            return shared.weight!.device;
        }
    }

    /// <summary>Reads the source.</summary>
    /// <param name="ids">Token ids, int64 (B, S), padded on the right.</param>
    /// <param name="mask">
    /// Additive, (B, 1, 1, S): −∞ at padding, 0 elsewhere; null without padding. The decoder needs the same one.
    /// </param>
    /// <returns>Hidden states, (B, S, C).</returns>
    /// <exception cref="ArgumentException">There are more tokens than the context holds.</exception>
    public Tensor Encode(Tensor ids, Tensor? mask = null)
    {
        using var scope = NewDisposeScope();
        double dropout = training ? Dropout : 0;
        var x = Embed(ids, start: 0, dropout);                                                // (B, S, C)
        foreach (var layer in encoder)
            x = layer.forward(x, mask, dropout);                                              // (B, S, C)
        return x.MoveToOuterDisposeScope();
    }

    /// <summary>Reads a whole target, each token of which sees those before it: teacher forcing.</summary>
    /// <param name="ids">Token ids, int64 (B, T), padded on the right: what stands to the left of each token to predict.</param>
    /// <param name="encoded">What <see cref="Encode"/> gave, (B, S, C).</param>
    /// <param name="mask">The mask of the source, (B, 1, 1, S), or null.</param>
    /// <returns>Hidden states, (B, T, C).</returns>
    /// <exception cref="ArgumentException">There are more tokens than the context holds.</exception>
    public Tensor Decode(Tensor ids, Tensor encoded, Tensor? mask = null)
    {
        using var scope = NewDisposeScope();
        double dropout = training ? Dropout : 0;
        var x = Embed(ids, start: 0, dropout);                                                // (B, T, C)
        foreach (var layer in decoder)
            x = layer.forward(x, layer.OfSource(encoded), mask, cache: null, dropout);        // (B, T, C)
        return x.MoveToOuterDisposeScope();
    }

    /// <summary>Reads the next token of each target.</summary>
    /// <param name="ids">Token ids, int64 (B, 1).</param>
    /// <param name="cache">What was read before; the new token's keys and values are appended.</param>
    /// <returns>Hidden states, (B, 1, C).</returns>
    /// <exception cref="ArgumentException">The token reaches past the context or the cache's capacity.</exception>
    internal Tensor DecodeNext(Tensor ids, EncoderDecoderCache cache)
    {
        using var scope = NewDisposeScope();
        if (ids.size(1) != 1)
            throw new ArgumentException(
                $"{ids.size(1)} tokens per row were given, but the cache takes 1 at a time. Pass them one after another, or all at once " +
                "without a cache.", nameof(ids));
        double dropout = training ? Dropout : 0;
        var x = Embed(ids, start: cache.Length, dropout);                             // (B, 1, C)
        for (int i = 0; i < decoder.Count; i++)
            x = decoder[i].forward(x, cache.Sources[i], cache.SourceMask, cache.Targets, dropout); // (B, 1, C)
        cache.Advance(1);
        return x.MoveToOuterDisposeScope();
    }

    /// <summary>Scores every token of the vocabulary as the next one.</summary>
    /// <param name="hidden">Hidden states of the decoder, (…, C).</param>
    /// <returns>Logits (…, V).</returns>
    public Tensor Logits(Tensor hidden)
    {
        using var scope = NewDisposeScope();
        return functional.linear(hidden, shared.weight!).MoveToOuterDisposeScope();
    }

    /// <summary>Copies the shape, the weights and the mode. The copy shares no storage.</summary>
    public EncoderDecoder Clone()
    {
        var copy = new EncoderDecoder(Architecture) { Dropout = Dropout };
        copy.to(Device);
        copy.CopyWeightsFrom(this);
        copy.train(training);
        return copy;
    }

    /// <summary>Keys and values of the source for each layer of the decoder, (B, H, S, C/H).</summary>
    internal IEnumerable<(Tensor Keys, Tensor Values)> OfSource(Tensor encoded) => decoder.Select(layer => layer.OfSource(encoded));

    /// <summary>Embeddings times √C, so that they are not drowned by the positions (section 3.4).</summary>
    private Tensor Embed(Tensor ids, int start, double dropout)
    {
        long count = ids.size(1);
        if (start + count > Architecture.ContextLength)
            throw new ArgumentException(
                $"{start + count} tokens do not fit the model's context of {Architecture.ContextLength}. Shorten the text, or use a " +
                "model with a longer context.", nameof(ids));
        var positions = SinusoidalPositions.Of(start, count, Architecture.Width, ids.device); // (T, C)
        return Residual.Drop(shared.forward(ids) * Math.Sqrt(Architecture.Width) + positions, dropout);
    }

    /// <summary>
    /// Matrices uniform in ±√(6/(in + out)) (Glorot and Bengio 2010), biases 0, norms 1. The embedding is N(0, 1/C), as in the authors'
    /// own code (tensor2tensor): times √C it has the variance 1, and so have the first logits.
    /// </summary>
    private void Initialize(Generator generator)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (name, parameter) in named_parameters())
        {
            if (name == "shared.weight")
                parameter.normal_(0, 1 / Math.Sqrt(Architecture.Width), generator);
            else if (parameter.ndim == 2)
            {
                double bound = Math.Sqrt(6.0 / (parameter.size(0) + parameter.size(1)));
                parameter.uniform_(-bound, bound, generator); // init.xavier_uniform_ ignores it
            }
            else
                parameter.fill_(name.EndsWith("bias", StringComparison.Ordinal) ? 0 : 1);
        }
    }
}

/// <summary>What a decoder need not compute again: keys and values of the source, once, and of the target's tokens so far.</summary>
internal sealed class EncoderDecoderCache : DecodingCache
{
    private readonly (Tensor Keys, Tensor Values)[] _sources; // per layer (B, H, S, C/H)

    /// <summary>Takes in what the encoder read.</summary>
    /// <param name="model">The model that will fill it.</param>
    /// <param name="encoded">What <see cref="EncoderDecoder.Encode"/> gave, (B, S, C); it need not be kept.</param>
    /// <param name="mask">The mask of the source, (B, 1, 1, S), or null.</param>
    /// <param name="capacity">The most tokens per target.</param>
    public EncoderDecoderCache(EncoderDecoder model, Tensor encoded, Tensor? mask, int capacity)
    {
        using var scope = NewDisposeScope();
        var a = model.Architecture;
        // Contiguous, for the kernel reads them again for each token.
        _sources = [.. model.OfSource(encoded).Select(s => (s.Keys.contiguous(), s.Values.contiguous()))];
        SourceMask = mask?.alias();
        Targets = new KeyValueCache(a.Layers, encoded.size(0), a.Heads, capacity, a.Width / a.Heads, encoded.device);
        // Only now: what was allocated before memory ran out must not stay.
        SourceMask?.DetachFromDisposeScope();
        foreach (var (keys, values) in _sources)
        {
            keys.DetachFromDisposeScope();
            values.DetachFromDisposeScope();
        }
    }

    internal KeyValueCache Targets { get; }

    internal IReadOnlyList<(Tensor Keys, Tensor Values)> Sources => _sources;

    internal Tensor? SourceMask { get; private set; }

    internal override void Advance(int tokens)
    {
        base.Advance(tokens);
        Targets.Advance(tokens);
    }

    internal override void Keep(ReadOnlySpan<int> rows)
    {
        Targets.Keep(rows);
        for (int layer = 0; layer < _sources.Length; layer++)
        {
            var (keys, values) = _sources[layer];
            _sources[layer] = (CacheRows.Keep(keys, rows), CacheRows.Keep(values, rows));
        }
        SourceMask = SourceMask is null ? null : CacheRows.Copy(SourceMask, rows);
    }

    /// <inheritdoc/>
    public override void Dispose()
    {
        Targets.Dispose();
        SourceMask?.Dispose();
        foreach (var (keys, values) in _sources)
        {
            keys.Dispose();
            values.Dispose();
        }
    }
}
