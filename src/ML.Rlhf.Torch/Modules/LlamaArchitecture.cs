namespace ML.Rlhf;

/// <summary>
/// The shape of a Llama (Touvron et al. 2023): rotary positions, RMS norms, feed-forward layers gated by SiLU, and heads that may share
/// their keys and values. Mistral, Qwen2 and Qwen3 are the same with other settings.
/// </summary>
public sealed record LlamaArchitecture : LanguageModelArchitecture
{
    /// <summary>Attention heads per block that ask (queries).</summary>
    /// <value>At least 1.</value>
    public required int Heads { get; init; }

    /// <summary>Attention heads per block that are asked (keys and values); several query heads share one (Ainslie et al. 2023).</summary>
    /// <value>A divisor of <see cref="Heads"/>; null, the default, is <see cref="Heads"/>.</value>
    public int? KeyValueHeads { get; init; }

    /// <summary>Numbers per head.</summary>
    /// <value>Even, for the rotation turns pairs; null, the default, is the width divided by <see cref="Heads"/>.</value>
    public int? HeadWidth { get; init; }

    /// <summary>Hidden numbers of a feed-forward layer ("intermediate size").</summary>
    /// <value>At least 1.</value>
    public required int FeedForwardWidth { get; init; }

    /// <summary>What is added to a mean square before its root is taken, in every norm.</summary>
    /// <value>Above 0. 1e-5 by default, Llama's.</value>
    public double NormEpsilon { get; init; } = 1e-5;

    /// <summary>Which projections of attention have biases.</summary>
    /// <value>None by default; Qwen2 has them on queries, keys and values.</value>
    public AttentionBias AttentionBias { get; init; }

    /// <summary>Whether the feed-forward projections have biases.</summary>
    /// <value>False by default.</value>
    public bool FeedForwardBias { get; init; }

    /// <summary>Whether each head's queries and keys are normed before they are turned: Qwen3.</summary>
    /// <value>False by default.</value>
    public bool QueryKeyNorm { get; init; }

    /// <summary>How many tokens back a token sees, itself included: Mistral.</summary>
    /// <value>At least 1; null, the default, is all of them.</value>
    public int? SlidingWindow { get; init; }

    /// <summary>How positions turn queries and keys.</summary>
    public RotaryPositions Positions { get; init; } = new();

    internal int KeyHeads => KeyValueHeads ?? Heads;

    internal int WidthPerHead => HeadWidth ?? Width / Heads;

    /// <summary>4 layers × 128, two key-value heads, context 128: trains in minutes on two cores. 0.9 M parameters.</summary>
    public static LlamaArchitecture Micro { get; } = new()
    {
        Layers = 4, Heads = 4, KeyValueHeads = 2, Width = 128, FeedForwardWidth = 344, ContextLength = 128, VocabularySize = 1024,
    };

    /// <inheritdoc/>
    public override long ParameterCount
    {
        get
        {
            long width = Width, hidden = FeedForwardWidth, queries = (long)Heads * WidthPerHead, keys = (long)KeyHeads * WidthPerHead;
            long attention = 2 * width * queries + 2 * width * keys + AttentionBias switch
            {
                AttentionBias.QueryKeyValue => queries + 2 * keys,
                AttentionBias.All => queries + 2 * keys + width,
                _ => 0,
            };
            long block = attention + (QueryKeyNorm ? 2 * WidthPerHead : 0)
                + 3 * width * hidden + (FeedForwardBias ? 2 * hidden + width : 0) + 2 * width;
            return (TiedHead ? 1L : 2L) * VocabularySize * width + Layers * block + width;
        }
    }

    private protected override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.Require(Heads is >= 1 and <= MaximumWidth, nameof(Heads), Heads, $"from 1 to {MaximumWidth}");
        problems.Require(Width is >= 1 and <= MaximumWidth, nameof(Width), Width, $"from 1 to {MaximumWidth}");
        problems.Require(KeyValueHeads is null or >= 1 && Heads >= 1 && Heads % KeyHeads == 0, nameof(KeyValueHeads), KeyValueHeads,
            $"null or a divisor of {nameof(Heads)} ({Heads})");
        if (HeadWidth is null)
            problems.Require(Heads >= 1 && Width % Heads == 0 && Width / Heads % 2 == 0, nameof(Width), Width,
                $"an even multiple of {nameof(Heads)} ({Heads}) where {nameof(HeadWidth)} is null");
        else
            problems.Require(HeadWidth is >= 2 and <= MaximumWidth && HeadWidth % 2 == 0, nameof(HeadWidth), HeadWidth,
                $"null or an even number from 2 to {MaximumWidth}");
        problems.Require(FeedForwardWidth is >= 1 and <= MaximumWidth, nameof(FeedForwardWidth), FeedForwardWidth,
            $"from 1 to {MaximumWidth}");
        problems.Require(NormEpsilon > 0 && double.IsFinite(NormEpsilon), nameof(NormEpsilon), NormEpsilon, "finite and above 0");
        problems.Require(Enum.IsDefined(AttentionBias), nameof(AttentionBias), AttentionBias,
            $"one of {string.Join(", ", Enum.GetNames<AttentionBias>())}");
        problems.Require(SlidingWindow is null or >= 1, nameof(SlidingWindow), SlidingWindow, "null or at least 1");
        problems.Require(Positions is not null, nameof(Positions), Positions, "given");
        Positions?.Check(problems);
    }
}

/// <summary>Which projections of an attention layer have biases.</summary>
public enum AttentionBias
{
    /// <summary>None of them: Llama, Mistral, Qwen3.</summary>
    None,

    /// <summary>Those of queries, keys and values, but not that of the output: Qwen2.</summary>
    QueryKeyValue,

    /// <summary>All four.</summary>
    All,
}
