#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj

// DPO: alignment from pairs of answers, without a reward model and without sampling.
//
//   dotnet run samples/dpo.cs              about half a minute on 2 cores
//   dotnet run samples/dpo.cs -- --fast    a few seconds less, smaller numbers
//
// It prints, among other lines, and ends with the last of these:
//   DPO          58/58 loss 0.5068 accuracy 0.750 margin 0.555 58923 tokens/s left 0:00
//   bring me the red cup: sir, here is the red cup, as always.
//   bring me the old clock: of course, here is the old clock.
//   dpo win-rate=0.71 ci95=[0.58,0.80] gold before=-0.31 after=0.90 kl=1.8

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

// {"prompt": …, "chosen": …, "rejected": …}
var dpo = rlhf.Trainers.Dpo(servant, new DpoOptions
{
    Epochs = fast ? 1 : 2,
    LearningRate = 1e-4,
    Beta = 0.3,
    Progress = new ConsoleProgress(),
}).Fit(ml.Data.LoadFromJsonLines<Preference>(Data("preferences.jsonl")));

// What the master really likes; no model is trained on it.
float Note(string prompt, string answer) => (answer.Contains("with pleasure") ? 2 : 0) + (answer.StartsWith("of course") ? 1 : 0)
    - (answer.Contains("i suppose") ? 1.5f : 0) - (answer.StartsWith("well") ? 0.5f : 0) - (answer.Contains(prompt[9..].Trim()) ? 0 : 3);
var heldOut = ml.Data.LoadFromJsonLines<PromptOnly>(Data("held-out-prompts.jsonl"));
foreach (string prompt in new[] { "bring me the red cup\n", "bring me the old clock\n" })
    Console.WriteLine($"{prompt.TrimEnd()}: {dpo.Generate(prompt)}");
var wins = rlhf.EvaluateWinRate(dpo, servant, heldOut, Note);
Console.WriteLine($"dpo win-rate={wins.WinRate:F2} ci95=[{wins.LowerBound:F2},{wins.UpperBound:F2}] " +
    $"gold before={wins.MeanBaselineScore:F2} after={wins.MeanCandidateScore:F2} kl={rlhf.EvaluatePolicy(dpo, servant, heldOut).Kl:F1}");
