namespace ML.Rlhf.Tests.Threads;

/// <summary>Threads that do the same at the same time, while the collector is never at rest.</summary>
internal static class ManyThreads
{
    public const int Count = 8;

    /// <summary>Runs the action on threads of its own and gives what each returned; the first error is thrown.</summary>
    public static T[] Run<T>(Func<int, T> action, int threads = Count)
    {
        var results = new T[threads];
        var errors = new System.Collections.Concurrent.ConcurrentQueue<Exception>();
        using var start = new Barrier(threads);
        using var collecting = new CancellationTokenSource();
        var collector = new Thread(() => CollectUntil(collecting.Token));
        collector.Start();
        Thread[] workers = [.. Enumerable.Range(0, threads).Select(i => new Thread(() =>
        {
            try
            {
                start.SignalAndWait();
                results[i] = action(i);
            }
            catch (Exception e)
            {
                errors.Enqueue(e);
            }
        }))];
        foreach (var worker in workers)
            worker.Start();
        foreach (var worker in workers)
            worker.Join();
        collecting.Cancel();
        collector.Join();
        if (errors.TryDequeue(out var error))
            throw new InvalidOperationException($"{errors.Count + 1} of {threads} threads failed.", error);
        return results;
    }

    /// <summary>Collections of the youngest objects, such as a busy server has, many times a second.</summary>
    private static void CollectUntil(CancellationToken stop)
    {
        while (!stop.WaitHandle.WaitOne(1))
            GC.Collect(0);
    }
}
