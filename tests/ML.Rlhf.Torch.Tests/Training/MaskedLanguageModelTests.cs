using ML.Rlhf.Torch.Training;
using static TorchSharp.torch;

namespace ML.Rlhf.Torch.Tests.Training;

/// <summary>What is particular to masking, and to learning from it.</summary>
public class MaskedLanguageModelTests
{
    private const int Mask = 0, Start = 1, End = 2, FirstWord = 3;

    [Fact]
    public void Of_the_chosen_tokens_8_in_10_are_hidden_1_is_another_and_1_is_kept()
    {
        const int size = 103, length = 200, repeats = 2000;
        var vocabulary = new MaskingVocabulary(size, Mask, [Start, End]);
        var random = new RandomStream(1);
        int[] words = new int[length];
        int hidden = 0, replaced = 0, kept = 0;
        var choices = new int[length];
        var drawn = new int[size];
        for (int i = 0; i < repeats; i++)
        {
            for (int t = 0; t < length; t++)
                words[t] = FirstWord + random.NextInt32(size - FirstWord);
            var masked = TokenMasking.Mask(words, vocabulary, 0.15, ref random);

            Assert.Equal(30, masked.Positions.Length); // 15 % of 200
            Assert.Equal(masked.Labels, masked.Positions.Select(t => words[t]));
            foreach (int t in masked.Positions)
            {
                choices[t]++;
                if (masked.Inputs[t] == Mask)
                {
                    hidden++;
                }
                else if (masked.Inputs[t] == words[t])
                {
                    kept++;
                }
                else
                {
                    replaced++;
                    drawn[masked.Inputs[t]]++;
                }
            }
            int[] others = [.. Enumerable.Range(0, length).Except(masked.Positions)];
            Assert.Equal(others.Select(t => words[t]), others.Select(t => masked.Inputs[t]));
        }

        // 60,000 choices: five standard deviations are 0.8 and 0.6 points. One random token in a hundred is the one that was there.
        double all = 30.0 * repeats;
        Close.Assert(0.8, hidden / all, absolute: 0.008);
        Close.Assert(0.1 * 0.99, replaced / all, absolute: 0.006);
        Close.Assert(0.1 + 0.1 * 0.01, kept / all, absolute: 0.006);
        // Every place and every word as likely as any other: 300 and 59 expected.
        Assert.InRange(choices.Min(), 300 - 90, 300);
        Assert.InRange(choices.Max(), 300, 300 + 90);
        Assert.Equal([0, 0, 0], drawn[..FirstWord]);
        Assert.InRange(drawn[FirstWord..].Min(), 59 - 40, 59);
        Assert.InRange(drawn[FirstWord..].Max(), 59, 59 + 40);
    }

    [Theory]
    [InlineData(1, 0.15, 1)]
    [InlineData(4, 0.15, 1)]
    [InlineData(10, 0.15, 2)]
    [InlineData(20, 0.15, 3)]
    [InlineData(7, 0.5, 4)]
    public void At_least_one_token_is_chosen_and_special_tokens_never_are(int words, double rate, int chosen)
    {
        var random = new RandomStream(2);
        for (int i = 0; i < 200; i++)
        {
            var masked = TokenMasking.Mask(
                [Start, .. Enumerable.Range(0, words).Select(w => FirstWord + w % 16), End], TinyEncoder.Vocabulary, rate, ref random);

            Assert.Equal(chosen, masked.Positions.Length);
            Assert.All(masked.Positions, t => Assert.InRange(t, 1, words));
            Assert.Equal((Start, End), (masked.Inputs[0], masked.Inputs[^1]));
        }
    }

    [Fact]
    public void The_same_state_hides_the_same_tokens_and_the_next_others()
    {
        int[] words = [.. Enumerable.Range(0, 100).Select(w => FirstWord + w % 16)];
        RandomStream first = new(3), again = new(3);

        var masked = TokenMasking.Mask(words, TinyEncoder.Vocabulary, 0.15, ref first);

        var same = TokenMasking.Mask(words, TinyEncoder.Vocabulary, 0.15, ref again);
        Assert.Equal(masked.Inputs, same.Inputs);
        Assert.Equal(masked.Positions, same.Positions);
        Assert.NotEqual(masked.Positions, TokenMasking.Mask(words, TinyEncoder.Vocabulary, 0.15, ref first).Positions);
        Assert.Empty(TokenMasking.Mask([Start, End], TinyEncoder.Vocabulary, 0.15, ref first).Positions);
    }

