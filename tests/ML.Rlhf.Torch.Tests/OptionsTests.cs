namespace ML.Rlhf.Torch.Tests;

public class OptionsTests
{
    [Fact]
    public void Defaults_are_valid()
    {
        OptimizationOptions[] all =
        [
            new PretrainingOptions(), new SftOptions(), new RewardOptions(), new PolicyOptions(), new GrpoTestOptions(),
            new RlooTestOptions(),
            new PairOptions(), new FeedbackOptions(), new OddsRatioOptions(), new SequenceOptions(),
        ];
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
    public void Alarms_that_cannot_be_are_reported_with_the_others()
    {
        var wrong = new PolicyOptions
        {
            ClipRange = -1,
            Alarms = new AlarmOptions
            {
                Policy = (AlarmPolicy)9,
                Policies = new Dictionary<AlarmKind, AlarmPolicy>
                {
                    [(AlarmKind)77] = AlarmPolicy.Log,
                    [AlarmKind.HighKl] = (AlarmPolicy)8,
                },
                MaxKl = 0, MinEntropy = -1, MaxLengthZScore = double.NaN, MaxEndRateFall = 2, MaxClipFraction = 0, MaxRatioMean = 1,
            },
        };

        Assert.Equal(
            "PolicyOptions: ClipRange is -1, but must be above 0; Alarms.Policy is 9, but must be Ignore, Log, Stop or RollBack; " +
            "A key of Alarms.Policies is 77, but must be an AlarmKind; " +
            "Alarms.Policies[HighKl] is 8, but must be Ignore, Log, Stop or RollBack; Alarms.MaxKl is 0, but must be above 0; " +
            "Alarms.MinEntropy is -1, but must be at least 0; Alarms.MaxLengthZScore is NaN, but must be above 0; " +
            "Alarms.MaxEndRateFall is 2, but must be in [0, 1]; Alarms.MaxClipFraction is 0, but must be above 0; " +
            "Alarms.MaxRatioMean is 1, but must be above 1.", Assert.Throws<ArgumentException>(wrong.Validate).Message);
    }

    [Fact]
    public void A_policy_of_its_own_goes_before_the_policy_of_all()
    {
        var alarms = new AlarmOptions
        {
            Policy = AlarmPolicy.RollBack,
            Policies = new Dictionary<AlarmKind, AlarmPolicy> { [AlarmKind.HighKl] = AlarmPolicy.Log },
        };

        Assert.Equal(AlarmPolicy.Log, alarms.PolicyOf(AlarmKind.HighKl));
        Assert.Equal(AlarmPolicy.RollBack, alarms.PolicyOf(AlarmKind.LowEntropy));
        Assert.False(new AlarmOptions().MayGoBack);
        Assert.True(alarms.MayGoBack);
    }

    [Fact]
    public void Sampling_options_report_all_their_problems_at_once()
    {
        var wrong = new SamplingOptions
        {
            MaxNewTokens = 0, Temperature = float.NaN, TopK = -1, TopP = 0, MinP = 1.5f, TypicalP = 0, EpsilonCutoff = 1,
            RepetitionPenalty = 0, NoRepeatNgramSize = -1, MinNewTokens = 1,
        };

        var error = Assert.Throws<ArgumentException>(wrong.Validate);

        Assert.Equal(
            "SamplingOptions: MaxNewTokens is 0, but must be at least 1; Temperature is NaN, but must be 0 (always the likeliest " +
            "token), or finite and at least 0.001; " +
            "TopK is -1, but must be at least 0 (0 draws from all tokens); TopP is 0, but must be above 0 and at most 1; " +
            "MinP is 1.5, but must be in [0, 1] (0 draws from all tokens); TypicalP is 0, but must be above 0 and at most 1; " +
            "EpsilonCutoff is 1, but must be in [0, 1) (0 draws from all tokens); " +
            "RepetitionPenalty is 0, but must be from 0.001 to 1000 (1 changes nothing); " +
            "NoRepeatNgramSize is -1, but must be at least 0 (0 allows all repetition); " +
            "MinNewTokens is 1, but must be at least 0 and at most MaxNewTokens (0).", error.Message);
    }

    [Fact]
    public void Sampling_options_know_which_of_them_change_the_distribution()
    {
        Assert.Empty(new SamplingOptions { Temperature = 0.7f, MaxNewTokens = 3, Seed = 2, TruncatePrompts = true }.Alterations);
        Assert.Equal(
            ["RepetitionPenalty", "NoRepeatNgramSize", "MinNewTokens", "Temperature 0", "TopK", "TopP", "MinP", "TypicalP",
                "EpsilonCutoff"],
            new SamplingOptions
            {
                Temperature = 0, TopK = 1, TopP = 0.9f, MinP = 0.1f, TypicalP = 0.9f, EpsilonCutoff = 0.1f, RepetitionPenalty = 0.9f,
                NoRepeatNgramSize = 1, MinNewTokens = 1,
            }.Alterations);
    }
}
