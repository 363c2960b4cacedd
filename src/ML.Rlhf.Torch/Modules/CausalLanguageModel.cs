using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Kernels;
using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

/// <summary>
/// A model that scores each next token from the ones before it: what the trainers train and the sampler draws from. <see cref="Gpt"/>,
/// <see cref="Llama"/> and <see cref="Lstm"/> are three.
/// </summary>
public abstract partial class CausalLanguageModel : Module
{
    private protected CausalLanguageModel(string name, LanguageModelArchitecture architecture) : base(name)
    {
        architecture.Validate();
        Architecture = architecture;
    }

    /// <summary>Builds a model of any architecture, with initial weights.</summary>
    internal static CausalLanguageModel Create(LanguageModelArchitecture architecture, Generator generator)
    {
        var model = Create(architecture);
        model.Initialize(generator);
        return model;
    }

    /// <summary>Builds a model whose weights are about to be overwritten.</summary>
    internal static CausalLanguageModel Create(LanguageModelArchitecture architecture) => architecture switch
    {
        GptArchitecture a => new Gpt(a),
        LlamaArchitecture a => new Llama(a),
        EncoderDecoderArchitecture => throw new ArgumentException(
            $"A model of an {nameof(EncoderDecoderArchitecture)} does not go on with a text: train it with Trainers.EncoderDecoder."),
        LstmArchitecture a => new Lstm(a),
        _ => throw new ArgumentException($"There is no model for a {architecture.GetType().Name}."),
    };

    /// <summary>The shape that this model was built with.</summary>
    public LanguageModelArchitecture Architecture { get; }

    /// <summary>Probability of dropping an activation while training (embeddings, attention, residual branches).</summary>
    /// <value>In [0, 1). 0 by default: small models on one pass of data underfit. Ignored in evaluation mode.</value>
    public double Dropout { get; set; }

    /// <summary>What products are computed in.</summary>
    internal Precision Precision { get; set; } = Precision.Float32;

    /// <summary>Whether the activations of blocks are computed again in a backward pass, and not kept for it.</summary>
    internal bool ActivationCheckpointing { get; set; }

    /// <summary>Whether the model has blocks that <see cref="ActivationCheckpointing"/> is for.</summary>
    internal virtual bool HasCheckpoints => false;

    /// <summary>Where the weights are.</summary>
    public abstract Device Device { get; }

    /// <summary>Runs the model up to its last hidden states.</summary>
    /// <param name="ids">Token ids, int64 (B, T).</param>
    /// <param name="positions">Position of each token, int64 (B, T); null counts from 0, or on from the cache.</param>
    /// <param name="mask">Additive attention mask, (B, 1, T, keys); null is plain causal attention, right where padding stands on the
    /// right.</param>
    /// <param name="cache">What the model remembers of the tokens before <paramref name="ids"/>; the new ones are added to it.</param>
    /// <returns>Hidden states after the final norm, (B, T, C).</returns>
    /// <exception cref="ArgumentException">
    /// The tokens reach past <see cref="LanguageModelArchitecture.ContextLength"/> or the cache's capacity, or several tokens follow a
    /// filled cache without a mask.
    /// </exception>
    public Tensor Hidden(Tensor ids, Tensor? positions = null, Tensor? mask = null, DecodingCache? cache = null) =>
        Hidden(ids, positions, mask, cache, trace: null);

    internal Tensor Hidden(Tensor ids, Tensor? positions, Tensor? mask, DecodingCache? cache, ForwardTrace? trace)
    {
        using var scope = NewDisposeScope();
        long start = cache?.Length ?? 0, t = ids.size(1);
        if (positions is null && start + t > Architecture.ContextLength)
            throw new ArgumentException(
                $"{start + t} tokens do not fit the model's context of {Architecture.ContextLength}. Shorten the input, or use a model " +
                "with a longer context.");

        if (start > 0 && t > 1 && mask is null)
            throw new ArgumentException(
                $"{t} tokens follow {start} in the cache without a mask, and the kernel's causal flag counts from the first key. " +
                "Pass a mask, or one token at a time.", nameof(mask));

        double dropout = training ? Dropout : 0;
        if (Precision == Precision.BFloat16 && positions is null && mask is null && cache is null && trace is null && dropout == 0
            && HasKernels)
            return RunKernels(ids).MoveToOuterDisposeScope();

        positions ??= arange(start, start + t, device: ids.device).unsqueeze(0);              // (1, T)
        var hidden = Run(ids, positions, mask, cache, dropout, trace);
        cache?.Advance((int)t);
        return hidden.MoveToOuterDisposeScope();
    }

