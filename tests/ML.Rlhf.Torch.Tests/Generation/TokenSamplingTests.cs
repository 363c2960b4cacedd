using ML.Rlhf.Torch.Generation;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Generation;

public class TokenSamplingTests
{
    private static readonly Golden s_golden = Golden.Load("sampling/processors.json");

    public static TheoryData<int> Cases => [.. Enumerable.Range(0, s_golden["cases"].Items.Count())];

    [Theory]
    [MemberData(nameof(Cases))]
    public void Shaped_logits_equal_the_reference(int index)
    {
        var c = s_golden["cases"][index];
        var shaped = Process(s_golden["logits"].Tensor(), c);

        // Row 1 has four equal logits and row 2 is flat: which of the equals stay is up to the sort, how many is not.
        int[] kept = c["kept"].Integers;
        for (int row = 0; row < kept.Length; row++)
        {
            Tensor expected = c["output"].Tensor()[row], actual = shaped[row];
            Assert.Equal(kept[row], actual.isfinite().sum().ToInt32());
            Close.Assert(expected.sort().Values, actual.sort().Values, relative: 1e-6, what: $"sorted row {row}");
            if (row is 0 or 3)
                Close.Assert(expected, actual, relative: 1e-6, what: $"row {row}");
        }
        if (c.Has("probs"))
            Close.Assert(c["probs"].Tensor().sort().Values, shaped.softmax(-1).sort().Values, relative: 1e-5, what: "sorted probabilities");
    }

    /// <summary>The parameters of a case as options of ours; one that we do not know is an error.</summary>
    private static Tensor Process(Tensor logits, Golden c)
    {
        var options = new SamplingOptions();
        int promptLength = 0, keepAtLeast = 1;
        int[] endTokens = [];
        foreach (var (name, value) in c["params"].Members)
        {
            float Number() => (float)value.Number;
            options = name switch
            {
                "temperature" => options with { Temperature = Number() },
                "top_k" => options with { TopK = value.Integer },
                "top_p" => options with { TopP = Number() },
                "min_p" => options with { MinP = Number() },
                "typical_p" => options with { TypicalP = Number() },
                "epsilon" => options with { EpsilonCutoff = Number() },
                "penalty" or "repetition_penalty" => options with { RepetitionPenalty = Number() },
                "ngram_size" or "no_repeat_ngram_size" => options with { NoRepeatNgramSize = value.Integer },
                "min_new_tokens" => options with { MinNewTokens = value.Integer },
                "prompt_length" or "min_tokens_to_keep" or "eos_token_ids" => options,
                _ => throw new NotSupportedException($"The case has '{name}'."),
            };
            if (name == "prompt_length")
                promptLength = value.Integer;
            if (name == "min_tokens_to_keep")
                keepAtLeast = value.Integer;
            if (name == "eos_token_ids")
                endTokens = value.Integers;
        }
        options.Validate();

        int[][] texts = [.. (c.Has("input_ids") ? c : s_golden)["input_ids"].Items.Select(t => t.Integers)];
        var shaped = Shape(logits, texts, texts[0].Length - promptLength, new StopTokens(endTokens), options);
        if (keepAtLeast > 1) // ours is always 1: give the next ones back
        {
            var best = logits.sort(-1, descending: true, stable: true).Indices[.., ..keepAtLeast];
            shaped = shaped.scatter(-1, best, logits.gather(-1, best));
        }
        return shaped;
    }

    [Theory]
    [InlineData(2, new[] { 1f, -2, 0.5f, -1 }, new[] { 0.5f, -4, 0.5f, -1 })]
    [InlineData(0.5f, new[] { 1f, -2, 0.5f, -1 }, new[] { 2f, -1, 0.5f, -1 })]
    public void A_penalty_weakens_present_tokens_once_and_below_1_strengthens_them(float penalty, float[] logits, float[] expected)
    {
        float[] row = [.. logits];

        var sampling = new TokenSampling(new SamplingOptions { RepetitionPenalty = penalty }, 3);
        sampling.Shape(row, [0, 1, 1, 0, 1], newTokens: 2);

        Assert.Equal(expected, sampling.Logits);
        Assert.Equal(logits, row); // the caller's logits stay as they are
    }

