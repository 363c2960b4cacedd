#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj

// GRPO: alignment without a value function. Eight answers to each prompt are compared with their own mean.
//
//   dotnet run samples/grpo.cs              about half a minute on 2 cores
//   dotnet run samples/grpo.cs -- --fast    a few seconds less, smaller numbers
//
// It prints, among other lines, and ends with the last of these:
//   GRPO         40/40 loss 0.0032 score 1.091 kl 1.399 entropy 0.223 clip 0.000 31260 tokens/s left 0:00
//   bring me the red cup: of course, here is the red cup.
//   bring me the old clock: of course, here is the old clock, with pleasure.
//   grpo win-rate=0.80 ci95=[0.67,0.88] gold before=-0.31 after=1.79 kl=1.2

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
var reward = rlhf.Trainers.RewardModel(servant, new RewardModelOptions { Epochs = 2, LearningRate = 1e-3, WarmupSteps = 5 })
    .Fit(ml.Data.LoadFromJsonLines<Preference>(Data("preferences.jsonl")));

var policy = rlhf.Trainers.Grpo(servant, reward, new GrpoOptions
{
    Episodes = fast ? 64 * 8 : 64 * 40,
    EpisodesPerUpdate = 64,
    GroupSize = 8,
    LearningRate = 3e-4,
    KlCoefficient = 0.5,
    MaxResponseTokens = 32,
    Progress = new ConsoleProgress(),
}).Fit(ml.Data.LoadFromJsonLines<PromptOnly>(Data("prompts.jsonl")));

// What the master really likes; no model is trained on it.
float Note(string prompt, string answer) => (answer.Contains("with pleasure") ? 2 : 0) + (answer.StartsWith("of course") ? 1 : 0)
    - (answer.Contains("i suppose") ? 1.5f : 0) - (answer.StartsWith("well") ? 0.5f : 0) - (answer.Contains(prompt[9..].Trim()) ? 0 : 3);
var heldOut = ml.Data.LoadFromJsonLines<PromptOnly>(Data("held-out-prompts.jsonl"));
foreach (string prompt in new[] { "bring me the red cup\n", "bring me the old clock\n" })
    Console.WriteLine($"{prompt.TrimEnd()}: {policy.Generate(prompt)}");
var wins = rlhf.EvaluateWinRate(policy, servant, heldOut, Note);
Console.WriteLine($"grpo win-rate={wins.WinRate:F2} ci95=[{wins.LowerBound:F2},{wins.UpperBound:F2}] " +
    $"gold before={wins.MeanBaselineScore:F2} after={wins.MeanCandidateScore:F2} kl={rlhf.EvaluatePolicy(policy, servant, heldOut).Kl:F1}");
