namespace ML.Rlhf.Jinja;

/// <summary>A template is wrong, uses what is not supported, or refuses what it is given.</summary>
/// <param name="message">What is wrong, beginning in lower case.</param>
/// <param name="line">The line, from 1; null until somebody knows it.</param>
internal sealed class JinjaException(string message, int? line = null) : Exception(message)
{
    public int? Line { get; } = line;
}
