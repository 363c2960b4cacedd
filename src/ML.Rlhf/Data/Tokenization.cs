using Microsoft.ML;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

/// <summary>
/// From text columns to the tokens that the loops train on. What does not fit is counted and reported, never cut silently.
/// </summary>
internal static partial class Tokenization
{
    /// <summary>Documents, each between the token that texts begin with, where the tokenizer has one, and the end token.</summary>
    public static TokenSequences Documents(
        IDataView data, string textColumn, TextTokenizer tokenizer, Action checkCanceled, TokenFile? file = null)
    {
        var documents = new TokenSequences(file: file);
        int[] beginning = Beginning(tokenizer);
        foreach (string[] row in TextColumns.Read(data, [textColumn], checkCanceled))
            documents.Add([.. beginning, .. tokenizer.Encode(row[0]), tokenizer.EndOfText]);
        if (documents.TokenCount == documents.Count * (beginning.Length + 1L))
            throw NoRows(data, documents.Count, "documents"); // no text at all
        return documents;
    }

    /// <summary>Documents for an encoder: each alone, in pieces that fit the context, between the tokens before and after a text.</summary>
    public static TokenSequences EnclosedDocuments(
        IDataView data, string textColumn, TextTokenizer tokenizer, int context, Action<string> warn, Action checkCanceled)
    {
        var special = EncoderTokens.Of(tokenizer);
        var vocabulary = EncoderTokens.Vocabulary(tokenizer);
        var sequences = new TokenSequences();
        int rows = 0, cut = 0, useless = 0;
        foreach (string[] row in TextColumns.Read(data, [textColumn], checkCanceled))
        {
            rows++;
            int[][] pieces = [.. tokenizer.Encode(row[0]).Chunk(context - 2)];
            int[][] useful = [.. pieces.Where(piece => piece.Any(vocabulary.IsOrdinary))];
            foreach (int[] piece in useful)
                sequences.Add(special.Enclose(piece));
            cut += pieces.Length > 1 ? 1 : 0;
            useless += useful.Length == 0 ? 1 : 0;
        }
        if (useless > 0 && useless < rows)
            warn($"{useless} of {rows} documents have no token that could be hidden, and were left out.");
        if (cut > 0)
            warn($"{cut} of {rows} documents were cut into pieces that fit the model's context of {context} tokens.");
        return sequences.Count > 0 ? sequences : throw NoRows(data, rows, "documents");
    }

    /// <summary>Prompts with their completions and the end token.</summary>
    public static CompletionData Demonstrations(
        IDataView data, string promptColumn, string completionColumn, TextTokenizer tokenizer, int context, Action<string> warn,
        Action checkCanceled)
    {
        var builder = new CompletionBuilder(tokenizer, context);
        int rows = 0, dropped = 0;
        foreach (string[] row in TextColumns.Read(data, [promptColumn, completionColumn], checkCanceled))
        {
            rows++;
            int[] prompt = EncodePrompt(tokenizer, row[0]);
            if (builder.Fits(prompt))
                builder.Add(prompt, builder.Encode(prompt, row[1]));
            else
                dropped++;
        }
        builder.Report(warn, "demonstrations", rows, dropped);
        return builder.Rows > 0 ? builder.Build() : throw NoRows(data, rows, "demonstrations");
    }

