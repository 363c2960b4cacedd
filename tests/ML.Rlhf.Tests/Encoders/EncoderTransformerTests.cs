using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.Tests.Gpt;

namespace ML.Rlhf.Tests.Encoders;

public sealed class EncoderTransformerTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    private static Document[] Texts { get; } = [.. Enumerable.Range(0, 150).Select(
        i => new Document { Text = string.Join(' ', Enumerable.Repeat("the cat sat", i % 4)) + i % 9 })];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_pipeline_gives_what_Embed_gives_for_each_text_alone()
    {
        var transformed = Tiny.Encoder.Transform(_ml.Data.LoadFromEnumerable(Texts));

        var column = transformed.GetColumn<float[]>("Features").ToList();
        Assert.Equal(Texts.Length, column.Count);
        for (int i = 0; i < column.Count; i++)
            AssertNear(Tiny.Encoder.Embed(Texts[i].Text), column[i]);
        var type = Assert.IsType<VectorDataViewType>(transformed.Schema["Features"].Type);
        Assert.Equal((NumberDataViewType.Single, 16, true), (type.ItemType, type.Size, type.IsKnownSize));
        Assert.Equal(36, column.Select(vector => MathF.Round(vector[0], 5)).Distinct().Count());
    }

    [Fact]
    public void Pooling_and_length_are_options()
    {
        using var cls = Tiny.TrainEncoder(new() { Pooling = EmbeddingPooling.Cls });
        using var unit = Tiny.TrainEncoder(new() { NormalizeFeatures = true });

        float[] mean = Tiny.Encoder.Embed("the cat"), first = cls.Embed("the cat"), normal = unit.Embed("the cat");
        Assert.NotEqual(mean, first);
        Assert.Equal(1, normal.Sum(x => x * x), 1e-5);
        float length = MathF.Sqrt(mean.Sum(x => x * x));
        Assert.NotEqual(1, length, 1e-2);
        AssertNear([.. mean.Select(x => x / length)], normal);
    }

    [Fact]
    public void An_empty_text_has_features_and_a_long_one_those_of_its_beginning_with_one_warning()
    {
        var ml = new MLContext(seed: 1);
        var warnings = ml.Warnings();
        string path = Path.Combine(_folder, "model.zip");
        _ml.Model.Save(Tiny.Encoder, null, path);
        using var model = ml.Rlhf().Models.Load<EncoderTransformer>(path);
        string text = string.Concat(Enumerable.Repeat("zq", 15)); // 30 tokens: nothing of it is a word of the vocabulary

        Assert.All(model.Embed(""), x => Assert.True(float.IsFinite(x)));
        Assert.Empty(model.Embed([]));
        float[] fits = model.Embed(text);
        Assert.Empty(warnings);
        AssertNear(fits, model.Embed(text + "zq"));
        AssertNear(fits, model.Embed(text + "the cat"));

        Assert.Equal(
            "The text 'zqzqzqzqzqzqzqzqzqzqzqzqzqzqzqzq' has 34 tokens, but the model's context is 32: its features are those of its " +
            "beginning, and so are those of other long texts.", Assert.Single(warnings));
    }

    [Fact]
    public void A_prediction_engine_makes_features()
    {
        using var engine = _ml.Model.CreatePredictionEngine<Document, Featurized>(
            Tiny.Encoder, new PredictionEngineOptions { OwnsTransformer = false });

        AssertNear(Tiny.Encoder.Embed("the cat"), engine.Predict(new() { Text = "the cat" }).Features);
        AssertNear(Tiny.Encoder.Embed(""), engine.Predict(new()).Features);
    }

    [Fact]
    public void It_comes_back_from_a_file_bit_for_bit_with_all_its_settings()
    {
        string path = Path.Combine(_folder, "model.zip");
        using var model = Tiny.TrainEncoder(
            new() { FeaturesColumnName = "Vector", Pooling = EmbeddingPooling.Cls, NormalizeFeatures = true });
        var data = _ml.Data.LoadFromEnumerable(Texts);
        _ml.Model.Save(model, data.Schema, path);

        using var loaded = Assert.IsType<EncoderTransformer>(new MLContext().Model.Load(path, out _));

        Assert.Equal(Tiny.Weights(model), Tiny.Weights(loaded));
        Assert.Equal(
            ("Text", "Vector", EmbeddingPooling.Cls, true),
            (loaded.TextColumnName, loaded.FeaturesColumnName, loaded.Pooling, loaded.NormalizeFeatures));
        Assert.Equal(model.Architecture, loaded.Architecture);
        Assert.Equal(model.Tokenizer, loaded.Tokenizer);
        Assert.False(loaded.Module.training);
        Assert.Equal(
            model.Transform(data).GetColumn<float[]>("Vector"), loaded.Transform(data).GetColumn<float[]>("Vector"));
        Assert.Equal(model.FillMask("the [MASK] sat."), loaded.FillMask("the [MASK] sat."));
    }

    [Fact]
    public void Whoever_asks_for_other_columns_never_runs_the_model_and_after_Dispose_nobody_can()
    {
        var model = Tiny.TrainEncoder();
        var transformed = model.Transform(_ml.Data.LoadFromEnumerable(Texts));
        model.Dispose();

        Assert.Equal(150, transformed.GetColumn<string>("Text").Count());
        Action[] uses =
        [
            () => model.Embed("cat"),
            () => model.FillMask("the [MASK]"),
            () => transformed.GetColumn<float[]>("Features").ToList(),
            () => _ = model.Module,
            () => model.SavePretrained(_folder),
            () => _ml.Model.Save(model, null, Stream.Null),
        ];
        Assert.All(uses, use => Assert.StartsWith(
            "The model was disposed, and cannot be used any more.",
            Assert.IsType<ObjectDisposedException>(Assert.ThrowsAny<Exception>(use).GetBaseException()).Message));
    }

    [Fact]
    public void A_missing_column_is_named()
    {
        Assert.Equal(
            "Could not find text column 'Text' (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(() => Tiny.Encoder.Transform(_ml.View("cat"))).Message);
    }

    [Fact]
    public void Guesses_are_probabilities_of_all_tokens_the_likeliest_first()
    {
        var all = Tiny.Encoder.FillMask("the cat [MASK] on the mat.", top: Tiny.EncoderTokenizer.VocabularySize);

        Assert.Equal(1, all.Sum(guess => guess.Probability), 1e-4);
        Assert.Equal(all.Select(guess => guess.Probability).OrderDescending(), all.Select(guess => guess.Probability));
        Assert.Equal(all.Take(5), Tiny.Encoder.FillMask("the cat [MASK] on the mat."));
        var sat = Assert.Single(all, guess => guess.Token == " sat");
        Assert.Equal("the cat sat on the mat.", sat.Text); // the space belongs to the token
        Assert.Equal(5, Tiny.Encoder.FillMask("[MASK]").Count);
    }

    [Theory]
    [InlineData("the cat sat.", "The text 'the cat sat.' has 0 mask tokens, but must have one. Write [MASK] where the word to guess " +
        "stands, and guess several words one after another. (Parameter 'text')")]
    [InlineData("a [MASK] is a [MASK].", "The text 'a [MASK] is a [MASK].' has 2 mask tokens, but must have one. Write [MASK] where the " +
        "word to guess stands, and guess several words one after another. (Parameter 'text')")]
    [InlineData("zzzzzzzzzzzzzzzzzzzzzzzzzzzzzz[MASK]", "The text 'zzzzzzzzzzzzzzzzzzzzzzzzzzzzzz[MASK]' has 33 tokens, but the model's " +
        "context is 32. Shorten it. (Parameter 'text')")]
    public void A_text_to_fill_has_one_mask_and_fits(string text, string message)
    {
        Assert.Equal(message, Assert.Throws<ArgumentException>(() => Tiny.Encoder.FillMask(text)).Message);
        Assert.Throws<ArgumentOutOfRangeException>(() => Tiny.Encoder.FillMask("[MASK]", top: 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => Tiny.Encoder.FillMask("[MASK]", top: 1000));
    }

    [Fact]
    public void Eight_threads_at_once_get_what_one_gets()
    {
        string[] texts = [.. Texts.Select(t => t.Text)];
        var expected = Tiny.Encoder.Embed(texts);

        var vectors = new IReadOnlyList<float[]>[8];
        TextGenerationTransformerTests.RunOnThreads(8, thread => vectors[thread] = Tiny.Encoder.Embed(texts));

        Assert.All(vectors, vector => Assert.Equal(expected, vector));
    }

    [Fact]
    public void Using_it_leaves_no_tensors()
    {
        void Use()
        {
            Tiny.Encoder.Embed(["the cat", "a dog ran"]);
            Tiny.Encoder.FillMask("the [MASK]");
        }
        Use();
        long before = TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        Use();

        Assert.Equal(before, TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    private static void AssertNear(float[] expected, float[] actual)
    {
        Assert.Equal(expected.Length, actual.Length);
        for (int i = 0; i < expected.Length; i++)
            Assert.Equal(expected[i], actual[i], 1e-5);
    }

    private sealed class Featurized
    {
        [VectorType(16)]
        public float[] Features { get; set; } = [];
    }
}
