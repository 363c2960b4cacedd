using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.Torch;

namespace ML.Rlhf.Tests.Encoders;

/// <summary>What is particular to the trainer of encoders; the rest is in Catalog.</summary>
public sealed class MaskedLanguageModelTrainerTests
{
    private const int TopicWords = 12;

    private readonly MLContext _ml = new(seed: 1);

    /// <summary>
    /// Texts about one of two topics, each with twelve words of its own, which are single letters and so have nothing in common. The
    /// classifier learns from texts with half of the words, and is asked about texts with the other half: all that it can know of these is
    /// what the encoder found out from texts without labels.
    /// </summary>
    [Fact]
    public void A_stock_trainer_learns_from_the_features_what_carries_over_to_words_it_never_saw()
    {
        var random = new RandomStream(5);
        var corpus = _ml.Data.LoadFromEnumerable(Sample(ref random, 400, 0, TopicWords));
        var labeled = _ml.Data.LoadFromEnumerable(Sample(ref random, 100, 0, TopicWords / 2));
        var held = _ml.Data.LoadFromEnumerable(Sample(ref random, 200, TopicWords / 2, TopicWords));

        Assert.InRange(AccuracyAfter(steps: 1), 0, 0.8);
        Assert.InRange(AccuracyAfter(steps: 350), 0.95, 1);

        double AccuracyAfter(int steps)
        {
            var options = new MaskedLanguageModelOptions
            {
                Architecture = Tiny.EncoderArchitecture with { Width = 32, VocabularySize = 290, ContextLength = 16 },
                Steps = steps,
                BatchSize = 16,
                LearningRate = 1e-2,
                MaskingRate = 0.3,
                WarmupSteps = 0,
            };
            using var encoder = _ml.Rlhf().Trainers.MaskedLanguageModel(options).Fit(corpus);
            var model = _ml.Transforms.Conversion.MapValueToKey("Label")
                .Append(_ml.MulticlassClassification.Trainers.SdcaMaximumEntropy())
                .Fit(encoder.Transform(labeled));
            return _ml.MulticlassClassification.Evaluate(model.Transform(encoder.Transform(held))).MicroAccuracy;
        }
    }

    [Fact]
    public void The_whole_pipeline_is_fitted_at_once_and_saved_with_its_classifier()
    {
        var random = new RandomStream(6);
        var data = _ml.Data.LoadFromEnumerable(Sample(ref random, 40, 0, TopicWords));
        var pipeline = _ml.Transforms.Conversion.MapValueToKey("Label")
            .Append(_ml.Rlhf().Trainers.MaskedLanguageModel(new MaskedLanguageModelOptions
            {
                Architecture = Tiny.EncoderArchitecture, Steps = 3, BatchSize = 4,
            }))
            .Append(_ml.MulticlassClassification.Trainers.SdcaMaximumEntropy());

        var model = pipeline.Fit(data);
        using var file = new MemoryStream();
        _ml.Model.Save(model, data.Schema, file);
        file.Position = 0;
        var loaded = new MLContext().Model.Load(file, out _);

        Assert.Equal(
            model.Transform(data).GetColumn<float[]>("Score"), loaded.Transform(data).GetColumn<float[]>("Score"));
    }

    [Fact]
    public void Evaluation_hides_the_same_tokens_as_the_measurement_of_the_last_step()
    {
        var documents = _ml.Data.LoadFromEnumerable(Tiny.Documents);
        var progress = new ProgressRecords();
        using var model = Tiny.TrainEncoder(new() { ValidationData = documents, Progress = progress });

        var metrics = _ml.Rlhf().EvaluateMaskedLanguageModel(model, documents);

        Assert.Equal(progress[^1].ValidationLoss!.Value, metrics.Loss, 1e-6);
        Assert.Equal(Math.Exp(metrics.Loss), metrics.Perplexity, 1e-9);
        Assert.InRange(metrics.Accuracy, 0, 1);
        Assert.InRange(metrics.TokenCount, 8, 40);
        Assert.True(_ml.Rlhf().EvaluateMaskedLanguageModel(model, documents, maskingRate: 0.5).TokenCount > metrics.TokenCount);
        Assert.Throws<ArgumentOutOfRangeException>(() => _ml.Rlhf().EvaluateMaskedLanguageModel(model, documents, maskingRate: 0));
        Assert.Equal(
            "Could not find text column 'Text' (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(
                () => _ml.Rlhf().EvaluateMaskedLanguageModel(model, _ml.View("cat"))).Message);
    }

    [Fact]
    public void Long_documents_are_cut_and_empty_ones_left_out_and_both_are_counted()
    {
        var ml = new MLContext(seed: 1);
        var warnings = ml.Warnings();
        string[] texts = ["the cat sat on the mat.", "", new('z', 70)];

        using var model = ml.Rlhf().Trainers.MaskedLanguageModel(new MaskedLanguageModelOptions
        {
            Architecture = Tiny.EncoderArchitecture, Tokenizer = Tiny.EncoderTokenizer, Steps = 1, WarmupSteps = 0,
        }).Fit(ml.Data.LoadFromEnumerable(texts.Select(text => new Document { Text = text })));

        Assert.Equal(
            [
                "1 of 3 documents have no token that could be hidden, and were left out.",
                "1 of 3 documents were cut into pieces that fit the model's context of 32 tokens.",
            ], warnings);
    }

    [Fact]
    public void Without_a_tokenizer_it_trains_one_that_has_the_special_tokens()
    {
        using var model = _ml.Rlhf().Trainers.MaskedLanguageModel(new MaskedLanguageModelOptions
        {
            Architecture = Tiny.EncoderArchitecture with { VocabularySize = 270 }, Steps = 1,
        }).Fit(_ml.Data.LoadFromEnumerable(Tiny.Documents));

        Assert.Equal((270, 270), (model.Architecture.VocabularySize, model.Tokenizer.VocabularySize));
        Assert.Equal(["[CLS]", "[MASK]", "[PAD]", "[SEP]"], model.Tokenizer.SpecialTokens.Keys.Order());
        Assert.Equal("[MASK]", model.MaskToken);
    }

    /// <summary>Texts of six words of a topic, and which of the two it was.</summary>
    private static Topical[] Sample(ref RandomStream random, int count, int from, int to)
    {
        var texts = new Topical[count];
        for (int i = 0; i < count; i++)
        {
            int topic = i % 2;
            var words = new char[6];
            for (int w = 0; w < words.Length; w++)
                words[w] = (char)('a' + 2 * (from + random.NextInt32(to - from)) + topic);
            texts[i] = new Topical { Text = string.Join(' ', words), Label = topic == 0 ? "first" : "second" };
        }
        return texts;
    }

    private sealed class Topical
    {
        public string Text { get; set; } = "";
        public string Label { get; set; } = "";
    }
}
