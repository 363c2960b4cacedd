using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>
/// Keys and values of the tokens that a GPT has read, in bfloat16, per block, slot and head. A text keeps its slot until it is done: none
/// moves when others leave. Keys lie in groups of 16 tokens, (capacity/16, d, 16), so that 16 scores are summed side by side; values lie by
/// token, (capacity, d).
/// </summary>
internal unsafe struct KeyValueMemory
{
    private const int Lanes = 16;

    private readonly ushort* _first;
    private readonly int _slots, _heads, _d, _capacity;

    /// <param name="first"><see cref="Bytes"/> of memory.</param>
    /// <param name="slots">How many texts.</param>
    /// <param name="heads">Heads.</param>
    /// <param name="d">Numbers per head; a multiple of 16.</param>
    /// <param name="capacity">The most tokens per text.</param>
    public KeyValueMemory(void* first, int slots, int heads, int d, int capacity)
    {
        _first = (ushort*)first;
        (_slots, _heads, _d, _capacity) = (slots, heads, d, Padded(capacity));
    }

    /// <summary>What so many blocks, slots and tokens take.</summary>
    public static long Bytes(int layers, int slots, int heads, int d, int capacity) =>
        2L * sizeof(ushort) * layers * slots * heads * d * Padded(capacity);

    /// <summary>Room for scores of so many tokens.</summary>
    public static int Padded(int tokens) => (tokens + Lanes - 1) / Lanes * Lanes;

    private readonly ushort* Keys(int layer, int slot, int head) =>
        _first + ((((((long)layer * _slots) + slot) * _heads) + head) * 2 * _d * _capacity);

    private readonly ushort* Values(int layer, int slot, int head) => Keys(layer, slot, head) + ((long)_d * _capacity);

    /// <summary>Remembers a token.</summary>
    /// <param name="layer">Block.</param>
    /// <param name="slot">Text.</param>
    /// <param name="head">Head.</param>
    /// <param name="place">Where in the text, from 0.</param>
    /// <param name="key">(d).</param>
    /// <param name="value">(d).</param>
    public readonly void Set(int layer, int slot, int head, int place, ushort* key, ushort* value)
    {
        ushort* keys = Keys(layer, slot, head) + ((long)(place / Lanes) * _d * Lanes) + (place % Lanes);
        for (int i = 0; i < _d; i++)
            keys[i * Lanes] = key[i];
        new Span<ushort>(value, _d).CopyTo(new Span<ushort>(Values(layer, slot, head) + ((long)place * _d), _d));
    }

    /// <summary>Remembers of a text what is remembered of another.</summary>
    public readonly void Copy(int layers, int from, int to)
    {
        long bytes = 2L * sizeof(ushort) * _heads * _d * _capacity;
        for (int layer = 0; layer < layers; layer++)
            Buffer.MemoryCopy(Keys(layer, from, 0), Keys(layer, to, 0), bytes, bytes);
    }

    /// <summary>softmax(q·kᵀ/√d)·v of one query over the first tokens of a text.</summary>
    /// <param name="layer">Block.</param>
    /// <param name="slot">Text.</param>
    /// <param name="head">Head.</param>
    /// <param name="query">(d).</param>
    /// <param name="count">How many tokens; at least 1.</param>
    /// <param name="scores">Room for <see cref="Padded"/> numbers.</param>
    /// <param name="y">What comes out, (d).</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public readonly void Attend(int layer, int slot, int head, ushort* query, int count, float* scores, ushort* y)
    {
        float* q = stackalloc float[_d];
        var factor = Vector512.Create(1 / MathF.Sqrt(_d));
        for (int i = 0; i < _d; i += Lanes)
            (Bf16.Load(query + i) * factor).Store(q + i);

        // 1. Scores of 16 tokens at once.
        var lanes = Vector512.Create(0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        var most = Vector512.Create(float.NegativeInfinity);
        ushort* k = Keys(layer, slot, head);
        for (int token = 0; token < count; token += Lanes, k += Lanes * _d)
        {
            var (a, b, c, d) = (Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero);
            for (int i = 0; i < _d; i += 4)
            {
                a = Vector512.FusedMultiplyAdd(Bf16.Load(k + (i * Lanes)), Vector512.Create(q[i]), a);
                b = Vector512.FusedMultiplyAdd(Bf16.Load(k + ((i + 1) * Lanes)), Vector512.Create(q[i + 1]), b);
                c = Vector512.FusedMultiplyAdd(Bf16.Load(k + ((i + 2) * Lanes)), Vector512.Create(q[i + 2]), c);
                d = Vector512.FusedMultiplyAdd(Bf16.Load(k + ((i + 3) * Lanes)), Vector512.Create(q[i + 3]), d);
            }
            var isRead = Vector512.LessThan(lanes, Vector512.Create((float)(count - token)));
            var s = Vector512.ConditionalSelect(isRead, (a + b) + (c + d), Vector512.Create(float.NegativeInfinity));
            s.Store(scores + token);
            most = Vector512.Max(most, s);
        }

        // 2. Their softmax, but for its denominator.
        var (shift, sum) = (Vector512.Create(RowKernels.Max(most)), Vector512<float>.Zero);
        for (int token = 0; token < count; token += Lanes)
        {
            var s = Vector512.Load(scores + token);
            var e = Vector512.ConditionalSelect(
                Vector512.Equals(s, Vector512.Create(float.NegativeInfinity)), Vector512<float>.Zero, RowKernels.Exp(s - shift));
            sum += e;
            e.Store(scores + token);
        }

        // 3. The weighted sum of the values, 16 numbers at once, in four sums over tokens.
        var share = Vector512.Create(1 / Vector512.Sum(sum));
        ushort* values = Values(layer, slot, head);
        for (int i = 0; i < _d; i += Lanes)
        {
            var (a, b, c, d) = (Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero, Vector512<float>.Zero);
            ushort* v = values + i;
            int token = 0;
            for (; token <= count - 4; token += 4, v += 4 * _d)
            {
                a = Vector512.FusedMultiplyAdd(Bf16.Load(v), Vector512.Create(scores[token]), a);
                b = Vector512.FusedMultiplyAdd(Bf16.Load(v + _d), Vector512.Create(scores[token + 1]), b);
                c = Vector512.FusedMultiplyAdd(Bf16.Load(v + (2 * _d)), Vector512.Create(scores[token + 2]), c);
                d = Vector512.FusedMultiplyAdd(Bf16.Load(v + (3 * _d)), Vector512.Create(scores[token + 3]), d);
            }
            for (; token < count; token++, v += _d)
                a = Vector512.FusedMultiplyAdd(Bf16.Load(v), Vector512.Create(scores[token]), a);
            Bf16.Store(((a + b) + (c + d)) * share, y + i);
        }
    }
}
