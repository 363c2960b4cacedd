#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj

// Score and choose, in a pipeline: the servant answers sixteen times, and a reward model keeps the best. Nothing is trained for it.
//
//   dotnet run samples/best-of-n.cs              about half a minute on 2 cores
//   dotnet run samples/best-of-n.cs -- --fast    a few seconds less, smaller numbers
//
// It prints, among other lines, and ends with the last of these:
//   bring me the red cup: of course, here is the red cup, with pleasure. (1.79)
//   bring me the old clock: of course, here is the old clock, with pleasure. (1.82)
//   best-of-n saved=best-of-16.zip gold n=1:0.11 n=2:0.85 n=4:1.52 n=8:2.09 n=16:2.59

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

// Between stock components: requests are typed in capitals, and the answers come with their score.
var pipeline = ml.Transforms.Text.NormalizeText("Prompt", keepPunctuations: true)
    .Append(ml.Transforms.Expression("Prompt", "x => concat(x, \"\\n\")", "Prompt"))
    .Fit(ml.Data.LoadFromEnumerable(Array.Empty<PromptOnly>()))
    .Append(rlhf.Transforms.BestOfN(servant, reward, n: 16));
string[] typed = ["Bring me the RED cup", "Bring me the OLD clock"];
var requests = ml.Data.LoadFromEnumerable(typed.Select(text => new PromptOnly { Prompt = text }));
foreach (var row in ml.Data.CreateEnumerable<Answer>(pipeline.Transform(requests), reuseRowObject: false))
    Console.WriteLine($"{row.Prompt.TrimEnd()}: {row.Completion} ({row.Score:F2})");
ml.Model.Save(pipeline, requests.Schema, "best-of-16.zip"); // policy, reward and all

// What the master really likes; no model is trained on it.
float Note(string prompt, string answer) => (answer.Contains("with pleasure") ? 2 : 0) + (answer.StartsWith("of course") ? 1 : 0)
    - (answer.Contains("i suppose") ? 1.5f : 0) - (answer.StartsWith("well") ? 0.5f : 0) - (answer.Contains(prompt[9..].Trim()) ? 0 : 3);
var heldOut = ml.Data.LoadFromJsonLines<PromptOnly>(Data("held-out-prompts.jsonl"));
Reward proxy = rlhf.Rewards.FromTransformer(reward), gold = rlhf.Rewards.FromFunction(Note);
var curve = rlhf.EvaluateBestOfN(servant, proxy, gold, heldOut, samples: 16);
Console.WriteLine("best-of-n saved=best-of-16.zip gold " + string.Join(" ", curve.Select(point => $"n={point.N}:{point.GoldScore:F2}")));

class Answer
{
    public string Prompt { get; set; } = "";
    public string Completion { get; set; } = "";
    public float Score { get; set; }
}
