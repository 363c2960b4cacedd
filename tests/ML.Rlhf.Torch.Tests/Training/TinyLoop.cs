using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>The training loops on tiny models, behind one door: what must hold for each is then written once.</summary>
internal static class TinyLoop
{
    private const int Rows = 16, BatchSize = 8;
    private const string Lora = ", LoRA";

    public static TheoryData<string> Names =>
        ["GPT", "LSTM", "SFT", "Reward model", "PPO", "PPO, shared trunk, text", "GRPO", "RLOO", "DPO", "KTO", "ORPO", "MLM",
            "Encoder–decoder", "SFT, LoRA", "Reward model, LoRA", "PPO, LoRA", "PPO, shared trunk, text, LoRA", "DPO, LoRA"];

    /// <summary>What a test varies.</summary>
    public sealed record Settings
    {
        public int Seed { get; init; }

        public int Steps { get; init; } = 4;

        public int? MicroBatchSize { get; init; }

        public double Dropout { get; init; } = 0.1;

        /// <summary>Makes a step −1,000 · gradient, so that weights show gradients.</summary>
        public bool PlainGradientDescent { get; init; }

        public LoraOptions? Lora { get; init; }

        public CheckpointOptions? Checkpoints { get; init; }

        public CancellationAction WhenCanceled { get; init; }

        public int MaxSkippedSteps { get; init; } = 5;

        public double LearningRate { get; init; } = 1e-2;

        /// <summary>The step that somebody cancels the run in.</summary>
        public int? CancelAfter { get; init; }

        public Action<TrainingProgress>? OnReport { get; init; }

        /// <summary>Called each time that a loop looks whether it is canceled: throwing cancels it.</summary>
        public Action? OnCheck { get; init; }

        /// <summary>Given the modules that will be trained.</summary>
        public Action<nn.Module>? OnModel { get; init; }
    }

