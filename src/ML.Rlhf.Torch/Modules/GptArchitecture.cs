using System.Text.Json;

namespace ML.Rlhf;

/// <summary>The shape of a GPT: everything that decides which weights it has, and nothing that training decides.</summary>
/// <remarks>
/// The presets below <see cref="Gpt2"/> follow the sizes of minGPT and nanoGPT. A preset is a starting point:
/// <c>GptArchitecture.Micro with { ContextLength = 256 }</c>.
/// </remarks>
public sealed record GptArchitecture
{
    /// <summary>Transformer blocks, one after another.</summary>
    /// <value>At least 1.</value>
    public required int Layers { get; init; }

    /// <summary>Attention heads per block.</summary>
    /// <value>At least 1, and a divisor of <see cref="Width"/>.</value>
    public required int Heads { get; init; }

    /// <summary>Numbers that represent one token between blocks ("hidden size", "n_embd").</summary>
    /// <value>At least 1, and a multiple of <see cref="Heads"/>.</value>
    public required int Width { get; init; }

    /// <summary>The most tokens that the model sees at once, prompt and completion together.</summary>
    /// <value>At least 2.</value>
    public required int ContextLength { get; init; }

    /// <summary>Tokens that the model knows.</summary>
    /// <value>At least 2. Trainers replace it by the size of the tokenizer that they are given; without a tokenizer, they train one of this
    /// size.</value>
    public required int VocabularySize { get; init; }

    /// <summary>3 layers × 48, context 64: trains in seconds, for tests and first steps. 0.1 M parameters.</summary>
    public static GptArchitecture Nano { get; } = new() { Layers = 3, Heads = 3, Width = 48, ContextLength = 64, VocabularySize = 512 };

    /// <summary>4 layers × 128, context 128: trains in minutes on two cores. 0.9 M parameters.</summary>
    public static GptArchitecture Micro { get; } = new() { Layers = 4, Heads = 4, Width = 128, ContextLength = 128, VocabularySize = 1024 };

    /// <summary>6 layers × 192, context 256. 3.5 M parameters.</summary>
    public static GptArchitecture Mini { get; } = new() { Layers = 6, Heads = 6, Width = 192, ContextLength = 256, VocabularySize = 4096 };

    /// <summary>6 layers × 384, context 256: nanoGPT's character model. 12 M parameters.</summary>
    public static GptArchitecture Small { get; } = new() { Layers = 6, Heads = 6, Width = 384, ContextLength = 256, VocabularySize = 4096 };

    /// <summary>8 layers × 512, context 512. 29 M parameters.</summary>
    public static GptArchitecture Medium { get; } =
        new() { Layers = 8, Heads = 8, Width = 512, ContextLength = 512, VocabularySize = 8192 };

    /// <summary>GPT-2, smallest size: 12 layers × 768, context 1,024. 124 M parameters (Radford et al. 2019).</summary>
    public static GptArchitecture Gpt2 { get; } =
        new() { Layers = 12, Heads = 12, Width = 768, ContextLength = 1024, VocabularySize = 50257 };

    /// <summary>Trainable numbers of a GPT of this shape. The head shares the token embedding and adds none.</summary>
    public long ParameterCount
    {
        get
        {
            long width = Width;
            long block = 12 * width * width + 13 * width; // attention 4w² + 4w, feed-forward 8w² + 5w, two norms 4w
            return (VocabularySize + ContextLength) * width + Layers * block + 2 * width;
        }
    }

    /// <summary>Checks every value and reports all problems at once.</summary>
    /// <exception cref="ArgumentException">A value is out of its range; the message lists each one.</exception>
    internal void Validate()
    {
        var problems = new OptionProblems(nameof(GptArchitecture));
        problems.Require(Layers is >= 1 and <= MaximumLayers, nameof(Layers), Layers, $"from 1 to {MaximumLayers}");
        problems.Require(Heads >= 1, nameof(Heads), Heads, "at least 1");
        problems.Require(Width is >= 1 and <= MaximumWidth && Heads >= 1 && Width % Heads == 0, nameof(Width), Width,
            $"a positive multiple of {nameof(Heads)} ({Heads}), at most {MaximumWidth}");
        problems.Require(ContextLength is >= 2 and <= MaximumTokens, nameof(ContextLength), ContextLength, $"from 2 to {MaximumTokens}");
        problems.Require(VocabularySize is >= 2 and <= MaximumTokens, nameof(VocabularySize), VocabularySize, $"from 2 to {MaximumTokens}");
        problems.Throw();
    }

    internal byte[] ToJson() => JsonSerializer.SerializeToUtf8Bytes(this, Json);

    internal static GptArchitecture FromJson(ReadOnlySpan<byte> json)
    {
        try
        {
            var architecture = JsonSerializer.Deserialize<GptArchitecture>(json, Json)
                ?? throw new JsonException("it is null");
            architecture.Validate();
            return architecture;
        }
        catch (Exception e) when (e is JsonException or ArgumentException)
        {
            throw new FormatException($"architecture.json is not a valid GPT architecture: {e.Message} The file is damaged; save the " +
                "model again.");
        }
    }

    // Far above any model; with them, ParameterCount cannot overflow.
    private const int MaximumLayers = 10_000, MaximumWidth = 1 << 20, MaximumTokens = 1 << 24;

    private static readonly JsonSerializerOptions Json = new() { WriteIndented = true, IgnoreReadOnlyProperties = true };
}
