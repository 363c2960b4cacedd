using System.Buffers.Binary;
using System.Collections.Frozen;
using System.Text.Json;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>A tensor as a safetensors file declares it.</summary>
/// <param name="Name">Its name in the file.</param>
/// <param name="Type">The format's name of its type, such as <c>BF16</c>.</param>
/// <param name="Shape">Its sizes, row-major.</param>
/// <param name="Start">Its first byte, counted from the end of the header.</param>
/// <param name="End">The byte after its last.</param>
internal sealed record TensorInfo(string Name, string Type, long[] Shape, long Start, long End)
{
    public string ShapeText => SafetensorsHeader.Text(Shape);
}

/// <summary>
/// What stands before the numbers of a safetensors file: eight bytes of header length, then JSON with the type, shape and place of each
/// tensor, <c>{"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}</c>. The tensors' bytes follow each other without a
/// gap. Source: the format's description at https://github.com/huggingface/safetensors.
/// </summary>
internal static class SafetensorsHeader
{
    private const int LengthBytes = sizeof(ulong);
    private const int MaximumBytes = 100_000_000; // the format's own limit
    private const int Alignment = 8;
    private const int MaximumDimensions = 64; // the most that libtorch can index
    private const string Metadata = "__metadata__";

    /// <summary>Bits of a number of each type that the format knows. Most occur in files only as tensors that nobody asks for.</summary>
    private static readonly FrozenDictionary<string, int> s_bits = new Dictionary<string, int>
    {
        ["F4"] = 4, ["F6_E2M3"] = 6, ["F6_E3M2"] = 6,
        ["BOOL"] = 8, ["U8"] = 8, ["I8"] = 8, ["F8_E4M3"] = 8, ["F8_E5M2"] = 8, ["F8_E8M0"] = 8,
        ["U16"] = 16, ["I16"] = 16, ["F16"] = 16, ["BF16"] = 16,
        ["U32"] = 32, ["I32"] = 32, ["F32"] = 32,
        ["U64"] = 64, ["I64"] = 64, ["F64"] = 64, ["C64"] = 64,
    }.ToFrozenDictionary();

    /// <summary>Reads a header and leaves the stream at the first tensor.</summary>
    /// <param name="stream">A whole file or a zip entry; it need not seek.</param>
    /// <param name="what">What errors call it.</param>
    /// <param name="fileBytes">Length of the file, which the header then has to account for; <see langword="null"/> where it is not known.
    /// </param>
    /// <returns>The tensors in the order of their bytes, and where the first one starts in the file.</returns>
    /// <exception cref="FormatException">It is no such header, or its tensors overlap, leave gaps or do not fill their bytes.</exception>
    public static (IReadOnlyList<TensorInfo> Tensors, long DataStart) Read(Stream stream, string what, long? fileBytes = null)
    {
        Span<byte> length = stackalloc byte[LengthBytes];
        if (stream.ReadAtLeast(length, length.Length, throwOnEndOfStream: false) < length.Length)
            throw Damaged(what, "it is shorter than its header");
        if (length.SequenceEqual("version "u8))
            throw Damaged(what, "it is a pointer of Git LFS and not the file itself (run 'git lfs pull' in its folder)");
        ulong headerBytes = BinaryPrimitives.ReadUInt64LittleEndian(length);
        if (headerBytes > MaximumBytes)
            throw Damaged(what, $"its header claims {headerBytes} bytes, and the format allows {MaximumBytes}");
        if (headerBytes + LengthBytes > (ulong?)fileBytes)
            throw Damaged(what, $"it is shorter than its header, which claims {headerBytes} bytes of {fileBytes}");
        var header = new byte[headerBytes];
        if (stream.ReadAtLeast(header, header.Length, throwOnEndOfStream: false) < header.Length)
            throw Damaged(what, "it is shorter than its header");

        var tensors = Parse(header, what);
        long dataStart = LengthBytes + header.Length;
        CheckPlaces(tensors, fileBytes - dataStart, what);
        return (tensors, dataStart);
    }

    /// <summary>Writes a header for tensors whose bytes will follow in this order.</summary>
    /// <param name="stream">Where the file begins.</param>
    /// <param name="tensors">Names and shapes.</param>
    /// <param name="type">Type of all numbers: <c>F32</c>, <c>F16</c> or <c>BF16</c>.</param>
    /// <param name="metadata">Text by name, of which transformers wants <c>format: pt</c>.</param>
    public static void Write(
        Stream stream, IEnumerable<(string Name, long[] Shape)> tensors, string type, params (string Name, string Value)[] metadata)
    {
        using var header = new MemoryStream();
        using (var json = new Utf8JsonWriter(header))
        {
            json.WriteStartObject();
            if (metadata.Length > 0)
            {
                json.WriteStartObject(Metadata);
                foreach (var (name, value) in metadata)
                    json.WriteString(name, value);
                json.WriteEndObject();
            }
            long offset = 0;
            foreach (var (name, shape) in tensors)
            {
                json.WriteStartObject(name);
                json.WriteString("dtype", type);
                WriteNumbers(json, "shape", shape);
                WriteNumbers(json, "data_offsets", [offset, offset += Bytes(type, shape)]);
                json.WriteEndObject();
            }
            json.WriteEndObject();
        }
        while (header.Length % Alignment != 0)
            header.WriteByte((byte)' ');

        Span<byte> length = stackalloc byte[LengthBytes];
        BinaryPrimitives.WriteUInt64LittleEndian(length, (ulong)header.Length);
        stream.Write(length);
        header.WriteTo(stream);
    }

