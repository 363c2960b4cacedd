using ML.Rlhf.Torch.Functional;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Modules;

/// <summary>What a model says of the tokens that follow some states, N of them.</summary>
/// <param name="LogProbs">log p of each token, (N).</param>
/// <param name="Logits">All logits, divided by the temperature, (N, V); null where kernels never had them all.</param>
/// <param name="KnownEntropies">What kernels measured on the way, (N); null otherwise.</param>
internal sealed record TokenPredictions(Tensor LogProbs, Tensor? Logits, Tensor? KnownEntropies) : IDisposable
{
    /// <summary>Entropy of p for each state, in nats (N).</summary>
    public Tensor Entropies() => KnownEntropies?.alias() ?? LogProbabilities.Entropy(Logits!);

    public TokenPredictions MoveToOuterDisposeScope() =>
        new(LogProbs.MoveToOuterDisposeScope(), Logits?.MoveToOuterDisposeScope(), KnownEntropies?.MoveToOuterDisposeScope());

    public void Dispose()
    {
        LogProbs.Dispose();
        Logits?.Dispose();
        KnownEntropies?.Dispose();
    }
}
