namespace ML.Rlhf;

/// <summary>How JSON Lines files are read.</summary>
public sealed record JsonLinesOptions
{
    /// <summary>What to do with a line that is not a JSON object with the fields of the schema.</summary>
    /// <value><see cref="BadLine.Fail"/> by default: data that is silently left out changes what a model learns.</value>
    public BadLine OnBadLine { get; init; } = BadLine.Fail;

    /// <summary>
    /// The longest line, in bytes. A longer one is a bad line, so that a file that is no JSON Lines cannot take all memory.
    /// </summary>
    /// <value>From 1 to 1 GB (2³⁰). 64 MB (2²⁶) by default, which is more text than any context holds.</value>
    public int MaxLineLength { get; init; } = 64 << 20;

    /// <exception cref="ArgumentException">A value is out of its range; the message lists each one.</exception>
    internal void Validate()
    {
        var problems = new OptionProblems(nameof(JsonLinesOptions));
        problems.Require(Enum.IsDefined(OnBadLine), nameof(OnBadLine), OnBadLine, "BadLine.Fail or BadLine.Skip");
        problems.Require(MaxLineLength is > 0 and <= 1 << 30, nameof(MaxLineLength), MaxLineLength, "from 1 to 1073741824 (1 GB)");
        problems.Throw();
    }
}

/// <summary>What to do with a line that cannot be read.</summary>
public enum BadLine
{
    /// <summary>Throw a <see cref="FormatException"/> that names the file, the line and the problem.</summary>
    Fail,

    /// <summary>
    /// Go on with the next line, count (<see cref="JsonLinesLoader.SkippedLines"/>), and log one warning at the end of the pass.
    /// </summary>
    Skip,
}
