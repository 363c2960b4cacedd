using Microsoft.ML;
using Microsoft.ML.Runtime;

namespace ML.Rlhf;

/// <summary>Makes tokenizers: trained on a corpus, or ready made.</summary>
public sealed class TokenizerCatalog
{
    /// <summary>
    /// Enough for English prose to come out at about four characters a token, and few enough that a small GPT does not spend most of its
    /// parameters on its vocabulary.
    /// </summary>
    internal const int DefaultVocabularySize = 4096;

    private readonly IHost _host;

    internal TokenizerCatalog(MLContext context) => _host = ((IHostEnvironment)context).Register(nameof(TokenizerCatalog));

    /// <summary>Learns a byte-level BPE vocabulary, the kind that GPT-2 has. The same text gives the same vocabulary.</summary>
    /// <remarks>
    /// The corpus is read once and row by row; memory holds its distinct words. Five megabytes of English take less than a second. The
    /// result can encode any text, of any language: what it has not learned it spells in bytes.
    /// </remarks>
    /// <param name="corpus">One text in each row. Rows are separate texts: nothing is learned across their border.</param>
    /// <param name="vocabularySize">
    /// The number of tokens to learn, 257 or more: the 256 bytes and the end of text are always there. The default of 4096 makes English
    /// about four characters a token while a small GPT still has most of its parameters in its layers; GPT-2 has 50,257. When the corpus
    /// has too few words that repeat, the vocabulary comes out smaller, with a warning in the log.
    /// </param>
    /// <param name="textColumnName">The text column.</param>
    /// <param name="cancellationToken">Stops the training.</param>
    /// <exception cref="ArgumentOutOfRangeException">The vocabulary size is too small, or there is no such text column.</exception>
    /// <exception cref="ArgumentException">The corpus has no text.</exception>
    public TextTokenizer TrainByteLevelBpe(
        IDataView corpus,
        int vocabularySize = DefaultVocabularySize,
        string textColumnName = "Text",
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(corpus);
        return Train(_host, corpus, vocabularySize, textColumnName, Cancellation.Check(_host, cancellationToken));
    }

    /// <summary>
    /// The tokenizer that needs no training: ids 0 to 255 are the bytes of the text in UTF-8, 256 is the end of text. Sequences are about
    /// four times as long as with a trained vocabulary.
    /// </summary>
    public TextTokenizer Bytes() => TextTokenizer.FromBytes();

    /// <summary>
    /// Makes every character (Unicode code point) of a corpus a token, in the order of code points; the last id is the end of text. For
    /// small experiments on text with a small alphabet.
    /// </summary>
    /// <param name="corpus">One text in each row.</param>
    /// <param name="textColumnName">The text column.</param>
    /// <param name="replaceUnknown">
    /// What happens later to a character that the corpus did not have: false, the default, makes it an error that names the character;
    /// true reads it as U+FFFD "�", which then is in the vocabulary.
    /// </param>
    /// <param name="cancellationToken">Stops the reading.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="ArgumentException">The corpus has no text.</exception>
    public TextTokenizer TrainCharacters(
        IDataView corpus,
        string textColumnName = "Text",
        bool replaceUnknown = false,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(corpus);
        return CharacterTokenizer.Train(
            Texts(_host, corpus, textColumnName), replaceUnknown, Cancellation.Check(_host, cancellationToken));
    }

    /// <summary>
    /// Reads the tokenizer of a model in a folder of the Hugging Face layout. It gives the ids that the model was trained with.
    /// </summary>
    /// <remarks>
    /// <para>
    /// The first of these that is there: <c>tokenizer.json</c> (byte-level BPE as GPT-2, Llama 3 and Qwen have it, SentencePiece-style BPE
    /// as Llama 2, Mistral and Gemma have it, WordPiece as BERT has it); <c>vocab.json</c> with <c>merges.txt</c>; <c>tokenizer.model</c>
    /// (SentencePiece, BPE); <c>vocab.txt</c> (WordPiece).
    /// </para>
    /// <para>Files that tell more about the tokens are read, too: <c>tokenizer_config.json</c>, <c>special_tokens_map.json</c>,
    /// <c>added_tokens.json</c>; and, for the end of text, <c>generation_config.json</c> and <c>config.json</c>.</para>
    /// </remarks>
    /// <param name="folder">The folder.</param>
    /// <param name="endOfText">
    /// The token that ends a text. Null for the one that the folder names (<c>eos_token</c>).
    /// </param>
    /// <exception cref="DirectoryNotFoundException">There is no such folder.</exception>
    /// <exception cref="FileNotFoundException">The folder has no tokenizer.</exception>
    /// <exception cref="FormatException">
    /// A file is damaged, or has a part that this package does not know, and that would give other ids if it were passed over. The
    /// message names it.
    /// </exception>
    public TextTokenizer FromPretrained(string folder, string? endOfText = null)
    {
        ArgumentNullException.ThrowIfNull(folder);
        return PretrainedTokenizer.Read(folder, endOfText);
    }

    /// <summary>
    /// A tokenizer of OpenAI's models, as tiktoken has it. The vocabulary is in a package of its own, which the application adds:
    /// <c>Microsoft.ML.Tokenizers.Data.Cl100kBase</c> for <c>cl100k_base</c>, and so on.
    /// </summary>
    /// <param name="encoding"><c>gpt2</c>, <c>r50k_base</c>, <c>p50k_base</c>, <c>cl100k_base</c> or <c>o200k_base</c>.</param>
    /// <exception cref="ArgumentException">There is no such encoding.</exception>
    /// <exception cref="FileNotFoundException">The package is missing. The message names it.</exception>
    public TextTokenizer Tiktoken(string encoding)
    {
        ArgumentNullException.ThrowIfNull(encoding);
        return TiktokenVocabulary.Load(encoding);
    }

    /// <summary>Trains and logs.</summary>
    internal static TextTokenizer Train(
        IHost host, IDataView corpus, int vocabularySize, string textColumnName, Action checkCanceled,
        IReadOnlyList<string>? specialTokens = null) =>
        Train(host, Texts(host, corpus, textColumnName), vocabularySize, checkCanceled, specialTokens);

    /// <summary>Trains and logs.</summary>
    internal static TextTokenizer Train(
        IHost host, IEnumerable<string> texts, int vocabularySize, Action checkCanceled,
        IReadOnlyList<string>? specialTokens = null)
    {
        using IChannel channel = host.Start("Training a byte-level BPE tokenizer");
        var tokenizer = ByteLevelBpeTrainer.Train(texts, vocabularySize, specialTokens, checkCanceled: checkCanceled);
        if (tokenizer.VocabularySize < vocabularySize)
            channel.Warning(MessageSensitivity.None,
                "The corpus has no more pairs that occur twice: the vocabulary has {0} tokens, not the {1} asked for.",
                tokenizer.VocabularySize, vocabularySize);
        else
            channel.Info(MessageSensitivity.None, "Learned a vocabulary of {0} tokens.", tokenizer.VocabularySize);
        return tokenizer;
    }

    /// <summary>The texts of a column, read once and row by row.</summary>
    private static IEnumerable<string> Texts(IHost host, IDataView corpus, string textColumnName)
    {
        TextColumns.RequireText(host, corpus.Schema, "text", textColumnName);
        return TextColumns.Read(corpus, [textColumnName]).Select(row => row[0]);
    }
}
