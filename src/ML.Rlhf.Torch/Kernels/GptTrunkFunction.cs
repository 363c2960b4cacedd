using System.Collections.Concurrent;
using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>
/// <see cref="GptTrunk"/> as one differentiable operation. The gradients of the parameters do not travel through libtorch's graph: the
/// backward pass adds them to the parameters' own, once per parameter. A graph can be gone through once.
/// </summary>
internal sealed unsafe class GptTrunkFunction : autograd.SingleTensorFunction<GptTrunkFunction>
{
    private const string PassName = "pass";

    private static readonly ConcurrentBag<GptTrunk> s_trunks = [];

    /// <summary>One pass: its inputs, and what it leaves for the way back.</summary>
    private sealed record Pass(GptPointers Parameters, GptShape Shape, Tensor Ids, Activations Activations)
    {
        public GptTrunk? Trunk { get; set; }
    }

    /// <inheritdoc/>
    public override string Name => nameof(GptTrunkFunction);

    /// <summary>Hidden states after the last norm, (B, T, C).</summary>
    /// <param name="shape">Sizes.</param>
    /// <param name="parameters">Where the parameters are.</param>
    /// <param name="ids">Token ids, int64 (B, T), each below the vocabulary's size.</param>
    /// <param name="anchor">A parameter: whether it requires a gradient says whether there will be a backward pass.</param>
    /// <param name="checkpoints">Whether that one computes the blocks again.</param>
    public static Tensor Run(GptShape shape, Func<bool, GptPointers> parameters, Tensor ids, Tensor anchor, bool checkpoints)
    {
        bool learns = is_grad_enabled() && anchor.requires_grad;
        var activations = !learns ? Activations.Forgotten : checkpoints ? Activations.Checkpointed : Activations.Kept;
        var pass = new Pass(parameters(learns), shape, ids.contiguous(), activations);
        return learns ? apply(anchor, pass) : Hidden(pass);
    }

    /// <summary>Gives back the memory that is kept for the next pass.</summary>
    public static void Free()
    {
        while (s_trunks.TryTake(out var trunk))
            trunk.Dispose();
    }

    /// <inheritdoc/>
    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        var pass = (Pass)vars[1];
        ctx.save_data(PassName, pass);
        return Hidden(pass);
    }

    /// <inheritdoc/>
    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
    {
        var pass = (Pass)ctx.get_data(PassName);
        var trunk = pass.Trunk ?? throw new InvalidOperationException("A forward pass can be gone back through once.");
        trunk.Backward(pass.Parameters, TensorMemory.Floats(grad_output.contiguous()));
        pass.Trunk = null;
        s_trunks.Add(trunk);
        return [null!, null!]; // the anchor's gradient is where the others are
    }

    private static Tensor Hidden(Pass pass)
    {
        var shape = pass.Shape;
        var hidden = empty([shape.Batch, shape.T, shape.Width]);
        var trunk = s_trunks.TryTake(out var free) ? free : new GptTrunk();
        trunk.Forward(shape, TensorMemory.Longs(pass.Ids), pass.Parameters, TensorMemory.Floats(hidden), pass.Activations);
        if (pass.Activations == Activations.Forgotten)
            s_trunks.Add(trunk);
        else
            pass.Trunk = trunk;
        return hidden;
    }
}
