using System.Reflection;
using Microsoft.ML;

namespace ML.Rlhf.Tests.Catalog;

/// <summary>Each trainer has a method with a few arguments and one with options: they must mean the same.</summary>
public sealed class OverloadTests
{
    private static readonly Func<string, string, float> s_rule = (_, completion) => completion.Length;

    private readonly TrainerCatalog _trainers = new MLContext(seed: 1).Rlhf().Trainers;

    [Fact]
    public void Without_arguments_the_options_have_their_defaults()
    {
        Assert.Equal(new GptOptions(), Options(_trainers.Gpt()));
        Assert.Equal(new LstmOptions(), Options(_trainers.Lstm()));
        Assert.Equal(new SupervisedFineTuningOptions(), Options(_trainers.SupervisedFineTuning(Tiny.Model)));
        Assert.Equal(new RewardModelOptions(), Options(_trainers.RewardModel(Tiny.Model)));
        Assert.Equal(new DpoOptions(), Options(_trainers.Dpo(Tiny.Model)));
        Assert.Equal(new KtoOptions(), Options(_trainers.Kto(Tiny.Model)));
        Assert.Equal(new OrpoOptions(), Options(_trainers.Orpo(Tiny.Model)));
        Assert.Equal(new EncoderDecoderOptions(), Options(_trainers.EncoderDecoder()));
        Assert.Equal(new MaskedLanguageModelOptions(), Options(_trainers.MaskedLanguageModel()));
        var ppo = new PpoOptions { MaxResponseTokens = 8 };
        Assert.Equal(ppo, Options(_trainers.Ppo(Tiny.Model, s_rule, ppo)));
    }

    [Fact]
    public void Arguments_are_the_options_of_the_same_name()
    {
        Assert.Equal(
            new GptOptions { TextColumnName = "A", Architecture = Tiny.Architecture, Steps = 7 },
            Options(_trainers.Gpt("A", Tiny.Architecture, 7)));
        Assert.Equal(
            new LstmOptions { TextColumnName = "A", Architecture = Tiny.Recurrent, Steps = 7 },
            Options(_trainers.Lstm("A", Tiny.Recurrent, 7)));
        Assert.Equal(
            new SupervisedFineTuningOptions { PromptColumnName = "A", CompletionColumnName = "B", Epochs = 7 },
            Options(_trainers.SupervisedFineTuning(Tiny.Model, "A", "B", 7)));
        Assert.Equal(
            new RewardModelOptions { PromptColumnName = "A", ChosenColumnName = "B", RejectedColumnName = "C", Epochs = 7 },
            Options(_trainers.RewardModel(Tiny.Model, "A", "B", "C", 7)));
        Assert.Equal(
            new DpoOptions { PromptColumnName = "A", ChosenColumnName = "B", RejectedColumnName = "C", Epochs = 7 },
            Options(_trainers.Dpo(Tiny.Model, "A", "B", "C", 7)));
        Assert.Equal(
            new KtoOptions { PromptColumnName = "A", CompletionColumnName = "B", LabelColumnName = "C", Epochs = 7 },
            Options(_trainers.Kto(Tiny.Model, "A", "B", "C", 7)));
        Assert.Equal(
            new OrpoOptions { PromptColumnName = "A", ChosenColumnName = "B", RejectedColumnName = "C", Epochs = 7 },
            Options(_trainers.Orpo(Tiny.Model, "A", "B", "C", 7)));
        Assert.Equal(
            new EncoderDecoderOptions
            {
                PromptColumnName = "A", CompletionColumnName = "B", Architecture = EncoderDecoderArchitecture.Base, Epochs = 7,
            },
            Options(_trainers.EncoderDecoder("A", "B", EncoderDecoderArchitecture.Base, 7)));
        Assert.Equal(
            new MaskedLanguageModelOptions { TextColumnName = "A", Architecture = Tiny.EncoderArchitecture, Steps = 7 },
            Options(_trainers.MaskedLanguageModel("A", Tiny.EncoderArchitecture, 7)));
    }

    /// <summary>A context of 33 tokens holds PPO's default of 32 response tokens.</summary>
    [Fact]
    public void The_methods_of_PPO_mean_the_same_for_a_model_a_transformer_and_a_function()
    {
        using var model = Tiny.Train(architecture: Tiny.Architecture with { ContextLength = 33 });
        var chosen = new PpoOptions { PromptColumnName = "A", KlCoefficient = 0.5, Episodes = 7 };

        Assert.Equal(new PpoOptions(), Options(_trainers.Ppo(model, s_rule)));
        Assert.Equal(new PpoOptions(), Options(_trainers.Ppo(model, Tiny.Reward)));
        Assert.Equal(chosen, Options(_trainers.Ppo(model, s_rule, "A", 0.5, 7)));
        Assert.Equal(chosen, Options(_trainers.Ppo(model, Tiny.Reward, "A", 0.5, 7)));
    }

