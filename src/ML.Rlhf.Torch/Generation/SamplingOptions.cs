namespace ML.Rlhf;

/// <summary>How completions are drawn from a language model.</summary>
public sealed record SamplingOptions
{
    /// <summary>The most tokens to add to a prompt. Fewer come where the model says it is done, or where its context ends.</summary>
    /// <value>At least 1. 64 by default, a sentence or two.</value>
    public int MaxNewTokens { get; init; } = 64;

    /// <summary>Divides the logits: below 1 sharpens the distribution, above 1 flattens it, 0 always takes the likeliest token.</summary>
    /// <value>0, or at least 0.001. 1 by default: the model as it was trained.</value>
    public float Temperature { get; init; } = 1;

    /// <summary>Draws from the k likeliest tokens only.</summary>
    /// <value>At least 0; 0, the default, draws from all.</value>
    public int TopK { get; init; }

    /// <summary>
    /// Draws from the smallest set of tokens whose probabilities reach this sum (nucleus sampling, Holtzman et al. 2019).
    /// </summary>
    /// <value>In (0, 1]; 1, the default, draws from all.</value>
    public float TopP { get; init; } = 1;

    /// <summary>
    /// The seed. A prompt gets the same completion with the same seed wherever it stands in the data; another seed gives another
    /// completion.
    /// </summary>
    public int Seed { get; init; }

    /// <summary>What to do with a prompt that leaves no room for a new token: true keeps its end, false reports it.</summary>
    /// <value>False by default: losing text silently is worse than an error.</value>
    public bool TruncatePrompts { get; init; }

    /// <summary>Below it, logits divided by the temperature leave float32.</summary>
    internal const float MinimumTemperature = 0.001f;

    /// <exception cref="ArgumentException">A value is out of its range; the message lists each one.</exception>
    internal void Validate()
    {
        var problems = new OptionProblems(nameof(SamplingOptions));
        problems.Require(MaxNewTokens >= 1, nameof(MaxNewTokens), MaxNewTokens, "at least 1");
        problems.Require(Temperature == 0 || Temperature >= MinimumTemperature && float.IsFinite(Temperature),
            nameof(Temperature), Temperature, $"0 (always the likeliest token), or finite and at least {MinimumTemperature}");
        problems.Require(TopK >= 0, nameof(TopK), TopK, "at least 0 (0 draws from all tokens)");
        problems.Require(TopP is > 0 and <= 1, nameof(TopP), TopP, "above 0 and at most 1");
        problems.Throw();
    }
}
