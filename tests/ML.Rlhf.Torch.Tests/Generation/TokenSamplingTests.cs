using ML.Rlhf.Torch.Generation;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Generation;

public class TokenSamplingTests
{
    private static readonly Golden s_golden = Golden.Load("sampling/processors.json");

    private static readonly string[] s_ours = ["temperature", "top_k", "top_p"];

    public static TheoryData<int> Cases => [.. Enumerable.Range(0, s_golden["cases"].Items.Count()).Where(IsOurs)];

    [Theory]
    [MemberData(nameof(Cases))]
    public void Shaped_logits_equal_the_reference(int index)
    {
        var c = s_golden["cases"][index];
        var shaped = TokenSampling.Shape(s_golden["logits"].Tensor(), Options(c["params"]));

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
            Close.Assert(c["probs"].Tensor()[0], shaped[0].softmax(-1), relative: 1e-5);
    }

    [Fact]
    public void The_golden_file_has_cases_of_each_kind_that_we_offer() =>
        Assert.Equal(["pipeline", "temperature", "top_k", "top_p"],
            Cases.Select(c => s_golden["cases"][c.Data]["processor"].Text).Distinct().Order());

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

        Assert.Equal(0, outer.DisposablesCount);
    }

    private static bool IsOurs(int index)
    {
        var c = s_golden["cases"][index];
        if (c["params"].Has("min_tokens_to_keep"))
            return false;
        return c["processor"].Text == "pipeline"
            ? c["order"].Items.All(p => p.Text is "TemperatureLogitsWarper" or "TopKLogitsWarper" or "TopPLogitsWarper")
            : s_ours.Contains(c["processor"].Text);
    }

    private static SamplingOptions Options(Golden p) => new()
    {
        Temperature = p.Has("temperature") ? (float)p["temperature"].Number : 1,
        TopK = p.Has("top_k") ? p["top_k"].Integer : 0,
        TopP = p.Has("top_p") ? (float)p["top_p"].Number : 1,
    };
}
