using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Native;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf;

/// <summary>Where a trainer meets ML.NET: its place in the log, the context's seed, device and cancellation.</summary>
internal sealed class TrainerHost(IHostEnvironment environment, string name)
{
    private const int LogLines = 20;

    /// <summary>What the trained model is registered with.</summary>
    public IHostEnvironment Environment => environment;

    /// <summary>The host that errors go through.</summary>
    public IHost Host { get; } = environment.Register(name);

    /// <summary>Trains: opens a channel to <c>MLContext.Log</c>, and tells the loop where it runs and who listens.</summary>
    /// <param name="stage">Name of the stage in progress records.</param>
    /// <param name="options">Seed, progress and cancellation of this run.</param>
    /// <param name="train">The work.</param>
    /// <exception cref="InsufficientMemoryException">Memory ran out; the message says what to lower.</exception>
    public T Train<T>(string stage, OptimizationOptions options, Func<TrainingRun, T> train)
    {
        using var channel = Host.Start(stage);
        LibTorch.EnsureLoaded();
        int lastLine = 0;
        var run = new TrainingRun(
            stage, Devices.Of(environment, channel.WarningLine), options.Seed ?? HostInfo.Seed(Host) ?? 0, Report, channel.InfoLine,
            channel.WarningLine, Cancellation.Check(Host, options.CancellationToken));
        try
        {
            return train(run);
        }
        catch (Exception e) when (OutOfMemory.OfTraining(e, stage, options) is { } explanation)
        {
            throw Host.Process(explanation);
        }
        catch (Exception e) when (e is not OperationCanceledException)
        {
            Host.Process(e);
            throw;
        }

        void Report(TrainingProgress progress)
        {
            options.Progress?.Report(progress);
            int line = progress.Step * LogLines / progress.TotalSteps;
            if (line > lastLine || progress.ValidationLoss is not null)
            {
                lastLine = line;
                channel.InfoLine(ProgressLine.ForLog(progress));
            }
        }
    }
}

/// <summary>Which device ML.NET's settings mean.</summary>
internal static class Devices
{
    /// <exception cref="InvalidOperationException">The GPU that was asked for is not there, and falling back is not allowed.</exception>
    public static Device Of(IHostEnvironment environment, Action<string>? warn = null)
    {
        if (HostInfo.GpuDeviceId(environment) is not { } gpu)
            return CPU;
        if (cuda.is_available() && gpu < cuda.device_count())
            return device(TorchSharp.DeviceType.CUDA, gpu);
        string found = cuda.is_available() ? $"{cuda.device_count()} GPUs were found" : "no CUDA device or no CUDA backend was found";
        if (!HostInfo.FallbackToCpu(environment))
            throw environment.Process(new InvalidOperationException(
                $"MLContext.GpuDeviceId is {gpu}, but {found}. Add the package TorchSharp-cuda-linux or TorchSharp-cuda-windows, " +
                "choose another GpuDeviceId, or set MLContext.FallbackToCpu to true."));
        warn?.Invoke($"MLContext.GpuDeviceId is {gpu}, but {found}: running on the CPU.");
        return CPU;
    }
}

internal static class ChannelLines
{
    public static void InfoLine(this IChannel channel, string line) => channel.Info(MessageSensitivity.None, "{0}", line);

    public static void WarningLine(this IChannel channel, string line) => channel.Warning(MessageSensitivity.None, "{0}", line);
}
