using System.Buffers.Binary;
using System.Text.Json;
using TorchSharp;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>
/// Weights in the safetensors format: eight bytes of header length, a JSON header with the type, shape and place of each tensor, then the
/// numbers. Reading creates nothing but tensors, and never more than the module that waits for them already holds.
/// </summary>
internal static class Safetensors
{
    private const int MaximumHeaderBytes = 100_000_000; // the format's own limit
    private const int ChunkBytes = 1 << 22;
    private const int Alignment = 8;

    /// <summary>Writes the parameters of a module, in the order in which it has them.</summary>
    public static void Write(Stream stream, Module module)
    {
        var parameters = module.named_parameters().ToArray();
        using var header = new MemoryStream();
        using (var json = new Utf8JsonWriter(header))
        {
            json.WriteStartObject();
            long offset = 0;
            foreach (var (name, parameter) in parameters)
            {
                long bytes = parameter.numel() * sizeof(float);
                json.WriteStartObject(name);
                json.WriteString("dtype", "F32");
                WriteNumbers(json, "shape", parameter.shape);
                WriteNumbers(json, "data_offsets", [offset, offset += bytes]);
                json.WriteEndObject();
            }
            json.WriteEndObject();
        }
        while (header.Length % Alignment != 0)
            header.WriteByte((byte)' ');

        Span<byte> length = stackalloc byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(length, (ulong)header.Length);
        stream.Write(length);
        header.WriteTo(stream);
        foreach (var (_, parameter) in parameters)
        {
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            var numbers = parameter.detach().cpu().contiguous().bytes;
            for (int start = 0; start < numbers.Length; start += ChunkBytes)
                stream.Write(numbers[start..Math.Min(start + ChunkBytes, numbers.Length)]);
        }
    }

    /// <summary>Reads weights into a module that already has its shape. The stream need not seek.</summary>
    /// <exception cref="FormatException">The file is damaged or belongs to another shape; nothing is said to be loaded.</exception>
    public static void Read(Stream stream, Module module)
    {
        var waiting = module.named_parameters().ToDictionary(p => p.name, p => p.parameter);
        var entries = ReadHeader(stream);
        Compare(entries, waiting);

        long position = 0;
        var buffer = new byte[ChunkBytes];
        foreach (var entry in entries.OrderBy(e => e.Start))
        {
            if (entry.Start != position)
                throw Damaged($"tensor '{entry.Name}' starts at byte {entry.Start}, but the one before it ended at {position}");
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            var numbers = empty(entry.Shape);
            var target = numbers.bytes;
            for (int start = 0; start < target.Length; start += ChunkBytes)
            {
                var chunk = buffer.AsSpan(0, Math.Min(ChunkBytes, target.Length - start));
                if (stream.ReadAtLeast(chunk, chunk.Length, throwOnEndOfStream: false) < chunk.Length)
                    throw Damaged($"it ends in the middle of tensor '{entry.Name}'");
                chunk.CopyTo(target[start..]);
            }
            waiting[entry.Name].copy_(numbers);
            position = entry.End;
        }
    }

    private sealed record Entry(string Name, long[] Shape, long Start, long End);

    private static List<Entry> ReadHeader(Stream stream)
    {
        Span<byte> length = stackalloc byte[sizeof(ulong)];
        if (stream.ReadAtLeast(length, length.Length, throwOnEndOfStream: false) < length.Length)
            throw Damaged("it is shorter than its header");
        ulong headerBytes = BinaryPrimitives.ReadUInt64LittleEndian(length);
        if (headerBytes > MaximumHeaderBytes)
            throw Damaged($"its header claims {headerBytes} bytes, and the format allows {MaximumHeaderBytes}");
        var header = new byte[headerBytes];
        if (stream.ReadAtLeast(header, header.Length, throwOnEndOfStream: false) < header.Length)
            throw Damaged("it is shorter than its header");
        try
        {
            using var json = JsonDocument.Parse(header);
            return [.. json.RootElement.EnumerateObject().Where(p => p.Name != "__metadata__").Select(Parse)];
        }
        catch (Exception e) when (
            e is JsonException or InvalidOperationException or KeyNotFoundException or FormatException or OverflowException)
        {
            throw Damaged($"its header is not valid: {e.Message}");
        }
    }

    private static Entry Parse(JsonProperty property)
    {
        string dtype = property.Value.GetProperty("dtype").GetString() ?? "";
        if (dtype != "F32")
            throw new FormatException($"tensor '{property.Name}' has type {dtype}, and only F32 is read");
        long[] shape = [.. property.Value.GetProperty("shape").EnumerateArray().Select(n => n.GetInt64())];
        long[] offsets = [.. property.Value.GetProperty("data_offsets").EnumerateArray().Select(n => n.GetInt64())];
        if (offsets.Length != 2 || shape.Any(n => n < 0) || offsets[1] - offsets[0] != shape.Aggregate(1L, (a, b) =>
            checked(a * b)) * sizeof(float))
            throw new FormatException($"tensor '{property.Name}' of shape [{string.Join(", ", shape)}] does not fill its bytes");
        return new Entry(property.Name, shape, offsets[0], offsets[1]);
    }

    /// <summary>Reports every missing, extra and mis-shaped tensor at once.</summary>
    private static void Compare(List<Entry> entries, Dictionary<string, TorchSharp.Modules.Parameter> waiting)
    {
        var problems = new List<string>();
        foreach (var entry in entries)
        {
            if (!waiting.TryGetValue(entry.Name, out var parameter))
                problems.Add($"'{entry.Name}' is not part of the model");
            else if (!parameter.shape.SequenceEqual(entry.Shape))
                problems.Add($"'{entry.Name}' is [{string.Join(", ", entry.Shape)}], but the model has " +
                    $"[{string.Join(", ", parameter.shape)}]");
        }
        problems.AddRange(waiting.Keys.Except(entries.Select(e => e.Name)).Select(name => $"'{name}' is missing"));
        if (problems.Count > 0)
            throw Damaged(string.Join("; ", problems));
    }

    private static void WriteNumbers(Utf8JsonWriter json, string name, ReadOnlySpan<long> numbers)
    {
        json.WriteStartArray(name);
        foreach (long number in numbers)
            json.WriteNumberValue(number);
        json.WriteEndArray();
    }

    private static FormatException Damaged(string what) =>
        new($"The weights (safetensors) cannot be read: {what}. The file is damaged or belongs to another model; save or copy it again.");
}
