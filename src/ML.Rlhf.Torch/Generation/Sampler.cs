using System.Runtime.InteropServices;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
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
    /// <param name="drawn">The token that each row got last, (B); none at the beginning.</param>
    /// <returns>Logits (B, V).</returns>
    Tensor Logits(ReadOnlySpan<int> drawn);

    /// <summary>Keeps only the named rows, in that order: finished rows leave the batch.</summary>
    void Keep(ReadOnlySpan<int> rows);
}

/// <summary>
/// Draws completions for prompts of any lengths, in batches of similar length. Each prompt is completed from its own numbers and its own
/// randomness: what stands beside it in a batch changes nothing but rounding.
/// </summary>
internal static class Sampler
{
    /// <summary>Rows that are completed at once: enough for a CPU's matrix products to be as fast as they get, or for a GPU's.</summary>
    private const int RowsOnCpu = 64, RowsOnGpu = 256;

    /// <param name="model">In evaluation mode.</param>
    /// <param name="prompts">At least one token each, and at least one less than the context. Equal ones are read once.</param>
    /// <param name="streams">The source of randomness of each prompt.</param>
    /// <param name="stop">The tokens after which a completion is over.</param>
    /// <param name="options">Validated sampling options.</param>
    /// <param name="minimumTokens">An end token before this place (from 1) does not end its completion.</param>
    /// <param name="withLogProbabilities">Whether to record log π of each drawn token.</param>
    /// <param name="onToken">Called with (prompt index, token) as soon as a token is drawn, the end token included.</param>
    /// <param name="checkCanceled">Called before each token; throws to stop.</param>
    /// <returns>The completions in the order of the prompts.</returns>
    public static SampledTokens[] Generate(
        CausalLanguageModel model, IReadOnlyList<int[]> prompts, RandomStream[] streams, StopTokens stop, SamplingOptions options,
        int minimumTokens = 0, bool withLogProbabilities = false, Action<int, int>? onToken = null, Action? checkCanceled = null)
    {
        int context = model.Architecture.ContextLength;
        Row NewRow(int i) => new(
            i, prompts[i], Math.Min(options.MaxNewTokens, context - prompts[i].Length), minimumTokens, withLogProbabilities);
        bool inKernels = (model.Precision == Precision.BFloat16 && model.HasKernels)
            || ComputeScope.Choose(options.Precision, model.HasKernels) == Precision.BFloat16;
        INextToken Begin(int[][] batch, int newTokens) => inKernels
            ? new KernelContinuation(model.CreateDecoder(batch.Length, batch.Max(p => p.Length) + newTokens), batch)
            : new Continuation(model, batch, newTokens);
        return Generate(model.Device, prompts, NewRow, Begin, streams, stop, options, onToken, checkCanceled);
    }

    /// <summary>The same for a model that writes completions apart from their prompts.</summary>
    /// <param name="model">In evaluation mode.</param>
    /// <param name="sources">Prompts with their end tokens; at most the context's length. Equal ones are read once.</param>
    /// <param name="streams">The source of randomness of each prompt.</param>
    /// <param name="endToken">The token after which a completion is over; the decoder begins with it.</param>
    /// <param name="options">Validated sampling options; what they say of repetition concerns completions alone.</param>
    /// <param name="withLogProbabilities">Whether to record log π of each drawn token.</param>
    /// <param name="onToken">Called with (prompt index, token) as soon as a token is drawn, the end token included.</param>
    /// <param name="checkCanceled">Called before each token; throws to stop.</param>
    /// <returns>The completions in the order of the prompts.</returns>
    public static SampledTokens[] Generate(
        EncoderDecoder model, IReadOnlyList<int[]> sources, RandomStream[] streams, int endToken, SamplingOptions options,
        bool withLogProbabilities = false, Action<int, int>? onToken = null, Action? checkCanceled = null)
    {
        int limit = Math.Min(options.MaxNewTokens, model.Architecture.ContextLength);
        _ = ComputeScope.Choose(options.Precision, haveKernels: false);
        Row NewRow(int i) => new(i, [], limit, minimumTokens: 0, withLogProbabilities);
        return Generate(
            model.Device, sources, NewRow, (batch, newTokens) => new EncoderDecoderTargets(model, batch, endToken, newTokens), streams,
            endToken, options, onToken, checkCanceled);
    }

