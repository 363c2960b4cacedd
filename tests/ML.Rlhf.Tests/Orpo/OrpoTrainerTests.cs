using Microsoft.ML;

namespace ML.Rlhf.Tests.Orpo;

public sealed class OrpoTrainerTests
{
    private readonly MLContext _ml = new(seed: 1);

    [Fact]
    public void It_learns_to_answer_as_people_prefer_and_not_as_they_do_not()
    {
        var progress = new ProgressRecords();
        var data = _ml.Data.LoadFromEnumerable(Tiny.Preferences[..3]);
        var options = new OrpoOptions
        {
            Epochs = 120, LearningRate = 1e-2, Progress = progress, Sampling = new() { Temperature = 0, MaxNewTokens = 20 },
        };

        using var model = _ml.Rlhf().Trainers.Orpo(Tiny.Model, options).Fit(data);

        Assert.Equal(["meow meow", "woof woof", "moo moo"], model.Generate(["cat", "dog", "cow"]));
        var last = (OrpoProgress)progress[^1];
        Assert.InRange(last.ChosenLoss, 0, 0.5);
        Assert.True(last.LogOddsRatio > 2, $"{last}");
        Assert.Equal(1, last.RewardAccuracy);
    }
}
