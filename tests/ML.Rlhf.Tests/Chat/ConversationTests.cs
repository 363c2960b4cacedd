using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.Tests.Catalog;

namespace ML.Rlhf.Tests.Chat;

/// <summary>Fine-tuning on conversations, and models that answer them.</summary>
public sealed class ConversationTests : IDisposable
{
    // All in letters that the tiny tokenizer knows.
    private static readonly ChatTemplate s_letters = new ChatTemplateCatalog().FromJinja(
        """
        {% for message in messages %}
        {% if message.role == 'assistant' %}
        {{ 'a' }}
        {%- generation %}{{ ' ' + message.content + eos_token }}{% endgeneration %}
        {% else %}
        {{- message.role[0] + ' ' + message.content + '.' }}
        {%- endif %}
        {%- endfor %}
        {% if add_generation_prompt %}
        {{ 'a' }}
        {%- endif %}
        """);

    private static readonly Row[] s_rows =
    [
        Conversation("user", "cat", "assistant", "meow", "user", "dog", "assistant", "woof"),
        Conversation("user", "dog", "assistant", "woof", "user", "cat", "assistant", "meow"),
        Conversation("system", "s", "user", "cow", "assistant", "moo"),
        Conversation("user", "cow", "assistant", "moo"),
        Conversation("user", "cat", "assistant", "meow"),
    ];

    private readonly string _folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-").FullName;
    private readonly MLContext _ml = new(seed: 1);

    private string Zip => Path.Combine(_folder, "model.zip");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Fine_tuning_teaches_every_turn_of_the_assistant_and_where_it_ends()
    {
        using var model = Train(InJson with { Epochs = 60, LearningRate = 2e-2 });

        Assert.Equal(" meow", model.Chat([ChatMessage.User("cat")]));
        Assert.Equal(" woof", model.Chat([ChatMessage.User("cat"), ChatMessage.Assistant("meow"), ChatMessage.User("dog")]));
        Assert.Equal(" meow", model.Chat([ChatMessage.User("dog"), ChatMessage.Assistant("woof"), ChatMessage.User("cat")]));
        Assert.Equal(" moo", model.Chat([ChatMessage.System("s"), ChatMessage.User("cow")]));
        Assert.Equal(s_letters, model.ChatTemplate);
    }

    [Fact]
    public void Only_what_the_assistant_says_is_learned()
    {
        var data = Tokenization.Conversations(
            Data(), new ConversationColumns("Messages", null, null), new ChatEncoder(s_letters, Tiny.Letters), 32, Assert.Fail,
            TestContext.Current.CancellationToken.ThrowIfCancellationRequested);

        string Learned(int row) => Tiny.Letters.Decode(
            [.. data.Labels(row, promptsToo: false).Select(t => data.Sequences[row][t])], includeSpecialTokens: true);
        Assert.Equal(
            [" meow<|endoftext|> woof<|endoftext|>", " woof<|endoftext|> meow<|endoftext|>", " moo<|endoftext|>"],
            Enumerable.Range(0, 3).Select(Learned));
        Assert.Equal(
            "u cat.a meow<|endoftext|>u dog.a woof<|endoftext|>", Tiny.Letters.Decode(data.Sequences[0], includeSpecialTokens: true));
    }

    [Fact]
    public void Vectors_of_roles_and_contents_are_the_same_as_JSON()
    {
        using var json = Train(InJson);
        using var vectors = Train(InVectors);
        using var packed = Train(InVectors with { Packing = true });

        Assert.Equal(Tiny.Weights(json), Tiny.Weights(vectors));
        Assert.All(Tiny.Weights(json).Zip(Tiny.Weights(packed)), pair => Assert.Equal(pair.First, pair.Second, 1e-4));
        Assert.Equal(Answers(json), Answers(vectors));
    }

