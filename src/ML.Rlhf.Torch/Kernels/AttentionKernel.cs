using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>
/// Causal self-attention of one head of one row, softmax(q·kᵀ/√d)·v, forward and backward, in blocks of 64 queries by 64 keys that stay in
/// the processor's caches: of the T × T weights none is kept. The backward pass computes them again from the logarithm of each query's
/// sum (Dao 2023, arXiv 2307.08691, sections 2.3 and 3.1).
/// </summary>
internal static unsafe class AttentionKernel
{
    private const int Block = Bf16.Block;

    /// <summary>Bytes that a pass needs besides its arguments.</summary>
    /// <param name="t">Tokens.</param>
    /// <param name="d">Numbers per head.</param>
    public static long ScratchBytes(int t, int d)
    {
        long blocks = Blocks(t), square = Block * Block;
        long forward = (sizeof(ushort) * 2 * blocks * Block * d) + (blocks * square * (sizeof(float) + sizeof(ushort))) + (sizeof(float) * Block * d);
        long backward = (sizeof(ushort) * 3 * blocks * Block * d) + (sizeof(float) * 2 * blocks * Block * d)
            + (sizeof(ushort) * 2 * Block * d) + (sizeof(float) * ((2 * square) + (Block * d) + Block)) + (sizeof(ushort) * 5 * square);
        return Math.Max(forward, backward) + 4096;
    }

    private static int Blocks(int t) => (t + Block - 1) / Block;

    /// <summary>Memory that is taken from the front.</summary>
    private ref struct Scratch(byte* memory)
    {
        private byte* _memory = memory;

        public ushort* Halves(long count) => (ushort*)NativeBuffer.Take(ref _memory, count * sizeof(ushort));

        public float* Floats(long count) => (float*)NativeBuffer.Take(ref _memory, count * sizeof(float));
    }

