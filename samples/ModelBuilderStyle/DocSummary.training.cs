using Microsoft.ML;
using ML.Rlhf;

namespace DocSummaryApp;

/// <summary>Trains the model: a small GPT reads the data, and is fine-tuned on its prompts and completions.</summary>
public partial class DocSummary
{
    /// <summary>JSON Lines: <c>{"prompt": …, "completion": …}</c>.</summary>
    public const string RetrainFilePath = "DocSummary.jsonl";

    /// <summary>Trains a model and saves it.</summary>
    /// <param name="outputModelPath">Where to save it.</param>
    /// <param name="inputDataFilePath">The training data.</param>
    /// <param name="fast">Whether to train briefly, to see whether everything works.</param>
    public static void Train(string outputModelPath, string inputDataFilePath = RetrainFilePath, bool fast = false)
    {
        var mlContext = new MLContext(seed: 1);
        var data = LoadIDataViewFromFile(mlContext, inputDataFilePath);
        var model = RetrainModel(mlContext, data, fast);
        SaveModel(mlContext, model, data, outputModelPath);
    }

    /// <summary>Loads training or test data.</summary>
    public static IDataView LoadIDataViewFromFile(MLContext mlContext, string inputDataFilePath) =>
        mlContext.Data.LoadFromJsonLines<ModelInput>(inputDataFilePath);

    /// <summary>Saves a model; any ML.NET program with the package ML.Rlhf loads it.</summary>
    public static void SaveModel(MLContext mlContext, ITransformer model, IDataView data, string modelSavePath) =>
        mlContext.Model.Save(model, data.Schema, modelSavePath);

    /// <summary>Trains on data.</summary>
    public static ITransformer RetrainModel(MLContext mlContext, IDataView trainData, bool fast = false) =>
        BuildPipeline(mlContext, Pretrain(mlContext, trainData, fast), fast).Fit(trainData);

    /// <summary>The model to start from. <c>mlContext.Rlhf().Models.FromPretrained(folder)</c> brings one that others trained.</summary>
    public static TextGenerationTransformer Pretrain(MLContext mlContext, IDataView trainData, bool fast = false)
    {
        var texts = mlContext.Data.CreateEnumerable<ModelInput>(trainData, reuseRowObject: false)
            .Select(row => new Document { Text = row.Prompt + row.Completion });
        return mlContext.Rlhf().Trainers.Gpt(new GptOptions
        {
            Architecture = GptArchitecture.Nano,
            Steps = fast ? 60 : 1000,
            WarmupSteps = fast ? 10 : 100,
            BatchSize = 16,
            LearningRate = 3e-3,
            Progress = new ConsoleProgress(),
        }).Fit(mlContext.Data.LoadFromEnumerable(texts));
    }

    /// <summary>The pipeline that is trained.</summary>
    public static IEstimator<ITransformer> BuildPipeline(MLContext mlContext, TextGenerationTransformer start, bool fast = false) =>
        mlContext.Rlhf().Trainers.SupervisedFineTuning(start, new SupervisedFineTuningOptions
        {
            Epochs = fast ? 1 : 5,
            LearningRate = 2e-3,
            Sampling = new SamplingOptions { MaxNewTokens = 40, Temperature = 0 },
            Progress = new ConsoleProgress(),
        });
}
