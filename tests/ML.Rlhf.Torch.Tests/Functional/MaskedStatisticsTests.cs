using ML.Rlhf.Torch.Functional;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Functional;

public class MaskedStatisticsTests
{
    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.Float64, 1e-7)] // the reference's own n / (n − 1) is a float32
    public void Mean_and_variances_equal_the_reference(ScalarType type, double tolerance)
    {
        foreach (var c in Golden.Load("rl/masked_stats.json")["cases"].Items)
        {
            Tensor values = c["values"].Tensor(type), mask = c["mask"].Tensor(type);

            Close.Assert(c["masked_mean"].Number, MaskedStatistics.Mean(values, mask).ToDouble(), tolerance, absolute: tolerance / 10);
            double[] rows = [.. values.unbind().Zip(mask.unbind(), (v, m) => MaskedStatistics.Mean(v, m).ToDouble())];
            Close.Assert(c["masked_mean_per_row"].Tensor(type), tensor(rows), tolerance, absolute: tolerance / 10, "means of the rows");
            Close.Assert(c["masked_var_biased"].Number, MaskedStatistics.Variance(values, mask).ToDouble(), tolerance);
            Close.Assert(c["masked_var_unbiased"].Number, MaskedStatistics.Variance(values, mask, unbiased: true).ToDouble(), tolerance);
        }
    }

    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.Float64, 1e-6)] // the same, and then differences of it
    public void Whitening_equals_both_references_with_and_without_the_mean(ScalarType type, double tolerance)
    {
        foreach (var c in Golden.Load("rl/masked_stats.json")["cases"].Items)
        {
            Tensor values = c["values"].Tensor(type), mask = c["mask"].Tensor(type);
            void Check(string name, bool shiftMean, bool unbiased) => Close.Assert(
                c[name].Tensor(type), MaskedStatistics.Whiten(values, mask, shiftMean, unbiased), tolerance, absolute: tolerance / 10,
                name);

            Check("masked_whiten_shift", shiftMean: true, unbiased: true);
            Check("masked_whiten_noshift", shiftMean: false, unbiased: true);
            Check("biased_masked_whiten_shift", shiftMean: true, unbiased: false);
            Check("biased_masked_whiten_noshift", shiftMean: false, unbiased: false);
        }
    }

    /// <summary>The check that lm-human-preference-details publishes for its own whitening.</summary>
    [Fact]
    public void Whitening_with_the_mean_kept_passes_the_published_check()
    {
        var values = tensor(new[] { 1.2f, 1.3f, 1.4f, 1.5f, 1.6f, 1.7f, 1.8f, 1.9f, 2.0f });

        var whitened = MaskedStatistics.Whiten(values, ones(9), shiftMean: false);

        Close.Assert(
            tensor(new[] { 0.0508f, 0.4381f, 0.8254f, 1.2127f, 1.6f, 1.9873f, 2.3746f, 2.7619f, 3.1492f }), whitened, absolute: 6e-5);
    }

    [Fact]
    public void Whitened_numbers_have_mean_0_and_variance_1_whatever_stands_on_padding()
    {
        var values = tensor(new float[,] { { 3, 5, -2, 1e6f }, { 8, -1e6f, 1e6f, 1e6f } });
        var mask = tensor(new float[,] { { 1, 1, 1, 0 }, { 1, 0, 0, 0 } });

        var whitened = MaskedStatistics.Whiten(values, mask);

        Close.Assert(0, MaskedStatistics.Mean(whitened, mask).ToDouble(), absolute: 1e-6);
        Close.Assert(1, MaskedStatistics.Variance(whitened, mask).ToDouble(), relative: 1e-6);
    }

    [Fact]
    public void The_unbiased_variance_of_one_token_is_refused_with_the_fix()
    {
        var mask = tensor(new float[] { 0, 1, 0 });

        var error = Assert.Throws<ArgumentException>(() => MaskedStatistics.Variance(ones(3), mask, unbiased: true));

        Assert.Equal(
            "The unbiased variance needs at least 2 real tokens, but the mask has 1. Use unbiased: false, or a larger batch.",
            error.Message);
    }
}
