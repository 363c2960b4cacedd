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

        var texts = (c.Has("input_ids") ? c : s_golden)["input_ids"].Items.Select(t => (ReadOnlyMemory<int>)t.Integers).ToArray();
        var shaped = TokenSampling.Constrain(logits, texts, texts[0].Length - promptLength, endTokens.FirstOrDefault(), options);
        foreach (int another in endTokens.Skip(1)) // a model of ours has one end token
            shaped = TokenSampling.Constrain(shaped, texts, texts[0].Length - promptLength, another, options);
        shaped = TokenSampling.Shape(shaped, options);
        if (keepAtLeast > 1) // ours is always 1: give the next ones back
        {
            var best = logits.argsort()[TensorIndex.Ellipsis, ^keepAtLeast..];
            shaped = shaped.scatter(-1, best, logits.gather(-1, best));
        }
        return shaped;
    }

    [Theory]
    [InlineData(2, new[] { 1f, -2, 0.5f, -1 }, new[] { 0.5f, -4, 0.5f, -1 })]
    [InlineData(0.5f, new[] { 1f, -2, 0.5f, -1 }, new[] { 2f, -1, 0.5f, -1 })]
    public void A_penalty_weakens_present_tokens_once_and_below_1_strengthens_them(float penalty, float[] logits, float[] expected)
    {
        var row = tensor(logits).unsqueeze(0);

        var penalized = TokenSampling.Constrain(
            row, [(int[])[0, 1, 1, 0, 1]], newTokens: 2, stop: 3, new SamplingOptions { RepetitionPenalty = penalty });

        Close.Assert(tensor(expected).unsqueeze(0), penalized);
        Close.Assert(tensor(logits).unsqueeze(0), row); // the caller's logits stay as they are
    }

    [Fact]
    public void Rows_of_different_lengths_are_constrained_each_by_its_own_tokens()
    {
        var options = new SamplingOptions { RepetitionPenalty = 2, NoRepeatNgramSize = 2 };
        ReadOnlyMemory<int>[] texts = [(int[])[3], (int[])[0, 1, 2, 0], (int[])[2, 2]];

        var together = TokenSampling.Constrain(ones(3, 5), texts, newTokens: 0, stop: 4, options);

        float none = float.NegativeInfinity;
        Close.Assert(
            tensor(new[,] { { 1, 1, 1, 0.5f, 1 }, { 0.5f, none, 0.5f, 1, 1 }, { 1, 1, none, 1, 1 } }), together);
        for (int row = 0; row < 3; row++)
            Close.Assert(together[row..(row + 1)], TokenSampling.Constrain(ones(1, 5), [texts[row]], 0, 4, options));
    }

    [Fact]
    public void Where_every_token_would_repeat_itself_repetition_is_allowed_but_an_early_end_is_not()
    {
        var options = new SamplingOptions { NoRepeatNgramSize = 1, MinNewTokens = 5 };

        var shaped = TokenSampling.Constrain(zeros(2, 3), [(int[])[0, 1, 2], (int[])[0, 1, 1]], newTokens: 3, stop: 2, options);

        Close.Assert(tensor(new[,] { { 0, 0, float.NegativeInfinity }, { 0, 0, float.NegativeInfinity } }), shaped);
    }

    [Theory]
    [InlineData(1f, 1f, 0f)]
    [InlineData(0f, 1e-6f, 0f)]
    [InlineData(0f, 1f, 0.999f)]
    public void Each_filter_keeps_a_token_however_strict_it_is(float minP, float typicalP, float epsilon)
    {
        var options = new SamplingOptions { MinP = minP, TypicalP = typicalP, EpsilonCutoff = epsilon };

        var shaped = TokenSampling.Shape(s_golden["logits"].Tensor(), options);

        Assert.All(shaped.isfinite().sum(-1).data<long>().ToArray(), kept => Assert.InRange(kept, 1, 23));
        Assert.Equal(1, shaped[3].isfinite().sum().ToInt32());
    }

    [Fact]
    public void Filters_see_what_the_ones_before_them_left()
    {
        var logits = tensor(new[] { 0.4f, 0.3f, 0.2f, 0.1f }).log().unsqueeze(0);
        int Kept(SamplingOptions options) => TokenSampling.Shape(logits, options).isfinite().sum().ToInt32();

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
        var shaped = TokenSampling.Shape(tensor(new float[,] { { 0, 5, 1 }, { 1, 1, 1 } }), new SamplingOptions { TopP = 1e-6f });

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
        var shaped = TokenSampling.Shape(
            s_golden["logits"].Tensor()[..1], new SamplingOptions { Temperature = (float)temperature, TopK = topK, TopP = (float)topP });
        double[] probabilities = shaped[0].to(float64).softmax(-1).data<double>().ToArray();
        var random = new RandomStream(seed: 42);
        var uniforms = new float[Draws];
        for (int i = 0; i < Draws; i++)
            uniforms[i] = random.NextSingle();

        long[] drawn = TokenSampling.Draw(shaped.expand(Draws, -1), tensor(uniforms).unsqueeze(-1)).data<long>().ToArray();

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
        var logits = tensor(new float[,] { { inf, 0, inf, 0, inf }, { inf, inf, 3, inf, inf }, { 0, inf, inf, inf, -200 } });
        float largest = ((1 << 23) - 1) * (1f / (1 << 23));

        foreach (float u in (float[])[0, 1e-7f, 0.25f, 0.49999997f, 0.5f, 0.75f, largest])
        {
            long[] drawn = TokenSampling.Draw(logits, full([3, 1], u)).data<long>().ToArray();
            Assert.Equal([u < 0.5f ? 1 : 3, 2, 0], drawn);
        }
    }

    [Fact]
    public void The_callers_logits_stay_in_the_callers_scope()
    {
        using var outer = NewDisposeScope();
        using (NewDisposeScope())
            TokenSampling.Shape(ones(2, 5), new SamplingOptions());
        using (NewDisposeScope())
            TokenSampling.Constrain(ones(1, 5), [(int[])[1]], 0, 4, new SamplingOptions { MinNewTokens = 1 });

        Assert.Equal(0, outer.DisposablesCount);
    }
}
