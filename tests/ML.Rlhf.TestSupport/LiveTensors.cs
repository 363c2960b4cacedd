using TorchSharp;

namespace ML.Rlhf.TestSupport;

/// <summary>Counts the tensors that this thread has made and not disposed. A finaliser that cleans up later does not count.</summary>
internal static class LiveTensors
{
    public static long Count => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

    /// <summary>Throws unless the action disposes every tensor that it makes.</summary>
    public static void AssertNoneLeftBy(Action action)
    {
        action(); // what is made once per process is not a leak
        long before = Count;
        action();
        if (Count != before)
            throw new CloseException($"{Count - before} tensors are still alive after the action.");
    }
}
