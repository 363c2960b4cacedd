using System.Reflection;
using System.Runtime.InteropServices;
using System.Text.Json;
using TorchSharp;
using static TorchSharp.torch;
using Module = TorchSharp.torch.nn.Module;

namespace ML.Rlhf.Torch.Training;

/// <summary>What a run begins with: all that its weights depend on.</summary>
/// <param name="Options">What a person chose.</param>
/// <param name="TotalSteps">Steps, or updates, of the whole run.</param>
/// <param name="Models">What is trained, with the weights that it begins with.</param>
/// <param name="Data">What is read, under the names that messages call it; null where there is none.</param>
internal sealed record RunStart(
    OptimizationOptions Options, int TotalSteps, Module[] Models, params (string Name, IFingerprinted? Content)[] Data)
{
    /// <summary>Whether the run is to end before its last step.</summary>
    public Func<bool> IsOver { get; init; } = () => false;
}

/// <summary>What a run was: what must be the same to resume it, and what was around it. It is <c>run.json</c>.</summary>
/// <param name="Stage">The trainer.</param>
/// <param name="Started">When the run began, or was last resumed, to the second: equal runs have files of one length.</param>
/// <param name="Settings">Options, seed, and fingerprints of data and starting model. A run is resumed with the same ones.</param>
/// <param name="Surroundings">Versions, machine, device, threads and precision. With others a run goes on, but its bits may differ.</param>
internal sealed record RunManifest(
    string Stage, DateTimeOffset Started, SortedDictionary<string, string> Settings, SortedDictionary<string, string> Surroundings)
{
    private static readonly JsonSerializerOptions s_json = new() { WriteIndented = true, IndentSize = 1 };

    public static RunManifest Of(RunStart start, TrainingRun run)
    {
        var settings = OptionValues.Of(start.Options).ToDictionary(option => option.Name, option => option.Value);
        settings["Seed"] = $"{unchecked((long)run.Seed)}";
        settings["Model"] = Fingerprint.Of(start.Models);
        foreach (var (name, content) in start.Data)
            settings[name] = content is null ? "null" : Fingerprint.Of(content);
        foreach (var (name, identity) in run.Dependencies)
            settings[name] = identity;
        var started = DateTimeOffset.FromUnixTimeSeconds(DateTimeOffset.UtcNow.ToUnixTimeSeconds());
        return new RunManifest(
            run.Stage, started, new(settings, StringComparer.Ordinal), new(ThisProgram(), StringComparer.Ordinal)
            {
                ["Device"] = $"{run.Device}",
                ["Precision"] = $"{ComputeScope.Of(start.Models)}",
            });
    }

    /// <summary>Versions, machine and threads.</summary>
    public static Dictionary<string, string> ThisProgram() => new()
    {
        ["ML.Rlhf"] = Version(typeof(RunManifest)),
        ["TorchSharp"] = Version(typeof(torch)),
        [".NET"] = RuntimeInformation.FrameworkDescription,
        ["OS"] = RuntimeInformation.OSDescription,
        ["Architecture"] = $"{RuntimeInformation.ProcessArchitecture}",
        ["Threads"] = $"{get_num_threads()}",
        ["Processors"] = $"{Environment.ProcessorCount}",
    };

    public byte[] ToJson() => JsonSerializer.SerializeToUtf8Bytes(this, s_json);

    /// <exception cref="JsonException">It is none.</exception>
    public static RunManifest FromJson(ReadOnlySpan<byte> json) =>
        JsonSerializer.Deserialize<RunManifest>(json, s_json) is { Settings: not null, Surroundings: not null } manifest
            ? manifest
            : throw new JsonException("it has no settings");

    /// <summary>Refuses to go on with a run that was another one.</summary>
    /// <param name="saved">The run as it was.</param>
    /// <param name="checkpoint">Where it was saved.</param>
    /// <param name="allowed">Names of what may differ.</param>
    /// <exception cref="InvalidOperationException">Something else differs; the message lists it.</exception>
    public void RequireSameAs(RunManifest saved, string checkpoint, IReadOnlyList<string> allowed)
    {
        var differences = Differences(saved.Settings, Settings)
            .Where(d => !allowed.Any(name => d.Name == name || d.Name.StartsWith(name + ".", StringComparison.Ordinal)))
            .Select(d => $"{d.Name} was {d.Then} and is {d.Now}").ToList();
        if (saved.Stage != Stage)
            differences.Insert(0, $"the trainer was {saved.Stage} and is {Stage}");
        if (differences.Count > 0)
            throw new InvalidOperationException(
                $"'{checkpoint}' belongs to a run that was begun with something else: {string.Join("; ", differences)}. Go on with the " +
                $"same, name what may differ in {nameof(CheckpointOptions)}.{nameof(CheckpointOptions.AllowedChanges)}, or choose " +
                $"another {nameof(CheckpointOptions.Folder)}.");
    }

    /// <summary>What differs around the run, in a sentence; null where nothing does.</summary>
    public string? ChangedSurroundings(RunManifest saved)
    {
        string[] differences =
            [.. Differences(saved.Surroundings, Surroundings).Select(d => $"{d.Name} was {d.Then} and is {d.Now}")];
        return differences.Length == 0 ? null
            : $"The run goes on, but perhaps not with the bits that it would have had: {string.Join("; ", differences)}.";
    }

    private static IEnumerable<(string Name, string Then, string Now)> Differences(
        SortedDictionary<string, string> then, SortedDictionary<string, string> now) =>
        from name in then.Keys.Union(now.Keys)
        let pair = (Then: then.GetValueOrDefault(name, "missing"), Now: now.GetValueOrDefault(name, "missing"))
        where pair.Then != pair.Now
        select (name, Short(pair.Then), Short(pair.Now));

    /// <summary>Enough of a fingerprint to see that it is another one.</summary>
    private static string Short(string value) => value.Length == 64 ? value[..12] + "…" : value;

    private static string Version(Type type) =>
        type.Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion
        ?? $"{type.Assembly.GetName().Version}";
}
