using System.Buffers.Binary;
using System.Text.Json;
using static TorchSharp.torch;

namespace ML.Rlhf.TestSupport;

/// <summary>
/// One value of a golden file: numbers that other people's packages computed. Files lie in the test project's <c>Fixtures</c>
/// folder; the README of each group says how they were made.
/// </summary>
internal readonly struct Golden(JsonElement json)
{
    /// <summary>Reads a JSON file, such as <c>rl/gae.json</c>.</summary>
    public static Golden Load(string file)
    {
        using var document = JsonDocument.Parse(File.ReadAllBytes(PathOf(file)));
        return new Golden(document.RootElement.Clone());
    }

    /// <summary>Where a fixture lies on this machine.</summary>
    public static string PathOf(string file) => Path.Combine(AppContext.BaseDirectory, "Fixtures", file);

    /// <summary>
    /// Reads a safetensors file of float32 tensors by name. Not by the product's reader: a mistake in one must not hide in the other.
    /// </summary>
    public static Dictionary<string, Tensor> Tensors(string file)
    {
        byte[] bytes = File.ReadAllBytes(PathOf(file));
        int headerLength = (int)BinaryPrimitives.ReadInt64LittleEndian(bytes);
        using var header = JsonDocument.Parse(bytes.AsMemory(8, headerLength));
        return header.RootElement.EnumerateObject().Where(p => p.Name != "__metadata__").ToDictionary(p => p.Name, p => Read(p.Value));

        Tensor Read(JsonElement entry)
        {
            if (entry.GetProperty("dtype").GetString() != "F32")
                throw new NotSupportedException($"{file} has a tensor of type {entry.GetProperty("dtype")}; golden tensors are F32.");
            long[] shape = [.. entry.GetProperty("shape").EnumerateArray().Select(n => n.GetInt64())];
            int start = 8 + headerLength + entry.GetProperty("data_offsets")[0].GetInt32();
            var numbers = new float[shape.Aggregate(1L, (a, b) => a * b)];
            for (int i = 0; i < numbers.Length; i++)
                numbers[i] = BinaryPrimitives.ReadSingleLittleEndian(bytes.AsSpan(start + i * sizeof(float)));
            return tensor(numbers, shape);
        }
    }

    public Golden this[string name] => new(json.GetProperty(name));

    public Golden this[int index] => new(json[index]);

    public bool IsNull => json.ValueKind == JsonValueKind.Null;

    public bool Has(string name) => json.TryGetProperty(name, out _);

    public IEnumerable<Golden> Items => json.EnumerateArray().Select(item => new Golden(item));

    public IEnumerable<(string Name, Golden Value)> Members => json.EnumerateObject().Select(p => (p.Name, new Golden(p.Value)));

    public string Text => json.GetString()!;

    public int Integer => json.GetInt32();

    public bool Boolean => json.GetBoolean();

    /// <summary>A number; JSON has no NaN and no infinity, so those are strings.</summary>
    public double Number => json.ValueKind == JsonValueKind.String
        ? Text switch
        {
            "NaN" => double.NaN,
            "Infinity" => double.PositiveInfinity,
            "-Infinity" => double.NegativeInfinity,
            _ => throw new FormatException($"'{Text}' is not a number."),
        }
        : json.GetDouble();

    public int[] Integers => [.. Items.Select(i => i.Integer)];

    public double[] Numbers => [.. Items.Select(i => i.Number)];

    /// <summary>Nested arrays of one shape.</summary>
    public Tensor Tensor(ScalarType type = ScalarType.Float32)
    {
        List<long> shape = [];
        for (var level = json; level.ValueKind == JsonValueKind.Array; level = level[0])
            shape.Add(level.GetArrayLength());
        List<double> numbers = [];
        Flatten(this, numbers);
        return tensor(numbers.ToArray(), [.. shape], dtype: type);
    }

    private static void Flatten(Golden value, List<double> numbers)
    {
        if (value.IsArray)
        {
            foreach (var item in value.Items)
                Flatten(item, numbers);
        }
        else
        {
            numbers.Add(value.Number);
        }
    }

    private bool IsArray => json.ValueKind == JsonValueKind.Array;
}
