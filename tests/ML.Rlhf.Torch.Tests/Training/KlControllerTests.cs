using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Torch.Tests.Training;

public class KlControllerTests
{
    [Fact]
    public void The_coefficients_of_a_run_equal_the_reference()
    {
        foreach (var run in Golden.Load("rl/kl.json")["adaptive_controller"]["runs"].Items)
        {
            var controller = new KlController(run["init"].Number, run["target"].Number, run["horizon"].Number);
            Assert.Equal(run["init"].Number, controller.Coefficient);

            foreach (var (kl, expected) in run["kls"].Numbers.Zip(run["values"].Numbers))
            {
                controller.Update(kl, run["n_steps"].Integer);
                Close.Assert(expected, controller.Coefficient, relative: 1e-7);
            }
        }
    }

    [Theory]
    [InlineData(100, 1.1)]
    [InlineData(6.6, 1.05)]
    [InlineData(6, 1)]
    [InlineData(0, 0.9)]
    [InlineData(-3, 0.9)]
    public void A_divergence_above_the_target_raises_the_coefficient_and_one_below_lowers_it(double kl, double factor)
    {
        var controller = new KlController(0.2, target: 6, horizon: 1000);

        controller.Update(kl, episodes: 500);

        Close.Assert(0.2 * factor, controller.Coefficient, relative: 1e-12);
    }

    [Fact]
    public void Without_a_target_the_coefficient_is_fixed()
    {
        var controller = new KlController(0.05, target: null, horizon: 100);

        controller.Update(kl: 1e6, episodes: 64);

        Assert.Equal(0.05, controller.Coefficient);
    }

    /// <summary>Ten updates of 1 % of the run as horizon: n is 10 horizons, and 1 − 0.2 · 10 would be −1.</summary>
    [Fact]
    public void In_a_run_shorter_than_its_horizon_allows_the_coefficient_stays_above_0()
    {
        var controller = new KlController(0.05, target: 6, horizon: 6.4);

        for (int update = 0; update < 10; update++)
            controller.Update(kl: 0, episodes: 64);

        Close.Assert(0.05 * Math.Pow(0.8, 10), controller.Coefficient, relative: 1e-12);
    }
}
