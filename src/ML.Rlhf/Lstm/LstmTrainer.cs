using Microsoft.ML;
using Microsoft.ML.Runtime;

namespace ML.Rlhf;

/// <summary>
/// Trains a recurrent language model, an LSTM, from nothing on the text of a corpus: the same data, options and metrics as
/// <see cref="GptTrainer"/>, so that the two can be compared. What it trains goes through every later stage as a GPT does.
/// </summary>
/// <remarks>
/// | | |
/// |-|-|
/// | Task | language modelling: predict each next token |
/// | Input | a text column, one document per row |
/// | Output | <see cref="TextGenerationTransformer"/>: a text column with the completion |
/// | Passes over the data | one, to tokenize it; tokens are kept in memory, 2 bytes each, or 4 with more than 65,536 ids, or in <see cref="PretrainingOptions.TokenFile"/> |
/// | Needs a label | no |
/// </remarks>
public sealed class LstmTrainer : IEstimator<TextGenerationTransformer>
{
    private readonly TrainerHost _host;
    private readonly LstmOptions _options;

    internal LstmTrainer(IHostEnvironment environment, LstmOptions options)
    {
        options.Validate();
        _host = new TrainerHost(environment, nameof(LstmTrainer));
        _options = options;
    }

    /// <summary>The columns of the corpus, and the completion of its text, or of the prompt column where the options name one.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text or prompt column.</exception>
    public SchemaShape GetOutputSchema(SchemaShape inputSchema) => Pretraining.OutputSchema(_host, _options, inputSchema);

    /// <summary>Trains the tokenizer, unless one was given, and the model.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column.</exception>
    /// <exception cref="InvalidOperationException">The corpus is empty.</exception>
    /// <exception cref="IOException"><see cref="PretrainingOptions.TokenFile"/> cannot be written, or holds something else.</exception>
    /// <exception cref="OperationCanceledException">The run was stopped.</exception>
    public TextGenerationTransformer Fit(IDataView input) => Pretraining.Fit(_host, "LSTM", _options, input);
}
