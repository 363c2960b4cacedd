using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;

namespace ML.Rlhf.Bridge;

/// <summary>Objects as data, for a component that was loaded from a file and has an environment, but no <c>MLContext</c>.</summary>
internal static class InMemoryData
{
    /// <summary>What <c>ml.Data.LoadFromEnumerable</c> gives.</summary>
    public static IDataView Of<T>(IHostEnvironment env, IEnumerable<T> rows) where T : class =>
        DataViewConstructionUtils.CreateFromEnumerable(env, rows);
}
