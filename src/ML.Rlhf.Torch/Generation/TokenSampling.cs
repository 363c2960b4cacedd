using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Generation;

/// <summary>From logits to the next token: pure functions.</summary>
internal static class TokenSampling
{
    /// <summary>
    /// What the tokens so far change about the next one: repetition penalty, repeated n-grams, an end token that would come too early, in
    /// that order. Removed tokens are −∞.
    /// </summary>
    /// <param name="logits">(B, V).</param>
    /// <param name="texts">The tokens of each row so far, the prompt's included; at least one each, or none at all.</param>
    /// <param name="newTokens">How many tokens each row has got since the prompt.</param>
    /// <param name="stop">The tokens that end a completion.</param>
    /// <param name="options">Any.</param>
    /// <returns>(B, V); each row has a token that is not removed.</returns>
    public static Tensor Constrain(
        Tensor logits, IReadOnlyList<ReadOnlyMemory<int>> texts, int newTokens, StopTokens stop, SamplingOptions options)
    {
        using var scope = NewDisposeScope();
        var penalized = options.RepetitionPenalty == 1 ? logits : PenalizeRepetition(logits, texts, options.RepetitionPenalty);

        var removed = zeros([logits.size(-1)], dtype: @bool, device: logits.device);         // (V)
        if (newTokens < options.MinNewTokens)
            removed.index_fill_(0, tensor(Array.ConvertAll(stop.Ids, id => (long)id), device: logits.device), 1);
        if (options.NoRepeatNgramSize > 0)
        {
            var repeats = Repeats(logits, texts, options.NoRepeatNgramSize);                  // (B, V)
            var nothingLeft = (repeats | removed).all(-1, keepdim: true);                     // (B, 1)
            removed = (repeats & ~nothingLeft) | removed;
        }
        return penalized.masked_fill(removed, double.NegativeInfinity).MoveToOuterDisposeScope();
    }

    /// <summary>Divides the logits of tokens that a row has by the penalty where they are above 0, and multiplies them elsewhere.</summary>
    private static Tensor PenalizeRepetition(Tensor logits, IReadOnlyList<ReadOnlyMemory<int>> texts, float penalty)
    {
        int longest = texts.Max(text => text.Length);
        if (longest == 0)
            return logits;
        var ids = new long[texts.Count * longest];
        for (int i = 0; i < ids.Length; i++)
        {
            var text = texts[i / longest].Span;
            ids[i] = text[Math.Min(i % longest, text.Length - 1)]; // short rows repeat their last token, which changes nothing
        }
        var tokens = tensor(ids, [texts.Count, longest], device: logits.device);              // (B, T)
        var present = logits.gather(-1, tokens);
        return logits.scatter(-1, tokens, where(present < 0, present * penalty, present / penalty));
    }

    /// <summary>Which tokens would complete an n-gram that the row has already.</summary>
    /// <returns>bool (B, V).</returns>
    private static Tensor Repeats(Tensor logits, IReadOnlyList<ReadOnlyMemory<int>> texts, int size)
    {
        List<long> entries = [];
        for (int row = 0; row < texts.Count; row++)
        {
            var text = texts[row].Span;
            for (int end = size - 1; end < text.Length; end++)
            {
                if (text[(end - size + 1)..end].SequenceEqual(text[^(size - 1)..]))
                    entries.Add(row * logits.size(-1) + text[end]);
            }
        }
        var flat = zeros([logits.NumberOfElements], dtype: @bool, device: logits.device);     // (B·V)
        return flat.index_fill_(0, tensor(entries, device: logits.device), 1).view_as(logits);
    }

