#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj

// Step 2, a reward model from rankings: people put four answers to a prompt in order, and the model learns to score them alike.
//
//   dotnet run samples/reward-model.cs              about half a minute on 2 cores
//   dotnet run samples/reward-model.cs -- --fast    a few seconds less, smaller numbers
//
// It prints, among other lines, and ends with the last of these:
//   Reward model 54/54 loss 0.4610 66056 tokens/s left 0:00
//     1.75  of course, here is the red cup, with pleasure.
//    -0.02  here is the red cup.
//    -0.88  well, here is the red cup, i suppose.
//   reward-model saved=reward.zip accuracy=0.77 length-baseline=0.50 pairs=456

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

// {"prompt": …, "answers": [four of them], "ranks": [2, 1, 4, 3]}
var rankings = ml.Data.LoadFromJsonLines<Ranking>(Data("rankings.jsonl"));
var split = ml.Data.TrainTestSplit(rankings, testFraction: 0.2, seed: 1);
var reward = rlhf.Trainers.RewardModel(servant, new RewardModelOptions
{
    AnswersColumnName = "Answers",
    RanksColumnName = "Ranks",
    Epochs = fast ? 1 : 3,
    BatchSize = 16,
    LearningRate = 1e-3,
    WarmupSteps = 5,
    Progress = new ConsoleProgress(),
}).Fit(split.TrainSet);

// It is a transformer: it adds a column Score to rows with Prompt and Completion.
string[] answers = ["of course, here is the red cup, with pleasure.", "here is the red cup.", "well, here is the red cup, i suppose."];
var rows = ml.Data.LoadFromEnumerable(answers.Select(answer => new Demonstration { Prompt = "bring me the red cup\n", Completion = answer }));
foreach (var (answer, scored) in answers.Zip(ml.Data.CreateEnumerable<ScoredCompletion>(reward.Transform(rows), reuseRowObject: false)))
    Console.WriteLine($"{scored.Score,6:F2}  {answer}");

ml.Model.Save(reward, rows.Schema, "reward.zip");
var metrics = rlhf.EvaluateRewardModel(reward, split.TestSet, answersColumnName: "Answers", ranksColumnName: "Ranks");
Console.WriteLine($"reward-model saved=reward.zip accuracy={metrics.Accuracy:F2} length-baseline={metrics.LengthBaselineAccuracy:F2} " +
    $"pairs={metrics.PairCount}");