    /// <summary>libtorch's name of a type whose numbers we read and write, or <see langword="null"/>.</summary>
    public static ScalarType? ScalarTypeOf(string type) => type switch
    {
        "F32" => ScalarType.Float32,
        "F16" => ScalarType.Float16,
        "BF16" => ScalarType.BFloat16,
        _ => null,
    };

    /// <summary>The format's name of a type; the other direction of <see cref="ScalarTypeOf"/>.</summary>
    public static string NameOf(ScalarType type) => type switch
    {
        ScalarType.Float32 => "F32",
        ScalarType.Float16 => "F16",
        ScalarType.BFloat16 => "BF16",
        _ => throw new ArgumentOutOfRangeException(
            nameof(type), type, $"Weights are written as {float32}, {float16} or {bfloat16}; choose one of these."),
    };

    /// <summary>Bytes of a tensor.</summary>
    /// <exception cref="OverflowException">No file is that long.</exception>
    public static long Bytes(string type, ReadOnlySpan<long> shape)
    {
        long bits = s_bits[type];
        foreach (long size in shape)
            bits = checked(bits * size);
        return (bits + 7) / 8;
    }

    public static FormatException Damaged(string what, string problem) =>
        new($"{what} cannot be read: {problem}. The file is damaged or belongs to another model; save or copy it again.");

    public static string Text(long[] shape) => $"[{string.Join(", ", shape)}]";

    /// <summary>A name from a file as an error shows it: of bounded length, and on one line.</summary>
    public static string Quoted(string name)
    {
        const int longest = 120;
        string shown = name.Length <= longest ? name : name[..longest] + "…";
        return $"'{string.Concat(shown.Select(c => char.IsControl(c) || char.IsSurrogate(c) ? '?' : c))}'";
    }

    private static List<TensorInfo> Parse(byte[] header, string what)
    {
        try
        {
            using var json = JsonDocument.Parse(header, new JsonDocumentOptions { AllowDuplicateProperties = false });
            return [.. json.RootElement.EnumerateObject().Where(p => p.Name != Metadata).Select(Parse).OrderBy(t => t.Start)
                .ThenBy(t => t.End)];
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or FormatException)
        {
            throw Damaged(what, $"its header is not valid: {e.Message.TrimEnd('.')}");
        }
    }

    private static TensorInfo Parse(JsonProperty tensor)
    {
        string name = tensor.Name;
        if (tensor.Value.ValueKind != JsonValueKind.Object)
            throw new FormatException($"tensor {Quoted(name)} is no object with dtype, shape and data_offsets");
        string type = tensor.Value.TryGetProperty("dtype", out var dtype) && dtype.ValueKind == JsonValueKind.String
            ? dtype.GetString()!
            : throw new FormatException($"tensor {Quoted(name)} has no dtype");
        if (!s_bits.ContainsKey(type))
            throw new FormatException(
                $"tensor {Quoted(name)} has type {Quoted(type)}, which is none of {string.Join(", ", s_bits.Keys.Order())}");
        long[] shape = Numbers(tensor, "shape"), offsets = Numbers(tensor, "data_offsets");
        if (offsets.Length != 2 || offsets[0] > offsets[1])
            throw new FormatException($"tensor {Quoted(name)} has data_offsets {Text(offsets)}, which are no begin and end");
        long bytes;
        try
        {
            bytes = Bytes(type, shape);
        }
        catch (OverflowException)
        {
            throw new FormatException($"tensor {Quoted(name)} of shape {Text(shape)} is longer than any file");
        }
        if (bytes != offsets[1] - offsets[0])
            throw new FormatException(
                $"tensor {Quoted(name)} of shape {Text(shape)} and type {type} does not fill its bytes {Text(offsets)}");
        return new TensorInfo(name, type, shape, offsets[0], offsets[1]);
    }

    private static long[] Numbers(JsonProperty tensor, string member)
    {
        if (!tensor.Value.TryGetProperty(member, out var array) || array.ValueKind != JsonValueKind.Array)
            throw new FormatException($"tensor {Quoted(tensor.Name)} has no {member}");
        if (array.GetArrayLength() > MaximumDimensions)
            throw new FormatException(
                $"tensor {Quoted(tensor.Name)} has {array.GetArrayLength()} numbers in {member}, and at most {MaximumDimensions} " +
                "make sense");
        return [.. array.EnumerateArray().Select(n =>
            n.ValueKind == JsonValueKind.Number && n.TryGetInt64(out long number) && number >= 0
                ? number
                : throw new FormatException(
                    $"tensor {Quoted(tensor.Name)} has {Quoted(n.GetRawText())} in {member}, where only whole numbers from 0 may stand"))];
    }

    /// <summary>The bytes of the tensors follow each other without overlap or gap, and end with the file.</summary>
    private static void CheckPlaces(List<TensorInfo> tensors, long? available, string what)
    {
        long position = 0;
        foreach (var tensor in tensors)
        {
            if (tensor.Start != position)
                throw Damaged(
                    what, $"tensor {Quoted(tensor.Name)} starts at byte {tensor.Start}, but the one before it ended at {position}");
            position = tensor.End;
        }
        if (position > available)
            throw Damaged(
                what, $"it ends in the middle of tensor {Quoted(tensors.First(t => t.End > available).Name)}: its tensors need " +
                $"{position} bytes, and it has {available}");
        if (position < available)
            throw Damaged(what, $"it has {available - position} bytes after its last tensor");
    }

    private static void WriteNumbers(Utf8JsonWriter json, string name, ReadOnlySpan<long> numbers)
    {
        json.WriteStartArray(name);
        foreach (long number in numbers)
            json.WriteNumberValue(number);
        json.WriteEndArray();
    }
}
