using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>A matrix that rows are multiplied with, x·Wᵀ + b: its numbers, and where they lie packed in bfloat16.</summary>
internal unsafe struct PackedMatrix
{
    private float* _weight;

    public ushort* Packed;

    /// <summary>(outputs); null without.</summary>
    public float* Bias;

    public int Outputs, Inputs;

    public readonly int Blocks => Products.Blocks(Outputs);

    /// <summary>Takes its place at the front of memory.</summary>
    public static PackedMatrix Lay(float* weight, float* bias, int outputs, int inputs, ref byte* memory) => new()
    {
        _weight = weight, Bias = bias, Outputs = outputs, Inputs = inputs,
        Packed = (ushort*)NativeBuffer.Take(ref memory, Bf16.PackedLength(inputs, outputs) * sizeof(ushort)),
    };

    /// <summary>Packs the weights as they are now.</summary>
    public static void Pack(PackedMatrix matrix) => Team.Run(matrix.Blocks, &PackBlock, &matrix);

    private static void PackBlock(void* matrix, int block, int thread)
    {
        var m = (PackedMatrix*)matrix;
        Bf16.PackTransposed(m->_weight, m->Outputs, m->Inputs, block, m->Packed + ((long)block * Bf16.Block * m->Inputs));
    }
}

/// <summary>A block's matrices.</summary>
internal struct PackedBlock
{
    public PackedMatrix Qkv, Project, Up, Down;
}

/// <summary>
/// A GPT that writes: it reads texts, and then one token of each at a time. Its matrices are packed in bfloat16 once, which halves what a
/// token has to read of them: with few texts at once, the memory's speed is the limit. Each text has its own length, so nothing is padded.
/// </summary>
internal sealed unsafe class GptDecoder : IDisposable
{
    /// <summary>The most texts at once.</summary>
    public const int MostRows = Bf16.Block;

    private const int Tile = Bf16.Block * Bf16.Block;

    private readonly GptShape _shape; // of rows with one token each
    private readonly GptPointers _parameters;
    private readonly int _capacity;
    private readonly NativeBuffer _weights = new(), _memory = new(), _work = new();
    private readonly PackedBlock[] _blocks;
    private readonly int[] _slots = new int[MostRows], _lengths = new int[MostRows]; // of the row's text: where it is kept, how long it is
    private State _state;

    /// <param name="shape">The model's sizes, with the most texts at once as the batch.</param>
    /// <param name="parameters">Its parameters; they must outlive this.</param>
    /// <param name="head">Weight of the head, (vocabulary, width).</param>
    /// <param name="vocabulary">Its size.</param>
    /// <param name="capacity">The most tokens of a text.</param>
    /// <exception cref="InsufficientMemoryException">There is not so much memory.</exception>
    public GptDecoder(GptShape shape, GptPointers parameters, ParameterPointer head, int vocabulary, int capacity)
    {
        (_shape, _parameters, _capacity) = (shape with { T = 1 }, parameters, capacity);
        _blocks = new PackedBlock[shape.Layers];
        int c = shape.Width, d = c / shape.Heads;

        LayWeights(null, head, vocabulary, out long bytes);
        LayWeights((byte*)_weights.Reserve(bytes + GptTrunkState.Slack), head, vocabulary, out _);
        _state.Memory = new KeyValueMemory(
            _memory.Reserve(KeyValueMemory.Bytes(shape.Layers, shape.Batch, shape.Heads, d, capacity)), shape.Batch, shape.Heads, d, capacity);
        (_state.Shape, _state.Vocabulary) = (_shape, vocabulary);
        _state.Lay((byte*)_work.Reserve(_state.Lay(null, capacity) + GptTrunkState.Slack), capacity);

        foreach (var block in _blocks)
        {
            PackedMatrix.Pack(block.Qkv);
            PackedMatrix.Pack(block.Project);
            PackedMatrix.Pack(block.Up);
            PackedMatrix.Pack(block.Down);
        }
        PackedMatrix.Pack(_state.Head);
    }

