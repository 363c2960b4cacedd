using System.Collections.Concurrent;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>
/// <see cref="HeadLoss"/> as one differentiable operation. The gradient of the head's weights is added to theirs; that of the hidden states
/// goes on through libtorch's graph, which can be gone through once.
/// </summary>
internal sealed unsafe class HeadLossFunction : autograd.SingleTensorFunction<HeadLossFunction>
{
    private const string PassName = "pass";

    private static readonly ConcurrentBag<HeadLoss> s_losses = [];

    private sealed class Pass(Tensor weight, Tensor labels)
    {
        public Tensor Weight => weight;

        public Tensor Labels => labels;

        public HeadLoss? Loss { get; set; }

        public float* WeightGradient { get; set; }
    }

    /// <inheritdoc/>
    public override string Name => nameof(HeadLossFunction);

    /// <summary>Σ −log softmax(hidden·Wᵀ)[label], a scalar.</summary>
    /// <param name="hidden">(N, C), C a multiple of 16.</param>
    /// <param name="weight">(V, C).</param>
    /// <param name="labels">int64 (N), each below V.</param>
    public static Tensor Run(Tensor hidden, Tensor weight, Tensor labels) =>
        is_grad_enabled() && hidden.requires_grad ? apply(hidden, new Pass(weight, labels)) : Forward(hidden, new Pass(weight, labels), keep: false);

    /// <summary>Gives back the memory that is kept for the next pass.</summary>
    public static void Free()
    {
        while (s_losses.TryTake(out var loss))
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
        var loss = pass.Loss ?? throw new InvalidOperationException("A forward pass can be gone back through once.");
        var dHidden = empty([loss.Rows, loss.Width]);
        loss.Backward((float)grad_output.ToDouble(), pass.WeightGradient, TensorMemory.Floats(dHidden));
        pass.Loss = null;
        s_losses.Add(loss);
        return [dHidden, null!];
    }

    private static Tensor Forward(Tensor hidden, Pass pass, bool keep)
    {
        using var scope = NewDisposeScope();
        var loss = s_losses.TryTake(out var free) ? free : new HeadLoss();
        double sum = loss.Forward(
            TensorMemory.Floats(hidden.contiguous()), TensorMemory.Floats(pass.Weight), TensorMemory.Longs(pass.Labels.contiguous()),
            (int)hidden.size(0), (int)hidden.size(1), (int)pass.Weight.size(0));
        if (!keep)
        {
            s_losses.Add(loss);
            return tensor((float)sum).MoveToOuterDisposeScope();
        }
        pass.Loss = loss;
        pass.WeightGradient = new ParameterPointer(pass.Weight, pass.Weight.requires_grad).Gradient;
        return tensor((float)sum).MoveToOuterDisposeScope();
    }
}
