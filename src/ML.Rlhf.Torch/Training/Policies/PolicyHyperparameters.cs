namespace ML.Rlhf;

/// <summary>
/// What every trainer that learns from its own answers lets you choose: PPO, GRPO and RLOO.
/// </summary>
public abstract record PolicyHyperparameters : FineTuningOptions
{
    private protected PolicyHyperparameters()
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
    /// <value>At least 1. Each trainer has its own default.</value>
    public int EpochsPerUpdate { get; init; } = 1;

    /// <summary>Optimiser steps per pass, each on an equal part of the episodes in a fresh random order.</summary>
    /// <value>At least 1 and at most <see cref="EpisodesPerUpdate"/>. 1 by default (LH, N+, TRL); InstructGPT makes 8.</value>
    public int MinibatchesPerEpoch { get; init; } = 1;

    /// <summary>The most tokens of a response.</summary>
    /// <value>At least 1. 32 by default.</value>
    public int MaxResponseTokens { get; init; } = 32;

    /// <summary>
    /// An end token among the first tokens of a response does not end it: only one at this place, counted from 1, or later does. LH accepts
    /// none among the first 16 of 24 tokens (17 here), so that the policy cannot score with short answers alone. The token stays in the
    /// response, and its probability is learned as any other's.
    /// </summary>
    /// <value>At least 0 and at most <see cref="MaxResponseTokens"/>. 0 by default: the first end token ends the response.</value>
    public int MinResponseTokens { get; init; }

    /// <summary>Divides the logits when sampling and in every log-probability.</summary>
    /// <value>At least 0.001. 1 by default (LH and N+: 0.7). Top-k, top-p and their kind are always off: the losses need the
    /// distribution that was sampled from.</value>
    public double Temperature { get; init; } = 1;

    /// <summary>β: how much one nat of divergence from the reference costs, in units of score.</summary>
    /// <value>At least 0. Each trainer has its own default.</value>
    public double KlCoefficient { get; init; }

    /// <summary>The score of a response that did not end with the end token, in place of its own.</summary>
    /// <value>Any finite number; −1 by default (LH, N+), one deviation below the mean of normalised scores, but null for GRPO. Null keeps
    /// the response's own score.</value>
    public double? UnfinishedScore { get; init; } = -1;

    /// <summary>What is subtracted from the score of a response that did not end with the end token (TRL's convention).</summary>
    /// <value>At least 0; 0 by default. Above 0, <see cref="UnfinishedScore"/> must be null: the two are different conventions.</value>
    public double UnfinishedPenalty { get; init; }

    /// <summary>How far the probability ratio may move before the policy loss stops rewarding it.</summary>
    /// <value>Above 0. 0.2 by default, as everywhere.</value>
    public double ClipRange { get; init; } = 0.2;

    /// <summary>
    /// Ends an update early: once an optimiser step finds that the policy has moved further than this from the one that sampled the
    /// episodes, in approximate KL per token (½·E[(log π − log π_old)²]), the update's remaining steps are left out.
    /// </summary>
    /// <value>Above 0; null, the default, never does.</value>
    public double? MaxUpdateKl { get; init; }

    /// <summary>
    /// Decay of an exponential moving average of the policy's weights, taken after each update; the finished model has the average.
    /// It is warmed up: after update t, from 0, the decay is min(this, (1 + t) / (10 + t)).
    /// </summary>
    /// <value>In [0, 1); null, the default, keeps no average. InstructGPT uses 0.992.</value>
    public double? EmaDecay { get; init; }

    /// <summary>What the run watches for, and what it does then.</summary>
    public AlarmOptions Alarms { get; init; } = new();

    /// <summary>Whether each pass over the episodes of an update is one step with one forward pass.</summary>
    internal bool LearnsInOnePass => MinibatchesPerEpoch == 1 && (MicroBatchSize is null || MicroBatchSize >= EpisodesPerUpdate);

    internal override void Check(OptionProblems problems)
    {
        base.Check(problems);
        problems.Require(Episodes >= 1, nameof(Episodes), Episodes, "at least 1");
        problems.Require(EpisodesPerUpdate >= 1, nameof(EpisodesPerUpdate), EpisodesPerUpdate, "at least 1");
        problems.Require(EpochsPerUpdate >= 1, nameof(EpochsPerUpdate), EpochsPerUpdate, "at least 1");
        problems.Require(MinibatchesPerEpoch >= 1 && MinibatchesPerEpoch <= EpisodesPerUpdate,
            nameof(MinibatchesPerEpoch), MinibatchesPerEpoch, $"at least 1 and at most {nameof(EpisodesPerUpdate)} ({EpisodesPerUpdate})");
        problems.Require(MaxResponseTokens >= 1, nameof(MaxResponseTokens), MaxResponseTokens, "at least 1");
        problems.Require(MinResponseTokens >= 0 && MinResponseTokens <= MaxResponseTokens, nameof(MinResponseTokens), MinResponseTokens,
            $"at least 0 and at most {nameof(MaxResponseTokens)} ({MaxResponseTokens})");
        problems.Require(Temperature >= SamplingOptions.MinimumTemperature && float.IsFinite((float)Temperature),
            nameof(Temperature), Temperature, $"finite and at least {SamplingOptions.MinimumTemperature}");
        problems.Require(KlCoefficient >= 0 && double.IsFinite(KlCoefficient), nameof(KlCoefficient), KlCoefficient,
            "a finite number of at least 0");
        problems.Require(UnfinishedScore is null || double.IsFinite(UnfinishedScore.Value), nameof(UnfinishedScore), UnfinishedScore,
            "finite or null");
        problems.Require(UnfinishedPenalty >= 0 && double.IsFinite(UnfinishedPenalty), nameof(UnfinishedPenalty), UnfinishedPenalty,
            "a finite number of at least 0");
        problems.Require(UnfinishedPenalty == 0 || UnfinishedScore is null, nameof(UnfinishedPenalty), UnfinishedPenalty,
            $"0 while {nameof(UnfinishedScore)} is not null: a score is replaced or lowered, not both");
        problems.Require(ClipRange > 0, nameof(ClipRange), ClipRange, "above 0");
        problems.Require(MaxUpdateKl is null or > 0, nameof(MaxUpdateKl), MaxUpdateKl, "above 0 or null");
        problems.Require(EmaDecay is null or >= 0 and < 1, nameof(EmaDecay), EmaDecay, "in [0, 1) or null");
        problems.Require(Alarms is not null, nameof(Alarms), Alarms, $"{nameof(AlarmOptions)}; {nameof(AlarmPolicy.Ignore)} turns all off");
        Alarms?.Check(problems);
    }
}
