using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

/// <summary>
/// libtorch says by a message alone that memory ran out: TorchSharp throws the same exception for every error. Here it becomes one that
/// can be caught by its type, and that says what to change.
/// </summary>
internal static partial class OutOfMemory
{
    /// <summary>Runs a model on texts.</summary>
    /// <exception cref="InsufficientMemoryException">Memory ran out; nothing is left of the attempt.</exception>
    public static T Explain<T>(Func<T> score)
    {
        try
        {
            return score();
        }
        catch (Exception e) when (Explanation(e, "Running the model", "Pass fewer or shorter texts at a time, or draw fewer new tokens. " +
            "A smaller model or one with a shorter context needs less, too.") is { } explanation)
        {
            throw explanation;
        }
    }

    /// <summary>What an exception that ended training means, if it means that memory ran out; null where it does not.</summary>
    public static InsufficientMemoryException? OfTraining(Exception e, string stage, OptimizationOptions options)
    {
        string rows = options.MicroBatchSize is { } now
            ? $"Lower MicroBatchSize ({now})"
            : "Set MicroBatchSize to a part of the batch";
        string longest = options is PolicyHyperparameters policy
            ? $"lower EpisodesPerUpdate ({policy.EpisodesPerUpdate}) or MaxResponseTokens ({policy.MaxResponseTokens})"
            : "lower BatchSize";
        return Explanation(
            e, stage + " training", $"{rows}, which changes nothing but rounding. Where that is not enough, {longest}, shorten the texts, or " +
            "train a smaller model or one with a shorter context.");
    }

    private static InsufficientMemoryException? Explanation(Exception e, string what, string fix)
    {
        if (!(e is ExternalException && Shortage().IsMatch(e.Message)) && e is not OutOfMemoryException)
            return null;
        if (e is InsufficientMemoryException)
            return null; // explained already
        var match = Request().Match(e.Message);
        string amount = match.Success ? $": {Readable(match.Groups[1].Value, match.Groups[2].Value)} more were asked for at once" : "";
        string where = e.Message.Contains("CUDA", StringComparison.Ordinal) ? "the GPU's memory" : "memory";
        return new InsufficientMemoryException($"{what} ran out of {where}{amount}. {fix}", e);
    }

    /// <summary>CUDA's allocator says "20.00 GiB", the CPU's "21474836480 bytes".</summary>
    private static string Readable(string number, string unit)
    {
        double gigabytes = double.Parse(number, CultureInfo.InvariantCulture) / (1L << 30);
        return unit == "bytes" ? string.Create(CultureInfo.InvariantCulture, $"{gigabytes:0.00} GiB") : $"{number} {unit}";
    }

    [GeneratedRegex("can't allocate memory|not enough memory|out of memory|_STATUS_ALLOC_FAILED", RegexOptions.IgnoreCase)]
    private static partial Regex Shortage();

    [GeneratedRegex("to allocate ([0-9.]+) (bytes|[KMGT]iB)")]
    private static partial Regex Request();
}
