namespace ML.Rlhf;

/// <summary>
/// What PPO lets you choose (step 3 of InstructGPT). Defaults follow lm-human-preferences (LH) and its reproductions (N, N+), where they
/// agree.
/// </summary>
public abstract record PpoHyperparameters : PolicyHyperparameters
{
    private protected PpoHyperparameters()
    {
        EpochsPerUpdate = 4;   // LH, N+, TRL; InstructGPT makes one
        KlCoefficient = 0.05;  // N+, TRL; InstructGPT 0.02, LH 0.15 for sentiment
    }

    /// <summary>γ: how much a reward loses per token.</summary>
    /// <value>In [0, 1]. 1 by default, as everywhere in RLHF: responses are short.</value>
    public double Gamma { get; init; } = 1;

    /// <summary>λ of generalised advantage estimation.</summary>
    /// <value>In [0, 1]. 0.95 by default, as everywhere.</value>
    public double Lambda { get; init; } = 0.95;

    /// <summary>How far a value may move before its loss stops rewarding it.</summary>
    /// <value>Above 0. 0.2 by default, as everywhere.</value>
    public double ValueClipRange { get; init; } = 0.2;

    /// <summary>Weight of the value loss beside the policy loss.</summary>
    /// <value>
    /// At least 0. 0.1 by default, as everywhere. The value function has a network and an optimiser of its own, and Adam's step does not
    /// depend on the gradient's scale, so it matters only where the value's gradient is clipped.
    /// </value>
    public double ValueCoefficient { get; init; } = 0.1;

    /// <summary>Weight of the entropy bonus, which keeps the policy from settling early.</summary>
    /// <value>At least 0. 0 by default: the KL penalty does that work.</value>
    public double EntropyCoefficient { get; init; }

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.Require(Gamma is >= 0 and <= 1, nameof(Gamma), Gamma, "in [0, 1]");
        problems.Require(Lambda is >= 0 and <= 1, nameof(Lambda), Lambda, "in [0, 1]");
        problems.Require(ValueClipRange > 0, nameof(ValueClipRange), ValueClipRange, "above 0");
        problems.Require(ValueCoefficient >= 0, nameof(ValueCoefficient), ValueCoefficient, "at least 0");
        problems.Require(EntropyCoefficient >= 0, nameof(EntropyCoefficient), EntropyCoefficient, "at least 0");
    }
}
