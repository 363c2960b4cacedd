using Microsoft.ML;

namespace ML.Rlhf.Tests.Catalog;

/// <summary>Options that are out of range: one exception when the trainer is made, which names everything.</summary>
public sealed class InvalidOptionsTests
{
    private const string Optimization =
        "LearningRate is -1, but must be a finite number above 0; WarmupSteps is -2, but must be at least 0; " +
        "LearningRateDecay is 9, but must be Cosine, Linear, Constant or InverseSquareRoot; MinimumLearningRateRatio is 1.5, but must be in [0, 1]; " +
        "Beta1 is 1, but must be in [0, 1); Beta2 is NaN, but must be in [0, 1); Epsilon is 0, but must be a finite number above 0; " +
        "AdamForm is 2, but must be PyTorch or TensorFlow; " +
        "WeightDecay is -0.1, but must be a finite number of at least 0; GradientClipping is 0, but must be above 0 (infinity turns clipping off); " +
        "MicroBatchSize is 0, but must be at least 1, or null for the whole batch; ";

    private const string Sampling =
        "SamplingOptions: MaxNewTokens is 0, but must be at least 1; Temperature is -1, but must be 0 (always the likeliest token), or " +
        "finite and at least 0.001; " +
        "TopK is -1, but must be at least 0 (0 draws from all tokens); TopP is 1.5, but must be above 0 and at most 1";

    private static readonly SamplingOptions s_badSampling = new() { MaxNewTokens = 0, Temperature = -1, TopK = -1, TopP = 1.5f };

    private readonly TrainerCatalog _trainers = new MLContext(seed: 1).Rlhf().Trainers;

    [Fact]
    public void Gpt()
    {
        var options = new GptOptions
        {
            LearningRate = -1, WarmupSteps = -2, LearningRateDecay = (LearningRateDecay)9, MinimumLearningRateRatio = 1.5, Beta1 = 1,
            Beta2 = double.NaN, Epsilon = 0, AdamForm = (AdamForm)2, WeightDecay = -0.1, GradientClipping = 0, MicroBatchSize = 0,
            Steps = 0, BatchSize = 0, Dropout = 1, EvaluateEvery = 0,
            Architecture = new GptArchitecture { Layers = 0, Heads = 2, Width = 3, ContextLength = 1, VocabularySize = 1 },
            Sampling = s_badSampling,
        };

        Assert.Equal(
            $"GptOptions: {Optimization}Steps is 0, but must be at least 1; BatchSize is 0, but must be at least 1; " +
            "Dropout is 1, but must be in [0, 1); EvaluateEvery is 0, but must be at least 1; " +
            "GptArchitecture: Layers is 0, but must be from 1 to 10000; ContextLength is 1, but must be from 2 to 16777216; " +
            "VocabularySize is 1, but must be from 2 to 16777216; Width is 3, but must be a positive multiple of Heads (2), at most " +
            "1048576; " +
            $"{Sampling}.",
            Assert.Throws<ArgumentException>(() => _trainers.Gpt(options)).Message);
    }

    [Fact]
    public void Lstm()
    {
        var options = new LstmOptions
        {
            Steps = 0,
            TextColumnName = " ", TokenFile = " ",
            Architecture = new LstmArchitecture { Layers = 0, Width = 0, ContextLength = 32, VocabularySize = 29 },
            Sampling = s_badSampling,
        };

        Assert.Equal(
            "LstmOptions: Steps is 0, but must be at least 1; TextColumnName is empty, but must be the name of a column; " +
            "TokenFile is empty, but must be the path of a file, or null to keep tokens in memory; " +
            $"LstmArchitecture: Layers is 0, but must be from 1 to 10000; Width is 0, but must be from 1 to 1048576; {Sampling}.",
            Assert.Throws<ArgumentException>(() => _trainers.Lstm(options)).Message);
        Assert.Throws<ArgumentNullException>("Architecture", () => _trainers.Lstm(new LstmOptions { Architecture = null! }));
    }

