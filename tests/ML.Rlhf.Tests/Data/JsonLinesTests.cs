using System.Text;
using System.Text.Json.Serialization;
using Microsoft.ML;
using Microsoft.ML.Data;

namespace ML.Rlhf.Tests.Data;

public sealed class JsonLinesTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private sealed class Everything
    {
        public string Text { get; set; } = "";
        public float Single { get; set; }
        public double Double { get; set; }
        public int Int32 { get; set; }
        public long Int64 { get; set; }
        public bool Flag { get; set; }
        public string[] Tags { get; set; } = [];
        public float[] Weights { get; set; } = [];

        [VectorType(2)]
        public float[] Pair { get; set; } = [];
    }

    private sealed class Renamed
    {
        [ColumnName("Label")]
        [JsonPropertyName("the label")]
        public float Value { get; set; }

        [ColumnName("Body")]
        public string Text = "";

        [NoColumn]
        public DateTime When { get; set; }
    }

    private sealed class Numbered
    {
        public float Label { get; set; }
        public string Text { get; set; } = "";
    }

    private sealed class Dated
    {
        public DateTime When { get; set; }
    }

    private sealed class Twins
    {
        public string Text { get; set; } = "";

        [JsonPropertyName("text")]
        public string Other { get; set; } = "";
    }

    // ---- Columns

    [Fact]
    public void Every_supported_type_is_read()
    {
        var path = Write("all.jsonl",
            """{"Text":"tab\tquote\" é 😀 \ud83d\ude00","Single":1.5,"Double":1e-3,"Int32":-7,"Int64":9007199254740993,""" +
            """ "Flag":true,"Tags":["a","b"],"Weights":[],"Pair":[1,2.5]}""");

        var row = Assert.Single(Rows<Everything>(path));

        Assert.Equal("tab\tquote\" é 😀 😀", row.Text);
        Assert.Equal((1.5f, 1e-3, -7, 9007199254740993L, true), (row.Single, row.Double, row.Int32, row.Int64, row.Flag));
        Assert.Equal(["a", "b"], row.Tags);
        Assert.Empty(row.Weights);
        Assert.Equal([1f, 2.5f], row.Pair);
    }

    [Fact]
    public void The_schema_is_that_of_the_row_class()
    {
        var schema = _ml.Data.CreateJsonLinesLoader<Everything>().GetOutputSchema();

        Assert.Equal(
            _ml.Data.LoadFromEnumerable<Everything>([]).Schema.Select(column => $"{column.Name}: {column.Type}"),
            schema.Select(column => $"{column.Name}: {column.Type}"));
    }

    [Fact]
    public void Attributes_name_columns_and_fields()
    {
        var data = _ml.Data.LoadFromJsonLines<Renamed>(Write("a.jsonl", """{"the label": 2, "Text": "b"}"""));

        Assert.Equal(["Body", "Label"], data.Schema.Select(column => column.Name).Order());
        Assert.Equal([2f], data.GetColumn<float>("Label"));
        Assert.Equal(["b"], data.GetColumn<string>("Body"));
    }

    [Theory]
    [InlineData("""{"prompt": "right"}""")]
    [InlineData("""{"PROMPT": "right", "other": [{"Prompt": "nested"}]}""")]
    [InlineData("""{"Prompt": "right", "prompt": "wrong"}""")]
    [InlineData("""{"prompt": 5, "Prompt": "right"}""")]
    [InlineData("""{"\u0050rompt": "right"}""")]
    public void A_field_is_found_by_its_exact_name_or_else_whatever_its_case(string line)
    {
        Assert.Equal("right", Assert.Single(Rows<PromptOnly>(Write("a.jsonl", line))).Prompt);
    }

    [Fact]
    public void A_member_of_another_type_is_named()
    {
        var error = Assert.Throws<ArgumentException>(() => _ml.Data.CreateJsonLinesLoader<Dated>());

        Assert.Equal("'Dated.When' is a column of type DateTime, which is not read from JSON Lines. " +
            "Use string, float, double, int, long, bool or arrays of them, or leave the member out with [NoColumn].", error.Message);
    }

    [Fact]
    public void Two_members_cannot_share_a_field()
    {
        var error = Assert.Throws<ArgumentException>(() => _ml.Data.CreateJsonLinesLoader<Twins>());

        Assert.StartsWith("Columns 'Text' and 'Other' of 'Twins' are both read from the JSON field 'Text' (case aside).", error.Message);
    }

    [Fact]
    public void Row_classes_are_read_with_the_usual_names_of_their_fields()
    {
        Assert.Equal("t", Rows<Document>(Write("1.jsonl", """{"text":"t"}""")).Single().Text);
        var demonstration = Rows<Demonstration>(Write("2.jsonl", """{"prompt":"p","completion":"c"}""")).Single();
        Assert.Equal(("p", "c"), (demonstration.Prompt, demonstration.Completion));
        var feedback = Rows<Feedback>(Write("5.jsonl", """{"prompt":"p","completion":"c","label":true}""")).Single();
        Assert.Equal(("p", "c", true), (feedback.Prompt, feedback.Completion, feedback.Label));
        var preference = Rows<Preference>(Write("3.jsonl", """{"prompt":"p","chosen":"c","rejected":"r"}""")).Single();
        Assert.Equal(("p", "c", "r"), (preference.Prompt, preference.Chosen, preference.Rejected));
        Assert.Equal(1.25f, Rows<ScoredCompletion>(Write("4.jsonl", """{"score":1.25}""")).Single().Score);
    }

    [Fact]
    public void A_list_of_objects_is_the_text_that_it_is()
    {
        const string Messages = """[{"role": "user", "content": "a \"b\" [c]"}, {"role":"assistant","content":"d"}]""";
        string path = Write("chat.jsonl", $$"""{"prompt": {{Messages}}, "completion": "c"}""", """{"prompt": "p", "completion": "c"}""");

        Assert.Equal([Messages, "p"], Rows<Demonstration>(path).Select(row => row.Prompt));
    }

    // ---- Bad lines

    [Theory]
    [InlineData("""{"prompt": "p"}""", "field 'Completion' is missing.")]
    [InlineData("""{"prompt": "p", "completion": null}""", "field 'Completion' is null.")]
    [InlineData("""{"prompt": "p", "completion": 3.50}""", "field 'Completion' is the number 3.50.")]
    [InlineData("""{"prompt": "p", "completion": true}""", "field 'Completion' is true.")]
    [InlineData("""{"prompt": "p", "completion": ["c"]}""", "field 'Completion' is an array.")]
    [InlineData("""{"prompt": {"a": [1]}, "completion": "c"}""", "field 'Prompt' is an object.")]
    [InlineData("""{"prompt": "p", "completion": "c", "completion": "d"}""", "field 'Completion' is there more than once.")]
    [InlineData("""{"prompt": "p", "PROMPT": "p", "completion": "c"}""", "field 'Prompt' is there more than once.")]
    [InlineData("""["p", "c"]""", "the line is an array.")]
    [InlineData("5", "the line is the number 5.")]
    [InlineData("""{"prompt": "p\ud83d", "completion": "c"}""",
        "the line has half of a surrogate pair (\\uD800 to \\uDFFF), which is no text.")]
    public void A_bad_line_names_file_line_problem_expectation_and_fix(string line, string problem)
    {
        var path = Write("demos.jsonl", """{"prompt": "p", "completion": "c"}""", "", line);

        Assert.Equal($"{path}(3): {problem} Expected a JSON object with string fields 'Prompt' and 'Completion'; " +
            "set JsonLinesOptions.OnBadLine = BadLine.Skip to skip such lines.", Error<Demonstration>(path));
    }

    [Theory]
    [InlineData("""{"prompt": "p", "completion": "c\""", 34, true)]
    [InlineData("{", 2, true)]
    [InlineData("""{"prompt": "p", "completion": "c"} {}""", 36, false)]
    [InlineData("""[1] 2""", 5, false)]
    [InlineData("""{'prompt': "p"}""", 2, false)]
    public void A_line_that_is_no_JSON_is_told_where(string line, int position, bool endsEarly)
    {
        var path = Write("demos.jsonl", "", line);
        string hint = endsEarly ? " It ends too early: each object must be on one line, and the file must be whole\\." : "";

        Assert.Matches(
            $@"^.*demos\.jsonl\(2\): the line is not JSON: .*[^.] \(byte {position}\)\.{hint} Expected a JSON object with ",
            Error<Demonstration>(path));
    }

    [Theory]
    [InlineData("\"Single\": 1.5", "\"Single\": \"1.5\"", "field 'Single' is a string.")]
    [InlineData("\"Int32\": 1", "\"Int32\": 1.5", "field 'Int32' is the number 1.5.")]
    [InlineData("\"Int32\": 1", "\"Int32\": 3000000000", "field 'Int32' is the number 3000000000.")]
    [InlineData("\"Flag\": true", "\"Flag\": 1", "field 'Flag' is the number 1.")]
    [InlineData("[\"a\"]", "[\"a\", 2, \"b\"]", "field 'Tags' has the number 2 at index 1.")]
    [InlineData("[\"a\"]", "\"a\"", "field 'Tags' is a string.")]
    [InlineData("[1, 2]", "[1, 2, 3]", "field 'Pair' has 3 items instead of 2.")]
    [InlineData("[0.5]", "[null]", "field 'Weights' has null at index 0.")]
    public void A_value_of_another_kind_is_a_bad_line(string good, string bad, string problem)
    {
        const string Line = """{"Text": "t", "Single": 1.5, "Double": 2, "Int32": 1, "Int64": 1, "Flag": true,""" +
            """ "Tags": ["a"], "Weights": [0.5], "Pair": [1, 2]}""";
        var path = Write("a.jsonl", Line, Line.Replace(good, bad, StringComparison.Ordinal));

        Assert.Equal($"{path}(2): {problem} Expected a JSON object with a string field 'Text', number fields 'Single' and 'Double', " +
            "a 32-bit integer field 'Int32', a 64-bit integer field 'Int64', a boolean field 'Flag', a string array field 'Tags' and " +
            "number array fields 'Weights' and 'Pair'; set JsonLinesOptions.OnBadLine = BadLine.Skip to skip such lines.",
            Error<Everything>(path));
    }

    [Fact]
    public void Text_that_is_not_UTF_8_is_a_bad_line()
    {
        var path = Write("latin.jsonl");
        File.WriteAllBytes(path, Encoding.Latin1.GetBytes("""{"text": "caf\u00E9", "é": 1}"""));

        Assert.StartsWith($"{path}(1): the line is not UTF-8 text. Save the file as UTF-8, and unpack or decrypt it where it is no text " +
            "at all. Expected a JSON object with a string", Error<Document>(path));
    }

    [Fact]
    public void A_line_that_is_too_long_is_a_bad_line_and_the_next_one_is_read()
    {
        const string Good = """{"text": "0123456789"}""";
        var path = Write("a.jsonl", Good, new string('x', 1_000_000), Good.Insert(1, " "), Good + "\r");
        var options = new JsonLinesOptions { MaxLineLength = Good.Length };

        var data = _ml.Data.LoadFromJsonLines<Document>(path, options);
        var error = Assert.Throws<FormatException>(() => data.GetColumn<string>("Text").Count());
        var loader = _ml.Data.CreateJsonLinesLoader<Document>(options with { OnBadLine = BadLine.Skip });

        Assert.StartsWith($"{path}(2): the line is longer than 22 bytes (JsonLinesOptions.MaxLineLength). Raise the limit, or put each " +
            "object on a line of its own. Expected", error.Message);
        Assert.Equal(2, loader.Load(path).GetColumn<string>("Text").Count());
        Assert.Equal(2, loader.SkippedLines);
    }

    [Fact]
    public void Whether_a_line_is_bad_does_not_depend_on_the_columns_asked_for()
    {
        var path = Write("a.jsonl",
            """{"prompt": "1", "completion": "c"}""",
            """{"prompt": "2", "completion": 2}""",
            """{"prompt": "3", "completion": "\udc00"}""",
            """{"prompt": "4"}""",
            """{"prompt": "5", "completion": "c"}""");
        var data = _ml.Data.LoadFromJsonLines<Demonstration>(path, new JsonLinesOptions { OnBadLine = BadLine.Skip });

        Assert.Equal(["1", "5"], data.GetColumn<string>("Prompt"));
        Assert.Equal(["c", "c"], data.GetColumn<string>("Completion"));
        using var none = data.GetRowCursor([]);
        Assert.True(none.MoveNext() && none.MoveNext() && !none.MoveNext());
    }

    [Fact]
    public void Skipped_lines_are_counted_and_logged_once_per_pass()
    {
        var path = Write("a.jsonl", "x", """{"text": "good"}""", """{"test": "bad"}""");
        var warnings = new List<string>();
        _ml.Log += (_, e) =>
        {
            if (e.Kind == Microsoft.ML.Runtime.ChannelMessageKind.Warning)
                warnings.Add(e.RawMessage);
        };
        var loader = _ml.Data.CreateJsonLinesLoader<Document>(new() { OnBadLine = BadLine.Skip });
        var data = loader.Load(path);

        Assert.Equal(0, loader.SkippedLines);
        Assert.Equal(["good"], data.GetColumn<string>("Text"));
        Assert.Equal(2, loader.SkippedLines);
        Assert.Equal(["good"], data.GetColumn<string>("Text"));

        Assert.Equal(2, loader.SkippedLines);
        Assert.Equal(2, warnings.Count);
        Assert.StartsWith($"Skipped 2 bad lines. The first: {path}(1): the line is not JSON: ", warnings[0]);
        Assert.EndsWith("Expected a JSON object with a string field 'Text'.", warnings[0]);
    }

    [Fact]
    public void Options_are_checked()
    {
        var error = Assert.Throws<ArgumentException>(() =>
            _ml.Data.CreateJsonLinesLoader<Document>(new() { OnBadLine = (BadLine)9, MaxLineLength = 0 }));

        Assert.Equal("JsonLinesOptions: OnBadLine is 9, but must be BadLine.Fail or BadLine.Skip; " +
            "MaxLineLength is 0, but must be from 1 to 1073741824 (1 GB).", error.Message);
    }

    // ---- Files

    [Fact]
    public void Blank_lines_CRLF_a_byte_order_mark_and_a_missing_last_newline_do_not_matter()
    {
        var path = Path.Combine(_folder, "a.jsonl");
        File.WriteAllText(path, "\uFEFF{\"text\":\"1\"}\r\n\r\n  \t\n{\"text\":\"2\"}\n\n{\"text\":\"3\"}", new UTF8Encoding(false));

        Assert.Equal(["1", "2", "3"], Rows<Document>(path).Select(row => row.Text));
    }

    [Fact]
    public void An_empty_file_has_no_rows()
    {
        Assert.Empty(Rows<Document>(Write("a.jsonl")));
    }

    [Fact]
    public void Lines_of_any_length_are_read_whole()
    {
        int[] lengths = [0, 1, 65_000, 65_525, 65_526, 65_527, 200_000, 3];
        var path = Write("a.jsonl", [.. lengths.Select(length => $$"""{"text":"{{new string('x', length)}}"}""")]);

        Assert.Equal(lengths, Rows<Document>(path).Select(row => row.Text.Length));
    }

    [Fact]
    public void Several_files_are_read_in_order_and_wildcards_in_the_order_of_names()
    {
        foreach (var name in new[] { "b.jsonl", "a.jsonl", "c.json", "Z.jsonl" })
            Write(name, $$"""{"text":"{{name}}"}""");

        var all = _ml.Data.LoadFromJsonLines<Document>(Path.Combine(_folder, "c.json"), Path.Combine(_folder, "*.jsonl"));

        Assert.Equal(["c.json", "Z.jsonl", "a.jsonl", "b.jsonl"], all.GetColumn<string>("Text"));
    }

    [Fact]
    public void A_wildcard_that_matches_nothing_names_the_folder()
    {
        var error = Assert.Throws<FileNotFoundException>(() => _ml.Data.LoadFromJsonLines<Document>(Path.Combine(_folder, "*.jsonl")));
        Assert.Equal($"No file matches '*.jsonl' in the folder '{_folder}'.", error.Message);

        error = Assert.Throws<FileNotFoundException>(() => _ml.Data.LoadFromJsonLines<Document>("no such folder/*.jsonl"));
        Assert.Equal($"No file matches '*.jsonl' in the folder '{Path.GetFullPath("no such folder")}'.", error.Message);
    }

    [Fact]
    public void A_missing_file_says_where_it_was_looked_for()
    {
        var error = Assert.Throws<FileNotFoundException>(() => _ml.Data.LoadFromJsonLines<Document>("missing.jsonl"));

        Assert.Equal($"There is no file 'missing.jsonl' (looked for '{Path.GetFullPath("missing.jsonl")}').", error.Message);
    }

    [Fact]
    public void At_least_one_path_is_needed()
    {
        Assert.Throws<ArgumentException>("paths", () => _ml.Data.LoadFromJsonLines<Document>());
    }

    // ---- As an IDataView

    [Fact]
    public void Nothing_is_read_before_a_cursor_moves_and_one_file_is_open_at_a_time()
    {
        var source = new CountingSource("""{"text":"1"}""", """{"text":"2"}""", "no JSON");
        var data = _ml.Data.CreateJsonLinesLoader<Document>().Load(source);
        var transformed = _ml.Transforms.Text.NormalizeText("Text").Fit(data).Transform(data);
        Assert.Equal("Text", transformed.Schema[^1].Name);
        Assert.Equal(0, source.Opened);

        using (var cursor = data.GetRowCursor(data.Schema)) // ML.NET's own transforms would read ahead, on other threads
        {
            Assert.Equal(0, source.Opened);
            Assert.True(cursor.MoveNext());
            Assert.Equal((1, 1), (source.Opened, source.Open));
            Assert.True(cursor.MoveNext());
            Assert.Equal((2, 1), (source.Opened, source.Open));
        }

        Assert.Equal((2, 0), (source.Opened, source.Open));
    }

    [Fact]
    public void Shuffle_filter_take_and_cache_work_over_it()
    {
        var path = Write("a.jsonl", [.. Enumerable.Range(0, 50).Select(i => $$"""{"Label":{{i}},"Text":"{{i}}"}""")]);
        var data = _ml.Data.LoadFromJsonLines<Numbered>(path);

        var shuffled = _ml.Data.ShuffleRows(data, seed: 1).GetColumn<float>("Label").ToArray();
        Assert.NotEqual(Enumerable.Range(0, 50).Select(i => (float)i), shuffled);
        Assert.Equal(Enumerable.Range(0, 50).Select(i => (float)i), shuffled.Order());
        Assert.Equal(["10", "11"], _ml.Data.FilterRowsByColumn(data, "Label", 10, 12).GetColumn<string>("Text"));
        Assert.Equal(50, _ml.Data.FilterRowsByMissingValues(data, "Label").GetColumn<string>("Text").Count());
        Assert.Equal(["0", "1"], _ml.Data.TakeRows(data, 2).GetColumn<string>("Text"));

        var cached = _ml.Data.Cache(data, "Text");
        Assert.Equal(50, cached.GetColumn<string>("Text").Count());
        File.Delete(path);
        Assert.Equal("49", cached.GetColumn<string>("Text").Last());
    }

    [Fact]
    public void Cursors_are_independent_and_their_getters_are_checked()
    {
        var data = _ml.Data.LoadFromJsonLines<Demonstration>(Write("a.jsonl",
            """{"prompt":"1","completion":"a"}""", """{"prompt":"2","completion":"b"}"""));
        using var first = data.GetRowCursor([data.Schema["Prompt"]]);
        using var second = data.GetRowCursor([data.Schema["Prompt"]]);
        var get = first.GetGetter<ReadOnlyMemory<char>>(data.Schema["Prompt"]);
        var text = default(ReadOnlyMemory<char>);

        Assert.Equal(-1, first.Position);
        Assert.Throws<InvalidOperationException>(() => get(ref text));
        Assert.True(first.MoveNext() && second.MoveNext() && second.MoveNext());
        get(ref text);
        Assert.Equal(("1", 0, 1), (text.ToString(), first.Position, second.Position));
        Assert.Contains("'Completion' was not asked for",
            Assert.Throws<InvalidOperationException>(() => first.GetGetter<ReadOnlyMemory<char>>(data.Schema["Completion"])).Message);
        Assert.Throws<InvalidOperationException>(() => first.GetGetter<float>(data.Schema["Prompt"]));
        Assert.True(first.MoveNext() && !first.MoveNext() && !first.MoveNext());
        Assert.Throws<InvalidOperationException>(() => get(ref text));
    }

    // ---- In a model file

    [Fact]
    public void The_loader_is_saved_with_a_model()
    {
        var path = Write("a.jsonl", """{"the label": 2, "Text": "Body"}""", "no JSON");
        var zip = Path.Combine(_folder, "model.zip");
        var loader = _ml.Data.CreateJsonLinesLoader<Renamed>(new() { OnBadLine = BadLine.Skip, MaxLineLength = 1000 });
        var model = _ml.Transforms.Text.NormalizeText("Body").Fit(loader.Load(path));
        _ml.Model.Save(model, loader, zip);

        var loadedModel = new MLContext().Model.LoadWithDataLoader(zip, out var loadedLoader);
        var data = loadedModel.Transform(loadedLoader.Load(new MultiFileSource(path)));

        Assert.Equal(2, Assert.IsType<JsonLinesLoader>(loadedLoader).GetOutputSchema().Count);
        Assert.Equal(["body"], data.GetColumn<string>("Body"));
        Assert.Equal([2f], data.GetColumn<float>("Label"));
        Assert.Equal(1, ((JsonLinesLoader)loadedLoader).SkippedLines);
    }

    [Fact]
    public void Every_kind_of_column_is_saved()
    {
        var zip = Path.Combine(_folder, "model.zip");
        var loader = _ml.Data.CreateJsonLinesLoader<Everything>();
        _ml.Model.Save(null, loader, zip);

        new MLContext().Model.LoadWithDataLoader(zip, out var loaded);

        Assert.Equal(
            loader.GetOutputSchema().Select(column => $"{column.Name}: {column.Type}"),
            loaded.GetOutputSchema().Select(column => $"{column.Name}: {column.Type}"));
    }

    [Fact]
    [Trait("Tier", "Slow")]
    public void A_program_that_mentions_nothing_of_the_pack_loads_data_with_a_saved_loader()
    {
        var loader = _ml.Data.CreateJsonLinesLoader<Demonstration>();
        var data = loader.Load(Write("a.jsonl", """{"prompt":"p","completion":"c"}"""));
        var model = _ml.Transforms.CopyColumns("Answer", "Completion").Fit(data);
        _ml.Model.Save(model, loader, Path.Combine(_folder, "model.zip"));

        var output = Bridge.FreshProcess.Run(_folder, """
            using Microsoft.ML;
            using Microsoft.ML.Data;

            var model = new MLContext().Model.LoadWithDataLoader("model.zip", out var loader);
            foreach (var answer in model.Transform(loader.Load(new MultiFileSource("a.jsonl"))).GetColumn<string>("Answer"))
                Console.WriteLine(answer);
            """);

        Assert.Equal("c", output);
    }

    private string Write(string name, params string[] lines)
    {
        var path = Path.Combine(_folder, name);
        File.WriteAllLines(path, lines);
        return path;
    }

    private IEnumerable<T> Rows<T>(string path) where T : class, new() =>
        _ml.Data.CreateEnumerable<T>(_ml.Data.LoadFromJsonLines<T>(path), reuseRowObject: false);

    private string Error<T>(string path) where T : class, new() =>
        Assert.Throws<FormatException>(() => Rows<T>(path).Count()).Message;

    /// <summary>One stream per text; counts how many were opened, and how many are open.</summary>
    private sealed class CountingSource(params string[] texts) : IMultiStreamSource
    {
        public int Opened { get; private set; }

        public int Open { get; private set; }

        public int Count => texts.Length;

        public string? GetPathOrNull(int index) => null;

        public TextReader OpenTextReader(int index) => throw new NotSupportedException();

        Stream IMultiStreamSource.Open(int index)
        {
            Opened++;
            Open++;
            return new CountedStream(Encoding.UTF8.GetBytes(texts[index]), () => Open--);
        }

        private sealed class CountedStream(byte[] content, Action closed) : MemoryStream(content)
        {
            protected override void Dispose(bool disposing)
            {
                closed();
                base.Dispose(disposing);
            }
        }
    }
}
