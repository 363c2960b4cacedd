using System.Text.Json;
using System.Text.Json.Serialization;

namespace ML.Rlhf.Torch.Training;

/// <summary>What a run reported of a step.</summary>
internal sealed record ProgressEntry(
    int Step, TimeSpan Elapsed, IReadOnlyDictionary<string, double> Metrics, IReadOnlyList<TrainingAlarm> Alarms);

/// <summary>
/// What a run reported, a line of JSON for each step: <c>progress.jsonl</c>. It can be read while the run goes on. A run that is resumed
/// cuts it where its checkpoint was written, so each step stands in it once.
/// </summary>
internal sealed class ProgressHistory : IDisposable
{
    private const string FileName = "progress.jsonl", Step = "step", ElapsedSeconds = "elapsed_seconds", Alarms = "alarms";

    private static readonly JsonSerializerOptions s_json = new()
    {
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
        Converters = { new JsonStringEnumConverter() },
    };

    private readonly FileStream _file;

    /// <param name="folder">Where it is.</param>
    /// <param name="from">Where the run's history until now is: the same folder, or the one that the run branches off from.</param>
    /// <param name="bytes">How much of it there was then. Where there is less, it was lost, and what is there stays.</param>
    public ProgressHistory(string folder, string from, long bytes)
    {
        string path = Path.Combine(folder, FileName), source = Path.Combine(from, FileName);
        try
        {
            if (source != path && bytes > 0 && File.Exists(source))
                File.Copy(source, path, overwrite: true);
            _file = new FileStream(path, FileMode.OpenOrCreate, FileAccess.Write, FileShare.Read, bufferSize: 0);
            if (_file.Length > bytes)
                _file.SetLength(bytes);
            _file.Seek(0, SeekOrigin.End);
        }
        catch (Exception e) when (DiskErrors.Is(e))
        {
            throw new IOException(
                $"'{path}', the history of the run, cannot be written: {e.Reason()}. Free some space, or mend the file or " +
                "delete it, and call Fit again: no checkpoint was changed.", e);
        }
    }

    /// <summary>Reads what a run reported until now; a line that is being written, or was when the process died, is left out.</summary>
    /// <param name="folder">Where it is.</param>
    /// <exception cref="FileNotFoundException">There is no history.</exception>
    /// <exception cref="FormatException">A line is damaged.</exception>
    public static IEnumerable<ProgressEntry> Read(string folder)
    {
        string path = Path.Combine(folder, FileName);
        if (!File.Exists(path))
            throw new FileNotFoundException(
                $"'{folder}' has no {FileName}. Name a folder that {nameof(CheckpointOptions)}.{nameof(CheckpointOptions.Folder)} was.", path);
        using var reader = new StreamReader(new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite));
        for (int number = 1; reader.ReadLine() is { } line; number++)
        {
            ProgressEntry entry;
            try
            {
                entry = Parse(line);
            }
            catch (Exception e) when (e is JsonException or InvalidOperationException or FormatException or KeyNotFoundException)
            {
                if (reader.EndOfStream)
                    yield break;
                throw new FormatException($"Line {number} of '{path}' is damaged: {e.Message} Delete the line to read the others.", e);
            }
            yield return entry;
        }
    }

    private static ProgressEntry Parse(string line)
    {
        var values = JsonSerializer.Deserialize<Dictionary<string, JsonElement>>(line)
            ?? throw new JsonException("It is null, but must be an object.");
        return new ProgressEntry(
            values[Step].GetInt32(), TimeSpan.FromSeconds(values[ElapsedSeconds].GetDouble()),
            values.Where(v => v.Key is not (Step or ElapsedSeconds or Alarms))
                .ToDictionary(v => v.Key, v => v.Value.Deserialize<double>(s_json)),
            values.TryGetValue(Alarms, out var alarms) ? alarms.Deserialize<TrainingAlarm[]>(s_json) ?? [] : []);
    }

    /// <summary>Brings it to the disk.</summary>
    /// <returns>Its length.</returns>
    public long Flush()
    {
        _file.Flush(flushToDisk: true);
        return _file.Position;
    }

    public void Add(TrainingProgress progress)
    {
        var line = new Dictionary<string, object> { [Step] = progress.Step };
        foreach (var (name, value) in progress.ToMetrics())
            line[name] = value;
        line[ElapsedSeconds] = Math.Round(progress.Elapsed.TotalSeconds, 3);
        if (progress is PolicyProgress { Alarms: { Count: > 0 } alarms })
            line[Alarms] = alarms;
        try
        {
            _file.Write([.. JsonSerializer.SerializeToUtf8Bytes(line, s_json), (byte)'\n']);
        }
        catch (Exception e) when (DiskErrors.Is(e))
        {
            throw new IOException(
                $"Step {progress.Step} could not be added to '{_file.Name}': {e.Reason()}. Free some space, and call Fit " +
                "again: with the same options and data it goes on after the last checkpoint.", e);
        }
    }

    public void Dispose() => _file.Dispose();
}
