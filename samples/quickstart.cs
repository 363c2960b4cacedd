#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj
#:package System.CommandLine

// From text to an aligned GPT, with the three steps of InstructGPT, on text that every .NET developer already has: the XML documentation
// of the SDK. A small GPT learns to write the summary of an API member from its signature; a simulated labeler, who has a style rule in
// mind, ranks its summaries; a reward model learns the labeler's taste; PPO aligns the GPT with it. The rule itself is the gold score.
//
//   dotnet run samples/quickstart.cs                       about 4 minutes on 2 cores
//   dotnet run samples/quickstart.cs -- --fast             under 1 minute, smaller numbers
//   dotnet run samples/quickstart.cs -- --resume           the same, and once more after Ctrl+C or a power cut: it goes on where it was
//   dotnet run samples/quickstart.cs -- --corpus my.txt    your own text: a line's first words are the prompt, its rest the completion
//
// It ends with one plain line:
//   gold score sft=0.58 ppo=0.84 delta=0.26 ci95=[0.23,0.29] kl=3.9 prompts=400

using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using Microsoft.ML;
using ML.Rlhf;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
var seedOption = new Option<int>("--seed") { Description = "Seed of everything random.", DefaultValueFactory = _ => 1 };
var fastOption = new Option<bool>("--fast") { Description = "A shorter run." };
var corpusOption = new Option<FileInfo?>("--corpus") { Description = "Your own text, one example per line." };
var outputOption = new Option<DirectoryInfo>("--output") 
{
    Description = "Where models are saved.",
    DefaultValueFactory = _ => new DirectoryInfo("quickstart-output"),
};
var resumeOption = new Option<bool>("--resume") { Description = "Keep the runs in the output folder, and go on where they stopped." };
var command = new RootCommand("From text to an aligned GPT.") { seedOption, fastOption, corpusOption, outputOption, resumeOption };
command.SetAction(arguments =>
{
    try
    {
        Quickstart(
            arguments.GetValue(seedOption), arguments.GetValue(fastOption), arguments.GetValue(corpusOption),
            arguments.GetValue(outputOption)!, arguments.GetValue(resumeOption));
        return 0;
    }
    catch (FileNotFoundException e)
    {
        Console.Error.WriteLine(e.Message);
        return 1;
    }
});
return command.Parse(args).Invoke();