    [Fact]
    public void Rows_of_different_lengths_are_constrained_each_by_its_own_tokens()
    {
        var options = new SamplingOptions { RepetitionPenalty = 2, NoRepeatNgramSize = 2 };
        int[][] texts = [[3], [0, 1, 2, 0], [2, 2]];

        var together = Shape(ones(3, 5), texts, newTokens: 0, stop: 4, options);

        float none = float.NegativeInfinity;
        Close.Assert(
            tensor(new[,] { { 1, 1, 1, 0.5f, 1 }, { 0.5f, none, 0.5f, 1, 1 }, { 1, 1, none, 1, 1 } }), together);
    }

    [Fact]
    public void Where_every_token_would_repeat_itself_repetition_is_allowed_but_an_early_end_is_not()
    {
        var options = new SamplingOptions { NoRepeatNgramSize = 1, MinNewTokens = 5 };

        var shaped = Shape(zeros(2, 3), [[0, 1, 2], [0, 1, 1]], newTokens: 3, stop: 2, options);

        Close.Assert(tensor(new[,] { { 0, 0, float.NegativeInfinity }, { 0, 0, float.NegativeInfinity } }), shaped);
    }

    [Theory]
    [InlineData(1f, 1f, 0f)]
    [InlineData(0f, 1e-6f, 0f)]
    [InlineData(0f, 1f, 0.999f)]
    public void Each_filter_keeps_a_token_however_strict_it_is(float minP, float typicalP, float epsilon)
    {
        var options = new SamplingOptions { MinP = minP, TypicalP = typicalP, EpsilonCutoff = epsilon };

        var shaped = Shape(s_golden["logits"].Tensor(), options);

        Assert.All(shaped.isfinite().sum(-1).data<long>().ToArray(), kept => Assert.InRange(kept, 1, 23));
        Assert.Equal(1, shaped[3].isfinite().sum().ToInt32());
    }

    [Fact]
    public void Filters_see_what_the_ones_before_them_left()
    {
        var logits = tensor(new[] { 0.4f, 0.3f, 0.2f, 0.1f }).log().unsqueeze(0);
        int Kept(SamplingOptions options) => Shape(logits, options).isfinite().sum().ToInt32();

        Assert.Equal(1, Kept(new() { EpsilonCutoff = 0.35f }));
        Assert.Equal(2, Kept(new() { EpsilonCutoff = 0.35f, TopK = 2 })); // 4/7 and 3/7 now
        Assert.Equal(3, Kept(new() { TypicalP = 0.85f }));
        Assert.Equal(2, Kept(new() { TypicalP = 0.85f, TopK = 2 })); // −∞ logits are no trouble
        Assert.Equal(1, Kept(new() { MinP = 0.8f }));
        Assert.Equal(2, Kept(new() { MinP = 0.8f, Temperature = 2 })); // (3/4)^½ = 0.87
    }

    [Fact]
    public void Top_p_keeps_the_likeliest_token_however_small_p_is()
    {
        var shaped = Shape(tensor(new float[,] { { 0, 5, 1 }, { 1, 1, 1 } }), new SamplingOptions { TopP = 1e-6f });

        Assert.Equal([1, 1], shaped.isfinite().sum(-1).data<long>().ToArray());
        Assert.Equal(1, shaped[0].argmax().ToInt32());
    }

    /// <summary>χ² of 200,000 draws against the probabilities; with 22 degrees of freedom it passes 55 once in 10,000 times.</summary>
    [Theory]
    [InlineData(1, 0, 1)]
    [InlineData(0.7, 0, 1)]
    [InlineData(1.3, 12, 0.9)]
    public void Draws_follow_the_probabilities(double temperature, int topK, double topP)
    {
        const int Draws = 200_000;
        var options = new SamplingOptions { Temperature = (float)temperature, TopK = topK, TopP = (float)topP };
        float[] logits = s_golden["logits"].Tensor()[0].data<float>().ToArray();
        double[] probabilities = Shape(tensor(logits).unsqueeze(0), options)[0].to(float64).softmax(-1).data<double>().ToArray();
        var sampling = new TokenSampling(options, 0);
        var random = new RandomStream(seed: 42);

        int[] drawn = [.. Enumerable.Range(0, Draws).Select(_ => sampling.Draw(logits, [], 0, random.NextSingle()).Token)];

        long[] counts = [.. Enumerable.Range(0, probabilities.Length).Select(token => drawn.LongCount(d => d == token))];
        Assert.All(counts.Zip(probabilities).Where(p => p.Second == 0), p => Assert.Equal(0, p.First));
        double chiSquare = counts.Zip(probabilities).Where(p => p.Second > 0)
            .Sum(p => Math.Pow(p.First - Draws * p.Second, 2) / (Draws * p.Second));
        Assert.InRange(chiSquare, 0, 55);
    }

