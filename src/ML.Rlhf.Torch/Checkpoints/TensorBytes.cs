using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Checkpoints;

/// <summary>
/// The numbers of a tensor as the bytes of a file, in row-major order, a few megabytes at a time. The tensor may have any type, lie on any
/// device and be a view with any strides.
/// </summary>
internal static class TensorBytes
{
    /// <summary>Memory that a transfer takes besides the tensor. Large enough for disks, small enough to vanish beside a model.</summary>
    public const int WindowBytes = 1 << 22;

    /// <summary>Gives the next bytes of a file, all of them or an exception.</summary>
    public delegate void Source(Span<byte> destination);

    /// <summary>Fills a tensor.</summary>
    /// <param name="target">Filled in place, also where it requires a gradient.</param>
    /// <param name="type">Type of the numbers in the file.</param>
    /// <param name="source">The file, called in order.</param>
    public static void Read(Tensor target, ScalarType type, Source source)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        using var window = empty(Math.Min(target.numel(), WindowBytes / SizeOf(type)), type);
        ForEachPiece(target, WindowBytes / SizeOf(type), piece =>
        {
            using var pieceScope = NewDisposeScope();
            var numbers = window.narrow(0, 0, piece.numel());
            source(numbers.bytes);
            piece.copy_(numbers.view(piece.shape));
        });
    }

    /// <summary>Writes a tensor.</summary>
    /// <param name="source">The numbers.</param>
    /// <param name="type">Type of the numbers in the file.</param>
    /// <param name="stream">The file.</param>
    public static void Write(Tensor source, ScalarType type, Stream stream)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        ForEachPiece(source, WindowBytes / SizeOf(type), piece =>
        {
            using var pieceScope = NewDisposeScope();
            stream.Write(piece.detach().to(type).cpu().contiguous().bytes);
        });
    }

    /// <summary>
    /// Visits a tensor in parts of at most so many elements: as many rows as fit, or the parts of one row where not even one fits.
    /// </summary>
    private static void ForEachPiece(Tensor tensor, long elements, Action<Tensor> visit)
    {
        if (tensor.numel() == 0)
            return;
        if (tensor.numel() <= elements)
        {
            visit(tensor);
            return;
        }
        long rows = tensor.shape[0], rowsAtOnce = elements / (tensor.numel() / rows);
        for (long row = 0; row < rows; row += Math.Max(rowsAtOnce, 1))
        {
            using var part = rowsAtOnce == 0 ? tensor.select(0, row) : tensor.narrow(0, row, Math.Min(rowsAtOnce, rows - row));
            ForEachPiece(part, elements, visit);
        }
    }

    private static int SizeOf(ScalarType type) => type == ScalarType.Float32 ? 4 : 2;
}
