namespace ML.Rlhf;

/// <summary>Where PPO's value function lives.</summary>
public enum ValueFunction
{
    /// <summary>A network of its own: a copy of the reward model with its head where there is one, or else of the policy with a head of
    /// zeros (Ouyang et al. 2022; N+).</summary>
    Network,

    /// <summary>A head of zeros on the policy's own trunk (LH): half the memory and time, one optimiser, and value gradients that move the
    /// policy.</summary>
    SharedTrunk,
}

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

    /// <summary>
    /// The divergence from the reference that β is steered towards, in nats per response: after each update
    /// β ← β·(1 + clip(KL / target − 1, −0.2, 0.2)·episodes / <see cref="KlHorizon"/>) (LH).
    /// </summary>
    /// <value>Above 0; null, the default, leaves β fixed, as InstructGPT and N+ do. LH uses 6.</value>
    public double? TargetKl { get; init; }

    /// <summary>Episodes over which <see cref="TargetKl"/> may change β by a fifth.</summary>
    /// <value>
    /// Above 0, and null without a target; null, the default, takes 1 % of the run's episodes, and at least those of one
    /// update. LH's 10,000 are 1 % of its million.
    /// </value>
    public double? KlHorizon { get; init; }

    /// <summary>
    /// Whether rewards are divided by their standard deviation before advantages are computed; their mean stays (LH, N+).
    /// </summary>
    /// <value>False by default, as InstructGPT and TRL: β then means what it says.</value>
    public bool WhitenRewards { get; init; }

    /// <summary>Where the value function lives.</summary>
    /// <value><see cref="ValueFunction.Network"/> by default.</value>
    public ValueFunction ValueFunction { get; init; }

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
    /// At least 0. 0.1 by default, as everywhere. A value function with a network of its own has an optimiser of its own, too, and Adam's
    /// step does not depend on the gradient's scale, so it matters only where the value's gradient is clipped. On a shared trunk it decides
    /// how much the value moves the policy.
    /// </value>
    public double ValueCoefficient { get; init; } = 0.1;

    /// <summary>Weight of the entropy bonus, which keeps the policy from settling early.</summary>
    /// <value>At least 0. 0 by default: the KL penalty does that work.</value>
    public double EntropyCoefficient { get; init; }

    /// <summary>Weight of the loss on pretraining text, where there is any (PPO-ptx: Ouyang et al. 2022, eq. 2).</summary>
    /// <value>
    /// At least 0. 1 by default, with a loss that is a mean over tokens. InstructGPT's 27.8 belongs to its own scale of losses, and is
    /// reported unstable elsewhere; <see cref="PpoProgress.PretrainingGradientRatio"/> says what a value does.
    /// </value>
    public double PretrainingCoefficient { get; init; } = 1;

    /// <summary>Windows of pretraining text per optimiser step, each as long as the model's context.</summary>
    /// <value>At least 1. 8 by default. InstructGPT takes 8 per episode.</value>
    public int PretrainingBatchSize { get; init; } = 8;

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.Require(TargetKl is null or > 0, nameof(TargetKl), TargetKl, "above 0 or null");
        problems.Require(TargetKl is null || KlCoefficient != 0, nameof(KlCoefficient), KlCoefficient,
            $"above 0 where {nameof(TargetKl)} is given: it is multiplied, and 0 stays 0");
        problems.Require(KlHorizon is null or > 0, nameof(KlHorizon), KlHorizon, "above 0 or null");
        problems.Require(KlHorizon is null || TargetKl is not null, nameof(KlHorizon), KlHorizon, $"null without a {nameof(TargetKl)}");
        problems.Require(Enum.IsDefined(ValueFunction), nameof(ValueFunction), ValueFunction, "Network or SharedTrunk");
        problems.Require(Gamma is >= 0 and <= 1, nameof(Gamma), Gamma, "in [0, 1]");
        problems.Require(Lambda is >= 0 and <= 1, nameof(Lambda), Lambda, "in [0, 1]");
        problems.Require(ValueClipRange > 0, nameof(ValueClipRange), ValueClipRange, "above 0");
        problems.Require(ValueCoefficient >= 0 && double.IsFinite(ValueCoefficient), nameof(ValueCoefficient), ValueCoefficient,
            "a finite number of at least 0");
        problems.Require(EntropyCoefficient >= 0 && double.IsFinite(EntropyCoefficient), nameof(EntropyCoefficient), EntropyCoefficient,
            "a finite number of at least 0");
        problems.Require(PretrainingCoefficient >= 0 && double.IsFinite(PretrainingCoefficient), nameof(PretrainingCoefficient),
            PretrainingCoefficient, "a finite number of at least 0");
        problems.Require(PretrainingBatchSize >= 1, nameof(PretrainingBatchSize), PretrainingBatchSize, "at least 1");
    }
}
