namespace ML.Rlhf.Torch.Generation;

/// <summary>Finds how far down a ranking a part of the whole reaches, without sorting the whole.</summary>
internal sealed class Ranking
{
    private const int BucketBits = 12; // sign, exponent and three bits of the fraction: neighbours in a bucket differ by 12 % at most

    private readonly double[] _buckets = new double[1 << BucketBits];
    private uint[] _orders = [];
    private float[] _masses = [];

    /// <summary>Goes from the largest key to the smallest until the masses on the way reach a target.</summary>
    /// <param name="keys">Any numbers.</param>
    /// <param name="masses">At least 0, as many as keys; empty for 1 each.</param>
    /// <param name="target">Above 0. Where all masses do not reach it, the way ends with the smallest key.</param>
    /// <returns>The last key on the way, and how many of those that are equal to it were needed.</returns>
    public (float Last, int Ties) Reach(ReadOnlySpan<float> keys, ReadOnlySpan<float> masses, double target)
    {
        // 1. The bucket in which it happens.
        Array.Clear(_buckets);
        for (int i = 0; i < keys.Length; i++)
            _buckets[Bucket(Order(keys[i]))] += masses.IsEmpty ? 1 : masses[i];
        double sum = 0;
        int bucket = _buckets.Length - 1;
        while (bucket > 0 && sum + _buckets[bucket] < target)
            sum += _buckets[bucket--];

        // 2. What is in it, in order.
        int count = Gather(keys, masses, bucket);
        if (count == 0)
            return (float.NegativeInfinity, keys.Count(float.NegativeInfinity));
        _orders.AsSpan(0, count).Sort(_masses.AsSpan(0, count));

        // 3. The place.
        int last = count - 1, ties = 1;
        for (sum += _masses[last]; last > 0 && sum < target; sum += _masses[last])
        {
            last--;
            ties = _orders[last] == _orders[last + 1] ? ties + 1 : 1;
        }
        return (Key(_orders[last]), ties);
    }

    private int Gather(ReadOnlySpan<float> keys, ReadOnlySpan<float> masses, int bucket)
    {
        if (_orders.Length < keys.Length)
            (_orders, _masses) = (new uint[keys.Length], new float[keys.Length]);
        int count = 0;
        for (int i = 0; i < keys.Length; i++)
        {
            uint order = Order(keys[i]);
            if (Bucket(order) == bucket)
                (_orders[count], _masses[count++]) = (order, masses.IsEmpty ? 1 : masses[i]);
        }
        return count;
    }

    private static int Bucket(uint order) => (int)(order >> (32 - BucketBits));

    /// <summary>Orders as the number does: the bits of a number, all of them turned where it is negative, else only the sign.</summary>
    private static uint Order(float key)
    {
        uint bits = BitConverter.SingleToUInt32Bits(key + 0f); // −0 becomes 0
        return (int)bits < 0 ? ~bits : bits | 0x8000_0000;
    }

    private static float Key(uint order) => BitConverter.UInt32BitsToSingle((int)order < 0 ? order & 0x7FFF_FFFF : ~order);
}
