using System.Reflection;
using Microsoft.ML;
using Xunit.Sdk;

namespace ML.Rlhf.Tests.Catalog;

/// <summary>The trainers, for what they have in common.</summary>
public enum Stage
{
    Gpt,
    Lstm,
    FineTuning,
    RewardModel,
    Ppo,
    Grpo,
    Rloo,
    Dpo,
    Kto,
    Orpo,
    EncoderDecoder,
    MaskedLanguageModel,
}

/// <summary>What a test chooses of a trainer; the rest is as small as it can be.</summary>
internal sealed record StageSettings
{
    public int Steps { get; init; } = 3;

    /// <summary>What is trained; pretraining starts from nothing.</summary>
    public TextGenerationTransformer Model { get; init; } = Tiny.Model;

    public int? Seed { get; init; }

    public double Dropout { get; init; }

    /// <summary>Adapters, where a model is fine-tuned.</summary>
    public LoraOptions? Lora { get; init; }

    public IProgress<TrainingProgress>? Progress { get; init; }

    public CancellationToken CancellationToken { get; init; }

    public CheckpointOptions? Checkpoints { get; init; }

    public CancellationAction WhenCanceled { get; init; }

    public IDataView? ValidationData { get; init; }

    /// <summary>Where the trainer is rewarded by a function: this one.</summary>
    public Func<string, string, float>? Reward { get; init; }

    /// <summary>Where the columns have other names than usual: these follow the name.</summary>
    public string Suffix { get; init; } = "";
}

internal static class Stages
{
    private const int BatchSize = 4;

    /// <summary>Learns from its own answers to the column Prompt.</summary>
    public static bool IsOnline(this Stage stage) => stage is Stage.Ppo or Stage.Grpo or Stage.Rloo;

