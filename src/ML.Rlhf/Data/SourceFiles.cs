using System.Collections.Concurrent;
using System.Globalization;
using Microsoft.ML.Data;

namespace ML.Rlhf;

/// <summary>
/// The files of a data view. Each pass opens them anew, and trainers make several: a file that is another one by then, or gone, is an
/// error, for a model must not learn from half of one file and half of another.
/// </summary>
internal sealed class SourceFiles(IMultiStreamSource source)
{
    private readonly ConcurrentDictionary<int, Stamp> _stamps = []; // of the files as the first pass found them

    public int Count => source.Count;

    /// <summary>What errors call a file.</summary>
    public string Name(int index) => source.GetPathOrNull(index) ?? $"stream {index + 1}";

    /// <exception cref="FileNotFoundException">The file was there in an earlier pass.</exception>
    /// <exception cref="IOException">The file is not the one of an earlier pass.</exception>
    public Stream Open(int index)
    {
        if (source.GetPathOrNull(index) is { } path)
            RequireSame(index, path);
        return source.Open(index);
    }

    private void RequireSame(int index, string path)
    {
        var file = new FileInfo(path);
        if (!file.Exists)
        {
            if (_stamps.ContainsKey(index))
                throw new FileNotFoundException(
                    $"The file '{path}' is gone. It was read before, but each pass over the data reads its files again, and a trainer " +
                    "may make several. Put it back, or hold the data in memory with ml.Data.Cache.", path);
            return; // a source may have streams of other kinds
        }
        var now = new Stamp(file.Length, file.LastWriteTimeUtc);
        var first = _stamps.GetOrAdd(index, now);
        if (now != first)
            throw new IOException(
                $"The file '{path}' was changed since it was first read: it was {first}, and is {now}. Each pass over the data reads " +
                "its files again, and a trainer may make several. Load the data anew, and let nothing write to the file meanwhile.");
    }

    private readonly record struct Stamp(long Length, DateTime Written)
    {
        public override string ToString() =>
            string.Create(CultureInfo.InvariantCulture, $"{Length} bytes, written at {Written:yyyy-MM-dd HH:mm:ss.fff} UTC");
    }
}
