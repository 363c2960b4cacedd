using System.Runtime.InteropServices;
using System.Security.Cryptography;
using ML.Rlhf.Torch.Checkpoints;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Training;

/// <summary>Data that a run depends on, so that another run's can be told from it.</summary>
internal interface IFingerprinted
{
    /// <summary>Adds all that the run reads.</summary>
    void AddTo(Fingerprint fingerprint);
}

/// <summary>A SHA-256 of the numbers that a run begins with.</summary>
internal sealed class Fingerprint : IDisposable
{
    private readonly IncrementalHash _hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);

    public static string Of(IFingerprinted data)
    {
        using var fingerprint = new Fingerprint();
        data.AddTo(fingerprint);
        return fingerprint.Value();
    }

    /// <summary>That of all weights of some modules.</summary>
    public static string Of(IEnumerable<Module> modules)
    {
        using var sha = SHA256.Create();
        using (var stream = new CryptoStream(Stream.Null, sha, CryptoStreamMode.Write))
        {
            foreach (var (_, parameter) in modules.SelectMany(module => module.named_parameters()))
                TensorBytes.Write(parameter, ScalarType.Float32, stream);
        }
        return Convert.ToHexStringLower(sha.Hash!);
    }

    /// <summary>Adds numbers, and how many they are.</summary>
    public void Add<T>(params ReadOnlySpan<T> numbers) where T : unmanaged
    {
        int length = numbers.Length;
        _hash.AppendData(MemoryMarshal.AsBytes(new ReadOnlySpan<int>(in length)));
        _hash.AppendData(MemoryMarshal.AsBytes(numbers));
    }

    public void Dispose() => _hash.Dispose();

    private string Value() => Convert.ToHexStringLower(_hash.GetHashAndReset());
}
