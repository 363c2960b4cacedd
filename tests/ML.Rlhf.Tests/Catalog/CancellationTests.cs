using Microsoft.ML;

namespace ML.Rlhf.Tests.Catalog;

/// <summary>Reading, tokenizing and learning a vocabulary stop as soon as the steps of a trainer do, whoever asks for it.</summary>
public sealed class CancellationTests
{
    private const int Rows = 10_000;
    private const int StopAt = 20;

    private readonly MLContext _ml = new(seed: 1);
    private int _read;

    [Theory, EveryStage]
    public void A_token_stops_reading(Stage stage)
    {
        using var stop = new CancellationTokenSource();
        var trainer = stage.Trainer(_ml, new StageSettings { CancellationToken = stop.Token });

        Assert.ThrowsAny<OperationCanceledException>(() => { trainer.Fit(Data(stage, StopAt, stop.Cancel)); });

        Assert.InRange(_read, StopAt, StopAt + 1);
    }

    [Theory, EveryStage]
    public void The_context_stops_reading(Stage stage)
    {
        var trainer = stage.Trainer(_ml);

        var stopped = Assert.Throws<OperationCanceledException>(() => { trainer.Fit(Data(stage, StopAt, _ml.Cancel)); });

        Assert.Equal("The operation was canceled by MLContext.CancelExecution().", stopped.Message);
        Assert.InRange(_read, StopAt, StopAt + 1);
    }

    [Theory, EveryStage]
    public void The_context_stops_reading_validation_data(Stage stage)
    {
        Assert.SkipWhen(stage.IsOnline(), "It has none.");
        var trainer = stage.Trainer(_ml, new StageSettings { ValidationData = Data(stage, StopAt, _ml.Cancel) });

        Assert.Throws<OperationCanceledException>(() => { trainer.Fit(stage.Data(_ml)); });

        Assert.InRange(_read, StopAt, StopAt + 1);
    }

    [Theory]
    [InlineData(Stage.Gpt, false)]
    [InlineData(Stage.Gpt, true)]
    [InlineData(Stage.EncoderDecoder, false)]
    [InlineData(Stage.EncoderDecoder, true)]
    [InlineData(Stage.MaskedLanguageModel, false)]
    [InlineData(Stage.MaskedLanguageModel, true)]
    public void A_trainer_that_learns_its_vocabulary_stops_there(Stage stage, bool byToken)
    {
        using var stop = new CancellationTokenSource();
        var trainers = _ml.Rlhf().Trainers;
        IEstimator<ITransformer> trainer = stage switch
        {
            Stage.Gpt => trainers.Gpt(new GptOptions { CancellationToken = stop.Token }),
            Stage.EncoderDecoder => trainers.EncoderDecoder(new EncoderDecoderOptions { CancellationToken = stop.Token }),
            _ => trainers.MaskedLanguageModel(new MaskedLanguageModelOptions { CancellationToken = stop.Token }),
        };

        Assert.ThrowsAny<OperationCanceledException>(() => { trainer.Fit(Data(stage, StopAt, byToken ? stop.Cancel : _ml.Cancel)); });

        Assert.InRange(_read, StopAt, StopAt + 1);
    }

    [Theory]
    [InlineData(StopAt)]
    [InlineData(Rows)] // all is read: it stops in the middle of learning merges
    public void A_tokenizer_that_is_trained_stops(int stopAt)
    {
        using var stop = new CancellationTokenSource();
        var tokenizers = _ml.Rlhf().Tokenizers;

        Assert.ThrowsAny<OperationCanceledException>(
            () => tokenizers.TrainByteLevelBpe(Data(Stage.Gpt, stopAt, stop.Cancel), cancellationToken: stop.Token));
        Assert.InRange(_read, stopAt, stopAt + 1);
        Assert.Throws<OperationCanceledException>(() => tokenizers.TrainByteLevelBpe(Data(Stage.Gpt, stopAt, _ml.Cancel)));
        Assert.InRange(_read, stopAt, stopAt + 1);
        var ml = new MLContext(seed: 1);
        var estimator = ml.Rlhf().Transforms.TokenizeText("Tokens", "Text");
        Assert.Throws<OperationCanceledException>(() => estimator.Fit(Data(Stage.Gpt, stopAt, ml.Cancel)));
        Assert.InRange(_read, stopAt, stopAt + 1);
    }

    [Fact]
    public void A_tokenizer_of_characters_that_is_trained_stops()
    {
        using var stop = new CancellationTokenSource();
        var tokenizers = _ml.Rlhf().Tokenizers;

        Assert.ThrowsAny<OperationCanceledException>(
            () => tokenizers.TrainCharacters(Data(Stage.Gpt, StopAt, stop.Cancel), cancellationToken: stop.Token));
        Assert.InRange(_read, StopAt, StopAt + 1);
        Assert.Throws<OperationCanceledException>(() => tokenizers.TrainCharacters(Data(Stage.Gpt, StopAt, _ml.Cancel)));
        Assert.InRange(_read, StopAt, StopAt + 1);
    }

    [Fact]
    public void The_context_stops_an_evaluation_that_reads()
    {
        Assert.Throws<OperationCanceledException>(
            () => _ml.Rlhf().EvaluateLanguageModel(Tiny.Model, Data(Stage.Gpt, StopAt, _ml.Cancel)));

        Assert.InRange(_read, StopAt, StopAt + 1);
    }

    /// <summary>Many rows that are made as they are read, and counted; at one of them somebody asks to stop.</summary>
    private IDataView Data(Stage stage, int stopAt, Action stop)
    {
        return stage switch
        {
            Stage.Gpt or Stage.Lstm or Stage.MaskedLanguageModel => View(Tiny.Documents),
            Stage.FineTuning or Stage.EncoderDecoder => View(Tiny.Demonstrations),
            Stage.RewardModel or Stage.Dpo or Stage.Orpo => View(Tiny.Preferences),
            Stage.Kto => View(Tiny.Feedback),
            _ => View(Tiny.Prompts),
        };

        IDataView View<T>(T[] rows) where T : class => _ml.Data.LoadFromEnumerable(Read(rows));

        IEnumerable<T> Read<T>(T[] rows)
        {
            _read = 0;
            for (int i = 0; i < Rows; i++)
            {
                if (++_read == stopAt)
                    stop();
                yield return rows[i % rows.Length];
            }
        }
    }
}
