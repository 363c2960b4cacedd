using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

/// <summary>A GPT whose head gives one number per position: a reward at the last token, or a value at each.</summary>
public sealed class ScalarGpt : Module
{
    internal const string BiasName = "score.bias";

    private readonly CausalLanguageModel transformer;
    private readonly Linear score;

    /// <summary>The trunk.</summary>
    public CausalLanguageModel Trunk => transformer;

    /// <summary>What the head's number is multiplied with. 1 until <see cref="Normalize"/> changes it; it is not trained.</summary>
    public double Gain { get; private set; } = 1;

    /// <summary>What is added after that. 0 until <see cref="Normalize"/> changes it; it is not trained.</summary>
    public double Bias { get; private set; }

    /// <summary>Puts a scalar head on a trunk, which from now on belongs to this module.</summary>
    /// <param name="trunk">The trunk; pass a <see cref="CausalLanguageModel.Clone"/> to leave the original as it is.</param>
    /// <param name="generator">
    /// Source of the head's weights, N(0, 1/(C+1)), that is a standard deviation of 1/√(C+1) (lm-human-preferences, <c>fc_layer</c>);
    /// null starts the head at zero, so that every value is 0. The bias starts at 0 in both cases.
    /// </param>
    public ScalarGpt(CausalLanguageModel trunk, Generator? generator) : base(nameof(ScalarGpt))
    {
        transformer = trunk;
        int width = trunk.Architecture.Width;
        score = Linear(width, 1);
        using (no_grad())
        using (NewDisposeScope())
        {
            score.weight!.zero_();
            score.bias!.zero_();
            if (generator is not null)
                score.weight.normal_(0, 1 / Math.Sqrt(width + 1), generator); // init.normal_ ignores its generator
        }
        score.to(trunk.Device);
        RegisterComponents();
    }

    /// <summary>Scores every position: <see cref="Gain"/>·head + <see cref="Bias"/>.</summary>
    /// <param name="ids">Token ids, int64 (B, T), padded on the right.</param>
    /// <returns>Scores (B, T).</returns>
    public Tensor Scores(Tensor ids)
    {
        using var scope = NewDisposeScope();
        return Head(transformer.Hidden(ids)).MoveToOuterDisposeScope();
    }

    /// <inheritdoc cref="Scores(Tensor)"/>
    /// <param name="ids">As above.</param>
    /// <param name="precision">What the trunk computes in where it has kernels for it.</param>
    internal Tensor Scores(Tensor ids, Precision precision)
    {
        using var scope = NewDisposeScope();
        return Head(transformer.Hidden(ids, precision)).MoveToOuterDisposeScope();
    }

    /// <summary>Scores states that a trunk gave already.</summary>
    /// <param name="hidden">Hidden states (…, C).</param>
    /// <returns>Scores (…).</returns>
    internal Tensor Head(Tensor hidden)
    {
        using var scope = NewDisposeScope();
        return (score.forward(hidden).squeeze(-1) * Gain + Bias).MoveToOuterDisposeScope();
    }

    /// <summary>Frees the head of a module whose trunk somebody else goes on using.</summary>
    internal void DisposeHead() => score.Dispose();

    /// <summary>
    /// Sets gain and bias. They stand beside the head, not in it: differences of what the head itself gives are log-odds
    /// (Bradley and Terry), and remain known.
    /// </summary>
    /// <param name="gain">Finite and above 0.</param>
    /// <param name="bias">Finite.</param>
    /// <exception cref="ArgumentOutOfRangeException">A number is out of its range.</exception>
    public void Normalize(double gain, double bias)
    {
        if (!(gain > 0 && double.IsFinite(gain)))
            throw new ArgumentOutOfRangeException(nameof(gain), gain, "The gain must be a finite number above 0.");
        if (!double.IsFinite(bias))
            throw new ArgumentOutOfRangeException(nameof(bias), bias, "The bias must be a finite number.");
        (Gain, Bias) = (gain, bias);
    }

    /// <summary>The trunk's tensors and the head, in Hugging Face's names for a sequence classifier, whose heads have no bias.</summary>
    internal IEnumerable<(string Name, Tensor Target)> CheckpointTensors() => [.. transformer.CheckpointTensors(), .. HeadTensors()];

    /// <summary>The same tensors with gain and bias in the head, to be written; a bias of 0 is left out.</summary>
    internal IEnumerable<(string Name, Tensor Source)> NormalizedTensors() => [.. transformer.CheckpointTensors(), .. NormalizedHead()];

    /// <summary>The head alone.</summary>
    internal IEnumerable<(string Name, Tensor Target)> HeadTensors() => [("score.weight", score.weight!), (BiasName, score.bias!)];

    /// <summary>The head alone, with gain and bias in it, to be written; a bias of 0 is left out.</summary>
    internal IEnumerable<(string Name, Tensor Source)> NormalizedHead()
    {
        Tensor weight = score.weight! * Gain, bias = score.bias! * Gain + Bias;
        return bias.ToDouble() == 0 ? [("score.weight", weight)] : [("score.weight", weight), (BiasName, bias)];
    }

    /// <summary>
    /// Copies trunk, head, gain, bias and mode. The copy shares no storage. Adapters of the trunk are merged into its weights.
    /// </summary>
    public ScalarGpt Clone() => OnTrunk(transformer.Clone());

    /// <summary>A copy of the head, with gain, bias and mode, on another trunk.</summary>
    private ScalarGpt OnTrunk(CausalLanguageModel trunk)
    {
        var copy = new ScalarGpt(trunk, generator: null) { Gain = Gain, Bias = Bias };
        copy.score.CopyWeightsFrom(score);
        copy.train(training);
        return copy;
    }

    /// <summary>
    /// A copy that gives the same numbers, with gain and bias in its head: where a value function starts from. Its numbers must be in the
    /// unit of the scores from the beginning, and its head must learn at the rate that the optimiser says, not at Gain times that.
    /// </summary>
    /// <param name="copyTrunk">Makes the trunk that will be trained.</param>
    /// <param name="weight">What these numbers are multiplied with in the score.</param>
    internal ScalarGpt CloneAsValueFunction(Func<CausalLanguageModel, CausalLanguageModel> copyTrunk, double weight = 1)
    {
        var copy = OnTrunk(copyTrunk(transformer));
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        copy.score.weight!.mul_(Gain * weight);
        copy.score.bias!.mul_(Gain * weight).add_(Bias * weight);
        copy.Normalize(1, 0);
        return copy;
    }
}
