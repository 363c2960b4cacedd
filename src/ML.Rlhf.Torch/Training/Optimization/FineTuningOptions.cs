using ML.Rlhf.Torch.Modules;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf
{
    /// <summary>What every trainer that starts from a model lets you choose.</summary>
    public abstract record FineTuningOptions : OptimizationOptions
    {
        private protected FineTuningOptions() { }

        /// <summary>Trains adapters beside the model's weights, instead of the weights themselves.</summary>
        /// <value>Null, the default, trains all weights of a copy.</value>
        public LoraOptions? Lora { get; init; }

        private protected virtual bool HasDropout => false;

        internal override void Check(OptionProblems problems)
        {
            base.Check(problems);
            Lora?.Check(problems, HasDropout);
        }
    }
}

namespace ML.Rlhf.Torch.Training
{
    /// <summary>Where fine-tuning begins.</summary>
    internal static class FineTuning
    {
        /// <summary>
        /// The model that a run trains, on the run's device: a copy or, with adapters, one on the given model's own weights, which are
        /// frozen. Adapters that the given model has are merged into a copy first.
        /// </summary>
        /// <exception cref="ArgumentException">A target is no linear layer of the model.</exception>
        public static CausalLanguageModel Begin(CausalLanguageModel model, FineTuningOptions options, TrainingRun run) =>
            Begin(model, options, run, shape => true);

        /// <summary>
        /// The same for the trunk of a scalar head. A language model's own head, where it is not the embedding, gives nothing to it: it is
        /// frozen, and has no adapter.
        /// </summary>
        public static CausalLanguageModel BeginTrunk(CausalLanguageModel model, FineTuningOptions options, TrainingRun run)
        {
            var trunk = Begin(model, options, run, shape => shape.Target != CausalLanguageModel.HeadPath);
            trunk.FreezeHead();
            return trunk;
        }

        private static CausalLanguageModel Begin(
            CausalLanguageModel model, FineTuningOptions options, TrainingRun run, Func<AdapterShape, bool> takes)
        {
            if (options.Lora is not { } lora)
                return model.Clone().to(run.Device);
            AdapterShape[] shapes = [.. model.AdapterShapes(lora).Where(takes)];
            var adapted = (model.HasAdapters ? model.Clone() : model.ShareWeights()).to(run.Device);
            using var generator = new Generator(run.Seed, CPU);
            adapted.AttachAdapters(shapes, generator);
            return adapted;
        }

        /// <summary>
        /// The model that a policy began as: the policy's own weights without its adapters or, where it has none, a copy of them.
        /// </summary>
        public static CausalLanguageModel Reference(CausalLanguageModel policy) =>
            policy.HasAdapters ? policy.ShareWeights() : policy.Clone();
    }
}
