using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>What is particular to reward modelling.</summary>
public class RewardModelTrainingTests
{
    [Theory]
    [InlineData(2)]
    [InlineData(5)]
    public void It_starts_at_ln_2_and_learns_the_order_of_the_answers(int answers)
    {
        var data = TinyData.Rankings(rows: 12, answers: answers);
        var model = new ScalarGpt(TinyGpt.Fresh(), generator: null);

        var reports = Train(model, data, new RewardOptions { BatchSize = 12, Epochs = 120, LearningRate = 1e-2 }, validation: data);

        double[] scores = RewardScoring.Score(model, data.Answers.Sequences);
        Close.Assert(Math.Log(2), reports[0].Loss, relative: 1e-6);
        Assert.InRange(reports[^1].ValidationLoss!.Value, 0, 0.1);
        Assert.All(Enumerable.Range(0, 12).SelectMany(data.Pairs), pair => Assert.True(scores[pair.Better] > scores[pair.Worse]));
    }

    /// <summary>
    /// The head is N(0, 1/(C + 1)): scores spread by about 1, but those of answers that end alike differ little before anything is learned.
    /// </summary>
    [Theory]
    [InlineData(2)]
    [InlineData(4)]
    public void With_a_random_head_the_first_loss_is_near_ln_2(int answers)
    {
        int[][] ranks = [.. Enumerable.Range(0, 64).Select(_ => Enumerable.Range(0, answers).ToArray())];
        var sequences = new TokenSequences();
        for (int i = 0; i < 64 * answers; i++)
            sequences.Add([.. TinyData.Sequences(rows: 1, length: 6, seed: i)[0], 17, 18]);
        var data = TinyData.Ranked(new CompletionData(sequences, [.. Enumerable.Repeat(1, sequences.Count)]), ranks);
        double mean = Enumerable.Range(0, 20).Average(seed =>
        {
            using var generator = new Generator((ulong)seed, CPU);
            var model = new ScalarGpt(TinyGpt.Fresh(seed), generator);
            return Train(model, data, new RewardOptions { BatchSize = 64, Normalization = ScoreNormalization.None })[0].Loss;
        });

        Close.Assert(Math.Log(2), mean, absolute: 0.01);
    }

    [Fact]
    public void The_loss_is_the_mean_over_prompts_of_weighted_means_over_pairs()
    {
        var data = TinyData.RaggedRankings(rows: 9);
        var model = TinyGpt.RandomScalar();
        double[] scores = RewardScoring.Score(model, data.Answers.Sequences);
        double Loss(double centering) => Enumerable.Range(0, 9).Average(prompt => data.Weights[prompt] * data.Pairs(prompt).Average(pair =>
        {
            double difference = scores[pair.Better] - scores[pair.Worse] - data.Margins[prompt];
            return Math.Log(1 + Math.Exp(-difference)) + centering * Math.Pow(scores[pair.Better] + scores[pair.Worse], 2);
        }));
        double plain = Loss(0), centered = Loss(0.05);

        var reports = Train(
            model, data, new RewardOptions { BatchSize = 9, CenteringCoefficient = 0.05, LearningRate = 1e-12 }, validation: data);

        Close.Assert(centered, reports[0].Loss, relative: 1e-5);
        Close.Assert(plain, reports[0].ValidationLoss!.Value, relative: 1e-5);
    }

    [Fact]
    public void Ties_and_equal_texts_are_no_pairs()
    {
        var answers = new TokenSequences();
        foreach (int[] sequence in (int[][])[[1, 2], [1, 3], [1, 2], [1, 4]])
            answers.Add(sequence);

        var data = TinyData.Ranked(new CompletionData(answers, [1, 1, 1, 1]), [[1, 1, 2, 3]]);

        Assert.Equal([(0, 3), (1, 2), (1, 3), (2, 3)], data.Pairs(0)); // 0 and 1 are tied, 0 and 2 are the same text
    }

    [Fact]
    public void A_row_of_weight_0_teaches_nothing()
    {
        var data = TinyData.RaggedRankings(rows: 4);
        var without = data with { Weights = [1, 1, 0, 0] };
        var changed = without with { Ranks = [.. data.Ranks.Select((rank, i) => i < data.Starts[2] ? rank : -rank)] };
        ScalarGpt first = TinyGpt.RandomScalar(), second = TinyGpt.RandomScalar();
        var options = new RewardOptions { BatchSize = 4, Epochs = 3, LearningRate = 1e-2 };

        Train(first, without, options);
        Train(second, changed, options);

        Assert.All(TinyGpt.Snapshot(first), p => Close.Assert(p.Value, TinyGpt.Snapshot(second)[p.Key]));
    }

