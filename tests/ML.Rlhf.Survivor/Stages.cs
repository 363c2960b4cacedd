using Microsoft.ML;

namespace ML.Rlhf.Survivor;

/// <summary>The trainers, each with what its run carries from step to step, on models and texts that are as small as can be.</summary>
internal static class Stages
{
    private static readonly GptArchitecture s_gpt = GptArchitecture.Nano with { Layers = 1, Heads = 2, Width = 16, ContextLength = 32 };

    private static readonly string[] s_texts =
    [
        "the cat sat on the mat.", "a dog ran to the cat.", "the mat is red.", "a red dog sat.", "the cat ran.", "a cat is a cat.",
        "the dog is on the mat.", "red is the mat.", "a mat is on the red cat.",
    ];

    private static readonly (string Animal, string Sound)[] s_sounds =
    [
        ("cat", "meow"), ("dog", "woof"), ("cow", "moo"), ("duck", "quack"), ("bee", "buzz"), ("owl", "hoot"), ("hen", "cluck"),
        ("pig", "oink"), ("sheep", "baa"),
    ];

    /// <summary>The trainer with that name, and what it learns from.</summary>
    /// <param name="ml">The context.</param>
    /// <param name="stage">Its name, as in "kill-resume ppo 20/20".</param>
    /// <param name="folder">Where its checkpoints are, if it writes any.</param>
    /// <param name="from">A checkpoint that it must go on from; null takes the last one of the folder, if there is one.</param>
    public static (IEstimator<ITransformer> Trainer, IDataView Data) Create(MLContext ml, string stage, string? folder, string? from)
    {
        var everyStep = folder is null ? null : new CheckpointOptions
        {
            Folder = folder,
            EverySteps = 1,
            Resume = from is null ? Resume.Auto : Resume.From(from),
        };
        var everyThirdStep = everyStep is null ? null : everyStep with { EverySteps = 3 };
        var trainers = ml.Rlhf().Trainers;
        return stage switch
        {
            "gpt" => (trainers.Gpt(new GptOptions
            {
                Architecture = s_gpt,
                Tokenizer = Letters(ml),
                Steps = 90,
                BatchSize = 4,
                Checkpoints = everyThirdStep,
                LearningRate = 1e-2,
                WarmupSteps = 10,
                Dropout = 0.1,
                EvaluateEvery = 25,
                ValidationData = Documents(ml),
            }), Documents(ml)),
            "lstm" => (trainers.Lstm(new LstmOptions
            {
                Architecture = LstmArchitecture.Nano with { Layers = 2, Width = 16, ContextLength = 32 },
                Tokenizer = Letters(ml),
                Steps = 45,
                BatchSize = 4,
                Checkpoints = everyThirdStep,
                WarmupSteps = 10,
                Dropout = 0.1,
            }), Documents(ml)),
            "mlm" => (trainers.MaskedLanguageModel(new MaskedLanguageModelOptions
            {
                Architecture = EncoderArchitecture.Nano with
                {
                    Layers = 1, Heads = 2, Width = 16, FeedForwardWidth = 32, ContextLength = 32, VocabularySize = 280,
                },
                Steps = 75,
                BatchSize = 4,
                Checkpoints = everyThirdStep,
                WarmupSteps = 10,
                Dropout = 0.1,
            }), Documents(ml)),
            "encoder-decoder" => (trainers.EncoderDecoder(new EncoderDecoderOptions
            {
                Architecture = EncoderDecoderArchitecture.Tiny with
                {
                    Layers = 1, Heads = 2, Width = 16, FeedForwardWidth = 32, ContextLength = 32,
                },
                Tokenizer = Letters(ml),
                Epochs = 25,
                BatchSize = 4,
                Checkpoints = everyThirdStep,
                WarmupSteps = 10,
                Dropout = 0.1,
            }), Demonstrations(ml)),
            "sft" => (trainers.SupervisedFineTuning(Model(ml), new SupervisedFineTuningOptions
            {
                Epochs = 30,
                BatchSize = 4,
                Checkpoints = everyThirdStep,
                Dropout = 0.1,
                MicroBatchSize = 3,
            }), Demonstrations(ml)),
            "reward-model" => (trainers.RewardModel(Model(ml), new RewardModelOptions
            {
                Epochs = 25,
                BatchSize = 4,
                Checkpoints = everyThirdStep,
            }), Preferences(ml)),
            "ppo" => (trainers.Ppo(Model(ml), Reward, new PpoOptions
            {
                Episodes = 8 * 30,
                EpisodesPerUpdate = 8,
                Checkpoints = everyStep,
                EpochsPerUpdate = 2,
                MinibatchesPerEpoch = 2,
                MaxResponseTokens = 6,
                LearningRate = 2e-2,
                WarmupSteps = 10,
                EmaDecay = 0.9,
                TargetKl = 2,
                MaxUpdateKl = 0.5,
                PretrainingData = Documents(ml),
                GoldReward = ml.Rlhf().Rewards.FromFunction((_, completion) => completion.Length),
                Alarms = RollsBackAbove(0.35),
            }), Prompts(ml)),
            "ppo-lora" => (trainers.Ppo(Model(ml), Reward, new PpoOptions
            {
                Episodes = 8 * 30,
                EpisodesPerUpdate = 8,
                Checkpoints = everyStep,
                EpochsPerUpdate = 2,
                MaxResponseTokens = 6,
                LearningRate = 1e-2,
                WhitenRewards = true,
                Lora = new LoraOptions { Rank = 2 },
            }), Prompts(ml)),
            "grpo" => (trainers.Grpo(Model(ml), Reward, new GrpoOptions
            {
                Episodes = 8 * 40,
                EpisodesPerUpdate = 8,
                Checkpoints = everyStep,
                EpochsPerUpdate = 2,
                GroupSize = 4,
                MaxResponseTokens = 6,
                LearningRate = 4e-2,
                WarmupSteps = 20,
                KlCoefficient = 0.05,
                EmaDecay = 0.9,
                Alarms = RollsBackAbove(0.1),
            }), Prompts(ml)),
            "rloo" => (trainers.Rloo(Model(ml), Reward, new RlooOptions
            {
                Episodes = 8 * 50,
                EpisodesPerUpdate = 8,
                Checkpoints = everyStep,
                GroupSize = 4,
                MaxResponseTokens = 6,
                LearningRate = 1e-2,
            }), Prompts(ml)),
            "dpo" => (trainers.Dpo(Model(ml), new DpoOptions
            {
                Epochs = 25,
                BatchSize = 4,
                Checkpoints = everyThirdStep,
            }), Preferences(ml)),
            "kto" => (trainers.Kto(Model(ml), new KtoOptions
            {
                Epochs = 25,
                BatchSize = 4,
                Checkpoints = everyThirdStep,
            }), Feedback(ml)),
            "orpo" => (trainers.Orpo(Model(ml), new OrpoOptions
            {
                Epochs = 25,
                BatchSize = 4,
                Checkpoints = everyThirdStep,
            }), Preferences(ml)),
            _ => throw new ArgumentException($"No trainer is called '{stage}'."),
        };
    }

