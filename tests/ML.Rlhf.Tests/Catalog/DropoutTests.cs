using Microsoft.ML;

namespace ML.Rlhf.Tests.Catalog;

/// <summary>Dropout draws from libtorch's own generator, of which the process has one; no other test may draw from it meanwhile.</summary>
[CollectionDefinition(nameof(DropoutTests), DisableParallelization = true)]
[Collection(nameof(DropoutTests))]
public sealed class DropoutTests
{
    private readonly MLContext _ml = new(seed: 1);

    [Theory]
    [InlineData(Stage.Gpt)]
    [InlineData(Stage.Lstm)]
    [InlineData(Stage.FineTuning)]
    [InlineData(Stage.EncoderDecoder)]
    [InlineData(Stage.MaskedLanguageModel)]
    public void The_same_seed_gives_the_same_weights_bit_for_bit(Stage stage)
    {
        var with = Weights(stage, dropout: 0.5, seed: 7);

        Assert.Equal(with, Weights(stage, dropout: 0.5, seed: 7));
        Assert.NotEqual(with, Weights(stage, dropout: 0, seed: 7));
        Assert.NotEqual(with, Weights(stage, dropout: 0.5, seed: 8));
    }

    [Theory]
    [InlineData(Stage.Gpt)]
    [InlineData(Stage.Lstm)]
    [InlineData(Stage.FineTuning)]
    public void Nothing_is_dropped_where_the_model_is_measured_or_used(Stage stage)
    {
        var progress = new ProgressRecords();
        var settings = new StageSettings { Steps = 2, Dropout = 0.9, Progress = progress, ValidationData = stage.Data(_ml) };

        using var model = (TextGenerationTransformer)stage.Trainer(_ml, settings).Fit(stage.Data(_ml));

        double measured = stage is Stage.Gpt or Stage.Lstm
            ? _ml.Rlhf().EvaluateLanguageModel(model, stage.Data(_ml)).Loss
            : _ml.Rlhf().EvaluateDemonstrations(model, stage.Data(_ml)).Loss;
        Assert.Equal(measured, progress[^1].ValidationLoss!.Value, 1e-6);
        Assert.Equal(model.Generate("cat"), model.Generate("cat"));
    }

    private float[] Weights(Stage stage, double dropout, int seed) =>
        Tiny.Weights(stage.Trainer(_ml, new StageSettings { Dropout = dropout, Seed = seed }).Fit(stage.Data(_ml)));
}