    /// <summary>How many texts there are.</summary>
    public int Rows { get; private set; }

    public int Vocabulary => _state.Vocabulary;

    /// <summary>Reads texts from their beginnings.</summary>
    /// <param name="texts">Texts of at least one token.</param>
    /// <param name="places">For each row, which text it begins with: several may go on with one.</param>
    /// <param name="logits">Scores of the next token of each row, (rows, vocabulary).</param>
    public void Read(IReadOnlyList<int[]> texts, ReadOnlySpan<int> places, float* logits)
    {
        int longest = texts.Max(text => text.Length), c = _shape.Width;
        long[] ids = new long[texts.Count * longest];
        for (int text = 0; text < texts.Count; text++)
        {
            for (int i = 0; i < texts[text].Length; i++)
                ids[(text * longest) + i] = texts[text][i];
        }
        using var hidden = new NativeBuffer();
        using var trunk = new GptTrunk();
        float* states = (float*)hidden.Reserve((long)ids.Length * c * sizeof(float));
        fixed (long* first = ids)
            trunk.Forward(_shape with { Batch = texts.Count, T = longest }, first, _parameters, states, Activations.Forgotten, _state.Memory);
        KernelMemory.Free();

        // The first row of a text has its slot; others get copies.
        Rows = places.Length;
        Span<bool> isTaken = stackalloc bool[MostRows];
        isTaken.Clear();
        int free = texts.Count;
        for (int row = 0; row < Rows; row++)
        {
            int text = places[row];
            _slots[row] = isTaken[text] ? free++ : text;
            if (isTaken[text])
                _state.Memory.Copy(_shape.Layers, text, _slots[row]);
            isTaken[text] = true;
            _lengths[row] = texts[text].Length;
            Bf16.Convert(states + ((((long)text * longest) + _lengths[row] - 1) * c), _state.Normed + ((long)row * c), c);
        }
        Score(logits);
    }

    /// <summary>Reads one more token of each row.</summary>
    /// <param name="tokens">(rows).</param>
    /// <param name="logits">Scores of the next ones, (rows, vocabulary).</param>
    public void Next(ReadOnlySpan<int> tokens, float* logits)
    {
        int c = _shape.Width;
        for (int row = 0; row < Rows; row++)
        {
            float* token = _parameters.TokenEmbedding.Value + ((long)tokens[row] * c);
            float* position = _parameters.PositionEmbedding.Value + ((long)_lengths[row] * c);
            for (int i = 0; i < c; i += 16)
                (Vector512.Load(token + i) + Vector512.Load(position + i)).Store(_state.X + ((long)row * c) + i);
            _lengths[row]++;
        }
        fixed (int* slots = _slots, lengths = _lengths)
        {
            _state.Slots = slots;
            _state.Lengths = lengths;
            var s = _state;
            s.SetRows(Rows);
            for (int layer = 0; layer < _shape.Layers; layer++)
            {
                var p = _parameters.Blocks[layer];
                (s.Layer, s.Block) = (layer, _blocks[layer]);
                Norm(s, p.Norm1Gain, p.Norm1Bias);
                Team.Run(s.Block.Qkv.Blocks, &Qkv, &s);
                Team.Run(Rows * _shape.Heads, &Attend, &s);
                Team.Run(s.Block.Project.Blocks, &Project, &s);
                Norm(s, p.Norm2Gain, p.Norm2Bias);
                Team.Run(s.Block.Up.Blocks, &Up, &s);
                Team.Run(s.Block.Down.Blocks, &Down, &s);
            }
            Norm(s, _parameters.LastNormGain, _parameters.LastNormBias);
        }
        Score(logits);
    }

