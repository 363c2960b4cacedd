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

/// <summary>What sampling asks of a model that has read some prompts: what comes next, row by row of a batch that grows shorter.</summary>
internal interface INextToken : IDisposable
{
    /// <summary>Scores the next token of every row.</summary>
    /// <param name="drawn">The token that each row got last, int64 (B); null at the beginning.</param>
    /// <returns>Logits (B, V).</returns>
    Tensor Logits(Tensor? drawn);

    /// <summary>Keeps only the named rows, in that order: finished rows leave the batch.</summary>
    /// <param name="rows">Row indices, int64 (kept).</param>
    void Keep(Tensor rows);
}

/// <summary>Draws completions for a batch of prompts of any lengths.</summary>
internal static class Sampler
{
    /// <param name="model">In evaluation mode.</param>
    /// <param name="prompts">At least one token each, and at least one less than the context.</param>
    /// <param name="streams">The source of randomness of each prompt.</param>
    /// <param name="stop">The tokens after which a completion is over.</param>
    /// <param name="options">Validated sampling options.</param>
    /// <param name="minimumTokens">An end token before this place (from 1) does not end its completion.</param>
    /// <param name="withLogProbabilities">Whether to record log π of each drawn token.</param>
    /// <param name="onToken">Called with (prompt index, token) as soon as a token is drawn, the end token included.</param>
    /// <param name="checkCanceled">Called before each token; throws to stop.</param>
    public static SampledTokens[] Generate(
        CausalLanguageModel model, IReadOnlyList<int[]> prompts, RandomStream[] streams, StopTokens stop, SamplingOptions options,
        int minimumTokens = 0, bool withLogProbabilities = false, Action<int, int>? onToken = null, Action? checkCanceled = null)
    {
        using var noGrad = inference_mode();
        using var scope = NewDisposeScope();
        int context = model.Architecture.ContextLength;
        var rows = prompts.Select((p, i) => new Row(i, p, Math.Min(options.MaxNewTokens, context - p.Length))).ToArray();
        using var next = new Continuation(model, prompts, newTokens: rows.Max(r => r.Limit));
        return Draw(next, rows, streams, stop, options, minimumTokens, withLogProbabilities, onToken, checkCanceled);
    }

    /// <summary>The same for a model that writes completions apart from their prompts.</summary>
    /// <param name="model">In evaluation mode.</param>
    /// <param name="sources">Prompts with their end tokens; at most the context's length.</param>
    /// <param name="streams">The source of randomness of each prompt.</param>
    /// <param name="endToken">The token after which a completion is over; the decoder begins with it.</param>
    /// <param name="options">Validated sampling options; what they say of repetition concerns completions alone.</param>
    /// <param name="withLogProbabilities">Whether to record log π of each drawn token.</param>
    /// <param name="onToken">Called with (prompt index, token) as soon as a token is drawn, the end token included.</param>
    /// <param name="checkCanceled">Called before each token; throws to stop.</param>
    public static SampledTokens[] Generate(
        EncoderDecoder model, IReadOnlyList<int[]> sources, RandomStream[] streams, int endToken, SamplingOptions options,
        bool withLogProbabilities = false, Action<int, int>? onToken = null, Action? checkCanceled = null)
    {
        using var noGrad = inference_mode();
        using var scope = NewDisposeScope();
        int limit = Math.Min(options.MaxNewTokens, model.Architecture.ContextLength);
        var rows = sources.Select((_, i) => new Row(i, [], limit)).ToArray();
        using var next = new EncoderDecoderTargets(model, sources, endToken, limit);
        return Draw(next, rows, streams, endToken, options, minimumTokens: 0, withLogProbabilities, onToken, checkCanceled);
    }

    private static SampledTokens[] Draw(
        INextToken model, Row[] rows, RandomStream[] streams, StopTokens stop, SamplingOptions options, int minimumTokens,
        bool withLogProbabilities, Action<int, int>? onToken, Action? checkCanceled)
    {
        var results = new SampledTokens[rows.Length];
        Tensor? last = null;
        while (true)
        {
            checkCanceled?.Invoke();
            using var step = NewDisposeScope();

            // 1. Score the next token of every row.
            var logits = model.Logits(last);                                                  // (B, V)

            // 2. Draw it.
            if (options.ConstrainsTokens)
                logits = TokenSampling.Constrain(logits, Array.ConvertAll(rows, r => r.Text), rows[0].NewTokens, stop, options);
            var next = Draw(logits, rows, streams, options, out var logProbs, withLogProbabilities);

            // 3. Hand it to its row; a row is over at the end token, its length limit or the end of the context.
            var drawn = next.cpu().data<long>().ToArray();
            var drawnLogProbs = logProbs?.cpu().data<float>().ToArray();
            for (int i = 0; i < rows.Length; i++)
            {
                rows[i].Add((int)drawn[i], drawnLogProbs?[i] ?? 0, stop, minimumTokens);
                onToken?.Invoke(rows[i].Prompt, (int)drawn[i]);
                if (rows[i].Done)
                    results[rows[i].Prompt] ??= rows[i].Result(withLogProbabilities);
            }

            // 4. Finished rows leave the batch.
            if (Array.Exists(rows, row => row.Done))
            {
                int[] kept = [.. Enumerable.Range(0, rows.Length).Where(i => !rows[i].Done)];
                if (kept.Length == 0)
                    return results;
                var index = tensor(kept.Select(i => (long)i).ToArray(), device: next.device);
                model.Keep(index);
                next = next.index_select(0, index);
                rows = [.. kept.Select(i => rows[i])];
            }
            last = next.MoveToOuterDisposeScope();
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

    /// <summary>A text that is still growing.</summary>
    private sealed class Row(int prompt, int[] tokens, int limit)
    {
        private readonly int[] _text = [.. tokens, .. new int[limit]];
        private readonly List<float> _logProbs = new(limit);
        private int _length = tokens.Length;
        private bool _ended;

        public int Prompt => prompt;

        /// <summary>The most new tokens.</summary>
        public int Limit => limit;

        /// <summary>The prompt and what followed it.</summary>
        public ReadOnlyMemory<int> Text => _text.AsMemory(0, _length);

        public int NewTokens => _length - tokens.Length;

        public bool Done => _ended || NewTokens == limit;

        public void Add(int token, float logProb, StopTokens stop, int minimumTokens)
        {
            _text[_length++] = token;
            _logProbs.Add(logProb);
            _ended = stop.Contains(token) && NewTokens >= minimumTokens;
        }

        public SampledTokens Result(bool withLogProbabilities) =>
            new(_text[tokens.Length.._length], withLogProbabilities ? [.. _logProbs] : [], _ended);
    }
}
