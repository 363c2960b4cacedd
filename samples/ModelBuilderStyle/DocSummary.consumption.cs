using Microsoft.ML;

namespace DocSummaryApp;

/// <summary>Completes a prompt: the model in <see cref="MLNetModelPath"/>, with what goes in and what comes out.</summary>
public partial class DocSummary
{
    /// <summary>A row of the training data; to predict, the prompt is enough.</summary>
    public class ModelInput
    {
        public string Prompt { get; set; } = "";

        public string Completion { get; set; } = "";
    }

    /// <summary>What the model writes.</summary>
    public class ModelOutput
    {
        public string Completion { get; set; } = "";
    }

    public static readonly string MLNetModelPath = Path.GetFullPath("DocSummary.mlnet");

    public static readonly Lazy<PredictionEngine<ModelInput, ModelOutput>> PredictEngine = new(CreatePredictEngine, isThreadSafe: true);

    /// <summary>Completes a prompt. The first call loads the model.</summary>
    public static ModelOutput Predict(ModelInput input) => PredictEngine.Value.Predict(input);

    private static PredictionEngine<ModelInput, ModelOutput> CreatePredictEngine()
    {
        var mlContext = new MLContext();
        var model = mlContext.Model.Load(MLNetModelPath, out _);
        return mlContext.Model.CreatePredictionEngine<ModelInput, ModelOutput>(model);
    }
}