    /// <summary>Keeps only the named rows, in that order.</summary>
    public void Keep(ReadOnlySpan<int> rows)
    {
        Span<int> slots = stackalloc int[MostRows], lengths = stackalloc int[MostRows];
        for (int row = 0; row < rows.Length; row++)
            (slots[row], lengths[row]) = (_slots[rows[row]], _lengths[rows[row]]);
        Rows = rows.Length;
        slots[..Rows].CopyTo(_slots);
        lengths[..Rows].CopyTo(_lengths);
    }

    public void Dispose()
    {
        _weights.Dispose();
        _memory.Dispose();
        _work.Dispose();
    }

    private void Score(float* logits)
    {
        var s = _state;
        s.SetRows(Rows);
        s.Logits = logits;
        Team.Run(s.Head.Blocks, &Head, &s);
    }

    /// <summary>x normed, for the next product.</summary>
    private static void Norm(in State s, ParameterPointer gain, ParameterPointer bias)
    {
        int c = s.Shape.Width;
        for (int row = 0; row < s.Rows; row++)
            RowKernels.LayerNorm(
                s.X + ((long)row * c), gain.Value, bias.Value, c, s.Shape.Epsilon, s.Normed + ((long)row * c), out _, out _);
    }

    // ---- What the threads share. A piece is 64 outputs of a matrix, or a head of a row. ----

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Qkv(void* state, int piece, int thread)
    {
        var s = (State*)state;
        var matrix = s->Block.Qkv;
        float* tile = s->Multiply(s->Normed, matrix, piece, thread, out int column, out int width);
        for (int row = 0; row < s->Rows; row++)
        {
            for (int i = 0; i < width; i += 16)
                Bf16.Store(
                    Vector512.Load(tile + (row * Bf16.Block) + i) + Vector512.Load(matrix.Bias + column + i),
                    s->Qkv + ((long)row * matrix.Outputs) + column + i);
        }
    }

    private static void Attend(void* state, int piece, int thread)
    {
        var s = (State*)state;
        var (row, head) = (piece / s->Shape.Heads, piece % s->Shape.Heads);
        int c = s->Shape.Width, d = c / s->Shape.Heads, length = s->Lengths[row];
        ushort* q = s->Qkv + ((long)row * 3 * c) + (head * d);
        s->Memory.Set(s->Layer, s->Slots[row], head, length - 1, q + c, q + (2 * c));
        s->Memory.Attend(s->Layer, s->Slots[row], head, q, length, s->Scores(thread), s->Attended + ((long)row * c) + (head * d));
    }

