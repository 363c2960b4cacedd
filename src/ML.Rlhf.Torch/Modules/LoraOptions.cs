namespace ML.Rlhf;

/// <summary>
/// Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): the model's weights stay as they are, and beside each chosen linear layer two
/// thin matrices learn, y = W·x + (α/r)·B·A·x. Gradients and the optimiser's memory are as small as they are, and a run needs no copy of
/// the model.
/// </summary>
/// <remarks>
/// The learning rate wants to be about ten times that of training all weights (Schulman et al. 2025, "LoRA Without Regret"): the trainers'
/// defaults are for all weights.
/// </remarks>
public sealed record LoraOptions
{
    /// <summary>r: rows of A, columns of B.</summary>
    /// <value>At least 1. 16 by default: results hardly change from 4 on in the paper, and instruction tuning likes some more.</value>
    public int Rank { get; init; } = 16;

    /// <summary>α: what the adapters add is multiplied with α/r.</summary>
    /// <value>Above 0. 32 by default, twice the rank (Biderman et al. 2024).</value>
    public double Alpha { get; init; } = 32;

    /// <summary>
    /// Probability of dropping a number on its way into an adapter, in supervised fine-tuning. The other trainers compare the network with
    /// itself, and run without dropout.
    /// </summary>
    /// <value>In [0, 1). 0 by default, as in PEFT: few numbers learn, so they overfit late.</value>
    public double Dropout { get; init; }

    /// <summary>
    /// The linear layers that get adapters, by the names that they have in a checkpoint: the last part (<c>q_proj</c>, <c>c_attn</c>) means
    /// that layer of every block, a longer one (<c>h.0.attn.c_attn</c>) fewer.
    /// </summary>
    /// <value>Null, the default, is every linear layer of every block; attention alone learns less (Schulman et al. 2025). The head
    /// (<c>lm_head</c>), where it is not tied to the embedding, only if it is named, and never below a reward model's or a value function's
    /// own head.</value>
    public IReadOnlyList<string>? Targets { get; init; }

    /// <summary>Adds what is wrong.</summary>
    /// <param name="problems">Where to.</param>
    /// <param name="hasDropout">Whether the trainer has dropout at all.</param>
    internal void Check(OptionProblems problems, bool hasDropout)
    {
        problems.Require(Rank >= 1, "Lora.Rank", Rank, "at least 1");
        problems.Require(Alpha > 0 && double.IsFinite(Alpha), "Lora.Alpha", Alpha, "a finite number above 0");
        if (hasDropout)
            problems.Require(Dropout is >= 0 and < 1, "Lora.Dropout", Dropout, "in [0, 1)");
        else
            problems.Require(Dropout == 0, "Lora.Dropout", Dropout, "0: of the trainers, only supervised fine-tuning has dropout");
        problems.Require(Targets is null || Targets.Count > 0 && !Targets.Any(string.IsNullOrWhiteSpace), "Lora.Targets",
            Targets is null ? null : $"[{string.Join(", ", Targets)}]", "names of linear layers, or null for all of them");
    }
}