    /// <summary>Runs whole rows in the precision that somebody asks for where there are kernels for it, whatever the model's own.</summary>
    /// <remarks>A reward model that scores for a run may be somebody else's, too: it is not changed.</remarks>
    internal Tensor Hidden(Tensor ids, Precision precision)
    {
        if (precision == Precision.Float32 || !HasKernels || (training && Dropout > 0) || ids.size(1) > Architecture.ContextLength)
            return Hidden(ids);
        using var scope = NewDisposeScope();
        return RunKernels(ids).MoveToOuterDisposeScope();
    }

    private protected abstract Tensor Run(
        Tensor ids, Tensor positions, Tensor? mask, DecodingCache? cache, double dropout, ForwardTrace? trace);

    /// <summary>Whether <see cref="RunKernels"/> can run this model as it is.</summary>
    internal virtual bool HasKernels => false;

    /// <summary>Hidden states (B, T, C) of whole rows, by the pack's own kernels in bfloat16.</summary>
    /// <param name="ids">Token ids, int64 (B, T).</param>
    private protected virtual Tensor RunKernels(Tensor ids) => throw new NotSupportedException();

    /// <summary>What generates in the pack's own kernels, with this model's weights as they are now; asked for only where there are
    /// kernels.</summary>
    /// <param name="rows">Texts at once.</param>
    /// <param name="capacity">The most tokens per text.</param>
    internal virtual GptDecoder CreateDecoder(int rows, int capacity) => throw new NotSupportedException();

    /// <summary>Scores every token of the vocabulary as the next one.</summary>
    /// <param name="hidden">Hidden states (…, C).</param>
    /// <returns>Logits (…, V).</returns>
    public abstract Tensor Logits(Tensor hidden);

    /// <summary>Σ −log p[label] of the next tokens after some states, a scalar in nats.</summary>
    /// <param name="hidden">Hidden states (N, C).</param>
    /// <param name="labels">int64 (N).</param>
    internal virtual Tensor CrossEntropySum(Tensor hidden, Tensor labels)
    {
        using var scope = NewDisposeScope();
        return LanguageModelLoss.CrossEntropySum(Logits(hidden), labels).MoveToOuterDisposeScope();
    }

    /// <summary>What the model says of the tokens after some states.</summary>
    /// <param name="hidden">Hidden states (N, C).</param>
    /// <param name="tokens">int64 (N).</param>
    /// <param name="temperature">Divides the logits.</param>
    internal virtual TokenPredictions Predict(Tensor hidden, Tensor tokens, double temperature = 1)
    {
        using var scope = NewDisposeScope();
        var logits = Logits(hidden);                                                          // (N, V)
        if (temperature != 1)
            logits = logits / temperature;
        return new TokenPredictions(LogProbabilities.OfTokens(logits, tokens), logits, null).MoveToOuterDisposeScope();
    }

    /// <summary>Makes room for what the model has to remember while it generates.</summary>
    /// <param name="rows">Rows in the batch.</param>
    /// <param name="capacity">The most tokens per row.</param>
    public abstract DecodingCache CreateCache(int rows, int capacity);

    /// <summary>
    /// Copies the shape, the weights and the mode. The copy shares no storage. Adapters are merged into its weights, all of which can be
    /// trained.
    /// </summary>
    public CausalLanguageModel Clone()
    {
        var copy = Create(Architecture);
        copy.Dropout = Dropout;
        copy.to(Device);
        copy.CopyMerged(this);
        copy.train(training);
        return copy;
    }

    /// <summary>
    /// The tensors of a checkpoint in Hugging Face's names, each with the parameter that it is, or a view of it: reading one copies into
    /// the view, writing one copies out of it. The views belong to the caller's dispose scope.
    /// </summary>
    /// <remarks>Adapters are not among them: <see cref="Clone"/> merges them.</remarks>
    internal abstract IEnumerable<(string Name, Tensor Target)> CheckpointTensors();

    /// <summary>The name that a parameter has in a checkpoint.</summary>
    internal abstract string CheckpointName(string parameter);

    /// <summary>Draws initial weights: the same generator state gives the same ones.</summary>
    private protected virtual void Initialize(Generator generator)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        double residual = InitialDeviation / Math.Sqrt(2 * Architecture.Layers);
        foreach (var (name, parameter) in named_parameters())
        {
            if (parameter.ndim >= 2)
                parameter.normal_(0, EndsResidualBranch(name) ? residual : InitialDeviation, generator); // init.normal_ ignores it
            else
                parameter.fill_(name.EndsWith("bias", StringComparison.Ordinal) ? 0 : 1);
        }
    }

    /// <summary>
    /// GPT-2's initial weights: matrices and embeddings N(0, 0.02²), biases 0, norms 1. The projections that end a residual branch
    /// use 0.02/√(2·layers), so that the residual stream's variance does not grow with depth (Radford et al. 2019, section 2.3).
    /// </summary>
    private const double InitialDeviation = 0.02;

    private protected virtual bool EndsResidualBranch(string name) => false;
}
