using System.Collections.Concurrent;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>
/// <see cref="HeadKernel"/> as one differentiable operation. The gradient of the head's weights is added to theirs; that of the hidden states
/// goes on through libtorch's graph, which can be gone through once.
/// </summary>
internal sealed unsafe class HeadFunction : autograd.SingleTensorFunction<HeadFunction>
{
    private const string PassName = "pass";

    private static readonly ConcurrentBag<HeadKernel> s_heads = [];

    private sealed class Pass(Tensor weight, Tensor tokens, double temperature)
    {
        public Tensor Weight => weight;

        public Tensor Tokens => tokens;

        public double Temperature => temperature;

        public HeadKernel? Head { get; set; }

        public float* WeightGradient { get; set; }
    }

    /// <inheritdoc/>
    public override string Name => nameof(HeadFunction);

    /// <summary>log softmax(z)[token] and the entropy of softmax(z) in nats, z = hidden·Wᵀ/temperature: (2, N).</summary>
    /// <param name="hidden">(N, C), C a multiple of 16.</param>
    /// <param name="weight">(V, C).</param>
    /// <param name="tokens">int64 (N), each below V.</param>
    /// <param name="temperature">Divides the logits.</param>
    public static Tensor Run(Tensor hidden, Tensor weight, Tensor tokens, double temperature)
    {
        var pass = new Pass(weight, tokens, temperature);
        return is_grad_enabled() && hidden.requires_grad ? apply(hidden, pass) : Forward(hidden, pass, keep: false);
    }

    /// <summary>Gives back the memory that is kept for the next pass.</summary>
    public static void Free()
    {
        while (s_heads.TryTake(out var loss))
            loss.Dispose();
    }

    /// <inheritdoc/>
    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        var pass = (Pass)vars[1];
        ctx.save_data(PassName, pass);
        return Forward((Tensor)vars[0], pass, keep: true);
    }

    /// <inheritdoc/>
    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
    {
        var pass = (Pass)ctx.get_data(PassName);
        var head = pass.Head ?? throw new InvalidOperationException("A forward pass can be gone back through once.");
        using var scope = NewDisposeScope();
        var dHidden = empty([head.Rows, head.Width]);
        float* gradients = TensorMemory.Floats(grad_output.contiguous());
        head.Backward(gradients, gradients + head.Rows, pass.WeightGradient, TensorMemory.Floats(dHidden));
        pass.Head = null;
        s_heads.Add(head);
        return [dHidden.MoveToOuterDisposeScope(), null!];
    }

    private static Tensor Forward(Tensor hidden, Pass pass, bool keep)
    {
        using var scope = NewDisposeScope();
        var head = s_heads.TryTake(out var free) ? free : new HeadKernel();
        int n = (int)hidden.size(0);
        var results = empty([2, n]);
        float* numbers = TensorMemory.Floats(results);
        head.Forward(
            TensorMemory.Floats(hidden.contiguous()), TensorMemory.Floats(pass.Weight), TensorMemory.Longs(pass.Tokens.contiguous()),
            pass.Temperature, n, (int)hidden.size(1), (int)pass.Weight.size(0), numbers, numbers + n);
        if (keep)
        {
            pass.Head = head;
            pass.WeightGradient = new ParameterPointer(pass.Weight, pass.Weight.requires_grad).Gradient;
        }
        else
        {
            s_heads.Add(head);
        }
        return results.MoveToOuterDisposeScope();
    }
}
