using ML.Rlhf.Benchmarks.Measuring;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Benchmarks.Works;

/// <summary>Supervised fine-tuning on rows that fill the context, all of whose tokens are learned, against TRL's.</summary>
/// <param name="Batch">Rows per step.</param>
internal sealed record SftWork(string Name, GptArchitecture Model, int Batch, PeerRun TrlPeer) : Work(Name, Model)
{
    public override PeerRun Peer => TrlPeer;

    public override Measurement RunOurs()
    {
        int rows = (Warmup + Steps) * Batch;
        var data = new CompletionData(
            RandomData.Sequences(rows, Model.ContextLength, Model.VocabularySize), [.. Enumerable.Repeat(1, rows)]);
        using var model = RandomData.Model(Model);
        var clock = new StepClock(Warmup);
        SupervisedFineTuning.Run(
            model, data, validation: null,
            new Options { Epochs = 1, BatchSize = Batch, LearnPrompts = true }, RandomData.Run(clock.Report));
        return clock.Measure("tokens", Batch * Model.ContextLength);
    }

    public override double LimitSeconds(MachineLimit limit) => limit.Seconds(
        Operations.Learning * (Model.Trunk(Model.ContextLength) + Model.Head(Model.ContextLength)) / Model.ContextLength, bytes: 0);

    private sealed record Options : SupervisedFineTuningHyperparameters;
}

/// <summary>Reward-model training on pairs of answers that fill the context, against TRL's.</summary>
/// <param name="Pairs">Pairs per step.</param>
internal sealed record RewardWork(string Name, GptArchitecture Model, int Pairs, PeerRun TrlPeer) : Work(Name, Model)
{
    public override PeerRun Peer => TrlPeer;

    public override Measurement RunOurs()
    {
        int pairs = (Warmup + Steps) * Pairs;
        var answers = new CompletionData(
            RandomData.Sequences(2 * pairs, Model.ContextLength, Model.VocabularySize), [.. Enumerable.Repeat(1, 2 * pairs)]);
        var rankings = new RankingData(
            answers, Starts: [.. Enumerable.Range(0, pairs + 1).Select(pair => 2 * pair)],
            Ranks: [.. Enumerable.Range(0, 2 * pairs).Select(answer => (double)(answer % 2))],
            Weights: [.. Enumerable.Repeat(1f, pairs)], Margins: new float[pairs]);
        using var model = RandomData.ScalarModel(Model);
        var clock = new StepClock(Warmup);
        RewardModelTraining.Run(
            model, rankings, validation: null, normalizationTexts: null,
            new Options { Epochs = 1, BatchSize = Pairs, Normalization = ScoreNormalization.None },
            RandomData.Run(clock.Report));
        return clock.Measure("tokens", 2 * Pairs * Model.ContextLength);
    }

    public override double LimitSeconds(MachineLimit limit) => limit.Seconds(
        Operations.Learning * Model.Trunk(Model.ContextLength) / Model.ContextLength, bytes: 0);

    private sealed record Options : RewardModelHyperparameters;
}
