using Microsoft.ML;
using ML.Rlhf;

namespace AnswerModelApp;

/// <summary>Measures the model on data that it was not trained on.</summary>
public partial class AnswerModel
{
    /// <summary>
    /// How well the model predicts the answers that people chose, and those that they rejected: nats per token, less is better. It learned
    /// to prefer the former.
    /// </summary>
    public static (LanguageModelMetrics Chosen, LanguageModelMetrics Rejected) Evaluate(string modelPath, string testDataFilePath)
    {
        var mlContext = new MLContext(seed: 1);
        var model = mlContext.Rlhf().Models.Load<TextGenerationTransformer>(modelPath);
        var data = LoadIDataViewFromFile(mlContext, testDataFilePath);
        var chosen = mlContext.Rlhf().EvaluateDemonstrations(model, data, completionColumnName: "Chosen");
        var rejected = mlContext.Rlhf().EvaluateDemonstrations(model, data, completionColumnName: "Rejected");
        Console.WriteLine(FormattableString.Invariant($"loss of chosen answers {chosen.Loss:F3}, of rejected ones {rejected.Loss:F3} nats per token"));
        return (chosen, rejected);
    }
}
