using ML.Rlhf.Torch.Kernels;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

// Leaf before root: attention, feed-forward, block, GPT. Shapes stand at the end of a line, with
// B = rows in the batch, T = tokens per row, C = width, H = heads, V = vocabulary.
// Field names are GPT-2's checkpoint keys (wte, wpe, h.0.attn.c_attn, …): they become the names in model.safetensors.

internal sealed class CausalSelfAttention : Module
{
    private readonly Projection c_attn, c_proj;
    private readonly int _heads;

    public CausalSelfAttention(GptArchitecture a) : base("attn")
    {
        _heads = a.Heads;
        c_attn = new Projection(a.Width, 3 * a.Width); // queries, keys and values of all heads, in one product
        c_proj = new Projection(a.Width, a.Width);
        RegisterComponents();
    }

    public bool HasAdapters => c_attn.Adapter is not null || c_proj.Adapter is not null;

    public (ParameterPointer, ParameterPointer, ParameterPointer, ParameterPointer) Pointers(bool gradients) => (
        new(c_attn.weight, gradients), new(c_attn.bias!, gradients), new(c_proj.weight, gradients), new(c_proj.bias!, gradients));

    public Tensor forward(Tensor x, in AttentionContext context, int layer)
    {
        long b = x.size(0), t = x.size(1), c = x.size(2);
        var qkv = c_attn.forward(x).view(b, t, 3, _heads, c / _heads).permute(2, 0, 3, 1, 4); // (3, B, H, T, C/H)
        Tensor q = qkv[0], k = qkv[1], v = qkv[2];
        if (context.Cache is { } cache)
            (k, v) = cache.Append(layer, k, v);                                               // (B, H, keys, C/H)
        var y = Attention.Run(q, k, v, context);                                              // (B, H, T, C/H)
        y = c_proj.forward(y.transpose(1, 2).reshape(b, t, c));                               // (B, T, C)
        return context.Dropout > 0 ? functional.dropout(y, context.Dropout, training: true) : y;
    }
}

internal sealed class FeedForward : Module
{
    private readonly Projection c_fc, c_proj;
    private readonly Activation _activation;

    public FeedForward(GptArchitecture a) : base("mlp")
    {
        _activation = a.Activation;
        c_fc = new Projection(a.Width, a.HiddenWidth);
        c_proj = new Projection(a.HiddenWidth, a.Width);
        RegisterComponents();
    }

    public bool HasAdapters => c_fc.Adapter is not null || c_proj.Adapter is not null;

    public (ParameterPointer, ParameterPointer, ParameterPointer, ParameterPointer) Pointers(bool gradients) => (
        new(c_fc.weight, gradients), new(c_fc.bias!, gradients), new(c_proj.weight, gradients), new(c_proj.bias!, gradients));

