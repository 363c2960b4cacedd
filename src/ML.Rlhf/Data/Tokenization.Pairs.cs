using Microsoft.ML;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

internal static partial class Tokenization
{
    /// <summary>Prompts and completions apart, each with the end token.</summary>
    /// <param name="data">The data.</param>
    /// <param name="promptColumn">The text column of prompts.</param>
    /// <param name="completionColumn">The text column of completions.</param>
    /// <param name="tokenizer">For both.</param>
    /// <param name="context">The most tokens of a prompt with its end, and of a completion.</param>
    /// <param name="warn">Takes the warnings.</param>
    /// <param name="checkCanceled">Called before each row; throws to stop.</param>
    public static SequencePairs Pairs(
        IDataView data, string promptColumn, string completionColumn, TextTokenizer tokenizer, int context, Action<string> warn,
        Action checkCanceled)
    {
        var pairs = new SequencePairs(new TokenSequences(), new TokenSequences(), tokenizer.EndOfText);
        int rows = 0, cut = 0;
        foreach (string[] row in TextColumns.Read(data, [promptColumn, completionColumn], checkCanceled))
        {
            rows++;
            int[] source = WithEnd(tokenizer, row[0]), target = WithEnd(tokenizer, row[1]);
            if (source.Length > context)
                continue;
            if (target.Length > context)
            {
                cut++;
                target = target[..context];
            }
            pairs.Sources.Add(source);
            pairs.Targets.Add(target);
        }
        if (pairs.Count < rows)
            warn($"{rows - pairs.Count} of {rows} rows were left out: their prompts do not fit the model's context of {context} tokens.");
        if (cut > 0)
            warn($"{cut} of {rows} completions were cut at the model's context of {context} tokens.");
        return pairs.Count > 0 ? pairs : throw NoRows(data, rows, "demonstrations");
    }

    /// <summary>The tokens of a text and the end token: at least one token, and the encoder sees where the text ends.</summary>
    public static int[] WithEnd(TextTokenizer tokenizer, string text) => [.. tokenizer.Encode(text), tokenizer.EndOfText];
}
