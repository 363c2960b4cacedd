namespace ML.Rlhf.Torch.Kernels;

/// <summary>Sizes of a pass: rows, tokens per row, width, heads, width of the hidden layer, blocks.</summary>
internal readonly record struct GptShape(int Batch, int T, int Width, int Heads, int HiddenWidth, int Layers, float Epsilon)
{
    public int Tokens => Batch * T;
}

/// <summary>What a forward pass keeps of the blocks for a backward pass.</summary>
internal enum Activations
{
    /// <summary>Nothing: none follows.</summary>
    Forgotten,

    /// <summary>The input of each block; the rest is computed again (Chen et al. 2016, arXiv 1604.06174).</summary>
    Checkpointed,

    /// <summary>All that the backward pass asks for.</summary>
    Kept,
}

/// <summary>Where everything is: what a region of work gets as its context.</summary>
internal unsafe struct GptTrunkState(GptShape shape, Activations activations)
{
    private const int Rows = Bf16.Block;

    /// <summary>What kernels may read past the end of rows.</summary>
    public const int Slack = 4096;

    public readonly int M = shape.Tokens, T = shape.T, C = shape.Width, F = shape.HiddenWidth, Heads = shape.Heads;
    public readonly float Epsilon = shape.Epsilon;
    public readonly int RowBlocks = Products.Blocks(shape.Tokens);

    private readonly bool _learns = activations != Activations.Forgotten;
    private readonly long _streams = activations == Activations.Forgotten ? 1 : shape.Layers;
    private readonly long _blocks = activations == Activations.Kept ? shape.Layers : 1;

    /// <summary>Whether the forward pass of a block is repeated: its output is known.</summary>
    public bool IsAgain;

    public float* TokenEmbedding, PositionEmbedding;
    public BlockPointers Block;

    // Who generates remembers keys and values.
    public KeyValueMemory Memory;
    public int Layer;

    // Kept for the backward pass, per block.
    public float* X, XMid, XOut, Moments1, Moments2, LogSums;
    public ushort* Qkv, Attended, Hidden;
    public long* Ids;
    public float* XFirst, LastMoments;
    private float* _xMid, _moments1, _moments2, _logSums;
    private ushort* _qkv, _attended, _hidden;

    // Forgotten after a region or two.
    public ushort* PackedQkv, PackedProject, PackedUp, PackedDown;
    public float* DX, Gradient, Partials, Partials2;
    public ushort* DOut, DHidden, DMid, DAttended, DQkv;
    public ushort* WovenHidden, WovenNormed1, WovenNormed2, WovenAttended;
    private byte* _threads;
    private long _threadBytes;

    public readonly int PaddedM => RowBlocks * Rows;

    public readonly int RowsOf(int piece) => Math.Min(Rows, M - (piece * Rows));

    public readonly float* Tile(int thread) => (float*)(_threads + (thread * _threadBytes));

    public readonly byte* Scratch(int thread) => _threads + (thread * _threadBytes) + (sizeof(float) * Rows * Rows);

    /// <summary>The most pieces that packing a block's four matrices takes, in either direction.</summary>
    public readonly int PackPieces => Math.Max(
        Products.Blocks(3 * C) + Products.Blocks(C) + Products.Blocks(F) + Products.Blocks(C),
        Products.Blocks(C) + Products.Blocks(C) + Products.Blocks(C) + Products.Blocks(F));

    public readonly int WeightPieces => Products.Blocks(C) + Products.Blocks(F) + Products.Blocks(C) + Products.Blocks(3 * C);

    /// <summary>Which matrix a piece belongs to, and which 64 of its outputs it is.</summary>
    public readonly (WeightJob Job, int Block) Weight(int piece)
    {
        if (piece < Products.Blocks(F))
            return (Job(DHidden, F, WovenNormed2, C, Block.UpWeight, Block.UpBias), piece);
        piece -= Products.Blocks(F);
        if (piece < Products.Blocks(3 * C))
            return (Job(DQkv, 3 * C, WovenNormed1, C, Block.QkvWeight, Block.QkvBias), piece);
        piece -= Products.Blocks(3 * C);
        if (piece < Products.Blocks(C))
            return (Job(DOut, C, WovenHidden, F, Block.DownWeight, Block.DownBias), piece);
        return (Job(DMid, C, WovenAttended, C, Block.ProjectWeight, Block.ProjectBias), piece - Products.Blocks(C));

        static WeightJob Job(ushort* dy, int outputs, ushort* woven, int inputs, ParameterPointer weight, ParameterPointer bias) => new()
        {
            Gradient = dy, Outputs = outputs, Woven = woven, Inputs = inputs, WeightGradient = weight.Gradient, BiasGradient = bias.Gradient,
        };
    }

