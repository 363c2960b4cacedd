namespace ML.Rlhf;

/// <summary>How well a language model predicts text.</summary>
/// <param name="Loss">Mean −ln p of the tokens, in nats; 0 is perfect, ln V is guessing among V tokens.</param>
/// <param name="TokenCount">Tokens predicted. Losses compare only between models with the same tokenizer.</param>
/// <param name="BitsPerCharacter">Loss per character of the predicted text, in bits. It compares models with different tokenizers.</param>
public sealed record LanguageModelMetrics(double Loss, long TokenCount, double BitsPerCharacter)
{
    /// <summary>e^Loss: among how many equally likely tokens the model chooses, on average.</summary>
    public double Perplexity => Math.Exp(Loss);
}