    [Fact]
    public void A_GPT_of_an_LSTMs_shape() => Assert.Equal(
        "GptOptions: Architecture is LstmArchitecture, but must be a transformer's (for an LSTM, use TrainerCatalog.Lstm).",
        Assert.Throws<ArgumentException>(() => _trainers.Gpt(new GptOptions { Architecture = LstmArchitecture.Nano })).Message);

    [Fact]
    public void Masked_language_model()
    {
        var options = new MaskedLanguageModelOptions
        {
            Steps = 0, BatchSize = 0, Dropout = 1, EvaluateEvery = 0, MaskingRate = 0,
            Architecture = EncoderArchitecture.Nano with { Layers = 0, MaskedLanguageModelHead = false },
            Tokenizer = Tiny.Letters, TextColumnName = "", FeaturesColumnName = " ", Pooling = (EmbeddingPooling)9,
        };

        Assert.Equal(
            "MaskedLanguageModelOptions: Steps is 0, but must be at least 1; BatchSize is 0, but must be at least 1; " +
            "Dropout is 1, but must be in [0, 1); EvaluateEvery is 0, but must be at least 1; " +
            "MaskingRate is 0, but must be above 0 and at most 0.5; " +
            "EncoderArchitecture: Layers is 0, but must be from 1 to 10000; " +
            "Architecture.MaskedLanguageModelHead is False, but must be true: it is what is trained; " +
            "An encoder needs the special tokens [CLS], [SEP] and [MASK], or <s>, </s> and <mask>, but the character " +
            "tokenizer of 29 tokens has <|endoftext|>. Take the tokenizer of an encoder, or none: the trainer makes one; " +
            "TextColumnName is empty, but must be the name of a column; FeaturesColumnName is empty, but must be the name of a column; " +
            "Pooling is 9, but must be Mean or Cls.",
            Assert.Throws<ArgumentException>(() => _trainers.MaskedLanguageModel(options)).Message);
    }

    [Fact]
    public void Fine_tuning()
    {
        var options = new SupervisedFineTuningOptions { Epochs = 0, BatchSize = -1, Dropout = -0.5, Sampling = s_badSampling };

        Assert.Equal(
            "SupervisedFineTuningOptions: Epochs is 0, but must be at least 1; BatchSize is -1, but must be at least 1; " +
            $"Dropout is -0.5, but must be in [0, 1); {Sampling}.",
            Assert.Throws<ArgumentException>(() => _trainers.SupervisedFineTuning(Tiny.Model, options)).Message);
    }

    [Fact]
    public void Encoder_decoder()
    {
        var options = new EncoderDecoderOptions
        {
            Epochs = 0, BatchSize = -1, Dropout = 1, LabelSmoothing = 1, PromptColumnName = "",
            Architecture = EncoderDecoderArchitecture.Tiny with { Heads = 3 }, Sampling = s_badSampling,
        };

        Assert.Equal(
            "EncoderDecoderOptions: Epochs is 0, but must be at least 1; BatchSize is -1, but must be at least 1; Dropout is 1, but must " +
            "be in [0, 1); LabelSmoothing is 1, but must be in [0, 1); PromptColumnName is empty, but must be the name of a column; " +
            "EncoderDecoderArchitecture: Width is 64, but must be an even multiple of Heads (3), at most 1048576; " +
            $"{Sampling}.",
            Assert.Throws<ArgumentException>(() => _trainers.EncoderDecoder(options)).Message);
    }

    [Fact]
    public void Fine_tuning_on_conversations()
    {
        void Refuse(SupervisedFineTuningOptions options, string problems) => Assert.StartsWith(
            "SupervisedFineTuningOptions: " + problems,
            Assert.Throws<ArgumentException>(() => _trainers.SupervisedFineTuning(Tiny.Model, options)).Message);
        var template = new ChatTemplateCatalog().HumanAssistant();

        Refuse(
            new() { MessagesColumnName = "", RolesColumnName = "R" },
            "MessagesColumnName is empty, but must be the name of a column; " +
            "ContentsColumnName is null, but must be a column, for there is a RolesColumnName; " +
            "MessagesColumnName is , but must be null, for there is a RolesColumnName.");
        Refuse(
            new() { ContentsColumnName = "C" }, "ContentsColumnName is C, but must be null, for there is no RolesColumnName.");
        Refuse(
            new() { ChatTemplate = template }, "ChatTemplate is given, but must be null, for no column of conversations is named: set");
        Refuse(
            new() { MessagesColumnName = "M" },
            "ChatTemplate is null and the model has none, but conversations need one. Choose one of Rlhf().ChatTemplates: ");
        Refuse(
            new() { MessagesColumnName = "M", ChatTemplate = new ChatTemplateCatalog().ChatML() },
            "ChatTemplate ends what the assistant says with no special token of the model's tokenizer (which has <|endoftext|>), so the " +
            "model would never learn to stop. Use a template that ends it with one of these, as HumanAssistant() does.");
    }

