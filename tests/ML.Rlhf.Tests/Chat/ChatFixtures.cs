using ML.Rlhf.TestSupport;

namespace ML.Rlhf.Tests.Chat;

/// <summary>The golden files of Fixtures/tokenizers/chat.</summary>
internal static class ChatFixtures
{
    public static Golden Expected { get; } = Golden.Load("tokenizers/chat/expected.json");

    /// <summary>The tokenizer that made the golden ids.</summary>
    public static TextTokenizer Tokenizer { get; } =
        PretrainedTokenizer.Read(Golden.PathOf("tokenizers/chat"), Expected["eos_token"].Text);

    public static ChatMessage[] Messages(Golden messages) =>
        [.. messages.Items.Select(message => new ChatMessage(message["role"].Text, message["content"].Text))];

    /// <summary>A template of the golden files.</summary>
    public static ChatTemplate Template(string name) => new(
        File.ReadAllText(Golden.PathOf($"tokenizers/chat/{name}.jinja")),
        new Dictionary<string, string> { ["eos_token"] = Expected["eos_token"].Text });
}
