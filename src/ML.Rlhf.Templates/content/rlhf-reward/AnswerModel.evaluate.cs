using Microsoft.ML;
using ML.Rlhf;

namespace AnswerModelApp;

/// <summary>Measures the model on data that it was not trained on.</summary>
public partial class AnswerModel
{
    /// <summary>How often the better answer scores higher, and how often it would by its length alone.</summary>
    public static RewardModelMetrics Evaluate(string modelPath, string testDataFilePath)
    {
        var mlContext = new MLContext(seed: 1);
        var model = mlContext.Rlhf().Models.Load<RewardTransformer>(modelPath);
        var metrics = mlContext.Rlhf().EvaluateRewardModel(model, LoadIDataViewFromFile(mlContext, testDataFilePath));
        Console.WriteLine(metrics);
        return metrics;
    }
}
