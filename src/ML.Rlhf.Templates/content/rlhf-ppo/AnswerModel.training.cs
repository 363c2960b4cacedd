using Microsoft.ML;
using ML.Rlhf;

namespace AnswerModelApp;

/// <summary>Trains the model in the three steps of InstructGPT: fine-tuning on the chosen answers, a reward model on the preferences, and PPO against it.</summary>
public partial class AnswerModel
{
    /// <summary>JSON Lines: <c>{"prompt": …, "chosen": …, "rejected": …}</c>.</summary>
    public const string RetrainFilePath = "AnswerModel.jsonl";

    /// <summary>A row of the training data: two answers to a prompt, of which people preferred the first.</summary>
    public class TrainingRow
    {
        public string Prompt { get; set; } = "";

        public string Chosen { get; set; } = "";

        public string Rejected { get; set; } = "";
    }

    /// <summary>Trains a model and saves it.</summary>
    /// <param name="outputModelPath">Where to save it.</param>
    /// <param name="inputDataFilePath">The training data.</param>
    /// <param name="fast">Whether to train briefly, to see whether everything works.</param>
    public static void Train(string outputModelPath, string inputDataFilePath = RetrainFilePath, bool fast = false)
    {
        var mlContext = new MLContext(seed: 1);
        var data = LoadIDataViewFromFile(mlContext, inputDataFilePath);
        var model = RetrainModel(mlContext, data, fast);
        SaveModel(mlContext, model, outputModelPath);
    }

    /// <summary>Loads training or test data.</summary>
    public static IDataView LoadIDataViewFromFile(MLContext mlContext, string inputDataFilePath) =>
        mlContext.Data.LoadFromJsonLines<TrainingRow>(inputDataFilePath);

    /// <summary>Saves a model; any ML.NET program with the package ML.Rlhf loads it.</summary>
    public static void SaveModel(MLContext mlContext, ITransformer model, string modelSavePath) =>
        mlContext.Model.Save(model, mlContext.Data.LoadFromEnumerable(Array.Empty<ModelInput>()).Schema, modelSavePath);

    /// <summary>Trains on data.</summary>
    public static ITransformer RetrainModel(MLContext mlContext, IDataView trainData, bool fast = false)
    {
        var gpt = Pretrain(mlContext, trainData, fast);
        var start = mlContext.Rlhf().Trainers.SupervisedFineTuning(gpt, new SupervisedFineTuningOptions
        {
            CompletionColumnName = "Chosen",
            Epochs = fast ? 1 : 3,
            LearningRate = 2e-3,
            Sampling = new SamplingOptions { MaxNewTokens = 60 },
            Progress = new ConsoleProgress(),
        }).Fit(trainData);
        var reward = mlContext.Rlhf().Trainers.RewardModel(start, new RewardModelOptions
        {
            Epochs = fast ? 1 : 3,
            LearningRate = 1e-3,
            WarmupSteps = 5,
            Progress = new ConsoleProgress(),
        }).Fit(trainData);
        return BuildPipeline(mlContext, start, reward, fast).Fit(trainData);
    }

    /// <summary>The model to start from. <c>mlContext.Rlhf().Models.FromPretrained(folder)</c> brings one that others trained.</summary>
    public static TextGenerationTransformer Pretrain(MLContext mlContext, IDataView trainData, bool fast = false)
    {
        var texts = mlContext.Data.CreateEnumerable<TrainingRow>(trainData, reuseRowObject: false)
            .SelectMany(row => new[] { row.Prompt + row.Chosen, row.Prompt + row.Rejected }).Select(text => new Document { Text = text });
        return mlContext.Rlhf().Trainers.Gpt(new GptOptions
        {
            Architecture = GptArchitecture.Nano with { ContextLength = 96 },
            Steps = fast ? 60 : 800,
            WarmupSteps = fast ? 10 : 80,
            BatchSize = 16,
            LearningRate = 3e-3,
            Progress = new ConsoleProgress(),
        }).Fit(mlContext.Data.LoadFromEnumerable(texts));
    }

    /// <summary>The last step of the pipeline.</summary>
    public static IEstimator<TextGenerationTransformer> BuildPipeline(
        MLContext mlContext, TextGenerationTransformer start, ITransformer reward, bool fast = false) =>
        mlContext.Rlhf().Trainers.Ppo(start, reward, new PpoOptions
        {
            Episodes = fast ? 64 * 3 : 64 * 40,
            EpisodesPerUpdate = 64,
            LearningRate = 3e-4,
            KlCoefficient = 0.05,
            MaxResponseTokens = 60,
            Progress = new ConsoleProgress(),
        });
}