    private static void Project(void* state, int piece, int thread)
    {
        var s = (State*)state;
        s->AddToStream(s->Attended, s->Block.Project, piece, thread);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Up(void* state, int piece, int thread)
    {
        var s = (State*)state;
        var matrix = s->Block.Up;
        float* tile = s->Multiply(s->Normed, matrix, piece, thread, out int column, out int width);
        for (int row = 0; row < s->Rows; row++)
        {
            for (int i = 0; i < width; i += 16)
                Bf16.Store(
                    RowKernels.Gelu(Vector512.Load(tile + (row * Bf16.Block) + i) + Vector512.Load(matrix.Bias + column + i)),
                    s->Hidden + ((long)row * matrix.Outputs) + column + i);
        }
    }

    private static void Down(void* state, int piece, int thread)
    {
        var s = (State*)state;
        s->AddToStream(s->Hidden, s->Block.Down, piece, thread);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Head(void* state, int piece, int thread)
    {
        var s = (State*)state;
        float* tile = s->Multiply(s->Normed, s->Head, piece, thread, out int column, out int width);
        for (int row = 0; row < s->Rows; row++)
            new Span<float>(tile + (row * Bf16.Block), width).CopyTo(
                new Span<float>(s->Logits + ((long)row * s->Vocabulary) + column, width));
    }

    /// <summary>Gives each matrix its place, and how many bytes all take.</summary>
    private void LayWeights(byte* memory, ParameterPointer head, int vocabulary, out long bytes)
    {
        byte* start = memory;
        int c = _shape.Width, f = _shape.HiddenWidth;
        for (int layer = 0; layer < _blocks.Length; layer++)
        {
            var p = _parameters.Blocks[layer];
            _blocks[layer].Qkv = PackedMatrix.Lay(p.QkvWeight.Value, p.QkvBias.Value, 3 * c, c, ref memory);
            _blocks[layer].Project = PackedMatrix.Lay(p.ProjectWeight.Value, p.ProjectBias.Value, c, c, ref memory);
            _blocks[layer].Up = PackedMatrix.Lay(p.UpWeight.Value, p.UpBias.Value, f, c, ref memory);
            _blocks[layer].Down = PackedMatrix.Lay(p.DownWeight.Value, p.DownBias.Value, c, f, ref memory);
        }
        _state.Head = PackedMatrix.Lay(head.Value, null, vocabulary, c, ref memory);
        bytes = memory - start;
    }

    /// <summary>Where everything is: what a region of work gets as its context.</summary>
    private struct State
    {
        public GptShape Shape;
        public int Rows, Vocabulary, Layer;
        public PackedBlock Block;
        public PackedMatrix Head;
        public KeyValueMemory Memory;
        public int* Slots, Lengths;
        public float* X, Logits;
        public ushort* Normed, Qkv, Attended, Hidden;
        private int _multiplied; // rows of products
        private byte* _threads;
        private long _threadBytes;

        /// <summary>Few numbers of rows, for each of which a kernel is compiled; what the rows in excess hold is not read.</summary>
        public void SetRows(int rows)
        {
            Rows = rows;
            _multiplied = rows <= 8 ? (int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)rows) : Products.Padded(rows);
        }

        public long Lay(byte* memory, int capacity)
        {
            byte* start = memory;
            long rows = MostRows, c = Shape.Width;
            X = (float*)NativeBuffer.Take(ref memory, rows * c * sizeof(float));
            Normed = (ushort*)NativeBuffer.Take(ref memory, rows * c * sizeof(ushort));
            Qkv = (ushort*)NativeBuffer.Take(ref memory, rows * 3 * c * sizeof(ushort));
            Attended = (ushort*)NativeBuffer.Take(ref memory, rows * c * sizeof(ushort));
            Hidden = (ushort*)NativeBuffer.Take(ref memory, rows * Shape.HiddenWidth * sizeof(ushort));
            _threadBytes = sizeof(float) * ((long)Tile + KeyValueMemory.Padded(capacity));
            _threads = NativeBuffer.Take(ref memory, Team.Threads * _threadBytes);
            return memory - start;
        }

        private readonly float* TileOf(int thread) => (float*)(_threads + (thread * _threadBytes));

        public readonly float* Scores(int thread) => TileOf(thread) + Tile;

        /// <summary>All rows times 64 columns of a matrix, (rows, 64).</summary>
        public readonly float* Multiply(ushort* rows, in PackedMatrix matrix, int piece, int thread, out int column, out int width)
        {
            column = piece * Bf16.Block;
            width = Math.Min(Bf16.Block, matrix.Outputs - column);
            float* tile = TileOf(thread);
            MicroKernel.Multiply(
                _multiplied, Bf16.Block, matrix.Inputs, rows, matrix.Inputs, matrix.Packed + ((long)column * matrix.Inputs), Bf16.Block, tile,
                Bf16.Block);
            return tile;
        }

        /// <summary>x += rows·Wᵀ + b.</summary>
        public readonly void AddToStream(ushort* rows, in PackedMatrix matrix, int piece, int thread)
        {
            float* tile = Multiply(rows, matrix, piece, thread, out int column, out int width);
            for (int row = 0; row < Rows; row++)
            {
                float* x = X + ((long)row * Shape.Width) + column;
                for (int i = 0; i < width; i += 16)
                    (Vector512.Load(x + i) + Vector512.Load(tile + (row * Bf16.Block) + i) + Vector512.Load(matrix.Bias + column + i)).Store(x + i);
            }
        }
    }
}
