using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.Bridge;

namespace ML.Rlhf.Tests.Kto;

public sealed class KtoTrainerTests
{
    private readonly MLContext _ml = new(seed: 1);

    [Fact]
    public void It_learns_which_answers_are_desirable()
    {
        var progress = new ProgressRecords();

        Trainer(new() { Epochs = 40, LearningRate = 3e-3, Progress = progress }).Fit(Data()).Dispose();

        KtoProgress first = (KtoProgress)progress[0], last = (KtoProgress)progress[^1];
        Assert.True(last.DesirableReward > last.UndesirableReward + 0.3, $"{last}");
        Assert.True(last.DesirableLogProb > first.DesirableLogProb);
        Assert.True(last.UndesirableLogProb < first.UndesirableLogProb);
    }

    [Fact]
    public void A_weight_of_0_leaves_one_kind_of_answer_out()
    {
        var progress = new ProgressRecords();
        var options = new KtoOptions { DesirableWeight = 0, Epochs = 20, LearningRate = 3e-3, Progress = progress };

        Trainer(options).Fit(Data()).Dispose();

        Assert.All(progress, p => Assert.InRange(p.Loss, 0, 3 / 8.0)); // 3 of 8 answers, each at most 1
    }

    [Fact]
    public void The_label_column_can_have_another_name()
    {
        var rename = _ml.Transforms.CopyColumns("Liked", "Label").Append(_ml.Transforms.DropColumns("Label"));
        var renamed = rename.Fit(Data()).Transform(Data());

        using var model = Trainer(new() { LabelColumnName = "Liked" }).Fit(renamed);

        using var expected = Trainer(new()).Fit(Data());
        Assert.Equal(Tiny.Weights(expected), Tiny.Weights(model));
    }

    [Fact]
    public void A_label_that_is_missing_or_no_Boolean_is_named()
    {
        var numbers = _ml.Transforms.Conversion.ConvertType("Label", outputKind: DataKind.Single).Fit(Data()).Transform(Data());
        var without = _ml.Transforms.DropColumns("Label").Fit(Data()).Transform(Data());

        Assert.Equal(
            "Schema mismatch for label column 'Label': expected Boolean, got Single (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(() => { Trainer(new()).Fit(numbers); }).Message);
        Assert.Equal(
            "Could not find label column 'Label' (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(() => { Trainer(new()).GetOutputSchema(Schemas.Shape(without.Schema)); }).Message);
        Assert.Equal(
            "Could not find validation label column 'Label' (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(() => { Trainer(new() { ValidationData = without }).Fit(Data()); }).Message);
    }

    [Fact]
    public void Rows_that_do_not_fit_are_left_out_with_their_labels()
    {
        var ml = new MLContext(seed: 1);
        var warnings = ml.Warnings();
        var tooLong = new Feedback { Prompt = new string('a', 32), Completion = "b", Label = true };
        var trainer = ml.Rlhf().Trainers.Kto(Tiny.Model);

        using var model = trainer.Fit(ml.Data.LoadFromEnumerable(Tiny.Feedback.Prepend(tooLong)));

        Assert.Equal(["1 of 9 rows were left out: their prompts fill the model's context of 32 tokens."], warnings);
        Assert.Equal(Tiny.Weights(trainer.Fit(ml.Data.LoadFromEnumerable(Tiny.Feedback))), Tiny.Weights(model));
    }

    private IDataView Data() => _ml.Data.LoadFromEnumerable(Tiny.Feedback);

    private KtoTrainer Trainer(KtoOptions options) => _ml.Rlhf().Trainers.Kto(Tiny.Model, options);
}
