#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj

// Step 1, supervised fine-tuning: a GPT that has read a corpus learns to answer from prompts and completions in JSON Lines.
//
//   dotnet run samples/fine-tune.cs              about half a minute on 2 cores
//   dotnet run samples/fine-tune.cs -- --fast    a few seconds less, smaller numbers
//
// It prints, among other lines, and ends with the last of these:
//   GPT          500/500 loss 0.3985 100439 tokens/s left 0:00
//   SFT          84/84 loss 0.3410 validation 0.2471 48028 tokens/s left 0:00
//   bring me the red cup: here is the red cup, as always.
//   bring me the old clock: sir, here is the old clock.
//   fine-tune saved=servant.zip loss before=0.321 after=0.247

using System.Globalization;
using Microsoft.ML;
using ML.Rlhf;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
bool fast = args.Contains("--fast");
string Data(string file) => Path.Combine((string)AppContext.GetData("EntryPointFileDirectoryPath")!, "data", file);
var ml = new MLContext(seed: 1);
var rlhf = ml.Rlhf();

var gpt = rlhf.Trainers.Gpt(new GptOptions
{
    Architecture = GptArchitecture.Nano with { VocabularySize = 384 },
    Steps = fast ? 150 : 500,
    WarmupSteps = 50,
    BatchSize = 16,
    LearningRate = 3e-3,
    Progress = new ConsoleProgress(),
}).Fit(ml.Data.LoadFromJsonLines<Document>(Data("corpus.jsonl")));

// {"prompt": "bring me the round pillow\n", "completion": "of course, here is the round pillow, with pleasure."}
var demonstrations = ml.Data.LoadFromJsonLines<Demonstration>(Data("demonstrations.jsonl"));
var split = ml.Data.TrainTestSplit(demonstrations, testFraction: 0.1, seed: 1);
var sft = rlhf.Trainers.SupervisedFineTuning(gpt, new SupervisedFineTuningOptions
{
    Epochs = fast ? 1 : 3,
    LearningRate = 2e-3,
    ValidationData = split.TestSet,
    Sampling = new SamplingOptions { MaxNewTokens = 32, Seed = 1 }, // how the model will answer
    Progress = new ConsoleProgress(),
}).Fit(split.TrainSet);

foreach (string prompt in new[] { "bring me the red cup\n", "bring me the old clock\n" })
    Console.WriteLine($"{prompt.TrimEnd()}: {sft.Generate(prompt)}");
ml.Model.Save(sft, demonstrations.Schema, "servant.zip");
double before = rlhf.EvaluateDemonstrations(gpt, split.TestSet).Loss, after = rlhf.EvaluateDemonstrations(sft, split.TestSet).Loss;
Console.WriteLine($"fine-tune saved=servant.zip loss before={before:F3} after={after:F3}");
