using System.Globalization;
using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Nodes;
using ML.Rlhf.Torch.Checkpoints;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>
/// One moment of a run on disk: a folder with tensors (<c>state.safetensors</c>), numbers (<c>state.json</c>), what the run is
/// (<c>run.json</c>), and a manifest with the size and the SHA-256 of each of these. It has its name only once it is whole.
/// </summary>
internal sealed class RunCheckpoint
{
    /// <summary>What a folder's name ends with until it is whole, and again before it is deleted.</summary>
    public const string TemporarySuffix = ".tmp";

    private const string OldSuffix = ".old" + TemporarySuffix;

    private const string Prefix = "checkpoint-", TensorFile = "state.safetensors", ValueFile = "state.json", RunFile = "run.json",
        ManifestFile = "manifest.json";

    private const int Format = 1;
    private const long MaximumJsonBytes = 1 << 26; // alarms remember some thousand responses

    private static readonly string[] s_content = [RunFile, ValueFile, TensorFile];

    private readonly JsonObject _values;

    private RunCheckpoint(string folder, int step, RunManifest run, JsonObject values)
    {
        Folder = folder;
        Step = step;
        Run = run;
        _values = values;
    }

    public string Folder { get; }

    /// <summary>Steps that were done.</summary>
    public int Step { get; }

    /// <summary>The run that it belongs to.</summary>
    public RunManifest Run { get; }

    public static string NameOf(int step) => string.Create(CultureInfo.InvariantCulture, $"{Prefix}{step:D8}");

