using ML.Rlhf.Torch.Functional;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf
{
    /// <summary>How the states of a text's tokens become one feature vector.</summary>
    public enum EmbeddingPooling
    {
        /// <summary>
        /// Their mean (Reimers and Gurevych 2019, arXiv 1908.10084): better than one state where nothing was trained for it.
        /// </summary>
        Mean,

        /// <summary>The state of the token before the text, [CLS]: for checkpoints that were trained so.</summary>
        Cls,
    }
}

namespace ML.Rlhf.Torch.Functional
{
    /// <summary>One vector for each text.</summary>
    public static class SentencePooling
    {
        /// <summary>Mean: Σ_t h_t / n over the n real tokens of a row, those before and after the text included. Cls: h_0.</summary>
        /// <param name="hidden">Hidden states (B, T, C) of rows that are padded on the right.</param>
        /// <param name="lengths">Real tokens of each row, at least 1, (B).</param>
        /// <param name="pooling">Which of the two.</param>
        /// <param name="normalize">Whether each vector is divided by its L2 norm, so that a dot product is a cosine.</param>
        /// <returns>Vectors (B, C).</returns>
        public static Tensor Pool(Tensor hidden, Tensor lengths, EmbeddingPooling pooling, bool normalize)
        {
            using var scope = NewDisposeScope();
            Tensor pooled;
            if (pooling == EmbeddingPooling.Cls)
            {
                pooled = hidden.select(1, 0);                                                 // (B, C)
            }
            else
            {
                var real = arange(hidden.size(1), device: hidden.device) < lengths.unsqueeze(-1); // (B, T)
                pooled = hidden.masked_fill(real.logical_not().unsqueeze(-1), 0).sum(1) / lengths.unsqueeze(-1); // (B, C)
            }
            pooled = normalize ? nn.functional.normalize(pooled, p: 2, dim: -1) : pooled;
            return pooled.MoveToOuterDisposeScope();
        }
    }
}