    [Fact]
    public void Reward_model()
    {
        var options = new RewardModelOptions
        {
            LearningRate = double.PositiveInfinity, Epochs = 0, BatchSize = 0, CenteringCoefficient = -1,
            Normalization = (ScoreNormalization)9, RanksColumnName = "Ranks", WeightColumnName = "",
        };

        Assert.Equal(
            "RewardModelOptions: LearningRate is Infinity, but must be a finite number above 0; Epochs is 0, but must be at least 1; " +
            "BatchSize is 0, but must be at least 1; CenteringCoefficient is -1, but must be a finite number of at least 0; " +
            "Normalization is 9, but must be None, TrainingAnswers, Demonstrations or PolicySamples; " +
            "WeightColumnName is empty, but must be the name of a column; " +
            "RanksColumnName, RatingsColumnName is Ranks, but must be null, for there is no AnswersColumnName.",
            Assert.Throws<ArgumentException>(() => _trainers.RewardModel(Tiny.Model, options)).Message);
    }

    [Theory]
    [InlineData(null, null, "null")]
    [InlineData("A", "B", "A, B")]
    public void Ranked_answers_need_either_ranks_or_ratings(string? ranks, string? ratings, string found)
    {
        var options = new RewardModelOptions { AnswersColumnName = "Answers", RanksColumnName = ranks, RatingsColumnName = ratings };

        Assert.Equal(
            $"RewardModelOptions: RanksColumnName, RatingsColumnName is {found}, but must be one of the two, for there is an " +
            "AnswersColumnName.",
            Assert.Throws<ArgumentException>(() => _trainers.RewardModel(Tiny.Model, options)).Message);
    }

    [Fact]
    public void Demonstrations_are_given_when_scores_are_normalised_over_them_and_only_then()
    {
        var data = new MLContext().Data.LoadFromEnumerable(Tiny.Demonstrations);

        Assert.Equal(
            "RewardModelOptions: Demonstrations is null, but must be data with prompts and completions when Normalization is " +
            "Demonstrations.",
            Assert.Throws<ArgumentException>(() => _trainers.RewardModel(
                Tiny.Model, new RewardModelOptions { Normalization = ScoreNormalization.Demonstrations })).Message);
        Assert.Equal(
            "RewardModelOptions: Demonstrations is given, but must be null when Normalization is TrainingAnswers.",
            Assert.Throws<ArgumentException>(() => _trainers.RewardModel(
                Tiny.Model, new RewardModelOptions { Demonstrations = data })).Message);
    }

    [Fact]
    public void Dpo()
    {
        var options = new DpoOptions
        {
            LossType = (DpoLossType)9, Beta = 0, LabelSmoothing = 0.5, Epochs = 0, BatchSize = 0, ChosenColumnName = "",
            Sampling = s_badSampling,
        };

        Assert.Equal(
            "DpoOptions: LossType is 9, but must be Sigmoid, Hinge, Ipo or Robust; Beta is 0, but must be a finite number above 0; " +
            "LabelSmoothing is 0.5, but must be in [0, 0.5); Epochs is 0, but must be at least 1; " +
            $"BatchSize is 0, but must be at least 1; ChosenColumnName is empty, but must be the name of a column; {Sampling}.",
            Assert.Throws<ArgumentException>(() => _trainers.Dpo(Tiny.Model, options)).Message);
        Assert.Equal(
            "DpoOptions: LabelSmoothing is 0.1, but must be 0 with the loss Ipo.",
            Assert.Throws<ArgumentException>(
                () => _trainers.Dpo(Tiny.Model, new DpoOptions { LossType = DpoLossType.Ipo, LabelSmoothing = 0.1 })).Message);
    }

