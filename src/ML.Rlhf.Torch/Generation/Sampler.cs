using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Generation;

/// <summary>What a model added to one prompt.</summary>
/// <param name="Tokens">The new tokens, the end token included where one was drawn.</param>
/// <param name="LogProbabilities">log π of each token under the distribution that it was drawn from; empty unless asked for.</param>
/// <param name="Ended">True when the last token is the end token, false when the length or the context ran out.</param>
internal sealed record SampledTokens(int[] Tokens, float[] LogProbabilities, bool Ended);

/// <summary>
/// Draws completions for a batch of prompts of any lengths. Prompts are padded on the left, so that all rows grow on the right together;
/// positions are counted without padding, and keys and values are kept, so that each new token costs one position.
/// </summary>
internal static class Sampler
{
    /// <param name="model">In evaluation mode.</param>
    /// <param name="prompts">At least one token each, and at least one less than the context.</param>
    /// <param name="streams">The source of randomness of each prompt.</param>
    /// <param name="endToken">The token after which a completion is over.</param>
    /// <param name="options">Validated sampling options.</param>
    /// <param name="minimumTokens">An end token before this place (from 1) does not end its completion.</param>
    /// <param name="withLogProbabilities">Whether to record log π of each drawn token.</param>
    /// <param name="onToken">Called with (prompt index, token) as soon as a token is drawn, the end token included.</param>
    /// <param name="checkCanceled">Called before each token; throws to stop.</param>
    public static SampledTokens[] Generate(
        CausalLanguageModel model, IReadOnlyList<int[]> prompts, RandomStream[] streams, int endToken, SamplingOptions options,
        int minimumTokens = 0, bool withLogProbabilities = false, Action<int, int>? onToken = null, Action? checkCanceled = null)
    {
        using var noGrad = inference_mode();
        using var scope = NewDisposeScope();
        int longest = prompts.Max(p => p.Length), context = model.Architecture.ContextLength;
        int capacity = longest + Math.Min(options.MaxNewTokens, context - prompts.Min(p => p.Length));
        using var cache = model.CreateCache(prompts.Count, capacity);
        var rows = prompts.Select((p, i) => new Row(i, p, Math.Min(options.MaxNewTokens, context - p.Length))).ToArray();
        var results = new SampledTokens[prompts.Count];

        var (ids, positions, mask, keyMask) = LeftPad(prompts, longest, capacity, model.Device);
        while (true)
        {
            checkCanceled?.Invoke();
            using var step = NewDisposeScope();

            // 1. Score the next token of every row.
            var hidden = model.Hidden(ids, positions, mask, cache);                           // (B, T, C)
            var logits = model.Logits(hidden[TensorIndex.Colon, -1]);                         // (B, V)

            // 2. Draw it.
            if (options.ConstrainsTokens)
                logits = TokenSampling.Constrain(logits, Array.ConvertAll(rows, r => r.Text), rows[0].NewTokens, endToken, options);
            var next = Draw(logits, rows, streams, options, out var logProbs, withLogProbabilities);

            // 3. Hand it to its row; a row is over at the end token, its length limit or the end of the context.
            var drawn = next.cpu().data<long>().ToArray();
            var drawnLogProbs = logProbs?.cpu().data<float>().ToArray();
            for (int i = 0; i < rows.Length; i++)
            {
                rows[i].Add((int)drawn[i], drawnLogProbs?[i] ?? 0, endToken, minimumTokens);
                onToken?.Invoke(rows[i].Prompt, (int)drawn[i]);
                if (rows[i].Done)
                    results[rows[i].Prompt] ??= rows[i].Result(withLogProbabilities);
            }

            // 4. Finished rows leave the batch.
            int[] kept = [.. Enumerable.Range(0, rows.Length).Where(i => !rows[i].Done)];
            if (kept.Length == 0)
                return results;
            if (kept.Length < rows.Length)
            {
                var index = tensor(kept.Select(i => (long)i).ToArray(), device: model.Device);
                cache.Keep(index);
                next = next.index_select(0, index);
                keyMask = keyMask?.index_select(0, index).MoveToOuterDisposeScope();
                rows = [.. kept.Select(i => rows[i])];
            }

            // 5. The drawn tokens are the next input.
            ids = next.unsqueeze(-1).MoveToOuterDisposeScope();                               // (B, 1)
            positions = tensor(rows.Select(r => (long)r.Position).ToArray(), device: model.Device).unsqueeze(-1).MoveToOuterDisposeScope();
            mask = keyMask?.narrow(-1, 0, cache.Length + 1).MoveToOuterDisposeScope();        // (B, 1, 1, keys)
        }
    }

