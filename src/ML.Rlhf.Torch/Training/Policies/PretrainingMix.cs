using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// Text whose next tokens the policy goes on predicting while it learns from rewards (PPO-ptx: Ouyang et al. 2022, eq. 2), so that it does
/// not forget how to.
/// </summary>
/// <param name="corpus">At least two tokens.</param>
/// <param name="options">Coefficient, windows per step, micro-batches.</param>
/// <param name="run">Device and randomness.</param>
internal sealed class PretrainingMix(TokenSequences corpus, PpoHyperparameters options, TrainingRun run) : IResumable
{
    private RandomStream _random = new(run.Seed, key: ulong.MaxValue); // far from the keys of the episodes
    private double _loss, _textNorms, _otherNorms;
    private int _steps;

    /// <summary>Mean loss per token of the steps since the last reset, in nats, before its coefficient.</summary>
    public double Loss => _loss / Math.Max(1, _steps);

    /// <summary>Mean norm of the gradient over the mean norm of the one that it was added to.</summary>
    public double GradientRatio => _otherNorms == 0 ? 0 : _textNorms / _otherNorms;

    public void Visit(StateVisitor state) => state.Value("stream", ref _random);

    /// <summary>Begins an update.</summary>
    public void Reset() => (_loss, _textNorms, _otherNorms, _steps) = (0, 0, 0, 0);

    /// <summary>Adds the gradient of coefficient · mean loss over random windows of the text to the one that is there.</summary>
    /// <param name="policy">The policy.</param>
    /// <param name="gradients">The flat buffer that the policy's gradients are views into.</param>
    public void AccumulateGradients(CausalLanguageModel policy, Tensor gradients)
    {
        using var scope = NewDisposeScope();
        var before = gradients.clone();

        int window = (int)Math.Min(policy.Architecture.ContextLength, corpus.TokenCount - 1);
        int[] starts = new int[options.PretrainingBatchSize];
        for (int i = 0; i < starts.Length; i++)
            starts[i] = _random.NextInt32((int)(corpus.TokenCount - window));
        foreach (int[] part in starts.Chunk(options.MicroBatchSize ?? starts.Length))
        {
            using var partScope = NewDisposeScope();
            var (ids, labels) = LanguageModelTraining.Windows(corpus, part, window, run.Device);
            var mean = NextTokenLoss.Sum(policy, ids, positions: null, labels) / ((double)starts.Length * window);
            (options.PretrainingCoefficient * mean).backward();
            _loss += mean.ToDouble();
        }

        using var noGrad = no_grad();
        _textNorms += (gradients - before).norm().ToDouble();
        _otherNorms += before.norm().ToDouble();
        _steps++;
    }
}
