namespace ML.Rlhf.Torch.Training;

/// <summary>
/// The KL coefficient β of a run: fixed, or steered towards a target divergence (Ziegler et al. 2019, section 2.2):
/// e = clip(KL / target − 1, −0.2, 0.2), β ← β·(1 + e·n / horizon).
/// </summary>
/// <param name="coefficient">β at the start.</param>
/// <param name="target">The divergence to reach, in nats per response; null leaves β as it is.</param>
/// <param name="horizon">Episodes over which β may change by a factor of about e^±0.2.</param>
internal sealed class KlController(double coefficient, double? target, double horizon)
{
    private const double ErrorBound = 0.2;

    /// <summary>β now.</summary>
    public double Coefficient { get; private set; } = coefficient;

    /// <summary>Steers β after an update.</summary>
    /// <param name="kl">Mean over the update's episodes of Σ_t (log π − log π_ref).</param>
    /// <param name="episodes">n.</param>
    public void Update(double kl, int episodes)
    {
        if (target is { } goal)
            Coefficient *= 1 + Math.Clamp(kl / goal - 1, -ErrorBound, ErrorBound) * episodes / horizon;
    }
}
