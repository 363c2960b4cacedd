using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;

namespace ML.Rlhf.Bridge;

/// <summary>What an <see cref="MLContext"/>, or a host registered with one, knows and keeps to itself.</summary>
internal static class HostInfo
{
    /// <summary>The seed that the context was created with; null for none.</summary>
    public static int? Seed(IHostEnvironment env) => (env as IHostEnvironmentInternal)?.Seed;

    /// <summary>The GPU to use, from 0; null for the CPU (<see cref="MLContext.GpuDeviceId"/>).</summary>
    public static int? GpuDeviceId(IHostEnvironment env) => (env as IHostEnvironmentInternal)?.GpuDeviceId;

    /// <summary>
    /// Whether to run on the CPU when that GPU cannot be used, instead of failing (<see cref="MLContext.FallbackToCpu"/>); false until set.
    /// </summary>
    public static bool FallbackToCpu(IHostEnvironment env) => env is IHostEnvironmentInternal { FallbackToCpu: true };

    /// <summary>Whether the context's work was cancelled, as AutoML does when its time is over.</summary>
    public static bool IsCanceled(IHostEnvironment env) => Root(env) is ICancelable { IsCanceled: true };

    /// <summary>The environment behind <c>ml.Data</c>: what an extension method on that catalog registers its host with.</summary>
    public static IHostEnvironment Of(DataOperationsCatalog catalog) => CatalogUtils.GetEnvironment(catalog);

    /// <summary>A context does not tell whether it is cancelled; the environment that it shares with its catalogs does.</summary>
    private static IHostEnvironment Root(IHostEnvironment env) => env is MLContext ml ? Of(ml.Data) : env;
}
