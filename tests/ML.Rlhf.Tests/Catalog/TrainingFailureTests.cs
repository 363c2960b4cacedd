using Microsoft.ML;
using Microsoft.ML.Data;
using ML.Rlhf.TestSupport;
using TorchSharp;

namespace ML.Rlhf.Tests.Catalog;

/// <summary>
/// Code of the user fails in the middle of training. Its exception arrives; of the run no tensor is left, the model that it was given is
/// what it was, and the next run is as if there had been none before.
/// </summary>
public sealed class TrainingFailureTests
{
    private readonly MLContext _ml = new(seed: 1);

    [Theory, EveryStage]
    public void A_listener_that_throws_leaves_nothing(Stage stage) => AssertNothingIsLeft(stage, () => stage.Trainer(
        _ml, new StageSettings { Steps = 4, Progress = new ProgressRecords(p => { if (p.Step == 2) throw new UserException(); }) })
        .Fit(stage.Data(_ml)));

    [Theory, EveryStage]
    public void Data_that_throws_at_its_first_row_leaves_nothing(Stage stage) =>
        AssertNothingIsLeft(stage, () => stage.Trainer(_ml).Fit(new FailingView(stage.Data(_ml), rows: 0)));

    [Theory, EveryStage]
    public void Data_that_throws_at_its_last_row_leaves_nothing(Stage stage) =>
        AssertNothingIsLeft(stage, () => stage.Trainer(_ml).Fit(new FailingView(stage.Data(_ml), rows: 7)));

    [Theory, EveryStage]
    public void Validation_data_that_throws_leaves_nothing(Stage stage)
    {
        Assert.SkipWhen(stage.IsOnline(), "There is no validation data.");
        var settings = new StageSettings { ValidationData = new FailingView(stage.Data(_ml), rows: 5) };
        AssertNothingIsLeft(stage, () => stage.Trainer(_ml, settings).Fit(stage.Data(_ml)));
    }

    [Theory]
    [InlineData(Stage.Ppo)]
    [InlineData(Stage.Grpo)]
    [InlineData(Stage.Rloo)]
    public void A_reward_that_throws_leaves_nothing(Stage stage)
    {
        int calls = 0;
        AssertNothingIsLeft(stage, () =>
        {
            calls = 0;
            stage.Trainer(_ml, new StageSettings { Steps = 4, Reward = FailAt(6) }).Fit(stage.Data(_ml)); // in the second update
        });
        Assert.Equal(6, calls);

        Func<string, string, float> FailAt(int call) => (_, completion) =>
            ++calls == call ? throw new UserException() : completion.Length;
    }

    private void AssertNothingIsLeft(Stage stage, Action fail)
    {
        float[] given = Tiny.Weights(Tiny.Model), result = Train();

        LiveTensors.AssertNoneLeftBy(() => Assert.IsType<UserException>(Assert.ThrowsAny<Exception>(fail).GetBaseException()));

        Assert.Equal(given, Tiny.Weights(Tiny.Model));
        Assert.All(Tiny.Model.Module.parameters(), parameter => Assert.True(parameter.requires_grad));
        Assert.False(Tiny.Model.Module.training);
        Assert.Equal(result, Train());

        float[] Train()
        {
            var model = stage.Trainer(_ml).Fit(stage.Data(_ml));
            using (model as IDisposable)
                return Tiny.Weights(model);
        }
    }

    private sealed class UserException : Exception;

    /// <summary>Data whose cursors throw when they should move to one more row than they may.</summary>
    private sealed class FailingView(IDataView data, int rows) : IDataView
    {
        public DataViewSchema Schema => data.Schema;

        public bool CanShuffle => false;

        public long? GetRowCount() => data.GetRowCount();

        public DataViewRowCursor GetRowCursor(IEnumerable<DataViewSchema.Column> columnsNeeded, Random? rand = null) =>
            new Cursor(data.GetRowCursor(columnsNeeded), rows);

        public DataViewRowCursor[] GetRowCursorSet(IEnumerable<DataViewSchema.Column> columnsNeeded, int n, Random? rand = null) =>
            [GetRowCursor(columnsNeeded)];

        private sealed class Cursor(DataViewRowCursor cursor, int rows) : DataViewRowCursor
        {
            public override DataViewSchema Schema => cursor.Schema;

            public override long Position => cursor.Position;

            public override long Batch => cursor.Batch;

            public override bool MoveNext() => Position + 1 < rows ? cursor.MoveNext() : throw new UserException();

            public override ValueGetter<DataViewRowId> GetIdGetter() => cursor.GetIdGetter();

            public override bool IsColumnActive(DataViewSchema.Column column) => cursor.IsColumnActive(column);

            public override ValueGetter<TValue> GetGetter<TValue>(DataViewSchema.Column column) => cursor.GetGetter<TValue>(column);
        }
    }
}
