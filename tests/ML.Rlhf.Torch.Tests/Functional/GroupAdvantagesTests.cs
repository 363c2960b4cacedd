using ML.Rlhf.Torch.Functional;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Functional;

public class GroupAdvantagesTests
{
    /// <summary>The reference was computed in float32.</summary>
    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.Float64)]
    public void Advantages_equal_the_reference(ScalarType type)
    {
        var golden = Golden.Load("rl/group_advantages.json");
        var scores = golden["rewards"].Tensor(type);
        int size = golden["num_generations"].Integer;
        Assert.Equal(5, golden["cases"].Items.Count());

        foreach (var c in golden["cases"].Items)
        {
            var advantages = c["method"].Text == "rloo"
                ? GroupAdvantages.LeaveOneOut(scores, size, c["normalize_advantages"].Boolean)
                : GroupAdvantages.Standardized(scores, size, Enum.Parse<AdvantageScaling>(c["scale_rewards"].Text, ignoreCase: true));

            Close.Assert(c["advantages"].Tensor(type), advantages, relative: 1e-5, absolute: 1e-7, what: c["method"].Text);
        }
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.Float64)]
    public void The_advantages_of_a_group_sum_to_0(ScalarType type)
    {
        var scores = randn(30, dtype: type, generator: new Generator(1, CPU)) * 3 + 1000;

        foreach (var scaling in Enum.GetValues<AdvantageScaling>())
            Close.Assert(
                zeros(6), GroupAdvantages.Standardized(scores, 5, scaling).reshape(6, 5).sum(-1), absolute: 1e-5, what: $"{scaling}");
        Close.Assert(zeros(6), GroupAdvantages.LeaveOneOut(scores, 5).reshape(6, 5).sum(-1), absolute: 1e-5);
    }

    /// <summary>0.1 + 0.1 + 0.1 is not 3 · 0.1 for a computer; divided by a deviation of 1e-4 that would be an advantage.</summary>
    [Theory]
    [InlineData(0.1)]
    [InlineData(-1e6 / 3)]
    public void Equal_scores_have_advantages_of_exactly_0(double score)
    {
        foreach (var type in new[] { ScalarType.Float32, ScalarType.Float64 })
        {
            var scores = full(6, score, dtype: type);

            foreach (var scaling in Enum.GetValues<AdvantageScaling>())
                Close.Assert(zeros(6), GroupAdvantages.Standardized(scores, 3, scaling), what: $"{scaling}");
            Close.Assert(zeros(6), GroupAdvantages.LeaveOneOut(scores, 3));
        }
    }
}
