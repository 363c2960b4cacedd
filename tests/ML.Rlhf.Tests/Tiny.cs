using System.Reflection;
using Microsoft.ML;
using Microsoft.ML.Runtime;
using TorchSharp;

namespace ML.Rlhf.Tests;

/// <summary>Texts and models so small that a test can train one. The shared models must not be disposed or trained.</summary>
internal static class Tiny
{
    private static readonly Lazy<TextGenerationTransformer> s_model = new(() => Train());
    private static readonly Lazy<TextToTextTransformer> s_textToText = new(() => TrainTextToText());
    private static readonly Lazy<TextTokenizer> s_encoderTokenizer = new(TrainEncoderTokenizer);
    private static readonly Lazy<EncoderTransformer> s_encoder = new(() => TrainEncoder());
    private static readonly Lazy<RewardTransformer> s_reward = new(() => TrainReward(Model));

    public static GptArchitecture Architecture { get; } =
        GptArchitecture.Nano with { Layers = 1, Heads = 2, Width = 16, ContextLength = 32 };

    public static EncoderDecoderArchitecture EncoderDecoderArchitecture { get; } =
        EncoderDecoderArchitecture.Tiny with { Layers = 1, Heads = 2, Width = 16, FeedForwardWidth = 32, ContextLength = 32 };
    public static LstmArchitecture Recurrent { get; } = LstmArchitecture.Nano with { Layers = 1, Width = 16, ContextLength = 32 };

    public static EncoderArchitecture EncoderArchitecture { get; } =
        EncoderArchitecture.Nano with { Layers = 1, Heads = 2, Width = 16, FeedForwardWidth = 32, ContextLength = 32 };

    /// <summary>Byte-level BPE with the special tokens of an encoder.</summary>
    public static TextTokenizer EncoderTokenizer => s_encoderTokenizer.Value;

    /// <summary>Small letters, space and full stop; every other character is unknown to it.</summary>
    public static TextTokenizer Letters { get; } = CharacterTokenizer.Train(["abcdefghijklmnopqrstuvwxyz ."]);

    /// <summary>A small byte-level BPE: no text is unknown to it, and other libraries have its kind, too.</summary>
    public static TextTokenizer Bpe { get; } = ByteLevelBpeTrainer.Train(["the cat sat on the mat. the dog sat on the cat."], 270);

    public static Document[] Documents { get; } =
    [
        .. new[]
        {
            "the cat sat on the mat.", "a dog ran to the cat.", "the mat is red.", "a red dog sat.",
            "the cat ran.", "a cat is a cat.", "the dog is on the mat.", "red is the mat.",
        }.Select(text => new Document { Text = text }),
    ];

    public static Demonstration[] Demonstrations { get; } =
    [
        .. new[]
        {
            ("cat", "meow"), ("dog", "woof"), ("cow", "moo"), ("duck", "quack"),
            ("bee", "buzz"), ("owl", "hoot"), ("hen", "cluck"), ("pig", "oink"),
        }.Select(pair => new Demonstration { Prompt = pair.Item1, Completion = pair.Item2 }),
    ];

    public static Preference[] Preferences { get; } = [.. Demonstrations.Select((d, i) => new Preference
    {
        Prompt = d.Prompt,
        Chosen = d.Completion + " " + d.Completion,
        Rejected = "no" + (char)('a' + i),
    })];

    public static Feedback[] Feedback { get; } = [.. Demonstrations.Select((d, i) => new Feedback
    {
        Prompt = d.Prompt,
        Completion = d.Completion,
        Label = i % 3 != 0,
    })];

    public static PromptOnly[] Prompts { get; } = [.. Demonstrations.Select(d => new PromptOnly { Prompt = d.Prompt })];

    /// <summary>A GPT that completes the column Prompt with up to 6 letters.</summary>
    public static TextGenerationTransformer Model => s_model.Value;

    /// <summary>A reward model with the tokenizer of <see cref="Model"/>.</summary>
    public static RewardTransformer Reward => s_reward.Value;

    /// <summary>An encoder–decoder that answers the column Prompt with up to 6 letters, drawn at random.</summary>
    public static TextToTextTransformer TextToText => s_textToText.Value;

