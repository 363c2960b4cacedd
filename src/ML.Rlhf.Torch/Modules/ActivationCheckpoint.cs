using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Modules;

/// <summary>
/// A block that keeps nothing but its input for the backward pass, and runs again there: memory for one block instead of all, for one more
/// forward pass (Chen et al. 2016, arXiv 1604.06174). The result and its gradients are the same, bit for bit, but for what is dropped: a
/// block draws a seed for that. A graph can be gone through once.
/// </summary>
internal sealed class ActivationCheckpoint : autograd.SingleTensorFunction<ActivationCheckpoint>
{
    private const string PassName = "pass";

    /// <summary>One block: what it runs on, and how.</summary>
    /// <param name="Block">The block; gets its input, and what it shares with the others.</param>
    /// <param name="Input">(B, T, C), outside of any graph.</param>
    /// <param name="Shared">What all blocks are given, such as a mask.</param>
    /// <param name="Seed">Of what the block drops; null where it drops nothing.</param>
    private sealed record Pass(Func<Tensor, Tensor?[], Tensor> Block, Tensor Input, Tensor?[] Shared, long? Seed)
    {
        public bool IsOver { get; private set; }

        public Tensor Run(Tensor input)
        {
            if (Seed is not { } seed)
                return Block(input, Shared);
            // What comes after the block draws as if the block had not; the seed is for the generators of all devices.
            using var state = get_rng_state();
            manual_seed(seed);
            var output = Block(input, Shared);
            set_rng_state(state);
            return output;
        }

        public void End()
        {
            IsOver = true;
            Input.Dispose();
            foreach (var tensor in Shared)
                tensor?.Dispose();
        }
    }

    /// <inheritdoc/>
    public override string Name => nameof(ActivationCheckpoint);

    /// <summary>The block's output.</summary>
    /// <param name="input">(B, T, C).</param>
    /// <param name="shared">What the block needs besides: it is held until the backward pass.</param>
    /// <param name="isRandom">Whether the block drops some of its activations: the second time it drops the same.</param>
    /// <param name="block">Gives (B, T, C) for the input and what is shared.</param>
    public static Tensor Run(Tensor input, Tensor?[] shared, bool isRandom, Func<Tensor, Tensor?[], Tensor> block)
    {
        if (!is_grad_enabled())
            return block(input, shared);
        using var scope = NewDisposeScope();
        long? seed = isRandom ? randint(long.MaxValue, 1, dtype: int64).ToInt64() : null;
        var pass = new Pass(
            block, input.detach().DetachFromDisposeScope(), [.. shared.Select(tensor => tensor?.alias().DetachFromDisposeScope())], seed);
        // Where the weights before the first block are frozen, it is still the blocks' own that learn.
        return apply(input.requires_grad ? input : input.detach().requires_grad_(), pass).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        var pass = (Pass)vars[1];
        ctx.save_data(PassName, pass);
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        return pass.Run(pass.Input).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
    {
        var pass = (Pass)ctx.get_data(PassName);
        if (pass.IsOver)
            throw new InvalidOperationException("A forward pass can be gone back through once.");
        using var grad = enable_grad();
        using var scope = NewDisposeScope();
        var input = pass.Input.detach().requires_grad_();
        pass.Run(input).backward([grad_output]); // adds the gradients of the block's parameters to theirs
        pass.End();
        return [input.grad!.MoveToOuterDisposeScope(), null!];
    }
}