    [Fact]
    public void The_methods_of_GRPO_and_RLOO_mean_the_same_for_a_model_a_transformer_and_a_function()
    {
        using var model = Tiny.Train(architecture: Tiny.Architecture with { ContextLength = 33 });
        var grpo = new GrpoOptions { PromptColumnName = "A", KlCoefficient = 0.5, Episodes = 7 };
        var rloo = new RlooOptions { PromptColumnName = "A", KlCoefficient = 0.5, Episodes = 7 };

        Assert.Equal(new GrpoOptions(), Options(_trainers.Grpo(model, s_rule)));
        Assert.Equal(new GrpoOptions(), Options(_trainers.Grpo(model, Tiny.Reward)));
        Assert.Equal(grpo, Options(_trainers.Grpo(model, s_rule, "A", 0.5, 7)));
        Assert.Equal(grpo, Options(_trainers.Grpo(model, Tiny.Reward, "A", 0.5, 7)));
        Assert.Equal(new RlooOptions(), Options(_trainers.Rloo(model, s_rule)));
        Assert.Equal(new RlooOptions(), Options(_trainers.Rloo(model, Tiny.Reward)));
        Assert.Equal(rloo, Options(_trainers.Rloo(model, s_rule, "A", 0.5, 7)));
        Assert.Equal(rloo, Options(_trainers.Rloo(model, Tiny.Reward, "A", 0.5, 7)));
    }

    [Fact]
    public void Nothing_may_be_null()
    {
        Assert.Throws<ArgumentNullException>("ml", () => RlhfExtensions.Rlhf(null!));
        Assert.Throws<ArgumentNullException>("options", () => _trainers.Gpt((GptOptions)null!));
        Assert.Throws<ArgumentNullException>("options", () => _trainers.EncoderDecoder((EncoderDecoderOptions)null!));
        Assert.Throws<ArgumentNullException>("options", () => _trainers.Lstm((LstmOptions)null!));
        Assert.Throws<ArgumentNullException>("options", () => _trainers.MaskedLanguageModel((MaskedLanguageModelOptions)null!));
        Assert.Throws<ArgumentNullException>("model", () => _trainers.SupervisedFineTuning(null!));
        Assert.Throws<ArgumentNullException>(
            "options", () => _trainers.SupervisedFineTuning(Tiny.Model, (SupervisedFineTuningOptions)null!));
        Assert.Throws<ArgumentNullException>("model", () => _trainers.RewardModel(null!));
        Assert.Throws<ArgumentNullException>("options", () => _trainers.RewardModel(Tiny.Model, (RewardModelOptions)null!));
        Assert.Throws<ArgumentNullException>("model", () => _trainers.Dpo(null!));
        Assert.Throws<ArgumentNullException>("options", () => _trainers.Dpo(Tiny.Model, (DpoOptions)null!));
        Assert.Throws<ArgumentNullException>("model", () => _trainers.Kto(null!));
        Assert.Throws<ArgumentNullException>("options", () => _trainers.Kto(Tiny.Model, (KtoOptions)null!));
        Assert.Throws<ArgumentNullException>("model", () => _trainers.Orpo(null!));
        Assert.Throws<ArgumentNullException>("options", () => _trainers.Orpo(Tiny.Model, (OrpoOptions)null!));
        Assert.Throws<ArgumentNullException>("model", () => _trainers.Ppo(null!, s_rule));
        Assert.Throws<ArgumentNullException>("reward", () => _trainers.Ppo(Tiny.Model, (ITransformer)null!));
        Assert.Throws<ArgumentNullException>("reward", () => _trainers.Ppo(Tiny.Model, (Func<string, string, float>)null!));
        Assert.Throws<ArgumentNullException>("options", () => _trainers.Ppo(Tiny.Model, s_rule, null!));
        Assert.Throws<ArgumentNullException>("model", () => _trainers.Grpo(null!, s_rule));
        Assert.Throws<ArgumentNullException>("reward", () => _trainers.Grpo(Tiny.Model, (Reward)null!, new GrpoOptions()));
        Assert.Throws<ArgumentNullException>("options", () => _trainers.Grpo(Tiny.Model, s_rule, null!));
        Assert.Throws<ArgumentNullException>("model", () => _trainers.Rloo(null!, s_rule));
        Assert.Throws<ArgumentNullException>("reward", () => _trainers.Rloo(Tiny.Model, (Reward)null!, new RlooOptions()));
        Assert.Throws<ArgumentNullException>("options", () => _trainers.Rloo(Tiny.Model, s_rule, null!));
    }

    /// <summary>Trainers keep their options to themselves; records compare by value.</summary>
    private static object Options(object trainer) =>
        trainer.GetType().GetField("_options", BindingFlags.Instance | BindingFlags.NonPublic)!.GetValue(trainer)!;
}
