using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Transforms.Text;
using ML.Rlhf.Bridge;

namespace ML.Rlhf.Tests.Catalog;

/// <summary>What every trainer asks of its data, and which data it takes.</summary>
public sealed class TrainerDataTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    public static TheoryData<Stage, string, string> Inputs(bool ofOnlineToo)
    {
        var inputs = new TheoryData<Stage, string, string>();
        foreach (var stage in Enum.GetValues<Stage>().Where(stage => ofOnlineToo || !stage.IsOnline()))
        {
            foreach (var (column, role) in stage.Inputs())
                inputs.Add(stage, column, role);
        }
        return inputs;
    }

    [Theory, EveryStage]
    public void The_schema_that_it_promises_is_the_schema_of_the_data_that_its_model_makes(Stage stage)
    {
        var data = stage.Data(_ml);
        var trainer = stage.Trainer(_ml);

        var promised = trainer.GetOutputSchema(Schemas.Shape(data.Schema));
        var model = trainer.Fit(data);
        var transformed = model.Transform(data).Schema;

        Assert.Equal(Describe(Schemas.Shape(transformed)), Describe(promised));
        Assert.Equal(Describe(Schemas.Shape(transformed)), Describe(Schemas.Shape(model.GetOutputSchema(data.Schema))));
        Assert.Contains(stage.Output(), transformed.Select(column => column.Name));
        Assert.True(model.IsRowToRowMapper);
    }

    [Theory, EveryStage]
    public void It_stands_in_a_chain_between_stock_transforms(Stage stage)
    {
        var data = stage.Data(_ml);
        IEstimator<ITransformer> pipeline = _ml.Transforms.Text.NormalizeText(stage.Inputs()[0].Column, keepPunctuations: true);
        foreach (var (column, _) in stage.Inputs()[1..])
            pipeline = pipeline.Append(_ml.Transforms.Text.NormalizeText(column));

        var chain = pipeline.Append(stage.Trainer(_ml))
            .Append(_ml.Transforms.CopyColumns("Copy", stage.Output()))
            .Append(_ml.Transforms.SelectColumns("Copy", stage.Output()))
            .Fit(data);
        var result = chain.Transform(data);

        Assert.Equal(["Copy", stage.Output()], result.Schema.Select(column => column.Name));
        Assert.Equal(8, Values(result, stage.Output()).Count());
        Assert.Equal(Values(result, stage.Output()), Values(result, "Copy"));
    }

    [Theory, EveryStage]
    public void The_source_of_the_rows_does_not_matter(Stage stage)
    {
        var rows = stage.Data(_ml);
        var expected = Tiny.Weights(stage.Trainer(_ml).Fit(rows));

        Assert.Equal(expected, Tiny.Weights(stage.Trainer(_ml).Fit(TextFile(stage, rows))));
        Assert.Equal(expected, Tiny.Weights(stage.Trainer(_ml).Fit(JsonLines(stage))));
        Assert.Equal(expected, Tiny.Weights(stage.Trainer(_ml).Fit(_ml.Data.Cache(rows))));
        Assert.Equal(expected, Tiny.Weights(stage.Trainer(_ml).Fit(Filtered(stage))));
    }

    [Theory, EveryStage]
    public void Shuffled_rows_are_taken_in_their_order(Stage stage)
    {
        var shuffled = _ml.Data.ShuffleRows(stage.Data(_ml), seed: 3);
        var first = stage.Inputs()[0].Column;
        var order = shuffled.GetColumn<string>(first).ToList();
        var all = stage.Data(_ml).GetColumn<string>(first).ToList();
        Assert.NotEqual(all, order);
        var sameOrder = Subset(stage, [.. order.Select(text => all.IndexOf(text))]);

        Assert.Equal(Tiny.Weights(stage.Trainer(_ml).Fit(sameOrder)), Tiny.Weights(stage.Trainer(_ml).Fit(shuffled)));
    }

    [Theory, MemberData(nameof(Inputs), true)]
    public void A_missing_column_is_named(Stage stage, string column, string role)
    {
        var data = _ml.Transforms.DropColumns(column).Fit(stage.Data(_ml)).Transform(stage.Data(_ml));
        string message = $"Could not find {role} column '{column}' (Parameter 'inputSchema')";

        Assert.Equal(message, Assert.Throws<ArgumentOutOfRangeException>(() => { stage.Trainer(_ml).Fit(data); }).Message);
        Assert.Equal(message, Assert.Throws<ArgumentOutOfRangeException>(
            () => { stage.Trainer(_ml).GetOutputSchema(Schemas.Shape(data.Schema)); }).Message);
    }

    [Theory, MemberData(nameof(Inputs), true)]
    public void A_column_of_another_type_is_named_with_both_types(Stage stage, string column, string role)
    {
        var rows = stage.Data(_ml);
        var numbers = _ml.Transforms.Conversion.ConvertType(column, outputKind: DataKind.Single).Fit(rows).Transform(rows);
        var words = _ml.Transforms.Text.TokenizeIntoWords(column).Fit(rows).Transform(rows);

        foreach (var (data, type) in new[] { (numbers, "Single"), (words, "VarVector<String>") })
        {
            string message = $"Schema mismatch for {role} column '{column}': expected String, got {type} (Parameter 'inputSchema')";
            Assert.Equal(message, Assert.Throws<ArgumentOutOfRangeException>(() => { stage.Trainer(_ml).Fit(data); }).Message);
            Assert.Equal(message, Assert.Throws<ArgumentOutOfRangeException>(
                () => { stage.Trainer(_ml).GetOutputSchema(Schemas.Shape(data.Schema)); }).Message);
        }
    }

    [Theory]
    [InlineData(Stage.Gpt, "Text")]
    [InlineData(Stage.Lstm, "Text")]
    [InlineData(Stage.MaskedLanguageModel, "Text")]
    [InlineData(Stage.FineTuning, "Prompt, Completion")]
    [InlineData(Stage.RewardModel, "Prompt, Chosen, Rejected")]
    [InlineData(Stage.Ppo, "Prompt")]
    [InlineData(Stage.Grpo, "Prompt")]
    [InlineData(Stage.Rloo, "Prompt")]
    [InlineData(Stage.Dpo, "Prompt, Chosen, Rejected")]
    [InlineData(Stage.Kto, "Prompt, Completion, Label")]
    [InlineData(Stage.Orpo, "Prompt, Chosen, Rejected")]
    [InlineData(Stage.EncoderDecoder, "Prompt, Completion")]
    public void Data_without_rows_is_an_error(Stage stage, string columns)
    {
        var data = Subset(stage, []);

        Assert.Equal(
            $"The data has no rows, so there are no {stage.Rows()} to use (columns: {columns}). " +
            "Check the file and any filters before the trainer.",
            Assert.Throws<InvalidOperationException>(() => { stage.Trainer(_ml).Fit(data); }).Message);
    }

    [Theory, EveryStage]
    public void A_file_without_rows_is_an_error(Stage stage)
    {
        var error = Assert.Throws<InvalidOperationException>(() => { stage.Trainer(_ml).Fit(JsonLines(stage, rows: 0)); });

        Assert.StartsWith($"The data has no rows, so there are no {stage.Rows()} to use", error.Message);
    }

    [Theory, EveryStage]
    public void Validation_data_without_rows_is_an_error(Stage stage)
    {
        Assert.SkipWhen(stage.IsOnline(), "It has none.");
        var trainer = stage.Trainer(_ml, new StageSettings { ValidationData = JsonLines(stage, rows: 0) });

        var error = Assert.Throws<InvalidOperationException>(() => { trainer.Fit(stage.Data(_ml)); });

        Assert.StartsWith($"The data has no rows, so there are no {stage.Rows()} to use", error.Message);
    }

    [Theory, EveryStage]
    public void One_row_is_enough(Stage stage)
    {
        var progress = new ProgressRecords();

        var model = stage.Trainer(_ml, new StageSettings { Steps = 1, Progress = progress }).Fit(JsonLines(stage, rows: 1));

        Assert.NotEmpty(progress);
        Assert.All(progress, p => Assert.True(double.IsFinite(p.Loss)));
        Assert.All(Tiny.Weights(model), weight => Assert.True(float.IsFinite(weight)));
        Assert.Single(Values(model.Transform(JsonLines(stage, rows: 1)), stage.Output()));
        Assert.Empty(Values(model.Transform(JsonLines(stage, rows: 0)), stage.Output()));
    }

    [Theory, EveryStage]
    public void Of_two_columns_of_the_same_name_the_later_one_is_read_as_everywhere_in_ML_NET(Stage stage)
    {
        var (column, _) = stage.Inputs()[0];
        var upper = _ml.Transforms.Text.NormalizeText(column, caseMode: TextNormalizingEstimator.CaseMode.Upper, keepPunctuations: true);
        var lower = _ml.Transforms.Text.NormalizeText(column, keepPunctuations: true);
        var rows = stage.Data(_ml);
        var data = upper.Append(lower).Fit(rows).Transform(rows); // the columns in upper case and as read are hidden

        Assert.Equal(3, data.Schema.Count(c => c.Name == column));
        Assert.Equal(Tiny.Weights(stage.Trainer(_ml).Fit(rows)), Tiny.Weights(stage.Trainer(_ml).Fit(data)));
    }

    [Theory, EveryStage]
    public void Data_of_which_nothing_can_be_used_is_an_error(Stage stage)
    {
        string tooLong = new('a', 40);
        IDataView data = stage switch
        {
            Stage.Gpt or Stage.Lstm or Stage.MaskedLanguageModel => _ml.Data.LoadFromEnumerable(new Document[] { new(), new() }),
            Stage.FineTuning or Stage.EncoderDecoder => _ml.Data.LoadFromEnumerable(new Demonstration[] { new() { Prompt = tooLong }, new() { Prompt = tooLong } }),
            Stage.RewardModel or Stage.Dpo or Stage.Orpo => _ml.Data.LoadFromEnumerable(
                new Preference[] { new() { Prompt = tooLong, Chosen = "a" }, new() { Prompt = tooLong, Rejected = "a" } }),
            Stage.Kto => _ml.Data.LoadFromEnumerable(new Feedback[] { new() { Prompt = tooLong }, new() { Prompt = tooLong } }),
            _ => _ml.View(tooLong, tooLong),
        };

        Assert.Equal(
            $"None of the 2 rows of the data can be used as {stage.Rows()}: they are empty or do not fit the model's context. " +
            "Shorten the texts, or use a model with a longer context.",
            Assert.Throws<InvalidOperationException>(() => { stage.Trainer(_ml).Fit(data); }).Message);
    }

    [Theory, EveryStage]
    public void A_character_that_the_tokenizer_does_not_know_is_named(Stage stage)
    {
        Assert.SkipWhen(stage == Stage.MaskedLanguageModel, "No character is unknown to a byte-level tokenizer.");
        var column = stage.Inputs()[^1].Column;
        var rows = stage.Data(_ml);
        var data = _ml.Transforms.Text.NormalizeText(column, caseMode: TextNormalizingEstimator.CaseMode.Upper).Fit(rows).Transform(rows);

        var error = Assert.Throws<ArgumentException>(() => { stage.Trainer(_ml).Fit(data); });

        Assert.Matches("^Character '[A-Z]' \\(U\\+00[0-9A-F]{2}\\) at position 0, after \"\", " +
            "is not among the 28 characters of this tokenizer\\. " +
            "Train it on text that has this character, train it with replaceUnknown: true, or use a byte-level tokenizer, " +
            "to which no character is unknown\\. ", error.Message);
    }

    [Theory, EveryStage]
    public void Columns_can_have_other_names(Stage stage)
    {
        var renamed = stage.Data(_ml);
        foreach (var (column, _) in stage.Inputs())
        {
            var rename = _ml.Transforms.CopyColumns(column + "2", column).Append(_ml.Transforms.DropColumns(column));
            renamed = rename.Fit(renamed).Transform(renamed);
        }

        var model = stage.Trainer(_ml, new StageSettings { Suffix = "2" }).Fit(renamed);

        Assert.Equal(Tiny.Weights(stage.Trainer(_ml).Fit(stage.Data(_ml))), Tiny.Weights(model));
        string output = stage.Output() + "2";
        Assert.Contains(output, model.Transform(renamed).Schema.Select(column => column.Name));
        Assert.Equal(8, Values(model.Transform(renamed), output).Count());
    }

    [Theory]
    [InlineData(Stage.Gpt)]
    [InlineData(Stage.Lstm)]
    [InlineData(Stage.FineTuning)]
    [InlineData(Stage.RewardModel)]
    [InlineData(Stage.Dpo)]
    [InlineData(Stage.Kto)]
    [InlineData(Stage.Orpo)]
    [InlineData(Stage.EncoderDecoder)]
    [InlineData(Stage.MaskedLanguageModel)]
    public void Validation_data_is_measured_and_teaches_nothing(Stage stage)
    {
        var progress = new ProgressRecords();
        var settings = new StageSettings { Steps = 4, Progress = progress, ValidationData = stage.Data(_ml) };

        var model = stage.Trainer(_ml, settings).Fit(stage.Data(_ml));

        Assert.Equal([false, true, false, true], progress.Select(p => p.ValidationLoss is not null));
        Assert.All([progress[1], progress[3]], p => Assert.InRange(p.ValidationLoss!.Value, 0.01, 10));
        var unmeasured = stage.Trainer(_ml, settings with { Progress = null, ValidationData = null }).Fit(stage.Data(_ml));
        Assert.Equal(Tiny.Weights(unmeasured), Tiny.Weights(model));
    }

    [Theory, MemberData(nameof(Inputs), false)]
    public void A_column_that_the_validation_data_lacks_is_named(Stage stage, string column, string role)
    {
        var held = _ml.Transforms.DropColumns(column).Fit(stage.Data(_ml)).Transform(stage.Data(_ml));

        Assert.Equal(
            $"Could not find validation {role} column '{column}' (Parameter 'inputSchema')",
            Assert.Throws<ArgumentOutOfRangeException>(
                () => { stage.Trainer(_ml, new StageSettings { ValidationData = held }).Fit(stage.Data(_ml)); }).Message);
    }

    private static IEnumerable<(string, SchemaShape.Column.VectorKind, DataViewType, bool)> Describe(SchemaShape shape) =>
        shape.OrderBy(column => column.Name).Select(column => (column.Name, column.Kind, column.ItemType, column.IsKey));

    private static IEnumerable<object> Values(IDataView data, string column) => data.Schema[column].Type switch
    {
        TextDataViewType => data.GetColumn<string>(column),
        VectorDataViewType => data.GetColumn<float[]>(column),
        _ => data.GetColumn<float>(column).Cast<object>(),
    };

    private IDataView TextFile(Stage stage, IDataView rows)
    {
        string path = Path.Combine(_folder, $"{stage}.tsv");
        using (var file = File.Create(path))
            _ml.Data.SaveAsText(rows, file, schema: false);
        var columns = stage.Inputs().Select((input, i) => new TextLoader.Column(input.Column, DataKind.String, i)).ToList();
        if (stage == Stage.Kto)
            columns.Add(new TextLoader.Column("Label", DataKind.Boolean, columns.Count));
        return _ml.Data.LoadFromTextFile(path, [.. columns], hasHeader: true, allowQuoting: true);
    }

    private IDataView JsonLines(Stage stage, int rows = int.MaxValue)
    {
        string path = Path.Combine(_folder, $"{stage}-{rows}.jsonl");
        return stage switch
        {
            Stage.Gpt or Stage.Lstm or Stage.MaskedLanguageModel => Write(Tiny.Documents),
            Stage.FineTuning or Stage.EncoderDecoder => Write(Tiny.Demonstrations),
            Stage.RewardModel or Stage.Dpo or Stage.Orpo => Write(Tiny.Preferences),
            Stage.Kto => Write(Tiny.Feedback),
            _ => Write(Tiny.Prompts),
        };

        IDataView Write<T>(T[] all)
        {
            File.WriteAllLines(path, all.Take(rows).Select(row => System.Text.Json.JsonSerializer.Serialize(row)));
            return _ml.Data.LoadFromJsonLines<T>(path);
        }
    }

    /// <summary>Rows twice, and a filter that takes out each that has been there before.</summary>
    private IDataView Filtered(Stage stage)
    {
        var twice = Subset(stage, [0, 1, 1, 2, 3, 4, 5, 6, 7, 7]);
        string last = "";
        return stage is Stage.Gpt or Stage.Lstm or Stage.MaskedLanguageModel
            ? _ml.Data.FilterByCustomPredicate<Document>(twice, row => IsRepeated(row.Text))
            : _ml.Data.FilterByCustomPredicate<PromptOnly>(twice, row => IsRepeated(row.Prompt));

        bool IsRepeated(string text)
        {
            bool repeated = text == last;
            last = text;
            return repeated;
        }
    }

    private IDataView Subset(Stage stage, int[] order) => stage switch
    {
        Stage.Gpt or Stage.Lstm or Stage.MaskedLanguageModel => _ml.Data.LoadFromEnumerable(order.Select(i => Tiny.Documents[i]).ToArray()),
        Stage.FineTuning or Stage.EncoderDecoder => _ml.Data.LoadFromEnumerable(order.Select(i => Tiny.Demonstrations[i]).ToArray()),
        Stage.RewardModel or Stage.Dpo or Stage.Orpo => _ml.Data.LoadFromEnumerable(order.Select(i => Tiny.Preferences[i]).ToArray()),
        Stage.Kto => _ml.Data.LoadFromEnumerable(order.Select(i => Tiny.Feedback[i]).ToArray()),
        _ => _ml.Data.LoadFromEnumerable(order.Select(i => Tiny.Prompts[i]).ToArray()),
    };
}
