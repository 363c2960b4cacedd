using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>
/// log softmax(z)[token] and the entropy of softmax(z), z = x·Wᵀ/temperature, and their gradients, without ever holding the logits of more
/// than 2,048 tokens of the vocabulary: each row's sums are kept up with, tile by tile, and the backward pass computes the logits again.
/// </summary>
internal sealed unsafe class HeadKernel : IDisposable
{
    private const int Tile = Bf16.Block, Group = 2048;

    /// <summary>Below any logit, and finite: nothing times it is nothing.</summary>
    private const float Nothing = -1e9f;

    private readonly NativeBuffer _kept = new();
    private State _state;

    /// <summary>N of the last pass.</summary>
    public int Rows => _state.N;

    /// <summary>C of the last pass.</summary>
    public int Width => _state.C;

    public void Dispose() => _kept.Dispose();

    /// <summary>What the head says of some tokens.</summary>
    /// <param name="x">Hidden states (N, C).</param>
    /// <param name="weight">(V, C).</param>
    /// <param name="tokens">(N), each in [0, V).</param>
    /// <param name="temperature">Divides the logits.</param>
    /// <param name="n">N.</param>
    /// <param name="c">C, a multiple of 16.</param>
    /// <param name="v">V.</param>
    /// <param name="logProbs">log p of each token, in nats (N).</param>
    /// <param name="entropies">Entropy of p in nats (N).</param>
    public void Forward(
        float* x, float* weight, long* tokens, double temperature, int n, int c, int v, float* logProbs, float* entropies)
    {
        _state = new State { N = n, C = c, V = v, Weight = weight, Scale = (float)(1 / temperature) };
        Keep(ref _state);
        Lay(ref _state, backward: false);
        var s = _state;
        Bf16.Convert(x, s.X, (long)n * c);
        new Span<long>(tokens, n).CopyTo(new Span<long>(s.Tokens, n));
        new Span<float>(s.Largest, n).Fill(Nothing);
        new Span<float>(s.Sums, n).Clear();
        new Span<float>(s.WeightedSums, n).Clear();
        for (s.First = 0; s.First < v; s.First += Group)
        {
            s.Columns = Math.Min(Group, v - s.First);
            Team.Run(Products.Blocks(s.Columns), &Pack, &s);
            Team.Run(Products.Blocks(n), &AddToSums, &s);
        }
        for (int row = 0; row < n; row++)
        {
            entropies[row] = s.Entropies[row] = MathF.Log(s.Sums[row]) - (s.WeightedSums[row] / s.Sums[row]);
            s.LogSums[row] = s.Largest[row] + MathF.Log(s.Sums[row]);
            logProbs[row] = s.TokenLogits[row] - s.LogSums[row];
        }
    }