    public Tensor forward(Tensor x, double dropout)
    {
        var y = c_fc.forward(x);                                                              // (B, T, 4C)
        y = _activation switch
        {
            Activation.GeluTanh => functional.gelu(y, TorchSharp.Modules.GELU.Approximate.tanh),
            Activation.Gelu => functional.gelu(y),
            _ => functional.relu(y),
        };
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
    private readonly NormPlacement _norms;

    public Block(GptArchitecture a, int layer) : base($"h.{layer}")
    {
        (_layer, _norms) = (layer, a.Norms);
        ln_1 = LayerNorm(a.Width, a.NormEpsilon);
        attn = new CausalSelfAttention(a);
        ln_2 = LayerNorm(a.Width, a.NormEpsilon);
        mlp = new FeedForward(a);
        RegisterComponents();
    }

    public bool HasAdapters => attn.HasAdapters || mlp.HasAdapters;

    public BlockPointers Pointers(bool gradients)
    {
        ParameterPointer At(Tensor? parameter) => new(parameter!, gradients);
        var block = new BlockPointers
        {
            Norm1Gain = At(ln_1.weight), Norm1Bias = At(ln_1.bias), Norm2Gain = At(ln_2.weight), Norm2Bias = At(ln_2.bias),
        };
        (block.QkvWeight, block.QkvBias, block.ProjectWeight, block.ProjectBias) = attn.Pointers(gradients);
        (block.UpWeight, block.UpBias, block.DownWeight, block.DownBias) = mlp.Pointers(gradients);
        return block;
    }

    public Tensor forward(Tensor x, in AttentionContext context)                              // (B, T, C)
    {
        if (_norms == NormPlacement.After)
        {
            x = ln_1.forward(x + attn.forward(x, context, _layer));
            return ln_2.forward(x + mlp.forward(x, context.Dropout));
        }
        x = x + attn.forward(ln_1.forward(x), context, _layer);
        return x + mlp.forward(ln_2.forward(x), context.Dropout);
    }
}

/// <summary>
/// A decoder-only transformer of GPT's shape: learned positions, layer norms before each sub-layer and once at the end (GPT-2, Radford et
/// al. 2019; GPT-3) or after each (GPT-1, Radford et al. 2018), and a head that shares the token embedding.
/// </summary>
public sealed class Gpt : CausalLanguageModel
{
    private readonly Embedding wte, wpe;
    private readonly ModuleList<Block> h;
    private readonly LayerNorm? ln_f;
    private readonly Projection? lm_head;

    /// <summary>The shape that this model was built with.</summary>
    public new GptArchitecture Architecture { get; }

    /// <summary>Builds a GPT with GPT-2's initial weights.</summary>
    /// <param name="architecture">The shape.</param>
    /// <param name="generator">Source of the initial weights: the same generator state gives the same weights.</param>
    /// <exception cref="ArgumentException">The architecture has values out of range; all are listed.</exception>
    public Gpt(GptArchitecture architecture, Generator generator) : this(architecture) => Initialize(generator);

