using ML.Rlhf.Benchmarks.Measuring;

namespace ML.Rlhf.Benchmarks.Works;

/// <summary>Something that both sides do.</summary>
/// <param name="Name">What the command line and the results call it.</param>
/// <param name="Model">The shape of the model, or of each of the models.</param>
internal abstract record Work(string Name, GptArchitecture Model)
{
    /// <summary>The end token of models that have one.</summary>
    protected const int EndToken = 0;

    /// <summary>Steps, updates or completions that are timed.</summary>
    public required int Steps { get; init; }

    /// <summary>Steps before that.</summary>
    public int Warmup { get; init; } = 2;

    /// <summary>Does our side of it, in this process.</summary>
    public abstract Measurement RunOurs();

    /// <summary>What to run for the peer's side.</summary>
    public abstract PeerRun Peer { get; }

    /// <summary>The least time that one token or episode can take on a machine.</summary>
    public abstract double LimitSeconds(MachineLimit limit);

    /// <summary>The shape, as the peer's scripts want it.</summary>
    protected string[] PeerModel =>
        ["--layers", $"{Model.Layers}", "--heads", $"{Model.Heads}", "--width", $"{Model.Width}", "--vocabulary", $"{Model.VocabularySize}"];
}

/// <summary>A run of one of the peer's scripts.</summary>
/// <param name="Script">Its file.</param>
/// <param name="Arguments">Its arguments.</param>
internal sealed record PeerRun(string Script, string[] Arguments)
{
    /// <summary>
    /// The peer's figure for the work at hand, where the script that runs is another: on a machine, or a day, where the script gives twice
    /// what it gave when the figure was taken, the figure counts twice.
    /// </summary>
    public (double Figure, double OfScript)? Scaled { get; init; }

    /// <summary>What the peer does per second, if the script measured so much.</summary>
    public double PerSecond(double measured) => Scaled is { } scaled ? scaled.Figure * measured / scaled.OfScript : measured;
}

/// <summary>All of them.</summary>
internal static class AllWorks
{
    private static readonly GptArchitecture s_4x128 = Shape(4, 4, 128, 64, 65), s_6x384 = Shape(6, 6, 384, 256, 512),
        s_gpt2 = GptArchitecture.Gpt2 with { ContextLength = 256 };

    private static readonly TrainingWork s_train6x384 = new("train-6x384", s_6x384, Batch: 16) { Steps = 3 };

    public static Work[] All { get; } =
    [
        new TrainingWork("train-4x128", s_4x128, Batch: 12) { Warmup = 20, Steps = 60 },
        s_train6x384,
        new TrainingWork("train-gpt2", s_gpt2, Batch: 4) { Warmup = 1, Steps = 2 },
        new GenerationWork("generate-6x384-32", s_6x384, Batch: 32) { Steps = 2 },
        new GenerationWork("generate-6x384-1", s_6x384, Batch: 1) { Steps = 5 },
        new GenerationWork("generate-gpt2-1", s_gpt2, Batch: 1) { Steps = 1, BFloat16 = true },
        new GenerationWork("generate-gpt2-16", s_gpt2, Batch: 16) { Steps = 1, BFloat16 = true },
        new PpoWork("ppo-4x128", s_4x128 with { ContextLength = 512, VocabularySize = 512 }, PeerOfTrl(24)) { Warmup = 1, Steps = 3 },
        new PpoWork("ppo-6x384", s_6x384 with { ContextLength = 512 }, PeerOfTrl(4.25)) { Warmup = 1, Steps = 2 },
        new SftWork("sft-6x384", s_6x384, Batch: 16, PeerOfTrl(1871)) { Steps = 3 },
        new RewardWork("reward-6x384", s_6x384, Pairs: 8, PeerOfTrl(1975)) { Steps = 3 },
    ];

    /// <summary>Training on ever more tokens per step.</summary>
    public static TrainingWork[] GrowingBatches { get; } =
        [.. new[] { 4, 8, 16, 32 }.Select(batch => new TrainingWork($"growth-batch-{batch}", s_6x384, batch) { Steps = 4 })];

    /// <summary>Ever longer completions.</summary>
    public static GenerationWork[] GrowingCompletions { get; } =
    [
        .. new[] { 28, 56, 112, 224 }.Select(
            tokens => new GenerationWork($"growth-completion-{tokens}", s_6x384, Batch: 16) { Steps = 4, NewTokens = tokens }),
    ];

    /// <summary>Training of ever larger models.</summary>
    public static TrainingWork[] GrowingModels { get; } =
    [
        new("growth-model-4x128", Shape(4, 4, 128, 256, 512), Batch: 8) { Steps = 3 },
        new("growth-model-6x384", s_6x384, Batch: 16) { Steps = 3 },
        new("growth-model-8x512", Shape(8, 8, 512, 256, 8192), Batch: 8) { Steps = 2 },
        new("growth-model-gpt2", s_gpt2, Batch: 4) { Warmup = 1, Steps = 1 },
        new("growth-model-gpt2-16", s_gpt2, Batch: 16) { Warmup = 1, Steps = 1 },
        new("growth-model-gpt2-16-checkpoints", s_gpt2, Batch: 16) { Warmup = 1, Steps = 1, Checkpoints = true },
    ];

    /// <summary>The work of that name or, where there is none, all that are compared with the peer's and whose names begin so.</summary>
    /// <exception cref="ArgumentException">There is neither.</exception>
    public static Work[] Find(string name)
    {
        Work[] found = [.. All.Concat(GrowingBatches).Concat(GrowingCompletions).Concat(GrowingModels).Where(work => work.Name == name)];
        if (found.Length == 0)
            found = [.. All.Where(work => work.Name.StartsWith(name, StringComparison.Ordinal))];
        return found.Length > 0 ? found
            : throw new ArgumentException($"There is no work \"{name}\". There are {string.Join(", ", All.Select(w => w.Name))}.");
    }

    /// <summary>
    /// TRL 1.10 needs more than the peer's folder has, so that its figures were taken once (float32, two threads), beside a training run of
    /// 6 × 384 in plain PyTorch, which gave 2,290 tokens/s. A day's figure is scaled by that run.
    /// </summary>
    private static PeerRun PeerOfTrl(double figure) => s_train6x384.Peer with { Scaled = (figure, OfScript: 2290) };

    private static GptArchitecture Shape(int layers, int heads, int width, int context, int vocabulary) =>
        new() { Layers = layers, Heads = heads, Width = width, ContextLength = context, VocabularySize = vocabulary };
}
