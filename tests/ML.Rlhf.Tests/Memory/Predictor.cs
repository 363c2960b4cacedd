using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf.Tests.Memory;

/// <summary>What users ask of fitted models, again and again, each time of another text.</summary>
internal static class Predictor
{
    private static readonly string[] s_prompts = [.. Tiny.Prompts.Select(p => p.Prompt)];

    private static readonly SamplingOptions s_short = new() { MaxNewTokens = 2 };

    public static IReadOnlyList<string> Names { get; } =
    [
        "generate", "generate-rows", "generate-lstm", "stream", "chat", "attention", "text-to-text", "best-of-n", "score", "embed",
        "fill-mask",
    ];

    /// <summary>One item per prediction, without end.</summary>
    public static IEnumerable<object?> Repeat(string name) => name switch
    {
        "generate" => Engine<Generated>(Tiny.Model.WithSampling(s_short)),
        "generate-rows" => Rows(),
        "generate-lstm" => Recurrent(),
        "stream" => Each(Tiny.Model, (model, prompt) => Stream(model, prompt).Result),
        "chat" => Each(
            Tiny.Model.WithChatTemplate(new ChatTemplateCatalog().FromJinja("{% for m in messages %}{{ m.content }} {% endfor %}")),
            (model, prompt) => model.Chat([ChatMessage.User(prompt), ChatMessage.Assistant("a"), ChatMessage.User("b")], s_short)),
        "attention" => Each(Tiny.Model, (model, prompt) => model.GetAttentionWeights(prompt)),
        "text-to-text" => Each(Tiny.TextToText.WithSampling(s_short), (model, prompt) => model.Generate(prompt)),
        "best-of-n" => Each(
            new MLContext(seed: 1).Rlhf().Transforms.BestOfN(Tiny.Model.WithSampling(s_short), Tiny.Reward, 3),
            (model, prompt) => model.Generate(prompt)),
        "score" => Each(Tiny.Reward, (model, prompt) => model.Score(prompt, "moo")),
        "embed" => Each(Tiny.Encoder, (model, prompt) => model.Embed(prompt)),
        "fill-mask" => Each(Tiny.Encoder, (model, prompt) => model.FillMask($"the {model.MaskToken} {prompt}")),
        _ => throw new ArgumentOutOfRangeException(nameof(name), name, "There is no such prediction."),
    };

    private static IEnumerable<object?> Each<TModel>(TModel model, Func<TModel, string, object?> predict)
    {
        for (int i = 0; ; i++)
            yield return predict(model, s_prompts[i % s_prompts.Length]);
    }

    private static IEnumerable<object?> Engine<TResult>(ITransformer model) where TResult : class, new()
    {
        using var engine = new MLContext(seed: 1).Model.CreatePredictionEngine<PromptOnly, TResult>(model);
        for (int i = 0; ; i++)
            yield return engine.Predict(new PromptOnly { Prompt = s_prompts[i % s_prompts.Length] });
    }

    private static IEnumerable<object?> Rows()
    {
        var ml = new MLContext(seed: 1);
        var prompts = ml.Data.LoadFromEnumerable(Enumerable.Range(0, int.MaxValue).Select(i => Tiny.Prompts[i % 8]));
        return ml.Data.CreateEnumerable<Generated>(Tiny.Model.WithSampling(s_short).Transform(prompts), reuseRowObject: false);
    }

    private static async Task<string> Stream(TextGenerationTransformer model, string prompt)
    {
        string text = "";
        await foreach (string piece in model.GenerateStreamingAsync(prompt, s_short).ConfigureAwait(false))
            text += piece;
        return text;
    }

    private static IEnumerable<object?> Recurrent()
    {
        var ml = new MLContext(seed: 1);
        using var model = ml.Rlhf().Trainers.Lstm(new LstmOptions
        {
            Architecture = Tiny.Recurrent, Tokenizer = Tiny.Letters, Steps = 2, BatchSize = 4, Sampling = s_short,
        }).Fit(ml.Data.LoadFromEnumerable(Tiny.Documents)); // disposed: the models that come next are counted exactly
        foreach (object? text in Each(model, (lstm, prompt) => lstm.Generate(prompt)))
            yield return text;
    }
}
