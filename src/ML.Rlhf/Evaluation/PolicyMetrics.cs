namespace ML.Rlhf;

/// <summary>What a policy does with held-out prompts, and how far that is from the model that it began as.</summary>
public sealed record PolicyMetrics
{
    /// <summary>Prompts answered.</summary>
    public required int PromptCount { get; init; }

    /// <summary>
    /// Mean divergence of the policy from the reference over a whole response, in nats; at least 0, and 0 for the same model.
    /// </summary>
    public required double Kl { get; init; }

    /// <summary>Mean tokens of a response, its end token included.</summary>
    public required double ResponseLength { get; init; }

    /// <summary>Part of the responses that ended by themselves.</summary>
    public required double EndRate { get; init; }
}
