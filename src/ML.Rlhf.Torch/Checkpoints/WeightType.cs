using static TorchSharp.torch;

namespace ML.Rlhf;

/// <summary>How numbers are written into a file of weights. In memory they are 32-bit floats.</summary>
public enum WeightType
{
    /// <summary>32 bits each: nothing is rounded.</summary>
    Float32,

    /// <summary>16 bits, eight of them for the size: as wide a range as 32 bits have, and two to three digits.</summary>
    BFloat16,

    /// <summary>16 bits, five of them for the size: three to four digits; numbers beyond 65,504 become infinite.</summary>
    Float16,
}

internal static class WeightTypes
{
    public static ScalarType ScalarType(this WeightType type) => type switch
    {
        WeightType.Float32 => float32,
        WeightType.BFloat16 => bfloat16,
        WeightType.Float16 => float16,
        _ => throw new ArgumentOutOfRangeException(
            nameof(type), type, $"It must be one of {string.Join(", ", Enum.GetNames<WeightType>())}."),
    };
}