    [Fact]
    public void In_a_pipeline_the_model_answers_anew_what_the_assistant_said_last()
    {
        using var model = Train(InVectors);

        Assert.Equal(
            s_rows.Select(row => model.Chat([.. row.Roles.Zip(row.Contents, (r, c) => new ChatMessage(r, c)).SkipLast(1)])),
            Answers(model));
    }

    [Fact]
    public void The_validation_loss_is_that_of_what_the_assistant_says()
    {
        var records = new ProgressRecords();
        Train(InJson with { ValidationData = Data(), BatchSize = 5, Progress = records }).Dispose();

        Assert.NotNull(records[^1].ValidationLoss);
        Assert.InRange(records[0].ValidationLoss!.Value, 0.5 * records[0].Loss, records[0].Loss); // one step better
    }

    [Fact]
    public void A_model_file_keeps_the_template_and_the_columns()
    {
        using var model = Train(InVectors);
        _ml.Model.Save(model, Data().Schema, Zip);

        using var loaded = Assert.IsType<TextGenerationTransformer>(new MLContext().Model.Load(Zip, out _));

        Assert.Equal(model.ChatTemplate, loaded.ChatTemplate);
        Assert.Equal(Answers(model), Answers(loaded));
        Assert.Equal(model.Chat([ChatMessage.User("cat")]), loaded.Chat([ChatMessage.User("cat")]));
    }

    [Fact]
    public void A_pretrained_folder_keeps_the_template_and_one_that_cannot_be_read_is_only_logged()
    {
        using var trained = Tiny.Train(Tiny.Bpe);
        using var model = trained.WithChatTemplate(s_letters);
        model.SavePretrained(_folder);

        using var loaded = _ml.Rlhf().Models.FromPretrained(_folder);
        Assert.Equal(s_letters, loaded.ChatTemplate);
        var greedy = new SamplingOptions { Temperature = 0, MaxNewTokens = 5 };
        Assert.Equal(model.Chat([ChatMessage.User("cat")], greedy), loaded.Chat([ChatMessage.User("cat")], greedy));

        var warnings = _ml.Warnings();
        File.WriteAllText(Path.Combine(_folder, "chat_template.jinja"), "{% include 'secret' %}");
        using var without = _ml.Rlhf().Models.FromPretrained(_folder);
        Assert.Null(without.ChatTemplate);
        Assert.Contains(warnings, w => w.StartsWith("The model comes without its chat template. The chat template cannot be read: line 1"));
    }

    [Fact]
    public async Task Streaming_gives_the_same_answer_in_pieces()
    {
        using var model = Tiny.Model.WithChatTemplate(s_letters);
        var pieces = new List<string>();
        await foreach (string piece in model.ChatStreamingAsync(
            [ChatMessage.User("cat")], cancellationToken: TestContext.Current.CancellationToken))
            pieces.Add(piece);

        Assert.Equal(model.Chat([ChatMessage.User("cat")]), string.Concat(pieces));
        Assert.InRange(pieces.Count, 2, 6);
    }

    [Fact]
    public void An_answer_ends_at_the_template_s_end_of_turn()
    {
        var rows = new[] { ("Hello", "Hi"), ("Bye", "No") }.Select(pair => Conversation("user", pair.Item1, "assistant", pair.Item2));
        using var fresh = Tiny.Train(ChatFixtures.Tokenizer, Tiny.Architecture with { ContextLength = 48 });
        using var model = _ml.Rlhf().Trainers.SupervisedFineTuning(fresh, InJson with
        {
            ChatTemplate = new ChatTemplateCatalog().ChatML(),
            Epochs = 200,
            LearningRate = 1e-2,
        }).Fit(_ml.Data.LoadFromEnumerable(rows));

        Assert.Equal("Hi", model.Chat([ChatMessage.User("Hello")]));
        Assert.Equal("No", model.Chat([ChatMessage.User("Bye")]));
        string template = model.ChatTemplate!.Render([ChatMessage.User("Hello")], addGenerationPrompt: true);
        Assert.NotEqual("Hi", model.Generate(template, new() { MaxNewTokens = 12, Temperature = 0 })); // goes on past the turn
    }

