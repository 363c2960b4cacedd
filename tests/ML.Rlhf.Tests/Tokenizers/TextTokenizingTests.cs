using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf.Tests.Tokenizers;

public class TextTokenizingTests
{
    private readonly MLContext _ml = new(seed: 1);

    private TransformCatalog Transforms => new(_ml);

    [Fact]
    public void Texts_become_vectors_of_ids()
    {
        var data = TokenizerFixtures.View(_ml, "ab", "", "é");
        var transformed = Transforms.TokenizeText("Tokens", "Text", TokenizerFixtures.Bytes).Fit(data).Transform(data);

        Assert.Equal(new VectorDataViewType(NumberDataViewType.Int32), transformed.Schema["Tokens"].Type);
        Assert.Equal([[97, 98], [], [0xC3, 0xA9]], TokensOf(transformed));
    }

    [Fact]
    public void A_missing_text_has_no_tokens()
    {
        var data = TokenizerFixtures.View(_ml, null!, "a");
        Assert.Equal([[], [97]], TokensOf(Transforms.TokenizeText("Tokens", "Text", TokenizerFixtures.Bytes).Fit(data).Transform(data)));
    }

    [Fact]
    public void Fit_trains_a_tokenizer_when_none_is_given()
    {
        var data = TokenizerFixtures.View(_ml, "a cat, a hat", "a bat");
        var transformer = Transforms.TokenizeText("Tokens", "Text", vocabularySize: 259).Fit(data);

        Assert.Equal(TokenizerFixtures.Train(["a cat, a hat", "a bat"], 259), transformer.Tokenizer);
        Assert.Equal(transformer.Tokenizer.Encode("a bat"), TokensOf(transformer.Transform(data))[1]);
    }

    [Fact]
    public void Without_an_input_name_the_column_is_replaced()
    {
        var data = TokenizerFixtures.View(_ml, "ab");
        var transformed = Transforms.TokenizeText("Text", null, TokenizerFixtures.Bytes).Fit(data).Transform(data);
        Assert.Equal([97, 98], transformed.GetColumn<int[]>("Text").Single());
    }

    [Fact]
    public void It_stands_in_a_pipeline_between_stock_transforms()
    {
        var data = TokenizerFixtures.View(_ml, "AB", "b");
        var pipeline = _ml.Transforms.Text.NormalizeText("Lower", "Text")
            .Append(Transforms.TokenizeText("Tokens", "Lower", TokenizerFixtures.Bytes))
            .Append(_ml.Transforms.Conversion.ConvertType("Numbers", "Tokens", DataKind.Single))
            .AppendCacheCheckpoint(_ml);
        var transformed = pipeline.Fit(data).Transform(data);

        Assert.Equal([[97f, 98f], [98f]], transformed.GetColumn<float[]>("Numbers"));
        Assert.Equal([97, 98], TokensOf(_ml.Data.ShuffleRows(transformed, seed: 1)).Select(ids => ids[0]).Order());
    }

    [Fact]
    public void It_works_in_a_prediction_engine()
    {
        var transformer = Transforms.TokenizeText("Tokens", "Text", TokenizerFixtures.Bytes).Fit(TokenizerFixtures.View(_ml, "x"));
        using var engine = _ml.Model.CreatePredictionEngine<TokenizerFixtures.Row, Tokenized>(transformer);
        Assert.Equal([97, 98, 99], engine.Predict(new() { Text = "abc" }).Tokens);
        Assert.Equal([100], engine.Predict(new() { Text = "d" }).Tokens);
    }

    [Fact]
    public void Texts_are_tokenized_only_when_their_ids_are_asked_for()
    {
        var data = TokenizerFixtures.View(_ml, "a", "not known: ☃");
        var transformed = Transforms.TokenizeText("Tokens", "Text", TokenizerFixtures.Characters("a")).Fit(data).Transform(data);

        Assert.Equal(["a", "not known: ☃"], transformed.GetColumn<string>("Text"));
        Assert.Equal([0], TokensOf(_ml.Data.TakeRows(transformed, 1)).Single());
        var error = Assert.ThrowsAny<Exception>(() => TokensOf(transformed));
        Assert.Contains("Character 'n' (U+006E) at position 0", error.GetBaseException().Message);
    }

