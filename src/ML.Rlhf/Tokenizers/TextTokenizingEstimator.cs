using Microsoft.ML;
using Microsoft.ML.Data;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;

namespace ML.Rlhf;

/// <summary>
/// Turns a text column into the ids of its tokens: a step of a pipeline, made by
/// <see cref="TransformCatalog.TokenizeText(string, string?, TextTokenizer)"/>.
/// </summary>
/// <remarks>
/// <para>
/// Input: a text column (a missing text is an empty one). Output: a vector of <see cref="int"/> of variable length, one element for each
/// token. It is trained only when no tokenizer is given; the transformer can be saved, and works in a prediction engine.
/// </para>
/// </remarks>
public sealed class TextTokenizingEstimator : IEstimator<TextTokenizingTransformer>
{
    private readonly IHost _host;
    private readonly string _outputColumnName;
    private readonly string _inputColumnName;
    private readonly TextTokenizer? _tokenizer;
    private readonly int _vocabularySize;

    /// <param name="env">The context.</param>
    /// <param name="outputColumnName">The column to add.</param>
    /// <param name="inputColumnName">The text column; null for the name of the output.</param>
    /// <param name="tokenizer">Null to train one.</param>
    /// <param name="vocabularySize">For the one that is trained.</param>
    internal TextTokenizingEstimator(
        IHostEnvironment env, string outputColumnName, string? inputColumnName, TextTokenizer? tokenizer, int vocabularySize)
    {
        ArgumentException.ThrowIfNullOrEmpty(outputColumnName);
        _host = env.Register(nameof(TextTokenizingEstimator));
        _outputColumnName = outputColumnName;
        _inputColumnName = inputColumnName ?? outputColumnName;
        _tokenizer = tokenizer;
        _vocabularySize = vocabularySize;
    }

    /// <summary>Checks the text column, and trains the tokenizer if none was given.</summary>
    /// <param name="input">Data with the text column. It is read only to train a tokenizer.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="ArgumentException">A tokenizer is to be trained, and there is no text.</exception>
    public TextTokenizingTransformer Fit(IDataView input)
    {
        ArgumentNullException.ThrowIfNull(input);
        TextColumns.RequireText(_host, input.Schema, "text", _inputColumnName);
        var tokenizer = _tokenizer ?? TokenizerCatalog.Train(
            _host, input, _vocabularySize, _inputColumnName, Cancellation.Check(_host));
        return new TextTokenizingTransformer(_host, _outputColumnName, _inputColumnName, tokenizer);
    }

    /// <summary>The columns of the input and the vector of ids.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    public SchemaShape GetOutputSchema(SchemaShape inputSchema)
    {
        ArgumentNullException.ThrowIfNull(inputSchema);
        TextColumns.RequireText(_host, inputSchema, "text", _inputColumnName);
        return Schemas.With(inputSchema, Schemas.Column(_outputColumnName, TextTokenizingTransformer.OutputType));
    }
}
