using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

// Leaf before root: attention, block, head, encoder. Shapes stand at the end of a line, with
// B = rows in the batch, T = tokens per row, C = width, F = feed-forward width, H = heads, V = vocabulary.

/// <summary>What the blocks of one forward pass share beside the hidden states.</summary>
/// <param name="Mask">Additive attention mask (B, 1, 1, T): 0 at real tokens, −∞ at padding; null where there is none.</param>
/// <param name="Dropout">Probability of dropping, 0 outside training.</param>
internal readonly record struct EncoderContext(Tensor? Mask, double Dropout)
{
    public Tensor Drop(Tensor x) => Dropout > 0 ? functional.dropout(x, Dropout, training: true) : x;
}

internal sealed class EncoderAttention : Module
{
    private readonly Linear query, key, value, dense;
    private readonly int _heads;

    public EncoderAttention(EncoderArchitecture a) : base("attention")
    {
        _heads = a.Heads;
        query = Linear(a.Width, a.Width);
        key = Linear(a.Width, a.Width);
        value = Linear(a.Width, a.Width);
        dense = Linear(a.Width, a.Width);
        RegisterComponents();
    }

    public Tensor forward(Tensor x, in EncoderContext context)
    {
        long b = x.size(0), t = x.size(1), c = x.size(2);
        Tensor Split(Linear projection) => projection.forward(x).view(b, t, _heads, c / _heads).transpose(1, 2); // (B, H, T, C/H)

        // Every token sees every real token, those after it too: that is what sets an encoder apart from a GPT.
        var y = functional.scaled_dot_product_attention(Split(query), Split(key), Split(value), context.Mask, context.Dropout);
        return context.Drop(dense.forward(y.transpose(1, 2).reshape(b, t, c)));               // (B, T, C)
    }

    public IEnumerable<(string, Tensor)> CheckpointTensors(string prefix) =>
    [
        .. Checkpoint.Layer(prefix + "self.query", query), .. Checkpoint.Layer(prefix + "self.key", key),
        .. Checkpoint.Layer(prefix + "self.value", value), .. Checkpoint.Layer(prefix + "output.dense", dense),
    ];
}

/// <summary>Attention and feed-forward network, each with a norm after its residual sum ("post-norm", Vaswani et al. 2017).</summary>
internal sealed class EncoderBlock : Module
{
    private readonly EncoderAttention attention;
    private readonly Linear intermediate, output;
    private readonly LayerNorm attention_norm, output_norm;

    public EncoderBlock(EncoderArchitecture a) : base("layer")
    {
        attention = new EncoderAttention(a);
        attention_norm = LayerNorm(a.Width, a.NormEpsilon);
        intermediate = Linear(a.Width, a.FeedForwardWidth);
        output = Linear(a.FeedForwardWidth, a.Width);
        output_norm = LayerNorm(a.Width, a.NormEpsilon);
        RegisterComponents();
    }

    public Tensor forward(Tensor x, in EncoderContext context)
    {
        x = attention_norm.forward(x + attention.forward(x, context));                        // (B, T, C)
        var y = functional.gelu(intermediate.forward(x));                                     // (B, T, F): the exact GELU, by erf
        return output_norm.forward(x + context.Drop(output.forward(y)));                      // (B, T, C)
    }

    public IEnumerable<(string, Tensor)> CheckpointTensors(string prefix) =>
    [
        .. attention.CheckpointTensors(prefix + "attention."), .. Checkpoint.Layer(prefix + "attention.output.LayerNorm", attention_norm),
        .. Checkpoint.Layer(prefix + "intermediate.dense", intermediate), .. Checkpoint.Layer(prefix + "output.dense", output),
        .. Checkpoint.Layer(prefix + "output.LayerNorm", output_norm),
    ];
}

/// <summary>What stands between the last hidden state and the scores of the vocabulary, beside the token embedding.</summary>
internal sealed class GuessingHead : Module
{
    private readonly Linear dense;
    private readonly LayerNorm norm;
    private readonly Parameter bias;

