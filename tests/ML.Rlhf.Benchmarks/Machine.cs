namespace ML.Rlhf.Benchmarks;

internal static class Machine
{
    /// <summary>Processor, cores and instructions that matter here.</summary>
    public static string Description
    {
        get
        {
            string[] lines = OperatingSystem.IsLinux() ? File.ReadAllLines("/proc/cpuinfo") : [];
            string Field(string name) =>
                lines.FirstOrDefault(l => l.StartsWith(name, StringComparison.Ordinal))?.Split(':', 2)[1].Trim() ?? "";
            string name = Field("model name"), flags = $" {Field("flags")} ";
            string[] products = [.. new[] { "avx2", "avx512f", "avx512_bf16", "amx_bf16" }.Where(f => flags.Contains($" {f} ", StringComparison.Ordinal))];
            return $"{(name.Length > 0 ? name : "unknown CPU")} ({string.Join(' ', products)}), {Environment.ProcessorCount} cores";
        }
    }
}