    /// <summary>Adds the weights' gradient to theirs, and gives that of the hidden states.</summary>
    /// <param name="dLogProbs">Gradient of the log-probabilities (N).</param>
    /// <param name="dEntropies">Gradient of the entropies (N).</param>
    /// <param name="dWeight">What is added to, (V, C); null where the weights are not trained.</param>
    /// <param name="dx">(N, C).</param>
    public void Backward(float* dLogProbs, float* dEntropies, float* dWeight, float* dx)
    {
        Lay(ref _state, backward: true);
        var s = _state;
        s.LogProbGradients = dLogProbs;
        s.EntropyGradients = dEntropies;
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
        public float Scale;
        public float* Weight, WeightGradient, LogProbGradients, EntropyGradients;

        // Kept.
        public ushort* X;
        public long* Tokens;
        public float* TokenLogits, LogSums, Entropies;

        // Forgotten.
        public float* Largest, Sums, WeightedSums; // of a row so far: m = max z, Σ exp(z − m), Σ (z − m)·exp(z − m)
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
                    new Span<float>(logits + width, Tile - width).Fill(Nothing);
                float before = s->Largest[row], largest = MathF.Max(before, s->Scale * RowKernels.Max(Vector512.Max(
                    Vector512.Max(Vector512.Load(logits), Vector512.Load(logits + 16)),
                    Vector512.Max(Vector512.Load(logits + 32), Vector512.Load(logits + 48)))));
                Vector512<float> sum = default, weighted = default;
                for (int j = 0; j < Tile; j += 16)
                {
                    var below = (Vector512.Load(logits + j) * s->Scale) - Vector512.Create(largest);
                    var exp = RowKernels.Exp(below);
                    sum += exp;
                    weighted += exp * below;
                }
                float shrink = MathF.Exp(before - largest);
                s->WeightedSums[row] = (shrink * (s->WeightedSums[row] + ((before - largest) * s->Sums[row]))) + Vector512.Sum(weighted);
                s->Sums[row] = (shrink * s->Sums[row]) + Vector512.Sum(sum);
                s->Largest[row] = largest;
                long token = s->Tokens[row] - s->First - column;
                if (token >= 0 && token < width)
                    s->TokenLogits[row] = s->Scale * logits[token];
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

    /// <summary>
    /// Gradient of the group's logits, and what of it goes to the hidden states: times W. With log p = z − log Σ exp(z), the
    /// log-probability's is 1[token] − p, and that of the entropy H is −p·(log p + H).
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void LogitGradients(void* state, int piece, int thread)
    {
        var s = (State*)state;
        int rows = Math.Min(Tile, s->N - (piece * Tile)), columns = s->PaddedColumns;
        long first = (long)piece * Tile;
        float* tile = s->TileOf(thread);
        for (int column = 0; column < s->Columns; column += Tile)
        {
            Logits(s, piece, rows, column, tile);
            int width = Math.Min(Tile, s->Columns - column);
            for (int i = 0; i < rows; i++)
            {
                float* logits = tile + (i * Tile);
                float dLogProb = s->LogProbGradients[first + i], dEntropy = s->EntropyGradients[first + i];
                Vector512<float> shift = Vector512.Create(s->LogSums[first + i]), entropy = Vector512.Create(s->Entropies[first + i]);
                for (int j = 0; j < Tile; j += 16)
                {
                    var logProb = (Vector512.Load(logits + j) * s->Scale) - shift;
                    var slope = Vector512.Create(-dLogProb) - (dEntropy * (logProb + entropy));
                    (s->Scale * slope * RowKernels.Exp(logProb)).Store(logits + j);
                }
                if (width < Tile)
                    new Span<float>(logits + width, Tile - width).Clear();
                long token = s->Tokens[first + i] - s->First - column;
                if (token >= 0 && token < width)
                    logits[token] += s->Scale * dLogProb;
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
        s.Tokens = (long*)NativeBuffer.Take(ref memory, n * sizeof(long));
        s.TokenLogits = (float*)NativeBuffer.Take(ref memory, n * sizeof(float));
        s.LogSums = (float*)NativeBuffer.Take(ref memory, n * sizeof(float));
        s.Entropies = (float*)NativeBuffer.Take(ref memory, n * sizeof(float));
        s.X = (ushort*)NativeBuffer.Take(ref memory, padded * s.C * sizeof(ushort));
    }

    private static void Lay(ref State s, bool backward)
    {
        long c = s.C, wide = Products.Blocks(s.C) * Tile, padded = Products.Blocks(s.N) * Tile;
        long group = Math.Min(Group, Products.Blocks(s.V) * Tile);
        s.ThreadBytes = ((sizeof(float) * Tile * Tile) + (backward ? Products.WeightGradientBytes(s.N) : 0) + 127) & ~63;
        long threads = Team.Threads * s.ThreadBytes, packed = group * c * sizeof(ushort);
        long rest = backward
            ? (group * wide * sizeof(ushort)) + (padded * (group + wide) * sizeof(ushort)) + (s.N * c * sizeof(float))
            : 3 * s.N * sizeof(float);
        byte* memory = (byte*)KernelMemory.Reserve(threads + packed + rest + 1024);
        s.Threads = NativeBuffer.Take(ref memory, threads);
        s.Packed = (ushort*)NativeBuffer.Take(ref memory, packed);
        if (!backward)
        {
            s.Largest = (float*)NativeBuffer.Take(ref memory, s.N * sizeof(float));
            s.Sums = (float*)NativeBuffer.Take(ref memory, s.N * sizeof(float));
            s.WeightedSums = (float*)NativeBuffer.Take(ref memory, s.N * sizeof(float));
            return;
        }
        s.PackedBack = (ushort*)NativeBuffer.Take(ref memory, group * wide * sizeof(ushort));
        s.Gradients = (ushort*)NativeBuffer.Take(ref memory, padded * group * sizeof(ushort));
        s.WovenX = (ushort*)NativeBuffer.Take(ref memory, padded * wide * sizeof(ushort));
        s.DX = (float*)NativeBuffer.Take(ref memory, s.N * c * sizeof(float));
    }
}
