using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>
/// The weights of a module as a stream in the safetensors format, F32. Reading creates nothing but tensors, and never more than the module
/// that waits for them already holds.
/// </summary>
internal static class Safetensors
{
    private const string What = "The weights (safetensors)";

    /// <summary>Writes the parameters of a module, in the order in which it has them.</summary>
    public static void Write(Stream stream, Module module)
    {
        var parameters = module.named_parameters().ToArray();
        SafetensorsHeader.Write(stream, parameters.Select(p => (p.name, p.parameter.shape)), "F32");
        foreach (var (_, parameter) in parameters)
            TensorBytes.Write(parameter, ScalarType.Float32, stream);
    }

    /// <summary>Reads weights into a module that already has its shape. The stream need not seek.</summary>
    /// <exception cref="FormatException">The file is damaged or belongs to another shape; nothing is said to be loaded.</exception>
    public static void Read(Stream stream, Module module)
    {
        var waiting = module.named_parameters().ToDictionary(p => p.name, p => p.parameter);
        var (tensors, _) = SafetensorsHeader.Read(stream, What);
        if (Compare(tensors, waiting) is { } problem)
            throw SafetensorsHeader.Damaged(What, problem);
        foreach (var tensor in tensors)
            TensorBytes.Read(waiting[tensor.Name], ScalarType.Float32, bytes =>
            {
                if (stream.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false) < bytes.Length)
                    throw SafetensorsHeader.Damaged(What, $"it ends in the middle of tensor '{tensor.Name}'");
            });
    }

    private static string? Compare(IReadOnlyList<TensorInfo> tensors, Dictionary<string, TorchSharp.Modules.Parameter> waiting)
    {
        var comparison = new WeightComparison();
        foreach (var tensor in tensors)
        {
            if (waiting.TryGetValue(tensor.Name, out var parameter))
                comparison.Both(tensor, parameter.shape, "F32");
            else
                comparison.Extra(tensor.Name);
        }
        foreach (string name in waiting.Keys.Except(tensors.Select(t => t.Name)))
            comparison.Missing(name);
        return comparison.Problem();
    }
}
