using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace ML.Rlhf.Torch.Kernels;

/// <summary>
/// Matrices of bfloat16, the upper halves of float32 numbers, and the layouts that <see cref="MicroKernel"/> reads. Numbers are rounded to
/// nearest, ties to even. All lengths are multiples of 16 unless said otherwise.
/// </summary>
internal static unsafe class Bf16
{
    /// <summary>Columns of a packed block.</summary>
    public const int Block = 64;

    public static ushort Round(float number)
    {
        uint bits = BitConverter.SingleToUInt32Bits(number);
        return (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }

    /// <summary>The number in the upper half of each lane; the lower half is not cleared.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> RoundUp(Vector512<float> numbers)
    {
        var bits = numbers.AsUInt32();
        return bits + Vector512.Create(0x7FFFu) + (Vector512.ShiftRightLogical(bits, 16) & Vector512<uint>.One);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector512<float> numbers, ushort* to) =>
        Avx512F.ConvertToVector256UInt16(Vector512.ShiftRightLogical(RoundUp(numbers), 16)).Store(to);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load(ushort* from) =>
        Vector512.ShiftLeft(Avx512F.ConvertToVector512UInt32(Vector256.Load(from)), 16).AsSingle();

    /// <summary>Two rows of float32 as one of pairs.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<uint> Weave(Vector512<float> first, Vector512<float> second) =>
        Vector512.ShiftRightLogical(RoundUp(first), 16) | (RoundUp(second) & Vector512.Create(0xFFFF0000u));

    /// <summary>Two rows of bfloat16 as one of pairs.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<uint> Weave(ushort* first, ushort* second) =>
        Avx512F.ConvertToVector512UInt32(Vector256.Load(first))
        | Vector512.ShiftLeft(Avx512F.ConvertToVector512UInt32(Vector256.Load(second)), 16);

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Convert(float* from, ushort* to, long count)
    {
        for (long i = 0; i < count; i += 16)
            Store(Vector512.Load(from + i), to + i);
    }

    /// <summary>Rows of bfloat16 (rows × 16·n) with two woven into one; <paramref name="rows"/> need not be even.</summary>
    /// <param name="from">The rows.</param>
    /// <param name="stride">From one to the next.</param>
    /// <param name="rows">How many there are; those up to <paramref name="padded"/> are zeros.</param>
    /// <param name="padded">Even.</param>
    /// <param name="columns">Multiple of 16.</param>
    /// <param name="to">(padded/2, columns, 2).</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void WeaveRows(ushort* from, long stride, int rows, int padded, int columns, ushort* to)
    {
        for (int row = 0; row < padded; row += 2, to += 2 * columns)
        {
            for (int column = 0; column < columns; column += 16)
            {
                ushort* first = from + row * stride + column;
                var woven = row + 1 < rows ? Weave(first, first + stride)
                    : row < rows ? Avx512F.ConvertToVector512UInt32(Vector256.Load(first))
                    : Vector512<uint>.Zero;
                woven.Store((uint*)(to + 2 * column));
            }
        }
    }

    /// <summary>
    /// The transpose of rows of bfloat16, with two of its rows woven into one: the product's right side where its columns lie in memory as
    /// rows.
    /// </summary>
    /// <param name="from">Rows × depth.</param>
    /// <param name="stride">From one row to the next.</param>
    /// <param name="rows">At most <see cref="Block"/>; up to that, columns of zeros.</param>
    /// <param name="depth">Multiple of 16.</param>
    /// <param name="to">(depth/2, <see cref="Block"/>, 2).</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void WeaveColumns(ushort* from, long stride, int rows, int depth, ushort* to)
    {
        Vector512<uint>* lanes = stackalloc Vector512<uint>[16];
        for (int column = 0; column < Block; column += 16)
        {
            for (int k = 0; k < depth; k += 32)
            {
                int pairs = Math.Min(16, (depth - k) / 2);
                for (int lane = 0; lane < 16; lane++)
                    lanes[lane] = column + lane >= rows ? Vector512<uint>.Zero
                        : pairs == 16 ? Vector512.Load((uint*)(from + (column + lane) * stride + k))
                        : Vector512.Create(Vector256.Load((uint*)(from + (column + lane) * stride + k)), Vector256<uint>.Zero);
                Transpose(lanes);
                for (int pair = 0; pair < pairs; pair++)
                    lanes[pair].Store((uint*)(to + (long)(k / 2 + pair) * 2 * Block + 2 * column));
            }
        }
    }

    /// <summary>The transpose of rows that are woven already: (pairs, columns, 2) to (columns, 2·pairs), by rows.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void TransposeWoven(uint* from, long stride, int pairs, int columns, ushort* to, long toStride)
    {
        Vector512<uint>* lanes = stackalloc Vector512<uint>[16];
        for (int pair = 0; pair < pairs; pair += 16)
        {
            for (int column = 0; column < columns; column += 16)
            {
                for (int lane = 0; lane < 16; lane++)
                    lanes[lane] = Vector512.Load(from + (pair + lane) * stride + column);
                Transpose(lanes);
                for (int lane = 0; lane < 16; lane++)
                    lanes[lane].Store((uint*)(to + (column + lane) * toStride + 2 * pair));
            }
        }
    }

    /// <summary>16 × 16 numbers, rows to columns, in four rounds of shuffles.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Transpose(Vector512<uint>* rows)
    {
        for (int i = 0; i < 16; i += 2) // numbers of two rows
        {
            var (a, b) = (rows[i], rows[i + 1]);
            rows[i] = Avx512F.UnpackLow(a, b);
            rows[i + 1] = Avx512F.UnpackHigh(a, b);
        }
        for (int i = 0; i < 16; i += 4) // pairs of four rows
        {
            var (a, b, c, d) = (rows[i].AsUInt64(), rows[i + 1].AsUInt64(), rows[i + 2].AsUInt64(), rows[i + 3].AsUInt64());
            rows[i] = Avx512F.UnpackLow(a, c).AsUInt32();
            rows[i + 1] = Avx512F.UnpackHigh(a, c).AsUInt32();
            rows[i + 2] = Avx512F.UnpackLow(b, d).AsUInt32();
            rows[i + 3] = Avx512F.UnpackHigh(b, d).AsUInt32();
        }
        Vector512<uint>* quarters = stackalloc Vector512<uint>[16];
        for (int i = 0; i < 4; i++) // quarters of rows i, i+4, i+8, i+12
        {
            var low = Avx512F.Shuffle4x128(rows[i], rows[i + 4], 0b10_00_10_00);
            var high = Avx512F.Shuffle4x128(rows[i], rows[i + 4], 0b11_01_11_01);
            var low2 = Avx512F.Shuffle4x128(rows[i + 8], rows[i + 12], 0b10_00_10_00);
            var high2 = Avx512F.Shuffle4x128(rows[i + 8], rows[i + 12], 0b11_01_11_01);
            quarters[i] = Avx512F.Shuffle4x128(low, low2, 0b10_00_10_00);
            quarters[i + 8] = Avx512F.Shuffle4x128(low, low2, 0b11_01_11_01);
            quarters[i + 4] = Avx512F.Shuffle4x128(high, high2, 0b10_00_10_00);
            quarters[i + 12] = Avx512F.Shuffle4x128(high, high2, 0b11_01_11_01);
        }
        for (int i = 0; i < 16; i++)
            rows[i] = quarters[i];
    }

    /// <summary>How many numbers a packed matrix of so many rows and columns takes.</summary>
    public static long PackedLength(int rows, int columns) => (long)(columns + Block - 1) / Block * Block * ((rows + 1) & ~1);

    /// <summary>
    /// One block of columns of the transpose of a float32 matrix by rows, as the right side of a product: x·Wᵀ, where W is (out, in).
    /// </summary>
    /// <param name="weight">(out, in).</param>
    /// <param name="rows">out.</param>
    /// <param name="depth">in; a multiple of 16.</param>
    /// <param name="block">Which 64 outputs.</param>
    /// <param name="to">(in/2, 64, 2).</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void PackTransposed(float* weight, int rows, int depth, int block, ushort* to)
    {
        Vector512<uint>* lanes = stackalloc Vector512<uint>[16];
        for (int column = 0; column < Block; column += 16)
        {
            for (int k = 0; k < depth; k += 32)
            {
                int pairs = Math.Min(16, (depth - k) / 2);
                for (int lane = 0; lane < 16; lane++)
                {
                    int row = block * Block + column + lane;
                    if (row >= rows)
                    {
                        lanes[lane] = Vector512<uint>.Zero;
                        continue;
                    }
                    float* from = weight + (long)row * depth + k;
                    var first = Avx512F.ConvertToVector256UInt16(Vector512.ShiftRightLogical(RoundUp(Vector512.Load(from)), 16));
                    var second = pairs == 16
                        ? Avx512F.ConvertToVector256UInt16(Vector512.ShiftRightLogical(RoundUp(Vector512.Load(from + 16)), 16))
                        : Vector256<ushort>.Zero;
                    lanes[lane] = Vector512.Create(first, second).AsUInt32();
                }
                Transpose(lanes);
                for (int pair = 0; pair < pairs; pair++)
                    lanes[pair].Store((uint*)(to + (long)(k / 2 + pair) * 2 * Block + 2 * column));
            }
        }
    }

    /// <summary>One block of columns of a float32 matrix by rows, as the right side of a product: g·W, where W is (out, in).</summary>
    /// <param name="weight">(out, in).</param>
    /// <param name="rows">out; where it is odd, a row of zeros follows.</param>
    /// <param name="columns">in; a multiple of 16.</param>
    /// <param name="block">Which 64 inputs.</param>
    /// <param name="to">(out/2, 64, 2).</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Pack(float* weight, int rows, int columns, int block, ushort* to)
    {
        int width = Math.Min(Block, columns - block * Block);
        for (int row = 0; row < rows; row += 2, to += 2 * Block)
        {
            float* from = weight + (long)row * columns + block * Block;
            for (int column = 0; column < Block; column += 16)
            {
                var woven = column >= width ? Vector512<uint>.Zero
                    : Weave(Vector512.Load(from + column), row + 1 < rows ? Vector512.Load(from + columns + column) : Vector512<float>.Zero);
                woven.Store((uint*)(to + 2 * column));
            }
        }
    }
}
