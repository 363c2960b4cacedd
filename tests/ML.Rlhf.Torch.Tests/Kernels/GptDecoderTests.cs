using ML.Rlhf.TestSupport;
using ML.Rlhf.Torch.Generation;
using ML.Rlhf.Torch.Kernels;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Kernels;

/// <summary>Decoding in bfloat16 kernels, against the model that pads, masks and caches in float32.</summary>
public sealed class GptDecoderTests
{
    private const double Tolerance = 0.02;
    private const int Vocabulary = 65, NewTokens = 20;

    public GptDecoderTests() => Assert.SkipUnless(MicroKernel.IsSupported, "This processor does not multiply bfloat16 numbers.");

    [Theory]
    [InlineData(1, 1, 16, true, new[] { 1 })]
    [InlineData(2, 2, 64, true, new[] { 30 })]
    [InlineData(3, 3, 48, false, new[] { 5, 17, 1 })]
    [InlineData(2, 2, 160, true, new[] { 16, 15, 40, 3, 33 })]
    [InlineData(2, 4, 128, false, new[] { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17 })]
    public void Next_tokens_are_scored_as_in_float32(int layers, int heads, int width, bool tied, int[] lengths)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var model = Model(layers, heads, width, tied);
        int[][] prompts = Prompts(lengths);

        var scores = Scores(Kernels(model, prompts), prompts.Length);
        var expected = Scores(new Continuation(model, prompts, NewTokens), prompts.Length);

