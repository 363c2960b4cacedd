using System.Runtime.InteropServices;
using System.Text;

namespace ML.Rlhf;

/// <summary>
/// Learns a byte-level byte-pair encoding (Sennrich et al. 2016, on bytes as in GPT-2): begin with the 256 bytes, then give the most
/// frequent pair of neighbours a token of its own, again and again.
/// </summary>
/// <remarks>
/// The result is determined by the text alone. Ids: the special tokens, the 256 bytes in the order of their symbols
/// (<see cref="ByteAlphabet"/>), then one for each merge. Of pairs with the same count the one with the smaller left id is merged first,
/// then the one with the smaller right id.
/// </remarks>
internal sealed class ByteLevelBpeTrainer
{
    private readonly List<string> _tokens = [];                       // token text by id
    private readonly Dictionary<string, int> _ids = [];               // and back
    private readonly int _specialCount;
    private readonly List<string> _merges = [];
    private readonly List<Word> _words = [];                          // every distinct piece of the corpus
    private readonly Dictionary<Pair, long> _counts = [];             // how often each pair stands in the corpus
    private readonly Dictionary<Pair, List<int>> _wordsWith = [];     // the words where a pair was seen; it may be gone since
    private readonly PriorityQueue<Pair, Ranked> _queue = new();      // the most frequent pair first

    private readonly record struct Pair(int Left, int Right);

    /// <summary>A pair with the count that it had when it was queued: what the queue is ordered by, ties included.</summary>
    private readonly record struct Ranked(long Count, Pair Pair) : IComparable<Ranked>
    {
        public int CompareTo(Ranked other) =>
            (-Count, Pair.Left, Pair.Right).CompareTo((-other.Count, other.Pair.Left, other.Pair.Right));
    }

    /// <summary>Learns from texts; each is read once, and none is kept.</summary>
    /// <param name="texts">The corpus. What is kept in memory are its distinct words, not its texts.</param>
    /// <param name="vocabularySize">Tokens in all; fewer come out when the corpus has no more pairs that repeat.</param>
    /// <param name="specialTokens">Take the ids from 0; the first is the end of text. Null: just the end of text.</param>
    /// <param name="minimumFrequency">A pair that occurs less often is not merged. Two: a pair seen once teaches nothing.</param>
    /// <param name="checkCanceled">Called for every text and every merge; throws to stop.</param>
    public static TextTokenizer Train(
        IEnumerable<string> texts,
        int vocabularySize,
        IReadOnlyList<string>? specialTokens = null,
        int minimumFrequency = 2,
        Action? checkCanceled = null)
    {
        specialTokens ??= [TextTokenizer.DefaultEndOfText];
        CheckVocabularySize(vocabularySize, specialTokens.Count);
        ArgumentOutOfRangeException.ThrowIfLessThan(minimumFrequency, 1);

        var trainer = new ByteLevelBpeTrainer(specialTokens);
        trainer.ReadWords(texts, checkCanceled);
        trainer.LearnMerges(vocabularySize, minimumFrequency, checkCanceled);

        var specialIds = specialTokens.Index().ToDictionary(token => token.Item, token => token.Index);
        return TextTokenizer.FromByteLevelBpe(trainer._tokens, trainer._merges, specialIds, endOfText: specialTokens[0]);
    }

    /// <summary>Throws unless there is room for the special tokens and all 256 bytes.</summary>
    public static void CheckVocabularySize(int vocabularySize, int specialTokenCount = 1)
    {
        int minimum = 256 + specialTokenCount;
        if (vocabularySize < minimum)
            throw new ArgumentOutOfRangeException(nameof(vocabularySize), vocabularySize,
                $"A byte-level vocabulary holds 256 bytes and {specialTokenCount} special token(s): ask for {minimum} tokens or more.");
    }

    private ByteLevelBpeTrainer(IReadOnlyList<string> specialTokens)
    {
        _specialCount = specialTokens.Count;
        foreach (string token in specialTokens)
            AddToken(token);
        foreach (char symbol in Enumerable.Range(0, 256).Select(value => ByteAlphabet.Symbol((byte)value)).Order())
            AddToken(symbol.ToString());
    }

    private int AddToken(string text)
    {
        _ids.Add(text, _tokens.Count);
        _tokens.Add(text);
        return _tokens.Count - 1;
    }