    public static IEstimator<ITransformer> Trainer(this Stage stage, MLContext ml, StageSettings? settings = null)
    {
        var s = settings ?? new StageSettings();
        int epochs = (s.Steps + 1) / 2; // eight rows are two batches
        var trainers = ml.Rlhf().Trainers;
        return stage switch
        {
            Stage.Gpt => trainers.Gpt(new GptOptions
            {
                Architecture = Tiny.Architecture,
                Tokenizer = Tiny.Letters,
                Steps = s.Steps,
                BatchSize = BatchSize,
                EvaluateEvery = 2,
                Dropout = s.Dropout,
                TextColumnName = "Text" + s.Suffix,
                CompletionColumnName = "Completion" + s.Suffix,
                Seed = s.Seed,
                Progress = s.Progress,
                CancellationToken = s.CancellationToken,
                Checkpoints = s.Checkpoints,
                WhenCanceled = s.WhenCanceled,
                ValidationData = s.ValidationData,
                Sampling = new SamplingOptions { MaxNewTokens = 4 },
            }),
            Stage.Lstm => trainers.Lstm(new LstmOptions
            {
                Architecture = Tiny.Recurrent,
                Tokenizer = Tiny.Letters,
                Steps = s.Steps,
                BatchSize = BatchSize,
                EvaluateEvery = 2,
                Dropout = s.Dropout,
                TextColumnName = "Text" + s.Suffix,
                CompletionColumnName = "Completion" + s.Suffix,
                Seed = s.Seed,
                Progress = s.Progress,
                CancellationToken = s.CancellationToken,
                Checkpoints = s.Checkpoints,
                WhenCanceled = s.WhenCanceled,
                ValidationData = s.ValidationData,
                Sampling = new SamplingOptions { MaxNewTokens = 4 },
            }),
            Stage.FineTuning => trainers.SupervisedFineTuning(s.Model, new SupervisedFineTuningOptions
            {
                Epochs = epochs,
                BatchSize = BatchSize,
                Dropout = s.Dropout,
                PromptColumnName = "Prompt" + s.Suffix,
                CompletionColumnName = "Completion" + s.Suffix,
                Lora = s.Lora,
                Seed = s.Seed,
                Progress = s.Progress,
                CancellationToken = s.CancellationToken,
                Checkpoints = s.Checkpoints,
                WhenCanceled = s.WhenCanceled,
                ValidationData = s.ValidationData,
            }),
            Stage.RewardModel => trainers.RewardModel(s.Model, new RewardModelOptions
            {
                Epochs = epochs,
                BatchSize = BatchSize,
                PromptColumnName = "Prompt" + s.Suffix,
                ChosenColumnName = "Chosen" + s.Suffix,
                RejectedColumnName = "Rejected" + s.Suffix,
                CompletionColumnName = "Completion" + s.Suffix,
                ScoreColumnName = "Score" + s.Suffix,
                Lora = s.Lora,
                Seed = s.Seed,
                Progress = s.Progress,
                CancellationToken = s.CancellationToken,
                Checkpoints = s.Checkpoints,
                WhenCanceled = s.WhenCanceled,
                ValidationData = s.ValidationData,
            }),
            Stage.Ppo => trainers.Ppo(s.Model, s.Reward ?? ((_, completion) => completion.Length), new PpoOptions
            {
                Episodes = BatchSize * s.Steps,
                EpisodesPerUpdate = BatchSize,
                EpochsPerUpdate = 1,
                MaxResponseTokens = 4,
                LearningRate = 1e-3,
                UnfinishedScore = null,
                PromptColumnName = "Prompt" + s.Suffix,
                CompletionColumnName = "Completion" + s.Suffix,
                Lora = s.Lora,
                Seed = s.Seed,
                Progress = s.Progress,
                CancellationToken = s.CancellationToken,
                Checkpoints = s.Checkpoints,
                WhenCanceled = s.WhenCanceled,
            }),
            Stage.Grpo => trainers.Grpo(s.Model, s.Reward ?? ((_, completion) => completion.Sum(c => c) / 100f), new GrpoOptions
            {
                Episodes = BatchSize * s.Steps,
                EpisodesPerUpdate = BatchSize,
                GroupSize = BatchSize,
                MaxResponseTokens = 4,
                LearningRate = 1e-3,
                UnfinishedScore = null,
                PromptColumnName = "Prompt" + s.Suffix,
                CompletionColumnName = "Completion" + s.Suffix,
                Lora = s.Lora,
                Seed = s.Seed,
                Progress = s.Progress,
                CancellationToken = s.CancellationToken,
                Checkpoints = s.Checkpoints,
                WhenCanceled = s.WhenCanceled,
            }),
            Stage.Rloo => trainers.Rloo(s.Model, s.Reward ?? ((_, completion) => completion.Sum(c => c) / 100f), new RlooOptions
            {
                Episodes = BatchSize * s.Steps,
                EpisodesPerUpdate = BatchSize,
                GroupSize = BatchSize,
                MaxResponseTokens = 4,
                LearningRate = 1e-3,
                UnfinishedScore = null,
                PromptColumnName = "Prompt" + s.Suffix,
                CompletionColumnName = "Completion" + s.Suffix,
                Lora = s.Lora,
                Seed = s.Seed,
                Progress = s.Progress,
                CancellationToken = s.CancellationToken,
                Checkpoints = s.Checkpoints,
                WhenCanceled = s.WhenCanceled,
            }),
            Stage.Dpo => trainers.Dpo(s.Model, new DpoOptions
            {
                Epochs = epochs,
                BatchSize = BatchSize,
                PromptColumnName = "Prompt" + s.Suffix,
                ChosenColumnName = "Chosen" + s.Suffix,
                RejectedColumnName = "Rejected" + s.Suffix,
                CompletionColumnName = "Completion" + s.Suffix,
                Lora = s.Lora,
                Seed = s.Seed,
                Progress = s.Progress,
                CancellationToken = s.CancellationToken,
                Checkpoints = s.Checkpoints,
                WhenCanceled = s.WhenCanceled,
                ValidationData = s.ValidationData,
            }),
            Stage.Kto => trainers.Kto(s.Model, new KtoOptions
            {
                Epochs = epochs,
                BatchSize = BatchSize,
                PromptColumnName = "Prompt" + s.Suffix,
                CompletionColumnName = "Completion" + s.Suffix,
                Lora = s.Lora,
                Seed = s.Seed,
                Progress = s.Progress,
                CancellationToken = s.CancellationToken,
                Checkpoints = s.Checkpoints,
                WhenCanceled = s.WhenCanceled,
                ValidationData = s.ValidationData,
            }),
            Stage.Orpo => trainers.Orpo(s.Model, new OrpoOptions
            {
                Epochs = epochs,
                BatchSize = BatchSize,
                PromptColumnName = "Prompt" + s.Suffix,
                ChosenColumnName = "Chosen" + s.Suffix,
                RejectedColumnName = "Rejected" + s.Suffix,
                CompletionColumnName = "Completion" + s.Suffix,
                Lora = s.Lora,
                Seed = s.Seed,
                Progress = s.Progress,
                CancellationToken = s.CancellationToken,
                Checkpoints = s.Checkpoints,
                WhenCanceled = s.WhenCanceled,
                ValidationData = s.ValidationData,
            }),
            Stage.EncoderDecoder => trainers.EncoderDecoder(new EncoderDecoderOptions
            {
                Architecture = Tiny.EncoderDecoderArchitecture,
                Tokenizer = Tiny.Letters,
                Epochs = epochs,
                BatchSize = BatchSize,
                Dropout = s.Dropout,
                PromptColumnName = "Prompt" + s.Suffix,
                CompletionColumnName = "Completion" + s.Suffix,
                Seed = s.Seed,
                Progress = s.Progress,
                CancellationToken = s.CancellationToken,
                Checkpoints = s.Checkpoints,
                WhenCanceled = s.WhenCanceled,
                ValidationData = s.ValidationData,
                Sampling = new SamplingOptions { MaxNewTokens = 4 },
            }),
            Stage.MaskedLanguageModel => trainers.MaskedLanguageModel(new MaskedLanguageModelOptions
            {
                Architecture = Tiny.EncoderArchitecture,
                Tokenizer = Tiny.EncoderTokenizer,
                Steps = s.Steps,
                BatchSize = BatchSize,
                EvaluateEvery = 2,
                Dropout = s.Dropout,
                TextColumnName = "Text" + s.Suffix,
                FeaturesColumnName = "Features" + s.Suffix,
                Seed = s.Seed,
                Progress = s.Progress,
                CancellationToken = s.CancellationToken,
                Checkpoints = s.Checkpoints,
                WhenCanceled = s.WhenCanceled,
                ValidationData = s.ValidationData,
            }),
            _ => throw new ArgumentOutOfRangeException(nameof(stage)),
        };
    }

