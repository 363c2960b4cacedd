// Trains a model, measures it, and lets it complete a prompt. `dotnet run` does all three; `dotnet run -- --fast` does so briefly.
using DocSummaryApp;
using Microsoft.ML;

const string TestFilePath = "DocSummary.test.jsonl";

DocSummary.Train(DocSummary.MLNetModelPath, fast: args.Contains("--fast"));
DocSummary.Evaluate(DocSummary.MLNetModelPath, TestFilePath);

var mlContext = new MLContext();
var testData = DocSummary.LoadIDataViewFromFile(mlContext, TestFilePath);
var input = mlContext.Data.CreateEnumerable<DocSummary.ModelInput>(testData, reuseRowObject: false).First();
Console.WriteLine($"{input.Prompt.TrimEnd()} -> {DocSummary.Predict(input).Completion}");
