#!/usr/bin/env dotnet
#:project ../src/ML.Rlhf/ML.Rlhf.csproj
#:package System.CommandLine

// Over-optimisation of a reward model (Gao, Schulman, Hilton 2022, arXiv 2210.10760), in minutes. The gold reward is a known rule; the
// proxy is a reward model that learned it from a few noisy preferences. Best-of-n and PPO raise the proxy. How far does the gold reward
// follow, as the policy moves away from where it began?
//
//   dotnet run samples/over-optimization.cs                 about 7 minutes on 2 cores
//
// It prints both curves over d = √KL, and fits the paper's forms: R(d) = d·(α − β·d) for best-of-n, R(d) = d·(α − β·ln d) for PPO.

using System.CommandLine;
using System.Globalization;
using Microsoft.ML;
using ML.Rlhf;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
var seedOption = new Option<int>("--seed") { Description = "Seed of everything random.", DefaultValueFactory = _ => 1 };
var pairsOption = new Option<int>("--pairs") { Description = "Preferences that the proxy learns from.", DefaultValueFactory = _ => 500 };
var command = new RootCommand("The gold reward over the proxy's KL.") { seedOption, pairsOption };
command.SetAction(arguments => OverOptimize(arguments.GetValue(seedOption), arguments.GetValue(pairsOption)));
return command.Parse(args).Invoke();

static void OverOptimize(int seed, int pairs)
{
    var ml = new MLContext(seed);
    var rlhf = ml.Rlhf();
    var random = new Random(seed);
    string[] texts = [.. Language.Texts(8_000, random)];
    var starts = ml.Data.LoadFromEnumerable(Language.Letters.Select(letter => new PromptOnly { Prompt = letter.ToString() }));

    // A GPT that speaks the language.
    var gpt = rlhf.Trainers.Gpt(new GptOptions
    {
        Architecture = GptArchitecture.Micro with { ContextLength = Language.Length + 4 },
        Tokenizer = rlhf.Tokenizers.TrainCharacters(ml.Data.LoadFromEnumerable([new Document { Text = Language.Letters }])),
        Steps = 100,
        WarmupSteps = 10,
        BatchSize = 64,
    }).Fit(ml.Data.LoadFromEnumerable(texts.Select(text => new Document { Text = text })));
    var sft = rlhf.Trainers.SupervisedFineTuning(gpt, new SupervisedFineTuningOptions
    {
        Epochs = 2,
        LearningRate = 1e-3,
        Sampling = new SamplingOptions { MaxNewTokens = Language.Length + 2, Seed = seed },
    }).Fit(ml.Data.LoadFromEnumerable(texts.Select(text => new Demonstration { Prompt = text[..1], Completion = text[1..] })));

    // The proxy: a reward model that saw which of two texts of the model's own the rule likes better. One label in ten is wrong.
    PromptOnly[] prompts = [.. Enumerable.Range(0, pairs).Select(_ => Language.Letters[random.Next(Language.Letters.Length)..][..1])
        .Select(letter => new PromptOnly { Prompt = letter })];
    string[] letters = [.. prompts.Select(p => p.Prompt)];
    var first = Sample(1);
    var second = Sample(2);
    var scores = first.Concat(second).Select(Language.Gold).ToArray();
    double mean = scores.Average(), deviation = Math.Sqrt(scores.Average(s => (s - mean) * (s - mean)));
    float Gold(string prompt, string completion) => (float)((Language.Gold(prompt + completion) - mean) / deviation);
    var preferences = letters.Select((letter, i) =>
    {
        var (better, worse) = Gold(letter, first[i]) > Gold(letter, second[i]) ? (first[i], second[i]) : (second[i], first[i]);
        return random.NextDouble() < 0.1
            ? new Preference { Prompt = letter, Chosen = worse, Rejected = better }
            : new Preference { Prompt = letter, Chosen = better, Rejected = worse };
    });
    var proxy = rlhf.Trainers.RewardModel(sft, new RewardModelOptions { Epochs = 2, LearningRate = 3e-4 })
        .Fit(ml.Data.LoadFromEnumerable(preferences));

    // Best-of-n, for every n from one set of 64 answers to each prompt.
    var goldReward = rlhf.Rewards.FromFunction(Gold);
    List<(double Kl, double Gain)> ofBestOfN = [], ofPpo = [];
    var many = ml.Data.LoadFromEnumerable(prompts.Take(200));
    foreach (var p in rlhf.EvaluateBestOfN(sft, rlhf.Rewards.FromTransformer(proxy), goldReward, many, samples: 64, n: [1, 2, 4, 8, 16, 32, 64]))
    {
        Console.WriteLine($"best-of-n n={p.N,-2} sqrt-kl={Math.Sqrt(p.Kl):F2} proxy={p.ProxyScore:F2} gold={p.GoldScore:F2} ±{p.GoldStandardError:F2}");
        ofBestOfN.Add((p.Kl, p.GoldScore));
    }
    double start = ofBestOfN[0].Gain;

    // PPO at several β: each update is a point of the curve.
    foreach (double beta in (double[])[0, 0.05, 0.2])
    {
        var curve = new Curve();
        rlhf.Trainers.Ppo(sft, proxy, new PpoOptions
        {
            Episodes = 128 * 50,
            EpisodesPerUpdate = 128,
            LearningRate = 1e-4,
            KlCoefficient = beta,
            MaxResponseTokens = Language.Length + 2,
            GoldReward = goldReward,
            Alarms = new AlarmOptions { Policy = AlarmPolicy.Ignore }, // over-optimisation is what is asked for
            Progress = curve,
        }).Fit(starts).Dispose();
        foreach (var p in curve.Points.Where(p => p.Step % 5 == 0))
            Console.WriteLine($"ppo beta={beta,-4} update={p.Step,-2} sqrt-kl={Math.Sqrt(Math.Max(0, p.Kl)):F2} proxy={p.Score:F2} gold={p.GoldScore:F2}");
        ofPpo.AddRange(curve.Points.Where(p => p.Kl > 0).Select(p => (p.Kl, p.GoldScore!.Value - start)));
    }

    var bon = OverOptimization.Fit(ofBestOfN.Select(p => (p.Kl, p.Gain - start)), OverOptimizationForm.BestOfN);
    var rl = OverOptimization.Fit(ofPpo, OverOptimizationForm.ReinforcementLearning);
    Console.WriteLine($"over-optimization seed={seed} best-of-n alpha={bon.Alpha:F2} beta={bon.Beta:F2} r2={bon.RSquared:F2} " +
        $"ppo alpha={rl.Alpha:F2} beta={rl.Beta:F2} r2={rl.RSquared:F2} peak={rl.PeakDistance:F2}");

    IReadOnlyList<string> Sample(int draw) => [.. letters.Chunk(16).SelectMany((part, i) =>
        sft.Generate(part, sft.Sampling with { Seed = 1_000_000 * draw + 1_000 * seed + i }))];
}

