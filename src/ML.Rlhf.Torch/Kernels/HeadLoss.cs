using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>
/// Σ −log softmax(x·Wᵀ)[label] and its gradients, without ever holding the logits of more than 2,048 tokens of the vocabulary: each row's
/// sum is kept up with, tile by tile, and the backward pass computes the logits again.
/// </summary>
internal sealed unsafe class HeadLoss : IDisposable
{
    private const int Tile = Bf16.Block, Group = 2048;

    private readonly NativeBuffer _kept = new();
    private State _state;

    /// <summary>N of the last pass.</summary>
    public int Rows => _state.N;

    /// <summary>C of the last pass.</summary>
    public int Width => _state.C;

    public void Dispose() => _kept.Dispose();

    /// <summary>The loss.</summary>
    /// <param name="x">Hidden states (N, C).</param>
    /// <param name="weight">(V, C).</param>
    /// <param name="labels">(N), each in [0, V).</param>
    /// <param name="n">N.</param>
    /// <param name="c">C, a multiple of 16.</param>
    /// <param name="v">V.</param>
    /// <returns>The sum, in nats.</returns>
    public double Forward(float* x, float* weight, long* labels, int n, int c, int v)
    {
        _state = new State { N = n, C = c, V = v, Weight = weight };
        Keep(ref _state);
        Lay(ref _state, backward: false);
        var s = _state;
        Bf16.Convert(x, s.X, (long)n * c);
        new Span<long>(labels, n).CopyTo(new Span<long>(s.Labels, n));
        new Span<float>(s.Largest, n).Fill(float.NegativeInfinity);
        new Span<float>(s.Sums, n).Clear();
        for (s.First = 0; s.First < v; s.First += Group)
        {
            s.Columns = Math.Min(Group, v - s.First);
            Team.Run(Products.Blocks(s.Columns), &Pack, &s);
            Team.Run(Products.Blocks(n), &AddToSums, &s);
        }
        double sum = 0;
        for (int row = 0; row < n; row++)
        {
            s.Sums[row] = s.Largest[row] + MathF.Log(s.Sums[row]); // log Σ exp from here on
            sum += s.Sums[row] - s.LabelLogits[row];
        }
        return sum;
    }

    /// <summary>Adds the weights' gradient to theirs, and gives that of the hidden states.</summary>
    /// <param name="factor">The gradient of the sum.</param>
    /// <param name="dWeight">What is added to, (V, C); null where the weights are not trained.</param>
    /// <param name="dx">(N, C).</param>
    public void Backward(float factor, float* dWeight, float* dx)
    {
        Lay(ref _state, backward: true);
        var s = _state;
        s.Factor = factor;
        s.WeightGradient = dWeight;
        Team.Run(Products.Blocks(s.N), &WeaveInput, &s);
        for (s.First = 0; s.First < s.V; s.First += Group)
        {
            s.Columns = Math.Min(Group, s.V - s.First);
            Team.Run(Products.Blocks(s.Columns), &Pack, &s);
            Team.Run(Products.Blocks(s.C), &PackBack, &s);
            Team.Run(Products.Blocks(s.N), &LogitGradients, &s);
            if (dWeight != null)
                Team.Run(Products.Blocks(s.Columns), &WeightGradient, &s);
        }
        for (long i = 0; i < (long)s.N * s.C; i += 16)
            Vector512.Load(s.DX + i).Store(dx + i);
    }

    private struct State
    {
        public int N, C, V, First, Columns;
        public float Factor;
        public float* Weight, WeightGradient;

        // Kept.
        public ushort* X;
        public long* Labels;
        public float* Largest, Sums, LabelLogits;

        // Forgotten.
        public ushort* Packed, PackedBack, Gradients, WovenX;
        public float* DX;
        public byte* Threads;
        public long ThreadBytes;

        public readonly int PaddedColumns => Products.Blocks(Columns) * Tile;

        public readonly float* TileOf(int thread) => (float*)(Threads + (thread * ThreadBytes));

