using Microsoft.ML;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

internal static partial class Tokenization
{
    /// <summary>Answers that were judged one by one.</summary>
    public static FeedbackData Feedback(
        IDataView data, string promptColumn, string completionColumn, string labelColumn, TextTokenizer tokenizer, int context,
        Action<string> warn, Action checkCanceled)
    {
        var builder = new CompletionBuilder(tokenizer, context);
        List<bool> labels = [];
        int rows = 0, dropped = 0;
        foreach (var (row, label) in TextColumns.ReadLabeled(data, [promptColumn, completionColumn], labelColumn, checkCanceled))
        {
            rows++;
            int[] prompt = EncodePrompt(tokenizer, row[0]);
            if (!builder.Fits(prompt))
            {
                dropped++;
                continue;
            }
            builder.Add(prompt, builder.Encode(prompt, row[1]));
            labels.Add(label);
        }
        builder.Report(warn, "judged answers", rows, dropped);
        return builder.Rows > 0 ? new FeedbackData(builder.Build(), [.. labels]) : throw NoRows(data, rows, "judged answers");
    }
}
