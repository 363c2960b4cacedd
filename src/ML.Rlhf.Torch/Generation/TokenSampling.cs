namespace ML.Rlhf.Torch.Generation;

/// <summary>
/// From the logits of a row to its next token, in C#, in buffers that are used again for each row. A row is computed by one thread and from
/// its own numbers alone, so that neither its companions nor the number of threads change a bit.
/// </summary>
/// <param name="options">How to draw.</param>
/// <param name="stop">The tokens that end a completion.</param>
internal sealed class TokenSampling(SamplingOptions options, StopTokens stop)
{
    // The distribution that the last row left: its tokens in the order of their ids, their logits and exp(logit − the largest one).
    private int[] _tokens = [];
    private float[] _logits = [], _weights = [];
    private int _count;
    private int _misplaced; // the first so many places may hold other tokens than their own
    private float _largest;
    private double _total; // of the weights

    private float[] _typicality = [];
    private readonly Ranking _ranking = new();

    /// <summary>The tokens that the last row may draw, in ascending order, if it drew by chance. Some may have a logit of −∞.</summary>
    public ReadOnlySpan<int> Tokens => _tokens.AsSpan(0, _count);

    /// <summary>The logits of <see cref="Tokens"/>: softmax makes their probabilities of them.</summary>
    public ReadOnlySpan<float> Logits => _logits.AsSpan(0, _count);

    /// <summary>Draws a row's next token.</summary>
    /// <param name="logits">(V).</param>
    /// <param name="text">The row's tokens so far, the prompt's included.</param>
    /// <param name="newTokens">How many of them came after the prompt.</param>
    /// <param name="uniform">The row's random number in [0, 1); temperature 0 needs none.</param>
    /// <returns>
    /// The token and its log-probability under the distribution that it was drawn from; at temperature 0, under the model's. Where the
    /// logits are not numbers, token 0 with NaN.
    /// </returns>
    public (int Token, float LogProbability) Draw(ReadOnlySpan<float> logits, ReadOnlySpan<int> text, int newTokens, float uniform)
    {
        Shape(logits, text, newTokens);
        int place = options.Temperature == 0 ? Math.Max(0, Logits.IndexOf(_largest)) : Place(uniform * _total);
        return (_tokens[place], (float)(_logits[place] - _largest - Math.Log(_total)));
    }

    /// <summary>
    /// Makes the distribution that a row draws from. First what the tokens so far change: repetition penalty, repeated n-grams, an end that
    /// would come too early. Then it divides by the temperature and leaves out what top-k, top-p, min-p, typical-p and epsilon cutoff do,
    /// in that order, each of what the ones before it left. Temperature 0 leaves all of this second part out.
    /// </summary>
    /// <inheritdoc cref="Draw"/>
    public void Shape(ReadOnlySpan<float> logits, ReadOnlySpan<int> text, int newTokens)
    {
        Begin(logits);
        if (options.ConstrainsTokens)
            Constrain(logits, text, newTokens);
        if (options.Temperature is not 0 and not 1)
            FloatSpans.Divide(_logits.AsSpan(0, _count), options.Temperature);
        _largest = FloatSpans.Max(Logits);
        FloatSpans.Exponentiate(Logits, _largest, _weights);
        _total = FloatSpans.Sum(Weights);
        if (options.Temperature == 0)
            return;
        if (options.TopK > 0 && options.TopK < _count)
            Keep(_logits, _ranking.Reach(Logits, default, options.TopK).Last);
        if (options.TopP < 1)
            KeepTopP(options.TopP);
        if (options.MinP > 0)
            Keep(_logits, _largest + MathF.Log(options.MinP));
        if (options.TypicalP < 1)
            KeepTypical(options.TypicalP);
        if (options.EpsilonCutoff > 0)
            Keep(_weights, MathF.Min(FloatSpans.Max(Weights), (float)(options.EpsilonCutoff * _total))); // never without the likeliest
    }

    private ReadOnlySpan<float> Weights => _weights.AsSpan(0, _count);

    /// <summary>Takes all tokens in, with the logits as they are.</summary>
    private void Begin(ReadOnlySpan<float> logits)
    {
        _count = logits.Length;
        if (_tokens.Length != _count)
        {
            (_tokens, _misplaced) = (new int[_count], _count);
            (_logits, _weights, _typicality) = (new float[_count], new float[_count], new float[_count]);
        }
        for (int i = 0; i < _misplaced; i++)
            _tokens[i] = i;
        _misplaced = 0;
        logits.CopyTo(_logits);
    }

