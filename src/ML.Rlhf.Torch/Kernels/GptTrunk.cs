using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using ML.Rlhf.Torch.Modules;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>
/// A GPT from token ids to its last hidden states, and back: all blocks in bfloat16 products that sum in float32. Read <see cref="Forward"/>
/// and <see cref="Backward"/> first; each region that the threads share is a method below them.
/// <para>
/// Rows of 64 tokens go through as much as they can without leaving the caches. What is kept for the backward pass is, per token and block
/// of width C: the residual stream before and in the middle of the block (float32), queries, keys and values, what attention gave and the
/// hidden layer (bfloat16), 24·C bytes; the norms and the activation are computed again. With checkpoints only the stream before each block
/// is kept, 4·C bytes, and one block's rest.
/// </para>
/// </summary>
internal sealed unsafe class GptTrunk : IDisposable
{
    private const int Rows = Bf16.Block; // tokens per piece, and columns per tile

    private readonly NativeBuffer _kept = new();
    private GptShape _shape;
    private Activations _activations;

    /// <summary>Whether the kernels can run this shape.</summary>
    public static bool Supports(GptArchitecture a) => MicroKernel.IsSupported
        && a.Norms == NormPlacement.Before && a.Activation == Activation.GeluTanh
        && a.Width % 16 == 0 && a.HiddenWidth % 16 == 0 && a.Width / a.Heads % 16 == 0;

    public void Dispose() => _kept.Dispose();

    /// <summary>Runs all blocks.</summary>
    /// <param name="shape">Sizes.</param>
    /// <param name="ids">Token ids (B, T).</param>
    /// <param name="p">Parameters.</param>
    /// <param name="output">Hidden states after the last norm, (B·T, C).</param>
    /// <param name="activations">What is kept for a backward pass.</param>
    /// <param name="memory">Gets the keys and values of each row's tokens, in the slot of its number; null: nobody asks.</param>
    public void Forward(in GptShape shape, long* ids, GptPointers p, float* output, Activations activations, KeyValueMemory? memory = null)
    {
        (_shape, _activations) = (shape, activations);
        var s = Lay();
        new Span<long>(ids, shape.Tokens).CopyTo(new Span<long>(s.Ids, shape.Tokens));
        s.TokenEmbedding = p.TokenEmbedding.Value;
        s.PositionEmbedding = p.PositionEmbedding.Value;

        Team.Run(s.RowBlocks, &Embed, &s);
        for (int layer = 0; layer < shape.Layers; layer++)
        {
            SelectLayer(ref s, layer, p.Blocks[layer]);
            Team.Run(s.PackPieces, &PackForward, &s);
            Team.Run(s.RowBlocks, &NormAndProject, &s);            // queries, keys, values
            if (memory is { } remembered)
            {
                (s.Memory, s.Layer) = (remembered, layer);
                Team.Run(shape.Batch * shape.Heads, &Remember, &s);
            }
            Team.Run(shape.Batch * shape.Heads, &Attend, &s);
            Team.Run(s.RowBlocks, &ProjectAndFeedForward, &s);     // the rest of the block
        }
        SelectLastNorm(ref s, p, output);
        Team.Run(s.RowBlocks, &LastNorm, &s);
    }

    /// <summary>Adds the gradients of all parameters to theirs, from what the last <see cref="Forward"/> kept.</summary>
    /// <param name="p">The same parameters.</param>
    /// <param name="gradient">Gradient of the hidden states (B·T, C).</param>
    public void Backward(GptPointers p, float* gradient)
    {
        var s = Lay();
        SelectLayer(ref s, _shape.Layers - 1, p.Blocks[^1]);
        SelectLastNorm(ref s, p, gradient);
        Team.Run(s.RowBlocks, &LastNormBackward, &s);
        ReduceNorm(s, s.Partials, p.LastNormGain, p.LastNormBias);

        for (int layer = _shape.Layers - 1; layer >= 0; layer--)
        {
            SelectLayer(ref s, layer, p.Blocks[layer]);
            if (_activations == Activations.Checkpointed)
                ForwardAgain(ref s);
            Team.Run(s.PackPieces, &PackBackward, &s);
            Team.Run(s.RowBlocks, &FeedForwardBackward, &s);       // and what attention gave
            Team.Run(_shape.Batch * _shape.Heads, &AttendBackward, &s);
            Team.Run(s.RowBlocks, &NormAndProjectBackward, &s);
            Team.Run(s.WeightPieces, &WeightGradients, &s);
            ReduceNorm(s, s.Partials, s.Block.Norm1Gain, s.Block.Norm1Bias);
            ReduceNorm(s, s.Partials2, s.Block.Norm2Gain, s.Block.Norm2Bias);
        }
        s.TokenEmbedding = p.TokenEmbedding.Gradient;
        s.PositionEmbedding = p.PositionEmbedding.Gradient;
        Team.Run((_shape.Width + 15) / 16, &EmbedBackward, &s);
    }

