namespace ML.Rlhf;

/// <summary>
/// What PPO lets you choose (step 3 of InstructGPT). Defaults follow lm-human-preferences (LH) and its reproductions (N, N+), where they
/// agree.
/// </summary>
public abstract record PpoHyperparameters : OptimizationOptions
{
    private protected PpoHyperparameters()
    {
        LearningRate = 1e-5;
        LearningRateDecay = LearningRateDecay.Linear;
        MinimumLearningRateRatio = 0;
        Beta2 = 0.999;
        Epsilon = 1e-5;
    }

    /// <summary>Episodes (a prompt, a response, a score) of the whole run, rounded up to whole updates.</summary>
    /// <value>At least 1. 10,000 by default. Prompts are used again, in a new order, when they run out.</value>
    public int Episodes { get; init; } = 10_000;

    /// <summary>Episodes sampled with the same weights, before they are learned from.</summary>
    /// <value>At least 1. 64 by default, as N+ (LH: 512).</value>
    public int EpisodesPerUpdate { get; init; } = 64;

    /// <summary>Passes over the episodes of an update.</summary>
    /// <value>At least 1. 4 by default (LH, N+, TRL); InstructGPT makes one.</value>
    public int EpochsPerUpdate { get; init; } = 4;

    /// <summary>Optimiser steps per pass, each on an equal part of the episodes in a fresh random order.</summary>
    /// <value>At least 1 and at most <see cref="EpisodesPerUpdate"/>. 1 by default (LH, N+, TRL); InstructGPT makes 8.</value>
    public int MinibatchesPerEpoch { get; init; } = 1;

    /// <summary>The most tokens of a response.</summary>
    /// <value>At least 1. 32 by default.</value>
    public int MaxResponseTokens { get; init; } = 32;

    /// <summary>Divides the logits when sampling and in every log-probability.</summary>
    /// <value>At least 0.001. 1 by default (LH and N+: 0.7). Top-k and top-p are always off: the losses need the distribution that was
    /// sampled from.</value>
    public double Temperature { get; init; } = 1;

    /// <summary>β: how much one nat of divergence from the reference costs, in units of score.</summary>
    /// <value>At least 0. 0.05 by default (N+, TRL); InstructGPT 0.02, LH 0.15 for sentiment.</value>
    public double KlCoefficient { get; init; } = 0.05;

    /// <summary>The score of a response that did not end with the end token, in place of its own.</summary>
    /// <value>Any finite number; −1 by default (LH, N+), one deviation below the mean of normalised scores. Null keeps the response's own
    /// score.</value>
    public double? UnfinishedScore { get; init; } = -1;

    /// <summary>γ: how much a reward loses per token.</summary>
    /// <value>In [0, 1]. 1 by default, as everywhere in RLHF: responses are short.</value>
    public double Gamma { get; init; } = 1;

    /// <summary>λ of generalised advantage estimation.</summary>
    /// <value>In [0, 1]. 0.95 by default, as everywhere.</value>
    public double Lambda { get; init; } = 0.95;

    /// <summary>How far the probability ratio may move before the policy loss stops rewarding it.</summary>
    /// <value>Above 0. 0.2 by default, as everywhere.</value>
    public double ClipRange { get; init; } = 0.2;

    /// <summary>How far a value may move before its loss stops rewarding it.</summary>
    /// <value>Above 0. 0.2 by default, as everywhere.</value>
    public double ValueClipRange { get; init; } = 0.2;

    /// <summary>Weight of the value loss beside the policy loss.</summary>
    /// <value>
    /// At least 0. 0.1 by default, as everywhere. The value function has a network and an optimiser of its own, and Adam's step does not
    /// depend on the gradient's scale, so it matters only where the value's gradient is clipped.
    /// </value>
    public double ValueCoefficient { get; init; } = 0.1;

    /// <summary>Weight of the entropy bonus, which keeps the policy from settling early.</summary>
    /// <value>At least 0. 0 by default: the KL penalty does that work.</value>
    public double EntropyCoefficient { get; init; }

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.Require(Episodes >= 1, nameof(Episodes), Episodes, "at least 1");
        problems.Require(EpisodesPerUpdate >= 1, nameof(EpisodesPerUpdate), EpisodesPerUpdate, "at least 1");
        problems.Require(EpochsPerUpdate >= 1, nameof(EpochsPerUpdate), EpochsPerUpdate, "at least 1");
        problems.Require(MinibatchesPerEpoch >= 1 && MinibatchesPerEpoch <= EpisodesPerUpdate,
            nameof(MinibatchesPerEpoch), MinibatchesPerEpoch, $"at least 1 and at most {nameof(EpisodesPerUpdate)} ({EpisodesPerUpdate})");
        problems.Require(MaxResponseTokens >= 1, nameof(MaxResponseTokens), MaxResponseTokens, "at least 1");
        problems.Require(Temperature >= SamplingOptions.MinimumTemperature && float.IsFinite((float)Temperature),
            nameof(Temperature), Temperature, $"finite and at least {SamplingOptions.MinimumTemperature}");
        problems.Require(KlCoefficient >= 0 && double.IsFinite(KlCoefficient), nameof(KlCoefficient), KlCoefficient,
            "a finite number of at least 0");
        problems.Require(UnfinishedScore is null || double.IsFinite(UnfinishedScore.Value), nameof(UnfinishedScore), UnfinishedScore,
            "finite or null");
        problems.Require(Gamma is >= 0 and <= 1, nameof(Gamma), Gamma, "in [0, 1]");
        problems.Require(Lambda is >= 0 and <= 1, nameof(Lambda), Lambda, "in [0, 1]");
        problems.Require(ClipRange > 0, nameof(ClipRange), ClipRange, "above 0");
        problems.Require(ValueClipRange > 0, nameof(ValueClipRange), ValueClipRange, "above 0");
        problems.Require(ValueCoefficient >= 0, nameof(ValueCoefficient), ValueCoefficient, "at least 0");
        problems.Require(EntropyCoefficient >= 0, nameof(EntropyCoefficient), EntropyCoefficient, "at least 0");
    }
}