    /// <summary>Builds a GPT whose weights are about to be overwritten.</summary>
    internal Gpt(GptArchitecture architecture) : base(nameof(Gpt), architecture)
    {
        Architecture = architecture;
        wte = Embedding(architecture.VocabularySize, architecture.Width);
        wpe = Embedding(architecture.ContextLength, architecture.Width);
        h = ModuleList(Enumerable.Range(0, architecture.Layers).Select(i => new Block(architecture, i)).ToArray());
        ln_f = architecture.Norms == NormPlacement.Before ? LayerNorm(architecture.Width, architecture.NormEpsilon) : null;
        lm_head = architecture.TiedHead ? null : new Projection(architecture.Width, architecture.VocabularySize, hasBias: false);
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Device Device
    {
        get
        {
            using var scope = NewDisposeScope(); // an embedding gives a new tensor each time it is asked for its weight
            return wte.weight!.device;
        }
    }

    private protected override Tensor Run(
        Tensor ids, Tensor positions, Tensor? mask, DecodingCache? cache, double dropout, ForwardTrace? trace)
    {
        var x = wte.forward(ids) + wpe.forward(positions);                                    // (B, T, C)
        if (dropout > 0)
            x = functional.dropout(x, dropout, training: true);
        ForwardTrace.Add(trace?.HiddenStates, x);
        var context = new AttentionContext(mask, (KeyValueCache?)cache, dropout, trace);
        foreach (var block in h)
        {
            x = ActivationCheckpointing                                                       // (B, T, C)
                ? ActivationCheckpoint.Run(x, [mask], dropout > 0, (x, shared) => block.forward(x, context with { Mask = shared[0] }))
                : block.forward(x, context);
            ForwardTrace.Add(trace?.HiddenStates, x);
        }
        if (ln_f is null)
            return x;
        x = ln_f.forward(x);
        trace?.ReplaceLast(x);
        return x;
    }

    internal override bool HasCheckpoints => true;

    internal override bool HasKernels =>
        GptTrunk.Supports(Architecture) && Device.type == DeviceType.CPU && lm_head?.Adapter is null && !h.Any(block => block.HasAdapters);

    private protected override Tensor RunKernels(Tensor ids) =>
        GptTrunkFunction.Run(Shape((int)ids.size(0), (int)ids.size(1)), Pointers, ids, wte.weight!, ActivationCheckpointing);

    internal override GptDecoder CreateDecoder(int rows, int capacity)
    {
        using var scope = NewDisposeScope();
        return new GptDecoder(
            Shape(rows, 1), Pointers(gradients: false), new ParameterPointer(HeadWeight, withGradient: false),
            Architecture.VocabularySize, capacity);
    }

    private GptShape Shape(int batch, int t)
    {
        var a = Architecture;
        return new GptShape(batch, t, a.Width, a.Heads, a.HiddenWidth, a.Layers, (float)a.NormEpsilon);
    }

    private GptPointers Pointers(bool gradients) => new()
    {
        TokenEmbedding = new(wte.weight!, gradients),
        PositionEmbedding = new(wpe.weight!, gradients),
        Blocks = [.. h.Select(block => block.Pointers(gradients))],
        LastNormGain = new(ln_f!.weight!, gradients),
        LastNormBias = new(ln_f.bias!, gradients),
    };

    /// <inheritdoc/>
    public override Tensor Logits(Tensor hidden)
    {
        using var scope = NewDisposeScope();
        return (lm_head is null ? functional.linear(hidden, wte.weight!) : lm_head.forward(hidden)).MoveToOuterDisposeScope();
    }

    internal override Tensor CrossEntropySum(Tensor hidden, Tensor labels)
    {
        if (!RunsKernels)
            return base.CrossEntropySum(hidden, labels);
        using var scope = NewDisposeScope();
        return (-HeadFunction.Run(hidden, HeadWeight, labels, temperature: 1)[0].sum()).MoveToOuterDisposeScope();
    }

    internal override TokenPredictions Predict(Tensor hidden, Tensor tokens, double temperature = 1)
    {
        if (!RunsKernels)
            return base.Predict(hidden, tokens, temperature);
        using var scope = NewDisposeScope();
        var both = HeadFunction.Run(hidden, HeadWeight, tokens, temperature);                 // (2, N)
        return new TokenPredictions(both[0], Logits: null, both[1]).MoveToOuterDisposeScope();
    }

    private bool RunsKernels => Precision == Precision.BFloat16 && HasKernels;

    private Tensor HeadWeight => lm_head?.weight ?? wte.weight!;

    /// <inheritdoc/>
    public override DecodingCache CreateCache(int rows, int capacity) => new KeyValueCache(
        Architecture.Layers, rows, Architecture.Heads, capacity, Architecture.Width / Architecture.Heads, Device);

    /// <summary>Copies the shape, the weights and the mode. The copy shares no storage.</summary>
    public new Gpt Clone() => (Gpt)base.Clone();

    /// <summary>
    /// GPT-2's names, and GPT-1's embeddings under theirs. Both keep their projections as "Conv1D", (in, out); ours are (out, in).
    /// </summary>
    internal override IEnumerable<(string Name, Tensor Target)> CheckpointTensors()
    {
        foreach (var (name, parameter) in BaseParameters())
        {
            bool turned = name.StartsWith("h.", StringComparison.Ordinal) && parameter.ndim == 2;
            yield return (CheckpointName(name), turned ? parameter.t() : parameter);
        }
    }

    internal override string CheckpointName(string parameter)
    {
        bool first = Architecture.Norms == NormPlacement.After;
        return parameter switch
        {
            "wte.weight" when first => "transformer.tokens_embed.weight",
            "wpe.weight" when first => "transformer.positions_embed.weight",
            "lm_head.weight" => parameter,
            _ => "transformer." + parameter,
        };
    }

    private protected override bool EndsResidualBranch(string name) => name.EndsWith("c_proj.weight", StringComparison.Ordinal);
}
