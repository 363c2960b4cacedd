using System.Globalization;
using Microsoft.ML;

namespace ML.Rlhf.Samples.Tests.Browser;

/// <summary>The report of real runs, looked at in a real browser. <c>SCREENSHOTS=folder</c> keeps pictures of it for a person's eyes.</summary>
[Trait("Tier", "Slow")]
public sealed class RunReportPageTests(RunReportPageTests.Report report) : IClassFixture<RunReportPageTests.Report>
{
    [Theory]
    [InlineData(false, 1200), InlineData(true, 1200), InlineData(false, 400), InlineData(true, 400)]
    public async Task A_report_is_whole_and_legible(bool isDark, int width)
    {
        await using var page = await Page.Open(report.File, isDark, width);
        if (Environment.GetEnvironmentVariable("SCREENSHOTS") is { } folder)
            await page.Screenshot(Path.Combine(Directory.CreateDirectory(folder).FullName, $"report-{(isDark ? "dark" : "light")}-{width}.png"));

        Assert.Empty(page.Complaints);
        Assert.Equal(
            ["Prompts", "GPT", "Reward model", "Reward model on held-out preferences", "PPO", "Over-optimisation", "Samples", "Environment"],
            await page.Texts("h2"));
        Assert.True(await page.Overflow() <= 0, $"The page is {await page.Overflow()} pixels wider than its window.");
        Assert.Empty(await page.BadLabels());
        string least = await page.LeastContrast();
        Assert.True(double.Parse(least.Split(' ')[0], CultureInfo.InvariantCulture) >= 4.5, $"contrast of {least}");
    }

    /// <summary>Small models that write the letters of a few words, and are paid for "cat".</summary>
    public sealed class Report : IDisposable
    {
        private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;

        public Report()
        {
            var ml = new MLContext(seed: 1);
            var rlhf = ml.Rlhf();
            string[] subjects = ["the cat", "the dog", "a hen", "an owl"], verbs = ["sees", "likes", "finds", "feeds"];
            var texts = subjects.SelectMany(s => verbs.SelectMany(v => subjects.Select(o => $"{s} {v} {o}"))).ToArray();
            var prompts = ml.Data.LoadFromEnumerable(subjects.Select(s => new PromptOnly { Prompt = s + " " }));
            var pairs = ml.Data.LoadFromEnumerable(subjects.SelectMany(s => verbs.Select(v => new Preference
            {
                Prompt = s + " ", Chosen = v + " the cat", Rejected = v + " a hen",
            })));
            TrainingHistory gptHistory = new(), rewardHistory = new(), ppoHistory = new();
            using var gpt = rlhf.Trainers.Gpt(new GptOptions
            {
                Architecture = GptArchitecture.Nano with { ContextLength = 48, VocabularySize = 300 },
                Steps = 150,
                WarmupSteps = 10,
                EvaluateEvery = 25,
                ValidationData = ml.Data.LoadFromEnumerable([new Document { Text = texts[3] }]),
                Progress = gptHistory,
            }).Fit(ml.Data.LoadFromEnumerable(texts.Select(text => new Document { Text = text })));
            using var reward = rlhf.Trainers.RewardModel(gpt, new RewardModelOptions
            {
                Epochs = 4, BatchSize = 4, LearningRate = 1e-3, Progress = rewardHistory,
            }).Fit(pairs);
            var options = new PpoOptions
            {
                Episodes = 64 * 12,
                EpisodesPerUpdate = 64,
                MaxResponseTokens = 12,
                LearningRate = 1e-3,
                Alarms = new AlarmOptions { MaxKl = 0.5 }, // to have one in the report
                Progress = ppoHistory,
            };
            using var policy = rlhf.Trainers.Ppo(gpt, reward, options).Fit(prompts);
            Reward proxy = rlhf.Rewards.FromTransformer(reward),
                gold = rlhf.Rewards.FromFunction((_, completion) => completion.Contains("cat") ? 1 : 0);
            File = Path.Combine(_folder, "report.html");
            new RunReport("Four animals & what they are paid for: <cat>")
                .AddData("Prompts", prompts)
                .AddRun(gptHistory)
                .AddRun(rewardHistory)
                .AddRewardModel(rlhf.EvaluateRewardModel(reward, pairs))
                .AddRun(ppoHistory, options)
                .AddOverOptimization(new OverOptimizationCurve("Best of n", rlhf.EvaluateBestOfN(gpt, proxy, gold, prompts, samples: 16)))
                .AddSamples(rlhf.CompareSamples(prompts, [("GPT", gpt), ("PPO", policy)], proxy))
                .Save(File);
        }

        public string File { get; }

        public void Dispose() => Directory.Delete(_folder, recursive: true);
    }
}
