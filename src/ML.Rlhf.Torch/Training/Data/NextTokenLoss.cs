using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>A sum of losses and how many terms it has.</summary>
internal readonly record struct LossTotal(double Sum, long Count)
{
    public double Mean => Sum / Count;
}

/// <summary>The next-token loss of a GPT, for training and for measuring.</summary>
internal static class NextTokenLoss
{
    private const int MaximumRows = 32;
    private const long MaximumLogits = 1 << 25; // 128 MB

    /// <summary>Rows per pass when nothing is learned: as many as keep the logits small, up to 32.</summary>
    public static int EvaluationRows(LanguageModelArchitecture a) =>
        (int)Math.Clamp(MaximumLogits / ((long)a.ContextLength * a.VocabularySize), 1, MaximumRows);

    /// <summary>Σ −log p(label). Only positions that have a label reach the head, by far the widest layer of a small model.</summary>
    /// <param name="model">The model.</param>
    /// <param name="ids">int64 (B, T).</param>
    /// <param name="positions">Indices into the B·T positions that have a label, int64 (N); null: all have one.</param>
    /// <param name="labels">int64 (N).</param>
    /// <param name="layout">Where packed rows begin and end; null: each row stands alone.</param>
    /// <returns>A scalar.</returns>
    public static Tensor Sum(CausalLanguageModel model, Tensor ids, Tensor? positions, Tensor labels, PackedLayout? layout = null)
    {
        using var scope = NewDisposeScope();
        var hidden = model.Hidden(ids, layout?.Positions, layout?.Mask).flatten(0, 1);        // (B·T, C)
        if (positions is not null)
            hidden = hidden.index_select(0, positions);                                       // (N, C)
        return model.CrossEntropySum(hidden, labels).MoveToOuterDisposeScope();
    }

    /// <summary>The loss of whole documents, cut into windows that do not overlap. Every token but the first has a label once.</summary>
    /// <param name="model">The model.</param>
    /// <param name="corpus">At least two tokens.</param>
    /// <param name="checkCanceled">Called before each batch; throws when it shall stop.</param>
    public static LossTotal Corpus(CausalLanguageModel model, TokenSequences corpus, Action? checkCanceled = null)
    {
        using var noGrad = no_grad();
        model.eval();
        int context = model.Architecture.ContextLength;
        long labels = corpus.TokenCount - 1;
        double sum = 0;
        long full = labels / context;
        foreach (var starts in Enumerable.Range(0, (int)full).Select(i => i * context).Chunk(EvaluationRows(model.Architecture)))
            sum += WindowSum(starts, context);
        int rest = (int)(labels - full * context);
        if (rest > 0)
            sum += WindowSum([(int)(full * context)], rest);
        return new LossTotal(sum, labels);

        double WindowSum(int[] starts, int window)
        {
            checkCanceled?.Invoke();
            using var scope = NewDisposeScope();
            var (ids, targets) = LanguageModelTraining.Windows(corpus, starts, window, model.Device);
            return Sum(model, ids, positions: null, targets).ToDouble();
        }
    }

    /// <summary>The loss of the completions alone, each after its prompt.</summary>
    /// <param name="model">The model.</param>
    /// <param name="data">At least one row.</param>
    /// <param name="checkCanceled">Called before each batch; throws when it shall stop.</param>
    public static LossTotal Completions(CausalLanguageModel model, CompletionData data, Action? checkCanceled = null)
    {
        using var noGrad = no_grad();
        model.eval();
        double sum = 0;
        long count = 0;
        foreach (int[] rows in Batches.ByLength(data.Count, EvaluationRows(model.Architecture), data.Sequences.Length))
        {
            checkCanceled?.Invoke();
            using var scope = NewDisposeScope();
            var (ids, positions, labels) = CompletionBatch(data, rows, model.Device, promptsToo: false);
            sum += Sum(model, ids, positions, labels).ToDouble();
            count += labels.numel();
        }
        return new LossTotal(sum, count);
    }

    /// <summary>Rows as ids (B, T), the positions whose next token is to be learned (N), and those tokens (N).</summary>
    public static (Tensor Ids, Tensor Positions, Tensor Labels) CompletionBatch(
        CompletionData data, int[] rows, Device device, bool promptsToo)
    {
        var batch = PaddedBatch.OnCpu(data.Sequences, rows);
        int width = (int)batch.Ids.size(1), count = data.LabelCount(rows, promptsToo), n = 0;
        Tensor positions = TokenTensor.Zeros(count), labels = TokenTensor.Zeros(count);
        Span<long> places = positions.Numbers(), tokens = labels.Numbers();
        for (int i = 0; i < rows.Length; i++)
        {
            var row = batch.Row(i);
            for (int t = data.FirstLabel(rows[i], promptsToo); t < row.Length; t++)
            {
                if (!data.IsLabel(rows[i], t, promptsToo))
                    continue;
                places[n] = i * width + t - 1; // the state that predicts token t
                tokens[n++] = row[t];
            }
        }
        return (batch.Ids.On(device), positions.On(device), labels.On(device));
    }
}