    /// <summary>What the tokens so far change about the next one. Removed tokens are −∞; one is always left.</summary>
    private void Constrain(ReadOnlySpan<float> logits, ReadOnlySpan<int> text, int newTokens)
    {
        Allow(logits, text, newTokens);
        if (options.NoRepeatNgramSize == 0)
            return;
        // Every earlier end of an n-gram whose beginning the text ends with.
        int size = options.NoRepeatNgramSize;
        for (int end = size - 1; end < text.Length; end++)
        {
            if (text[(end - size + 1)..end].SequenceEqual(text[^(size - 1)..]))
                _logits[text[end]] = float.NegativeInfinity;
        }
        if (FloatSpans.Max(Logits) == float.NegativeInfinity) // every token would repeat itself: repetition is allowed
            Allow(logits, text, newTokens);
    }

    /// <summary>Penalises repetition, once for each token however often it occurs, and forbids an early end.</summary>
    private void Allow(ReadOnlySpan<float> logits, ReadOnlySpan<int> text, int newTokens)
    {
        logits.CopyTo(_logits);
        float penalty = options.RepetitionPenalty;
        if (penalty != 1)
        {
            foreach (int token in text)
                _logits[token] = logits[token] < 0 ? logits[token] * penalty : logits[token] / penalty;
        }
        if (newTokens < options.MinNewTokens)
        {
            foreach (int token in stop.Ids)
                _logits[token] = float.NegativeInfinity;
        }
    }

    /// <summary>
    /// Removes the tail of the sorted distribution whose probabilities sum to at most 1 − p. The likeliest token always stays.
    /// </summary>
    private void KeepTopP(float p)
    {
        double target = p * _total;
        // Tokens below the mean of such a tail lie in it: most tokens of a large vocabulary need not be sorted.
        Keep(_weights, MathF.Min(FloatSpans.Max(Weights), (float)((1 - (double)p) * 0.999 * _total / _count)));
        var (last, ties) = _ranking.Reach(Logits, Weights, target);
        Keep(_logits, last, ties);
    }

    /// <summary>
    /// Orders tokens by |−ln p − entropy| and keeps the first whose probabilities reach the mass; ties with the last of them stay.
    /// </summary>
    private void KeepTypical(float mass)
    {
        double logTotal = Math.Log(_total), entropy = 0; // −Σ p·ln p, with ln p = (logit − largest) − ln total
        for (int i = 0; i < _count; i++)
        {
            if (_weights[i] > 0)
                entropy += _weights[i] / _total * (logTotal - (_logits[i] - _largest));
        }
        for (int i = 0; i < _count; i++)
            _typicality[i] = -(float)Math.Abs(_logits[i] - _largest - logTotal + entropy);
        Keep(_typicality, _ranking.Reach(_typicality.AsSpan(0, _count), Weights, mass * _total).Last);
    }

    /// <summary>Keeps the tokens whose key is not below a threshold.</summary>
    /// <param name="keys">One number for each token.</param>
    /// <param name="threshold">The lowest key that stays.</param>
    /// <param name="ties">Of the tokens that have this very key, so many stay: those with the lowest ids.</param>
    private void Keep(float[] keys, float threshold, int ties = int.MaxValue)
    {
        int kept = 0;
        for (int i = FloatSpans.SkipBelow(threshold, keys, 0, _count); i < _count; i = FloatSpans.SkipBelow(threshold, keys, i + 1, _count))
        {
            if (keys[i] == threshold && ties-- <= 0)
                continue;
            (_tokens[kept], _logits[kept], _weights[kept]) = (_tokens[i], _logits[i], _weights[i]);
            kept++;
        }
        (_count, _misplaced) = (kept, Math.Max(kept, _misplaced));
        _total = FloatSpans.Sum(Weights);
    }

    /// <summary>The place of the token at which the cumulative weights pass a threshold: one draw by inversion.</summary>
    private int Place(double threshold)
    {
        double sum = 0;
        for (int start = 0; start < _count; start += FloatSpans.Block)
        {
            var block = Weights[start..Math.Min(start + FloatSpans.Block, _count)];
            double next = sum + FloatSpans.SumOfBlock(block);
            if (next > threshold)
                return start + PlaceInBlock(block, threshold - sum);
            sum = next;
        }
        return 0; // not numbers
    }

    /// <summary>The sum of a block is rounded: it may pass the threshold when its numbers, one by one, do not. Then it is the last.</summary>
    private static int PlaceInBlock(ReadOnlySpan<float> weights, double threshold)
    {
        double sum = 0;
        int last = 0;
        for (int i = 0; i < weights.Length; i++)
        {
            if (weights[i] <= 0)
                continue;
            last = i;
            sum += weights[i];
            if (sum > threshold)
                break;
        }
        return last;
    }
}
