namespace ML.Rlhf;

/// <summary>
/// How a run is kept on disk while it goes on, so that it survives the end of its process: killed at any moment and begun again with the
/// same options and data, it ends with the same weights as if it had never stopped, bit for bit on a CPU with the same number of threads.
/// </summary>
/// <remarks>
/// <para>A checkpoint is a folder <c>checkpoint-00000100</c> with the weights that are trained, the optimiser's memory, and everything else
/// that changes during a run: about three times the trained weights, and twice as much where PPO may have to go back. It is written under
/// another name, flushed and renamed, with a checksum of each file; a damaged one is reported, and the one before it used. A run that ends,
/// is canceled or fails leaves one, too, unless that happens in the middle of a step. <c>Fit</c> on a finished run gives its model at once.
/// </para>
/// <para>Beside the checkpoints stand <c>run.json</c> (options, fingerprints of the data and the starting model, seed, versions, machine)
/// and <c>progress.jsonl</c>, a line for each step with the numbers of <see cref="TrainingProgress.ToMetrics"/>.</para>
/// <para>Of the rewards of PPO, GRPO and RLOO only reward models have a fingerprint: that a C# function is still the same is up to you.
/// </para>
/// <para>A checkpoint has no text of the data in it, but weights can be asked what they learned: keep it as safe as the data.</para>
/// </remarks>
public sealed record CheckpointOptions
{
    /// <summary>The folder of this run, and of no other: each stage needs one of its own. It is made where it does not exist.</summary>
    public required string Folder { get; init; }

    /// <summary>Steps between two checkpoints; for PPO, GRPO and RLOO, updates.</summary>
    /// <value>At least 1. Null, the default, leaves it to <see cref="Every"/>; with both, each of them causes checkpoints.</value>
    public int? EverySteps { get; init; }

    /// <summary>Time between two checkpoints; one is written after the step that it passes in.</summary>
    /// <value>At least 0. 10 minutes by default: what a run can lose. <see cref="Timeout.InfiniteTimeSpan"/> turns it off.</value>
    public TimeSpan Every { get; init; } = TimeSpan.FromMinutes(10);

    /// <summary>How many checkpoints are kept, the newest ones; the best one of <see cref="Best"/> comes on top.</summary>
    /// <value>At least 1. 2 by default, so that there is one to go back to where the newest is damaged.</value>
    public int Keep { get; init; } = 2;

    /// <summary>
    /// The number by which a run's best step is known. A step that has the best value so far is kept as a checkpoint, and the run ends with
    /// the weights of the best one, not with the last ones.
    /// </summary>
    /// <value>Null, the default, ends with the last weights. <c>CheckpointMetric.Lowest("eval_loss")</c> protects from overfitting.</value>
    public CheckpointMetric? Best { get; init; }

    /// <summary>Where the run begins.</summary>
    /// <value><see cref="Resume.Auto"/> by default.</value>
    public Resume Resume { get; init; } = Resume.Auto;

    /// <summary>
    /// Names of what may differ from the run that is resumed: options, such as "LearningRate", "Steps" or "Lora.Dropout"; "Seed"; "Model",
    /// the starting weights; or what the message of the refusal names.
    /// </summary>
    /// <value>Empty by default: a difference is an error that lists all of them.</value>
    public IReadOnlyList<string> AllowedChanges { get; init; } = [];

    internal void Check(OptionProblems problems)
    {
        const string Name = nameof(OptimizationOptions.Checkpoints) + ".";
        problems.Require(!string.IsNullOrWhiteSpace(Folder), Name + nameof(Folder), Folder, "the path of a folder");
        problems.Require(EverySteps is null or >= 1, Name + nameof(EverySteps), EverySteps, "at least 1, or null");
        problems.Require(Every >= TimeSpan.Zero || Every == Timeout.InfiniteTimeSpan, Name + nameof(Every), Every,
            "at least 0, or Timeout.InfiniteTimeSpan");
        problems.Require(Keep >= 1, Name + nameof(Keep), Keep, "at least 1");
        problems.Require(Best is null || !string.IsNullOrWhiteSpace(Best.Name), Name + nameof(Best), Best?.Name, "the name of a metric");
        ArgumentNullException.ThrowIfNull(Resume);
        ArgumentNullException.ThrowIfNull(AllowedChanges);
        if (Resume.Path is { } path && !string.IsNullOrWhiteSpace(Folder))
            problems.Require(!IsInside(path, Folder), Name + nameof(Resume), path,
                "a checkpoint outside of Folder: later ones that stand beside it would be lost. Choose another Folder");
    }

    private static bool IsInside(string path, string folder)
    {
        string relative = Path.GetRelativePath(folder, path);
        return !relative.StartsWith("..", StringComparison.Ordinal) && !Path.IsPathRooted(relative);
    }
}

/// <summary>A number that tells which of a run's steps is the best.</summary>
/// <param name="Name">
/// Its name in <see cref="TrainingProgress.ToMetrics"/>: "eval_loss", or for PPO "objective/scores". Numbers of PPO, GRPO and RLOO are of
/// the responses that an update began with.
/// </param>
/// <param name="HigherIsBetter">Whether the highest value is the best.</param>
public sealed record CheckpointMetric(string Name, bool HigherIsBetter)
{
    /// <summary>The step with the lowest value is the best.</summary>
    public static CheckpointMetric Lowest(string name) => new(name, HigherIsBetter: false);

    /// <summary>The step with the highest value is the best.</summary>
    public static CheckpointMetric Highest(string name) => new(name, HigherIsBetter: true);
}

/// <summary>Where a run with checkpoints begins.</summary>
public sealed class Resume
{
    private Resume() { }

    /// <summary>After the newest whole checkpoint of the folder; where there is none, from the beginning.</summary>
    public static Resume Auto { get; } = new();

    /// <summary>From the beginning. A folder that has checkpoints is an error, so that none is lost.</summary>
    public static Resume Never { get; } = new();

    /// <summary>
    /// After a checkpoint of another folder, as long as the run's own folder has none; then as <see cref="Auto"/>. So a run branches off,
    /// and the branch itself survives.
    /// </summary>
    /// <param name="checkpoint">A folder such as <c>runs/ppo/checkpoint-00000100</c>.</param>
    public static Resume From(string checkpoint)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(checkpoint);
        return new Resume { Path = checkpoint };
    }

    internal string? Path { get; private init; }
}

/// <summary>What a trainer does when it is canceled in the middle of a run.</summary>
public enum CancellationAction
{
    /// <summary>Throws an <see cref="OperationCanceledException"/>. With checkpoints, the run can be resumed.</summary>
    Throw,

    /// <summary>Returns the model as far as it was trained. Canceled before the first step was begun, it throws.</summary>
    ReturnModel,
}
