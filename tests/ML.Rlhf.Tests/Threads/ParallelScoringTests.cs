using System.Diagnostics;
using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.TestSupport;
using TorchSharp;

namespace ML.Rlhf.Tests.Threads;

/// <summary>One model, many threads: the answers of one thread alone, and nothing left behind.</summary>
public sealed class ParallelScoringTests
{
    private const int Prompts = 40;

    private readonly MLContext _ml = new(seed: 1);

    private static readonly SamplingOptions s_short = new() { MaxNewTokens = 3 };

    private static readonly Lazy<TextGenerationTransformer> s_sampled = new(() => Tiny.Model.WithSampling(s_short));

    private static readonly Lazy<TextGenerationTransformer> s_greedy =
        new(() => Tiny.Model.WithSampling(s_short with { Temperature = 0 }));

    private static readonly Lazy<TextToTextTransformer> s_textToText = new(() => Tiny.TextToText.WithSampling(s_short));

    private static readonly Lazy<TextGenerationTransformer> s_shaped = new(() => Tiny.Model.WithSampling(new SamplingOptions
    {
        MaxNewTokens = 6, TopK = 9, TopP = 0.9f, MinP = 0.01f, TypicalP = 0.95f, EpsilonCutoff = 1e-4f, RepetitionPenalty = 1.2f,
        NoRepeatNgramSize = 2, MinNewTokens = 2,
    }));

    private static readonly Lazy<TextGenerationTransformer> s_recurrent = new(() =>
    {
        var ml = new MLContext(seed: 1);
        return ml.Rlhf().Trainers.Lstm(new LstmOptions
        {
            Architecture = Tiny.Recurrent,
            Tokenizer = Tiny.Letters,
            Steps = 20,
            BatchSize = 4,
            PromptColumnName = "Prompt",
            Sampling = new SamplingOptions { MaxNewTokens = 6 },
        }).Fit(ml.Data.LoadFromEnumerable(Tiny.Documents));
    });

    private static readonly Lazy<BestOfNTransformer> s_bestOfN = new(() =>
        new MLContext(seed: 1).Rlhf().Transforms.BestOfN(Tiny.Model, Tiny.Reward, 3));

    /// <summary>All that scores, by name.</summary>
    public static TheoryData<string> Kinds => [.. s_kinds.Keys];

    private static readonly Dictionary<string, Func<MLContext, Func<string, object>>> s_kinds = new()
    {
        ["gpt"] = ml => Engine<PromptOnly, Answer>(ml, s_sampled.Value, p => new() { Prompt = p }, a => a.Completion),
        ["gpt-greedy"] = ml => Engine<PromptOnly, Answer>(ml, s_greedy.Value, p => new() { Prompt = p }, a => a.Completion),
        ["gpt-shaped"] = ml => Engine<PromptOnly, Answer>(ml, s_shaped.Value, p => new() { Prompt = p }, a => a.Completion),
        ["lstm"] = ml => Engine<PromptOnly, Answer>(ml, s_recurrent.Value, p => new() { Prompt = p }, a => a.Completion),
        ["text-to-text"] = ml => Engine<PromptOnly, Answer>(ml, s_textToText.Value, p => new() { Prompt = p }, a => a.Completion),
        ["encoder"] = ml => Engine<Document, Answer>(
            ml, Tiny.Encoder, p => new() { Text = p }, a => string.Join(' ', a.Features.Select(BitConverter.SingleToInt32Bits))),
        ["reward"] = ml => Engine<Demonstration, Answer>(
            ml, Tiny.Reward, p => new() { Prompt = p, Completion = p }, a => BitConverter.SingleToInt32Bits(a.Score)),
        ["best-of-n"] = ml => Engine<PromptOnly, Answer>(
            ml, s_bestOfN.Value, p => new() { Prompt = p }, a => (a.Completion, BitConverter.SingleToInt32Bits(a.Score))),
    };

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Many_threads_get_the_answers_of_one(string kind) => RequireEqual(kind, predictions: 40);

