using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;

namespace ML.Rlhf.Tests.Sft;

public sealed class SupervisedFineTuningTrainerTests
{
    private readonly MLContext _ml = new(seed: 1);

    [Fact]
    public void It_learns_to_answer_and_to_stop()
    {
        using var model = Trainer(new() { Epochs = 60, LearningRate = 2e-2, Sampling = new() { Temperature = 0, MaxNewTokens = 20 } })
            .Fit(_ml.Data.LoadFromEnumerable(Tiny.Demonstrations[..3]));

        Assert.Equal(["meow", "woof", "moo"], model.Generate(["cat", "dog", "cow"]));
    }

    [Fact]
    public void The_model_completes_what_it_was_trained_on_in_place_of_the_answers()
    {
        var data = _ml.Data.LoadFromEnumerable(Tiny.Demonstrations);
        using var model = Trainer(new()).Fit(data);

        var rows = _ml.Data.CreateEnumerable<Demonstration>(model.Transform(data), reuseRowObject: false);

        Assert.Equal(
            Tiny.Demonstrations.Select(d => (d.Prompt, model.Generate(d.Prompt))), rows.Select(row => (row.Prompt, row.Completion)));
    }

    [Fact]
    public void How_it_samples_is_that_of_the_model_or_that_of_the_options()
    {
        var data = _ml.Data.LoadFromEnumerable(Tiny.Demonstrations);
        var other = new SamplingOptions { MaxNewTokens = 2, Temperature = 0.5f };
        using var kept = Trainer(new()).Fit(data);
        using var changed = Trainer(new() { Sampling = other }).Fit(data);

        Assert.Equal(Tiny.Model.Sampling, kept.Sampling);
        Assert.Equal(other, changed.Sampling);
    }

    [Fact]
    public void Rows_that_do_not_fit_are_left_out_or_cut_and_counted()
    {
        var ml = new MLContext(seed: 1);
        var warnings = ml.Warnings();
        var data = ml.Data.LoadFromEnumerable<Demonstration>(
        [
            new() { Prompt = new string('a', 32), Completion = "b" },
            new() { Prompt = new string('a', 31), Completion = "b" },
            new() { Prompt = "a", Completion = new string('b', 30) },
            new() { Prompt = "a", Completion = new string('b', 31) },
        ]);

        ml.Rlhf().Trainers.SupervisedFineTuning(Tiny.Model).Fit(data).Dispose();

        Assert.Equal(
        [
            "1 of 4 rows were left out: their prompts fill the model's context of 32 tokens.",
            "2 of 4 demonstrations were cut at the model's context of 32 tokens.",
        ], warnings);
    }

    [Fact]
    public void An_empty_prompt_is_the_end_of_the_text_before()
    {
        using var model = Trainer(new() { Epochs = 60, LearningRate = 2e-2, Sampling = new() { Temperature = 0 } })
            .Fit(_ml.Data.LoadFromEnumerable<Demonstration>(
                [new() { Prompt = "", Completion = "hi" }, new() { Prompt = "a", Completion = "b" }]));

        Assert.Equal(["hi", "b"], model.Generate(["", "a"]));
    }

    private SupervisedFineTuningTrainer Trainer(SupervisedFineTuningOptions options) =>
        _ml.Rlhf().Trainers.SupervisedFineTuning(Tiny.Model, options);
}