static void Quickstart(int seed, bool fast, FileInfo? corpusFile, DirectoryInfo output, bool resume)
{
    var clock = Stopwatch.StartNew();
    CheckpointOptions? Checkpoints(string run) => !resume ? null : new()
    {
        Folder = Path.Combine(output.FullName, "runs", run),
        Every = TimeSpan.FromSeconds(10), // minutes for longer runs
    };
    static IProgress<TrainingProgress> Watch(string title, out TrainingHistory history) =>
        new CombinedProgress(new ConsoleProgress(title), history = new TrainingHistory());
    var ml = new MLContext(seed);
    var rlhf = ml.Rlhf();

    // ---- Data: members of held-out types are never seen before the evaluation.
    var members = corpusFile is null ? SdkDocumentation.Read() : OwnText.Read(corpusFile);
    var random = new Random(seed);
    var held = members.Where(m => m.HeldOut).OrderBy(_ => random.Next()).ToArray();
    var train = members.Where(m => !m.HeldOut).OrderBy(_ => random.Next()).ToArray();
    Demonstration[] demonstrations = [.. train.Take(fast ? 2_000 : 12_000).Select(m => m.AsDemonstration())];
    PromptOnly[] trainPrompts = [.. train.Select(m => m.AsPrompt()).DistinctBy(p => p.Prompt)];
    PromptOnly[] rankedPrompts = [.. trainPrompts.TakeLast(fast ? 500 : 2_500)];
    PromptOnly[] evaluationPrompts = [.. held.Select(m => m.AsPrompt()).DistinctBy(p => p.Prompt).Take(fast ? 200 : 400)];
    Console.WriteLine($"{members.Count} members; {held.Length} of held-out types. For example: {train[0].Signature} -> {train[0].Summary}");
    if (evaluationPrompts.Length < 200)
        throw new InvalidOperationException(
            $"The corpus leaves {evaluationPrompts.Length} held-out prompts, but the evaluation needs 200. Use a longer corpus.");

    // ---- Step 0: a tokenizer, and a GPT that has read the documentation.
    var corpus = ml.Data.LoadFromEnumerable(train.Select(m => new Document { Text = m.AsDocument() }));
    var tokenizer = rlhf.Tokenizers.TrainByteLevelBpe(corpus, vocabularySize: 1024);
    var gpt = rlhf.Trainers.Gpt(new GptOptions
    {
        Architecture = GptArchitecture.Micro with { ContextLength = 96 },
        Tokenizer = tokenizer,
        Steps = fast ? 100 : 1_000,
        WarmupSteps = fast ? 10 : 100,
        BatchSize = 16,
        Checkpoints = Checkpoints("gpt"),
        Progress = Watch("pretraining", out var gptHistory),
    }).Fit(corpus);

    // ---- Step 1: supervised fine-tuning on demonstrations: signature -> summary.
    var sampling = new SamplingOptions { MaxNewTokens = 40, Temperature = 0.7f, Seed = seed };
    var sft = rlhf.Trainers.SupervisedFineTuning(gpt, new SupervisedFineTuningOptions
    {
        Epochs = 1,
        LearningRate = 5e-4,
        Sampling = sampling,
        Checkpoints = Checkpoints("sft"),
        Progress = Watch("fine-tuning", out var sftHistory),
    }).Fit(ml.Data.LoadFromEnumerable(demonstrations));

    // ---- Step 2: a labeler ranks two summaries of each prompt, and a reward model learns the labeler's taste.
    Console.WriteLine(StyleRule.Description);
    var preferences = StyleRule.Rank(sft, rankedPrompts, noise: 0.05, random);
    int heldOutPairs = preferences.Length / 5; // each prompt has one pair: no prompt is on both sides
    var reward = rlhf.Trainers.RewardModel(sft, new RewardModelOptions
    {
        Epochs = 2,
        LearningRate = 5e-4,
        Checkpoints = Checkpoints("reward"),
        Progress = Watch("reward model", out var rewardHistory),
    }).Fit(ml.Data.LoadFromEnumerable(preferences[heldOutPairs..]));
    var accuracy = rlhf.EvaluateRewardModel(reward, ml.Data.LoadFromEnumerable(preferences[..heldOutPairs]));
    Console.WriteLine($"reward model accuracy={accuracy.Accuracy:F3} length-baseline={accuracy.LengthBaselineAccuracy:F3} " +
        $"pairs={accuracy.PairCount}");

    // ---- Step 3: PPO against the reward model.
    var policy = rlhf.Trainers.Ppo(sft, reward, new PpoOptions
    {
        Episodes = fast ? 64 * 12 : 64 * 40,
        LearningRate = 2e-4,
        KlCoefficient = 0.2,
        MaxResponseTokens = sampling.MaxNewTokens,
        Temperature = sampling.Temperature,
        Checkpoints = Checkpoints("ppo"),
        Progress = Watch("PPO", out var ppoHistory),
    }).Fit(ml.Data.LoadFromEnumerable(trainPrompts.Take(4_000)));

    // ---- Evaluation on held-out types: the rule itself is the gold score.
    string[] prompts = [.. evaluationPrompts.Select(p => p.Prompt)];
    var before = sft.Generate(prompts);
    var after = policy.Generate(prompts);
    var promptData = ml.Data.LoadFromEnumerable(evaluationPrompts);
    var metricsBefore = rlhf.EvaluatePolicy(sft, sft, promptData);
    var metricsAfter = rlhf.EvaluatePolicy(policy, sft, promptData);
    Console.WriteLine($"tokens per summary sft={metricsBefore.ResponseLength:F1} ppo={metricsAfter.ResponseLength:F1}; " +
        $"finished sft={metricsBefore.EndRate:P0} ppo={metricsAfter.EndRate:P0}");
    for (int i = 0; i < 5; i++)
    {
        Console.WriteLine($"  {prompts[i].TrimEnd()}");
        Console.WriteLine($"    sft {StyleRule.Score(before[i]):F2}  {before[i].Trim()}");
        Console.WriteLine($"    ppo {StyleRule.Score(after[i]):F2}  {after[i].Trim()}");
    }

    // ---- One file per model; any ML.NET program with this package can load them.
    output.Create();
    var demonstrationData = ml.Data.LoadFromEnumerable(demonstrations);
    foreach (var (name, model, data) in new (string, ITransformer, IDataView)[]
        { ("sft.zip", sft, promptData), ("reward.zip", reward, demonstrationData), ("policy.zip", policy, promptData) })
    {
        string path = Path.Combine(output.FullName, name);
        ml.Model.Save(model, data.Schema, path);
        Console.WriteLine($"saved {path} ({new FileInfo(path).Length / 1e6:F1} MB)");
    }
    string report = Path.Combine(output.FullName, "report.html");
    new RunReport("Quickstart: from text to an aligned GPT")
        .AddData("Demonstrations", demonstrationData)
        .AddRun(gptHistory)
        .AddRun(sftHistory)
        .AddRun(rewardHistory)
        .AddRewardModel(accuracy)
        .AddRun(ppoHistory)
        .AddSamples(rlhf.CompareSamples(promptData, [("SFT", sft), ("PPO", policy)], rlhf.Rewards.FromTransformer(reward)))
        .Save(report);
    Console.WriteLine($"learning curves, calibration and samples: {report}");
    var loaded = new MLContext().Model.Load(Path.Combine(output.FullName, "policy.zip"), out _);
    using var engine = ml.Model.CreatePredictionEngine<PromptOnly, Generated>(loaded);
    bool same = evaluationPrompts.Take(20).All(p => engine.Predict(p).Completion == policy.Generate(p.Prompt));
    Console.WriteLine($"the reloaded policy gives {(same ? "the same" : "OTHER")} completions");
    if (!same)
        throw new InvalidOperationException("The reloaded policy differs from the one that was saved.");

    var (delta, margin) = Difference(before, after);
    Console.WriteLine($"done in {clock.Elapsed:m\\:ss}");
    Console.WriteLine($"gold score sft={before.Average(StyleRule.Score):F2} ppo={after.Average(StyleRule.Score):F2} delta={delta:F2} " +
        $"ci95=[{delta - margin:F2},{delta + margin:F2}] kl={metricsAfter.Kl:F1} prompts={prompts.Length}");
}

