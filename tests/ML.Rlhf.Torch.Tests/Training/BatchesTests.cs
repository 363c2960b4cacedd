using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

public class BatchesTests
{
    [Fact]
    public void Every_epoch_has_every_row_once_in_an_order_of_its_own()
    {
        int[][] batches = [.. Batches.Shuffled(rows: 10, batchSize: 4, epochs: 2, new RandomStream(1))];

        Assert.Equal([4, 4, 2, 4, 4, 2], batches.Select(b => b.Length));
        int[] first = [.. batches.Take(3).SelectMany(b => b)], second = [.. batches.Skip(3).SelectMany(b => b)];
        Assert.Equal(Enumerable.Range(0, 10), first.Order());
        Assert.Equal(Enumerable.Range(0, 10), second.Order());
        Assert.NotEqual(first, second);
        Assert.Equal(3, Batches.Count(10, 4));
    }

    [Fact]
    public void Batches_by_length_have_every_row_once_an_epoch_hardly_any_padding_and_no_order()
    {
        const int Rows = 1001, BatchSize = 10;
        var random = new RandomStream(3);
        int[] lengths = [.. Enumerable.Range(0, Rows).Select(_ => 1 + random.NextInt32(100))];

        int[][] batches = [.. Batches.ShuffledByLength(Rows, BatchSize, epochs: 2, row => lengths[row], new RandomStream(1))];

        int perEpoch = Batches.Count(Rows, BatchSize);
        Assert.Equal(2 * perEpoch, batches.Length);
        foreach (int[][] epoch in batches.Chunk(perEpoch))
        {
            Assert.Equal(Enumerable.Range(0, Rows), epoch.SelectMany(b => b).Order());
            Assert.Single(epoch, b => b.Length != BatchSize);
            double real = lengths.Sum(), padded = epoch.Sum(b => b.Length * b.Max(row => lengths[row]));
            Assert.InRange(padded / real, 1, 1.1);
            int[] longest = [.. epoch.Select(b => b.Max(row => lengths[row]))];
            Assert.NotEqual(longest.Order(), longest);
        }
        var first = batches[..perEpoch].Select(b => string.Join(' ', b.Order())).ToHashSet();
        Assert.InRange(batches[perEpoch..].Count(b => first.Contains(string.Join(' ', b.Order()))), 0, 2);
    }

    [Fact]
    public void Passes_have_every_row_once_and_far_less_padding_and_a_batch_that_has_little_stays_as_it_is()
    {
        var random = new RandomStream(5);
        int[] lengths = [.. Enumerable.Range(0, 64).Select(_ => 20 + random.NextInt32(237))];
        int[] rows = random.Permutation(64);
        double Padding(IEnumerable<int[]> passes) => 1 - lengths.Sum() / (double)passes.Sum(p => p.Length * p.Max(row => lengths[row]));

        foreach (int? atMost in (int?[])[null, 5, 16, 100])
        {
            var passes = Batches.Passes(rows, atMost, row => lengths[row]);

            Assert.Equal(Enumerable.Range(0, 64), passes.SelectMany(p => p).Order());
            Assert.All(passes, p => Assert.InRange(p.Length, 1, atMost ?? 64));
            Assert.InRange(Padding(passes), 0, 0.1);
        }
        Assert.InRange(Padding([rows]), 0.4, 0.6);
        Assert.Equal([rows], Batches.Passes(rows, null, _ => 100));
        Assert.Equal([rows], Batches.Passes(rows, null, row => row < 2 ? 61 : 60));
        Assert.Equal([[3, 0], [2, 1]], Batches.Passes([3, 2, 1, 0], 2, row => row is 0 or 3 ? 1 : 1000));
        Assert.Equal([[0], [1]], Batches.Passes([1, 0], null, row => row == 0 ? 1 : 1000));
    }

    [Theory]
    [InlineData(12, 1)]
    [InlineData(12, 5)]
    [InlineData(9, 6)]
    [InlineData(7, 7)]
    public void Parts_are_as_many_as_asked_for_and_as_equal_as_can_be(int rows, int parts)
    {
        int[][] result = [.. Batches.Parts([.. Enumerable.Range(0, rows)], parts)];

        Assert.Equal(parts, result.Length);
        Assert.InRange(result.Max(p => p.Length) - result.Min(p => p.Length), 0, 1);
        Assert.Equal(Enumerable.Range(0, rows), result.SelectMany(p => p));
    }

    [Fact]
    public void Minibatches_pass_over_all_rows_in_a_fresh_order_each_epoch()
    {
        var random = new RandomStream(1);

        int[][] minibatches = [.. Batches.Minibatches(rows: 10, epochs: 2, parts: 3, ref random)];

        Assert.Equal(6, minibatches.Length);
        int[] first = [.. minibatches.Take(3).SelectMany(b => b)], second = [.. minibatches.Skip(3).SelectMany(b => b)];
        Assert.Equal(Enumerable.Range(0, 10), first.Order());
        Assert.Equal(Enumerable.Range(0, 10), second.Order());
        Assert.NotEqual(first, second);
        Assert.NotEqual(first, Batches.Minibatches(rows: 10, epochs: 1, parts: 3, ref random).SelectMany(b => b));
    }

