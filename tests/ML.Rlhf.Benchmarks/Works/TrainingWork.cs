using ML.Rlhf.Benchmarks.Measuring;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf.Benchmarks.Works;

/// <summary>Pretraining, as <c>Trainers.Gpt</c> does it, against plain PyTorch.</summary>
/// <param name="Batch">Windows of the model's context per step.</param>
internal sealed record TrainingWork(string Name, GptArchitecture Model, int Batch) : Work(Name, Model)
{
    private const int Documents = 64;

    /// <summary>Whether blocks are computed again in the backward pass.</summary>
    public bool Checkpoints { get; init; }

    private int TokensPerStep => Batch * Model.ContextLength;

    public override Measurement RunOurs()
    {
        var corpus = RandomData.Sequences(Documents, 2 * Model.ContextLength, Model.VocabularySize);
        using var model = RandomData.Model(Model);
        var clock = new StepClock(Warmup);
        LanguageModelTraining.Run(
            model, corpus, validation: null,
            new Options { Steps = Warmup + Steps, BatchSize = Batch, ActivationCheckpointing = Checkpoints }, RandomData.Run(clock.Report));
        return clock.Measure("tokens", TokensPerStep);
    }

    public override PeerRun Peer => new(
        "train_gpt.py",
        [.. PeerModel, "--context", $"{Model.ContextLength}", "--batch", $"{Batch}", "--warmup", $"{Warmup}", "--steps", $"{Steps}"]);

    public override double LimitSeconds(MachineLimit limit) => limit.Seconds(
        Operations.Learning * (Model.Trunk(Model.ContextLength) + Model.Head(Model.ContextLength)) / Model.ContextLength, bytes: 0);

    private sealed record Options : GptHyperparameters;
}