    public static TextToTextTransformer TrainTextToText(EncoderDecoderOptions? options = null)
    {
        var ml = new MLContext(seed: 1);
        return ml.Rlhf().Trainers.EncoderDecoder(options ?? new EncoderDecoderOptions
        {
            Architecture = EncoderDecoderArchitecture,
            Tokenizer = Letters,
            Epochs = 10,
            BatchSize = 4,
            LearningRate = 1e-2,
            WarmupSteps = 5,
            Dropout = 0, // it draws from libtorch's one generator, which tests share
            Sampling = new SamplingOptions { MaxNewTokens = 6 },
        }).Fit(ml.Data.LoadFromEnumerable(Demonstrations));
    }

    private static TextTokenizer TrainEncoderTokenizer() =>
        ByteLevelBpeTrainer.Train(Documents.Select(d => d.Text), vocabularySize: 280, EncoderTokens.OfNewTokenizers);

    /// <summary>An encoder that was trained on <see cref="Documents"/>.</summary>
    public static EncoderTransformer Encoder => s_encoder.Value;

    public static EncoderTransformer TrainEncoder(MaskedLanguageModelOptions? options = null)
    {
        var ml = new MLContext(seed: 1);
        return ml.Rlhf().Trainers.MaskedLanguageModel((options ?? new MaskedLanguageModelOptions()) with
        {
            Architecture = EncoderArchitecture,
            Tokenizer = EncoderTokenizer,
            Steps = 20,
            BatchSize = 4,
            LearningRate = 1e-2,
            WarmupSteps = 0,
        }).Fit(ml.Data.LoadFromEnumerable(Documents));
    }

    public static TextGenerationTransformer Train(
        TextTokenizer? tokenizer = null, GptArchitecture? architecture = null, SamplingOptions? sampling = null, int seed = 1)
    {
        var ml = new MLContext(seed);
        return ml.Rlhf().Trainers.Gpt(new GptOptions
        {
            Architecture = architecture ?? Architecture,
            Tokenizer = tokenizer ?? Letters,
            Steps = 20,
            BatchSize = 4,
            LearningRate = 1e-2,
            WarmupSteps = 0,
            PromptColumnName = "Prompt",
            Sampling = sampling ?? new SamplingOptions { MaxNewTokens = 6 },
        }).Fit(ml.Data.LoadFromEnumerable(Documents));
    }

    public static RewardTransformer TrainReward(TextGenerationTransformer model, RewardModelOptions? options = null)
    {
        var ml = new MLContext(seed: 1);
        return ml.Rlhf().Trainers.RewardModel(model, options ?? new RewardModelOptions { Epochs = 3, LearningRate = 1e-3 })
            .Fit(ml.Data.LoadFromEnumerable(Preferences));
    }

    /// <summary>The warnings that the context will log, as the trainers wrote them.</summary>
    public static List<string> Warnings(this MLContext ml)
    {
        var warnings = new List<string>();
        ml.Log += (_, e) =>
        {
            if (e.Kind == ChannelMessageKind.Warning)
                warnings.Add(e.RawMessage);
        };
        return warnings;
    }

    /// <summary>What AutoML calls when its time is over.</summary>
    public static void Cancel(this MLContext ml) =>
        typeof(MLContext).GetMethod("CancelExecution", BindingFlags.Instance | BindingFlags.NonPublic)!.Invoke(ml, null);

    public static IDataView View(this MLContext ml, params string[] prompts) =>
        ml.Data.LoadFromEnumerable(prompts.Select(prompt => new PromptOnly { Prompt = prompt }).ToArray());

    /// <summary>All weights of a model of this pack, one after another.</summary>
    public static float[] Weights(ITransformer model)
    {
        var module = model switch
        {
            RewardTransformer reward => reward.Module,
            TextToTextTransformer textToText => textToText.Module,
            EncoderTransformer encoder => encoder.Module,
            _ => ((TextGenerationTransformer)model).Module,
        };
        return [.. module.parameters().SelectMany(parameter => parameter.detach().cpu().data<float>().ToArray())];
    }

    /// <summary>Overwrites one parameter.</summary>
    public static void SetWeight(torch.nn.Module module, string name, torch.Tensor value)
    {
        using var noGrad = torch.no_grad();
        module.get_parameter(name)!.copy_(value);
    }
}

/// <summary>Keeps all progress records, in the order in which they came.</summary>
internal sealed class ProgressRecords(Action<TrainingProgress>? then = null) : List<TrainingProgress>, IProgress<TrainingProgress>
{
    public void Report(TrainingProgress value)
    {
        Add(value);
        then?.Invoke(value);
    }
}
