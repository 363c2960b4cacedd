using ML.Rlhf.Torch.Kernels;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Generation;

/// <summary>A model that goes on with prompts in the pack's own kernels.</summary>
internal sealed unsafe class KernelContinuation(GptDecoder decoder, IReadOnlyList<int[]> prompts) : INextToken
{
    public Tensor Logits(ReadOnlySpan<int> drawn)
    {
        bool begins = drawn.IsEmpty;
        var logits = empty([begins ? prompts.Count : decoder.Rows, decoder.Vocabulary]);
        if (begins)
        {
            var shared = SharedPrompts.Of(prompts);
            decoder.Read(shared.Distinct, shared.Places, TensorMemory.Floats(logits));
        }
        else
        {
            decoder.Next(drawn, TensorMemory.Floats(logits));
        }
        return logits;
    }

    public void Keep(ReadOnlySpan<int> rows) => decoder.Keep(rows);

    public void Dispose() => decoder.Dispose();
}
