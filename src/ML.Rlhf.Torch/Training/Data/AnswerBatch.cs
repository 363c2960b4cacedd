using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// Some prompts with their completions as tensors, padded on the right. B = rows, T = longest row, N = completion tokens of all rows.
/// </summary>
/// <param name="Ids">int64 (B, T).</param>
/// <param name="States">Which of the B·T states predicts each completion token, int64 (N).</param>
/// <param name="Tokens">Those tokens, int64 (N).</param>
/// <param name="Rows">The row that each belongs to, int64 (N).</param>
/// <param name="Lengths">Completion tokens of each row, float32 (B).</param>
internal sealed record AnswerBatch(Tensor Ids, Tensor States, Tensor Tokens, Tensor Rows, Tensor Lengths)
{
    public static AnswerBatch Create(IReadOnlyList<(CompletionData Data, int Row)> answers, Device device)
    {
        var batch = PaddedBatch.Empty([.. answers.Select(answer => answer.Data.Sequences.Length(answer.Row))]);
        float[] lengths = [.. answers.Select((answer, i) => (float)(batch.Lengths[i] - answer.Data.PromptLengths[answer.Row]))];
        int width = (int)batch.Ids.size(1), count = (int)lengths.Sum(), n = 0;
        Tensor states = TokenTensor.Zeros(count), tokens = TokenTensor.Zeros(count), rows = TokenTensor.Zeros(count);
        Span<long> stateNumbers = states.Numbers(), tokenNumbers = tokens.Numbers(), rowNumbers = rows.Numbers();
        for (int i = 0; i < answers.Count; i++)
        {
            var (data, row) = answers[i];
            var sequence = batch.Row(i);
            data.Sequences.CopyRow(row, sequence);
            for (int t = data.PromptLengths[row]; t < sequence.Length; t++)
            {
                stateNumbers[n] = i * width + t - 1; // the state that predicts token t
                tokenNumbers[n] = sequence[t];
                rowNumbers[n++] = i;
            }
        }
        return new AnswerBatch(
            batch.Ids.On(device), states.On(device), tokens.On(device), rows.On(device), tensor(lengths, device: device));
    }

    /// <summary>The chosen answers of some pairs, and then the rejected ones: one forward pass for both.</summary>
    public static AnswerBatch Create(PreferenceData pairs, int[] rows, Device device) =>
        Create([.. rows.Select(row => (pairs.Chosen, row)), .. rows.Select(row => (pairs.Rejected, row))], device);

    /// <summary>What belongs to the chosen and to the rejected answers in a tensor (2b) of such a batch, (b) each.</summary>
    public static (Tensor Chosen, Tensor Rejected) Halves(Tensor perAnswer)
    {
        long pairs = perAnswer.shape[0] / 2;
        return (perAnswer.narrow(0, 0, pairs), perAnswer.narrow(0, pairs, pairs));
    }

    /// <summary>Pairs per pass when nothing is learned.</summary>
    public static int EvaluationPairs(CausalLanguageModel model) => Math.Max(1, NextTokenLoss.EvaluationRows(model.Architecture) / 2);

    /// <summary>Tokens of some pairs.</summary>
    public static long TokenCount(PreferenceData pairs, int[] rows) =>
        rows.Sum(row => (long)pairs.Chosen.Sequences.Length(row) + pairs.Rejected.Sequences.Length(row));

    /// <summary>log π(completion | prompt): the sum over the completion's tokens, its end token included, (B).</summary>
    public Tensor LogProbs(CausalLanguageModel model)
    {
        using var scope = NewDisposeScope();
        var hidden = model.Hidden(Ids).flatten(0, 1).index_select(0, States);                 // (N, C)
        var perToken = model.Predict(hidden, Tokens).LogProbs;                                // (N)
        return zeros_like(Lengths).index_add(0, Rows, perToken, alpha: 1).MoveToOuterDisposeScope(); // (B)
    }

    /// <summary>log π of all completions of some data, without gradients, in batches of similar length.</summary>
    public static float[] LogProbs(CausalLanguageModel model, CompletionData data, TrainingRun run)
    {
        using var noGrad = no_grad();
        var logProbs = new float[data.Count];
        foreach (int[] rows in Batches.ByLength(data.Count, NextTokenLoss.EvaluationRows(model.Architecture), data.Sequences.Length))
        {
            run.ThrowIfCanceled();
            using var scope = NewDisposeScope();
            var sums = Create([.. rows.Select(row => (data, row))], model.Device).LogProbs(model).cpu().data<float>().ToArray();
            for (int i = 0; i < rows.Length; i++)
                logProbs[rows[i]] = sums[i];
        }
        return logProbs;
    }
}
