using ML.Rlhf.Torch.Functional;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>Makes feature vectors of whole texts.</summary>
internal static class SentenceEmbedding
{
    /// <summary>
    /// One vector of <see cref="LanguageModelArchitecture.Width"/> numbers for each sequence, computed in batches of similar length.
    /// </summary>
    /// <param name="model">In evaluation mode.</param>
    /// <param name="sequences">None is empty or longer than the model's context.</param>
    /// <param name="pooling">How states become a vector.</param>
    /// <param name="normalize">Whether vectors get the length 1.</param>
    public static float[][] Embed(Encoder model, TokenSequences sequences, EmbeddingPooling pooling, bool normalize)
    {
        using var noGrad = no_grad();
        var vectors = new float[sequences.Count][];
        foreach (int[] rows in Batches.ByLength(sequences.Count, MaskedTokenLoss.EvaluationRows(model.Architecture), sequences.Length))
        {
            using var scope = NewDisposeScope();
            var batch = PaddedBatch.Create(sequences, rows, model.Device);
            var hidden = model.Hidden(batch.Ids, batch.PaddingMask());                        // (B, T, C)
            var lengths = tensor(batch.Lengths, dtype: float32, device: hidden.device);       // (B)
            float[] pooled = SentencePooling.Pool(hidden, lengths, pooling, normalize).cpu().data<float>().ToArray();
            int width = model.Architecture.Width;
            for (int i = 0; i < rows.Length; i++)
                vectors[rows[i]] = pooled[(i * width)..((i + 1) * width)];
        }
        return vectors;
    }
}
