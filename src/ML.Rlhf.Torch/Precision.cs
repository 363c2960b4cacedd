namespace ML.Rlhf;

/// <summary>What the products of a model are computed in. Weights, their gradients and the optimiser's state are always float32.</summary>
public enum Precision
{
    /// <summary>
    /// <see cref="BFloat16"/> where the processor multiplies bfloat16 numbers and this pack has kernels for the model, otherwise
    /// <see cref="Float32"/>.
    /// </summary>
    Auto,

    /// <summary>24 bits of precision.</summary>
    Float32,

    /// <summary>
    /// Factors are rounded to 8 bits of precision, sums are float32 (Micikevicius et al. 2017, arXiv 1710.03740; Kalamkar et al. 2019,
    /// arXiv 1905.12322). Two to six times as fast on a processor that has instructions for it.
    /// </summary>
    BFloat16,
}