    private static Tensor Draw(
        Tensor logits, Row[] rows, RandomStream[] streams, SamplingOptions options, out Tensor? logProbs, bool withLogProbabilities)
    {
        Tensor next, shaped;
        if (options.Temperature == 0)
        {
            shaped = logits;
            next = logits.argmax(-1);
        }
        else
        {
            shaped = TokenSampling.Shape(logits, options);
            var uniforms = new float[rows.Length];
            for (int i = 0; i < rows.Length; i++)
                uniforms[i] = streams[rows[i].Prompt].NextSingle();
            next = TokenSampling.Draw(shaped, tensor(uniforms, device: logits.device).unsqueeze(-1));
        }
        logProbs = withLogProbabilities ? LogProbabilities.OfTokens(shaped, next) : null;
        return next;
    }

    /// <summary>
    /// Ids (B, T), positions (B, T), attention mask (B, 1, T, T) and key mask for later steps (B, 1, 1, capacity); no masks without
    /// padding.
    /// </summary>
    private static (Tensor Ids, Tensor Positions, Tensor? Mask, Tensor? KeyMask) LeftPad(
        IReadOnlyList<int[]> prompts, int longest, int capacity, Device device)
    {
        var ids = new long[prompts.Count * longest];
        var positions = new long[prompts.Count * longest];
        var hidden = new bool[prompts.Count * capacity];
        for (int row = 0; row < prompts.Count; row++)
        {
            int padding = longest - prompts[row].Length;
            hidden.AsSpan(row * capacity, padding).Fill(true);
            for (int t = 0; t < prompts[row].Length; t++)
            {
                ids[row * longest + padding + t] = prompts[row][t];
                positions[row * longest + padding + t] = t;
            }
        }
        var idsTensor = tensor(ids, [prompts.Count, longest], device: device);
        var positionsTensor = tensor(positions, [prompts.Count, longest], device: device);
        if (prompts.All(p => p.Length == longest))
            return (idsTensor, positionsTensor, null, null);

        var hiddenKeys = tensor(hidden, [prompts.Count, 1, 1, capacity], device: device);
        var keyMask = zeros([prompts.Count, 1, 1, capacity], device: device).masked_fill(hiddenKeys, double.NegativeInfinity);
        var future = ones([longest, longest], dtype: @bool, device: device).triu(1);
        // A padding token attends to itself: a row of −∞ alone would be NaN.
        var self = eye(longest, dtype: @bool, device: device);
        var blocked = (hiddenKeys.narrow(-1, 0, longest) | future) & ~self;                   // (B, 1, T, T)
        var mask = zeros([prompts.Count, 1, longest, longest], device: device).masked_fill(blocked, double.NegativeInfinity);
        return (idsTensor, positionsTensor, mask, keyMask);
    }

    /// <summary>A prompt that is still growing.</summary>
    private sealed class Row(int prompt, int[] tokens, int limit)
    {
        private readonly int[] _text = [.. tokens, .. new int[limit]];
        private readonly List<float> _logProbs = new(limit);
        private int _length = tokens.Length;
        private bool _ended;

        public int Prompt => prompt;

        /// <summary>The prompt and what followed it.</summary>
        public ReadOnlyMemory<int> Text => _text.AsMemory(0, _length);

        public int NewTokens => _length - tokens.Length;

        public bool Done => _ended || NewTokens == limit;

        /// <summary>Where the newest token stands in the row's own text.</summary>
        public int Position => _length - 1;

        public void Add(int token, float logProb, int endToken, int minimumTokens)
        {
            _text[_length++] = token;
            _logProbs.Add(logProb);
            _ended = token == endToken && NewTokens >= minimumTokens;
        }

        public SampledTokens Result(bool withLogProbabilities) =>
            new(_text[tokens.Length.._length], withLogProbabilities ? [.. _logProbs] : [], _ended);
    }
}
