namespace ML.Rlhf;

/// <summary>One message of a conversation.</summary>
/// <param name="Role">Who speaks: <c>system</c>, <c>user</c>, <c>assistant</c>, or another role that the template knows.</param>
/// <param name="Content">What is said. It is always plain text: the text of a special token stays text.</param>
public sealed record ChatMessage(string Role, string Content)
{
    internal const string AssistantRole = "assistant", UserRole = "user", SystemRole = "system";

    /// <summary>What the operator of an assistant tells it to begin with.</summary>
    public static ChatMessage System(string content) => new(SystemRole, content);

    /// <summary>What a person says.</summary>
    public static ChatMessage User(string content) => new(UserRole, content);

    /// <summary>What the model says.</summary>
    public static ChatMessage Assistant(string content) => new(AssistantRole, content);

    internal bool IsAssistant => Role == AssistantRole;
}
