using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;

namespace ML.Rlhf;

/// <summary>Both ways to stop work: the caller's token, and ML.NET's own, which AutoML uses when its time is over.</summary>
internal static class Cancellation
{
    /// <summary>What to call often, before each row and each step: it throws when somebody asked to stop.</summary>
    /// <param name="environment">The context, or a host of it.</param>
    /// <param name="token">The caller's.</param>
    public static Action Check(IHostEnvironment environment, CancellationToken token = default) => () =>
    {
        token.ThrowIfCancellationRequested();
        if (HostInfo.IsCanceled(environment))
            throw new OperationCanceledException("The operation was canceled by MLContext.CancelExecution().");
    };
}
