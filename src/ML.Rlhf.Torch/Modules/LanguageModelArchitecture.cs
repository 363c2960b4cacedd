using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;

namespace ML.Rlhf;

/// <summary>The shape of a language model: everything that decides which weights it has, and nothing that training decides.</summary>
/// <remarks>
/// <see cref="GptArchitecture"/> is what is pretrained here by default; <see cref="LlamaArchitecture"/> covers Llama, Mistral, Qwen2 and
/// Qwen3. <see cref="LstmArchitecture"/> is what came before attention, <see cref="EncoderDecoderArchitecture"/> the original transformer,
/// which reads the prompt apart from the completion.
/// </remarks>
[JsonPolymorphic(TypeDiscriminatorPropertyName = Family)]
[JsonDerivedType(typeof(GptArchitecture), "gpt")]
[JsonDerivedType(typeof(LlamaArchitecture), "llama")]
[JsonDerivedType(typeof(EncoderDecoderArchitecture), "encoder-decoder")]
[JsonDerivedType(typeof(LstmArchitecture), "lstm")]
[JsonDerivedType(typeof(EncoderArchitecture), "encoder")]
public abstract record LanguageModelArchitecture
{
    private const string Family = "family";

    private protected LanguageModelArchitecture() { }

    /// <summary>Layers, one after another.</summary>
    /// <value>At least 1.</value>
    public required int Layers { get; init; }

    /// <summary>Numbers that represent one token between layers ("hidden size", "n_embd").</summary>
    /// <value>At least 1.</value>
    public required int Width { get; init; }

    /// <summary>The most tokens that the model sees at once, prompt and completion together.</summary>
    /// <value>At least 2.</value>
    public required int ContextLength { get; init; }

    /// <summary>Tokens that the model knows.</summary>
    /// <value>At least 2. Trainers replace it by the size of the tokenizer that they are given; without a tokenizer, they train one of this
    /// size.</value>
    public required int VocabularySize { get; init; }

    /// <summary>Whether the head that scores the next token is the token embedding, or a matrix of its own.</summary>
    /// <value>True by default: GPT-2's, and half the embeddings' memory.</value>
    public bool TiedHead { get; init; } = true;

    /// <summary>Trainable numbers of a model of this shape. A tied head adds none.</summary>
    public abstract long ParameterCount { get; }

    /// <summary>Checks every value and reports all problems at once.</summary>
    /// <exception cref="ArgumentException">A value is out of its range; the message lists each one.</exception>
    internal void Validate()
    {
        var problems = new OptionProblems(GetType().Name);
        Check(problems);
        problems.Throw();
    }

    private protected virtual void Check(OptionProblems problems)
    {
        problems.Require(Layers is >= 1 and <= MaximumLayers, nameof(Layers), Layers, $"from 1 to {MaximumLayers}");
        problems.Require(ContextLength is >= 2 and <= MaximumTokens, nameof(ContextLength), ContextLength, $"from 2 to {MaximumTokens}");
        problems.Require(VocabularySize is >= 2 and <= MaximumTokens, nameof(VocabularySize), VocabularySize, $"from 2 to {MaximumTokens}");
    }

    internal byte[] ToJson() => JsonSerializer.SerializeToUtf8Bytes(this, Json);

    /// <exception cref="FormatException">The document is no architecture, or one with values out of their ranges.</exception>
    internal static LanguageModelArchitecture FromJson(ReadOnlySpan<byte> json)
    {
        try
        {
            var document = JsonNode.Parse(json);
            if (document is JsonObject shape && !shape.ContainsKey(Family))
                shape.Add(Family, "gpt"); // saved before there was any other
            var architecture = document.Deserialize<LanguageModelArchitecture>(Json) ?? throw new JsonException("it is null");
            architecture.Validate();
            return architecture;
        }
        catch (Exception e) when (e is JsonException or ArgumentException or NotSupportedException or InvalidOperationException) // no UTF-8
        {
            throw new FormatException($"architecture.json is not a valid architecture: {e.Message} The file is damaged; save the model " +
                "again.");
        }
    }

    // Far above any model; with them, ParameterCount cannot overflow.
    private protected const int MaximumLayers = 10_000, MaximumWidth = 1 << 20, MaximumTokens = 1 << 24;

    private static readonly JsonSerializerOptions Json = new()
    {
        WriteIndented = true,
        IgnoreReadOnlyProperties = true,
        AllowOutOfOrderMetadataProperties = true,
        Converters = { new JsonStringEnumConverter() },
    };
}
