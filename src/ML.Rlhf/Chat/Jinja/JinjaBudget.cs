namespace ML.Rlhf.Jinja;

/// <summary>
/// What a rendering may cost. Each step counts, and each character and item that a step reads or makes: a template can neither hang nor
/// fill the memory.
/// </summary>
internal sealed class JinjaBudget
{
    /// <summary>Enough for any real template: the longest take some hundred steps for a message.</summary>
    private const double Base = 4_000_000, ForEachCharacter = 200;

    private readonly double _limit;
    private double _left;

    /// <param name="inputLength">Characters of what is rendered.</param>
    public JinjaBudget(long inputLength) => _left = _limit = Base + ForEachCharacter * inputLength;

    /// <summary>For a step that goes through all of some values.</summary>
    public void SpendOn(params ReadOnlySpan<object?> values)
    {
        foreach (object? value in values)
            Spend(Python.Weight(value));
    }

    /// <summary>For a step that may look for one text in another, which takes long where both are long.</summary>
    public void SpendOnSearch(params ReadOnlySpan<object?> values)
    {
        SpendOn(values);
        double product = 1;
        foreach (object? value in values)
            product *= value is JinjaText text ? 1 + text.Value.Length : 1;
        Spend(product / 256);
    }

    public void Spend(double cost)
    {
        _left -= cost;
        if (!(_left >= 0))
            throw new JinjaException(FormattableString.Invariant(
                $"the rendering takes more than {_limit:F0} steps and characters, which no chat template needs"));
    }
}
