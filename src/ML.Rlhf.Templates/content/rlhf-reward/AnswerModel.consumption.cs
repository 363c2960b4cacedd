using Microsoft.ML;

namespace AnswerModelApp;

/// <summary>Scores an answer: the model in <see cref="MLNetModelPath"/>, with what goes in and what comes out.</summary>
public partial class AnswerModel
{
    /// <summary>A prompt and an answer to it.</summary>
    public class ModelInput
    {
        public string Prompt { get; set; } = "";

        public string Completion { get; set; } = "";
    }

    /// <summary>How good the answer is: any number, higher is better.</summary>
    public class ModelOutput
    {
        public float Score { get; set; }
    }

    public static readonly string MLNetModelPath = Path.GetFullPath("AnswerModel.mlnet");

    public static readonly Lazy<PredictionEngine<ModelInput, ModelOutput>> PredictEngine = new(CreatePredictEngine, isThreadSafe: true);

    /// <summary>Scores an answer. The first call loads the model.</summary>
    public static ModelOutput Predict(ModelInput input) => PredictEngine.Value.Predict(input);

    private static PredictionEngine<ModelInput, ModelOutput> CreatePredictEngine()
    {
        var mlContext = new MLContext();
        var model = mlContext.Model.Load(MLNetModelPath, out _);
        return mlContext.Model.CreatePredictionEngine<ModelInput, ModelOutput>(model);
    }
}