    [Fact]
    public void Scores_of_the_training_answers_get_mean_0_and_deviation_1()
    {
        var data = TinyData.RaggedRankings(rows: 12);
        ScalarGpt model = TinyGpt.RandomScalar(), raw = TinyGpt.RandomScalar();

        Train(model, data, new RewardOptions { LearningRate = 1e-2 });
        Train(raw, data, new RewardOptions { LearningRate = 1e-2, Normalization = ScoreNormalization.None });

        double[] scores = RewardScoring.Score(model, data.Answers.Sequences), learned = RewardScoring.Score(raw, data.Answers.Sequences);
        Close.Assert(0, scores.Average(), absolute: 1e-4);
        Close.Assert(1, scores.Average(s => s * s), relative: 1e-3);
        Assert.Equal((1, 0), (raw.Gain, raw.Bias));
        Assert.All(scores.Zip(learned), pair => Close.Assert(pair.Second * model.Gain + model.Bias, pair.First, absolute: 1e-4));
        Assert.All(TinyGpt.Snapshot(raw), p => Close.Assert(p.Value, TinyGpt.Snapshot(model)[p.Key], what: p.Key)); // the head stays raw
    }

    [Fact]
    public void Demonstrations_get_mean_0_and_keep_the_scale()
    {
        var demonstrations = TinyData.Completions(rows: 10, seed: 5).Sequences;
        var model = TinyGpt.RandomScalar();

        Train(model, TinyData.Rankings(rows: 12), new RewardOptions { Normalization = ScoreNormalization.Demonstrations }, demonstrations);

        Close.Assert(0, RewardScoring.Score(model, demonstrations).Average(), absolute: 1e-4);
        Assert.Equal(1, model.Gain);
        Assert.NotEqual(0, model.Bias);
    }

    [Fact]
    public void Samples_of_the_policy_get_mean_0_and_deviation_1()
    {
        var run = new RecordedRun(seed: 3).Run;
        var policy = TinyGpt.Random();
        var data = TinyData.Rankings(rows: 40);
        var sampling = new SamplingOptions { MaxNewTokens = 5 };
        var samples = NormalizationSamples.Draw(policy, data, sampling, endToken: 0, run);
        var again = NormalizationSamples.Draw(policy, data, sampling, endToken: 0, new RecordedRun(seed: 3).Run);
        var model = TinyGpt.RandomScalar();

        Train(model, data, new RewardOptions { Normalization = ScoreNormalization.PolicySamples }, samples);

        double[] scores = RewardScoring.Score(model, samples);
        Close.Assert(0, scores.Average(), absolute: 1e-4);
        Close.Assert(1, scores.Average(s => s * s), relative: 1e-3);
        Assert.Equal(Rows(samples), Rows(again));
        var prompts = Enumerable.Range(0, 40).Select(data.Prompt).ToArray();
        Assert.Equal(40, samples.Count);
        for (int i = 0; i < 40; i++)
            Assert.Contains(prompts, p => samples[i].StartsWith(p) && samples.Length(i) > p.Length && samples.Length(i) <= p.Length + 5);
    }

    [Fact]
    public void Answers_that_all_score_the_same_are_shifted_only()
    {
        var same = new TokenSequences();
        same.Add(1, 2, 3);
        var model = TinyGpt.RandomScalar();

        Train(model, TinyData.Rankings(rows: 4), new RewardOptions { Normalization = ScoreNormalization.PolicySamples }, same);

        Close.Assert(0, RewardScoring.Score(model, same)[0], absolute: 1e-5);
        Assert.Equal(1, model.Gain);
    }

    [Fact]
    public void Centering_holds_the_scores_near_0()
    {
        double Mean(double coefficient)
        {
            var model = TinyGpt.RandomScalar(seed: 2);
            var data = TinyData.Rankings(rows: 12, answers: 3);
            Train(model, data, new RewardOptions
            {
                BatchSize = 12, Epochs = 30, LearningRate = 1e-2, Normalization = ScoreNormalization.None,
                CenteringCoefficient = coefficient,
            });
            return RewardScoring.Score(model, data.Answers.Sequences).Average();
        }

        Assert.True(Math.Abs(Mean(1)) < 0.3 * Math.Abs(Mean(0)), $"{Mean(1)} against {Mean(0)}");
    }

    private static int[][] Rows(TokenSequences sequences) =>
        [.. Enumerable.Range(0, sequences.Count).Select(row => sequences[row].ToArray())];

    private static List<TrainingProgress> Train(
        ScalarGpt model, RankingData data, RewardOptions options, TokenSequences? normalizationTexts = null, RankingData? validation = null)
    {
        var recorded = new RecordedRun();
        RewardModelTraining.Run(model, data, validation, normalizationTexts, options, recorded.Run);
        return recorded.Reports;
    }
}
