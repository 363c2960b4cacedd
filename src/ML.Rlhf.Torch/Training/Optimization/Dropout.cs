using ML.Rlhf.Torch.Modules;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Training;

/// <summary>Dropout for the time of a training run.</summary>
internal static class Dropout
{
    /// <summary>Turns dropout on for a step.</summary>
    /// <inheritdoc cref="Seed"/>
    public static void Begin(CausalLanguageModel model, double probability, TrainingRun run, int step)
    {
        model.train();
        model.Dropout = probability;
        Seed(model.Adapters.Select(adapter => adapter.Shape.Dropout).Append(probability).Max(), run, step);
    }

    /// <summary>
    /// Dropout draws from libtorch's global generator, the only one that its kernels know, so that generator is seeded; a run without
    /// dropout leaves it alone. Each step seeds it anew: a resumed run drops what it would have dropped, whoever drew from it meanwhile.
    /// </summary>
    public static void Seed(double probability, TrainingRun run, int step)
    {
        if (probability > 0)
            manual_seed(unchecked((long)new RandomStream(run.Seed, key: (ulong)step).NextUInt64()));
    }

    /// <summary>Turns dropout off, and the model to answering.</summary>
    public static void End(CausalLanguageModel model)
    {
        model.Dropout = 0;
        model.eval();
    }
}
