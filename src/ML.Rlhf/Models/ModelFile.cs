using System.IO.Compression;

namespace ML.Rlhf;

/// <summary>A look at a model.zip before anything of it is unpacked.</summary>
internal static class ModelFile
{
    /// <summary>A pipeline in a pipeline in a pipeline takes six folders; loading goes down the stack with each.</summary>
    private const int MaximumDepth = 100;

    /// <summary>Weights hardly get smaller; those of a model that has learned nothing are zeros, and small models may be.</summary>
    private const long MaximumRatio = 100, AlwaysAllowed = 64 << 20;

    /// <exception cref="FormatException">An entry would unpack to far more than it is, or stands far too deep in folders.</exception>
    /// <exception cref="InvalidDataException">It is no zip file.</exception>
    public static void RequireOrdinary(string path)
    {
        using var zip = ZipFile.OpenRead(path);
        foreach (var entry in zip.Entries)
        {
            if (entry.Length > AlwaysAllowed && entry.Length / MaximumRatio > entry.CompressedLength)
                throw new FormatException(
                    $"its entry '{Texts.Shorten(entry.FullName)}' would unpack from {entry.CompressedLength} bytes to {entry.Length}");
            if (entry.FullName.AsSpan().CountAny('/', '\\') > MaximumDepth)
                throw new FormatException(
                    $"its entry '{Texts.Shorten(entry.FullName)}' lies in more than {MaximumDepth} folders");
        }
    }
}