// Mean difference of the gold scores, prompt by prompt, and the half width of its 95 % confidence interval.
static (double Mean, double Margin) Difference(IReadOnlyList<string> before, IReadOnlyList<string> after)
{
    double[] differences = [.. before.Zip(after, (b, a) => StyleRule.Score(a) - StyleRule.Score(b))];
    double mean = differences.Average();
    double deviation = Math.Sqrt(differences.Sum(d => (d - mean) * (d - mean)) / (differences.Length - 1));
    return (mean, 1.96 * deviation / Math.Sqrt(differences.Length));
}

/// <summary>What the labeler has in mind.</summary>
static class StyleRule
{
    public const string Description =
        """
        The labeler likes a summary that (1) starts with a verb, as in "Gets" or "Returns"; (2) is one sentence of 4 to 8 words;
        (3) has none of the words specified, value, instance, object. One third of a point each: style, not truth. One label in twenty is wrong.
        """;

    public static double Score(string summary)
    {
        string[] words = summary.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        bool verb = words.Length > 0 && Regex.IsMatch(words[0], "^[A-Z][a-z]+s$") && words[0] is not "This";
        bool brief = words.Length is >= 4 and <= 8 && words[^1].EndsWith('.');
        bool plain = words.Length > 0 && !Regex.IsMatch(summary, @"\b(specified|value|instance|object)", RegexOptions.IgnoreCase);
        return ((verb ? 1 : 0) + (brief ? 1 : 0) + (plain ? 1 : 0)) / 3.0;
    }

    /// <summary>
    /// Two summaries of each prompt by the model, ranked by the rule. Pairs that the rule finds equal teach nothing and are left out.
    /// </summary>
    public static Preference[] Rank(TextGenerationTransformer model, PromptOnly[] prompts, double noise, Random random)
    {
        string[] texts = [.. prompts.Select(p => p.Prompt)];
        var first = model.Generate(texts, model.Sampling with { Seed = model.Sampling.Seed + 1000 });
        var second = model.Generate(texts, model.Sampling with { Seed = model.Sampling.Seed + 2000 });
        var preferences = new List<Preference>();
        for (int i = 0; i < texts.Length; i++)
        {
            double margin = Score(first[i]) - Score(second[i]);
            if (margin == 0)
                continue;
            bool firstWins = margin > 0 != random.NextDouble() < noise;
            var (chosen, rejected) = firstWins ? (first[i], second[i]) : (second[i], first[i]);
            preferences.Add(new Preference { Prompt = texts[i], Chosen = chosen, Rejected = rejected });
        }
        return [.. preferences];
    }
}

