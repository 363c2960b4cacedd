using ML.Rlhf.Bridge;
using ML.Rlhf.Torch.Generation;

namespace ML.Rlhf;

public sealed partial class TextGenerationTransformer
{
    private const string ChatTemplateEntry = "chat-template.json";

    private readonly ChatEncoder? _chat;

    /// <summary>How conversations become text for this model; null where it has no template.</summary>
    public ChatTemplate? ChatTemplate { get; }

    /// <summary>The columns of conversations that are answered in a pipeline; null where prompts are completed.</summary>
    internal ConversationColumns? Conversations { get; }

    /// <summary>The same model with another chat template. It shares the weights; each of the two is disposed on its own.</summary>
    /// <param name="chatTemplate">The template, which should be the one that the model was trained with.</param>
    public TextGenerationTransformer WithChatTemplate(ChatTemplate chatTemplate)
    {
        ArgumentNullException.ThrowIfNull(chatTemplate);
        return new(_environment, _model.Share(), PromptColumnName, CompletionColumnName, Sampling, chatTemplate, Conversations);
    }

    /// <summary>Answers a conversation: adds what the assistant says next.</summary>
    /// <param name="messages">
    /// The conversation, the last message usually the user's. What it says is plain text to the model: the text of a special token does not
    /// end a turn.
    /// </param>
    /// <param name="sampling">How to draw; null for <see cref="Sampling"/>.</param>
    /// <param name="cancellationToken">Stops before the next token.</param>
    /// <returns>What the assistant says, up to the template's end of a turn or the end of text.</returns>
    /// <exception cref="InvalidOperationException">The model has no chat template, or its template refuses the conversation.</exception>
    /// <exception cref="ArgumentException">The conversation fills the model's context, and
    /// <see cref="SamplingOptions.TruncatePrompts"/> is false.</exception>
    public string Chat(
        IReadOnlyList<ChatMessage> messages, SamplingOptions? sampling = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(messages);
        return Chat([messages], sampling, cancellationToken)[0];
    }

    /// <summary>Answers a conversation and gives the text as it comes, in pieces of whole characters.</summary>
    /// <inheritdoc cref="Chat(IReadOnlyList{ChatMessage}, SamplingOptions?, CancellationToken)"/>
    /// <param name="messages">The conversation.</param>
    /// <param name="sampling">How to draw; null for <see cref="Sampling"/>.</param>
    /// <param name="cancellationToken">Stops before the next piece. Leaving the enumeration stops it too.</param>
    /// <returns>
    /// Pieces that, put together, are what <see cref="Chat(IReadOnlyList{ChatMessage}, SamplingOptions?, CancellationToken)"/> returns.
    /// </returns>
    public IAsyncEnumerable<string> ChatStreamingAsync(
        IReadOnlyList<ChatMessage> messages, SamplingOptions? sampling = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(messages);
        sampling ??= Sampling;
        sampling.Validate();
        return Stream(EncodeConversation(messages, sampling), ChatStop, sampling, cancellationToken);
    }

    private string[] Chat(
        IReadOnlyList<IReadOnlyList<ChatMessage>> conversations, SamplingOptions? sampling, CancellationToken cancellationToken)
    {
        sampling ??= Sampling;
        sampling.Validate();
        int[][] tokens = [.. conversations.Select(messages => EncodeConversation(messages, sampling))];
        return [.. Sample(tokens, ChatStop, sampling, cancellationToken).Select(sampled => Tokenizer.Decode(sampled.Tokens))];
    }

    private ChatEncoder ChatEncoder => _chat ?? throw _environment.Process(new InvalidOperationException(
        $"The model has no chat template, so it cannot be asked in conversations. Give it the one that it was trained with by " +
        $"{nameof(WithChatTemplate)}, or fine-tune it on conversations."));

    /// <summary>An answer is over at the end of its turn, or of the text.</summary>
    private StopTokens ChatStop => ChatEncoder.EndOfTurn is { } end && end != Tokenizer.EndOfText
        ? new StopTokens(end, Tokenizer.EndOfText)
        : Tokenizer.EndOfText;

    private int[] EncodeConversation(IReadOnlyList<ChatMessage> messages, SamplingOptions sampling)
    {
        int[] tokens = ChatEncoder.EncodePrompt(messages);
        return Shorten(tokens.Length > 0 ? tokens : [Tokenizer.EndOfText], messages.LastOrDefault()?.Content ?? "", sampling);
    }

    /// <summary>The column of answers to conversations. Where one ends with the assistant's words, these are answered anew.</summary>
    private BatchedColumns<ReadOnlyMemory<char>> AnswerColumn(ConversationColumns columns) => new(
        CompletionColumnName, Microsoft.ML.Data.TextDataViewType.Instance, columns.Names, CompletionBatches.Size,
        rows => [.. Chat([.. rows.Select(Messages)], Sampling, CancellationToken.None).Select(answer => answer.AsMemory())])
    {
        ReadSources = row =>
        {
            var read = columns.CreateReader(row);
            return () => [.. read().SelectMany(message => new[] { message.Role, message.Content })];
        },
    };

    private static ChatMessage[] Messages(string[] texts)
    {
        var messages = texts.Chunk(2).Select(pair => new ChatMessage(pair[0], pair[1])).ToList();
        while (messages.Count > 0 && messages[^1].IsAssistant)
            messages.RemoveAt(messages.Count - 1);
        return [.. messages];
    }

    private void SaveChat(ModelWriter writer)
    {
        writer.Main.Write(ChatTemplate is not null);
        if (ChatTemplate is not null)
            LanguageModel<Torch.Modules.CausalLanguageModel>.WriteEntry(writer, ChatTemplateEntry, ChatTemplate.Save);
        writer.Main.Write(Conversations is not null);
        Conversations?.Write(writer.Main);
    }

    private static (ChatTemplate? Template, ConversationColumns? Conversations) LoadChat(ModelReader reader)
    {
        if (reader.Version < 3)
            return (null, null);
        ChatTemplate? template = null;
        if (reader.Main.ReadBoolean())
            LanguageModel<Torch.Modules.CausalLanguageModel>.ReadEntry(
                reader, ChatTemplateEntry, (stream, _) => template = ML.Rlhf.ChatTemplate.Load(stream));
        return (template, reader.Main.ReadBoolean() ? ConversationColumns.Read(reader.Main) : null);
    }
}
