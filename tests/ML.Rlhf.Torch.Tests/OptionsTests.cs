namespace ML.Rlhf.Torch.Tests;

public class OptionsTests
{
    [Fact]
    public void Defaults_are_valid()
    {
        OptimizationOptions[] all = [new PretrainingOptions(), new SftOptions(), new RewardOptions(), new PolicyOptions()];
        foreach (var options in all)
            options.Validate();
        new SamplingOptions().Validate();
    }

    [Fact]
    public void All_problems_are_reported_at_once_with_the_value_and_what_is_allowed()
    {
        var wrong = new PolicyOptions
        {
            LearningRate = double.NaN, Beta2 = 1, MinibatchesPerEpoch = 65, UnfinishedScore = double.NaN, ClipRange = 0,
        };

        var error = Assert.Throws<ArgumentException>(wrong.Validate);

        Assert.Equal(
            "PolicyOptions: LearningRate is NaN, but must be a finite number above 0; Beta2 is 1, but must be in [0, 1); " +
            "MinibatchesPerEpoch is 65, but must be at least 1 and at most EpisodesPerUpdate (64); " +
            "UnfinishedScore is NaN, but must be finite or null; " +
            "ClipRange is 0, but must be above 0.", error.Message);
    }

    [Fact]
    public void Sampling_options_report_all_their_problems_at_once()
    {
        var wrong = new SamplingOptions { MaxNewTokens = 0, Temperature = float.NaN, TopK = -1, TopP = 0 };

        var error = Assert.Throws<ArgumentException>(wrong.Validate);

        Assert.Equal(
            "SamplingOptions: MaxNewTokens is 0, but must be at least 1; Temperature is NaN, but must be 0 (always the likeliest " +
            "token), or finite and at least 0.001; " +
            "TopK is -1, but must be at least 0 (0 draws from all tokens); TopP is 0, but must be above 0 and at most 1.", error.Message);
    }
}
