using System.Buffers.Binary;
using System.Text;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.TestSupport;

/// <summary>Safetensors files made by hand, byte by byte and not by the product's writer, so that they can lie.</summary>
internal static class RawSafetensors
{
    /// <summary>A file of any header and any bytes.</summary>
    public static byte[] File(string header, byte[] data)
    {
        byte[] json = Encoding.UTF8.GetBytes(header), file = new byte[8 + json.Length + data.Length];
        BinaryPrimitives.WriteInt64LittleEndian(file, json.Length);
        json.CopyTo(file, 8);
        data.CopyTo(file, 8 + json.Length);
        return file;
    }

    /// <summary>A file of these tensors; F32, F16 and BF16 are their own types, bytes are U8.</summary>
    public static byte[] File(params (string Name, Tensor Tensor)[] tensors)
    {
        List<string> entries = [];
        List<byte> data = [];
        foreach (var (name, tensor) in tensors)
        {
            int start = data.Count;
            data.AddRange(tensor.cpu().contiguous().bytes);
            string shape = string.Join(",", tensor.shape);
            entries.Add($$"""
                "{{name}}":{"dtype":"{{Type(tensor)}}","shape":[{{shape}}],"data_offsets":[{{start}},{{data.Count}}]}
                """);
        }
        return File("{" + string.Join(",", entries) + "}", [.. data]);
    }

    private static string Type(Tensor tensor) => tensor.dtype switch
    {
        ScalarType.Float32 => "F32",
        ScalarType.Float16 => "F16",
        ScalarType.BFloat16 => "BF16",
        ScalarType.Byte => "U8",
        _ => throw new NotSupportedException($"{tensor.dtype}"),
    };
}
