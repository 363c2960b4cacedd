using Microsoft.ML.Tokenizers;
using ML.Rlhf.Jinja;

namespace ML.Rlhf;

/// <summary>
/// From conversations to tokens. The text of a conversation is encoded as a whole, as transformers does it, but for one thing: what people
/// said is never read as a special token.
/// </summary>
/// <param name="template">How conversations become text.</param>
/// <param name="tokenizer">How text becomes tokens.</param>
internal sealed class ChatEncoder(ChatTemplate template, TextTokenizer tokenizer)
{
    private readonly HashSet<int> _special = [.. tokenizer.SpecialTokens.Values];
    private readonly Lazy<int?> _endOfTurn = new(() => FindEndOfTurn(template, tokenizer));

    /// <summary>The special token with which the assistant ends what it says; null where the template has none.</summary>
    public int? EndOfTurn => _endOfTurn.Value;

    /// <summary>A conversation and what stands before an answer to it.</summary>
    /// <exception cref="InvalidOperationException">The template cannot render it.</exception>
    public int[] EncodePrompt(IReadOnlyList<ChatMessage> messages) =>
        [.. Encode(template.RenderText(messages, addGenerationPrompt: true), tokenizer).Select(token => token.Id)];

    /// <summary>A conversation, and of each token whether the assistant wrote it, its end of turn included.</summary>
    /// <exception cref="InvalidOperationException">The template cannot render it, or does not tell what the assistant wrote.</exception>
    public (int[] Ids, bool[] IsAssistant) Encode(IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt = false)
    {
        var rendering = template.RenderText(messages, addGenerationPrompt);
        var tokens = Encode(rendering, tokenizer);
        bool[] isAssistant = template.MarksAssistant
            ? [.. Enumerable.Range(0, rendering.Value.Length).Select(i => rendering.OriginOf(i).HasFlag(Origin.Assistant))]
            : CompareRenderings(messages, rendering, tokens);
        return (
            [.. tokens.Select(token => token.Id)],
            [.. tokens.Select(token => isAssistant.AsSpan(token.Offset).Contains(true))]);
    }

    private static List<EncodedToken> Encode(JinjaText rendering, TextTokenizer tokenizer) => tokenizer.EncodeToTokens(
        rendering.Value,
        place =>
        {
            for (int i = place.Start.Value; i < place.End.Value; i++)
            {
                if (rendering.OriginOf(i).HasFlag(Origin.Message))
                    return false;
            }
            return true;
        });

    /// <summary>
    /// What the assistant wrote is what a rendering has more than that of the messages before with a generation prompt, up to the token
    /// that ends the turn.
    /// </summary>
    /// <returns>Of each character of the rendering, whether the assistant wrote it.</returns>
    /// <exception cref="InvalidOperationException">The renderings do not begin alike.</exception>
    private bool[] CompareRenderings(IReadOnlyList<ChatMessage> messages, JinjaText rendering, List<EncodedToken> tokens)
    {
        var isAssistant = new bool[rendering.Value.Length];
        for (int i = 0; i < messages.Count; i++)
        {
            if (!messages[i].IsAssistant)
                continue;
            string before = template.Render([.. messages.Take(i)], addGenerationPrompt: true);
            string after = i == messages.Count - 1 ? rendering.Value : template.Render([.. messages.Take(i + 1)]);
            if (!after.StartsWith(before, StringComparison.Ordinal) || !rendering.Value.StartsWith(after, StringComparison.Ordinal))
                throw new InvalidOperationException(
                    $"The chat template does not tell what the assistant wrote: it renders message {i + 1} of {messages.Count} otherwise " +
                    "when other messages follow, and has no generation blocks. Put {% generation %} and {% endgeneration %} around what " +
                    "the assistant writes in the template, or fine-tune with a ready-made template such as ChatML.");
            int end = EndOfTurnIn(rendering, tokens, before.Length, after.Length);
            isAssistant.AsSpan(before.Length, end - before.Length).Fill(true);
        }
        return isAssistant;
    }

    /// <summary>The end of the first special token after what somebody said, in a part of a rendering; otherwise the part's end.</summary>
    private int EndOfTurnIn(JinjaText rendering, List<EncodedToken> tokens, int start, int end)
    {
        int said = end - 1;
        while (said >= start && !rendering.OriginOf(said).HasFlag(Origin.Message))
            said--;
        foreach (var token in tokens)
        {
            if (_special.Contains(token.Id) && token.Offset.Start.Value > said && token.Offset.Start.Value >= start
                && token.Offset.End.Value <= end)
                return token.Offset.End.Value;
        }
        return end;
    }

    /// <summary>The first special token after what the assistant said in a small conversation.</summary>
    private static int? FindEndOfTurn(ChatTemplate template, TextTokenizer tokenizer)
    {
        JinjaText rendering;
        try
        {
            rendering = template.RenderText([ChatMessage.User("a"), ChatMessage.Assistant("b")], addGenerationPrompt: false);
        }
        catch (InvalidOperationException)
        {
            return null; // the template wants other roles
        }
        int said = rendering.Value.Length - 1;
        while (said >= 0 && !rendering.OriginOf(said).HasFlag(Origin.Message))
            said--;
        string rest = rendering.Value[(said + 1)..];
        return tokenizer.SpecialTokens
            .Select(token => (Place: rest.IndexOf(token.Key, StringComparison.Ordinal), token.Key.Length, Id: (int?)token.Value))
            .Where(found => found.Place >= 0)
            .OrderBy(found => found.Place).ThenByDescending(found => found.Length)
            .FirstOrDefault().Id;
    }
}