    /// <summary>Vowels are good, and so is an end.</summary>
    private static float Reward(string prompt, string completion) => completion.Count(c => "aeiou".Contains(c)) - completion.Length / 4f;

    /// <summary>
    /// A run with them carries the weights and the optimiser's state that it would go back to; and it does go back, once or twice, while
    /// the learning rate climbs: halving it keeps the clip fraction under the limit.
    /// </summary>
    private static AlarmOptions RollsBackAbove(double clipFraction) => new()
    {
        MaxClipFraction = clipFraction,
        Policies = new Dictionary<AlarmKind, AlarmPolicy> { [AlarmKind.HighClipFraction] = AlarmPolicy.RollBack },
    };

    /// <summary>What fine-tuning starts from.</summary>
    private static TextGenerationTransformer Model(MLContext ml) => ml.Rlhf().Trainers.Gpt(new GptOptions
    {
        Architecture = s_gpt,
        Tokenizer = Letters(ml),
        Steps = 20,
        BatchSize = 4,
        LearningRate = 1e-2,
        WarmupSteps = 0,
        PromptColumnName = "Prompt",
    }).Fit(Documents(ml));

    /// <summary>Small letters, space and full stop.</summary>
    private static TextTokenizer Letters(MLContext ml) =>
        ml.Rlhf().Tokenizers.TrainCharacters(ml.Data.LoadFromEnumerable([new Document { Text = "abcdefghijklmnopqrstuvwxyz ." }]));

    private static IDataView Documents(MLContext ml) => ml.Data.LoadFromEnumerable(
        s_texts.Select(text => new Document { Text = text }).ToArray());

    private static IDataView Demonstrations(MLContext ml) => ml.Data.LoadFromEnumerable(
        s_sounds.Select(s => new Demonstration { Prompt = s.Animal, Completion = s.Sound }).ToArray());

    private static IDataView Prompts(MLContext ml) => ml.Data.LoadFromEnumerable(
        s_sounds.Select(s => new PromptOnly { Prompt = s.Animal }).ToArray());

    private static IDataView Preferences(MLContext ml) => ml.Data.LoadFromEnumerable(
        s_sounds.Select((s, i) => new Preference { Prompt = s.Animal, Chosen = s.Sound, Rejected = "no" + (char)('a' + i) }).ToArray());

    private static IDataView Feedback(MLContext ml) => ml.Data.LoadFromEnumerable(
        s_sounds.Select((s, i) => new Feedback { Prompt = s.Animal, Completion = s.Sound, Label = i % 3 != 0 }).ToArray());
}
