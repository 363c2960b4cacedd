namespace ML.Rlhf;

/// <summary>How a policy was optimised against a proxy: it decides the curve of the gold score.</summary>
public enum OverOptimizationForm
{
    /// <summary>R(d) = d·(α − β·d): the best of n answers.</summary>
    BestOfN,

    /// <summary>R(d) = d·(α − β·ln d): reinforcement learning.</summary>
    ReinforcementLearning,
}

/// <summary>A fitted curve of the gold score over d = √KL, and what it says.</summary>
public sealed record OverOptimizationFit
{
    /// <summary>The curve's form.</summary>
    public required OverOptimizationForm Form { get; init; }

    /// <summary>α, in units of score per √nat: what optimising gains at first.</summary>
    public required double Alpha { get; init; }

    /// <summary>β: how fast the gain is lost again as the policy exploits the proxy's mistakes; 0 or less where it is not lost.</summary>
    public required double Beta { get; init; }

    /// <summary>
    /// Part of the variance of the gold scores that the curve explains; 1 is a perfect fit. It can be below 0, for the curve must pass
    /// through 0; NaN where the scores are all the same.
    /// </summary>
    public required double RSquared { get; init; }

    /// <summary>
    /// The d = √KL where the gold score is highest: α/2β, or e^(α/β − 1) for reinforcement learning. Optimising further is
    /// over-optimising. Infinite where the curve never falls for good, 0 where it falls from the start.
    /// </summary>
    public double PeakDistance => Beta < 0 || Beta == 0 && Alpha > 0 ? double.PositiveInfinity
        : Beta == 0 ? 0
        : Form == OverOptimizationForm.BestOfN ? Math.Max(0, Alpha / (2 * Beta))
        : Math.Exp(Alpha / Beta - 1);

    /// <summary>The gain in gold score that the curve gives.</summary>
    /// <param name="kl">Divergence from the start, in nats; at least 0.</param>
    public double At(double kl)
    {
        var (linear, bend) = OverOptimization.Basis(kl, Form);
        return Alpha * linear - Beta * bend;
    }
}

/// <summary>
/// What becomes of the true (gold) score when a policy is optimised against a proxy of it: it rises, and falls again. The forms are those
/// of Gao, Schulman and Hilton 2022, "Scaling laws for reward model overoptimization" (arXiv 2210.10760), over d = √KL(policy ‖ start).
/// </summary>
public static class OverOptimization
{
    /// <summary>Fits α and β by least squares; both forms are linear in them.</summary>
    /// <param name="points">
    /// Divergence from the start in nats, at least 0, and gold score minus the gold score of the start. At least two with different
    /// divergences above 0; the curve passes through (0, 0) by itself.
    /// </param>
    /// <param name="form">How the policies came about.</param>
    /// <exception cref="ArgumentException">There are too few points, or one is negative or not finite.</exception>
    public static OverOptimizationFit Fit(IEnumerable<(double Kl, double Gain)> points, OverOptimizationForm form)
    {
        ArgumentNullException.ThrowIfNull(points);
        (double Kl, double Gain)[] all = [.. points];
        foreach (var (kl, gain) in all)
        {
            if (!(kl >= 0) || !double.IsFinite(kl) || !double.IsFinite(gain))
                throw new ArgumentException(
                    $"A point has the divergence {kl} and the gain {gain}, but both must be finite, and a divergence at least 0. Measure " +
                    "it with EvaluateOverOptimization or EvaluateBestOfN.", nameof(points));
        }
        if (all.Where(point => point.Kl > 0).Select(point => point.Kl).Distinct().Count() < 2)
            throw new ArgumentException(
                "A curve with two parameters needs at least two points with different divergences above 0. Add policies that were " +
                "optimised more or less, or more values of n.", nameof(points));

        // α·x − β·z ≈ y: what z has beyond x gives β, and the rest α.
        double[] x = [.. all.Select(p => Basis(p.Kl, form).Linear)], z = [.. all.Select(p => Basis(p.Kl, form).Bend)];
        double[] y = [.. all.Select(p => p.Gain)];
        double overlap = Dot(x, z) / Dot(x, x);
        double[] beyond = [.. z.Zip(x, (bend, linear) => bend - overlap * linear)];
        double beta = -Dot(beyond, y) / Dot(beyond, beyond);
        double alpha = (Dot(x, y) + beta * Dot(x, z)) / Dot(x, x);

        double mean = y.Average();
        double total = y.Sum(gain => (gain - mean) * (gain - mean));
        double residual = all.Select((p, i) => alpha * x[i] - beta * z[i] - y[i]).Sum(error => error * error);
        return new OverOptimizationFit
        {
            Form = form,
            Alpha = alpha,
            Beta = beta,
            RSquared = total == 0 ? double.NaN : 1 - residual / total,
        };
    }

    /// <summary>What α and −β are multiplied by: d, and d² or d·ln d.</summary>
    internal static (double Linear, double Bend) Basis(double kl, OverOptimizationForm form)
    {
        double d = Math.Sqrt(kl);
        return (d, form == OverOptimizationForm.BestOfN ? kl : d == 0 ? 0 : d * Math.Log(d));
    }

    private static double Dot(double[] a, double[] b) => a.Zip(b, (left, right) => left * right).Sum();
}