    /// <summary>Runs a loop and gives its parameters.</summary>
    public static (Dictionary<string, Tensor> Before, Dictionary<string, Tensor> After, List<TrainingProgress> Reports) Run(
        string name, Settings s)
    {
        int rows = Math.Min(Rows, s.Steps * BatchSize), epochs = s.Steps * BatchSize / rows;
        var recorded = new RecordedRun(s.Seed, s.OnReport, s.CancelAfter, s.OnCheck);
        if (name.EndsWith(Lora, StringComparison.Ordinal))
        {
            name = name[..^Lora.Length];
            s = s with { Lora = new LoraOptions { Rank = 3, Dropout = name == "SFT" ? s.Dropout : 0 } };
        }
        var begin = new SftOptions { Lora = s.Lora };
        if (name.StartsWith("PPO", StringComparison.Ordinal))
        {
            bool shared = name != "PPO";
            CausalLanguageModel BeginTrunk(CausalLanguageModel trunk) => FineTuning.BeginTrunk(trunk, begin, recorded.Run);
            var ppo = new TinyPpo(
                Configure(new PolicyOptions
                {
                    Episodes = s.Steps * BatchSize, EpisodesPerUpdate = BatchSize, EpochsPerUpdate = s.PlainGradientDescent ? 1 : 2,
                    MaxResponseTokens = 4, ValueFunction = shared ? ValueFunction.SharedTrunk : ValueFunction.Network,
                }, s),
                s.Seed, policy: FineTuning.Begin(TinyGpt.Random(), begin, recorded.Run), onReport: s.OnReport, cancelAfter: s.CancelAfter,
                onCheck: s.OnCheck, value: shared ? null : TinyGpt.RandomScalar().CloneAsValueFunction(BeginTrunk));
            Dictionary<string, Tensor> Both() => TinyGpt.Snapshot(ppo.Policy)
                .Concat(TinyGpt.Snapshot(ppo.Value).Select(p => KeyValuePair.Create("value." + p.Key, p.Value))).ToDictionary();
            var start = Both();
            ppo.Run(shared ? TinyData.Sequences(20, 10) : null);
            return (start, Both(), ppo.Recorded.Reports);
        }
        if (name is "GRPO" or "RLOO")
        {
            GroupHyperparameters options = name == "GRPO" ? new GrpoTestOptions() : new RlooTestOptions();
            var group = new TinyGroup(
                Configure(options with
                {
                    Episodes = s.Steps * BatchSize, EpisodesPerUpdate = BatchSize, GroupSize = 4,
                    // Steps as large as these move a whole response out of the clip range: a second one would have no gradient in RLOO.
                    EpochsPerUpdate = s.PlainGradientDescent || name == "RLOO" ? 1 : 2,
                    MaxResponseTokens = 4, UnfinishedScore = null,
                }, s),
                s.Seed, policy: TinyGpt.Random(), onReport: s.OnReport, cancelAfter: s.CancelAfter, onCheck: s.OnCheck,
                scorer: episodes => [.. episodes.Select(e => e.Response.Average())]); // hardly ever a tie, which would teach nothing
            var start = TinyGpt.Snapshot(group.Policy);
            group.Run();
            return (start, TinyGpt.Snapshot(group.Policy), group.Recorded.Reports);
        }
        if (name == "Reward model")
        {
            using var random = TinyGpt.RandomScalar();
            var model = random.CloneAsValueFunction(trunk => FineTuning.BeginTrunk(trunk, begin, recorded.Run));
            var start = TinyGpt.Snapshot(model);
            s.OnModel?.Invoke(model);
            var options = Configure(
                new RewardOptions { Epochs = epochs, BatchSize = BatchSize, CenteringCoefficient = 0.01 }, s);
            RewardModelTraining.Run(
                model, TinyData.RaggedRankings(rows), TinyData.RaggedRankings(5, seed: 1),
                normalizationTexts: null, options, recorded.Run);
            return (start, TinyGpt.Snapshot(model), recorded.Reports);
        }
        if (name == "Encoder–decoder")
        {
            var model = TinyEncoderDecoder.Random();
            var start = TinyGpt.Snapshot(model);
            s.OnModel?.Invoke(model);
            var options = Configure(
                new SequenceOptions
                {
                    Epochs = epochs, BatchSize = BatchSize, Dropout = s.Dropout, WarmupSteps = 0,
                    LearningRateDecay = LearningRateDecay.Cosine,
                },
                s);
            EncoderDecoderTraining.Run(model, TinyData.Pairs(rows), TinyData.Pairs(5, seed: 1), options, recorded.Run);
            return (start, TinyGpt.Snapshot(model), recorded.Reports);
        }

        if (name == "MLM")
        {
            var encoder = TinyEncoder.Random();
            var start = TinyGpt.Snapshot(encoder);
            s.OnModel?.Invoke(encoder);
            var options = Configure(
                new MaskingOptions { Steps = s.Steps, BatchSize = BatchSize, Dropout = s.Dropout, EvaluateEvery = 2, WarmupSteps = 0 }, s);
            MaskedLanguageModelTraining.Run(
                encoder, TinyData.Completions(rows).Sequences, TinyData.Completions(5, seed: 1).Sequences, TinyEncoder.Vocabulary, options,
                recorded.Run);
            return (start, TinyGpt.Snapshot(encoder), recorded.Reports);
        }

        var gpt = FineTuning.Begin(name == "LSTM" ? TinyLstm.Random() : TinyGpt.Random(), begin, recorded.Run);
        var before = TinyGpt.Snapshot(gpt);
        s.OnModel?.Invoke(gpt);
        if (name is "GPT" or "LSTM")
        {
            var options = Configure(
                new PretrainingOptions { Steps = s.Steps, BatchSize = BatchSize, Dropout = s.Dropout, EvaluateEvery = 2, WarmupSteps = 0 },
                s);
            LanguageModelTraining.Run(gpt, TinyData.Sequences(20, 10), TinyData.Sequences(3, 11, seed: 1), options, recorded.Run);
        }
        else if (name == "DPO")
        {
            var options = Configure(new PairOptions { Epochs = epochs, BatchSize = BatchSize }, s);
            DpoTraining.Run(gpt, TinyData.Preferences(rows), TinyData.Preferences(5, seed: 1), options, recorded.Run);
        }
        else if (name == "KTO")
        {
            var options = Configure(new FeedbackOptions { Epochs = epochs, BatchSize = BatchSize }, s);
            KtoTraining.Run(gpt, TinyData.Feedback(rows), TinyData.Feedback(5, seed: 1), options, recorded.Run);
        }
        else if (name == "ORPO")
        {
            var options = Configure(new OddsRatioOptions { Epochs = epochs, BatchSize = BatchSize }, s);
            OrpoTraining.Run(gpt, TinyData.Preferences(rows), TinyData.Preferences(5, seed: 1), options, recorded.Run);
        }
        else
        {
            var options = Configure(new SftOptions { Epochs = epochs, BatchSize = BatchSize, Dropout = s.Dropout }, s);
            SupervisedFineTuning.Run(gpt, TinyData.Completions(rows), TinyData.Completions(5, seed: 1), options, recorded.Run);
        }
        return (before, TinyGpt.Snapshot(gpt), recorded.Reports);
    }

    private static T Configure<T>(T options, Settings s) where T : OptimizationOptions
    {
        options = options with
        {
            MicroBatchSize = s.MicroBatchSize, LearningRate = s.LearningRate, Checkpoints = s.Checkpoints, WhenCanceled = s.WhenCanceled,
            MaxSkippedSteps = s.MaxSkippedSteps,
        };
        if (options is FineTuningOptions fineTuning)
            options = (T)(OptimizationOptions)(fineTuning with { Lora = s.Lora });
        return s.PlainGradientDescent
            ? options with
            {
                Beta1 = 0, Beta2 = 0, Epsilon = 1e9, LearningRate = 1e12, GradientClipping = double.PositiveInfinity, WeightDecay = 0,
                WarmupSteps = 0,
            }
            : options;
    }
}
