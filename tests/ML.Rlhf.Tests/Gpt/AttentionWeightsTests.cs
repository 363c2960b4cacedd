using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Gpt;

public class AttentionWeightsTests
{
    private static readonly AttentionWeights s_weights = Tiny.Model.GetAttentionWeights("a cat.");

    [Fact]
    public void Each_token_looks_at_itself_and_back_with_weights_that_add_up_to_one()
    {
        Assert.Equal(["a", " ", "c", "a", "t", "."], s_weights.Tokens);
        Assert.Equal((Tiny.Architecture.Layers, Tiny.Architecture.Heads), (s_weights.Layers, s_weights.Heads));
        for (int head = 0; head < s_weights.Heads; head++)
        {
            float[,] square = s_weights.Head(layer: 0, head);
            for (int from = 0; from < 6; from++)
            {
                Assert.Equal(1, Enumerable.Range(0, 6).Sum(to => square[from, to]), 1e-5);
                Assert.All(Enumerable.Range(0, 6), to => Assert.Equal(to <= from, s_weights[0, head, from, to] > 0));
                Assert.All(Enumerable.Range(0, 6), to => Assert.Equal(square[from, to], s_weights[0, head, from, to]));
            }
        }
    }

    [Fact]
    public void What_comes_later_changes_no_weight_of_an_earlier_token()
    {
        var longer = Tiny.Model.GetAttentionWeights("a cat. the dog");

        for (int from = 0; from < 6; from++)
            Assert.All(Enumerable.Range(0, 6), to => Assert.Equal(s_weights[0, 1, from, to], longer[0, 1, from, to], 1e-6));
    }

    [Fact]
    public void A_layer_that_is_not_there_is_an_error_with_the_range() => Assert.StartsWith(
        "It must be from 0 to 0.", Assert.Throws<ArgumentOutOfRangeException>(() => s_weights[1, 0, 0, 0]).Message,
        StringComparison.Ordinal);

    [Fact]
    public void A_text_that_does_not_fit_is_an_error_even_where_prompts_may_be_cut()
    {
        using var model = Tiny.Model.WithSampling(new SamplingOptions { TruncatePrompts = true });

        Assert.Contains("has 40 tokens", Assert.Throws<ArgumentException>(() => model.GetAttentionWeights(new string('a', 40))).Message);
    }

    [Fact]
    public void No_tensor_is_left()
    {
        LiveTensors.AssertNoneLeftBy(() => Tiny.Model.GetAttentionWeights("the mat is red."));
    }
}