    [Theory]
    [EveryStage]
    public void Every_trainer_keeps_the_model_s_template(Stage stage)
    {
        using var model = Tiny.Model.WithChatTemplate(s_letters);
        using var trained = (IDisposable)stage.Trainer(_ml, new StageSettings { Model = model }).Fit(stage.Data(_ml));

        if (trained is TextGenerationTransformer text && stage is not (Stage.Gpt or Stage.Lstm))
        {
            Assert.Same(s_letters, text.ChatTemplate);
            using var other = text.WithSampling(new SamplingOptions { Temperature = 0 });
            Assert.Same(s_letters, other.ChatTemplate);
        }
    }

    [Theory]
    [InlineData("", "The input does not contain any JSON tokens")]
    [InlineData("{}", "it is an object, not a list")]
    [InlineData("[1]", "message 1 is a number, not an object")]
    [InlineData("""[{"role": "user", "content": "a"}, {"role": "user"}]""", "message 2 has no 'content'")]
    [InlineData("""[{"role": "user", "content": null}]""", "the 'content' of message 1 is null, not a text")]
    [InlineData("""[{"role": "user", "content": [{"type": "text", "text": "a"}]}]""", "the 'content' of message 1 is a list, not a text")]
    [InlineData("""[{"role": "user", "content": "\ud83d"}]""", "Cannot read incomplete UTF-16 JSON text as string")]
    [InlineData("""[{"role": "assistant", "content": "", "tool_calls": [{}]}]""", "message 1 has 'tool_calls', which are not supported")]
    public void A_row_without_a_conversation_is_named_with_the_fix(string json, string reason)
    {
        var data = _ml.Data.LoadFromEnumerable<Row>([s_rows[0], new() { Messages = json }]);

        var e = Assert.Throws<InvalidOperationException>(() => Trainer(InJson).Fit(data));

        Assert.StartsWith("Row 2 has no conversation in column 'Messages': " + reason, e.Message);
        Assert.EndsWith(
            """Write conversations as [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}].""", e.Message);
    }

    [Fact]
    public void Each_content_needs_its_role()
    {
        var data = _ml.Data.LoadFromEnumerable<Row>([s_rows[0], new() { Roles = ["user", "assistant", "user"], Contents = ["a"] }]);

        Assert.Equal(
            "Row 2 has 3 roles in column 'Roles', but 1 contents in column 'Contents'. Give each message its role.",
            Assert.Throws<InvalidOperationException>(() => Trainer(InVectors).Fit(data)).Message);
        using var model = Train(InVectors);
        Assert.StartsWith("Row 2 has 3 roles", Record.Exception(() => Answers(model, data))!.Message);
    }

    [Fact]
    public void A_conversation_that_the_template_refuses_is_named()
    {
        var template = new ChatTemplateCatalog().FromJinja(
            "{% for m in messages %}{{ raise_exception('No system here') if m.role == 'system' }}{{ m.content }}" +
            "{% generation %}{{ eos_token }}{% endgeneration %}{% endfor %}");

        Assert.StartsWith(
            "Row 3: The chat template cannot render this conversation of 3 messages: line 1: the template says: No system here.",
            Assert.Throws<InvalidOperationException>(() => Train(InJson with { ChatTemplate = template })).Message);
    }

    [Fact]
    public void Conversations_that_teach_nothing_are_left_out_or_cut_and_counted()
    {
        var ml = new MLContext(seed: 1);
        var warnings = ml.Warnings();
        var data = ml.Data.LoadFromEnumerable<Row>(
        [
            Conversation("user", "cat"), Conversation(), Conversation("user", new string('a', 40), "assistant", "b"),
            Conversation("user", "a", "assistant", new string('b', 40)), s_rows[3],
        ]);

        ml.Rlhf().Trainers.SupervisedFineTuning(Tiny.Model, InJson).Fit(data).Dispose();

        Assert.Equal(
        [
            "2 of 5 conversations were left out: the assistant says nothing in them.",
            "1 of 5 conversations were left out: what comes before the assistant's first words fills the model's context of 32 tokens.",
            "1 of 5 conversations were cut at the model's context of 32 tokens.",
        ], warnings);
        Assert.Equal(
            "None of the 1 rows of the data can be used as conversations: 1 have no message of the role 'assistant', as far as the " +
            "context shows them. Check what the columns hold.",
            Assert.Throws<InvalidOperationException>(
                () => Trainer(InJson).Fit(_ml.Data.LoadFromEnumerable<Row>([Conversation("user", "cat")]))).Message);
    }

