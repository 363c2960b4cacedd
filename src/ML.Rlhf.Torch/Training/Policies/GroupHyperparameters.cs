namespace ML.Rlhf;

/// <summary>
/// What the trainers let you choose that compare several responses to the same prompt, in the place of a value function: GRPO and RLOO.
/// </summary>
public abstract record GroupHyperparameters : PolicyHyperparameters
{
    private protected GroupHyperparameters()
    {
    }

    /// <summary>Responses to each prompt, which are compared with each other.</summary>
    /// <value>
    /// At least 2, and <see cref="PolicyHyperparameters.EpisodesPerUpdate"/> must be a multiple of it. Each trainer has its own default.
    /// </value>
    public int GroupSize { get; init; }

    /// <summary>
    /// How far the probability ratio may rise before the policy loss stops rewarding it; <see cref="PolicyHyperparameters.ClipRange"/> then
    /// bounds how far it may fall.
    /// </summary>
    /// <value>Above 0; null, the default, for the same in both directions. DAPO's is 0.28: unlikely tokens can grow, so that entropy lasts.
    /// </value>
    public double? ClipRangeHigh { get; init; }

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.Require(GroupSize >= 2, nameof(GroupSize), GroupSize, "at least 2");
        problems.Require(GroupSize < 2 || EpisodesPerUpdate % GroupSize == 0, nameof(EpisodesPerUpdate), EpisodesPerUpdate,
            $"a multiple of {nameof(GroupSize)} ({GroupSize})");
        problems.Require(ClipRangeHigh is null or > 0, nameof(ClipRangeHigh), ClipRangeHigh, "above 0 or null");
    }
}
