using System.Text.Json;

namespace ML.Rlhf.Torch.Training;

/// <summary>The checkpoints of one run: which of them is the newest whole one, and which are kept. Only one process may have it.</summary>
internal sealed class CheckpointFolder : IDisposable
{
    private const string LockFile = ".lock", ProbeFile = ".probe", RunFile = "run.json", DamagedSuffix = ".damaged";

    private readonly string _path;
    private readonly TrainingRun _run;
    private readonly FileStream _lock;

    /// <exception cref="IOException">The folder cannot be written, or another run has it.</exception>
    public CheckpointFolder(string path, TrainingRun run)
    {
        _path = Path.TrimEndingDirectorySeparator(Path.GetFullPath(path)); // "run/" is "run"
        _run = run;
        try
        {
            Directory.CreateDirectory(_path);
            File.WriteAllBytes(Path.Combine(_path, ProbeFile), []); // can it be written at all?
            File.Delete(Path.Combine(_path, ProbeFile));
        }
        catch (Exception e) when (DiskErrors.Is(e))
        {
            throw new IOException(
                $"{nameof(CheckpointOptions)}.{nameof(CheckpointOptions.Folder)} '{_path}' cannot be written: {e.Reason()}. " +
                "Choose a folder that can be, or free some space.", e);
        }
        try
        {
            _lock = new FileStream(
                Path.Combine(_path, LockFile), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        }
        catch (IOException e)
        {
            throw new IOException(
                $"{nameof(CheckpointOptions)}.{nameof(CheckpointOptions.Folder)} '{_path}' is in use by another run. Wait until it has " +
                "ended, or choose another folder.", e);
        }
    }

    public string FullPath => _path;

    /// <summary>The checkpoint of a step.</summary>
    public string this[int step] => Path.Combine(_path, RunCheckpoint.NameOf(step));

    /// <summary>Where the run begins; null for its beginning. What a killed process left half done is deleted.</summary>
    /// <exception cref="InvalidOperationException">There are checkpoints where none may be, or they are all damaged.</exception>
    /// <exception cref="FormatException">The checkpoint that was asked for is damaged.</exception>
    /// <exception cref="FileNotFoundException">What was asked for is no checkpoint.</exception>
    public RunCheckpoint? Find(Resume resume)
    {
        foreach (string left in Directory.GetDirectories(_path).Where(RunCheckpoint.IsTemporary))
            RunCheckpoint.Delete(left);
        int[] steps = Steps();
        if (resume == Resume.Never && steps.Length > 0)
            throw new InvalidOperationException(
                $"'{_path}' has checkpoints of a run, and {nameof(Resume)}.{nameof(Resume.Never)} would write over them. Choose another " +
                $"folder, delete them, or go on after the last one with {nameof(Resume)}.{nameof(Resume.Auto)}.");
        if (steps.Length == 0)
            return resume.Path is { } path ? RunCheckpoint.OpenOther(path) : null;
        return NewestWhole(steps);
    }

    /// <summary>Reads <c>run.json</c> of a folder that another run may have.</summary>
    /// <exception cref="FileNotFoundException">There is none.</exception>
    /// <exception cref="FormatException">It is damaged.</exception>
    public static RunManifest ReadManifest(string folder)
    {
        string file = Path.Combine(folder, RunFile);
        if (!File.Exists(file))
            throw new FileNotFoundException(
                $"'{folder}' has no {RunFile}. Name a folder that {nameof(CheckpointOptions)}.{nameof(CheckpointOptions.Folder)} was.", file);
        try
        {
            return RunManifest.FromJson(File.ReadAllBytes(file));
        }
        catch (JsonException e)
        {
            throw new FormatException($"'{file}' does not say what the run is: {e.Message}.", e);
        }
    }

    /// <summary>Writes <c>run.json</c>.</summary>
    /// <exception cref="IOException">It could not be written; one that was there is as it was.</exception>
    public void WriteManifest(RunManifest manifest)
    {
        string file = Path.Combine(_path, RunFile), temporary = file + RunCheckpoint.TemporarySuffix;
        try
        {
            File.WriteAllBytes(temporary, manifest.ToJson());
            File.Move(temporary, file, overwrite: true);
        }
        catch (Exception e) when (DiskErrors.Is(e))
        {
            throw new IOException(
                $"'{file}', which says what the run is, could not be written: {e.Reason()}. Free some space, or mend the folder, and " +
                "call Fit again: no checkpoint was changed.", e);
        }
    }

    /// <summary>Deletes all checkpoints but the newest ones.</summary>
    /// <param name="keep">How many stay.</param>
    /// <param name="best">One that stays in any case.</param>
    public void Prune(int keep, int? best)
    {
        try
        {
            foreach (int step in Steps().SkipLast(keep).Where(step => step != best))
                RunCheckpoint.Delete(this[step]);
        }
        catch (Exception e) when (DiskErrors.Is(e))
        {
            _run.Warn($"An old checkpoint could not be deleted: {e.Message} The run goes on.");
        }
    }

    public void Dispose() => _lock.Dispose();

    private int[] Steps() => [.. Directory.GetDirectories(_path).Select(RunCheckpoint.StepOf).OfType<int>().Order()];

    private RunCheckpoint NewestWhole(int[] steps)
    {
        List<string> problems = [];
        foreach (int step in steps.Reverse())
        {
            try
            {
                var checkpoint = RunCheckpoint.Open(this[step]);
                SetAside(steps.Where(newer => newer > step), problems);
                return checkpoint;
            }
            catch (FormatException e)
            {
                problems.Add(e.Message);
            }
        }
        throw new InvalidOperationException(
            $"No checkpoint of '{_path}' can be used. {string.Join(" ", problems)} Copy a whole one there, or delete them to begin anew.");
    }

    private void SetAside(IEnumerable<int> damaged, List<string> problems)
    {
        foreach (var (step, problem) in damaged.Reverse().Zip(problems))
        {
            _run.Warn($"{problem} It is set aside as '{RunCheckpoint.NameOf(step)}{DamagedSuffix}', and the one before it is used.");
            if (Directory.Exists(this[step] + DamagedSuffix))
                Directory.Delete(this[step] + DamagedSuffix, recursive: true);
            Directory.Move(this[step], this[step] + DamagedSuffix);
        }
    }
}
