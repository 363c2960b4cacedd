using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

// Leaf before root: layer, model. B = rows in the batch, T = tokens per row, C = width, V = vocabulary.

/// <summary>
/// One layer of long short-term memory (Hochreiter and Schmidhuber 1997) with forget gates (Gers et al. 2000). Token t comes in as x, and
/// the layer goes from its last output h and memory c to
/// <code>
/// i = σ(W_i·x + U_i·h + b_i)    how much of the new content is written
/// f = σ(W_f·x + U_f·h + b_f)    how much of the memory is kept
/// g = tanh(W_g·x + U_g·h + b_g) the new content
/// o = σ(W_o·x + U_o·h + b_o)    how much of the memory is shown
/// c ← f∘c + i∘g
/// h ← o∘tanh(c)
/// </code>
/// Each b is the sum of two parameters, and the gates stand one above another in the order i, f, g, o, as in PyTorch's <c>nn.LSTM</c>.
/// </summary>
internal sealed class LstmLayer : Module
{
    private readonly LSTM lstm;

    public LstmLayer(int width) : base(nameof(LstmLayer))
    {
        lstm = LSTM(width, width, batchFirst: true);
        RegisterComponents();
    }

    /// <summary>Reads one text per row, in libtorch's fused kernel.</summary>
    /// <param name="x">(B, T, C).</param>
    /// <param name="state">h and c before the first token, (B, C) each; null for zeros, the beginning of a text.</param>
    /// <returns>All outputs (B, T, C), and h and c after the last token, (B, C) each.</returns>
    public (Tensor Outputs, Tensor Output, Tensor Memory) Read(Tensor x, (Tensor Output, Tensor Memory)? state)
    {
        var (y, h, c) = lstm.call(x, state is { } s ? (s.Output.unsqueeze(0), s.Memory.unsqueeze(0)) : null);
        return (y, h.squeeze(0), c.squeeze(0));
    }

    /// <summary>
    /// The same token by token, where a row may hold several texts or begin with padding: at each token at position 0 a text begins, and
    /// what the row held before is forgotten. The kernel cannot forget; this takes about three times as long.
    /// </summary>
    /// <inheritdoc cref="Read"/>
    /// <param name="x">(B, T, C).</param>
    /// <param name="state">h and c before the first token, (B, C) each; null for zeros.</param>
    /// <param name="positions">Position of each token in its own text, int64 (B or 1, T).</param>
    public (Tensor Outputs, Tensor Output, Tensor Memory) ReadTexts(Tensor x, (Tensor Output, Tensor Memory)? state, Tensor positions)
    {
        Tensor Parameter(string name) => lstm.get_parameter(name)!;
        long rows = x.size(0), width = x.size(2);
        var (h, c) = state ?? (zeros([rows, width], x.dtype, x.device), zeros([rows, width], x.dtype, x.device));
        var u = Parameter("weight_hh_l0").t();                                                // (C, 4C)
        var fromTokens = functional.linear(x, Parameter("weight_ih_l0"), Parameter("bias_ih_l0") + Parameter("bias_hh_l0")).unbind(1);
        var goesOn = positions.ne(0).to(x.dtype).unsqueeze(-1).unbind(1);                    // T × (B or 1, 1)
        var outputs = new Tensor[fromTokens.Length];
        for (int t = 0; t < outputs.Length; t++)
        {
            (h, c) = (h * goesOn[t], c * goesOn[t]);
            var gates = (fromTokens[t] + h.matmul(u)).chunk(4, 1);                            // 4 × (B, C)
            c = gates[1].sigmoid() * c + gates[0].sigmoid() * gates[2].tanh();
            outputs[t] = h = gates[3].sigmoid() * c.tanh();
        }
        return (stack(outputs, 1), h, c);
    }
}

/// <summary>
/// A recurrent language model, what came before attention: layers of long short-term memory between the token embedding and a head that
/// shares it (Press and Wolf 2017). It reads one token after another, and what it knows of the text is what its memory kept: no word is
/// weighed over another at a distance.
/// </summary>
/// <remarks>
/// <para>
/// It has no attention, and a mask hides nothing from it. Where a mask is given, rows are padded on the left or hold several texts, and
/// the positions say where a text begins: at each token at position 0 the memory is empty. Padding on the left has position 0 as well.
/// </para>
/// <para>Dropout acts between layers, before the first and after the last, never from one token to the next (Zaremba et al. 2014).</para>
/// </remarks>
public sealed class Lstm : CausalLanguageModel
{
    private readonly Embedding wte;
    private readonly ModuleList<LstmLayer> h;
    private readonly Projection? lm_head;