    /// <summary>Pairs of answers to the same prompt. Pairs of equal answers teach nothing and are left out.</summary>
    public static PreferenceData Preferences(
        IDataView data, string promptColumn, string chosenColumn, string rejectedColumn, TextTokenizer tokenizer, int context,
        Action<string> warn, Action checkCanceled)
    {
        CompletionBuilder chosen = new(tokenizer, context), rejected = new(tokenizer, context);
        int rows = 0, dropped = 0, equal = 0;
        foreach (string[] row in TextColumns.Read(data, [promptColumn, chosenColumn, rejectedColumn], checkCanceled))
        {
            rows++;
            int[] prompt = EncodePrompt(tokenizer, row[0]);
            if (!chosen.Fits(prompt))
            {
                dropped++;
                continue;
            }
            int[] better = chosen.Encode(prompt, row[1]), worse = rejected.Encode(prompt, row[2]);
            if (better.AsSpan().SequenceEqual(worse))
            {
                equal++;
                continue;
            }
            chosen.Add(prompt, better);
            rejected.Add(prompt, worse);
        }
        if (equal > 0)
            warn($"{equal} of {rows} preferences have the same chosen and rejected answer, as far as the context shows them, and were " +
                "left out.");
        chosen.Report(warn, "chosen answers", rows, dropped);
        rejected.Report(warn, "rejected answers", rows, 0);
        return chosen.Rows > 0
            ? new PreferenceData(chosen.Build(), rejected.Build())
            : throw NoRows(data, rows, "preferences", equal, "have the same chosen and rejected answer");
    }

    /// <summary>
    /// Ranked answers to prompts; pairs are rankings of two. Prompts with no pair of different answers, one ranked above the other, teach
    /// nothing and are left out.
    /// </summary>
    public static RankingData Rankings(
        IDataView data, RankingColumns columns, TextTokenizer tokenizer, int context, Action<string> warn,
        Action checkCanceled)
    {
        var answers = new CompletionBuilder(tokenizer, context);
        List<int> starts = [0];
        List<double> ranks = [];
        List<float> weights = [], margins = [];
        int rows = 0, dropped = 0, unranked = 0, read = 0;
        foreach (var row in columns.Read(data, checkCanceled))
        {
            rows++;
            read += row.Answers.Length;
            int[] prompt = EncodePrompt(tokenizer, row.Prompt);
            if (!answers.Fits(prompt))
            {
                dropped++;
                continue;
            }
            int[][] sequences = Array.ConvertAll(row.Answers, answer => answers.Encode(prompt, answer));
            if (!RankingData.HasPair(sequences, row.Ranks))
            {
                unranked++;
                continue;
            }
            foreach (int[] sequence in sequences)
                answers.Add(prompt, sequence);
            starts.Add(answers.Rows);
            ranks.AddRange(row.Ranks);
            weights.Add(row.Weight);
            margins.Add(row.Margin);
        }
        if (unranked > 0)
            warn($"{unranked} of {rows} preferences rank no answer above a different one, as far as the context shows them, and were " +
                "left out.");
        answers.Report(warn, "answers", rows, dropped, read);
        return answers.Rows > 0
            ? new RankingData(answers.Build(), [.. starts], [.. ranks], [.. weights], [.. margins])
            : throw NoRows(data, rows, "preferences", unranked, "rank no answer above a different one");
    }

    /// <summary>Prompts that leave room for a response.</summary>
    public static TokenSequences Prompts(
        IDataView data, string promptColumn, TextTokenizer tokenizer, int context, int responseTokens, Action<string> warn,
        Action checkCanceled)
    {
        var prompts = new TokenSequences();
        int rows = 0;
        foreach (string[] row in TextColumns.Read(data, [promptColumn], checkCanceled))
        {
            rows++;
            int[] prompt = EncodePrompt(tokenizer, row[0]);
            if (prompt.Length + responseTokens <= context)
                prompts.Add(prompt);
        }
        if (prompts.Count < rows)
            warn($"{rows - prompts.Count} of {rows} prompts leave no room for {responseTokens} response tokens in the context of " +
                $"{context}, and were left out. Shorten them, lower MaxResponseTokens, or use a model with a longer context.");
        return prompts.Count > 0 ? prompts : throw NoRows(data, rows, "prompts");
    }