    /// <summary>Eight rows with the columns that the trainer reads, and no others.</summary>
    public static IDataView Data(this Stage stage, MLContext ml) => stage switch
    {
        Stage.Gpt or Stage.Lstm or Stage.MaskedLanguageModel => ml.Data.LoadFromEnumerable(Tiny.Documents),
        Stage.FineTuning or Stage.EncoderDecoder => ml.Data.LoadFromEnumerable(Tiny.Demonstrations),
        Stage.RewardModel or Stage.Dpo or Stage.Orpo => ml.Data.LoadFromEnumerable(Tiny.Preferences),
        Stage.Kto => ml.Data.LoadFromEnumerable(Tiny.Feedback),
        _ => ml.Data.LoadFromEnumerable(Tiny.Prompts),
    };

    /// <summary>The text columns that the trainer reads, with what errors call them.</summary>
    public static (string Column, string Role)[] Inputs(this Stage stage) => stage switch
    {
        Stage.Gpt or Stage.Lstm or Stage.MaskedLanguageModel => [("Text", "text")],
        Stage.FineTuning or Stage.Kto or Stage.EncoderDecoder => [("Prompt", "prompt"), ("Completion", "completion")],
        Stage.RewardModel or Stage.Dpo or Stage.Orpo => [("Prompt", "prompt"), ("Chosen", "chosen"), ("Rejected", "rejected")],
        _ => [("Prompt", "prompt")],
    };

    public static string Output(this Stage stage) => stage switch
    {
        Stage.RewardModel => "Score",
        Stage.MaskedLanguageModel => "Features",
        _ => "Completion",
    };

    /// <summary>What messages call the rows.</summary>
    public static string Rows(this Stage stage) => stage switch
    {
        Stage.Gpt or Stage.Lstm or Stage.MaskedLanguageModel => "documents",
        Stage.FineTuning or Stage.EncoderDecoder => "demonstrations",
        Stage.RewardModel or Stage.Dpo or Stage.Orpo => "preferences",
        Stage.Kto => "judged answers",
        _ => "prompts",
    };

    public static string LogSource(this Stage stage) => stage switch
    {
        Stage.Gpt => "GptTrainer",
        Stage.FineTuning => "SupervisedFineTuningTrainer",
        Stage.RewardModel => "RewardModelTrainer",
        _ => stage + "Trainer",
    };

    public static string ProgressName(this Stage stage) => stage switch
    {
        Stage.Gpt => "GPT",
        Stage.FineTuning => "SFT",
        Stage.RewardModel => "Reward model",
        Stage.EncoderDecoder => "Encoder-decoder",
        Stage.MaskedLanguageModel => "MLM",
        _ => stage.ToString().ToUpperInvariant(),
    };
}

/// <summary>Runs a theory for each trainer.</summary>
internal sealed class EveryStageAttribute : Xunit.v3.DataAttribute
{
    public override ValueTask<IReadOnlyCollection<ITheoryDataRow>> GetData(MethodInfo testMethod, DisposalTracker disposalTracker) =>
        new([.. Enum.GetValues<Stage>().Select(stage => new TheoryDataRow<Stage>(stage))]);

    public override bool SupportsDiscoveryEnumeration() => true;
}
