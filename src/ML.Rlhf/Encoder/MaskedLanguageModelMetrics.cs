namespace ML.Rlhf;

/// <summary>How well an encoder guesses hidden tokens.</summary>
/// <param name="Loss">Mean −ln p of the hidden tokens, in nats; 0 is perfect, ln V is guessing among V tokens.</param>
/// <param name="Accuracy">The part of them that were the model's first guess; in [0, 1].</param>
/// <param name="TokenCount">Tokens that were hidden. Losses compare only between models with the same tokenizer.</param>
public sealed record MaskedLanguageModelMetrics(double Loss, double Accuracy, long TokenCount)
{
    /// <summary>e^Loss: among how many equally likely tokens the model chooses, on average.</summary>
    public double Perplexity => Math.Exp(Loss);
}
