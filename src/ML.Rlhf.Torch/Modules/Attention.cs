using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

/// <summary>What the blocks of one forward pass share beside the hidden states.</summary>
/// <param name="Mask">Additive attention mask (B or 1, 1, T, keys): 0 to attend, −∞ to hide; null for plain causal attention.</param>
/// <param name="Cache">Keys and values of the tokens before these, or null.</param>
/// <param name="Dropout">Probability of dropping, 0 outside training.</param>
/// <param name="Trace">Where to leave what is otherwise forgotten, or null.</param>
internal readonly record struct AttentionContext(Tensor? Mask, KeyValueCache? Cache, double Dropout, ForwardTrace? Trace);

/// <summary>What a forward pass goes through, for those who want to look.</summary>
internal sealed class ForwardTrace : IDisposable
{
    /// <summary>The embeddings, then what each block gives, and the last after the final norm: (B, T, C) each.</summary>
    public List<Tensor> HiddenStates { get; } = [];

    /// <summary>How much each token looks at each other one, per block, (B, H, T, keys). Rows add up to 1.</summary>
    public List<Tensor> AttentionWeights { get; } = [];

    public static void Add(List<Tensor>? states, Tensor state) => states?.Add(state.alias().DetachFromDisposeScope());

    /// <summary>The last state is the normed one: it takes the place of what the last block gave.</summary>
    public void ReplaceLast(Tensor state)
    {
        HiddenStates[^1].Dispose();
        HiddenStates.RemoveAt(HiddenStates.Count - 1);
        Add(HiddenStates, state);
    }

    public void Dispose()
    {
        foreach (var tensor in HiddenStates.Concat(AttentionWeights))
            tensor.Dispose();
    }
}

internal static class Attention
{
    /// <summary>softmax(q·kᵀ/√d + mask)·v (Vaswani et al. 2017, equation 1).</summary>
    /// <param name="q">Queries (B, H, T, d).</param>
    /// <param name="k">Keys (B, G, keys, d), where G divides H: as many query heads share a head of keys.</param>
    /// <param name="v">Values (B, G, keys, d).</param>
    /// <param name="context">Mask, dropout, trace.</param>
    /// <returns>(B, H, T, d).</returns>
    public static Tensor Run(Tensor q, Tensor k, Tensor v, in AttentionContext context)
    {
        long sharing = q.size(1) / k.size(1), t = q.size(2);
        if (sharing > 1)
            (k, v) = (k.repeat_interleave(sharing, 1), v.repeat_interleave(sharing, 1));      // (B, H, keys, d)

        // Without a mask the kernel's own causal flag applies; a single query sees every key, so it needs none.
        bool causal = context.Mask is null && t > 1;
        if (context.Trace is { } trace)
            ForwardTrace.Add(trace.AttentionWeights, Weights(q, k, context.Mask, causal));
        return functional.scaled_dot_product_attention(q, k, v, context.Mask, context.Dropout, causal);
    }

    private static Tensor Weights(Tensor q, Tensor k, Tensor? mask, bool causal)
    {
        var scores = q.matmul(k.transpose(-2, -1)) / Math.Sqrt(q.size(3));                   // (B, H, T, keys)
        if (mask is not null)
            scores += mask;
        else if (causal)
            scores = scores.masked_fill(
                ones([q.size(2), k.size(2)], dtype: @bool, device: q.device).triu(1), double.NegativeInfinity);
        return scores.softmax(-1);
    }
}