/// <summary>Texts of twenty letters, each drawn by the letter before it, and a rule that likes each letter so much, but only twice.</summary>
static class Language
{
    public const string Letters = "abcdefghijklmnop";
    public const int Length = 20;
    private static readonly double[] s_values;
    private static readonly double[][] s_next;

    static Language()
    {
        var random = new Random(7);
        s_values = [.. Letters.Select(_ => 2 * random.NextDouble() - 1)];
        s_next = [.. Letters.Select(_ => Letters.Select(_ => Math.Pow(random.NextDouble(), 2)).ToArray())];
    }

    public static IEnumerable<string> Texts(int count, Random random)
    {
        for (int i = 0; i < count; i++)
        {
            int[] text = new int[Length];
            text[0] = random.Next(Letters.Length);
            for (int t = 1; t < Length; t++)
                text[t] = Draw(s_next[text[t - 1]], random);
            yield return string.Concat(text.Select(letter => Letters[letter]));
        }
    }

    /// <summary>Σ value·count, but the third and each further one of a letter takes away what a first one would have given.</summary>
    public static double Gold(string text) => Letters.Select((letter, i) =>
    {
        int count = text.Count(c => c == letter);
        return s_values[i] * count - Math.Abs(s_values[i]) * 2 * Math.Max(0, count - 2);
    }).Sum();

    private static int Draw(double[] weights, Random random)
    {
        double place = random.NextDouble() * weights.Sum();
        int i = 0;
        while (i < weights.Length - 1 && (place -= weights[i]) >= 0)
            i++;
        return i;
    }
}

sealed class Curve : IProgress<TrainingProgress>
{
    public List<PpoProgress> Points { get; } = [];

    public void Report(TrainingProgress value) => Points.Add((PpoProgress)value);
}
