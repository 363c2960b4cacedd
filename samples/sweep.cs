#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj

// Which options are best? A random search over the options of a reward model, each tried by cross-validation: trained on two thirds of the
// preferences and measured on the last, three times over.
//
//   dotnet run samples/sweep.cs              about half a minute on 2 cores
//   dotnet run samples/sweep.cs -- --fast    a few seconds less, smaller numbers
//
// It prints, among other lines, and ends with the last of these:
//   3: rate 0.0004  batch 32 epochs 1  loss 0.490 accuracy 0.761
//   4: rate 0.00124 batch  8 epochs 1  loss 0.457 accuracy 0.792
//   5: rate 0.00035 batch 32 epochs 3  loss 0.465 accuracy 0.772
//   6: rate 0.0013  batch  8 epochs 2  loss 0.455 accuracy 0.786
//   7: rate 0.00157 batch 32 epochs 3  loss 0.458 accuracy 0.779
//   8: rate 0.00014 batch  8 epochs 2  loss 0.475 accuracy 0.783
//   sweep rate=0.0013 batch=8 epochs=2 cross-validated-loss=0.455 held-out-loss=0.438 held-out-accuracy=0.78

using System.Globalization;
using Microsoft.ML;
using ML.Rlhf;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
bool fast = args.Contains("--fast");
string Data(string file) => Path.Combine((string)AppContext.GetData("EntryPointFileDirectoryPath")!, "data", file);
var ml = new MLContext(seed: 1);
var rlhf = ml.Rlhf();

// A servant who answers in sixteen ways (see data/README.md), trained in seconds.
var servant = rlhf.Trainers.SupervisedFineTuning(
    rlhf.Trainers.Gpt(new GptOptions
    {
        Architecture = GptArchitecture.Nano with { VocabularySize = 384 },
        Steps = fast ? 150 : 500,
        WarmupSteps = 50,
        BatchSize = 16,
        LearningRate = 3e-3,
    }).Fit(ml.Data.LoadFromJsonLines<Document>(Data("corpus.jsonl"))),
    new SupervisedFineTuningOptions { Epochs = fast ? 1 : 3, LearningRate = 2e-3, Sampling = new SamplingOptions { MaxNewTokens = 32 } })
    .Fit(ml.Data.LoadFromJsonLines<Demonstration>(Data("demonstrations.jsonl")));

var preferences = ml.Data.LoadFromJsonLines<Preference>(Data("preferences.jsonl"));
var folds = ml.Data.CrossValidationSplit(preferences, numberOfFolds: 3, samplingKeyColumnName: "Prompt", seed: 1); // a prompt is in one fold
var random = new Random(1);
(RewardModelOptions Options, double Loss)? best = null;
for (int trial = 1; trial <= (fast ? 2 : 8); trial++)
{
    // Learning rates are tried by their order of magnitude.
    var options = new RewardModelOptions
    {
        LearningRate = Math.Round(Math.Pow(10, -4 + 1.7 * random.NextDouble()), 5),
        BatchSize = random.GetItems([8, 16, 32], 1)[0],
        Epochs = fast ? 1 : random.Next(1, 4),
        WarmupSteps = 5,
    };
    var metrics = folds.Select(fold =>
    {
        using var reward = rlhf.Trainers.RewardModel(servant, options).Fit(fold.TrainSet);
        return rlhf.EvaluateRewardModel(reward, fold.TestSet);
    }).ToArray();
    double loss = metrics.Average(m => m.Loss);
    Console.WriteLine($"{trial}: rate {options.LearningRate,-7} batch {options.BatchSize,2} epochs {options.Epochs}  loss {loss:F3} " +
        $"accuracy {metrics.Average(m => m.Accuracy):F3}");
    if (best is null || loss < best.Value.Loss)
        best = (options, loss);
}

// The best options, on all of the data, measured on pairs that no trial has seen.
var final = rlhf.Trainers.RewardModel(servant, best!.Value.Options).Fit(preferences);
var heldOut = rlhf.EvaluateRewardModel(final, ml.Data.LoadFromJsonLines<Preference>(Data("held-out-preferences.jsonl")));
Console.WriteLine($"sweep rate={best.Value.Options.LearningRate} batch={best.Value.Options.BatchSize} epochs={best.Value.Options.Epochs} " +
    $"cross-validated-loss={best.Value.Loss:F3} held-out-loss={heldOut.Loss:F3} held-out-accuracy={heldOut.Accuracy:F2}");