        public readonly byte* Scratch(int thread) => Threads + (thread * ThreadBytes) + (sizeof(float) * Tile * Tile);
    }

    private static void Pack(void* state, int piece, int thread)
    {
        var s = (State*)state;
        Bf16.PackTransposed(s->Weight + ((long)s->First * s->C), s->Columns, s->C, piece, s->Packed + ((long)piece * Tile * s->C));
    }

    /// <summary>The group's rows of W as a right side, followed by zeros up to a multiple of 64.</summary>
    private static void PackBack(void* state, int piece, int thread)
    {
        var s = (State*)state;
        ushort* to = s->PackedBack + ((long)piece * Tile * s->PaddedColumns);
        Bf16.Pack(s->Weight + ((long)s->First * s->C), s->Columns, s->C, piece, to);
        long used = (long)((s->Columns + 1) & ~1) * Tile, all = (long)s->PaddedColumns * Tile;
        new Span<ushort>(to + used, (int)(all - used)).Clear();
    }

    /// <summary>Takes the group's logits into the sums of 64 rows (Milakov and Gimelshein 2018, arXiv 1805.02867, algorithm 3).</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AddToSums(void* state, int piece, int thread)
    {
        var s = (State*)state;
        int rows = Math.Min(Tile, s->N - (piece * Tile));
        float* tile = s->TileOf(thread);
        for (int column = 0; column < s->Columns; column += Tile)
        {
            Logits(s, piece, rows, column, tile);
            int width = Math.Min(Tile, s->Columns - column);
            for (int i = 0; i < rows; i++)
            {
                int row = (piece * Tile) + i;
                float* logits = tile + (i * Tile);
                if (width < Tile)
                    new Span<float>(logits + width, Tile - width).Fill(float.NegativeInfinity);
                float largest = MathF.Max(s->Largest[row], RowKernels.Max(Vector512.Max(
                    Vector512.Max(Vector512.Load(logits), Vector512.Load(logits + 16)),
                    Vector512.Max(Vector512.Load(logits + 32), Vector512.Load(logits + 48)))));
                var (shift, sum) = (Vector512.Create(largest), Vector512<float>.Zero);
                for (int j = 0; j < Tile; j += 16)
                    sum += RowKernels.Exp(Vector512.Load(logits + j) - shift);
                s->Sums[row] = (s->Sums[row] * MathF.Exp(s->Largest[row] - largest)) + Vector512.Sum(sum);
                s->Largest[row] = largest;
                long label = s->Labels[row] - s->First - column;
                if (label >= 0 && label < width)
                    s->LabelLogits[row] = logits[label];
            }
        }
    }

    private static void Logits(State* s, int piece, int rows, int column, float* tile) => MicroKernel.Multiply(
        Products.Padded(rows), Tile, s->C, s->X + ((long)piece * Tile * s->C), s->C, s->Packed + ((long)column * s->C), Tile, tile, Tile);

    private static void WeaveInput(void* state, int piece, int thread)
    {
        var s = (State*)state;
        Products.WeavePanels(
            s->X + ((long)piece * Tile * s->C), s->C, Math.Min(Tile, s->N - (piece * Tile)), s->WovenX, (long)piece * Tile,
            Products.Blocks(s->N) * Tile);
    }

