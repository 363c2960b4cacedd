using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>The gradient of one matrix: dyᵀ (outputs × tokens) times x (tokens × inputs, in woven panels).</summary>
internal unsafe struct WeightJob
{
    /// <summary>dy (tokens, outputs).</summary>
    public ushort* Gradient;

    public int Outputs;

    /// <summary>x in panels of 64 columns, (inputs/64, tokens/2, 64, 2).</summary>
    public ushort* Woven;

    public int Inputs;

    /// <summary>What is added to, (outputs, inputs).</summary>
    public float* WeightGradient;

    /// <summary>What Σ dy is added to, (outputs); null where there is no bias.</summary>
    public float* BiasGradient;
}

/// <summary>Products of a few rows with packed matrices, built of <see cref="MicroKernel"/>'s.</summary>
internal static unsafe class Products
{
    private const int Rows = Bf16.Block, Chunk = 4 * Rows;

    /// <summary>Rows of a product: few numbers, for each of which a kernel is compiled.</summary>
    public static int Padded(int rows) => (rows + 15) / 16 * 16;

    /// <summary>How many blocks of 64 it takes.</summary>
    public static int Blocks(int count) => (count + Rows - 1) / Rows;

    /// <summary>Bytes that <see cref="AddWeightGradient"/> needs.</summary>
    public static long WeightGradientBytes(int tokens) =>
        (sizeof(ushort) * (long)Rows * ((Blocks(tokens) * Rows) + Chunk)) + (sizeof(uint) * Rows * Rows);

    /// <summary>Rows (64, depth) times a packed matrix, by rows (64, columns).</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Multiply(ushort* a, int depth, ushort* packed, float* to, int columns, int rows, float* tile)
    {
        for (int column = 0; column < columns; column += Rows)
        {
            MicroKernel.Multiply(Padded(rows), Rows, depth, a, depth, packed + ((long)column * depth), Rows, tile, Rows);
            int width = Math.Min(Rows, columns - column);
            for (int row = 0; row < rows; row++)
                new Span<float>(tile + (row * Rows), width).CopyTo(new Span<float>(to + ((long)row * columns) + column, width));
        }
    }

    /// <summary>64 rows into panels of 64 columns, (columns/64, tokens/2, 64, 2); rows that are missing are zeros.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void WeavePanels(ushort* rows, int columns, int count, ushort* panels, long place, int tokens)
    {
        for (int column = 0; column < columns; column += Rows)
        {
            int width = Math.Min(Rows, columns - column);
            ushort* to = panels + ((long)column * tokens) + (place * Rows);
            for (int row = 0; row < Rows; row += 2, to += 2 * Rows)
                Bf16.WeaveRows(rows + ((long)row * columns) + column, columns, Math.Clamp(count - row, 0, 2), 2, width, to);
        }
    }

    /// <summary>
    /// dW += dyᵀ·x and db += Σ dy, for 64 outputs of a matrix. All tokens are one sum, in a fixed order.
    /// </summary>
    /// <param name="job">What is multiplied.</param>
    /// <param name="block">Which 64 outputs.</param>
    /// <param name="tokens">How many.</param>
    /// <param name="tile">64 × 64.</param>
    /// <param name="scratch"><see cref="WeightGradientBytes"/>.</param>
    /// <param name="outputs">How many of the outputs are real; null: all.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void AddWeightGradient(in WeightJob job, int block, int tokens, float* tile, byte* scratch, int? outputs = null)
    {
        int first = block * Rows, width = Math.Min(Rows, job.Outputs - first), padded = Blocks(tokens) * Rows;
        ushort* transposed = (ushort*)scratch;
        uint* woven = (uint*)(transposed + ((padded + Chunk - 1) / Chunk * (long)Chunk * Rows));
        float* bias = stackalloc float[Rows];
        new Span<float>(bias, Rows).Clear();

        // dyᵀ in chunks of 256 tokens, (tokens/256, 64, 256).
        for (int token = 0; token < padded; token += Rows)
        {
            ushort* dy = job.Gradient + ((long)token * job.Outputs) + first;
            int rows = Math.Clamp(tokens - token, 0, Rows);
            if (width < Rows)
                new Span<uint>(woven, Rows / 2 * Rows).Clear();
            for (int row = 0; row < Rows; row += 2)
                Bf16.WeaveRows(
                    dy + ((long)row * job.Outputs), job.Outputs, Math.Clamp(rows - row, 0, 2), 2, width, (ushort*)(woven + (row / 2 * Rows)));
            for (int row = 0; row < rows && job.BiasGradient != null; row++)
            {
                for (int i = 0; i < width; i += 16)
                    (Vector512.Load(bias + i) + Bf16.Load(dy + ((long)row * job.Outputs) + i)).Store(bias + i);
            }
            Bf16.TransposeWoven(woven, Rows, Rows / 2, Rows, transposed + ((long)(token / Chunk) * Rows * Chunk) + (token % Chunk), Chunk);
        }
        for (int i = 0; i < width && job.BiasGradient != null; i++)
            job.BiasGradient[first + i] += bias[i];

        for (int column = 0; column < job.Inputs; column += Rows)
        {
            for (int token = 0; token < padded; token += Chunk)
                MicroKernel.Multiply(
                    Rows, Rows, Math.Min(Chunk, padded - token), transposed + ((long)token * Rows), Chunk,
                    job.Woven + ((long)column * padded) + ((long)token * Rows), Rows, tile, Rows, add: token > 0);
            int columns = Math.Min(Rows, job.Inputs - column);
            for (int row = 0; row < Math.Min(width, (outputs ?? job.Outputs) - first); row++)
            {
                float* to = job.WeightGradient + ((long)(first + row) * job.Inputs) + column;
                for (int i = 0; i < columns; i += 16)
                    (Vector512.Load(to + i) + Vector512.Load(tile + (row * Rows) + i)).Store(to + i);
            }
        }
    }
}
