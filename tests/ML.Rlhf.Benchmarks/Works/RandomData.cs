using ML.Rlhf.Torch;
using ML.Rlhf.Torch.Modules;
using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Benchmarks.Works;

/// <summary>Models with initial weights, and tokens that mean nothing: speed does not depend on them.</summary>
internal static class RandomData
{
    public static Gpt Model(GptArchitecture architecture)
    {
        using var generator = new Generator(1, CPU);
        return new Gpt(architecture, generator);
    }

    public static ScalarGpt ScalarModel(GptArchitecture architecture)
    {
        using var generator = new Generator(2, CPU);
        return new ScalarGpt(Model(architecture), generator);
    }

    public static int[][] Rows(int rows, int length, int vocabulary)
    {
        var random = new RandomStream(1);
        var tokens = new int[rows][];
        for (int row = 0; row < rows; row++)
        {
            tokens[row] = new int[length];
            for (int t = 0; t < length; t++)
                tokens[row][t] = 1 + random.NextInt32(vocabulary - 1); // 0 is the end token
        }
        return tokens;
    }

    public static TokenSequences Sequences(int rows, int length, int vocabulary)
    {
        var sequences = new TokenSequences();
        foreach (int[] row in Rows(rows, length, vocabulary))
            sequences.Add(row);
        return sequences;
    }

    /// <summary>A run on the CPU whose steps a clock sees.</summary>
    public static TrainingRun Run(Action<TrainingProgress> report) =>
        new("Benchmark", CPU, seed: 1, report, log: _ => { }, warn: _ => { }, checkCanceled: () => { });
}