    /// <summary>A block's activations from its input, all that the backward pass asks for.</summary>
    private void ForwardAgain(ref GptTrunkState s)
    {
        s.IsAgain = true;
        fixed (GptTrunkState* state = &s)
        {
            Team.Run(s.PackPieces, &PackForward, state);
            Team.Run(s.RowBlocks, &NormAndProject, state);
            Team.Run(_shape.Batch * _shape.Heads, &Attend, state);
            Team.Run(s.RowBlocks, &ProjectAndFeedForward, state);
        }
    }

    // ---- Forward ----

    /// <summary>x = token embedding + position embedding.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Embed(void* state, int piece, int thread)
    {
        var s = (GptTrunkState*)state;
        int c = s->C;
        for (int row = piece * Rows; row < Math.Min((piece + 1) * Rows, s->M); row++)
        {
            float* token = s->TokenEmbedding + (s->Ids[row] * c), position = s->PositionEmbedding + ((long)(row % s->T) * c);
            for (int i = 0; i < c; i += 16)
                (Vector512.Load(token + i) + Vector512.Load(position + i)).Store(s->XFirst + ((long)row * c) + i);
        }
    }

    /// <summary>Queries, keys and values: norm(x)·Wᵀ + b.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void NormAndProject(void* state, int piece, int thread)
    {
        var s = (GptTrunkState*)state;
        int c = s->C, rows = s->RowsOf(piece), depth = Products.Padded(rows);
        long first = (long)piece * Rows;
        ushort* normed = (ushort*)s->Scratch(thread);
        float* tile = s->Tile(thread);
        for (int row = 0; row < rows; row++)
            RowKernels.LayerNorm(
                s->X + ((first + row) * c), s->Block.Norm1Gain.Value, s->Block.Norm1Bias.Value, c, s->Epsilon, normed + (row * c),
                out s->Moments1[2 * (first + row)], out s->Moments1[(2 * (first + row)) + 1]);
        for (int column = 0; column < 3 * c; column += Rows)
        {
            MicroKernel.Multiply(depth, Rows, c, normed, c, s->PackedQkv + ((long)column * c), Rows, tile, Rows);
            int width = Math.Min(Rows, (3 * c) - column);
            for (int row = 0; row < rows; row++)
            {
                ushort* to = s->Qkv + ((first + row) * 3 * c) + column;
                for (int i = 0; i < width; i += 16)
                    Bf16.Store(Vector512.Load(tile + (row * Rows) + i) + Vector512.Load(s->Block.QkvBias.Value + column + i), to + i);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Remember(void* state, int piece, int thread)
    {
        var s = (GptTrunkState*)state;
        var (batch, head) = (piece / s->Heads, piece % s->Heads);
        int c = s->C, d = c / s->Heads;
        for (int place = 0; place < s->T; place++)
        {
            ushort* k = s->Qkv + ((((long)batch * s->T) + place) * 3 * c) + c + (head * d);
            s->Memory.Set(s->Layer, batch, head, place, k, k + c);
        }
    }

    private static void Attend(void* state, int piece, int thread)
    {
        var s = (GptTrunkState*)state;
        var (batch, head) = (piece / s->Heads, piece % s->Heads);
        int c = s->C, d = c / s->Heads;
        long first = (long)batch * s->T;
        ushort* q = s->Qkv + (first * 3 * c) + (head * d);
        AttentionKernel.Forward(
            q, q + c, q + (2 * c), 3 * c, s->T, d, s->Attended + (first * c) + (head * d), c, s->LogSums + ((long)piece * s->T),
            s->Scratch(thread));
    }

    /// <summary>x + attended·Wᵀ + b, and to that gelu(norm(·)·Wᵀ + b)·Wᵀ + b.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void ProjectAndFeedForward(void* state, int piece, int thread)
    {
        var s = (GptTrunkState*)state;
        int c = s->C, f = s->F, rows = s->RowsOf(piece), depth = Products.Padded(rows);
        long first = (long)piece * Rows;
        float* tile = s->Tile(thread);
        ushort* normed = (ushort*)s->Scratch(thread), hidden = normed + (Rows * c);

        for (int column = 0; column < c; column += Rows)
        {
            MicroKernel.Multiply(depth, Rows, c, s->Attended + (first * c), c, s->PackedProject + ((long)column * c), Rows, tile, Rows);
            AddRows(tile, s->X, s->Block.ProjectBias.Value, s->XMid, first, rows, column, c);
        }
        for (int row = 0; row < rows; row++)
            RowKernels.LayerNorm(
                s->XMid + ((first + row) * c), s->Block.Norm2Gain.Value, s->Block.Norm2Bias.Value, c, s->Epsilon, normed + (row * c),
                out s->Moments2[2 * (first + row)], out s->Moments2[(2 * (first + row)) + 1]);
        for (int column = 0; column < f; column += Rows)
        {
            MicroKernel.Multiply(depth, Rows, c, normed, c, s->PackedUp + ((long)column * c), Rows, tile, Rows);
            int width = Math.Min(Rows, f - column);
            for (int row = 0; row < rows; row++)
            {
                ushort* before = s->Hidden + ((first + row) * f) + column;
                for (int i = 0; i < width; i += 16)
                {
                    Bf16.Store(Vector512.Load(tile + (row * Rows) + i) + Vector512.Load(s->Block.UpBias.Value + column + i), before + i);
                    Bf16.Store(RowKernels.Gelu(Bf16.Load(before + i)), hidden + (row * f) + column + i);
                }
            }
        }
        for (int column = 0; column < c && !s->IsAgain; column += Rows)
        {
            MicroKernel.Multiply(depth, Rows, f, hidden, f, s->PackedDown + ((long)column * f), Rows, tile, Rows);
            AddRows(tile, s->XMid, s->Block.DownBias.Value, s->XOut, first, rows, column, c);
        }
    }

    /// <summary>to = from + tile + bias, in some columns of some rows.</summary>
    private static void AddRows(float* tile, float* from, float* bias, float* to, long first, int rows, int column, int c)
    {
        int width = Math.Min(Rows, c - column);
        for (int row = 0; row < rows; row++)
        {
            long at = ((first + row) * c) + column;
            for (int i = 0; i < width; i += 16)
                (Vector512.Load(from + at + i) + Vector512.Load(tile + (row * Rows) + i) + Vector512.Load(bias + column + i)).Store(to + at + i);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void LastNorm(void* state, int piece, int thread)
    {
        var s = (GptTrunkState*)state;
        for (long row = (long)piece * Rows; row < Math.Min((piece + 1L) * Rows, s->M); row++)
        {
            float* x = s->X + (row * s->C);
            RowKernels.Moments(x, s->C, s->Epsilon, out float mean, out float scale);
            (s->Moments1[2 * row], s->Moments1[(2 * row) + 1]) = (mean, scale);
            RowKernels.Norm(
                x, s->Block.Norm1Gain.Value, s->Block.Norm1Bias.Value, s->C, mean, scale, s->Gradient + (row * s->C));
        }
    }

    // ---- Backward: dX is the gradient of the residual stream, from the end of a block to its beginning ----

    private static void LastNormBackward(void* state, int piece, int thread)
    {
        var s = (GptTrunkState*)state;
        int c = s->C, rows = s->RowsOf(piece);
        long first = (long)piece * Rows;
        new Span<float>(s->DX + (first * c), rows * c).Clear();
        NormBackward(s, s->Gradient + (first * c), s->X, s->Block.Norm1Gain, s->Moments1, s->Partials, piece);
    }

    /// <summary>Gradient of a norm of 64 rows, added to dX; those of gain and bias go to a place of the piece's own.</summary>
    private static void NormBackward(
        GptTrunkState* s, float* dy, float* x, ParameterPointer gain, float* moments, float* partials, int piece)
    {
        int c = s->C, rows = s->RowsOf(piece);
        long first = (long)piece * Rows;
        float* partial = partials + ((long)piece * 2 * c);
        new Span<float>(partial, 2 * c).Clear();
        for (int row = 0; row < rows; row++)
        {
            long at = first + row;
            RowKernels.LayerNormBackward(
                dy + ((long)row * c), x + (at * c), gain.Value, c, moments[2 * at], moments[(2 * at) + 1], s->DX + (at * c), partial, partial + c);
        }
    }

    /// <summary>Sums what the pieces found, in their order.</summary>
    private static void ReduceNorm(in GptTrunkState s, float* partials, ParameterPointer gain, ParameterPointer bias)
    {
        for (int piece = 0; piece < s.RowBlocks; piece++, partials += 2 * s.C)
        {
            for (int i = 0; i < s.C; i += 16)
            {
                (Vector512.Load(gain.Gradient + i) + Vector512.Load(partials + i)).Store(gain.Gradient + i);
                (Vector512.Load(bias.Gradient + i) + Vector512.Load(partials + s.C + i)).Store(bias.Gradient + i);
            }
        }
    }

    /// <summary>The feed-forward half of a block, and the gradient of what attention gave.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FeedForwardBackward(void* state, int piece, int thread)
    {
        var s = (GptTrunkState*)state;
        int c = s->C, f = s->F, rows = s->RowsOf(piece), depth = Products.Padded(rows);
        long first = (long)piece * Rows, place = (long)piece * Rows;
        float* tile = s->Tile(thread), dNormed = (float*)s->Scratch(thread);
        ushort* normed = (ushort*)(dNormed + (Rows * c)), hidden = normed + (Rows * c);

        ushort* dOut = s->DOut + (first * c), dHidden = s->DHidden + (first * f);
        Bf16.Convert(s->DX + (first * c), dOut, (long)rows * c);
        for (int column = 0; column < f; column += Rows)
        {
            MicroKernel.Multiply(depth, Rows, c, dOut, c, s->PackedDown + ((long)column * c), Rows, tile, Rows);
            int width = Math.Min(Rows, f - column);
            for (int row = 0; row < rows; row++)
            {
                long at = ((first + row) * f) + column;
                for (int i = 0; i < width; i += 16)
                {
                    var before = Bf16.Load(s->Hidden + at + i);
                    Bf16.Store(Vector512.Load(tile + (row * Rows) + i) * RowKernels.GeluDerivative(before), s->DHidden + at + i);
                    Bf16.Store(RowKernels.Gelu(before), hidden + (row * f) + column + i);
                }
            }
        }
        Products.Multiply(dHidden, f, s->PackedUp, dNormed, c, rows, tile);
        NormBackward(s, dNormed, s->XMid, s->Block.Norm2Gain, s->Moments2, s->Partials2, piece);

        // The right sides of the weights' gradients, while their rows are near.
        for (int row = 0; row < rows; row++)
            RowKernels.Norm(
                s->XMid + ((first + row) * c), s->Block.Norm2Gain.Value, s->Block.Norm2Bias.Value, c,
                s->Moments2[2 * (first + row)], s->Moments2[(2 * (first + row)) + 1], normed + (row * c));
        Products.WeavePanels(hidden, f, rows, s->WovenHidden, place, s->PaddedM);
        Products.WeavePanels(normed, c, rows, s->WovenNormed2, place, s->PaddedM);
        Products.WeavePanels(s->Attended + (first * c), c, rows, s->WovenAttended, place, s->PaddedM);

        ushort* dMid = s->DMid + (first * c);
        Bf16.Convert(s->DX + (first * c), dMid, (long)rows * c);
        for (int column = 0; column < c; column += Rows)
        {
            MicroKernel.Multiply(depth, Rows, c, dMid, c, s->PackedProject + ((long)column * c), Rows, tile, Rows);
            int width = Math.Min(Rows, c - column);
            for (int row = 0; row < rows; row++)
            {
                for (int i = 0; i < width; i += 16)
                    Bf16.Store(Vector512.Load(tile + (row * Rows) + i), s->DAttended + ((first + row) * c) + column + i);
            }
        }
    }

    private static void AttendBackward(void* state, int piece, int thread)
    {
        var s = (GptTrunkState*)state;
        var (batch, head) = (piece / s->Heads, piece % s->Heads);
        int c = s->C, d = c / s->Heads;
        long first = (long)batch * s->T, y = (first * c) + (head * d), qkv = (first * 3 * c) + (head * d);
        ushort* q = s->Qkv + qkv, dq = s->DQkv + qkv;
        AttentionKernel.Backward(
            q, q + c, q + (2 * c), 3 * c, s->T, d, s->Attended + y, s->DAttended + y, c, s->LogSums + ((long)piece * s->T),
            dq, dq + c, dq + (2 * c), s->Scratch(thread));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void NormAndProjectBackward(void* state, int piece, int thread)
    {
        var s = (GptTrunkState*)state;
        int c = s->C, rows = s->RowsOf(piece);
        long first = (long)piece * Rows;
        float* dNormed = (float*)s->Scratch(thread);
        ushort* normed = (ushort*)(dNormed + (Rows * c));
        Products.Multiply(s->DQkv + (first * 3 * c), 3 * c, s->PackedQkv, dNormed, c, rows, s->Tile(thread));
        NormBackward(s, dNormed, s->X, s->Block.Norm1Gain, s->Moments1, s->Partials, piece);
        for (int row = 0; row < rows; row++)
            RowKernels.Norm(
                s->X + ((first + row) * c), s->Block.Norm1Gain.Value, s->Block.Norm1Bias.Value, c,
                s->Moments1[2 * (first + row)], s->Moments1[(2 * (first + row)) + 1], normed + (row * c));
        Products.WeavePanels(normed, c, rows, s->WovenNormed1, first, s->PaddedM);
    }

    /// <summary>dW and db of 64 outputs of one of the block's four matrices.</summary>
    private static void WeightGradients(void* state, int piece, int thread)
    {
        var s = (GptTrunkState*)state;
        var (job, block) = s->Weight(piece);
        Products.AddWeightGradient(job, block, s->M, s->Tile(thread), s->Scratch(thread));
    }

    /// <summary>Adds the gradient of each token's embedding, 16 columns at a time, token by token.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void EmbedBackward(void* state, int piece, int thread)
    {
        var s = (GptTrunkState*)state;
        int c = s->C, column = piece * 16;
        for (int row = 0; row < s->M; row++)
        {
            var d = Vector512.Load(s->DX + ((long)row * c) + column);
            float* token = s->TokenEmbedding + (s->Ids[row] * c) + column, position = s->PositionEmbedding + ((long)(row % s->T) * c) + column;
            (Vector512.Load(token) + d).Store(token);
            (Vector512.Load(position) + d).Store(position);
        }
    }

    // ---- Weights as right sides of products ----

    private static void PackForward(void* state, int piece, int thread) => Pack((GptTrunkState*)state, piece, forward: true);

    private static void PackBackward(void* state, int piece, int thread) => Pack((GptTrunkState*)state, piece, forward: false);

    private static void Pack(GptTrunkState* s, int piece, bool forward)
    {
        int c = s->C, f = s->F;
        _ = Try(s->Block.QkvWeight.Value, 3 * c, c, s->PackedQkv) || Try(s->Block.ProjectWeight.Value, c, c, s->PackedProject)
            || Try(s->Block.UpWeight.Value, f, c, s->PackedUp) || Try(s->Block.DownWeight.Value, c, f, s->PackedDown);

        bool Try(float* weight, int outputs, int inputs, ushort* to)
        {
            int blocks = Products.Blocks(forward ? outputs : inputs);
            if (piece >= blocks)
            {
                piece -= blocks;
                return false;
            }
            if (forward)
                Bf16.PackTransposed(weight, outputs, inputs, piece, to + ((long)piece * Rows * inputs));
            else
                Bf16.Pack(weight, outputs, inputs, piece, to + ((long)piece * Rows * outputs));
            return true;
        }
    }

    // ---- Memory ----

    /// <summary>Lays out what is kept and what is not.</summary>
    private GptTrunkState Lay()
    {
        var state = new GptTrunkState(_shape, _activations);
        byte* memory = (byte*)_kept.Reserve(state.KeptBytes + GptTrunkState.Slack);
        state.LayKept(memory);
        state.LayScratch((byte*)KernelMemory.Reserve(state.ScratchBytes));
        return state;
    }

    private void SelectLayer(ref GptTrunkState s, int layer, in BlockPointers block)
    {
        s.Select(layer);
        s.Block = block;
    }

    /// <summary>The norm after the last block, in the place of a block's first one.</summary>
    private static void SelectLastNorm(ref GptTrunkState s, GptPointers p, float* hiddenOrGradient)
    {
        s.X = s.XOut;
        s.Gradient = hiddenOrGradient;
        s.Moments1 = s.LastMoments;
        s.Block.Norm1Gain = p.LastNormGain;
        s.Block.Norm1Bias = p.LastNormBias;
    }
}