    /// <summary>The shape that this model was built with.</summary>
    public new LstmArchitecture Architecture { get; }

    /// <summary>
    /// Builds an LSTM with initial weights: the matrices of the gates, and a head of its own, from U(−1/√C, 1/√C), as <c>nn.LSTM</c> and
    /// <c>nn.Linear</c>; biases 0, but 1 for the forget gates, so that memory is kept until training says otherwise (Gers et al. 2000;
    /// Józefowicz et al. 2015, section 2.2); embeddings from N(0, 0.3²).
    /// </summary>
    /// <remarks>
    /// With GPT-2's deviation of 0.02 the gates see next to nothing of the tokens, and nothing norms it: on tinyshakespeare such a model
    /// knew the letters' frequencies and no more after 200 steps. With <c>nn.Embedding</c>'s 1 a wide model with a tied head starts far
    /// from uniform. 0.3 was the best of 0.1, 0.3 and 1 after 1,000 steps.
    /// </remarks>
    /// <param name="architecture">The shape.</param>
    /// <param name="generator">Source of the initial weights: the same generator state gives the same weights.</param>
    /// <exception cref="ArgumentException">The architecture has values out of range; all are listed.</exception>
    public Lstm(LstmArchitecture architecture, Generator generator) : this(architecture) => Initialize(generator);

    /// <summary>Builds an LSTM whose weights are about to be overwritten.</summary>
    internal Lstm(LstmArchitecture architecture) : base(nameof(Lstm), architecture)
    {
        Architecture = architecture;
        wte = Embedding(architecture.VocabularySize, architecture.Width);
        h = ModuleList(Enumerable.Range(0, architecture.Layers).Select(_ => new LstmLayer(architecture.Width)).ToArray());
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
        var state = (LstmState?)cache;
        var x = Drop(wte.forward(ids));                                                       // (B, T, C)
        ForwardTrace.Add(trace?.HiddenStates, x);
        for (int layer = 0; layer < h.Count; layer++)
        {
            var (y, output, memory) = mask is null
                ? h[layer].Read(x, state?[layer])
                : h[layer].ReadTexts(x, state?[layer], positions);
            state?.Set(layer, output, memory);
            x = Drop(y);                                                                      // (B, T, C)
            ForwardTrace.Add(trace?.HiddenStates, x);
        }
        return x;

        Tensor Drop(Tensor numbers) => dropout > 0 ? functional.dropout(numbers, dropout, training: true) : numbers;
    }

    /// <inheritdoc/>
    public override Tensor Logits(Tensor hidden)
    {
        using var scope = NewDisposeScope();
        return (lm_head is null ? functional.linear(hidden, wte.weight!) : lm_head.forward(hidden)).MoveToOuterDisposeScope();
    }

    /// <summary>Makes room for the state after the last token. It does not grow with the text.</summary>
    /// <param name="rows">Rows in the batch.</param>
    /// <param name="capacity">Any number.</param>
    public override DecodingCache CreateCache(int rows, int capacity) =>
        new LstmState(Architecture.Layers, rows, Architecture.Width, Device);

    /// <summary>Copies the shape, the weights and the mode. The copy shares no storage.</summary>
    public new Lstm Clone() => (Lstm)base.Clone();

    /// <exception cref="NotSupportedException">Always: transformers has no LSTM.</exception>
    internal override IEnumerable<(string Name, Tensor Target)> CheckpointTensors() => throw NoCheckpoint();

    internal override string CheckpointName(string parameter) => throw NoCheckpoint();

    private static NotSupportedException NoCheckpoint() => new(
        "An LSTM has no form in Hugging Face's layout: transformers knows no such model. Save it with ml.Model.Save.");

    private protected override void Initialize(Generator generator)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        int width = Architecture.Width;
        double range = 1 / Math.Sqrt(width);
        foreach (var (name, parameter) in named_parameters())
        {
            if (name == "wte.weight")
                parameter.normal_(0, EmbeddingDeviation, generator); // init.normal_ ignores its generator
            else if (parameter.ndim == 2)
                parameter.uniform_(-range, range, generator);
            else
                parameter.zero_();
            if (name.EndsWith("bias_ih_l0", StringComparison.Ordinal))
                parameter.narrow(0, width, width).fill_(1); // the second gate of i, f, g, o
        }
    }

    private const double EmbeddingDeviation = 0.3;
}