    /// <summary>The step that a folder of this name was written after; null where it is no checkpoint.</summary>
    public static int? StepOf(string folder)
    {
        string name = Path.GetFileName(folder);
        return name.StartsWith(Prefix, StringComparison.Ordinal)
            && int.TryParse(name.AsSpan(Prefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out int step) ? step : null;
    }

    /// <summary>Whether a folder is a checkpoint that is not whole, or is being deleted.</summary>
    public static bool IsTemporary(string folder) =>
        folder.EndsWith(TemporarySuffix, StringComparison.Ordinal)
        && Path.GetFileName(folder).StartsWith(Prefix, StringComparison.Ordinal);

    /// <summary>Writes a checkpoint. Until its last line, the folder has another name.</summary>
    /// <param name="folder">Where it will be.</param>
    /// <param name="step">Steps that were done.</param>
    /// <param name="run">The run that it belongs to.</param>
    /// <param name="visit">Names the state.</param>
    /// <exception cref="IOException">It could not be written; nothing is left of it.</exception>
    public static void Write(string folder, int step, RunManifest run, Action<StateVisitor> visit)
    {
        string temporary = folder + TemporarySuffix;
        try
        {
            if (!Directory.Exists(Path.GetDirectoryName(temporary)))
                throw new DirectoryNotFoundException("The folder is not there any more"); // another one of its name has not its lock
            Delete(temporary);
            Directory.CreateDirectory(temporary);
            var values = new JsonObject();
            List<(string Name, Tensor Tensor)> tensors = [];
            visit(StateVisitor.Save(values, (name, tensor) => tensors.Add((name, tensor))));

            FileEntry[] files =
            [
                WriteFile(temporary, TensorFile, stream =>
                {
                    SafetensorsHeader.Write(stream, tensors.Select(t => (t.Name, t.Tensor.shape)), "F32");
                    foreach (var (_, tensor) in tensors)
                        TensorBytes.Write(tensor, ScalarType.Float32, stream);
                }),
                WriteFile(temporary, ValueFile, stream => JsonSerializer.Serialize(stream, values)),
                WriteFile(temporary, RunFile, stream => stream.Write(run.ToJson())),
            ];
            WriteFile(temporary, ManifestFile, stream => JsonSerializer.Serialize(stream, new Manifest(Format, step, files)));
            Delete(folder); // of a run that went back behind this step
            Directory.Move(temporary, folder);
        }
        catch (Exception e) when (DiskErrors.Is(e))
        {
            TryDelete(temporary);
            throw new IOException(
                $"The checkpoint of step {step} could not be written to '{folder}': {e.Reason()}. Nothing is left of it. Free " +
                "some space, or mend the folder, and call Fit again: with the same options and data it goes on after the last " +
                "checkpoint.", e);
        }
    }

    /// <summary>Opens a checkpoint that a person named.</summary>
    /// <exception cref="FileNotFoundException">It is none.</exception>
    /// <inheritdoc cref="Open"/>
    public static RunCheckpoint OpenOther(string path)
    {
        string folder = Path.TrimEndingDirectorySeparator(Path.GetFullPath(path));
        return File.Exists(Path.Combine(folder, ManifestFile)) ? Open(folder) : throw new FileNotFoundException(
            $"'{path}' is no checkpoint: it has no {ManifestFile}. Name a folder such as 'runs/ppo/{NameOf(100)}', with a path from " +
            $"'{Environment.CurrentDirectory}' or a full one.");
    }

    /// <summary>Opens a checkpoint and looks whether it is what was written.</summary>
    /// <exception cref="FormatException">It is damaged; the message says where.</exception>
    /// <exception cref="IOException">It cannot be read.</exception>
    public static RunCheckpoint Open(string folder)
    {
        string reading = ManifestFile;
        try
        {
            var manifest = JsonSerializer.Deserialize<Manifest>(ReadAll(folder, ManifestFile));
            if (manifest is not { Format: Format, Files: { } files } || !files.Select(file => file?.Name).Order().SequenceEqual(s_content))
                throw new FormatException("it is no manifest of this version");
            foreach (var file in files)
            {
                reading = file.Name;
                RequireUnchanged(folder, file);
            }
            reading = RunFile;
            var run = RunManifest.FromJson(ReadAll(folder, RunFile));
            reading = ValueFile;
            var values = JsonNode.Parse(ReadAll(folder, ValueFile)) as JsonObject ?? throw new FormatException("it is no object");
            return new RunCheckpoint(folder, manifest.Step, run, values);
        }
        catch (Exception e) when (e is FormatException or JsonException or FileNotFoundException or DirectoryNotFoundException)
        {
            throw new FormatException($"The checkpoint '{folder}' is damaged, in {reading}: {e.Message.TrimEnd('.')}.", e);
        }
        catch (Exception e) when (DiskErrors.Is(e))
        {
            throw new IOException(
                $"The checkpoint '{folder}' cannot be read, in {reading}: {e.Reason()}. Let this process read it, or move it " +
                "away to go on after the one before it.", e);
        }
    }

    /// <summary>Gives a run back what it was.</summary>
    /// <param name="visit">Names the state.</param>
    /// <exception cref="FormatException">The state has other parts, or others shapes.</exception>
    public void Restore(Action<StateVisitor> visit)
    {
        using var file = new SafetensorsFile(Path.Combine(Folder, TensorFile));
        var saved = file.Tensors.ToDictionary(tensor => tensor.Name);
        visit(StateVisitor.Restore(_values, (name, tensor) =>
        {
            if (!saved.TryGetValue(name, out var info) || !info.Shape.AsSpan().SequenceEqual(tensor.shape))
                throw new FormatException(
                    $"'{Folder}' has {(info is null ? "no tensor" : $"shape {info.ShapeText} for")} '{name}', where the run has " +
                    $"{SafetensorsHeader.Text(tensor.shape)}. It was saved with other options or by another version of this library.");
            file.Read(info, tensor);
        }));
    }

    /// <summary>Deletes a checkpoint, or what is left of one. Renamed first, it is never taken for a whole one.</summary>
    public static void Delete(string folder)
    {
        if (!Directory.Exists(folder))
            return;
        if (!folder.EndsWith(TemporarySuffix, StringComparison.Ordinal))
        {
            string old = folder + OldSuffix; // not the name that its successor is written under
            if (Directory.Exists(old))
                Directory.Delete(old, recursive: true);
            Directory.Move(folder, old);
            folder = old;
        }
        Directory.Delete(folder, recursive: true);
    }

    private static void TryDelete(string folder)
    {
        try
        {
            Delete(folder);
        }
        catch (Exception e) when (DiskErrors.Is(e))
        {
            // The error that brought us here says more, and the next run deletes it.
        }
    }

    private static FileEntry WriteFile(string folder, string name, Action<Stream> write)
    {
        using var sha = SHA256.Create();
        using var file = new FileStream(Path.Combine(folder, name), FileMode.CreateNew, FileAccess.Write);
        using (var hashing = new CryptoStream(file, sha, CryptoStreamMode.Write, leaveOpen: true))
            write(hashing);
        file.Flush(flushToDisk: true);
        return new FileEntry(name, file.Length, Convert.ToHexStringLower(sha.Hash!));
    }

    private static byte[] ReadAll(string folder, string name)
    {
        string path = Path.Combine(folder, name);
        long length = new FileInfo(path).Length;
        return length <= MaximumJsonBytes ? File.ReadAllBytes(path) : throw new FormatException(
            $"it has {length} bytes, and at most {MaximumJsonBytes} are read");
    }

    private static void RequireUnchanged(string folder, FileEntry entry)
    {
        using var file = File.OpenRead(Path.Combine(folder, entry.Name));
        if (file.Length != entry.Bytes)
            throw new FormatException($"it has {file.Length} bytes, and had {entry.Bytes} when it was written");
        if (Convert.ToHexStringLower(SHA256.HashData(file)) != entry.Sha256)
            throw new FormatException("it is not what was written (its checksum differs)");
    }

    private sealed record Manifest(int Format, int Step, FileEntry[] Files);

    private sealed record FileEntry(string Name, long Bytes, string Sha256);
}
