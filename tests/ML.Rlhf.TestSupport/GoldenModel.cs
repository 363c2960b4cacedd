using ML.Rlhf.Torch.Checkpoints;
using ML.Rlhf.Torch.Modules;

namespace ML.Rlhf.TestSupport;

/// <summary>Models in Hugging Face's layout that lie among the fixtures.</summary>
internal static class GoldenModel
{
    public static CausalLanguageModel Load(string folder) => Pretrained.LanguageModel(Golden.PathOf(folder));

    public static ScalarGpt LoadScalar(string folder) => Pretrained.RewardModel(Golden.PathOf(folder));
}
