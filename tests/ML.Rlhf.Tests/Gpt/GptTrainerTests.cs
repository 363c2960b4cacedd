using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.Bridge;

namespace ML.Rlhf.Tests.Gpt;

public sealed class GptTrainerTests
{
    private readonly MLContext _ml = new(seed: 1);

    private static GptOptions Options => new()
    {
        Architecture = Tiny.Architecture,
        Tokenizer = Tiny.Letters,
        Steps = 3,
        BatchSize = 4,
        LearningRate = 1e-2,
        WarmupSteps = 0,
        Sampling = new SamplingOptions { MaxNewTokens = 5 },
    };

    [Fact]
    public void It_learns_the_corpus()
    {
        var progress = new ProgressRecords();

        using var model = _ml.Rlhf().Trainers.Gpt(Options with { Steps = 100, Progress = progress })
            .Fit(_ml.Data.LoadFromEnumerable(Tiny.Documents));

        Assert.InRange(progress[0].Loss, Math.Log(29) - 0.2, Math.Log(29) + 0.2); // it begins by guessing among 28 letters and the end
        Assert.InRange(progress[^1].Loss, 0, progress[0].Loss / 2);
    }

    [Fact]
    public void Tokens_in_a_file_train_the_same_weights_also_where_the_run_is_resumed()
    {
        var folder = Directory.CreateTempSubdirectory("ML.Rlhf.Tests-");
        try
        {
            string file = Path.Combine(folder.FullName, "tokens");
            var corpus = _ml.Data.LoadFromEnumerable(Enumerable.Range(0, 3).Select(i => new Document
            {
                Text = string.Concat(Enumerable.Range(0, 500_000).Select(c => (char)('a' + (c * 31 + c / 7 + i) % 26))),
            }));
            var resumed = Options with
            {
                TokenFile = file, Checkpoints = new CheckpointOptions { Folder = Path.Combine(folder.FullName, "run"), EverySteps = 2 },
            };
            long? length = null;
            void Look(TrainingProgress p) => length ??= new FileInfo(file).Length;

            using var inMemory = _ml.Rlhf().Trainers.Gpt(Options).Fit(corpus);
            using var inFile = _ml.Rlhf().Trainers.Gpt(Options with { TokenFile = file, Progress = new ProgressRecords(Look) }).Fit(corpus);
            using var stop = new CancellationTokenSource();
            Assert.Throws<OperationCanceledException>(() => _ml.Rlhf().Trainers.Gpt(resumed with
            {
                CancellationToken = stop.Token, Progress = new ProgressRecords(p => { if (p.Step == 2) stop.Cancel(); }),
            }).Fit(corpus));
            using var again = _ml.Rlhf().Trainers.Gpt(resumed with { TokenFile = file + "-elsewhere" }).Fit(corpus);

            Assert.Equal(16 + 2 * (1 << 20), length); // one page of the three halves of a million tokens is full
            Assert.Equal(Tiny.Weights(inMemory), Tiny.Weights(inFile));
            Assert.Equal(Tiny.Weights(inMemory), Tiny.Weights(again));
            Assert.Empty(folder.GetFiles());
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    public static TheoryData<LanguageModelArchitecture> OtherShapes { get; } =
    [
        LlamaArchitecture.Micro with { Layers = 1, Width = 16, FeedForwardWidth = 40, ContextLength = 32, SlidingWindow = 8 },
        Tiny.Architecture with { Norms = NormPlacement.After }, // GPT-1's
    ];

    [Theory]
    [MemberData(nameof(OtherShapes))]
    public void Other_shapes_learn_too_and_go_into_a_zip(LanguageModelArchitecture architecture)
    {
        var progress = new ProgressRecords();
        string zip = Path.GetTempFileName();
        try
        {
            using var model = _ml.Rlhf().Trainers.Gpt(Options with { Architecture = architecture, Steps = 100, Progress = progress })
                .Fit(_ml.Data.LoadFromEnumerable(Tiny.Documents));
            _ml.Model.Save(model, null, zip);
            using var loaded = (TextGenerationTransformer)_ml.Model.Load(zip, out _);

            Assert.InRange(progress[^1].Loss, 0, progress[0].Loss / 2);
            Assert.Equal(architecture with { VocabularySize = Tiny.Letters.VocabularySize }, loaded.Architecture);
            Assert.Equal(model.Generate(["the cat", "a"]), loaded.Generate(["the cat", "a"]));
        }
        finally
        {
            File.Delete(zip);
        }
    }

    [Fact]
    public void Without_a_tokenizer_it_trains_one_of_the_size_of_the_architecture()
    {
        var architecture = Tiny.Architecture with { VocabularySize = 270 };
        using var model = _ml.Rlhf().Trainers.Gpt(Options with { Tokenizer = null, Architecture = architecture })
            .Fit(_ml.Data.LoadFromEnumerable(Tiny.Documents));

        Assert.Equal((TokenizerKind.ByteLevelBpe, 270), (model.Tokenizer.Kind, model.Tokenizer.VocabularySize));
        Assert.Equal(architecture, model.Architecture);
    }

    [Fact]
    public void The_size_of_a_given_tokenizer_replaces_that_of_the_architecture()
    {
        using var model = _ml.Rlhf().Trainers.Gpt(Options with { Architecture = Tiny.Architecture with { VocabularySize = 999 } })
            .Fit(_ml.Data.LoadFromEnumerable(Tiny.Documents));

        Assert.Equal(29, model.Architecture.VocabularySize);
        Assert.Same(Tiny.Letters, model.Tokenizer);
    }

    [Fact]
    public void The_model_goes_on_with_the_documents()
    {
        var data = _ml.Data.LoadFromEnumerable(Tiny.Documents[..2]);
        using var model = _ml.Rlhf().Trainers.Gpt(Options).Fit(data);

        Assert.Equal(("Text", "Completion"), (model.PromptColumnName, model.CompletionColumnName));
        Assert.Equal(
            Tiny.Documents[..2].Select(d => model.Generate(d.Text)),
            model.Transform(data).GetColumn<string>("Completion"));
    }

    /// <summary>The model's users have prompts, the corpus has none. A chain applies the model to it, so it asks at once.</summary>
    [Fact]
    public void A_prompt_column_is_needed_where_the_model_is_used_and_in_a_chain()
    {
        var progress = new ProgressRecords();
        var trainer = _ml.Rlhf().Trainers.Gpt(
            Options with { PromptColumnName = "Prompt", CompletionColumnName = "More", Progress = progress });
        var corpus = _ml.Data.LoadFromEnumerable(Tiny.Documents);

        const string Message = "Could not find prompt column 'Prompt' (Parameter 'inputSchema')";
        Assert.Equal(Message, Assert.Throws<ArgumentOutOfRangeException>(
            () => trainer.GetOutputSchema(Schemas.Shape(corpus.Schema))).Message);
        Assert.Equal(Message, Assert.Throws<ArgumentOutOfRangeException>(
            () => _ml.Transforms.CopyColumns("Copy", "Text").Append(trainer).Fit(corpus)).Message);
        Assert.Empty(progress);

        using var model = trainer.Fit(corpus);
        Assert.Equal(Message, Assert.Throws<ArgumentOutOfRangeException>(() => model.Transform(corpus)).Message);
        Assert.Equal([model.Generate("cat")], model.Transform(_ml.View("cat")).GetColumn<string>("More"));
    }

    [Fact]
    public void The_completion_goes_on_through_stock_transforms()
    {
        var pipeline = _ml.Transforms.Text.NormalizeText("Text")
            .Append(_ml.Rlhf().Trainers.Gpt(Options))
            .Append(_ml.Transforms.Text.FeaturizeText("Features", "Completion"))
            .Append(_ml.Clustering.Trainers.KMeans(numberOfClusters: 2));
        var data = _ml.Data.LoadFromEnumerable(Tiny.Documents);

        var clusters = pipeline.Fit(data).Transform(data).GetColumn<uint>("PredictedLabel").ToList();

        Assert.Equal(8, clusters.Count);
        Assert.All(clusters, cluster => Assert.InRange(cluster, 1u, 2u));
    }

    [Fact]
    public void A_corpus_shorter_than_the_context_is_enough()
    {
        using var model = _ml.Rlhf().Trainers.Gpt(Options).Fit(_ml.Data.LoadFromEnumerable(new[] { new Document { Text = "ab" } }));

        Assert.All(Tiny.Weights(model), weight => Assert.True(float.IsFinite(weight)));
    }

    [Fact]
    public void An_empty_corpus_is_an_error_also_where_the_tokenizer_would_be_trained_on_it()
    {
        var empty = _ml.Data.LoadFromEnumerable(Array.Empty<Document>());

        Assert.StartsWith("The corpus has no text to learn a vocabulary from", Assert.ThrowsAny<Exception>(
            () => _ml.Rlhf().Trainers.Gpt(Options with { Tokenizer = null }).Fit(empty)).Message);
    }
}
