// Trains a model, measures it, and lets it score two answers. `dotnet run` does all three; `dotnet run -- --fast` does so briefly.
using AnswerModelApp;
using Microsoft.ML;

const string TestFilePath = "AnswerModel.test.jsonl";

AnswerModel.Train(AnswerModel.MLNetModelPath, fast: args.Contains("--fast"));
AnswerModel.Evaluate(AnswerModel.MLNetModelPath, TestFilePath);

var mlContext = new MLContext();
var testData = AnswerModel.LoadIDataViewFromFile(mlContext, TestFilePath);
var row = mlContext.Data.CreateEnumerable<AnswerModel.TrainingRow>(testData, reuseRowObject: false).First();
foreach (string answer in new[] { row.Chosen, row.Rejected })
{
    var input = new AnswerModel.ModelInput { Prompt = row.Prompt, Completion = answer };
    Console.WriteLine(FormattableString.Invariant($"{row.Prompt.TrimEnd()} -> {answer}  score {AnswerModel.Predict(input).Score:F2}"));
}
