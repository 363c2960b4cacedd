namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>What a model waits for, beside what a file has: every difference, said at once.</summary>
internal sealed class WeightComparison
{
    private const int ShownOfAKind = 20;

    private readonly List<string> _missing = [];
    private readonly List<string> _extra = [];
    private readonly List<string> _different = [];

    /// <summary>The model has a tensor that the file has not.</summary>
    public void Missing(string name) => _missing.Add($"{SafetensorsHeader.Quoted(name)} is missing");

    /// <summary>The file has a tensor that the model has not.</summary>
    public void Extra(string name) => _extra.Add($"{SafetensorsHeader.Quoted(name)} is not part of the model");

    /// <summary>Both have a tensor: notes when its shape or type does not do.</summary>
    /// <param name="file">The file's.</param>
    /// <param name="shape">The model's shape.</param>
    /// <param name="types">Types that are read.</param>
    public void Both(TensorInfo file, long[] shape, params ReadOnlySpan<string> types)
    {
        if (!types.Contains(file.Type))
            _different.Add(
                $"tensor {SafetensorsHeader.Quoted(file.Name)} has type {file.Type}, and only {string.Join(" or ", types!)} is read");
        else if (!file.Shape.SequenceEqual(shape))
            _different.Add($"{SafetensorsHeader.Quoted(file.Name)} is {file.ShapeText}, but the model has {SafetensorsHeader.Text(shape)}");
    }

    /// <summary>All differences in one sentence, or <see langword="null"/> when there are none.</summary>
    public string? Problem()
    {
        var problems = new[] { (_different, "differ"), (_missing, "are missing"), (_extra, "are not part of the model") }
            .SelectMany(kind => kind.Item1.Count <= ShownOfAKind
                ? kind.Item1
                : kind.Item1.Take(ShownOfAKind).Append($"{kind.Item1.Count - ShownOfAKind} more {kind.Item2}"));
        string all = string.Join("; ", problems);
        return all.Length == 0 ? null : all;
    }
}
