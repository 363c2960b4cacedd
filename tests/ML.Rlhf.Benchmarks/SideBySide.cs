using System.Globalization;
using ML.Rlhf.Benchmarks.Measuring;
using ML.Rlhf.Benchmarks.Works;

namespace ML.Rlhf.Benchmarks;

/// <summary>Our side and the peer's, in turn, each in a process of its own.</summary>
internal static class SideBySide
{
    public static void Run(Work[] works, PeerFolder? peer, int rounds)
    {
        Console.WriteLine($"{Machine.Description}, {Child.Threads} threads, {DateTime.UtcNow:yyyy-MM-dd}");
        if (peer is not null && Child.BlasSettings.Length > 0)
            Console.WriteLine($"environment: {string.Join(' ', Child.BlasSettings)}{(peer.ClearBlas ? " (hidden from the peer)" : "")}");

        var limit = MachineLimit.Parse(Child.RunSelf("limit"));
        List<Result> results = [];
        foreach (var work in works)
        {
            var result = new Result(work);
            results.Add(result);
            for (int round = 1; round <= rounds; round++)
            {
                Console.Write(string.Create(CultureInfo.InvariantCulture, $"{work.Name,-17} {round}/{rounds}"));
                result.Ours.Add(Measurement.Parse("ours", Child.RunSelf("ours", work.Name)));
                Console.Write(string.Create(CultureInfo.InvariantCulture, $"  ours {result.Ours[^1].PerSecond,8:F1}"));
                if (peer is not null)
                {
                    result.Peers.Add(peer.Run(work.Peer.Script, work.Peer.Arguments));
                    Console.Write(string.Create(CultureInfo.InvariantCulture, $"  peer {result.PeerPerSecond.Last(),8:F1}"));
                }
                Console.WriteLine($"  {result.Unit}/s");
            }
            limit = limit.Best(MachineLimit.Parse(Child.RunSelf("limit")));
        }

        Console.WriteLine(limit.ToLine());
        Console.WriteLine();
        foreach (string line in Table(results, limit))
            Console.WriteLine(line);
        Console.WriteLine();
        foreach (string line in results.SelectMany(result => PlainLines(result, limit)))
            Console.WriteLine(line);
    }

    internal static IEnumerable<string> Table(IEnumerable<Result> results, MachineLimit limit)
    {
        yield return "| work | unit | ours | peer | ratio | min | max | share of limit | peak MB, ours | peer | KB allocated per step |";
        yield return "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|";
        foreach (var r in results)
        {
            var ratio = r.Ratio;
            yield return string.Create(
                CultureInfo.InvariantCulture,
                $"| {r.Work.Name} | {r.Unit}/s | {r.OurRate.Median:#,0.##} | {r.PeerRate?.Median:#,0.##} | {ratio?.Median:F2} | " +
                $"{ratio?.Minimum:F2} | {ratio?.Maximum:F2} | {r.ShareOf(limit):F2} | {r.OurPeak:#,0} | {r.PeerPeak:#,0} | {r.AllocatedKilobytes:#,0} |");
        }
    }

    /// <summary>For programs that read this.</summary>
    internal static IEnumerable<string> PlainLines(Result r, MachineLimit limit)
    {
        var invariant = CultureInfo.InvariantCulture;
        yield return r.Ratio is { } ratio
            ? string.Create(invariant, $"ratio {r.Work.Name} {ratio.ToString("F2")} share-of-limit {r.ShareOf(limit):F2}")
            : string.Create(invariant, $"ours {r.Work.Name} {r.Unit}/s {r.OurRate.ToString("F1")} share-of-limit {r.ShareOf(limit):F2}");
        if (r.PeerPeak is { } peak)
            yield return string.Create(invariant, $"memory {r.Work.Name} {r.OurPeak / peak:F2}x");
        if (r.AllocatedKilobytes is { } kilobytes)
            yield return string.Create(invariant, $"allocation {r.Work.Name} {kilobytes:F0} KB per step");
    }
}

/// <summary>What the rounds of one work gave.</summary>
internal sealed record Result(Work Work)
{
    public List<Measurement> Ours { get; } = [];

    /// <summary>Empty without a peer.</summary>
    public List<Measurement> Peers { get; } = [];

    public string Unit => Ours[0].Unit;

    public Spread OurRate => Spread.Of(Ours.Select(m => m.PerSecond));

    public IEnumerable<double> PeerPerSecond => Peers.Select(m => Work.Peer.PerSecond(m.PerSecond));

    public Spread? PeerRate => Peers.Count == 0 ? null : Spread.Of(PeerPerSecond);

    public Spread? Ratio => Peers.Count == 0 ? null : Spread.OfRatios(Ours.Select(m => m.PerSecond), PeerPerSecond);

    public double ShareOf(MachineLimit limit) => OurRate.Median * Work.LimitSeconds(limit);

    public double OurPeak => Spread.Of(Ours.Select(m => m.PeakMegabytes)).Median;

    /// <summary>Null where the peer's script does another work.</summary>
    public double? PeerPeak =>
        Peers.Count == 0 || Work.Peer.Scaled is not null ? null : Spread.Of(Peers.Select(m => m.PeakMegabytes)).Median;

    public double? AllocatedKilobytes => Ours[0].AllocatedPerStep is null ? null : Spread.Of(Ours.Select(m => m.AllocatedPerStep!.Value / 1024)).Median;
}
