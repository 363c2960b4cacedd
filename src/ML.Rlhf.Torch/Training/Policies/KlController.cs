namespace ML.Rlhf.Torch.Training;

/// <summary>
/// β of a run: fixed, or steered so that the divergence from the reference stays near a target (Ziegler et al. 2019, section 2.2;
/// lm-human-preferences' AdaptiveKLController). The state is one number, and each update of it a formula.
/// </summary>
/// <param name="coefficient">β of the first update, at least 0.</param>
/// <param name="target">The KL per episode to hold, in nats, above 0; null leaves β as it is.</param>
/// <param name="horizon">
/// In how many episodes β changes by a fifth where the KL is far off, above 0. LH's 10,000 are 1 % of its episodes.
/// </param>
internal sealed class KlController(double coefficient, double? target, double horizon) : IResumable
{
    private double _coefficient = coefficient;

    /// <summary>β of the next update.</summary>
    public double Coefficient => _coefficient;

    public void Visit(StateVisitor state) => state.Value("coefficient", ref _coefficient);

    /// <summary>β ← β·(1 + e·n/horizon), with e = clip(KL/target − 1, ±0.2).</summary>
    /// <param name="kl">Mean over the episodes of an update of Σ_t (log π − log π_ref), in nats.</param>
    /// <param name="episodes">n, the episodes of that update.</param>
    public void Update(double kl, int episodes)
    {
        if (target is null)
            return;
        double error = Math.Clamp(kl / target.Value - 1, -0.2, 0.2);
        // A short run has a short horizon. With n above 5 horizons, β would fall below 0; one step is never longer than one horizon.
        _coefficient *= 1 + error * Math.Min(1, episodes / horizon);
    }
}
