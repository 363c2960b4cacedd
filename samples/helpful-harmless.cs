#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj
#:package System.CommandLine

// People's preferences about an assistant's answers (anthropics/hh-rlhf, MIT): GPT, supervised fine-tuning on the chosen answers, reward
// model. The data is hard: a bag of words tells 53 to 60 % of its pairs apart, and a small model on 1,600 pairs does no better. The
// sample reports what comes out, with its interval and beside a rule that only looks at lengths; nothing is chosen by the held-out pairs.
//
//   dotnet run samples/helpful-harmless.cs -- --data hh-single-turn.jsonl          about 4 minutes on 2 cores
//   dotnet run samples/helpful-harmless.cs -- --data hh-single-turn.jsonl --fast   about 2 minutes
//
// The data is JSON Lines: {"prompt": …, "chosen": …, "rejected": …}. It ends with one plain line:
//   preferences seed=1 accuracy=0.55 ci95=[0.50,0.59] length-baseline=0.56 pairs=519

using System.CommandLine;
using System.Globalization;
using Microsoft.ML;
using Microsoft.ML.Runtime;
using ML.Rlhf;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
var dataOption = new Option<FileInfo>("--data") { Description = "JSON Lines with prompt, chosen and rejected.", Required = true };
var seedOption = new Option<int>("--seed") { Description = "Seed of everything random.", DefaultValueFactory = _ => 1 };
var fastOption = new Option<bool>("--fast") { Description = "Less pretraining." };
var command = new RootCommand("A reward model of people's preferences.") { dataOption.AcceptExistingOnly(), seedOption, fastOption };
command.SetAction(arguments =>
    HelpfulHarmless(arguments.GetRequiredValue(dataOption).FullName, arguments.GetValue(seedOption), arguments.GetValue(fastOption)));
return command.Parse(args).Invoke();

static void HelpfulHarmless(string file, int seed, bool fast)
{
    var ml = new MLContext(seed);
    ml.Log += (_, e) => Console.Write(e.Source.Contains("Trainer;") && e.Kind != ChannelMessageKind.Trace ? e.RawMessage + "\n" : "");
    var rlhf = ml.Rlhf();
    Preference[] pairs = [.. ml.Data.CreateEnumerable<Preference>(ml.Data.LoadFromJsonLines<Preference>(file), reuseRowObject: false)
        .DistinctBy(pair => pair.Prompt) // no prompt is on both sides
        .Select(pair => new Preference { Prompt = pair.Prompt, Chosen = " " + pair.Chosen, Rejected = " " + pair.Rejected })];
    new Random(seed).Shuffle(pairs);
    Preference[] held = pairs[..(pairs.Length / 4)], train = pairs[held.Length..];
    IDataView Data<T>(IEnumerable<T> rows) where T : class => ml.Data.LoadFromEnumerable(rows);

    // A GPT that has read the dialogues, and answers as people liked it.
    var gpt = rlhf.Trainers.Gpt(new GptOptions
    {
        Architecture = GptArchitecture.Micro with { ContextLength = 192 },
        Steps = fast ? 200 : 1_200,
        WarmupSteps = 50,
        BatchSize = 8,
    }).Fit(Data(train.SelectMany(p => new[] { p.Prompt + p.Chosen, p.Prompt + p.Rejected }).Select(text => new Document { Text = text })));
    var demonstrations = Data(train.Select(p => new Demonstration { Prompt = p.Prompt, Completion = p.Chosen }));
    var sft = rlhf.Trainers.SupervisedFineTuning(gpt).Fit(demonstrations);
    foreach (string prompt in held.Take(3).Select(p => p.Prompt))
        Console.WriteLine(prompt + sft.Generate(prompt, new SamplingOptions { Temperature = 0.7f, Seed = seed, TruncatePrompts = true }));

    // The reward model: one epoch, as InstructGPT; a larger rate than the default's, since the model is small.
    var reward = rlhf.Trainers.RewardModel(sft, new RewardModelOptions { LearningRate = 3e-4 }).Fit(Data(train));
    var metrics = rlhf.EvaluateRewardModel(reward, Data(held));
    var (low, high) = Wilson(metrics.Accuracy, metrics.PairCount);
    Console.WriteLine($"preferences seed={seed} accuracy={metrics.Accuracy:F2} ci95=[{low:F2},{high:F2}] " +
        $"length-baseline={metrics.LengthBaselineAccuracy:F2} pairs={metrics.PairCount}");
}

// The 95 % interval of a proportion by Wilson's score: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n), z = 1.96.
static (double Low, double High) Wilson(double p, int n)
{
    const double Z = 1.96;
    double center = p + Z * Z / (2 * n), margin = Z * Math.Sqrt(p * (1 - p) / n + Z * Z / (4.0 * n * n)), scale = 1 + Z * Z / n;
    return ((center - margin) / scale, (center + margin) / scale);
}
