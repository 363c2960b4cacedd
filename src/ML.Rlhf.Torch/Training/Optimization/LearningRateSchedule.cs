namespace ML.Rlhf.Torch.Training;

/// <summary>The learning rate at each step of a run.</summary>
internal static class LearningRateSchedule
{
    /// <param name="options">Learning rate, warm-up, decay and minimum.</param>
    /// <param name="step">From 0. The first warm-up step already has a rate above 0, so that no step is wasted.</param>
    /// <param name="totalSteps">Steps of the run. The minimum would be reached by the step after the last one, so that a minimum of 0
    /// wastes no step.</param>
    public static double At(OptimizationOptions options, int step, int totalSteps)
    {
        if (step < options.WarmupSteps)
            return options.LearningRate * (step + 1) / (options.WarmupSteps + 1);

        double progress = Math.Min(1.0, (double)(step - options.WarmupSteps) / (totalSteps - options.WarmupSteps));
        double remaining = options.LearningRateDecay switch
        {
            LearningRateDecay.Cosine => 0.5 * (1 + Math.Cos(Math.PI * progress)),
            LearningRateDecay.Linear => 1 - progress,
            // The warm-up would reach its height, where this begins, at its next step.
            LearningRateDecay.InverseSquareRoot => Math.Sqrt((options.WarmupSteps + 1.0) / (step + 1.0)),
            _ => 1,
        };
        bool hasMinimum = options.LearningRateDecay is LearningRateDecay.Cosine or LearningRateDecay.Linear;
        double minimum = hasMinimum ? options.MinimumLearningRateRatio : 0;
        return options.LearningRate * (minimum + (1 - minimum) * remaining);
    }

    /// <summary>Says so when a run is over before its learning rate has reached its height.</summary>
    public static void WarnOfLongWarmup(OptimizationOptions options, int totalSteps, TrainingRun run)
    {
        if (options.WarmupSteps >= totalSteps)
            run.Warn($"WarmupSteps is {options.WarmupSteps}, but the run has {totalSteps} steps: the learning rate never reaches " +
                $"{options.LearningRate}. Lower WarmupSteps, or train longer.");
    }
}