    /// <summary>Prompts, as texts, that leave room for an answer of each of some models.</summary>
    public static string[] PromptTexts(
        IDataView data, string promptColumn, IReadOnlyList<TextGenerationTransformer> models, Action<string> warn,
        Action checkCanceled)
    {
        string[] rows = [.. TextColumns.Read(data, [promptColumn], checkCanceled).Select(row => row[0])];
        string[] prompts = [.. rows.Where(prompt => models.All(model => model.HasRoom(prompt)))];
        if (prompts.Length < rows.Length)
            warn($"{rows.Length - prompts.Length} of {rows.Length} prompts fill a model's context, and were left out. Shorten them, or " +
                $"set {nameof(SamplingOptions)}.{nameof(SamplingOptions.TruncatePrompts)} to keep their ends.");
        return prompts.Length > 0 ? prompts : throw NoRows(data, rows.Length, "prompts");
    }

    /// <summary>
    /// The tokens of a prompt, after the one that texts begin with where the tokenizer has one: a pretrained model never saw a text without
    /// it. A model continues at least one token, so otherwise an empty prompt is the end of the text before.
    /// </summary>
    public static int[] EncodePrompt(TextTokenizer tokenizer, string prompt) =>
        (int[])[.. Beginning(tokenizer), .. tokenizer.Encode(prompt)] is { Length: > 0 } tokens ? tokens : [tokenizer.EndOfText];

    private static int[] Beginning(TextTokenizer tokenizer) => tokenizer.BeginningOfText is { } token ? [token] : [];

    /// <param name="data">The data.</param>
    /// <param name="rows">Rows that it has.</param>
    /// <param name="what">What was looked for, in the plural.</param>
    /// <param name="useless">Rows that would have fitted, but teach nothing.</param>
    /// <param name="reason">Why.</param>
    private static InvalidOperationException NoRows(
        IDataView data, int rows, string what, int useless = 0, string reason = "") => new(rows == 0
        ? $"The data has no rows, so there are no {what} to use (columns: {string.Join(", ", data.Schema.Select(c => c.Name))}). " +
            "Check the file and any filters before the trainer."
        : useless > 0
        ? $"None of the {rows} rows of the data can be used as {what}: {useless} {reason}, as far as the context shows them" +
            $"{(useless < rows ? $", and the prompts of {rows - useless} fill the model's context" : "")}. Check what the columns hold."
        : $"None of the {rows} rows of the data can be used as {what}: they are empty or do not fit the model's context. " +
            "Shorten the texts, or use a model with a longer context.");

    /// <summary>Sequences of prompt, completion and end token that fit a context.</summary>
    private sealed class CompletionBuilder(TextTokenizer tokenizer, int context)
    {
        private readonly TokenSequences _sequences = new();
        private readonly PagedList<int> _promptLengths = new();
        private int _truncated;

        public int Rows => _sequences.Count;

        /// <summary>Whether at least one token of a completion fits behind the prompt.</summary>
        public bool Fits(int[] prompt) => prompt.Length < context;

        /// <summary>Prompt, completion and end token, cut at the context.</summary>
        public int[] Encode(int[] prompt, string completion)
        {
            int[] tokens = [.. prompt, .. tokenizer.Encode(completion), tokenizer.EndOfText];
            if (tokens.Length <= context)
                return tokens;
            _truncated++;
            return tokens[..context];
        }

        public void Add(int[] prompt, int[] sequence)
        {
            _sequences.Add(sequence);
            _promptLengths.Add(prompt.Length);
        }

        /// <param name="warn">Takes the warnings.</param>
        /// <param name="what">What the completions are, in the plural.</param>
        /// <param name="rows">Rows of the data.</param>
        /// <param name="dropped">Rows whose prompts did not fit.</param>
        /// <param name="completions">Completions of the data, where a row has not just one.</param>
        public void Report(Action<string> warn, string what, int rows, int dropped, int? completions = null)
        {
            if (dropped > 0)
                warn($"{dropped} of {rows} rows were left out: their prompts fill the model's context of {context} tokens.");
            if (_truncated > 0)
                warn($"{_truncated} of {completions ?? rows} {what} were cut at the model's context of {context} tokens.");
        }

        public CompletionData Build() => new(_sequences, _promptLengths.ToArray());
    }
}
