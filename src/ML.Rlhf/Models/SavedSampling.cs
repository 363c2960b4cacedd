using ML.Rlhf.Bridge;

namespace ML.Rlhf;

/// <summary>Sampling options in a model file.</summary>
internal static class SavedSampling
{
    public static void Write(ModelWriter writer, SamplingOptions sampling)
    {
        writer.Main.Write(sampling.MaxNewTokens);
        writer.Main.Write(sampling.Temperature);
        writer.Main.Write(sampling.TopK);
        writer.Main.Write(sampling.TopP);
        writer.Main.Write(sampling.Seed);
        writer.Main.Write(sampling.TruncatePrompts);
        writer.Main.Write(sampling.MinP);
        writer.Main.Write(sampling.TypicalP);
        writer.Main.Write(sampling.EpsilonCutoff);
        writer.Main.Write(sampling.RepetitionPenalty);
        writer.Main.Write(sampling.NoRepeatNgramSize);
        writer.Main.Write(sampling.MinNewTokens);
        writer.Main.Write((byte)sampling.Precision);
    }

    /// <exception cref="FormatException">They are not what <see cref="Write"/> can have written.</exception>
    public static SamplingOptions Read(ModelReader reader)
    {
        var sampling = new SamplingOptions
        {
            MaxNewTokens = reader.Main.ReadInt32(),
            Temperature = reader.Main.ReadSingle(),
            TopK = reader.Main.ReadInt32(),
            TopP = reader.Main.ReadSingle(),
            Seed = reader.Main.ReadInt32(),
            TruncatePrompts = reader.Main.ReadBoolean(),
            MinP = reader.Main.ReadSingle(),
            TypicalP = reader.Main.ReadSingle(),
            EpsilonCutoff = reader.Main.ReadSingle(),
            RepetitionPenalty = reader.Main.ReadSingle(),
            NoRepeatNgramSize = reader.Main.ReadInt32(),
            MinNewTokens = reader.Main.ReadInt32(),
            Precision = (Precision)reader.Main.ReadByte(),
        };
        try
        {
            sampling.Validate();
            return sampling;
        }
        catch (ArgumentException e)
        {
            throw new FormatException($"The sampling options of the model are damaged: {e.Message} Copy the file or save the model " +
                "again.", e);
        }
    }
}
