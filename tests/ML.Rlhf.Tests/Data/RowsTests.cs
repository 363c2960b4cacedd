using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf.Tests.Data;

public sealed class RowsTests
{
    private readonly MLContext _ml = new(seed: 1);

    [Fact]
    public void Rows_go_into_data_and_back()
    {
        var data = _ml.Data.LoadFromEnumerable(new[] { new Preference { Prompt = "p", Chosen = "c", Rejected = "r" } });

        var row = Assert.Single(_ml.Data.CreateEnumerable<Preference>(data, reuseRowObject: false));

        Assert.Equal(("p", "c", "r"), (row.Prompt, row.Chosen, row.Rejected));
    }

    [Fact]
    public void Rankings_go_into_data_and_back_and_come_from_JSON_Lines()
    {
        string path = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName());
        try
        {
            File.WriteAllText(path, """{"prompt": "p", "answers": ["a", "b", "c"], "ranks": [1, 1.5, 1]}""" + "\n");
            Ranking Only(IDataView data) => Assert.Single(_ml.Data.CreateEnumerable<Ranking>(data, reuseRowObject: false));
            var row = Only(_ml.Data.LoadFromEnumerable([Only(_ml.Data.LoadFromJsonLines<Ranking>(path))]));

            Assert.Equal("p", row.Prompt);
            Assert.Equal(["a", "b", "c"], row.Answers);
            Assert.Equal([1, 1.5f, 1], row.Ranks);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void A_prediction_engine_takes_prompts_and_returns_what_was_generated()
    {
        var model = _ml.Transforms.CopyColumns("Completion", "Prompt").Fit(_ml.Data.LoadFromEnumerable<PromptOnly>([]));
        using var engine = _ml.Model.CreatePredictionEngine<PromptOnly, Generated>(model);

        var generated = engine.Predict(new() { Prompt = "p" });

        Assert.Equal(("p", "p"), (generated.Prompt, generated.Completion));
    }

    [Fact]
    public void A_model_that_drops_the_prompt_still_has_its_completion_read()
    {
        var data = _ml.Data.LoadFromEnumerable(new[] { new PromptOnly { Prompt = "p" } });
        var model = _ml.Transforms.CopyColumns("Completion", "Prompt").Append(_ml.Transforms.DropColumns("Prompt")).Fit(data);

        var rows = _ml.Data.CreateEnumerable<Generated>(model.Transform(data), reuseRowObject: false, ignoreMissingColumns: true);
        var generated = Assert.Single(rows);

        Assert.Null(generated.Prompt);
        Assert.Equal("p", generated.Completion);
    }

    [Fact]
    public void A_score_goes_into_data_and_back()
    {
        var data = _ml.Data.LoadFromEnumerable(new[] { new ScoredCompletion { Score = 1.5f } });

        Assert.Equal([1.5f], data.GetColumn<float>("Score"));
        Assert.Equal(1.5f, _ml.Data.CreateEnumerable<ScoredCompletion>(data, reuseRowObject: false).Single().Score);
    }
}