    public GuessingHead(EncoderArchitecture a) : base("head")
    {
        dense = Linear(a.Width, a.Width);
        norm = LayerNorm(a.Width, a.NormEpsilon);
        bias = Parameter(zeros(a.VocabularySize));
        RegisterComponents();
    }

    public Tensor forward(Tensor hidden, Tensor embedding)
    {
        var y = norm.forward(functional.gelu(dense.forward(hidden)));                         // (…, C)
        return functional.linear(y, embedding, bias);                                         // (…, V)
    }

    public IEnumerable<(string, Tensor)> CheckpointTensors(EncoderFamily family) => family == EncoderFamily.Bert
        ? [
            ("cls.predictions.bias", bias), .. Checkpoint.Layer("cls.predictions.transform.dense", dense),
            .. Checkpoint.Layer("cls.predictions.transform.LayerNorm", norm),
        ]
        : [("lm_head.bias", bias), .. Checkpoint.Layer("lm_head.dense", dense), .. Checkpoint.Layer("lm_head.layer_norm", norm)];
}

/// <summary>
/// A bidirectional transformer of BERT's shape (Devlin et al. 2019): token, position and segment embeddings with a norm, blocks with their
/// norms after the residual sums, exact GELU, and a head that shares the token embedding. There is no pooler and no head for next
/// sentence prediction: RoBERTa (Liu et al. 2019, section 4.2) showed that training without it is no worse.
/// </summary>
public sealed class Encoder : Module
{
    private readonly Embedding word_embeddings, position_embeddings, token_type_embeddings;
    private readonly LayerNorm embeddings_norm;
    private readonly ModuleList<EncoderBlock> layer;
    private readonly GuessingHead? head;

    /// <summary>The shape that this model was built with.</summary>
    public EncoderArchitecture Architecture { get; }

    /// <summary>Probability of dropping an activation while training (embeddings, attention, residual branches).</summary>
    /// <value>In [0, 1). 0 by default. Ignored in evaluation mode.</value>
    public double Dropout { get; set; }

    /// <summary>Builds an encoder with BERT's initial weights.</summary>
    /// <param name="architecture">The shape.</param>
    /// <param name="generator">Source of the initial weights: the same generator state gives the same weights.</param>
    /// <exception cref="ArgumentException">The architecture has values out of range; all are listed.</exception>
    public Encoder(EncoderArchitecture architecture, Generator generator) : this(architecture) => Initialize(generator);

    /// <summary>Builds an encoder whose weights are about to be overwritten.</summary>
    internal Encoder(EncoderArchitecture architecture) : base(nameof(Encoder))
    {
        architecture.Validate();
        Architecture = architecture;
        word_embeddings = Embedding(architecture.VocabularySize, architecture.Width);
        position_embeddings = Embedding(architecture.PositionRows, architecture.Width);
        token_type_embeddings = Embedding(architecture.SegmentTypes, architecture.Width);
        embeddings_norm = LayerNorm(architecture.Width, architecture.NormEpsilon);
        layer = ModuleList(Enumerable.Range(0, architecture.Layers).Select(_ => new EncoderBlock(architecture)).ToArray());
        head = architecture.MaskedLanguageModelHead ? new GuessingHead(architecture) : null;
        RegisterComponents();
    }

    /// <summary>Where the weights are.</summary>
    public Device Device
    {
        get
        {
            using var scope = NewDisposeScope(); // an embedding gives a new tensor each time it is asked for its weight
            return word_embeddings.weight!.device;
        }
    }

    /// <summary>Runs the blocks and gives the last hidden states.</summary>
    /// <param name="ids">Token ids, int64 (B, T), padded on the right.</param>
    /// <param name="mask">Additive attention mask (B, 1, 1, T): 0 at real tokens, −∞ at padding; null where there is none. The states of
    /// padding mean nothing.</param>
    /// <param name="segments">The segment of each token, int64 (B, T); null is the first segment throughout.</param>
    /// <returns>Hidden states (B, T, C).</returns>
    /// <exception cref="ArgumentException">There are more tokens than <see cref="LanguageModelArchitecture.ContextLength"/>.</exception>
    public Tensor Hidden(Tensor ids, Tensor? mask = null, Tensor? segments = null)
    {
        using var scope = NewDisposeScope();
        return States(ids, mask, segments).Last().MoveToOuterDisposeScope();
    }

