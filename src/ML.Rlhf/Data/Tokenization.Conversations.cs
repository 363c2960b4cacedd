using Microsoft.ML;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

internal static partial class Tokenization
{
    /// <summary>Conversations, of which what the assistant says is learned.</summary>
    /// <exception cref="InvalidOperationException">A row holds no conversation, the template refuses one, or none has a label.</exception>
    public static CompletionData Conversations(
        IDataView data, ConversationColumns columns, ChatEncoder encoder, int context, Action<string> warn,
        Action checkCanceled)
    {
        var sequences = new TokenSequences();
        List<int> promptLengths = [];
        List<bool[]> learned = [];
        int rows = 0, silent = 0, truncated = 0, dropped = 0;
        foreach (var messages in columns.Read(data, checkCanceled))
        {
            rows++;
            var (ids, isAssistant) = EncodeRow(encoder, messages, rows);
            int first = Array.IndexOf(isAssistant, true, Math.Min(1, isAssistant.Length)); // nothing predicts the first token of all
            if (first < 0)
                silent++;
            else if (first >= context)
                dropped++;
            else
            {
                truncated += ids.Length > context ? 1 : 0;
                int length = Math.Min(ids.Length, context);
                sequences.Add(ids[..length]);
                promptLengths.Add(first);
                learned.Add(isAssistant[..length]);
            }
        }
        if (silent > 0)
            warn($"{silent} of {rows} conversations were left out: the assistant says nothing in them.");
        if (dropped > 0)
            warn($"{dropped} of {rows} conversations were left out: what comes before the assistant's first words fills the model's " +
                $"context of {context} tokens.");
        if (truncated > 0)
            warn($"{truncated} of {rows} conversations were cut at the model's context of {context} tokens.");
        return sequences.Count > 0
            ? new CompletionData(sequences, [.. promptLengths]) { Learned = learned }
            : throw NoRows(data, rows, "conversations", silent, "have no message of the role 'assistant'");
    }

    private static (int[] Ids, bool[] IsAssistant) EncodeRow(ChatEncoder encoder, ChatMessage[] messages, int row)
    {
        try
        {
            return encoder.Encode(messages);
        }
        catch (InvalidOperationException e)
        {
            throw new InvalidOperationException($"Row {row}: {e.Message}", e);
        }
    }
}
