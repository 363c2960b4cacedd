using Microsoft.ML;
using ML.Rlhf.Torch.Training;

namespace ML.Rlhf;

public sealed partial class RlhfCatalog
{
    /// <summary>
    /// Measures how well an encoder guesses tokens that were hidden in whole documents. Which ones does not depend on the model, so that
    /// two models with the same tokenizer can be compared.
    /// </summary>
    /// <param name="model">The model.</param>
    /// <param name="data">Held-out documents.</param>
    /// <param name="textColumnName">The text column, one document per row.</param>
    /// <param name="maskingRate">The part of a text's tokens that is hidden, above 0 and at most 0.5.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such text column, or the rate is out of its range.</exception>
    /// <exception cref="InvalidOperationException">There are no documents, or the model has no head that guesses.</exception>
    public MaskedLanguageModelMetrics EvaluateMaskedLanguageModel(
        EncoderTransformer model, IDataView data, string textColumnName = EncoderTransformer.DefaultTextColumn, double maskingRate = 0.15)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(data);
        if (!(maskingRate is > 0 and <= 0.5))
            throw new ArgumentOutOfRangeException(nameof(maskingRate), maskingRate, "The rate must be above 0 and at most 0.5.");
        var host = Evaluation.Register(_context);
        TextColumns.RequireText(host, data.Schema, "text", textColumnName);
        using var channel = host.Start("Evaluating a masked language model");
        var documents = Tokenization.EnclosedDocuments(
            data, textColumnName, model.Tokenizer, model.Architecture.ContextLength, channel.WarningLine, Cancellation.Check(host));
        var vocabulary = EncoderTokens.Vocabulary(model.Tokenizer);
        var total = model.Use(network => MaskedTokenLoss.Measure(network, documents, vocabulary, maskingRate));
        return new MaskedLanguageModelMetrics(total.Loss.Mean, (double)total.Correct / total.Loss.Count, total.Loss.Count);
    }
}
