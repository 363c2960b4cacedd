using Microsoft.ML;

namespace ML.Rlhf;

/// <summary>Makes trainers: <c>ml.Rlhf().Trainers</c>.</summary>
/// <remarks>The members that make a stage's trainer stand in the stage's folder.</remarks>
public sealed partial class TrainerCatalog
{
    private readonly MLContext _context;

    internal TrainerCatalog(MLContext context) => _context = context;
}