    /// <summary>Counts the distinct pieces of the corpus, spells each in bytes, and counts the pairs.</summary>
    private void ReadWords(IEnumerable<string> texts, Action? checkCanceled)
    {
        var pieces = new Dictionary<string, long>();
        var piecesBySpan = pieces.GetAlternateLookup<ReadOnlySpan<char>>();
        foreach (string text in texts)
        {
            checkCanceled?.Invoke();
            ReadOnlySpan<char> rest = WellFormedText.Of(text);
            while (!rest.IsEmpty)
            {
                int length = Gpt2PreTokenizer.NextLength(rest);
                CollectionsMarshal.GetValueRefOrAddDefault(piecesBySpan, rest[..length], out _)++;
                rest = rest[length..];
            }
        }
        if (pieces.Count == 0)
            throw new ArgumentException(
                "The corpus has no text to learn a vocabulary from: it has no rows, or all of them are empty.", nameof(texts));

        int[] idOfByte = [.. Enumerable.Range(0, 256).Select(value => _ids[ByteAlphabet.Symbol((byte)value).ToString()])];
        foreach (var (piece, count) in pieces)
        {
            var word = new Word(Array.ConvertAll(Encoding.UTF8.GetBytes(piece), value => idOfByte[value]), count);
            _words.Add(word);
            AddPairs(word, +1);
            foreach (Pair pair in word.Pairs())
                RememberWord(pair, _words.Count - 1);
        }
        foreach (var (pair, count) in _counts)
            _queue.Enqueue(pair, new Ranked(count, pair));
    }

    private void LearnMerges(int vocabularySize, int minimumFrequency, Action? checkCanceled)
    {
        while (_tokens.Count < vocabularySize && TryTakeMostFrequent(minimumFrequency, out Pair pair))
        {
            checkCanceled?.Invoke();
            string left = _tokens[pair.Left], right = _tokens[pair.Right];
            if (!_ids.TryGetValue(left + right, out int id))
                id = AddToken(left + right);
            else if (id < _specialCount)
                continue; // never merged: ordinary text must not be able to spell a special token
            _merges.Add($"{left} {right}");
            Merge(pair, id);
        }
    }

    /// <summary>
    /// The pair with the highest count. A merge lowers counts without touching the queue, so an entry may be out of date; it comes too
    /// early, never too late (a pair whose count rises is queued anew), and goes back with its true count.
    /// </summary>
    private bool TryTakeMostFrequent(int minimumFrequency, out Pair pair)
    {
        while (_queue.TryDequeue(out pair, out Ranked queued))
        {
            long count = _counts[pair];
            if (count < minimumFrequency)
                continue;
            if (count == queued.Count)
                return true;
            _queue.Enqueue(pair, new Ranked(count, pair));
        }
        return false;
    }

    /// <summary>Replaces a pair by its token in every word that has it, and keeps the counts true.</summary>
    private void Merge(Pair pair, int id)
    {
        var changed = new HashSet<Pair>();
        _wordsWith.Remove(pair, out List<int>? places);
        foreach (int place in places!)
        {
            Word word = _words[place];
            AddPairs(word, -1);
            word.Replace(pair, id);
            AddPairs(word, +1);
            foreach (Pair neighbour in word.Pairs().Where(p => p.Left == id || p.Right == id))
            {
                changed.Add(neighbour);
                RememberWord(neighbour, place);
            }
        }
        foreach (Pair neighbour in changed)
            _queue.Enqueue(neighbour, new Ranked(_counts[neighbour], neighbour));
    }

    private void AddPairs(Word word, int sign)
    {
        foreach (Pair pair in word.Pairs())
            CollectionsMarshal.GetValueRefOrAddDefault(_counts, pair, out _) += sign * word.Count;
    }

    private void RememberWord(Pair pair, int place)
    {
        ref List<int>? places = ref CollectionsMarshal.GetValueRefOrAddDefault(_wordsWith, pair, out _);
        places ??= [];
        if (places.Count == 0 || places[^1] != place) // a pair that stands in a word twice
            places.Add(place);
    }

    /// <summary>One distinct piece of the corpus: the tokens that it consists of by now, and how often it occurs.</summary>
    private sealed class Word(int[] tokens, long count)
    {
        private int _length = tokens.Length;

        public long Count => count;

        /// <summary>The neighbours, overlapping: <c>aaa</c> has <c>aa</c> twice.</summary>
        public IEnumerable<Pair> Pairs()
        {
            for (int i = 1; i < _length; i++)
                yield return new Pair(tokens[i - 1], tokens[i]);
        }

        /// <summary>Merges from left to right, without overlap: <c>aaa</c> becomes <c>(aa) a</c>.</summary>
        public void Replace(Pair pair, int id)
        {
            int kept = 0;
            for (int i = 0; i < _length; i++)
            {
                bool merges = i + 1 < _length && tokens[i] == pair.Left && tokens[i + 1] == pair.Right;
                tokens[kept++] = merges ? id : tokens[i];
                if (merges)
                    i++;
            }
            _length = kept;
        }
    }
}
