using static TorchSharp.torch;

namespace ML.Rlhf;

/// <summary>How rotary positions were stretched to a longer context than the model was first trained for.</summary>
public enum RotaryScaling
{
    /// <summary>Not at all.</summary>
    None,

    /// <summary>All frequencies divided by the factor (Chen et al. 2023).</summary>
    Linear,

    /// <summary>
    /// Frequencies that shrink once a text is longer than the context. Nothing here is longer than
    /// <see cref="LanguageModelArchitecture.ContextLength"/>, so that this is the same as <see cref="None"/>.
    /// </summary>
    Dynamic,

    /// <summary>Slow frequencies divided by the factor, fast ones kept, and queries and keys made longer: YaRN (Peng et al. 2023).</summary>
    Yarn,

    /// <summary>Slow frequencies divided by the factor, fast ones kept: Llama 3.1's way.</summary>
    Llama3,
}

/// <summary>
/// Positions that turn queries and keys (Su et al. 2021): pair i of a head of d numbers is turned by position·θ^(−2i/d), so that a query
/// and a key meet at an angle that only depends on their distance. Pairs are number i and number i + d/2, as in Hugging Face's files.
/// </summary>
public sealed record RotaryPositions
{
    /// <summary>The base θ of the frequencies.</summary>
    /// <value>Above 1. 10,000 by default (Su et al. 2021); Llama 3 has 500,000, Qwen2 1,000,000.</value>
    public double Theta { get; init; } = 10_000;

    /// <summary>How the frequencies were stretched.</summary>
    /// <value>Not at all by default.</value>
    public RotaryScaling Scaling { get; init; }

    /// <summary>How many times longer the context has become.</summary>
    /// <value>At least 1. 1 by default.</value>
    public double Factor { get; init; } = 1;

    /// <summary>The context before it was stretched; YaRN and Llama 3 need it.</summary>
    /// <value>At least 1, or null.</value>
    public int? OriginalContextLength { get; init; }

    /// <summary>Llama 3: frequencies that turn fewer times than this over the original context are slow.</summary>
    /// <value>Above 0. 1 by default.</value>
    public double LowFrequencyFactor { get; init; } = 1;

    /// <summary>Llama 3: frequencies that turn more often than this over the original context are fast.</summary>
    /// <value>Above <see cref="LowFrequencyFactor"/>. 4 by default.</value>
    public double HighFrequencyFactor { get; init; } = 4;

    /// <summary>YaRN: frequencies that turn more often than this over the original context are fast.</summary>
    /// <value>Above <see cref="BetaSlow"/>. 32 by default (Peng et al. 2023, for Llama).</value>
    public double BetaFast { get; init; } = 32;

    /// <summary>YaRN: frequencies that turn fewer times than this over the original context are slow.</summary>
    /// <value>Above 0. 1 by default.</value>
    public double BetaSlow { get; init; } = 1;

    /// <summary>YaRN: what queries and keys are multiplied with.</summary>
    /// <value>Above 0; null, the default, is 0.1·ln(factor) + 1 (Peng et al. 2023, equation 22).</value>
    public double? AttentionFactor { get; init; }

    /// <summary>YaRN: whether the range between slow and fast is rounded to whole pairs.</summary>
    /// <value>True by default.</value>
    public bool RoundRange { get; init; } = true;

    /// <summary>What cosine and sine are multiplied with.</summary>
    internal double Magnitude => Scaling == RotaryScaling.Yarn ? AttentionFactor ?? (Factor <= 1 ? 1 : 0.1 * Math.Log(Factor) + 1) : 1;

    /// <summary>The angle by which each pair of a head is turned from one position to the next, in radians, (d/2).</summary>
    internal Tensor Frequencies(int headWidth)
    {
        using var scope = NewDisposeScope();
        var powers = full([headWidth / 2], Theta).pow(arange(0, headWidth, 2, dtype: float32) / headWidth);
        var frequencies = 1 / powers;
        return (Scaling switch
        {
            RotaryScaling.Linear => frequencies / Factor,
            RotaryScaling.Yarn => lerp(frequencies / Factor, frequencies, YarnFast(headWidth)),
            RotaryScaling.Llama3 => lerp(frequencies / Factor, frequencies, Llama3Fast(frequencies)),
            _ => frequencies,
        }).MoveToOuterDisposeScope();
    }

    /// <summary>How fast each frequency is, from 0 to 1: linear in the turns that it makes over the original context.</summary>
    private Tensor Llama3Fast(Tensor frequencies)
    {
        var turns = frequencies * OriginalContextLength!.Value / (2 * Math.PI);
        return ((turns - LowFrequencyFactor) / (HighFrequencyFactor - LowFrequencyFactor)).clamp(0, 1);
    }

    /// <summary>The same for YaRN: linear in the number of the pair, between the pairs that turn so and so often.</summary>
    private Tensor YarnFast(int headWidth)
    {
        double Pair(double turns) => headWidth * Math.Log(OriginalContextLength!.Value / (turns * 2 * Math.PI)) / (2 * Math.Log(Theta));
        double first = Pair(BetaFast), last = Pair(BetaSlow);
        if (RoundRange)
            (first, last) = (Math.Floor(first), Math.Ceiling(last));
        (first, last) = (Math.Max(first, 0), Math.Min(last, headWidth - 1));
        if (first == last)
            last += 0.001; // no division by zero
        return 1 - ((arange(headWidth / 2, dtype: float32) - first) / (last - first)).clamp(0, 1);
    }

    internal void Check(OptionProblems problems)
    {
        problems.Require(Theta > 1 && double.IsFinite(Theta), nameof(Theta), Theta, "finite and above 1");
        problems.Require(Enum.IsDefined(Scaling), nameof(Scaling), Scaling, $"one of {string.Join(", ", Enum.GetNames<RotaryScaling>())}");
        problems.Require(Factor >= 1 && double.IsFinite(Factor), nameof(Factor), Factor, "finite and at least 1");
        if (Scaling is RotaryScaling.Yarn or RotaryScaling.Llama3)
            problems.Require(OriginalContextLength >= 1, nameof(OriginalContextLength), OriginalContextLength,
                $"at least 1 with scaling {Scaling}");
        problems.Require(LowFrequencyFactor > 0 && HighFrequencyFactor > LowFrequencyFactor && double.IsFinite(HighFrequencyFactor),
            nameof(HighFrequencyFactor), HighFrequencyFactor, $"finite and above {nameof(LowFrequencyFactor)} ({LowFrequencyFactor})");
        problems.Require(BetaSlow > 0 && BetaFast > BetaSlow && double.IsFinite(BetaFast), nameof(BetaFast), BetaFast,
            $"finite and above {nameof(BetaSlow)} ({BetaSlow})");
        problems.Require(AttentionFactor is null || AttentionFactor > 0 && double.IsFinite(AttentionFactor.Value), nameof(AttentionFactor),
            AttentionFactor, "null, or finite and above 0");
    }
}
