using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

/// <summary>A GPT whose head gives one number per position: a reward at the last token, or a value at each.</summary>
public sealed class ScalarGpt : Module
{
    private readonly Gpt transformer;
    private readonly Linear score;

    /// <summary>The trunk.</summary>
    public Gpt Trunk => transformer;

    /// <summary>Puts a scalar head on a trunk, which from now on belongs to this module.</summary>
    /// <param name="trunk">The trunk; pass a <see cref="Gpt.Clone"/> to leave the original as it is.</param>
    /// <param name="generator">
    /// Source of the head's weights, N(0, 1/(C+1)), that is a standard deviation of 1/√(C+1) (lm-human-preferences, <c>fc_layer</c>);
    /// null starts the head at zero, so that every value is 0. The bias starts at 0 in both cases.
    /// </param>
    public ScalarGpt(Gpt trunk, Generator? generator) : base(nameof(ScalarGpt))
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

    /// <summary>Scores every position.</summary>
    /// <param name="ids">Token ids, int64 (B, T), padded on the right.</param>
    /// <returns>Scores (B, T).</returns>
    public Tensor Scores(Tensor ids)
    {
        using var scope = NewDisposeScope();
        return Head(transformer.Hidden(ids)).MoveToOuterDisposeScope();
    }

    /// <summary>Scores states that a trunk gave already.</summary>
    /// <param name="hidden">Hidden states (…, C).</param>
    /// <returns>Scores (…).</returns>
    internal Tensor Head(Tensor hidden)
    {
        using var scope = NewDisposeScope();
        return score.forward(hidden).squeeze(-1).MoveToOuterDisposeScope();
    }

    /// <summary>Frees the head of a module whose trunk somebody else goes on using.</summary>
    internal void DisposeHead() => score.Dispose();

    /// <summary>Changes the head so that it gives <c>gain·s + bias</c> where it gave <c>s</c>.</summary>
    public void Rescale(double gain, double bias)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        score.weight!.mul_(gain);
        score.bias!.mul_(gain).add_(bias);
    }

    /// <summary>Copies trunk, head and mode. The copy shares no storage.</summary>
    public ScalarGpt Clone()
    {
        var copy = new ScalarGpt(transformer.Clone(), generator: null);
        copy.CopyWeightsFrom(this);
        copy.train(training);
        return copy;
    }
}