    /// <summary>factor·(softmax − 1[label]) of the group, and what of it goes to the hidden states: times W.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void LogitGradients(void* state, int piece, int thread)
    {
        var s = (State*)state;
        int rows = Math.Min(Tile, s->N - (piece * Tile)), columns = s->PaddedColumns;
        long first = (long)piece * Tile;
        float* tile = s->TileOf(thread);
        var factor = Vector512.Create(s->Factor);
        for (int column = 0; column < s->Columns; column += Tile)
        {
            Logits(s, piece, rows, column, tile);
            int width = Math.Min(Tile, s->Columns - column);
            for (int i = 0; i < rows; i++)
            {
                float* logits = tile + (i * Tile);
                var shift = Vector512.Create(s->Sums[first + i]);
                for (int j = 0; j < Tile; j += 16)
                    (factor * RowKernels.Exp(Vector512.Load(logits + j) - shift)).Store(logits + j);
                if (width < Tile)
                    new Span<float>(logits + width, Tile - width).Clear();
                long label = s->Labels[first + i] - s->First - column;
                if (label >= 0 && label < width)
                    logits[label] -= s->Factor;
                for (int j = 0; j < Tile; j += 16)
                    Bf16.Store(Vector512.Load(logits + j), s->Gradients + ((first + i) * columns) + column + j);
            }
        }
        for (int column = 0; column < s->C; column += Tile)
        {
            MicroKernel.Multiply(
                Products.Padded(rows), Tile, columns, s->Gradients + (first * columns), columns,
                s->PackedBack + ((long)column * columns), Tile, tile, Tile);
            int width = Math.Min(Tile, s->C - column);
            for (int i = 0; i < rows; i++)
            {
                float* to = s->DX + ((first + i) * s->C) + column;
                for (int j = 0; j < width; j += 16)
                {
                    var term = Vector512.Load(tile + (i * Tile) + j);
                    (s->First == 0 ? term : Vector512.Load(to + j) + term).Store(to + j);
                }
            }
        }
    }

    private static void WeightGradient(void* state, int piece, int thread)
    {
        var s = (State*)state;
        var job = new WeightJob
        {
            Gradient = s->Gradients, Outputs = s->PaddedColumns, Woven = s->WovenX, Inputs = s->C,
            WeightGradient = s->WeightGradient + ((long)s->First * s->C),
        };
        Products.AddWeightGradient(job, piece, s->N, s->TileOf(thread), s->Scratch(thread), outputs: s->Columns);
    }

    private void Keep(ref State s)
    {
        long n = s.N, padded = Products.Blocks(s.N) * Tile;
        byte* memory = (byte*)_kept.Reserve((padded * s.C * sizeof(ushort)) + (n * ((3 * sizeof(float)) + sizeof(long))) + 512);
        s.Labels = (long*)NativeBuffer.Take(ref memory, n * sizeof(long));
        s.Largest = (float*)NativeBuffer.Take(ref memory, n * sizeof(float));
        s.Sums = (float*)NativeBuffer.Take(ref memory, n * sizeof(float));
        s.LabelLogits = (float*)NativeBuffer.Take(ref memory, n * sizeof(float));
        s.X = (ushort*)NativeBuffer.Take(ref memory, padded * s.C * sizeof(ushort));
    }

    private static void Lay(ref State s, bool backward)
    {
        long c = s.C, wide = Products.Blocks(s.C) * Tile, padded = Products.Blocks(s.N) * Tile, group = Math.Min(Group, Products.Blocks(s.V) * Tile);
        s.ThreadBytes = ((sizeof(float) * Tile * Tile) + (backward ? Products.WeightGradientBytes(s.N) : 0) + 127) & ~63;
        long threads = Team.Threads * s.ThreadBytes, packed = group * c * sizeof(ushort);
        long rest = backward
            ? (group * wide * sizeof(ushort)) + (padded * group * sizeof(ushort)) + (padded * wide * sizeof(ushort)) + (s.N * c * sizeof(float))
            : 0;
        byte* memory = (byte*)KernelMemory.Reserve(threads + packed + rest + 1024);
        s.Threads = NativeBuffer.Take(ref memory, threads);
        s.Packed = (ushort*)NativeBuffer.Take(ref memory, packed);
        if (!backward)
            return;
        s.PackedBack = (ushort*)NativeBuffer.Take(ref memory, group * wide * sizeof(ushort));
        s.Gradients = (ushort*)NativeBuffer.Take(ref memory, padded * group * sizeof(ushort));
        s.WovenX = (ushort*)NativeBuffer.Take(ref memory, padded * wide * sizeof(ushort));
        s.DX = (float*)NativeBuffer.Take(ref memory, s.N * c * sizeof(float));
    }
}
