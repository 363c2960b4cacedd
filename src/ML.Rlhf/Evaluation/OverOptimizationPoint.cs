namespace ML.Rlhf;

/// <summary>
/// A point of the curve of gold against proxy: how far a policy is from its start, and what the two rewards think of its answers. Where the
/// proxy rises and the gold falls, the policy exploits the proxy.
/// </summary>
public sealed record OverOptimizationPoint
{
    /// <summary>Answers of which the best by the proxy is taken; 1 is the policy's own answer.</summary>
    public int N { get; init; } = 1;

    /// <summary>Divergence from the start, in nats.</summary>
    public required double Kl { get; init; }

    /// <summary>Mean score by the reward that the policy is optimised for.</summary>
    public required double ProxyScore { get; init; }

    /// <summary>Standard error of <see cref="ProxyScore"/>, over prompts; NaN for a single prompt.</summary>
    public required double ProxyStandardError { get; init; }

    /// <summary>Mean score by the reward that is really meant.</summary>
    public required double GoldScore { get; init; }

    /// <summary>Standard error of <see cref="GoldScore"/>, over prompts; NaN for a single prompt.</summary>
    public required double GoldStandardError { get; init; }
}