    [Fact]
    public void Kto()
    {
        var options = new KtoOptions
        {
            Beta = double.NaN, DesirableWeight = -1, UndesirableWeight = double.PositiveInfinity, Epochs = 0, BatchSize = 0,
            LabelColumnName = " ", Sampling = s_badSampling,
        };

        Assert.Equal(
            "KtoOptions: Beta is NaN, but must be a finite number above 0; DesirableWeight is -1, but must be a finite number of at " +
            "least 0; UndesirableWeight is Infinity, but must be a finite number of at least 0; Epochs is 0, but must be at least 1; " +
            $"BatchSize is 0, but must be at least 1; LabelColumnName is empty, but must be the name of a column; {Sampling}.",
            Assert.Throws<ArgumentException>(() => _trainers.Kto(Tiny.Model, options)).Message);
    }

    [Fact]
    public void Orpo()
    {
        var options = new OrpoOptions { Beta = -0.1, Epochs = 0, BatchSize = 0, RejectedColumnName = "", Sampling = s_badSampling };

        Assert.Equal(
            "OrpoOptions: Beta is -0.1, but must be a finite number of at least 0; Epochs is 0, but must be at least 1; " +
            $"BatchSize is 0, but must be at least 1; RejectedColumnName is empty, but must be the name of a column; {Sampling}.",
            Assert.Throws<ArgumentException>(() => _trainers.Orpo(Tiny.Model, options)).Message);
    }

    [Fact]
    public void Ppo()
    {
        var options = new PpoOptions
        {
            Episodes = 0, EpisodesPerUpdate = 4, EpochsPerUpdate = 0, MinibatchesPerEpoch = 5, MaxResponseTokens = 0, Temperature = 0,
            KlCoefficient = double.NaN, UnfinishedScore = double.NegativeInfinity, Gamma = 1.1, Lambda = -0.1,
            ClipRange = 0, ValueClipRange = 0, ValueCoefficient = -1, EntropyCoefficient = -1, Sampling = s_badSampling,
        };

        Assert.Equal(
            "PpoOptions: Episodes is 0, but must be at least 1; EpochsPerUpdate is 0, but must be at least 1; " +
            "MinibatchesPerEpoch is 5, but must be at least 1 and at most EpisodesPerUpdate (4); " +
            "MaxResponseTokens is 0, but must be at least 1; " +
            "Temperature is 0, but must be finite and at least 0.001; KlCoefficient is NaN, but must be a finite number of at least 0; " +
            "UnfinishedScore is -Infinity, but must be finite or null; ClipRange is 0, but must be above 0; " +
            "Gamma is 1.1, but must be in [0, 1]; " +
            "Lambda is -0.1, but must be in [0, 1]; ValueClipRange is 0, but must be above 0; " +
            "ValueCoefficient is -1, but must be a finite number of at least 0; " +
            $"EntropyCoefficient is -1, but must be a finite number of at least 0; {Sampling}.",
            Assert.Throws<ArgumentException>(() => _trainers.Ppo(Tiny.Model, Tiny.Reward, options)).Message);
    }

    [Fact]
    public void Options_of_Ppo_that_have_no_effect_without_others_or_are_null()
    {
        string Error(PpoOptions options) => Assert.Throws<ArgumentException>(() => _trainers.Ppo(Tiny.Model, Tiny.Reward, options)).Message;

        Assert.Equal(
            "PpoOptions: KlCoefficient is 0, but must be above 0 where TargetKl is given: it is multiplied, and 0 stays 0.",
            Error(new() { TargetKl = 6, KlCoefficient = 0 }));
        Assert.Equal("PpoOptions: KlHorizon is 100, but must be null without a TargetKl.", Error(new() { KlHorizon = 100 }));
        Assert.Equal("PpoOptions: Alarms is null, but must be AlarmOptions; Ignore turns all off.", Error(new() { Alarms = null! }));
        Assert.Equal(
            "PpoOptions: Alarms.Policies is null, but must be a dictionary, which may be empty.",
            Error(new() { Alarms = new AlarmOptions { Policies = null! } }));
        Assert.Contains(
            "ValueCoefficient is Infinity, but must be a finite number", Error(new() { ValueCoefficient = double.PositiveInfinity }));
    }