/// <summary>Something to write about: a signature, and the summary that people wrote.</summary>
record Member(string Signature, string Summary, bool HeldOut)
{
    public Demonstration AsDemonstration() => new() { Prompt = AsPrompt().Prompt, Completion = Summary };
    public PromptOnly AsPrompt() => new() { Prompt = Signature + "\n" };
    public string AsDocument() => Signature + "\n" + Summary;
}

/// <summary>The XML documentation that comes with the .NET SDK.</summary>
static class SdkDocumentation
{
    public static List<Member> Read()
    {
        // .../shared/Microsoft.NETCore.App/10.0.0/ -> .../packs/*.Ref/10.0.0/ref/net10.0/*.xml
        string packs = Path.GetFullPath(Path.Combine(RuntimeEnvironment.GetRuntimeDirectory(), "../../../packs"));
        string[] files = Directory.Exists(packs) ? Directory.GetFiles(packs, "*.xml", SearchOption.AllDirectories) : [];
        Array.Sort(files, StringComparer.Ordinal);
        if (files.Length == 0)
            throw new FileNotFoundException($"No XML documentation was found in {packs}. Install the .NET SDK (not the runtime alone), " +
                "or pass your own text with --corpus FILE.");
        return [.. files.SelectMany(Members).DistinctBy(m => m.Signature)];
    }

    static IEnumerable<Member> Members(string file)
    {
        foreach (var member in XDocument.Load(file).Descendants("member"))
        {
            // M:System.String.Trim(System.Char[]) -> String.Trim(Char[])
            string name = member.Attribute("name")?.Value ?? "", summary = Text(member.Element("summary"));
            bool generated = name.Contains(".Intrinsics.") || name.Contains('#') && !name.Contains("#ctor");
            string[] parts = name.Split('(', 2), path = parts[0].Split('.', ':');
            if (name.StartsWith("T:") || generated || path.Length < 3 || summary.Length is < 10 or > 120 || !summary.EndsWith('.'))
                continue;
            string type = Short(path[^2]), signature = $"{type}.{Short(path[^1]).Replace("#ctor", "new")}";
            if (parts.Length == 2)
                signature += "(" + string.Join(", ", parts[1].TrimEnd(')').Split(',').Select(p => Short(p.Split('.')[^1]))) + ")";
            if (signature.Length <= 70)
                yield return new Member(signature, summary, HeldOut: Hash.Of(type) % 10 == 0);
        }
    }

    static string Short(string name) => Regex.Replace(name, "[`{}@0-9]+", "");

    /// <summary>The first sentence, with references by their last name.</summary>
    static string Text(XElement? summary)
    {
        if (summary is null)
            return "";
        foreach (var element in summary.Descendants().Where(e => e.Value == "").ToArray())
        {
            var target = element.Attribute("cref") ?? element.Attribute("name") ?? element.Attribute("langword");
            element.Value = Short((target?.Value ?? "").Split('(')[0].Split('.', ':')[^1]);
        }
        return Regex.Split(Regex.Replace(summary.Value, @"\s+", " ").Trim(), @"(?<=\.)\s")[0];
    }
}

/// <summary>Text of your own: the first three words of a line are the prompt.</summary>
static class OwnText
{
    public static List<Member> Read(FileInfo file)
    {
        if (!file.Exists)
            throw new FileNotFoundException($"There is no corpus {file.FullName}. Check the path of --corpus.");
        return [.. from line in File.ReadLines(file.FullName)
                   let words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries)
                   where words.Length is > 4 and < 30
                   let prompt = string.Join(' ', words[..3])
                   select new Member(prompt, string.Join(' ', words[3..]), HeldOut: Hash.Of(prompt) % 10 == 0)];
    }
}

static class Hash
{
    /// <summary>The same on every machine and in every process (FNV-1a).</summary>
    public static uint Of(string text) => text.Aggregate(2166136261, (hash, c) => (hash ^ c) * 16777619);
}
