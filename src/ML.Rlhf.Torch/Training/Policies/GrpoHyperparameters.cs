namespace ML.Rlhf;

/// <summary>How GRPO averages the loss of tokens. The names are the field's.</summary>
public enum GrpoLossType
{
    /// <summary>
    /// The mean over the tokens of each response, then over responses (Shao et al. 2024). A token of a long response counts less, so long
    /// responses that fail are punished less.
    /// </summary>
    Grpo,

    /// <summary>The mean over the tokens of a minibatch.</summary>
    Bnpo,

    /// <summary>
    /// The sum over tokens, divided by responses × <see cref="PolicyHyperparameters.MaxResponseTokens"/>: what a token counts depends on no
    /// response's length (Liu et al. 2025, "Dr. GRPO", which also turns <see cref="GrpoHyperparameters.AdvantageScaling"/> off).
    /// </summary>
    DrGrpo,

    /// <summary>
    /// The mean over the tokens of the update: each counts the same, whichever minibatch it falls into (Yu et al. 2025, "DAPO"). With one
    /// minibatch it is the same as <see cref="Bnpo"/>.
    /// </summary>
    Dapo,
}

/// <summary>What divides a score's distance from the mean of its group.</summary>
public enum AdvantageScaling
{
    /// <summary>The deviation of the group (Shao et al. 2024). Prompts whose answers hardly differ count as much as others.</summary>
    Group,

    /// <summary>The deviation of all scores of the update.</summary>
    Batch,

    /// <summary>Nothing (Liu et al. 2025, "Dr. GRPO").</summary>
    None,
}

/// <summary>
/// What group relative policy optimisation lets you choose. Defaults follow TRL's trainer and the paper (Shao et al. 2024, arXiv
/// 2402.03300). The KL penalty is a term of the loss here, beside advantages of deviation 1, so
/// <see cref="PolicyHyperparameters.KlCoefficient"/> does not depend on the score's unit unless <see cref="AdvantageScaling"/> is None.
/// </summary>
public abstract record GrpoHyperparameters : GroupHyperparameters
{
    private protected GrpoHyperparameters()
    {
        GroupSize = 8;          // TRL; the paper has 64
        KlCoefficient = 0.04;   // The paper. TRL has 0, which suits rules that cannot be fooled; a reward model can.
        UnfinishedScore = null; // Neither the paper nor TRL touches these scores, and rules have no scale on which −1 is known to be bad.
    }

    /// <summary>How the loss of tokens is averaged.</summary>
    /// <value><see cref="GrpoLossType.Dapo"/> by default, as TRL: it has no bias towards a length.</value>
    public GrpoLossType LossType { get; init; } = GrpoLossType.Dapo;

    /// <summary>What divides a score's distance from the mean of its group.</summary>
    /// <value><see cref="AdvantageScaling.Group"/> by default, as the paper and TRL.</value>
    public AdvantageScaling AdvantageScaling { get; init; } = AdvantageScaling.Group;

    /// <summary>
    /// Whether responses that did not end teach nothing: what they would have scored is unknown (DAPO's overlong filtering). They still
    /// count in the mean and deviation of their group.
    /// </summary>
    /// <value>False by default, as TRL.</value>
    public bool MaskUnfinished { get; init; }

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.Require(Enum.IsDefined(LossType), nameof(LossType), LossType, "Grpo, Bnpo, DrGrpo or Dapo");
        problems.Require(Enum.IsDefined(AdvantageScaling), nameof(AdvantageScaling), AdvantageScaling, "Group, Batch or None");
    }
}