    /// <summary>Points to what is kept of a block, or to the one place that all blocks have for it.</summary>
    public void Select(int layer)
    {
        long m = M, block = _blocks == 1 ? 0 : layer;
        X = XFirst + ((_learns ? layer : layer % 2) * m * C); // without a backward pass the stream goes to and fro between two places
        XOut = XFirst + ((_learns ? layer + 1 : (layer + 1) % 2) * m * C);
        XMid = _xMid + (block * m * C);
        Moments1 = _moments1 + (block * m * 2);
        Moments2 = _moments2 + (block * m * 2);
        LogSums = _logSums + (block * m * Heads);
        Qkv = _qkv + (block * (m + Rows) * 3 * C);
        Attended = _attended + (block * (m + Rows) * C);
        Hidden = _hidden + (block * m * F);
    }

    public readonly long KeptBytes
    {
        get
        {
            var copy = this;
            return copy.LayKept(null);
        }
    }

    public readonly long ScratchBytes
    {
        get
        {
            var copy = this;
            return copy.LayScratch(null);
        }
    }

    /// <summary>Gives each thing its place, and how many bytes all take.</summary>
    public long LayKept(byte* memory)
    {
        byte* start = memory;
        long m = M;
        Ids = (long*)NativeBuffer.Take(ref memory, m * sizeof(long));
        XFirst = (float*)NativeBuffer.Take(ref memory, (_streams + 1) * m * C * sizeof(float));
        _xMid = (float*)NativeBuffer.Take(ref memory, _blocks * m * C * sizeof(float));
        _moments1 = (float*)NativeBuffer.Take(ref memory, _blocks * m * 2 * sizeof(float));
        _moments2 = (float*)NativeBuffer.Take(ref memory, _blocks * m * 2 * sizeof(float));
        LastMoments = (float*)NativeBuffer.Take(ref memory, m * 2 * sizeof(float));
        _logSums = (float*)NativeBuffer.Take(ref memory, _blocks * m * Heads * sizeof(float));
        _qkv = (ushort*)NativeBuffer.Take(ref memory, _blocks * (m + Rows) * 3 * C * sizeof(ushort));
        _attended = (ushort*)NativeBuffer.Take(ref memory, _blocks * (m + Rows) * C * sizeof(ushort));
        _hidden = (ushort*)NativeBuffer.Take(ref memory, _blocks * m * F * sizeof(ushort));
        return memory - start;
    }

    /// <summary>Gives each thing its place, and how many bytes all take.</summary>
    public long LayScratch(byte* memory)
    {
        byte* start = memory;
        long c = C, f = F, m = M, wide = Products.Blocks(C) * Rows, wideHidden = Products.Blocks(F) * Rows;
        PackedQkv = (ushort*)NativeBuffer.Take(ref memory, Products.Blocks(3 * C) * Rows * wide * sizeof(ushort));
        PackedProject = (ushort*)NativeBuffer.Take(ref memory, wide * wide * sizeof(ushort));
        PackedUp = (ushort*)NativeBuffer.Take(ref memory, wideHidden * wide * sizeof(ushort));
        PackedDown = (ushort*)NativeBuffer.Take(ref memory, wideHidden * wide * sizeof(ushort));
        _threadBytes = ThreadBytes();
        _threads = NativeBuffer.Take(ref memory, Team.Threads * _threadBytes);
        if (_learns)
        {
            DX = (float*)NativeBuffer.Take(ref memory, m * c * sizeof(float));
            Partials = (float*)NativeBuffer.Take(ref memory, RowBlocks * 2 * c * sizeof(float));
            Partials2 = (float*)NativeBuffer.Take(ref memory, RowBlocks * 2 * c * sizeof(float));
            DOut = (ushort*)NativeBuffer.Take(ref memory, (m + Rows) * c * sizeof(ushort));
            DMid = (ushort*)NativeBuffer.Take(ref memory, (m + Rows) * c * sizeof(ushort));
            DAttended = (ushort*)NativeBuffer.Take(ref memory, (m + Rows) * c * sizeof(ushort));
            DHidden = (ushort*)NativeBuffer.Take(ref memory, (m + Rows) * f * sizeof(ushort));
            DQkv = (ushort*)NativeBuffer.Take(ref memory, (m + Rows) * 3 * c * sizeof(ushort));
            WovenHidden = (ushort*)NativeBuffer.Take(ref memory, PaddedM * wideHidden * sizeof(ushort));
            WovenNormed1 = (ushort*)NativeBuffer.Take(ref memory, PaddedM * wide * sizeof(ushort));
            WovenNormed2 = (ushort*)NativeBuffer.Take(ref memory, PaddedM * wide * sizeof(ushort));
            WovenAttended = (ushort*)NativeBuffer.Take(ref memory, PaddedM * wide * sizeof(ushort));
        }
        return memory - start;
    }

    private readonly long ThreadBytes()
    {
        long tile = sizeof(float) * Rows * Rows;
        long rows = Rows * ((sizeof(float) * (long)C) + (sizeof(ushort) * (C + F)));
        long transposed = _learns ? Products.WeightGradientBytes(M) : 0;
        return (tile + Math.Max(AttentionKernel.ScratchBytes(T, C / Heads), Math.Max(rows, transposed)) + Slack) & ~63;
    }
}
