using System.Xml.Linq;
using ML.Rlhf.Charts;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf;

/// <summary>
/// How much each token of a text looks at itself and at each token before it, in every head of every layer: softmax(q·kᵀ/√d), from
/// Vaswani et al. 2017. To see what a model does; it explains little by itself (Jain and Wallace 2019). In a notebook it shows itself as a
/// map of each head.
/// </summary>
[TypeFormatterSource(typeof(HtmlFormatterSource))]
public sealed class AttentionWeights : IHtmlDisplay
{
    private const int MostMaps = 36;

    private readonly float[] _weights; // (layers, heads, tokens, tokens)

    private AttentionWeights(IReadOnlyList<string> tokens, int layers, int heads, float[] weights)
    {
        Tokens = tokens;
        (Layers, Heads) = (layers, heads);
        _weights = weights;
    }

    /// <summary>The tokens of the text, each as text; one that is part of a character shows as U+FFFD.</summary>
    public IReadOnlyList<string> Tokens { get; }

    /// <summary>Layers of the model.</summary>
    public int Layers { get; }

    /// <summary>Heads per layer.</summary>
    public int Heads { get; }

    /// <summary>The weight with which one token looks at another, from 0 to 1. A token's weights add up to 1.</summary>
    /// <param name="layer">The layer, from 0.</param>
    /// <param name="head">The head, from 0.</param>
    /// <param name="from">Which token looks, from 0.</param>
    /// <param name="to">At which one; 0 for those after <paramref name="from"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such layer, head or token.</exception>
    public float this[int layer, int head, int from, int to]
    {
        get
        {
            int Within(int index, int count, string name) => (uint)index < (uint)count
                ? index
                : throw new ArgumentOutOfRangeException(name, index, $"It must be from 0 to {count - 1}.");
            int row = Within(layer, Layers, nameof(layer)) * Heads + Within(head, Heads, nameof(head));
            row = row * Tokens.Count + Within(from, Tokens.Count, nameof(from));
            return _weights[row * Tokens.Count + Within(to, Tokens.Count, nameof(to))];
        }
    }

    /// <summary>The weights of one head, as a square with a row for each token that looks.</summary>
    /// <inheritdoc cref="this" path="param|exception"/>
    public float[,] Head(int layer, int head)
    {
        var square = new float[Tokens.Count, Tokens.Count];
        for (int from = 0; from < Tokens.Count; from++)
        {
            for (int to = 0; to <= from; to++)
                square[from, to] = this[layer, head, from, to];
        }
        return square;
    }

    /// <summary>
    /// A map of each head, as a piece of HTML: a row for each token that looks, a column for each that it looks at, the darker the more. Of
    /// models with more than 36 heads, the mean over the heads of each layer.
    /// </summary>
    public string ToHtml() => Html.Render(Html.Element(
        "div", new XAttribute("style", "display:flex;flex-wrap:wrap;gap:12px"),
        Layers * Heads <= MostMaps
            ? Enumerable.Range(0, Layers * Heads).Select(i =>
                HeatMap.Draw($"layer {i / Heads}, head {i % Heads}", Head(i / Heads, i % Heads), Tokens))
            : Enumerable.Range(0, Layers).Select(layer => HeatMap.Draw($"layer {layer}, mean of its heads", Mean(layer), Tokens))));

    /// <summary>How many layers, heads and tokens there are.</summary>
    public override string ToString() => $"{Layers} layers, {Heads} heads, {Tokens.Count} tokens";

    private float[,] Mean(int layer)
    {
        var mean = new float[Tokens.Count, Tokens.Count];
        for (int from = 0; from < Tokens.Count; from++)
        {
            for (int to = 0; to <= from; to++)
                mean[from, to] = Enumerable.Range(0, Heads).Average(head => this[layer, head, from, to]);
        }
        return mean;
    }

    internal static AttentionWeights Of(CausalLanguageModel model, TextTokenizer tokenizer, int[] tokens)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var ids = tensor(tokens.Select(t => (long)t).ToArray(), device: model.Device).unsqueeze(0);
        using var trace = new ForwardTrace();
        model.Hidden(ids, positions: null, mask: null, cache: null, trace);
        if (trace.AttentionWeights.Count == 0)
            throw new NotSupportedException($"A {model.GetType().Name} has no attention. Ask a transformer, such as a GPT.");
        var weights = stack(trace.AttentionWeights, 1)[0];                                    // (layers, heads, T, T)
        return new AttentionWeights(
            [.. tokens.Select(token => tokenizer.Decode([token]))], (int)weights.shape[0], (int)weights.shape[1],
            weights.cpu().data<float>().ToArray());
    }
}
