using System.Globalization;
using Microsoft.ML.Tokenizers;

namespace ML.Rlhf;

/// <summary>Changes a text before it is cut into tokens, and knows afterwards which part of it is where.</summary>
/// <param name="transform">What is done to the text, a character with its combining marks at a time.</param>
/// <param name="prefix">Put before the text.</param>
/// <param name="prefixAlways">Whether also before text that begins with the prefix already.</param>
internal sealed class TextNormalizer(Func<string, string> transform, string prefix = "", bool prefixAlways = false) : Normalizer
{
    public override string Normalize(ReadOnlySpan<char> original) => Normalize(original.ToString());

    public override string Normalize(string original)
    {
        string normalized = transform(original);
        bool complete = normalized.Length == 0 || !prefixAlways && normalized.StartsWith(prefix, StringComparison.Ordinal);
        return complete ? normalized : prefix + normalized;
    }

    /// <summary>Where in the original each UTF-16 unit of the normalized text comes from.</summary>
    public Range[] Align(string original, string normalized)
    {
        var places = new List<Range>(normalized.Length);
        for (int start = 0; start < original.Length;)
        {
            int length = StringInfo.GetNextTextElementLength(original, start);
            string element = original.Substring(start, length), changed = transform(element);
            for (int i = 0; i < changed.Length; i++)
                places.Add(changed.Length == length ? (start + i)..(start + i + 1) : start..(start + length));
            start += length;
        }
        if (normalized.Length > places.Count && places.Count > 0) // the prefix goes with the first character
            places.InsertRange(0, Enumerable.Repeat(places[0], normalized.Length - places.Count));
        return places.Count == normalized.Length ? [.. places] : [.. Enumerable.Repeat(0..original.Length, normalized.Length)];
    }
}

/// <summary>A stretch of a text as a normalizer changed it.</summary>
/// <param name="normalizer">The normalizer.</param>
/// <param name="original">The stretch.</param>
/// <param name="start">Where it begins in the text.</param>
internal sealed class NormalizedText(TextNormalizer normalizer, string original, int start)
{
    private Range[]? _origins;

    /// <summary>What became of it.</summary>
    public string Text { get; } = normalizer.Normalize(original);

    /// <summary>Whether the text begins with it.</summary>
    public bool IsAtStart => start == 0;

    /// <summary>The part of the text that a part of the normalized stretch comes from.</summary>
    public Range OriginOf(Range part)
    {
        var (offset, length) = part.GetOffsetAndLength(Text.Length);
        if (length == 0)
            return start..start;
        _origins ??= normalizer.Align(original, Text);
        return (start + _origins[offset].Start.Value)..(start + _origins[offset + length - 1].End.Value);
    }
}
