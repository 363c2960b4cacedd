using TorchSharp;
using TorchSharp.Modules;

namespace ML.Rlhf;

/// <summary>
/// Writes each record into an event file that TensorBoard shows, under the names of <see cref="TrainingProgress.ToMetrics"/> with the
/// stage before them, such as <c>PPO/objective/kl</c>.
/// </summary>
/// <remarks>
/// Each reporter writes a file of its own, so runs that shall be compared get a folder each, below the one that TensorBoard is started
/// with. A run that is resumed adds a file, and TensorBoard shows the steps that it took again twice.
/// </remarks>
public sealed class TensorBoardProgress : IProgress<TrainingProgress>
{
    private readonly string _folder;
    private SummaryWriter? _writer;

    /// <summary>Makes a reporter. The folder and its file come into being with the first record.</summary>
    /// <param name="folder">Where to write, such as <c>runs/ppo-1</c>.</param>
    /// <exception cref="ArgumentException">It is empty.</exception>
    public TensorBoardProgress(string folder)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(folder);
        _folder = Path.GetFullPath(folder);
    }

    /// <inheritdoc/>
    /// <exception cref="IOException">The file cannot be written.</exception>
    public void Report(TrainingProgress value)
    {
        ArgumentNullException.ThrowIfNull(value);
        _writer ??= torch.utils.tensorboard.SummaryWriter(_folder);
        foreach (var (name, number) in value.ToMetrics())
            _writer.add_scalar($"{value.Stage}/{name}", (float)number, value.Step);
    }
}
