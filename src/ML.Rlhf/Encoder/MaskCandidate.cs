namespace ML.Rlhf;

/// <summary>What may stand in the place of a hidden token.</summary>
/// <param name="Token">The text of the token, with the space before it where it has one.</param>
/// <param name="Probability">How likely the model finds it, among all tokens; in [0, 1].</param>
/// <param name="Text">The whole text with it, as the tokenizer writes it.</param>
public sealed record MaskCandidate(string Token, float Probability, string Text);
