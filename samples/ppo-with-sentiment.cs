#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj

// PPO with any ML.NET model as the reward: here a sentiment pipeline of stock ML.NET, trained on a hundred sentences of other servants.
// positive-reviews.cs does the same with film reviews, at length.
//
//   dotnet run samples/ppo-with-sentiment.cs              about half a minute on 2 cores
//   dotnet run samples/ppo-with-sentiment.cs -- --fast    a few seconds less, smaller numbers
//
// It prints, among other lines, and ends with the last of these:
//   PPO          30/30 loss 0.7244 score 6.729 kl 1.674 entropy 0.158 clip 0.000 7913 tokens/s left 0:00
//   bring me the red cup: of course, here is the red cup.
//   bring me the old clock: of course, here is the old clock, with pleasure.
//   ppo-with-sentiment polite before=0.25 after=0.82 kl=2.0

using System.Globalization;
using Microsoft.ML.Data;
using Microsoft.ML;
using ML.Rlhf;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
bool fast = args.Contains("--fast");
string Data(string file) => Path.Combine((string)AppContext.GetData("EntryPointFileDirectoryPath")!, "data", file);
var ml = new MLContext(seed: 1);
var rlhf = ml.Rlhf();

// Stock ML.NET: text -> features -> a score. The answer to be scored comes in the column Text.
var sentences = ml.Data.LoadFromTextFile<Sentence>(Data("sentiment.tsv"), hasHeader: true);
var sentiment = ml.Transforms.Text.FeaturizeText("Features", "Text")
    .Append(ml.BinaryClassification.Trainers.SdcaLogisticRegression()).Fit(sentences);

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

var policy = rlhf.Trainers.Ppo(servant, sentiment, new PpoOptions
{
    Episodes = fast ? 64 * 8 : 64 * 30,
    EpisodesPerUpdate = 64,
    LearningRate = 3e-4,
    KlCoefficient = 1, // scores of a linear model are large: -5 to 5 here
    MaxResponseTokens = 32,
    Progress = new ConsoleProgress(),
}).Fit(ml.Data.LoadFromJsonLines<PromptOnly>(Data("prompts.jsonl")));

var heldOut = ml.Data.LoadFromJsonLines<PromptOnly>(Data("held-out-prompts.jsonl"));
foreach (string prompt in new[] { "bring me the red cup\n", "bring me the old clock\n" })
    Console.WriteLine($"{prompt.TrimEnd()}: {policy.Generate(prompt)}");
var samples = rlhf.CompareSamples(heldOut, [("before", servant), ("after", policy)]);
double Polite(ModelSamples model) => model.Completions.Average(answer => answer.Contains("pleasure") ? 1.0 : 0);
Console.WriteLine($"ppo-with-sentiment polite before={Polite(samples.Models[0]):F2} after={Polite(samples.Models[1]):F2} " +
    $"kl={rlhf.EvaluatePolicy(policy, servant, heldOut).Kl:F1}");

class Sentence
{
    [LoadColumn(0)] public bool Label { get; set; }
    [LoadColumn(1)] public string Text { get; set; } = "";
}
