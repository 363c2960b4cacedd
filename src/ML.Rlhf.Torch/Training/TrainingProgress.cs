namespace ML.Rlhf;

/// <summary>Where a training run stands after a step.</summary>
public record TrainingProgress
{
    /// <summary>The trainer, such as "GPT", "MLM", "SFT", "Reward model" or "PPO".</summary>
    public required string Stage { get; init; }

    /// <summary>Steps done, from 1. For PPO, GRPO and RLOO, updates.</summary>
    public required int Step { get; init; }

    /// <summary>Steps of the whole run.</summary>
    public required int TotalSteps { get; init; }

    /// <summary>
    /// Loss of this step: in nats per token (GPT, SFT), per hidden token (MLM) or per prompt (reward model), or all that the other
    /// trainers descend.
    /// </summary>
    public required double Loss { get; init; }

    /// <summary>Loss on the validation data, at the steps that measure it; null at the others.</summary>
    public double? ValidationLoss { get; init; }

    /// <summary>The learning rate that this step used.</summary>
    public required double LearningRate { get; init; }

    /// <summary>L2 norm of the gradient before clipping. For PPO, GRPO and RLOO, of the policy's in the update's last step.</summary>
    public required double GradientNorm { get; init; }

    /// <summary>Steps of the run so far that changed nothing, since their gradient had a NaN or an infinity.</summary>
    public int SkippedSteps { get; init; }

    /// <summary>Real (not padding) tokens trained on per second, since the run began.</summary>
    public required double TokensPerSecond { get; init; }

    /// <summary>Time since the run began.</summary>
    public required TimeSpan Elapsed { get; init; }

    /// <summary>Time left, if the remaining steps take as long as the ones so far.</summary>
    public TimeSpan Remaining => Elapsed * ((double)(TotalSteps - Step) / Step);

    /// <summary>The numbers of this record under the names that the field's codebases log them by, for a chart beside theirs.</summary>
    /// <returns>Names such as <c>objective/kl</c>, with their values; what was not measured is left out.</returns>
    public IReadOnlyDictionary<string, double> ToMetrics()
    {
        var metrics = new Dictionary<string, double>();
        AddMetrics(metrics);
        return metrics;
    }

    private protected virtual void AddMetrics(Dictionary<string, double> metrics)
    {
        metrics["loss"] = Loss;
        if (ValidationLoss is { } validation)
            metrics["eval_loss"] = validation;
        metrics["lr"] = LearningRate;
        metrics["grad_norm"] = GradientNorm;
        metrics["skipped_steps"] = SkippedSteps;
        metrics["tokens_per_second"] = TokensPerSecond;
    }

    /// <summary>What a line of the log says of this stage alone, with a space before it; empty for most.</summary>
    internal virtual string Details => "";
}
