using Microsoft.ML;

namespace ML.Rlhf.Tests.Dpo;

public sealed class DpoTrainerTests
{
    private readonly MLContext _ml = new(seed: 1);

    [Theory]
    [InlineData(DpoLossType.Sigmoid, 0)]
    [InlineData(DpoLossType.Sigmoid, 0.1)]
    [InlineData(DpoLossType.Hinge, 0)]
    [InlineData(DpoLossType.Ipo, 0)]
    [InlineData(DpoLossType.Robust, 0.1)]
    public void It_learns_what_people_prefer_with_every_loss(DpoLossType loss, double labelSmoothing)
    {
        var progress = new ProgressRecords();
        var options = new DpoOptions
        {
            LossType = loss, LabelSmoothing = labelSmoothing, Epochs = 40, LearningRate = 3e-3, Progress = progress,
        };

        Trainer(options).Fit(_ml.Data.LoadFromEnumerable(Tiny.Preferences)).Dispose();

        var last = (PreferenceProgress)progress[^1];
        Assert.Equal(1, last.RewardAccuracy);
        Assert.True(last.ChosenReward > last.RejectedReward + 0.3, $"{last}");
    }

    [Fact]
    public void The_model_completes_prompts_as_the_one_before_samples()
    {
        var data = _ml.Data.LoadFromEnumerable(Tiny.Preferences);
        var other = new SamplingOptions { MaxNewTokens = 2, Temperature = 0.5f };
        using var kept = Trainer(new()).Fit(data);
        using var changed = Trainer(new() { Sampling = other }).Fit(data);

        Assert.Equal(Tiny.Model.Sampling, kept.Sampling);
        Assert.Equal(other, changed.Sampling);
        var rows = _ml.Data.CreateEnumerable<Generated>(kept.Transform(data), reuseRowObject: false);
        Assert.Equal(Tiny.Preferences.Select(p => (p.Prompt, kept.Generate(p.Prompt))), rows.Select(row => (row.Prompt!, row.Completion)));
    }

    [Fact]
    public void Pairs_of_equal_answers_only_are_an_error_that_says_so()
    {
        var data = _ml.Data.LoadFromEnumerable([new Preference { Prompt = "cat", Chosen = "meow", Rejected = "meow" }]);

        Assert.Equal(
            "None of the 1 rows of the data can be used as preferences: 1 have the same chosen and rejected answer, as far as the context " +
            "shows them. Check what the columns hold.", Assert.Throws<InvalidOperationException>(() => Trainer(new()).Fit(data)).Message);
    }

    [Fact]
    public void The_log_tells_accuracy_and_margin()
    {
        var ml = new MLContext(seed: 1);
        var lines = new List<string>();
        ml.Log += (_, e) => lines.Add(e.Message);

        ml.Rlhf().Trainers.Dpo(Tiny.Model).Fit(ml.Data.LoadFromEnumerable(Tiny.Preferences)).Dispose();

        Assert.Contains(lines, line => line.Contains(" DPO step 1/1 loss 0.6931 accuracy ", StringComparison.Ordinal)
            && line.Contains(" margin ", StringComparison.Ordinal));
    }

    private DpoTrainer Trainer(DpoOptions options) => _ml.Rlhf().Trainers.Dpo(Tiny.Model, options);
}