    /// <summary>The embeddings, and then what each block makes of them, each (B, T, C).</summary>
    internal IEnumerable<Tensor> States(Tensor ids, Tensor? mask = null, Tensor? segments = null)
    {
        long t = ids.size(1);
        if (t > Architecture.ContextLength)
            throw new ArgumentException(
                $"{t} tokens do not fit the model's context of {Architecture.ContextLength}. Shorten the input, or use a model with a " +
                "longer context.", nameof(ids));

        var context = new EncoderContext(mask, training ? Dropout : 0);
        var positions = arange(Architecture.PositionOffset, Architecture.PositionOffset + t, device: ids.device); // (T)
        segments ??= zeros(1, dtype: int64, device: ids.device);                              // (1)
        var x = word_embeddings.forward(ids) + position_embeddings.forward(positions) + token_type_embeddings.forward(segments);
        x = context.Drop(embeddings_norm.forward(x));                                         // (B, T, C)
        yield return x;
        foreach (var block in layer)
        {
            x = block.forward(x, context);                                                    // (B, T, C)
            yield return x;
        }
    }

    /// <summary>Scores every token of the vocabulary for the place of each state.</summary>
    /// <param name="hidden">Hidden states (…, C).</param>
    /// <returns>Logits (…, V).</returns>
    /// <exception cref="InvalidOperationException">The model has no head.</exception>
    public Tensor Logits(Tensor hidden)
    {
        if (head is null)
            throw new InvalidOperationException(
                "This encoder cannot guess hidden tokens: its checkpoint came without the head that does. Load one that was saved as a " +
                "masked language model (BertForMaskedLM, RobertaForMaskedLM).");
        using var scope = NewDisposeScope();
        return head.forward(hidden, word_embeddings.weight!).MoveToOuterDisposeScope();
    }

    /// <summary>What a checkpoint's names of everything but the head begin with.</summary>
    internal string CheckpointPrefix => Architecture.Family == EncoderFamily.Bert ? "bert." : "roberta.";

    /// <summary>The tensors of a Hugging Face checkpoint, and which parameter each of them is.</summary>
    internal IEnumerable<(string Name, Tensor Target)> CheckpointTensors()
    {
        string trunk = CheckpointPrefix;
        return
        [
            (trunk + "embeddings.word_embeddings.weight", word_embeddings.weight!),
            (trunk + "embeddings.position_embeddings.weight", position_embeddings.weight!),
            (trunk + "embeddings.token_type_embeddings.weight", token_type_embeddings.weight!),
            .. Checkpoint.Layer(trunk + "embeddings.LayerNorm", embeddings_norm),
            .. layer.SelectMany((block, i) => block.CheckpointTensors($"{trunk}encoder.layer.{i}.")),
            .. head?.CheckpointTensors(Architecture.Family) ?? [],
        ];
    }

    /// <summary>BERT's initial weights: matrices and embeddings N(0, 0.02²), biases 0, norms 1.</summary>
    private void Initialize(Generator generator)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (name, parameter) in named_parameters())
        {
            if (parameter.ndim >= 2)
                parameter.normal_(0, 0.02, generator); // init.normal_ ignores it
            else if (name.EndsWith("bias", StringComparison.Ordinal))
                init.zeros_(parameter);
        }
    }
}

/// <summary>What layers are called in a checkpoint.</summary>
file static class Checkpoint
{
    public static IEnumerable<(string, Tensor)> Layer(string name, Linear layer) =>
        [(name + ".weight", layer.weight!), (name + ".bias", layer.bias!)];

    public static IEnumerable<(string, Tensor)> Layer(string name, LayerNorm norm) =>
        [(name + ".weight", norm.weight!), (name + ".bias", norm.bias!)];
}
