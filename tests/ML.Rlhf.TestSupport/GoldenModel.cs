using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;
using TorchSharp.Modules;

namespace ML.Rlhf.TestSupport;

/// <summary>Models in Hugging Face's layout that lie among the fixtures.</summary>
internal static class GoldenModel
{
    public static CausalLanguageModel Load(string folder) => Pretrained.LanguageModel(Golden.PathOf(folder));

    public static ScalarGpt LoadScalar(string folder) => Pretrained.RewardModel(Golden.PathOf(folder));

    /// <summary>The parameters under the names that they have in Hugging Face's files.</summary>
    public static IEnumerable<(string Name, Parameter Parameter)> Parameters(CausalLanguageModel model) =>
        model.CheckpointTensors().Zip(model.named_parameters(), (there, here) => (there.Name, here.parameter));

    /// <inheritdoc cref="Parameters(CausalLanguageModel)"/>
    public static IEnumerable<(string Name, Parameter Parameter)> Parameters(ScalarGpt model) =>
        model.CheckpointTensors().Zip(model.named_parameters(), (there, here) => (there.Name, here.parameter));
}
