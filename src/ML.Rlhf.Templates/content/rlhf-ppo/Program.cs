// Trains a model, measures it, and lets it answer a prompt. `dotnet run` does all three; `dotnet run -- --fast` does so briefly.
using AnswerModelApp;
using Microsoft.ML;

const string TestFilePath = "AnswerModel.test.jsonl";

AnswerModel.Train(AnswerModel.MLNetModelPath, fast: args.Contains("--fast"));
AnswerModel.Evaluate(AnswerModel.MLNetModelPath, TestFilePath);

var mlContext = new MLContext();
var testData = AnswerModel.LoadIDataViewFromFile(mlContext, TestFilePath);
var row = mlContext.Data.CreateEnumerable<AnswerModel.TrainingRow>(testData, reuseRowObject: false).First();
var input = new AnswerModel.ModelInput { Prompt = row.Prompt };
Console.WriteLine($"{input.Prompt.TrimEnd()} -> {AnswerModel.Predict(input).Completion}");
