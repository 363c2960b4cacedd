using System.Text.Json;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace ML.Rlhf.Torch.Modules;

/// <summary>An adapter of one linear layer, without its numbers.</summary>
/// <param name="Target">The layer's path in the model, such as <c>h.0.attn.c_attn</c>.</param>
/// <param name="Rank">r, at least 1.</param>
/// <param name="Alpha">α, above 0.</param>
/// <param name="Dropout">Probability of dropping a number on its way into the adapter while training.</param>
internal sealed record AdapterShape(string Target, int Rank, double Alpha, double Dropout)
{
    public static byte[] ToJson(IEnumerable<AdapterShape> shapes) => JsonSerializer.SerializeToUtf8Bytes(shapes, s_indented);

    /// <exception cref="FormatException">The document is no list of adapters, or one with values out of their ranges.</exception>
    public static IReadOnlyList<AdapterShape> FromJson(ReadOnlySpan<byte> json)
    {
        try
        {
            var shapes = JsonSerializer.Deserialize<AdapterShape[]>(json) ?? throw new JsonException("it is null.");
            if (shapes.Any(s => s is not { Target: not null, Rank: >= 1, Alpha: > 0, Dropout: >= 0 and < 1 } || !double.IsFinite(s.Alpha))
                || shapes.DistinctBy(s => s.Target).Count() < shapes.Length)
                throw new JsonException("an adapter has values out of their ranges, or stands twice.");
            return shapes;
        }
        catch (JsonException e)
        {
            throw new FormatException($"adapter.json is no valid list of adapters: {e.Message} The file is damaged; save the model again.");
        }
    }

    private static readonly JsonSerializerOptions s_indented = new() { WriteIndented = true };
}

/// <summary>
/// What low-rank adaptation adds to a linear layer: (α/r)·B·A·dropout(x) (Hu et al. 2021, section 4.1). B starts at 0, so that an adapter
/// changes nothing before it has learned.
/// </summary>
internal sealed class LowRankAdapter : Module<Tensor, Tensor>
{
    public readonly Parameter A;                                                              // (r, in)
    public readonly Parameter B;                                                              // (out, r)

    /// <summary>Makes an adapter whose A is undefined until it is initialised or read from a file.</summary>
    public LowRankAdapter(AdapterShape shape, long inputs, long outputs) : base("lora")
    {
        Shape = shape;
        A = ModuleWeights.Parameter(empty(shape.Rank, inputs));
        B = ModuleWeights.Parameter(zeros(outputs, shape.Rank));
        RegisterComponents();
    }

    public AdapterShape Shape { get; }

    private double Scale => Shape.Alpha / Shape.Rank;

    /// <summary>A from U(−1/√in, 1/√in), as PEFT (<c>kaiming_uniform_</c> with a = √5).</summary>
    public void Initialize(Generator generator)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        double bound = 1 / Math.Sqrt(A.shape[1]);
        A.uniform_(-bound, bound, generator);
    }

    /// <param name="x">(…, in).</param>
    /// <returns>(…, out).</returns>
    public override Tensor forward(Tensor x)
    {
        if (training && Shape.Dropout > 0)
            x = functional.dropout(x, Shape.Dropout, training: true);
        return functional.linear(functional.linear(x, A) * Scale, B);
    }

    /// <summary>The matrix that does the same, (α/r)·B·A, (out, in).</summary>
    public Tensor Matrix() => B.matmul(A) * Scale;
}