        for (int step = 0; step < NewTokens; step++)
            AssertNear(expected[step], scores[step], $"step {step}");
    }

    [Fact]
    public void Equal_prompts_are_read_once_and_go_their_own_ways()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var model = Model(2, 2, 64);
        int[][] distinct = Prompts([7, 21]);
        int[][] prompts = [distinct[0], distinct[1], [.. distinct[0]], [.. distinct[0]], [.. distinct[1]]];

        var scores = Scores(Kernels(model, prompts), prompts.Length);
        var expected = Scores(new Continuation(model, prompts, NewTokens), prompts.Length);

        for (int step = 0; step < NewTokens; step++)
            AssertNear(expected[step], scores[step], $"step {step}");
        Assert.Equal(Bytes(scores[0][0]), Bytes(scores[0][2]));
        Assert.NotEqual(Bytes(scores[2][0]), Bytes(scores[2][2]));
    }

    [Fact]
    public void Rows_that_leave_change_no_bit_of_those_that_stay()
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var model = Model(2, 2, 64);
        int[][] prompts = Prompts([5, 9, 13, 2, 40, 11, 8, 8, 3, 20]);
        int[] rows = [.. Enumerable.Range(0, prompts.Length)];
        var alone = prompts.Select((prompt, row) => Scores(Kernels(model, [prompt]), 1, row)).ToArray();

        using var together = Kernels(model, prompts);
        var logits = together.Logits([]);
        for (int step = 0; ; step++)
        {
            for (int i = 0; i < rows.Length; i++)
                Assert.Equal(Bytes(alone[rows[i]][step][0]), Bytes(logits[i]));
            if (rows.Length == 1)
                break;
            // The last row takes the place of one that is done.
            int[] kept = [.. Enumerable.Range(0, rows.Length - 1)];
            kept[(step * 3) % kept.Length] = rows.Length - 1;
            rows = [.. kept.Select(i => rows[i])];
            together.Keep(kept);
            logits = together.Logits([.. rows.Select(row => Token(row, step))]);
        }
    }

    [Fact]
    public void Whole_contexts_and_64_rows_fit()
    {
        using var model = Model(1, 2, 32);
        int[][] prompts = Prompts([.. Enumerable.Range(0, 130).Select(i => 1 + (i * 7 % 59))]);

        var completions = Complete(model, prompts, new() { MaxNewTokens = 60, Precision = Precision.BFloat16 });

        for (int i = 0; i < prompts.Length; i++)
            Assert.Equal(60 - prompts[i].Length, completions[i].Tokens.Length);
    }

    [Fact]
    public void The_same_seed_gives_the_same_text_on_any_number_of_threads_and_in_any_company()
    {
        using var model = Model(2, 2, 64);
        int[][] prompts = Prompts([3, 12, 7, 30, 1, 12]);
        var options = new SamplingOptions { MaxNewTokens = 25, Precision = Precision.Auto };
        int threads = get_num_threads();
        long before = LiveTensors.Count;
        try
        {
            set_num_threads(1);
            var expected = Complete(model, prompts, options);
            set_num_threads(2);
            Assert.Equal(Texts(expected), Texts(Complete(model, prompts, options)));
            for (int i = 0; i < prompts.Length; i++)
                Assert.Equal(Texts([expected[i]]), Texts(Complete(model, [prompts[i]], options, first: i)));
            Assert.NotEqual(Texts(expected), Texts(Complete(model, prompts, options with { Seed = 1 })));
        }
        finally
        {
            set_num_threads(threads);
        }
        Assert.Equal(before, LiveTensors.Count);
    }

    [Fact]
    public void Log_probabilities_of_drawn_tokens_are_those_of_float32()
    {
        using var model = Model(2, 2, 64);
        int[][] prompts = Prompts([3, 12, 7]);

        var completions = Complete(model, prompts, new() { MaxNewTokens = 25, Precision = Precision.BFloat16 });

        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        for (int i = 0; i < prompts.Length; i++)
        {
            long[] text = [.. prompts[i].Concat(completions[i].Tokens).Select(token => (long)token)];
            var all = model.Logits(model.Hidden(tensor(text).unsqueeze(0)))[0].log_softmax(-1);
            for (int t = 0; t < completions[i].Tokens.Length; t++)
            {
                float expected = all[prompts[i].Length + t - 1, completions[i].Tokens[t]].item<float>();
                Assert.Equal(expected, completions[i].LogProbabilities[t], 0.1);
            }
        }
    }

    [Fact]
    public void Bfloat16_for_a_model_without_kernels_is_an_error_and_auto_is_not()
    {
        using var model = new Gpt(TinyGpt.Architecture with { Activation = Activation.Relu }, new Generator(1));
        int[][] prompts = [[1, 2]];

        var error = Assert.Throws<ArgumentException>(
            () => Complete(model, prompts, new() { MaxNewTokens = 3, Precision = Precision.BFloat16 }));

        Assert.Contains("Precision is BFloat16", error.Message, StringComparison.Ordinal);
        Assert.Equal(
            Texts(Complete(model, prompts, new() { MaxNewTokens = 3 })),
            Texts(Complete(model, prompts, new() { MaxNewTokens = 3, Precision = Precision.Auto })));
    }

    private static SampledTokens[] Complete(Gpt model, int[][] prompts, SamplingOptions options, int first = 0) => Sampler.Generate(
        model, prompts, [.. prompts.Select((_, i) => new RandomStream((ulong)options.Seed, (ulong)(first + i)))], Vocabulary, options,
        withLogProbabilities: true);

    private static string[] Texts(SampledTokens[] completions) => [.. completions.Select(c => string.Join(' ', c.Tokens))];

    private static KernelContinuation Kernels(Gpt model, int[][] prompts) =>
        new(model.CreateDecoder(prompts.Length, prompts.Max(p => p.Length) + NewTokens), prompts);

    /// <summary>Logits (B, V) of all steps, of texts that go on with made-up tokens.</summary>
    private static Tensor[] Scores(INextToken model, int rows, int first = 0)
    {
        using (model)
            return [.. Enumerable.Range(0, NewTokens).Select(step => model.Logits(
                step == 0 ? [] : [.. Enumerable.Range(first, rows).Select(row => Token(row, step - 1))]))];
    }

    private static int Token(int row, int step) => ((row * 31) + (step * 7)) % Vocabulary;

    private static int[][] Prompts(int[] lengths) =>
        [.. lengths.Select((length, row) => Enumerable.Range(0, length).Select(i => ((row * 17) + (i * i)) % Vocabulary).ToArray())];

    private static Gpt Model(int layers, int heads, int width, bool tied = true)
    {
        var generator = new Generator(1);
        var model = new Gpt(
            new GptArchitecture
            {
                Layers = layers, Heads = heads, Width = width, ContextLength = 60, VocabularySize = Vocabulary, TiedHead = tied,
            },
            generator);
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        foreach (var parameter in model.parameters()) // gains, biases and attention that are not those of an untrained model
            parameter.add_(randn(parameter.shape, generator: generator) * 0.1f);
        model.eval();
        return model;
    }

    private static byte[] Bytes(Tensor tensor) => tensor.contiguous().bytes.ToArray();

    private static void AssertNear(Tensor expected, Tensor actual, string name)
    {
        double error = ((actual - expected).norm() / expected.norm()).item<float>();
        Assert.True(error < Tolerance, $"{name} differs by {error:P2}.");
    }
}