    [Theory]
    [InlineData("gpt")]
    [InlineData("gpt-greedy")]
    [InlineData("text-to-text")]
    [InlineData("encoder")]
    [InlineData("reward")]
    [Trait("Tier", "Slow")]
    public void Eight_threads_of_2000_predictions_get_the_answers_of_one_and_leave_nothing_behind(string kind)
    {
        RequireEqual(kind, predictions: 2000); // the heap finds its size
        long before = Resident();
        var time = Stopwatch.StartNew();

        RequireEqual(kind, predictions: 2000);

        long growth = (Resident() - before) >> 20;
        ResultLine.Print($"threads 8x2000 {kind} equal=true live-tensors=0 growth={growth} MB {time.Elapsed.TotalSeconds:F1} s");
        Assert.InRange(growth, long.MinValue, 48);
    }

    [Fact]
    public void Cursors_side_by_side_read_the_answers_of_one()
    {
        var data = _ml.Data.LoadFromEnumerable(Enumerable.Range(0, 600).Select(i => new PromptOnly { Prompt = Prompt(i) }));
        var answers = Tiny.Model.Transform(data);
        var expected = answers.GetColumn<string>("Completion").ToArray();

        var inParallel = ManyThreads.Run(_ => answers.GetColumn<string>("Completion").ToArray(), threads: 4);
        var set = answers.GetRowCursorSet([answers.Schema["Completion"]], 4);
        var bySet = ManyThreads.Run(i => i < set.Length ? Read(set[i]) : [], threads: 4);

        Assert.All(inParallel, column => Assert.Equal(expected, column));
        Assert.Equal(expected.Order(), bySet.SelectMany(column => column).Order());
    }

    /// <summary>libtorch divides an operation among as many threads as it is told, whoever calls it, so callers change no bits.</summary>
    [Fact]
    public void Threads_that_divide_their_own_work_get_the_answers_of_one()
    {
        using var wide = Tiny.Train(
            architecture: Tiny.Architecture with { Width = 256, Heads = 4, Layers = 2 },
            sampling: new SamplingOptions { MaxNewTokens = 8 });
        string[] prompts = [.. Enumerable.Range(0, Prompts).Select(Prompt)];
        torch.set_num_threads(2);
        try
        {
            var expected = wide.Generate(prompts);

            Assert.All(ManyThreads.Run(_ => wide.Generate(prompts), threads: 4), answers => Assert.Equal(expected, answers));
        }
        finally
        {
            torch.set_num_threads(1);
        }
    }

    private void RequireEqual(string kind, int predictions)
    {
        var serial = s_kinds[kind](_ml);
        var expected = Enumerable.Range(0, Prompts).Select(i => serial(Prompt(i))).ToArray();
        Assert.InRange(expected.Distinct().Count(), 5, Prompts); // answers that threads could take for each other's

        var left = ManyThreads.Run(thread =>
        {
            var predict = s_kinds[kind](_ml);
            for (int i = 0; i < predictions; i++)
            {
                int prompt = (i + thread * 5) % Prompts;
                Assert.Equal(expected[prompt], predict(Prompt(prompt)));
            }
            return LiveTensors.Count;
        });

        Assert.All(left, count => Assert.Equal(0, count));
    }

    private static string Prompt(int i) => Tiny.Prompts[i % 8].Prompt + new string((char)('a' + i % 26), i % 7);

    private static Func<string, object> Engine<TRow, TAnswer>(
        MLContext ml, ITransformer model, Func<string, TRow> row, Func<TAnswer, object> read)
        where TRow : class
        where TAnswer : class, new()
    {
        var engine = ml.Model.CreatePredictionEngine<TRow, TAnswer>(model, new PredictionEngineOptions
        {
            OwnsTransformer = false,
            IgnoreMissingColumns = true,
        });
        return prompt => read(engine.Predict(row(prompt)));
    }

    private static string[] Read(DataViewRowCursor cursor)
    {
        using (cursor)
        {
            List<string> values = [];
            var get = cursor.GetGetter<ReadOnlyMemory<char>>(cursor.Schema["Completion"]);
            ReadOnlyMemory<char> value = default;
            while (cursor.MoveNext())
            {
                get(ref value);
                values.Add(value.ToString());
            }
            return [.. values];
        }
    }

    private static long Resident()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        GC.Collect();
        using var process = Process.GetCurrentProcess();
        return process.WorkingSet64;
    }

    /// <summary>What any of the models adds.</summary>
    private sealed class Answer
    {
        public string Completion { get; set; } = "";

        public float Score { get; set; }

        public float[] Features { get; set; } = [];
    }
}