    /// <summary>
    /// Two pairs of words, in which each word has one possible partner: the first word of a pair can only be known from what stands behind
    /// it, and who sees only what stands before a word, as a GPT does, is right in a fifth of these cases.
    /// </summary>
    [Fact]
    public void It_learns_to_guess_a_word_from_its_neighbours_on_both_sides()
    {
        const int kinds = 5;
        var corpus = new TokenSequences();
        for (int a = FirstWord; a < FirstWord + kinds; a++)
        {
            for (int b = FirstWord; b < FirstWord + kinds; b++)
                corpus.Add(Start, a, a + kinds, b, b + kinds, End);
        }
        var model = TinyEncoder.Fresh();
        var recorded = new RecordedRun();

        MaskedLanguageModelTraining.Run(
            model, corpus, validation: corpus, TinyEncoder.Vocabulary,
            new MaskingOptions { Steps = 500, BatchSize = 32, LearningRate = 1e-2, WarmupSteps = 20 }, recorded.Run);

        Close.Assert(Math.Log(19), recorded.Reports[0].Loss, absolute: 0.1);
        Assert.Equal((false, 0.0), (model.training, model.Dropout));
        for (int place = 1; place <= 4; place++)
            Assert.True(Accuracy(place) > 0.9, $"{Accuracy(place):P0} of the words at place {place}");

        double Accuracy(int place)
        {
            using var noGrad = no_grad();
            MaskedSequence[] rows = [.. Enumerable.Range(0, corpus.Count).Select(row =>
            {
                int[] tokens = corpus[row].ToArray();
                int label = tokens[place];
                tokens[place] = Mask;
                return new MaskedSequence(tokens, [place], [label]);
            })];
            var (logits, labels) = MaskedTokenLoss.Guess(model, rows, CPU);
            return logits.argmax(-1).eq(labels).to(float32).mean().ToDouble();
        }
    }

    [Fact]
    public void Every_parameter_moves()
    {
        var (before, after, _) = TinyLoop.Run("MLM", new() { Steps = 6 });

        Assert.All(before, p => Assert.True(Close.Distance(p.Value, after[p.Key]) > 1e-5, p.Key));
    }

    [Fact]
    public void The_reported_loss_is_the_mean_over_all_hidden_tokens_of_the_batch()
    {
        var recorded = new RecordedRun(seed: 4);
        var corpus = TinyData.Completions(rows: 1).Sequences; // one sequence, so that every draw is of it
        var random = new RandomStream(4);
        double expected = 0;
        int count = 0;
        using (no_grad())
        {
            for (int i = 0; i < 6; i++)
            {
                random.NextInt32(1);
                var masked = TokenMasking.Mask(corpus[0], TinyEncoder.Vocabulary, 0.3, ref random);
                expected += MaskedTokenLoss.Sum(TinyEncoder.Random(), [masked], CPU).ToDouble();
                count += masked.Labels.Length;
            }
        }

        MaskedLanguageModelTraining.Run(
            TinyEncoder.Random(), corpus, validation: null, TinyEncoder.Vocabulary,
            new MaskingOptions { Steps = 1, BatchSize = 6, MaskingRate = 0.3, MicroBatchSize = 4 }, recorded.Run);

        Close.Assert(expected / count, recorded.Reports.Single().Loss, relative: 1e-5);
    }

    [Fact]
    public void Measuring_hides_the_same_tokens_each_time_and_counts_first_guesses()
    {
        var model = TinyEncoder.Random();
        var data = TinyData.Completions(rows: 700, completionUpTo: 8).Sequences; // more than a pass holds

        var total = MaskedTokenLoss.Measure(model, data, TinyEncoder.Vocabulary, 0.15);

        Assert.Equal(total, MaskedTokenLoss.Measure(model, data, TinyEncoder.Vocabulary, 0.15));
        Assert.InRange(total.Loss.Count, 690, 1400);
        Assert.InRange(total.Correct, 1, total.Loss.Count / 2);
        LiveTensors.AssertNoneLeftBy(() => MaskedTokenLoss.Measure(model, data, TinyEncoder.Vocabulary, 0.15));
    }
}
