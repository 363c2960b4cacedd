using Microsoft.ML;

namespace AnswerModelApp;

/// <summary>Answers a prompt: the model in <see cref="MLNetModelPath"/>, with what goes in and what comes out.</summary>
public partial class AnswerModel
{
    /// <summary>What is asked.</summary>
    public class ModelInput
    {
        public string Prompt { get; set; } = "";
    }

    /// <summary>What the model answers.</summary>
    public class ModelOutput
    {
        public string Completion { get; set; } = "";
    }

    public static readonly string MLNetModelPath = Path.GetFullPath("AnswerModel.mlnet");

    public static readonly Lazy<PredictionEngine<ModelInput, ModelOutput>> PredictEngine = new(CreatePredictEngine, isThreadSafe: true);

    /// <summary>Answers a prompt. The first call loads the model.</summary>
    public static ModelOutput Predict(ModelInput input) => PredictEngine.Value.Predict(input);

    private static PredictionEngine<ModelInput, ModelOutput> CreatePredictEngine()
    {
        var mlContext = new MLContext();
        var model = mlContext.Model.Load(MLNetModelPath, out _);
        return mlContext.Model.CreatePredictionEngine<ModelInput, ModelOutput>(model);
    }
}
