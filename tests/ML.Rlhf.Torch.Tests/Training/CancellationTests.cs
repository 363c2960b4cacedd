using ML.Rlhf.Torch.Training;
using TorchSharp;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>
/// Runs that are canceled wherever a loop looks: between steps, before a token of a rollout, before a batch of a validation, before the
/// reference is asked, while scores are normalised.
/// </summary>
public sealed class CancellationTests : IDisposable
{
    private const int Steps = 4;

    private readonly string _root = Directory.CreateTempSubdirectory("ML.Rlhf.").FullName;

    public static TheoryData<string> Loops => TinyLoop.Names;

    public void Dispose() => Directory.Delete(_root, recursive: true);

    [Theory]
    [MemberData(nameof(Loops))]
    public void Canceled_anywhere_it_stops_there_and_goes_on_to_the_weights_of_a_run_that_was_not(string loop)
    {
        int looks = 0;
        var expected = Run(loop, new() { Steps = Steps, OnCheck = () => looks++ });

        foreach (int look in Looks(looks))
        {
            var checkpoints = Checkpoints($"throw-{look}");
            int last = 0;
            var canceled = Record.Exception(
                () => Run(loop, Canceled(look, checkpoints) with { OnReport = progress => last = progress.Step }));
            // In the last step's validation, a run is as good as done.
            Assert.True(canceled is OperationCanceledException || (canceled is null && last == Steps), $"{canceled}");
            // Every whole step is kept: nothing but the steps that are left is done again.
            var rest = Run(loop, new() { Steps = Steps, Checkpoints = checkpoints });

            AssertSameBits(expected.After, rest.After);
            Assert.Equal(Enumerable.Range(last + 1, Steps - last), rest.Reports.Select(report => report.Step));
        }
    }

    [Theory]
    [MemberData(nameof(Loops))]
    public void Canceled_anywhere_it_returns_what_it_has_once_it_has_something(string loop)
    {
        int looks = 0;
        var expected = Run(loop, new() { Steps = Steps, OnCheck = () => looks++ });

        foreach (int look in Looks(looks))
        {
            var checkpoints = Checkpoints($"return-{look}");
            var settings = Canceled(look, checkpoints) with { WhenCanceled = CancellationAction.ReturnModel };
            try
            {
                var returned = Run(loop, settings);
                Assert.InRange(returned.Reports.Count, 1, Steps);
                Assert.All(returned.After.Values, weights => Assert.True(weights.isfinite().all().ToBoolean()));
            }
            catch (OperationCanceledException)
            {
                Assert.False(Directory.Exists(Path.Combine(checkpoints.Folder, "checkpoint-00000001"))); // its first step was not done
            }
            AssertSameBits(expected.After, Run(loop, new() { Steps = Steps, Checkpoints = checkpoints }).After);
        }
    }

    [Theory]
    [InlineData("GPT")]
    [InlineData("SFT")]
    [InlineData("Reward model")]
    public void A_validation_that_was_cut_short_is_not_reported_unless_it_decides_which_step_is_the_best(string loop)
    {
        // GPT measures after step 2, the others after the only epoch, step 1.
        int measured = loop == "GPT" ? 2 : 1;
        var without = Measure(best: null);
        Assert.Null(without.Single(report => report.Step == measured).ValidationLoss);

        var with = Measure(CheckpointMetric.Lowest("eval_loss"));
        Assert.DoesNotContain(with, report => report.Step == measured);

        List<TrainingProgress> Measure(CheckpointMetric? best)
        {
            var reports = new List<TrainingProgress>();
            bool seen = false;
            int sinceStep = 0;
            var settings = new TinyLoop.Settings
            {
                Steps = measured,
                Checkpoints = Checkpoints($"best-{best is not null}") with { Best = best },
                OnReport = progress => { reports.Add(progress); sinceStep = 0; },
                OnCheck = () => // the second look since a report is the validation's
                {
                    seen |= reports.Count == measured - 1 && ++sinceStep == 2;
                    if (seen)
                        throw new OperationCanceledException();
                },
            };
            try
            {
                Run(loop, settings);
            }
            catch (OperationCanceledException)
            {
            }
            return reports;
        }
    }

    [Fact]
    public void A_step_that_fails_after_it_has_drawn_its_rows_is_taken_again_with_the_same_ones()
    {
        foreach (string loop in new[] { "GPT", "LSTM", "MLM" })
        {
            var expected = Run(loop, new() { Steps = Steps });
            var checkpoints = Checkpoints(loop);
            nn.Module? model = null;
            // The forward pass of step 2 fails, as where memory runs out.
            Assert.ThrowsAny<Exception>(() => Run(loop, new()
            {
                Steps = Steps,
                Checkpoints = checkpoints,
                OnModel = module => model = module,
                OnReport = _ => model!.Dispose(),
            }));
            AssertSameBits(expected.After, Run(loop, new() { Steps = Steps, Checkpoints = checkpoints }).After);
        }
    }

    private CheckpointOptions Checkpoints(string name) =>
        new() { Folder = Path.Combine(_root, name), Every = Timeout.InfiniteTimeSpan };

    private static TinyLoop.Settings Canceled(int look, CheckpointOptions checkpoints)
    {
        int looks = 0;
        return new()
        {
            Steps = Steps,
            Checkpoints = checkpoints,
            OnCheck = () =>
            {
                if (++looks >= look)
                    throw new OperationCanceledException();
            },
        };
    }

    /// <summary>Some of the times that a loop looks, the first and the last ones among them.</summary>
    private static IEnumerable<int> Looks(int all) => Enumerable.Range(1, all).Where(look => look <= 4 || look % 9 == 0 || look >= all - 1);

    private static (Dictionary<string, Tensor> After, List<TrainingProgress> Reports) Run(string loop, TinyLoop.Settings settings)
    {
        var (_, after, reports) = TinyLoop.Run(loop, settings);
        return (after, reports);
    }

    private static void AssertSameBits(Dictionary<string, Tensor> expected, Dictionary<string, Tensor> actual)
    {
        Assert.Equal(expected.Keys, actual.Keys);
        foreach (var (name, tensor) in expected)
            Assert.True(tensor.bytes.SequenceEqual(actual[name].bytes), $"'{name}' differs by {Close.Distance(tensor, actual[name])}");
    }
}