    [Fact]
    public void A_token_without_probability_is_never_drawn_not_even_at_the_ends_of_the_unit_interval()
    {
        float inf = float.NegativeInfinity;
        float[][] rows = [[inf, 0, inf, 0, inf], [inf, inf, 3, inf, inf], [0, inf, inf, inf, -200]];
        float largest = ((1 << 23) - 1) * (1f / (1 << 23));
        var sampling = new TokenSampling(new SamplingOptions(), 0);

        foreach (float u in (float[])[0, 1e-7f, 0.25f, 0.49999997f, 0.5f, 0.75f, largest])
        {
            int[] drawn = Array.ConvertAll(rows, row => sampling.Draw(row, [], 0, u).Token);
            Assert.Equal([u < 0.5f ? 1 : 3, 2, 0], drawn);
        }
    }

    /// <summary>As large as real vocabularies: full vectors, what is left over after them, and buckets with many tokens.</summary>
    [Theory]
    [InlineData(65, 0)]
    [InlineData(1000, 3)]
    [InlineData(50257, 8)]
    public void Rows_of_any_width_are_shaped_as_sorting_them_shapes_them(int vocabulary, float deviation)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(5, CPU);
        var logits = randn(1, vocabulary, generator: generator) * deviation;
        foreach (var options in (SamplingOptions[])
        [
            new() { Temperature = 0.7f }, new() { TopK = 40 }, new() { TopP = 0.9f }, new() { MinP = 0.05f }, new() { TypicalP = 0.8f },
            new() { EpsilonCutoff = 3e-4f }, new() { Temperature = 1.5f, TopK = 100, TopP = 0.95f, MinP = 0.01f },
        ])
        {
            Tensor expected = ByTensors(logits, options), actual = Shape(logits, options);
            long kept = expected.isfinite().sum().ToInt64();
            // The reference adds float32 numbers one by one, so a token at the border may be on its other side; of equals, any stay.
            Assert.InRange(actual.isfinite().sum().ToInt64(), (long)(kept * 0.998) - 1, (long)(kept * 1.002) + 1);
            long top = Math.Min(kept, 100);
            Close.Assert(expected.sort(descending: true).Values[.., ..(int)top], actual.sort(descending: true).Values[.., ..(int)top],
                absolute: 1e-5, what: $"{options}");
        }
    }

    /// <summary>The definitions of the filters, in whole tensors.</summary>
    private static Tensor ByTensors(Tensor logits, SamplingOptions options)
    {
        logits /= options.Temperature;
        Tensor Without(Tensor removed) => logits.masked_fill(removed, double.NegativeInfinity);
        if (options.TopK > 0)
            logits = Without(logits < logits.topk(Math.Min(options.TopK, (int)logits.size(-1)), -1).values[.., ^1..]);
        if (options.TopP < 1)
        {
            var (ascending, order) = logits.sort(-1, descending: false);
            var removed = ascending.to(float64).softmax(-1).cumsum(-1) <= 1 - options.TopP;
            removed.select(-1, -1).fill_(0);
            logits = Without(removed.scatter(-1, order, removed));
        }
        if (options.MinP > 0)
            logits = Without(logits < logits.amax([-1], keepdim: true) + Math.Log(options.MinP));
        if (options.TypicalP < 1)
        {
            var logProbs = logits.to(float64).log_softmax(-1);
            var distances = (logProbs - (logProbs.exp() * logProbs).sum(-1, keepdim: true)).abs();
            var (ascending, order) = distances.sort(-1, descending: false);
            long last = (logProbs.exp().gather(-1, order).cumsum(-1) < options.TypicalP).sum().ToInt64();
            logits = Without(distances > ascending[0, last]);
        }
        return options.EpsilonCutoff == 0
            ? logits
            : Without((logits.softmax(-1) < options.EpsilonCutoff) & (logits < logits.amax([-1], keepdim: true)));
    }

    [Theory]
    [InlineData(19)]
    [InlineData(50257)]
    public void Draws_and_their_log_probabilities_are_those_of_the_cumulative_distribution(int vocabulary)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(6, CPU);
        var logits = randn(vocabulary, generator: generator) * 3;
        float[] row = logits.data<float>().ToArray();
        var logProbs = (logits.to(float64) / 0.8f).log_softmax(-1);
        double[] cumulative = logProbs.exp().cumsum(-1).data<double>().ToArray();
        var sampling = new TokenSampling(new SamplingOptions { Temperature = 0.8f }, 0);
        var random = new RandomStream(seed: 9);

        for (int i = 0; i < 500; i++)
        {
            float u = random.NextSingle();
            var (token, logProb) = sampling.Draw(row, [], 0, u);
            Assert.InRange(u, token == 0 ? 0 : cumulative[token - 1] - 1e-6, cumulative[token] + 1e-6);
            Close.Assert(logProbs[token].ToDouble(), logProb, absolute: 1e-5);
        }
    }

    [Fact]
    public void Temperature_0_takes_the_first_of_the_likeliest_and_reports_what_the_model_thinks_of_it()
    {
        var sampling = new TokenSampling(new SamplingOptions { Temperature = 0, TopK = 1 }, 0);

        var (token, logProb) = sampling.Draw([1, 3, 2, 3], [], 0, uniform: 0);

        Assert.Equal(1, token);
        Close.Assert(3 - Math.Log(Math.Exp(1) + Math.Exp(2) + 2 * Math.Exp(3)), logProb, absolute: 1e-6);
    }

    [Fact]
    public void Logits_that_are_no_numbers_give_a_token_and_a_log_probability_that_is_none()
    {
        foreach (var options in (SamplingOptions[])
            [new(), new() { Temperature = 0 }, new() { TopK = 2, TopP = 0.5f, MinP = 0.1f, TypicalP = 0.5f, EpsilonCutoff = 0.1f }])
        {
            var (token, logProb) = new TokenSampling(options, 0).Draw([1, float.NaN, 2], [], 0, 0.5f);
            Assert.InRange(token, 0, 2);
            Assert.True(float.IsNaN(logProb));
        }
    }

    [Fact]
    public void A_draw_allocates_nothing_in_the_managed_heap_once_its_buffers_are_there()
    {
        var options = new SamplingOptions
        {
            Temperature = 0.9f, TopK = 200, TopP = 0.95f, MinP = 0.001f, TypicalP = 0.95f, EpsilonCutoff = 1e-5f, RepetitionPenalty = 1.2f,
            NoRepeatNgramSize = 2, MinNewTokens = 3,
        };
        var sampling = new TokenSampling(options, 7);
        float[] logits = [.. Enumerable.Range(0, 1000).Select(i => MathF.Sin(i * i))];
        int[] text = [5, 6, 5, 6, 5];
        sampling.Draw(logits, text, 1, 0.3f);

        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 100; i++)
            sampling.Draw(logits, text, 1, 0.3f);

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    private static Tensor Shape(Tensor logits, SamplingOptions options) => Shape(logits, texts: null, newTokens: 0, stop: 0, options);

    /// <summary>The logits that each row draws from, −∞ for tokens that were left out.</summary>
    private static Tensor Shape(Tensor logits, int[][]? texts, int newTokens, StopTokens stop, SamplingOptions options)
    {
        int rows = (int)logits.size(0), vocabulary = (int)logits.size(1);
        float[] numbers = logits.contiguous().data<float>().ToArray(), shaped = new float[numbers.Length];
        var sampling = new TokenSampling(options, stop);
        Array.Fill(shaped, float.NegativeInfinity);
        for (int row = 0; row < rows; row++)
        {
            sampling.Shape(numbers.AsSpan(row * vocabulary, vocabulary), texts?[row] ?? [], newTokens);
            for (int i = 0; i < sampling.Tokens.Length; i++)
                shaped[row * vocabulary + sampling.Tokens[i]] = sampling.Logits[i];
        }
        return tensor(shaped, [rows, vocabulary]);
    }
}