    private static SampledTokens[] Generate(
        Device device, IReadOnlyList<int[]> prompts, Func<int, Row> newRow, Func<int[][], int, INextToken> begin, RandomStream[] streams,
        StopTokens stop, SamplingOptions options, Action<int, int>? onToken, Action? checkCanceled)
    {
        using var noGrad = inference_mode();
        using var scope = NewDisposeScope();
        var sampling = new TokenSampling(options, stop);
        var results = new SampledTokens[prompts.Count];
        int batchSize = device.type == DeviceType.CPU ? RowsOnCpu : RowsOnGpu;
        foreach (int[] batch in Batches.ByLength(prompts.Count, batchSize, i => prompts[i].Length))
        {
            Row[] rows = Array.ConvertAll(batch, i => newRow(i));
            using var model = begin(Array.ConvertAll(batch, i => prompts[i]), rows.Max(row => row.Limit));
            Draw(model, rows, streams, stop, sampling, options.Temperature > 0, onToken, checkCanceled);
            foreach (var row in rows)
                results[row.Prompt] = row.Result();
        }
        return results;
    }

    private static void Draw(
        INextToken model, Row[] rows, RandomStream[] streams, StopTokens stop, TokenSampling sampling, bool byChance,
        Action<int, int>? onToken, Action? checkCanceled)
    {
        rows = [.. rows]; // those that go on come first
        int[] drawn = new int[rows.Length], from = new int[rows.Length];
        int count = rows.Length, read = 0;
        while (count > 0)
        {
            checkCanceled?.Invoke();
            using var step = NewDisposeScope();

            // 1. Score the next token of every row.
            var logits = model.Logits(drawn.AsSpan(0, read)).to(float32).cpu().contiguous();   // (B, V)
            var scores = MemoryMarshal.Cast<byte, float>(logits.bytes);
            int vocabulary = scores.Length / count;

            // 2. Draw it. A row is over at the end token, its length limit or the end of the context.
            for (int i = 0; i < count; i++)
            {
                var row = rows[i];
                float uniform = byChance ? streams[row.Prompt].NextSingle() : 0;
                (drawn[i], float logProb) = sampling.Draw(scores.Slice(i * vocabulary, vocabulary), row.Text, row.NewTokens, uniform);
                row.Add(drawn[i], logProb, stop);
                onToken?.Invoke(row.Prompt, drawn[i]);
            }

            // 3. Finished rows leave the batch.
            read = FillHoles(rows, drawn, from, count);
            if (read < count && read > 0)
                model.Keep(from.AsSpan(0, read));
            count = read;
        }
    }

    /// <summary>Puts the last rows where finished rows were, so that few rows move.</summary>
    /// <param name="rows">The rows.</param>
    /// <param name="drawn">Their newest tokens.</param>
    /// <param name="from">Gets where each row was that is left.</param>
    /// <param name="count">How many rows there are.</param>
    /// <returns>How many are left.</returns>
    private static int FillHoles(Row[] rows, int[] drawn, int[] from, int count)
    {
        for (int i = 0; i < count; i++)
            from[i] = i;
        for (int i = 0; i < count;)
        {
            if (!rows[i].Done)
            {
                i++;
                continue;
            }
            count--;
            (rows[i], drawn[i], from[i]) = (rows[count], drawn[count], from[count]);
        }
        return count;
    }

    /// <summary>A text that is still growing.</summary>
    private sealed class Row(int prompt, int[] tokens, int limit, int minimumTokens, bool withLogProbabilities)
    {
        private readonly int[] _text = [.. tokens, .. new int[limit]];
        private readonly float[] _logProbs = new float[withLogProbabilities ? limit : 0];
        private int _length = tokens.Length;
        private bool _ended;

        public int Prompt => prompt;

        /// <summary>The most new tokens.</summary>
        public int Limit => limit;

        /// <summary>The prompt and what followed it.</summary>
        public ReadOnlySpan<int> Text => _text.AsSpan(0, _length);

        public int NewTokens => _length - tokens.Length;

        public bool Done => _ended || NewTokens == limit;

        public void Add(int token, float logProb, StopTokens stop)
        {
            if (withLogProbabilities)
                _logProbs[NewTokens] = logProb;
            _text[_length++] = token;
            _ended = stop.Contains(token) && NewTokens >= minimumTokens;
        }

        public SampledTokens Result() =>
            new(_text[tokens.Length.._length], withLogProbabilities ? _logProbs[..NewTokens] : [], _ended);
    }
}
