namespace ML.Rlhf;

/// <summary>
/// What REINFORCE leave-one-out lets you choose. Defaults follow TRL's trainer and the paper (Ahmadian et al. 2024, arXiv 2402.14740).
/// </summary>
public abstract record RlooHyperparameters : GroupHyperparameters
{
    private protected RlooHyperparameters()
    {
        GroupSize = 4;        // the better of the paper's 2 and 4; TRL has 2
        KlCoefficient = 0.05; // TRL, and PPO here
    }

    /// <summary>Whether advantages are brought to mean 0 and deviation 1 over the update.</summary>
    /// <value>False by default, as TRL and the paper: then the score's unit decides how much a nat of divergence weighs, and how large
    /// gradients are.</value>
    public bool NormalizeAdvantages { get; init; }
}
