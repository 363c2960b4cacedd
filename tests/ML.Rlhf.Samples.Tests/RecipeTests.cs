using System.Text.Json;
using Microsoft.ML;

namespace ML.Rlhf.Samples.Tests;

/// <summary>Published and measured results on real text, reached again.</summary>
[Trait("Tier", "Slow")]
public sealed class RecipeTests(ITestOutputHelper output)
{
    /// <summary>
    /// nanoGPT's recipe for a CPU (its README, "I only have a macbook"): 4 layers, 4 heads, width 128, context 64, batch 12, 2,000 steps,
    /// no dropout, characters, the last tenth held out. It reports a validation loss of 1.88.
    /// </summary>
    [Fact]
    public void The_character_model_of_nanoGPT_reaches_its_validation_loss()
    {
        string text = File.ReadAllText(Repository.RealData("tinyshakespeare.txt"));
        int cut = (int)(text.Length * 0.9);
        var ml = new MLContext(seed: 1);
        var rlhf = ml.Rlhf();
        IDataView Data(string document) => ml.Data.LoadFromEnumerable([new Document { Text = document }]);

        using var gpt = rlhf.Trainers.Gpt(new GptOptions
        {
            Architecture = GptArchitecture.Micro with { ContextLength = 64 },
            Tokenizer = rlhf.Tokenizers.TrainCharacters(Data(text)),
            Steps = 2000,
            CancellationToken = TestContext.Current.CancellationToken,
        }).Fit(Data(text[..cut]));

        double loss = rlhf.EvaluateLanguageModel(gpt, Data(text[cut..])).Loss;
        output.WriteLine($"validation loss {loss:F4}");
        Assert.InRange(loss, 1.88 - 0.03, 1.88 + 0.03);
    }

    /// <summary>1,100 instructions with a polite and a rude answer each; a bag-of-words classifier tells 0.91 of them apart.</summary>
    [Fact]
    public void A_reward_model_tells_polite_from_rude_answers()
    {
        var pairs = Rows("preferences.json", (e, prompt) => new Preference { Prompt = prompt, Chosen = Text(e, "chosen"),
            Rejected = Text(e, "rejected") });
        var demonstrations = Rows("instructions.json", (e, prompt) => new Demonstration { Prompt = prompt,
            Completion = Text(e, "output") });
        int held = pairs.Length / 5;
        var ml = new MLContext(seed: 1);
        var rlhf = ml.Rlhf();

        // A thousand instructions do not teach a model English: it reads stories, too.
        var stories = File.ReadLines(Repository.RealData("tinystories.txt")).Where(line => line.Length > 20).Take(8_000);
        using var gpt = rlhf.Trainers.Gpt(new GptOptions
        {
            Architecture = GptArchitecture.Micro with { VocabularySize = 2048 },
            Steps = 800,
            BatchSize = 16,
            WarmupSteps = 50,
        }).Fit(ml.Data.LoadFromEnumerable(
            pairs[held..].SelectMany(p => new[] { p.Prompt + p.Chosen, p.Prompt + p.Rejected })
                .Concat(demonstrations[held..].Select(d => d.Prompt + d.Completion)).Concat(stories).Select(text =>
                    new Document { Text = text })));
        using var sft = rlhf.Trainers.SupervisedFineTuning(gpt).Fit(ml.Data.LoadFromEnumerable(demonstrations[held..]));
        using var reward = rlhf.Trainers.RewardModel(sft, new RewardModelOptions { Epochs = 2, LearningRate = 5e-4, BatchSize = 16,
            WarmupSteps = 5 })
            .Fit(ml.Data.LoadFromEnumerable(pairs[held..]));

        var metrics = rlhf.EvaluateRewardModel(reward, ml.Data.LoadFromEnumerable(pairs[..held]));
        output.WriteLine($"{metrics}");
        Assert.True(metrics.Accuracy >= 0.90, $"held-out pair accuracy {metrics.Accuracy:F3}");
    }

    private static T[] Rows<T>(string file, Func<JsonElement, string, T> create)
    {
        using var json = JsonDocument.Parse(File.ReadAllBytes(Repository.RealData(file)));
        return [.. json.RootElement.EnumerateArray().Select(e => create(e, $"{Text(e, "instruction")}\n{Text(e, "input")}\n"))];
    }

    private static string Text(JsonElement row, string field) => row.GetProperty(field).GetString()!;
}
