using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch;

/// <summary>
/// What TorchSharp computes of tensors and numbers, under TorchSharp's own names, and safe beside other threads.
/// </summary>
/// <remarks>
/// <para>
/// A number reaches libtorch as a <see cref="Scalar"/>, whose finalizer frees it. TorchSharp makes one for each number, passes its
/// handle on and forgets it: a collection that another thread sets off frees what libtorch is still reading ("Expected false to be
/// true" from <c>Scalar.h</c>, or other bits). <c>a + b</c> has that too, with a factor of 1. Here <c>using</c> holds each scalar until
/// libtorch is done.
/// </para>
/// <para>
/// C# prefers a type's own operators to these, so <c>src/build/HideScalars.targets</c> hides TorchSharp's from the compiler. What is missing
/// here then does not compile: add it. Once TorchSharp holds its scalars itself, delete both files; no formula changes.
/// </para>
/// </remarks>
internal static class TensorArithmetic
{
    /// <summary>A number on its way into libtorch, which tells integers from others: they promote to other types.</summary>
    internal readonly struct Number
    {
        private readonly double _value;
        private readonly long? _integer;

        private Number(double value, long? integer) => (_value, _integer) = (value, integer);

        public static implicit operator Number(double value) => new(value, null);

        public static implicit operator Number(long value) => new(value, value);

        /// <summary>To be disposed after the call that reads it.</summary>
        public Scalar ToScalar() => _integer?.ToScalar() ?? _value.ToScalar();
    }

    /// <summary>Never freed, so that sums of tensors need not make it.</summary>
    private static readonly Scalar s_one = 1L.ToScalar(), s_two = 2L.ToScalar();

    extension(Tensor)
    {
        public static Tensor operator +(Tensor left, Tensor right) => left.add(right, s_one);

        public static Tensor operator +(Tensor left, Number right)
        {
            using var scalar = right.ToScalar();
            return left.add(scalar, s_one);
        }

        public static Tensor operator +(Number left, Tensor right) => right + left;

        public static Tensor operator -(Tensor left, Tensor right) => left.sub(right);

        public static Tensor operator -(Tensor left, Number right)
        {
            using var scalar = right.ToScalar();
            return left.sub(scalar);
        }

        public static Tensor operator -(Number left, Tensor right) => -right + left;

        public static Tensor operator *(Tensor left, Tensor right) => left.mul(right);

        public static Tensor operator *(Tensor left, Number right)
        {
            using var scalar = right.ToScalar();
            return left.mul(scalar);
        }

        public static Tensor operator *(Number left, Tensor right) => right * left;

        public static Tensor operator /(Tensor left, Tensor right) => left.div(right);

        public static Tensor operator /(Tensor left, Number right)
        {
            using var scalar = right.ToScalar();
            return left.div(scalar);
        }

        public static Tensor operator /(Number left, Tensor right) => right.reciprocal() * left;

        public static Tensor operator <(Tensor left, Tensor right) => left.lt(right);

        public static Tensor operator <(Tensor left, Number right)
        {
            using var scalar = right.ToScalar();
            return left.lt(scalar);
        }

        public static Tensor operator >(Tensor left, Tensor right) => left.gt(right);

        public static Tensor operator >(Tensor left, Number right)
        {
            using var scalar = right.ToScalar();
            return left.gt(scalar);
        }

        public static Tensor operator <=(Tensor left, Tensor right) => left.le(right);

        public static Tensor operator <=(Tensor left, Number right)
        {
            using var scalar = right.ToScalar();
            return left.le(scalar);
        }

        public static Tensor operator >=(Tensor left, Tensor right) => left.ge(right);

        public static Tensor operator >=(Tensor left, Number right)
        {
            using var scalar = right.ToScalar();
            return left.ge(scalar);
        }
    }

    public static Tensor ne(this Tensor tensor, Number value)
    {
        using var scalar = value.ToScalar();
        return tensor.ne(scalar);
    }

    public static Tensor square(this Tensor tensor) => tensor.pow(s_two);

    public static Tensor clamp_min(this Tensor tensor, Number minimum)
    {
        using var scalar = minimum.ToScalar();
        return tensor.clamp_min(scalar);
    }

    public static Tensor clamp_max(this Tensor tensor, Number maximum)
    {
        using var scalar = maximum.ToScalar();
        return tensor.clamp_max(scalar);
    }

    public static Tensor clamp(this Tensor tensor, Number? min = null, Number? max = null)
    {
        using Scalar? low = min?.ToScalar(), high = max?.ToScalar();
        return tensor.clamp(low, high);
    }

    public static Tensor masked_fill(this Tensor tensor, Tensor mask, Number value)
    {
        using var scalar = value.ToScalar();
        return tensor.masked_fill(mask, scalar);
    }

    public static Tensor index_fill_(this Tensor tensor, long dimension, Tensor index, Number value)
    {
        using var scalar = value.ToScalar();
        return tensor.index_fill_(dimension, index, scalar);
    }

    public static Tensor index_add(this Tensor tensor, long dimension, Tensor index, Tensor source, Number alpha)
    {
        using var scalar = alpha.ToScalar();
        return tensor.index_add(dimension, index, source, scalar);
    }

    public static Tensor fill_(this Tensor tensor, Number value)
    {
        using var scalar = value.ToScalar();
        return tensor.fill_(scalar);
    }

    public static Tensor add_(this Tensor tensor, Number value)
    {
        using var scalar = value.ToScalar();
        return tensor.add_(scalar, s_one);
    }

    public static Tensor add_(this Tensor tensor, Tensor other, Number alpha)
    {
        using var scalar = alpha.ToScalar();
        return tensor.add_(other, scalar);
    }

    public static Tensor mul_(this Tensor tensor, Number value)
    {
        using var scalar = value.ToScalar();
        return tensor.mul_(scalar);
    }

    public static Tensor addcmul_(this Tensor tensor, Tensor first, Tensor second, Number value)
    {
        using var scalar = value.ToScalar();
        return tensor.addcmul_(first, second, scalar);
    }

    public static Tensor addcdiv_(this Tensor tensor, Tensor first, Tensor second, Number value)
    {
        using var scalar = value.ToScalar();
        return tensor.addcdiv_(first, second, scalar);
    }

    public static Tensor full(long[] size, Number value, ScalarType? dtype = null, Device? device = null)
    {
        using var scalar = value.ToScalar();
        return torch.full(size, scalar, dtype, device);
    }

    public static Tensor arange(Number stop, ScalarType? dtype = null, Device? device = null) =>
        arange(0, stop, dtype, device);

    public static Tensor arange(Number start, Number stop, ScalarType? dtype = null, Device? device = null) =>
        arange(start, stop, 1, dtype, device);

    public static Tensor arange(Number start, Number stop, Number step, ScalarType? dtype = null, Device? device = null)
    {
        using Scalar from = start.ToScalar(), to = stop.ToScalar(), by = step.ToScalar();
        return torch.arange(from, to, by, dtype, device);
    }

    public static double ToDouble(this Tensor tensor)
    {
        using var scalar = tensor.ToScalar();
        return scalar.ToDouble();
    }

    public static long ToInt64(this Tensor tensor)
    {
        using var scalar = tensor.ToScalar();
        return scalar.ToInt64();
    }
}