    /// <summary>Attends.</summary>
    /// <param name="q">Queries (T, d), rows <paramref name="stride"/> apart; 64 rows past the last may be read.</param>
    /// <param name="k">Keys, likewise.</param>
    /// <param name="v">Values, likewise.</param>
    /// <param name="stride">From one row to the next.</param>
    /// <param name="t">Tokens.</param>
    /// <param name="d">Numbers per head; a multiple of 16.</param>
    /// <param name="y">What comes out (T, d), rows <paramref name="strideY"/> apart.</param>
    /// <param name="strideY">From one row to the next.</param>
    /// <param name="logSums">log Σ exp of each query's scores (T); null where no backward pass follows.</param>
    /// <param name="memory"><see cref="ScratchBytes"/>.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Forward(
        ushort* q, ushort* k, ushort* v, int stride, int t, int d, ushort* y, int strideY, float* logSums, byte* memory)
    {
        var scratch = new Scratch(memory);
        int blocks = Blocks(t);
        float scale = 1 / MathF.Sqrt(d);
        ushort* keys = scratch.Halves((long)blocks * Block * d), values = scratch.Halves((long)blocks * Block * d);
        for (int j = 0; j < blocks; j++)
        {
            int rows = Math.Min(Block, t - (j * Block));
            long at = (long)j * Block * stride, packed = (long)j * Block * d;
            Bf16.WeaveColumns(k + at, stride, rows, d, keys + packed);
            Bf16.WeaveRows(v + at, stride, rows, Block, d, values + packed);
        }
        float* scores = scratch.Floats((long)blocks * Block * Block), output = scratch.Floats(Block * d);
        ushort* weights = scratch.Halves((long)blocks * Block * Block);

        for (int i = 0; i < blocks; i++)
        {
            int rows = Math.Min(Block, t - (i * Block));
            ushort* queries = q + ((long)i * Block * stride);
            for (int j = 0; j <= i; j++)
                MicroKernel.Multiply(Block, Block, d, queries, stride, keys + ((long)j * Block * d), Block, scores + (j * Block * Block), Block);
            for (int row = 0; row < rows; row++)
                Softmax(scores + (row * Block), weights + (row * Block), i, row, scale, logSums == null ? null : logSums + (i * Block) + row);
            for (int j = 0; j <= i; j++)
                MicroKernel.Multiply(
                    Block, d, Block, weights + (j * Block * Block), Block, values + ((long)j * Block * d), d, output, d, add: j > 0);
            for (int row = 0; row < rows; row++)
                Bf16.Convert(output + (row * d), y + ((((long)i * Block) + row) * strideY), d);
        }
    }

    /// <summary>exp(s·scale − log Σ) of a query's scores against all keys up to its own.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Softmax(float* scores, ushort* weights, int block, int row, float scale, float* logSum)
    {
        const int Next = Block * Block; // the same row of the next block of keys
        var lanes = Vector512.Create(0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        float* last = scores + (block * Next);
        for (int i = 0; i < Block; i += 16) // keys after the query
        {
            var hidden = Vector512.GreaterThan(lanes, Vector512.Create((float)(row - i)));
            Vector512.ConditionalSelect(hidden, Vector512.Create(-1e30f), Vector512.Load(last + i)).Store(last + i);
        }
        var most = Vector512.Create(float.NegativeInfinity);
        for (float* s = scores; s <= last; s += Next)
        {
            for (int i = 0; i < Block; i += 16)
                most = Vector512.Max(most, Vector512.Load(s + i));
        }
        float maximum = RowKernels.Max(most) * scale;
        var (factor, shift, sum) = (Vector512.Create(scale), Vector512.Create(-maximum), Vector512<float>.Zero);
        for (float* s = scores; s <= last; s += Next)
        {
            for (int i = 0; i < Block; i += 16)
            {
                var e = RowKernels.Exp(Vector512.FusedMultiplyAdd(Vector512.Load(s + i), factor, shift));
                sum += e;
                e.Store(s + i);
            }
        }
        float total = Vector512.Sum(sum);
        var share = Vector512.Create(1 / total);
        for (float* s = scores; s <= last; s += Next, weights += Next)
        {
            for (int i = 0; i < Block; i += 16)
                Bf16.Store(Vector512.Load(s + i) * share, weights + i);
        }
        if (logSum != null)
            *logSum = maximum + MathF.Log(total);
    }

    /// <summary>
    /// Gradients of queries, keys and values: with the weights P = exp(S − log Σ), dV = Pᵀ·dY, dP = dY·Vᵀ, dS = P·(dP − rowsum(dY·Y))/√d,
    /// dQ = dS·K, dK = dSᵀ·Q.
    /// </summary>
    /// <param name="q">Queries (T, d), rows <paramref name="stride"/> apart; 64 rows past the last may be read.</param>
    /// <param name="k">Keys, likewise.</param>
    /// <param name="v">Values, likewise.</param>
    /// <param name="stride">From one row to the next, of gradients too.</param>
    /// <param name="t">Tokens.</param>
    /// <param name="d">Numbers per head; a multiple of 16.</param>
    /// <param name="y">What the forward pass gave, rows <paramref name="strideY"/> apart.</param>
    /// <param name="dy">Its gradient, likewise; 64 rows past the last may be read.</param>
    /// <param name="strideY">From one row to the next.</param>
    /// <param name="logSums">What the forward pass left (T).</param>
    /// <param name="dq">Gradient of the queries.</param>
    /// <param name="dk">Gradient of the keys.</param>
    /// <param name="dv">Gradient of the values.</param>
    /// <param name="memory"><see cref="ScratchBytes"/>.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Backward(
        ushort* q, ushort* k, ushort* v, int stride, int t, int d, ushort* y, ushort* dy, int strideY, float* logSums,
        ushort* dq, ushort* dk, ushort* dv, byte* memory)
    {
        const int Square = Block * Block;
        var scratch = new Scratch(memory);
        int blocks = Blocks(t);
        long all = (long)blocks * Block * d;
        float scale = 1 / MathF.Sqrt(d);
        ushort* keyColumns = scratch.Halves(all), valueColumns = scratch.Halves(all), keyRows = scratch.Halves(all);
        float* keyGradient = scratch.Floats(all), valueGradient = scratch.Floats(all);
        new Span<float>(keyGradient, (int)all).Clear();
        new Span<float>(valueGradient, (int)all).Clear();
        for (int j = 0; j < blocks; j++)
        {
            int rows = Math.Min(Block, t - (j * Block));
            long at = (long)j * Block * stride, packed = (long)j * Block * d;
            Bf16.WeaveColumns(k + at, stride, rows, d, keyColumns + packed);
            Bf16.WeaveColumns(v + at, stride, rows, d, valueColumns + packed);
            Bf16.WeaveRows(k + at, stride, rows, Block, d, keyRows + packed);
        }
        ushort* queryRows = scratch.Halves(Block * d), outputRows = scratch.Halves(Block * d);
        float* scores = scratch.Floats(Square), weightGradient = scratch.Floats(Square);
        float* queryGradient = scratch.Floats(Block * d), dots = scratch.Floats(Block);
        ushort* scoreGradient = scratch.Halves(Square), transposed = scratch.Halves(Square);
        uint* wovenWeights = (uint*)scratch.Halves(Square), wovenScores = (uint*)scratch.Halves(Square);

        for (int i = 0; i < blocks; i++)
        {
            int rows = Math.Min(Block, t - (i * Block));
            ushort* queries = q + ((long)i * Block * stride), gradients = dy + ((long)i * Block * strideY);
            Bf16.WeaveRows(queries, stride, rows, Block, d, queryRows);
            Bf16.WeaveRows(gradients, strideY, rows, Block, d, outputRows);
            for (int row = 0; row < rows; row++)
                dots[row] = Dot(gradients + ((long)row * strideY), y + ((((long)i * Block) + row) * strideY), d);

            for (int j = 0; j <= i; j++)
            {
                long at = (long)j * Block * d;
                MicroKernel.Multiply(Block, Block, d, queries, stride, keyColumns + at, Block, scores, Block);
                MicroKernel.Multiply(Block, Block, d, gradients, strideY, valueColumns + at, Block, weightGradient, Block);
                for (int row = 0; row < Block; row += 2)
                    WeightsOfTwo(
                        scores, weightGradient, row, rows, i == j, scale, logSums + (i * Block), dots, scoreGradient,
                        wovenWeights + (row / 2 * Block), wovenScores + (row / 2 * Block));
                MicroKernel.Multiply(Block, d, Block, scoreGradient, Block, keyRows + at, d, queryGradient, d, add: j > 0);
                Bf16.TransposeWoven(wovenWeights, Block, Block / 2, Block, transposed, Block);
                MicroKernel.Multiply(Block, d, Block, transposed, Block, outputRows, d, valueGradient + at, d, add: true);
                Bf16.TransposeWoven(wovenScores, Block, Block / 2, Block, transposed, Block);
                MicroKernel.Multiply(Block, d, Block, transposed, Block, queryRows, d, keyGradient + at, d, add: true);
            }
            for (int row = 0; row < rows; row++)
                Bf16.Convert(queryGradient + (row * d), dq + ((((long)i * Block) + row) * stride), d);
        }
        for (int row = 0; row < t; row++)
        {
            Bf16.Convert(keyGradient + ((long)row * d), dk + ((long)row * stride), d);
            Bf16.Convert(valueGradient + ((long)row * d), dv + ((long)row * stride), d);
        }
    }

    /// <summary>Weights and gradients of scores of two queries, as rows of pairs, and the latter by rows as well.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void WeightsOfTwo(
        float* scores, float* weightGradient, int row, int rows, bool diagonal, float scale, float* logSums, float* dots,
        ushort* scoreGradient, uint* wovenWeights, uint* wovenScores)
    {
        var factor = Vector512.Create(scale);
        var lanes = Vector512.Create(0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (int i = 0; i < Block; i += 16)
        {
            var (w0, g0) = One(row);
            var (w1, g1) = One(row + 1);
            Bf16.Weave(w0, w1).Store(wovenWeights + i);
            Bf16.Weave(g0, g1).Store(wovenScores + i);
            Bf16.Store(g0, scoreGradient + (row * Block) + i);
            Bf16.Store(g1, scoreGradient + ((row + 1) * Block) + i);

            (Vector512<float>, Vector512<float>) One(int query)
            {
                if (query >= rows)
                    return (Vector512<float>.Zero, Vector512<float>.Zero);
                var weight = RowKernels.Exp(Vector512.FusedMultiplyAdd(
                    Vector512.Load(scores + (query * Block) + i), factor, Vector512.Create(-logSums[query])));
                if (diagonal)
                    weight = Vector512.ConditionalSelect(
                        Vector512.GreaterThan(lanes, Vector512.Create((float)(query - i))), Vector512<float>.Zero, weight);
                var gradient = Vector512.Load(weightGradient + (query * Block) + i) - Vector512.Create(dots[query]);
                return (weight, weight * gradient * factor);
            }
        }
    }

    private static float Dot(ushort* a, ushort* b, int count)
    {
        var sum = Vector512<float>.Zero;
        for (int i = 0; i < count; i += 16)
            sum = Vector512.FusedMultiplyAdd(Bf16.Load(a + i), Bf16.Load(b + i), sum);
        return Vector512.Sum(sum);
    }
}