    [Fact]
    public void Batches_by_length_go_from_short_to_long_and_hold_every_row()
    {
        int[] lengths = [5, 1, 4, 1, 3];

        int[][] batches = [.. Batches.ByLength(5, 2, row => lengths[row])];

        Assert.Equal([[1, 3], [4, 2], [0]], batches);
    }

    [Fact]
    public void Padding_stands_on_the_right_and_the_last_positions_are_those_of_real_tokens()
    {
        int[][] rows = [[7], [1, 2, 3], [4, 5]];

        var batch = PaddedBatch.Create(rows, CPU);

        Close.Assert(tensor(new long[,] { { 7, 0, 0 }, { 1, 2, 3 }, { 4, 5, 0 } }), batch.Ids);
        Assert.Equal([0, 2, 1], batch.LastPositions.data<long>().ToArray());
    }

    [Fact]
    public void Only_completions_are_learned_unless_prompts_are_too()
    {
        var data = new CompletionData(new TokenSequences(), [2, 1]);
        data.Sequences.Add(10, 11, 12, 13);
        data.Sequences.Add(14, 15);

        var (ids, positions, labels) = NextTokenLoss.CompletionBatch(data, [0, 1], CPU, promptsToo: false);
        Close.Assert(tensor(new long[,] { { 10, 11, 12, 13 }, { 14, 15, 0, 0 } }), ids);
        Assert.Equal([1, 2, 4], positions.data<long>().ToArray()); // the states before 12, 13 and 15
        Assert.Equal([12, 13, 15], labels.data<long>().ToArray());

        (_, positions, labels) = NextTokenLoss.CompletionBatch(data, [1, 0], CPU, promptsToo: true);
        Assert.Equal([0, 4, 5, 6], positions.data<long>().ToArray());
        Assert.Equal([15, 11, 12, 13], labels.data<long>().ToArray());
    }

    [Fact]
    public void An_episodes_state_is_the_last_token_before_the_response_token()
    {
        var batch = EpisodeBatch.Create([new Episode([1, 2, 3], [4, 5], [0, 0], true), new Episode([6], [7, 8, 9], [0, 0, 0], false)], CPU);

        Close.Assert(tensor(new long[,] { { 1, 2, 3, 4 }, { 6, 7, 8, 0 } }), batch.Ids); // the last token predicts nothing
        Close.Assert(tensor(new long[,] { { 4, 5, 0 }, { 7, 8, 9 } }), batch.Responses);
        Close.Assert(tensor(new long[,] { { 2, 3, 0 }, { 0, 1, 2 } }), batch.StatePositions);
        Close.Assert(tensor(new float[,] { { 1, 1, 0 }, { 1, 1, 1 } }), batch.Mask);
    }

    [Fact]
    public void Parts_of_episodes_have_similar_lengths_and_are_only_as_wide_as_these()
    {
        var batch = EpisodeBatch.Create([.. new[] { (5, 3), (1, 1), (4, 4), (1, 2), (6, 6), (2, 1) }.Select(
            e => new Episode(new int[e.Item1], [.. Enumerable.Range(1, e.Item2)], new float[e.Item2], Ended: true))], CPU);

        int[][] parts = [.. batch.Parts([4, 5, 0, 1, 2, 3], size: 2)];
        var part = batch.Select(tensor(new long[] { 3, 5 }));

        Assert.Equal([[1, 5], [3, 0], [2, 4]], parts);
        Assert.Equal([[4, 5, 0]], batch.Parts([4, 5, 0], size: 3)); // where nothing is split, nothing is sorted
        Assert.Equal([2, 2], part.Ids.shape);
        Close.Assert(tensor(new float[,] { { 1, 1 }, { 1, 0 } }), part.Mask);
        Close.Assert(tensor(new long[,] { { 1, 2 }, { 1, 0 } }), part.Responses);
        Close.Assert(tensor(new float[,] { { 7, 8 }, { 9, 0 } }), part.Padded(tensor([7f, 8f, 9f])));
        var all = zeros(6, 6);
        EpisodeBatch.Put(all, tensor(new long[] { 3, 5 }), tensor(new float[,] { { 7, 8 }, { 9, 0 } }));
        Close.Assert(tensor(new float[,] { { 7, 8 }, { 9, 0 } }), part.Select(all, tensor(new long[] { 3, 5 })));
        Close.Assert(24, all.sum().ToDouble(), relative: 1e-6);
    }

    [Fact]
    public void Sequences_keep_their_bounds_even_when_one_is_empty()
    {
        var sequences = new TokenSequences();
        sequences.Add(1, 2);
        sequences.Add();
        sequences.Add(3);

        Assert.Equal([1, 2], sequences[0].ToArray());
        Assert.Equal([], sequences[1].ToArray());
        Assert.Equal([3], sequences[2].ToArray());
        Assert.Equal((3, 3L, 0), (sequences.Count, sequences.TokenCount, sequences.Length(1)));
        Span<long> all = new long[3];
        sequences.CopyTo(0, all);
        Assert.Equal([1, 2, 3], all.ToArray());
    }
}
