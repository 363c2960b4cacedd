using System.Globalization;
using Microsoft.ML;

namespace ML.Rlhf.Samples.Tests;

/// <summary>
/// A servant who is asked for things, and a master who likes to hear "with pleasure": three offline aligners learn that from the same pairs
/// of the servant's own answers.
/// </summary>
[Trait("Tier", "Slow")]
public sealed class AlignerTests(ITestOutputHelper output)
{
    private const int AnswersPerPrompt = 10;

    private static readonly string[] s_adjectives = ["red", "blue", "old", "new", "big", "small", "round", "clean"];

    private static readonly string[] s_nouns =
    [
        "cup", "hat", "book", "lamp", "coat", "knife", "plate", "chair", "bottle", "letter", "basket", "candle", "mirror", "clock", "towel",
        "spoon", "pillow", "ladder", "bucket", "broom",
    ];

    private static readonly string[] s_openings = ["", "well, ", "of course, ", "sir, "],
        s_endings = [".", ", with pleasure.", ", i suppose.", ", as always."];

    private readonly MLContext _ml = new(seed: 1);

    /// <summary>
    /// With default learning rates. Measured: polite 0.20 before; 0.68 with DPO, 0.83 with KTO, 0.93 with ORPO. Of 97 % of the answers that
    /// name the right thing, of which the master said nothing, 91 to 92 % are left.
    /// </summary>
    [Fact]
    public void DPO_KTO_and_ORPO_teach_a_model_what_its_master_likes()
    {
        var rlhf = _ml.Rlhf();
        var random = new Random(1);
        string[] things = [.. s_adjectives.SelectMany(adjective => s_nouns.Select(noun => $"{adjective} {noun}"))];
        random.Shuffle(things);
        var (held, known) = (things[..40], things[40..]);
        using var servant = Train(known, random);

        // His own answers, two at a time; the master prefers one where only one is polite.
        Preference[] pairs = [.. Enumerable.Range(0, 20).SelectMany(i => Pairs(servant, known, seed: 2 * i))];
        var preferences = _ml.Data.LoadFromEnumerable(pairs);
        var feedback = _ml.Data.LoadFromEnumerable(pairs.SelectMany(p => new[]
        {
            new Feedback { Prompt = p.Prompt, Completion = p.Chosen, Label = true },
            new Feedback { Prompt = p.Prompt, Completion = p.Rejected, Label = false },
        }).ToArray());
        using var dpo = rlhf.Trainers.Dpo(servant, epochs: 3).Fit(preferences);
        using var kto = rlhf.Trainers.Kto(servant, epochs: 2).Fit(feedback); // twice as many steps
        using var orpo = rlhf.Trainers.Orpo(servant, epochs: 2).Fit(preferences);

        output.WriteLine($"pairs={pairs.Length} prompts={held.Length} answers={held.Length * AnswersPerPrompt}");
        foreach (var (name, model) in new[] { ("dpo", dpo), ("kto", kto), ("orpo", orpo) })
        {
            var (low, right) = Compare(name, servant, model, held);
            Assert.True(low > 0.1, $"{name}: the part of polite answers rose by {low:F3} at least");
            Assert.True(right > 0.8, $"{name}: {right:F3} of the answers name the thing that was asked for");
        }
    }

    /// <summary>A model of 0.1 M parameters that answers in sixteen ways, all equally often.</summary>
    private TextGenerationTransformer Train(string[] things, Random random)
    {
        var asked = Enumerable.Range(0, 1920).Select(i => things[i % things.Length]);
        Demonstration[] demonstrations = [.. asked.Select(thing => new Demonstration
        {
            Prompt = Ask(thing),
            Completion = Any(s_openings) + HereIs(thing) + Any(s_endings),
        })];
        using var gpt = _ml.Rlhf().Trainers.Gpt(new GptOptions
        {
            Architecture = GptArchitecture.Nano with { VocabularySize = 384 }, Steps = 500, BatchSize = 16, LearningRate = 3e-3,
        }).Fit(_ml.Data.LoadFromEnumerable(demonstrations.Select(d => new Document { Text = d.Prompt + d.Completion }).ToArray()));
        return _ml.Rlhf().Trainers.SupervisedFineTuning(gpt, new SupervisedFineTuningOptions { LearningRate = 2e-3, Epochs = 3 })
            .Fit(_ml.Data.LoadFromEnumerable(demonstrations));

        string Any(string[] choices) => choices[random.Next(choices.Length)];
    }

    private static string Ask(string thing) => $"bring me the {thing}\n";

    private static string HereIs(string thing) => $"here is the {thing}";

    private static bool IsPolite(string answer) => answer.Contains("with pleasure", StringComparison.Ordinal);

    private static IReadOnlyList<string> Answers(TextGenerationTransformer model, string[] things, int seed) =>
        model.Generate([.. things.Select(Ask)], new SamplingOptions { MaxNewTokens = 32, Seed = seed });

    private static IEnumerable<Preference> Pairs(TextGenerationTransformer model, string[] things, int seed)
    {
        IReadOnlyList<string> first = Answers(model, things, seed), second = Answers(model, things, seed + 1);
        for (int i = 0; i < things.Length; i++)
        {
            var (better, worse) = IsPolite(first[i]) ? (first[i], second[i]) : (second[i], first[i]);
            if (IsPolite(better) && !IsPolite(worse))
                yield return new Preference { Prompt = Ask(things[i]), Chosen = better, Rejected = worse };
        }
    }

    /// <summary>Measures both models on the same prompts with the same seeds; the interval is over prompts.</summary>
    /// <returns>The lower end of the interval, and the part of the new model's answers that name the right thing.</returns>
    private (double Low, double Right) Compare(
        string name, TextGenerationTransformer before, TextGenerationTransformer after, string[] things)
    {
        var (politeBefore, rightBefore) = Measure(before, things);
        var (politeAfter, rightAfter) = Measure(after, things);
        double[] gains = [.. politeAfter.Zip(politeBefore, (a, b) => a - b)];
        double gain = gains.Average(), half = 1.96 * Math.Sqrt(gains.Sum(g => (g - gain) * (g - gain)) / (gains.Length - 1) / gains.Length);
        var prompts = _ml.Data.LoadFromEnumerable(things.Select(thing => new PromptOnly { Prompt = Ask(thing) }).ToArray());
        double kl = _ml.Rlhf().EvaluatePolicy(after, before, prompts).Kl;
        output.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"polite algorithm={name} before={politeBefore.Average():F3} after={politeAfter.Average():F3} " +
            $"ci95=[{gain - half:F3},{gain + half:F3}] kl={kl:F2} right before={rightBefore:F3} after={rightAfter:F3}"));
        return (gain - half, rightAfter);
    }

    /// <summary>The part of polite answers to each prompt, and of right ones to all.</summary>
    private static (double[] Polite, double Right) Measure(TextGenerationTransformer model, string[] things)
    {
        IReadOnlyList<string>[] answers = [.. Enumerable.Range(1000, AnswersPerPrompt).Select(seed => Answers(model, things, seed))];
        double[] polite = [.. things.Select((_, i) => answers.Average(a => IsPolite(a[i]) ? 1.0 : 0))];
        double right = answers.Average(a => things.Select((thing, i) => a[i].Contains(HereIs(thing), StringComparison.Ordinal) ? 1.0 : 0)
            .Average());
        return (polite, right);
    }
}