    [Fact]
    public void Parallel_cursors_share_the_rows()
    {
        var data = TokenizerFixtures.View(_ml, [.. Enumerable.Range(0, 1000).Select(i => i.ToString())]);
        var transformed = Transforms.TokenizeText("Tokens", "Text", TokenizerFixtures.Bytes).Fit(data).Transform(data);
        var column = transformed.Schema["Tokens"];

        int rows = 0;
        foreach (var cursor in transformed.GetRowCursorSet([column], 4))
        {
            using (cursor)
            {
                var getter = cursor.GetGetter<VBuffer<int>>(column);
                VBuffer<int> ids = default;
                for (; cursor.MoveNext(); rows++)
                {
                    getter(ref ids);
                    Assert.Equal(cursor.Position.ToString().Length, ids.Length);
                }
            }
        }
        Assert.Equal(1000, rows);
    }

    [Fact]
    public void A_missing_column_is_named_before_and_at_fitting()
    {
        var data = TokenizerFixtures.View(_ml, "x");
        var estimator = Transforms.TokenizeText("Tokens", "Body", TokenizerFixtures.Bytes);
        foreach (var error in Errors(estimator, data))
            Assert.Equal("Could not find text column 'Body' (Parameter 'inputSchema')", error);
    }

    [Fact]
    public void A_column_of_another_type_is_named_before_and_at_fitting()
    {
        var data = _ml.Data.LoadFromEnumerable([new Tokenized { Tokens = [1] }]);
        var estimator = Transforms.TokenizeText("Ids", "Tokens", TokenizerFixtures.Bytes);
        foreach (var error in Errors(estimator, data))
            Assert.StartsWith("Schema mismatch for text column 'Tokens': expected String, got VarVector<Int32>", error);
    }

    [Fact]
    public void A_vocabulary_that_is_too_small_is_refused_at_once() =>
        Assert.Throws<ArgumentOutOfRangeException>("vocabularySize", () => Transforms.TokenizeText("Tokens", "Text", vocabularySize: 100));

    [Fact]
    public void It_is_saved_in_a_model_file()
    {
        var data = TokenizerFixtures.View(_ml, "the fog", "é🙂");
        var transformer = Transforms.TokenizeText("Tokens", "Text", TokenizerFixtures.Golden).Fit(data);
        using var file = new MemoryStream();
        _ml.Model.Save(transformer, data.Schema, file);
        file.Position = 0;

        var loaded = new MLContext().Model.Load(file, out _);

        Assert.Equal(TokenizerFixtures.Golden, Assert.IsType<TextTokenizingTransformer>(loaded).Tokenizer);
        Assert.Equal(TokensOf(transformer.Transform(data)), TokensOf(loaded.Transform(data)));
    }

    /// <summary>What the estimator, its <c>Fit</c> and a transformer fitted on other data say about the schema.</summary>
    private List<string> Errors(TextTokenizingEstimator estimator, IDataView data)
    {
        var chain = new EstimatorChain<ITransformer>().Append(estimator);
        string column = data.Schema[0].Name == "Text" ? "Body" : "Tokens";
        var fitted = new TextTokenizingTransformer(_ml, "Out", column, TokenizerFixtures.Bytes);
        Action[] attempts =
        [
            () => chain.Fit(data), () => estimator.Fit(data), () => fitted.Transform(data), () => fitted.GetOutputSchema(data.Schema),
        ];
        return [.. attempts.Select(attempt => Assert.Throws<ArgumentOutOfRangeException>(attempt).Message)];
    }

    private static List<int[]> TokensOf(IDataView data) => [.. data.GetColumn<int[]>("Tokens")];

    private sealed class Tokenized
    {
        public int[] Tokens { get; set; } = [];
    }
}
