using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>A run of GRPO or of RLOO, as the options say, on tiny models, with its networks at hand.</summary>
internal sealed class TinyGroup
{
    public TinyGroup(
        GroupHyperparameters options, int seed = 0, Gpt? policy = null, EpisodeScorer? scorer = null,
        Action<TrainingProgress>? onReport = null, int? cancelAfter = null, Action? onCheck = null)
    {
        Options = options;
        Recorded = new RecordedRun(seed, onReport, cancelAfter, onCheck);
        Policy = policy ?? TinyGpt.Random(seed);
        Reference = Policy.Clone();
        Scorer = scorer ?? TinyPpo.TreatRate;
    }

    public GroupHyperparameters Options { get; }

    public Gpt Policy { get; }

    public Gpt Reference { get; }

    public EpisodeScorer Scorer { get; }

    public RecordedRun Recorded { get; }

    public GrpoTraining Grpo => new(Policy, Reference, Scorer, TinyPpo.EndToken, (GrpoHyperparameters)Options, Recorded.Run);

    public RlooTraining Rloo => new(Policy, Reference, Scorer, TinyPpo.EndToken, (RlooHyperparameters)Options, Recorded.Run);

    public GroupProgress[] Updates => [.. Recorded.Reports.Cast<GroupProgress>()];

    public TinyGroup Run()
    {
        if (Options is GrpoHyperparameters)
            Grpo.Run(TinyPpo.Prompts);
        else
            Rloo.Run(TinyPpo.Prompts);
        return this;
    }

    /// <summary>Groups of responses, as a run samples them first.</summary>
    public Episode[] Sample() => new EpisodeSource(Policy, TinyPpo.Prompts, Scorer, TinyPpo.EndToken, Options, Recorded.Run)
        .Sample(update: 0, Options.GroupSize);
}