    /// <summary>
    /// Divides by the temperature and removes (sets to −∞) what top-k, top-p, min-p, typical-p and epsilon cutoff leave out, in that
    /// order.
    /// </summary>
    /// <param name="logits">(B, V).</param>
    /// <param name="options">Temperature above 0.</param>
    /// <returns>(B, V).</returns>
    public static Tensor Shape(Tensor logits, SamplingOptions options)
    {
        using var scope = NewDisposeScope();
        var shaped = logits / options.Temperature; // also when it is 1: the caller's own tensor must stay in its scope
        if (options.TopK > 0 && options.TopK < logits.size(-1))
            shaped = KeepTopK(shaped, options.TopK);
        if (options.TopP < 1)
            shaped = KeepTopP(shaped, options.TopP);
        if (options.MinP > 0)
            shaped = KeepMinP(shaped, options.MinP);
        if (options.TypicalP < 1)
            shaped = KeepTypical(shaped, options.TypicalP);
        if (options.EpsilonCutoff > 0)
            shaped = CutOff(shaped, options.EpsilonCutoff);
        return shaped.MoveToOuterDisposeScope();
    }

    /// <summary>Removes logits below the k-th largest; ties with it stay.</summary>
    private static Tensor KeepTopK(Tensor logits, int k)
    {
        var (top, _) = logits.topk(k, -1);
        return logits.masked_fill(logits < top[TensorIndex.Ellipsis, (k - 1)..], double.NegativeInfinity);
    }

    /// <summary>
    /// Removes the tail of the sorted distribution whose probabilities sum to at most 1 − p. The likeliest token always stays.
    /// </summary>
    private static Tensor KeepTopP(Tensor logits, float p)
    {
        var (ascending, order) = logits.sort(-1, descending: false);
        var removed = ascending.softmax(-1).cumsum(-1) <= 1 - p;                              // (B, V), in sorted order
        removed.select(-1, -1).fill_(0);
        return logits.masked_fill(removed.scatter(-1, order, removed), double.NegativeInfinity);
    }

    /// <summary>Removes tokens that have less than this part of the likeliest token's probability.</summary>
    private static Tensor KeepMinP(Tensor logits, float p) =>
        logits.masked_fill(logits < logits.amax([-1], keepdim: true) + MathF.Log(p), double.NegativeInfinity);

    /// <summary>
    /// Orders tokens by |−ln p − entropy| and keeps the first whose probabilities reach the mass; ties with the last of them stay.
    /// </summary>
    private static Tensor KeepTypical(Tensor logits, float mass)
    {
        var logProbs = logits.log_softmax(-1);
        var probabilities = logProbs.exp();
        var entropy = special.entr(probabilities).sum(-1, keepdim: true);                     // (B, 1): entr(0) is 0
        var distances = (logProbs + entropy).abs();                                           // (B, V)
        var (ascending, order) = distances.sort(-1, descending: false);
        var last = (probabilities.gather(-1, order).cumsum(-1) < mass).sum(-1, keepdim: true); // (B, 1): the first that reaches it
        var furthest = ascending.gather(-1, last.clamp_max(logits.size(-1) - 1));
        return logits.masked_fill(distances > furthest, double.NegativeInfinity);
    }

    /// <summary>Removes tokens that are less likely than epsilon, but never the likeliest.</summary>
    private static Tensor CutOff(Tensor logits, float epsilon)
    {
        var unlikely = logits.softmax(-1) < epsilon;
        return logits.masked_fill(unlikely & logits < logits.amax([-1], keepdim: true), double.NegativeInfinity);
    }

    /// <summary>The token at which the cumulative distribution passes u: one draw per row by inversion.</summary>
    /// <param name="shaped">Logits from <see cref="Shape"/> (B, V).</param>
    /// <param name="uniforms">One number in [0, 1) per row (B, 1).</param>
    /// <returns>int64 (B).</returns>
    public static Tensor Draw(Tensor shaped, Tensor uniforms)
    {
        using var scope = NewDisposeScope();
        var cumulative = shaped.softmax(-1).cumsum(-1);                                       // (B, V)
        var threshold = uniforms * cumulative.narrow(-1, -1, 1);                              // (B, 1): the sum is 1 but for rounding
        return (cumulative <= threshold).sum(-1).MoveToOuterDisposeScope();
    }
}
