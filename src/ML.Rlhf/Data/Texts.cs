namespace ML.Rlhf;

internal static class Texts
{
    private const int Shown = 40;

    /// <summary>Enough of a text to find it again by, for error messages.</summary>
    public static string Shorten(string text) => text.Length <= Shown ? text : text[..Shown] + "…";
}