    [Fact]
    public void Columns_are_checked_before_anything_runs()
    {
        var data = _ml.Data.LoadFromEnumerable(Tiny.Demonstrations);

        Assert.Contains("Could not find messages column 'Messages'",
            Assert.Throws<ArgumentOutOfRangeException>(() => Trainer(InJson).Fit(data)).Message);
        Assert.Contains("Schema mismatch for roles column 'Prompt'", Assert.Throws<ArgumentOutOfRangeException>(
            () => Trainer(InVectors with { RolesColumnName = "Prompt", ContentsColumnName = "Completion" }).Fit(data)).Message);
        using var model = Train(InVectors);
        Assert.Contains("Could not find roles column 'Roles'",
            Assert.Throws<ArgumentOutOfRangeException>(() => model.Transform(data)).Message);
    }

    [Fact]
    public void Without_a_template_a_model_says_how_to_give_it_one()
    {
        var e = Assert.Throws<InvalidOperationException>(() => Tiny.Model.Chat([ChatMessage.User("cat")]));

        Assert.StartsWith("The model has no chat template, so it cannot be asked in conversations. Give it", e.Message);
    }

    [Fact]
    public void A_conversation_that_fills_the_context_is_refused_or_cut()
    {
        using var model = Tiny.Model.WithChatTemplate(s_letters);
        ChatMessage[] messages = [ChatMessage.User(new string('a', 40))];

        Assert.StartsWith("The prompt 'aaaa", Assert.Throws<ArgumentException>(() => model.Chat(messages)).Message);
        model.Chat(messages, new SamplingOptions { TruncatePrompts = true });
    }

    private static SupervisedFineTuningOptions InJson => new()
    {
        MessagesColumnName = "Messages",
        ChatTemplate = s_letters,
        Sampling = new() { Temperature = 0, MaxNewTokens = 8 },
    };

    private static SupervisedFineTuningOptions InVectors => new()
    {
        RolesColumnName = "Roles",
        ContentsColumnName = "Contents",
        ChatTemplate = s_letters,
        Sampling = new() { Temperature = 0, MaxNewTokens = 8 },
    };

    private SupervisedFineTuningTrainer Trainer(SupervisedFineTuningOptions options) =>
        _ml.Rlhf().Trainers.SupervisedFineTuning(Tiny.Model, options);

    private TextGenerationTransformer Train(SupervisedFineTuningOptions options) => Trainer(options).Fit(Data());

    private IDataView Data() => _ml.Data.LoadFromEnumerable(s_rows);

    private string[] Answers(TextGenerationTransformer model, IDataView? data = null) =>
        [.. model.Transform(data ?? Data()).GetColumn<string>("Completion")];

    private static Row Conversation(params string[] texts)
    {
        var messages = texts.Chunk(2).ToArray();
        var json = messages.Select(pair => $$"""{"role": "{{pair[0]}}", "content": "{{pair[1]}}", "id": 1}""");
        return new Row
        {
            Roles = [.. messages.Select(pair => pair[0])],
            Contents = [.. messages.Select(pair => pair[1])],
            Messages = $"[{string.Join(", ", json)}]",
        };
    }

    private sealed class Row
    {
        public string[] Roles { get; set; } = [];

        public string[] Contents { get; set; } = [];

        public string Messages { get; set; } = "[]";
    }
}
