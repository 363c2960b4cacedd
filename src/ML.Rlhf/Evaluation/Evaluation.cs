using Microsoft.ML;
using Microsoft.ML.Runtime;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

/// <summary>Measures models on held-out data.</summary>
internal static class Evaluation
{
    public static LanguageModelMetrics LanguageModel(MLContext ml, TextGenerationTransformer model, IDataView data, string textColumn)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(data);
        var host = Register(ml);
        TextColumns.RequireText(host, data.Schema, "text", textColumn);
        var documents = Tokenization.Documents(data, textColumn, model.Tokenizer, Cancellation.Check(host));
        var loss = model.Use(network => NextTokenLoss.Corpus(network, documents));
        return Metrics(loss, PredictedCharacters(documents, model.Tokenizer));
    }

    public static LanguageModelMetrics Demonstrations(
        MLContext ml, TextGenerationTransformer model, IDataView data, string promptColumn, string completionColumn)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(data);
        var host = Register(ml);
        TextColumns.RequireText(host, data.Schema, "prompt", promptColumn);
        TextColumns.RequireText(host, data.Schema, "completion", completionColumn);
        using var channel = host.Start("Evaluating demonstrations");
        var demonstrations = Tokenization.Demonstrations(
            data, promptColumn, completionColumn, model.Tokenizer, model.Architecture.ContextLength, channel.WarningLine,
            Cancellation.Check(host));
        long characters = 0;
        for (int row = 0; row < demonstrations.Count; row++)
            characters += model.Tokenizer.Decode(demonstrations.Sequences[row][demonstrations.PromptLengths[row]..]).Length;
        return Metrics(model.Use(network => NextTokenLoss.Completions(network, demonstrations)), characters);
    }

    public static PolicyMetrics Policy(
        MLContext ml, TextGenerationTransformer policy, TextGenerationTransformer reference, IDataView prompts, string promptColumn)
    {
        ArgumentNullException.ThrowIfNull(policy);
        ArgumentNullException.ThrowIfNull(reference);
        ArgumentNullException.ThrowIfNull(prompts);
        var host = Register(ml);
        TextColumns.RequireText(host, prompts.Schema, "prompt", promptColumn);
        RequireDivergence(host, policy, reference);
        using var channel = host.Start("Evaluating a policy");
        var rows = Tokenization.Prompts(
            prompts, promptColumn, policy.Tokenizer, policy.Architecture.ContextLength, responseTokens: 1, channel.WarningLine,
            Cancellation.Check(host));
        var episodes = policy.SampleEpisodes(rows);
        return new PolicyMetrics
        {
            PromptCount = episodes.Count,
            Kl = Divergence(policy, reference, episodes),
            ResponseLength = episodes.Average(e => e.Response.Length),
            EndRate = episodes.Average(e => e.Ended ? 1.0 : 0.0),
        };
    }

    /// <summary>The mean over episodes of KL(policy ‖ reference).</summary>
    public static double Divergence(
        TextGenerationTransformer policy, TextGenerationTransformer reference, IReadOnlyList<Episode> episodes) =>
        policy.Use(network => reference.Use(other =>
            PolicyDivergence.PerEpisode(network, other, episodes, policy.Sampling.Temperature).Average()));

    /// <summary>Requires that the divergence of two models has a meaning and is finite.</summary>
    public static void RequireDivergence(IHost host, TextGenerationTransformer policy, TextGenerationTransformer reference)
    {
        if (!policy.Tokenizer.Equals(reference.Tokenizer))
            throw host.Process(new ArgumentException(
                $"The policy has a {policy.Tokenizer}, but the reference has another {reference.Tokenizer}: their tokens cannot be " +
                "compared. Compare a policy with the model that it was trained from.", nameof(reference)));
        if (reference.Architecture.ContextLength < policy.Architecture.ContextLength)
            throw host.Process(new ArgumentException(
                $"The reference's context is {reference.Architecture.ContextLength} tokens, shorter than the policy's " +
                $"{policy.Architecture.ContextLength}, so it may not hold the policy's answers. Compare a policy with the model that it was " +
                "trained from.", nameof(reference)));
        if (policy.Sampling.Alterations is { Count: > 0 } alterations)
            throw host.Process(new ArgumentException(
                $"The policy samples with {string.Join(", ", alterations)}, so its answers are not drawn from the distribution whose " +
                "divergence is measured. Pass policy.WithSampling(new SamplingOptions { … }) without.", nameof(policy)));
    }

    /// <summary>The length of the text of all tokens but the first, which nothing predicts. The text, which may be long, is not put together.</summary>
    private static long PredictedCharacters(TokenSequences documents, TextTokenizer tokenizer)
    {
        var decoder = tokenizer.CreateStreamingDecoder();
        long characters = 0;
        for (int row = 0; row < documents.Count; row++)
        {
            foreach (int token in documents[row][(row == 0 ? 1 : 0)..])
                characters += decoder.Push(token).Length;
        }
        return characters + decoder.Finish().Length;
    }

    private static LanguageModelMetrics Metrics(LossTotal loss, long characters) =>
        new(loss.Mean, loss.Count, characters == 0 ? double.NaN : loss.Sum / Math.Log(2) / characters);

    public static IHost Register(MLContext ml) => ((IHostEnvironment)ml).Register(nameof(Evaluation));
}
