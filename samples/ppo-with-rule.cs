#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj

// PPO with a rule in C# as the reward: short answers that name what was asked for.
//
//   dotnet run samples/ppo-with-rule.cs              about half a minute on 2 cores
//   dotnet run samples/ppo-with-rule.cs -- --fast    a few seconds less, smaller numbers
//
// It prints, among other lines, and ends with the last of these:
//   PPO          40/40 loss 0.0108 score -0.166 kl 2.370 entropy 0.140 clip 0.000 4145 tokens/s left 0:00
//   bring me the red cup: here is the red cup.
//   bring me the old clock: here is the old clock.
//   ppo-with-rule reward before=-0.69 after=-0.25 words before=7.2 after=5.0

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

// Any function of prompt and completion. It pays for the thing that was asked for, and for each word that is saved.
float Reward(string prompt, string completion) =>
    (completion.Contains(prompt["bring me ".Length..].Trim()) ? 1 : -1) - 0.2f * completion.Split(' ').Length;

var policy = rlhf.Trainers.Ppo(servant, Reward, new PpoOptions
{
    Episodes = fast ? 64 * 8 : 64 * 40,
    EpisodesPerUpdate = 64,
    LearningRate = 3e-4,
    KlCoefficient = 0.02,
    MaxResponseTokens = 32,
    Progress = new ConsoleProgress(),
}).Fit(ml.Data.LoadFromJsonLines<PromptOnly>(Data("prompts.jsonl")));

var heldOut = ml.Data.LoadFromJsonLines<PromptOnly>(Data("held-out-prompts.jsonl"));
foreach (string prompt in new[] { "bring me the red cup\n", "bring me the old clock\n" })
    Console.WriteLine($"{prompt.TrimEnd()}: {policy.Generate(prompt)}");
var samples = rlhf.CompareSamples(heldOut, [("before", servant), ("after", policy)], rlhf.Rewards.FromFunction(Reward));
double Words(ModelSamples model) => model.Completions.Average(answer => answer.Split(' ').Length);
Console.WriteLine($"ppo-with-rule reward before={samples.Models[0].Scores!.Average():F2} after={samples.Models[1].Scores!.Average():F2} " +
    $"words before={Words(samples.Models[0]):F1} after={Words(samples.Models[1]):F1}");
