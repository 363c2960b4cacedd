using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf.Tests.RewardModel;

public sealed class RewardModelTrainerTests
{
    private readonly MLContext _ml = new(seed: 1);

    [Fact]
    public void It_learns_what_people_prefer()
    {
        var data = _ml.Data.LoadFromEnumerable(Tiny.Preferences);
        using var model = Trainer(new() { Epochs = 30, LearningRate = 3e-3 }).Fit(data);

        Assert.Equal(1, _ml.Rlhf().EvaluateRewardModel(model, data).Accuracy);
    }

    [Fact]
    public void Scores_have_mean_0_and_deviation_1_over_the_answers_that_it_was_trained_on()
    {
        using var model = Trainer(new() { Epochs = 3 }).Fit(_ml.Data.LoadFromEnumerable(Tiny.Preferences));
        using var raw = Trainer(new() { Epochs = 3, Normalization = ScoreNormalization.None })
            .Fit(_ml.Data.LoadFromEnumerable(Tiny.Preferences));

        var (mean, deviation) = Moments(model);
        Assert.Equal(0, mean, 1e-4);
        Assert.Equal(1, deviation, 1e-4);

        // The same order, and one scale for all.
        var (rawMean, rawDeviation) = Moments(raw);
        Assert.NotEqual(1, rawDeviation, 0.05);
        Assert.All(Tiny.Preferences, p => Assert.Equal(
            (raw.Score(p.Prompt, p.Chosen) - rawMean) / rawDeviation, model.Score(p.Prompt, p.Chosen), 1e-3));
    }

    [Fact]
    public void The_score_goes_on_through_stock_transforms()
    {
        var pipeline = _ml.Transforms.Text.NormalizeText("Chosen")
            .Append(Trainer(new()))
            .Append(_ml.Transforms.Text.FeaturizeText("Words", "Chosen"))
            .Append(_ml.Transforms.Concatenate("Features", "Score", "Words"))
            .Append(_ml.Transforms.NormalizeMeanVariance("Features"))
            .Append(_ml.Clustering.Trainers.KMeans(numberOfClusters: 2));
        var data = _ml.Data.LoadFromEnumerable(Tiny.Preferences);

        var clusters = pipeline.Fit(data).Transform(data).GetColumn<uint>("PredictedLabel").ToList();

        Assert.Equal(8, clusters.Count);
        Assert.All(clusters, cluster => Assert.InRange(cluster, 1u, 2u));
    }

    [Fact]
    public void Pairs_of_equal_answers_are_left_out_and_counted()
    {
        var ml = new MLContext(seed: 1);
        var warnings = ml.Warnings();
        var same = new Preference { Prompt = "cat", Chosen = "purr", Rejected = "purr" };
        var trainer = ml.Rlhf().Trainers.RewardModel(Tiny.Model);

        using var model = trainer.Fit(ml.Data.LoadFromEnumerable(Tiny.Preferences.Append(same).Prepend(same)));

        Assert.Equal(["2 of 10 preferences rank no answer above a different one, as far as the context shows them, and were left out."],
            warnings);
        Assert.Equal(Tiny.Weights(trainer.Fit(ml.Data.LoadFromEnumerable(Tiny.Preferences))), Tiny.Weights(model));
    }

    [Fact]
    public void Answers_that_do_not_fit_are_cut_and_counted()
    {
        var ml = new MLContext(seed: 1);
        var warnings = ml.Warnings();
        string tooLong = new('b', 31);

        ml.Rlhf().Trainers.RewardModel(Tiny.Model).Fit(ml.Data.LoadFromEnumerable<Preference>(
        [
            new() { Prompt = "a", Chosen = tooLong, Rejected = "b" },
            new() { Prompt = "a", Chosen = "b", Rejected = tooLong },
            new() { Prompt = "a" + tooLong, Chosen = "b", Rejected = "c" },
        ])).Dispose();

        Assert.Equal(
        [
            "1 of 3 rows were left out: their prompts fill the model's context of 32 tokens.",
            "2 of 6 answers were cut at the model's context of 32 tokens.",
        ], warnings);
    }

    private static (double Mean, double Deviation) Moments(RewardTransformer model)
    {
        var scores = model.Score([.. Tiny.Preferences.SelectMany(p => new[] { (p.Prompt, p.Chosen), (p.Prompt, p.Rejected) })]);
        double mean = scores.Average();
        return (mean, Math.Sqrt(scores.Average(score => (score - mean) * (score - mean))));
    }

    private RewardModelTrainer Trainer(RewardModelOptions options) => _ml.Rlhf().Trainers.RewardModel(Tiny.Model, options);
}
