using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>How well an encoder guesses hidden tokens.</summary>
/// <param name="Loss">Σ −log p of the hidden tokens, and their number.</param>
/// <param name="Correct">How many of them were the model's first guess.</param>
internal readonly record struct MaskedTotal(LossTotal Loss, long Correct);

/// <summary>The loss of an encoder on hidden tokens, for training and for measuring.</summary>
internal static class MaskedTokenLoss
{
    private const int EvaluationTokens = 8192; // per pass when nothing is learned

    /// <summary>Rows per pass when nothing is learned.</summary>
    public static int EvaluationRows(EncoderArchitecture a) => Math.Clamp(EvaluationTokens / a.ContextLength, 1, 64);

    /// <summary>Logits of the hidden tokens (N, V), and what they are, int64 (N). Only their states reach the head.</summary>
    public static (Tensor Logits, Tensor Labels) Guess(Encoder model, IReadOnlyList<MaskedSequence> rows, Device device)
    {
        var batch = PaddedBatch.Create([.. rows.Select(row => row.Inputs)], device);
        long width = batch.Ids.shape[1];
        long[] positions = [.. rows.SelectMany((row, i) => row.Positions.Select(t => i * width + t))];
        long[] labels = [.. rows.SelectMany(row => row.Labels).Select(label => (long)label)];
        var hidden = model.Hidden(batch.Ids, batch.PaddingMask()).flatten(0, 1);                       // (B·T, C)
        return (model.Logits(hidden.index_select(0, tensor(positions, device: device))), tensor(labels, device: device));
    }

    /// <summary>Σ −log p(hidden token), a scalar.</summary>
    public static Tensor Sum(Encoder model, IReadOnlyList<MaskedSequence> rows, Device device)
    {
        using var scope = NewDisposeScope();
        var (logits, labels) = Guess(model, rows, device);
        return LanguageModelLoss.CrossEntropySum(logits, labels).MoveToOuterDisposeScope();
    }

    /// <summary>The likeliest tokens for one place of a sequence, the likeliest first.</summary>
    /// <param name="model">In evaluation mode.</param>
    /// <param name="tokens">The sequence, with a mask token at the place.</param>
    /// <param name="position">The place.</param>
    /// <param name="count">How many, at most the vocabulary's size.</param>
    public static (int Token, float Probability)[] Likeliest(Encoder model, int[] tokens, int position, int count)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var (logits, _) = Guess(model, [new MaskedSequence(tokens, [position], [0])], model.Device);
        var (probabilities, ids) = logits.softmax(-1).topk(count, dim: -1);                   // (1, count) each
        return [.. ids.cpu().data<long>().ToArray().Zip(probabilities.cpu().data<float>().ToArray(), (id, p) => ((int)id, p))];
    }

    /// <summary>
    /// Measures a model on held-out sequences. Which tokens are hidden depends on a sequence's place in the data and on nothing else, so
    /// that two measurements differ in the model alone.
    /// </summary>
    /// <param name="model">The model.</param>
    /// <param name="data">At least one sequence.</param>
    /// <param name="vocabulary">What hides a token.</param>
    /// <param name="rate">The part of the tokens that is hidden.</param>
    /// <param name="checkCanceled">Called before each batch; throws when it shall stop.</param>
    public static MaskedTotal Measure(
        Encoder model, TokenSequences data, MaskingVocabulary vocabulary, double rate, Action? checkCanceled = null)
    {
        using var noGrad = no_grad();
        model.eval();
        double sum = 0;
        long count = 0, correct = 0;
        foreach (int[] rows in Batches.ByLength(data.Count, EvaluationRows(model.Architecture), data.Length))
        {
            checkCanceled?.Invoke();
            using var scope = NewDisposeScope();
            var (logits, labels) = Guess(model, [.. rows.Select(Masked)], model.Device);
            sum += LanguageModelLoss.CrossEntropySum(logits, labels).ToDouble();
            correct += logits.argmax(-1).eq(labels).sum().ToInt64();
            count += labels.numel();
        }
        return new MaskedTotal(new LossTotal(sum, count), correct);

        MaskedSequence Masked(int row)
        {
            var random = new RandomStream(seed: 0, (ulong)row);
            return TokenMasking.Mask(data[row], vocabulary, rate, ref random);
        }
    }
}
