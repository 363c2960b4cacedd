using Microsoft.ML;
using ML.Rlhf;

namespace DocSummaryApp;

/// <summary>Measures the model on data that it was not trained on.</summary>
public partial class DocSummary
{
    /// <summary>How well a model predicts the completions of some data: nats per token, and the perplexity, their exponential.</summary>
    public static LanguageModelMetrics Evaluate(string modelPath, string testDataFilePath)
    {
        var mlContext = new MLContext(seed: 1);
        var model = mlContext.Rlhf().Models.Load<TextGenerationTransformer>(modelPath);
        var metrics = mlContext.Rlhf().EvaluateDemonstrations(model, LoadIDataViewFromFile(mlContext, testDataFilePath));
        Console.WriteLine(FormattableString.Invariant($"loss {metrics.Loss:F3} nats per token, perplexity {metrics.Perplexity:F2}"));
        return metrics;
    }
}