    [Fact]
    public void Grpo()
    {
        var options = new GrpoOptions
        {
            EpisodesPerUpdate = 12, ClipRange = -1, ClipRangeHigh = 0, LossType = (GrpoLossType)9, AdvantageScaling = (AdvantageScaling)9,
            PromptColumnName = "", CompletionColumnName = "", Sampling = s_badSampling,
        };

        Assert.Equal(
            "GrpoOptions: ClipRange is -1, but must be above 0; EpisodesPerUpdate is 12, but must be a multiple of GroupSize (8); " +
            "ClipRangeHigh is 0, but must be above 0 or null; LossType is 9, but must be Grpo, Bnpo, DrGrpo or Dapo; " +
            "AdvantageScaling is 9, but must be Group, Batch or None; PromptColumnName is empty, but must be the name of a column; " +
            $"CompletionColumnName is empty, but must be the name of a column; {Sampling}.",
            Assert.Throws<ArgumentException>(() => _trainers.Grpo(Tiny.Model, Tiny.Reward, options)).Message);
    }

    [Fact]
    public void Rloo()
    {
        var options = new RlooOptions { GroupSize = 1, PromptColumnName = "", CompletionColumnName = "", Sampling = s_badSampling };

        Assert.Equal(
            "RlooOptions: GroupSize is 1, but must be at least 2; PromptColumnName is empty, but must be the name of a column; " +
            $"CompletionColumnName is empty, but must be the name of a column; {Sampling}.",
            Assert.Throws<ArgumentException>(() => _trainers.Rloo(Tiny.Model, Tiny.Reward, options)).Message);
    }

    [Fact]
    public void Sampling_options_of_a_model()
    {
        Assert.Equal(Sampling + ".", Assert.Throws<ArgumentException>(() => Tiny.Model.WithSampling(s_badSampling)).Message);
        Assert.Equal(Sampling + ".", Assert.Throws<ArgumentException>(() => Tiny.Model.Generate("cat", s_badSampling)).Message);
    }

    [Fact]
    public void Column_names_that_are_empty()
    {
        Assert.Equal(
            "RewardModelOptions: PromptColumnName is empty, but must be the name of a column; ScoreColumnName is empty, but must be the name of a column.",
            Assert.Throws<ArgumentException>(
                () => new MLContext().Rlhf().Trainers.RewardModel(Tiny.Model, new RewardModelOptions { PromptColumnName = "", ScoreColumnName = " " })).Message);
        Assert.Equal("PpoOptions: CompletionColumnName is empty, but must be the name of a column.", Assert.Throws<ArgumentException>(
            () => new MLContext().Rlhf().Trainers.Ppo(Tiny.Model, (_, _) => 0, new PpoOptions { CompletionColumnName = null! })).Message);
    }

    [Fact]
    public void Responses_that_do_not_fit_the_context()
    {
        Assert.Equal(
            "PpoOptions: MaxResponseTokens is 32, but the model's context is 32 tokens and must hold the prompt too. " +
            "Lower it, or use a model with a longer context.",
            Assert.Throws<ArgumentException>(() => _trainers.Ppo(Tiny.Model, Tiny.Reward)).Message);
        Assert.StartsWith("GrpoOptions: MaxResponseTokens is 32, but the model's context is 32 tokens",
            Assert.Throws<ArgumentException>(() => _trainers.Grpo(Tiny.Model, Tiny.Reward)).Message);
        Assert.StartsWith("RlooOptions: MaxResponseTokens is 32, but the model's context is 32 tokens",
            Assert.Throws<ArgumentException>(() => _trainers.Rloo(Tiny.Model, Tiny.Reward)).Message);
    }
}
