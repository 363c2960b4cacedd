using ML.Rlhf.Benchmarks.Measuring;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Benchmarks.Works;

/// <summary>
/// Updates of PPO with a policy, a reference, a reward model and a value function of the same size, against TRL's. A response has 32
/// tokens, whatever is drawn.
/// </summary>
internal sealed record PpoWork(string Name, GptArchitecture Model, PeerRun TrlPeer) : Work(Name, Model)
{
    private const int Episodes = 32, Prompt = 16, Response = 32, Epochs = 4;

    public override PeerRun Peer => TrlPeer;

    public override Measurement RunOurs()
    {
        using var policy = RandomData.Model(Model);
        using var reference = policy.Clone();
        using var reward = RandomData.ScalarModel(Model);
        using var value = reward.Clone();
        reward.eval();
        var options = new Options
        {
            Episodes = (Warmup + Steps) * Episodes, EpisodesPerUpdate = Episodes, EpochsPerUpdate = Epochs, MinibatchesPerEpoch = 1,
            MaxResponseTokens = Response, MinResponseTokens = Response, UnfinishedScore = null, LearningRate = 1e-5,
        };
        var clock = new StepClock(Warmup);
        new PpoTraining(policy, value, reference, Score, EndToken, options, RandomData.Run(clock.Report))
            .Run(RandomData.Sequences(4 * Episodes, Prompt, Model.VocabularySize));
        return clock.Measure("episodes", Episodes);

        // As a reward model of this pack scores what a policy with its tokenizer sampled.
        double[] Score(IReadOnlyList<Episode> episodes)
        {
            var sequences = new TokenSequences();
            foreach (var episode in episodes)
                sequences.Add([.. episode.Prompt, .. episode.Response]);
            return RewardScoring.Score(reward, sequences, options.Precision);
        }
    }

    /// <summary>
    /// Per episode: the rollout; policy, reference, value and reward of what was sampled; and four times the policy and the value, learning.
    /// </summary>
    public override double LimitSeconds(MachineLimit limit)
    {
        double scalar = Model.Trunk(Prompt + Response), policy = scalar + Model.Head(Response);
        return limit.Seconds(3 * policy + 2 * scalar + Epochs * Operations.Learning * (policy + scalar), bytes: 0);
    }

    private sealed record Options : PpoHyperparameters;
}
