using System.Globalization;
using System.Text;

namespace ML.Rlhf.Jinja;

internal enum JinjaTokenKind
{
    Data,
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name,
    String,
    Number,
    Operator,
    End,
}

/// <param name="Kind">What it is.</param>
/// <param name="Text">The data, name, operator, or value of a string.</param>
/// <param name="Line">From 1.</param>
/// <param name="Number">The value of a number: a long or a double.</param>
internal readonly record struct JinjaToken(JinjaTokenKind Kind, string Text, int Line, object? Number = null)
{
    public bool Is(string symbol) => Kind is JinjaTokenKind.Operator or JinjaTokenKind.Name && Text == symbol;
}

/// <summary>
/// Cuts a template into tokens, with white space treated as transformers has it: the newline after a block is left out
/// (<c>trim_blocks</c>), and so are blanks before a block that begins its line (<c>lstrip_blocks</c>); "-" strips all white space on its
/// side, "+" none. The last newline of a template does not count.
/// </summary>
internal sealed class JinjaLexer
{
    /// <summary>Looking a name up takes time in proportion, which nobody pays for.</summary>
    private const int MaximumNameLength = 256;

    // Longest first.
    private static readonly string[] s_operators =
    [
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", "=", ">", "<", ".", ":", "|", ",",
    ];

    private readonly string _source;
    private readonly List<JinjaToken> _tokens = [];
    private int _position;
    private int _line = 1;
    private int _lineCountedTo;

    private JinjaLexer(string source) => _source = source;

    /// <exception cref="JinjaException">A tag or a string does not end, or a character has no meaning.</exception>
    public static List<JinjaToken> Lex(string source)
    {
        source = source.Replace("\r\n", "\n", StringComparison.Ordinal).Replace('\r', '\n');
        var lexer = new JinjaLexer(source.EndsWith('\n') ? source[..^1] : source);
        lexer.LexAll();
        return lexer._tokens;
    }

    private void LexAll()
    {
        bool lineStarting = true;
        while (FindTag() is int open)
        {
            char kind = _source[open + 1], sign = open + 2 < _source.Length ? _source[open + 2] : '\0';
            AddData(DataBefore(_source[_position..open], sign, strip: kind != '{', lineStarting));
            _position = open + 2 + (sign is '-' or '+' ? 1 : 0);
            if (kind == '#')
                SkipTo("#}", "comment");
            else if (kind == '%' && TryWord("raw"))
                LexRaw();
            else
                LexTag(kind == '%' ? "%}" : "}}", open);
            lineStarting = _source[_position - 1] == '\n';
        }
        AddData(_source[_position..]);
        _position = _source.Length;
        Add(JinjaTokenKind.End, "");
    }

    /// <summary>Where the next "{{", "{%" or "{#" is.</summary>
    private int? FindTag()
    {
        for (int i = _position; (i = _source.IndexOf('{', i)) >= 0 && i + 1 < _source.Length; i++)
        {
            if (_source[i + 1] is '{' or '%' or '#')
                return i;
        }
        return null;
    }

    private static string DataBefore(string data, char sign, bool strip, bool lineStarting)
    {
        if (sign == '-')
            return new JinjaText(data).Trim(null, start: false, end: true).Value;
        int line = data.LastIndexOf('\n') + 1;
        return strip && sign != '+' && (line > 0 || lineStarting) && data.AsSpan(line).IsWhiteSpace() ? data[..line] : data;
    }

    /// <summary>Everything up to the end of a comment is skipped.</summary>
    private void SkipTo(string end, string what)
    {
        int found = _source.IndexOf(end, _position, StringComparison.Ordinal);
        if (found < 0)
            throw Fail($"the {what} does not end with '{end}'");
        char sign = found > _position ? _source[found - 1] : '\0';
        _position = found;
        EndTag(end, sign, trimNewline: true);
    }

    private void LexRaw()
    {
        bool strip = TryTake("-%}");
        if (!strip && !TryTake("%}"))
            throw Fail("'raw' must be alone in its tag");
        if (strip)
            SkipSpace();
        int start = _position;
        for (int i = start; (i = _source.IndexOf("{%", i, StringComparison.Ordinal)) >= 0; i += 2)
        {
            char sign = i + 2 < _source.Length ? _source[i + 2] : '\0';
            _position = i + 2 + (sign is '-' or '+' ? 1 : 0);
            if (!TryWord("endraw"))
                continue;
            AddData(DataBefore(_source[start..i], sign, strip: true, lineStarting: false));
            char endSign = _position < _source.Length && _source[_position] is '-' or '+' ? _source[_position++] : '\0';
            EndTag("%}", endSign, trimNewline: true);
            return;
        }
        throw Fail("'raw' has no 'endraw'");
    }

    /// <summary>The tokens inside of a tag.</summary>
    private void LexTag(string end, int open)
    {
        bool isBlock = end == "%}";
        Add(isBlock ? JinjaTokenKind.BlockBegin : JinjaTokenKind.VariableBegin, "");
        int brackets = 0;
        while (true)
        {
            SkipSpace();
            if (_position >= _source.Length)
                throw Fail($"the tag that begins here does not end with '{end}'", LineOf(open));
            char c = _source[_position];
            bool signed = c is '-' or '+' && At(end, _position + 1) && (isBlock || c == '-');
            if (brackets == 0 && (signed || At(end, _position)))
            {
                Add(isBlock ? JinjaTokenKind.BlockEnd : JinjaTokenKind.VariableEnd, "");
                _position += signed ? 1 : 0;
                EndTag(end, signed ? c : '\0', trimNewline: isBlock);
                return;
            }
            if (c is '\'' or '"')
                LexString(c);
            else if (char.IsAsciiDigit(c))
                LexNumber();
            else if (char.IsLetter(c) || c == '_')
                LexName();
            else
                brackets = Math.Max(0, brackets + LexOperator());
        }
    }

    /// <summary>Past the end of a tag, and the white space that belongs to it.</summary>
    private void EndTag(string end, char sign, bool trimNewline)
    {
        if (!TryTake(end))
            throw Fail($"expected '{end}'");
        if (sign == '-')
            SkipSpace();
        else if (sign != '+' && trimNewline)
            TryTake("\n");
    }

    private void LexString(char quote)
    {
        var text = new StringBuilder();
        int i = _position + 1;
        for (; i < _source.Length && _source[i] != quote; i++)
        {
            if (_source[i] == '\\' && i + 1 < _source.Length)
                i = Unescape(i + 1, text);
            else
                text.Append(_source[i]);
        }
        if (i >= _source.Length)
            throw Fail("the string that begins here does not end");
        Add(JinjaTokenKind.String, text.ToString());
        _position = i + 1;
    }

    /// <summary>Reads the escape whose letter is at an index, as Python does, and gives the index of its last character.</summary>
    private int Unescape(int index, StringBuilder text)
    {
        const string Letters = "ntrabfv0\\'\"", Meanings = "\n\t\r\a\b\f\v\0\\'\"";
        char c = _source[index];
        if (Letters.IndexOf(c) is >= 0 and var known)
        {
            text.Append(Meanings[known]);
            return index;
        }
        int digits = c switch { 'x' => 2, 'u' => 4, 'U' => 8, _ => 0 };
        if (digits > 0)
        {
            var hex = _source.AsSpan(index + 1, Math.Min(digits, _source.Length - index - 1));
            if (hex.Length < digits
                || !int.TryParse(hex, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out int code)
                || !(Rune.IsValid(code) || digits == 4))
                throw Fail($"'\\{c}' needs {digits} hexadecimal digits of a character");
            text.Append(digits == 4 ? ((char)code).ToString() : new Rune(code).ToString());
            return index + digits;
        }
        if (c != '\n') // a backslash at the end of a line joins the lines; another one is a backslash
            text.Append('\\').Append(c);
        return index;
    }

    private void LexNumber()
    {
        int start = _position;
        TakeDigits();
        bool isReal = _position + 1 < _source.Length && _source[_position] == '.' && char.IsAsciiDigit(_source[_position + 1]);
        if (isReal)
        {
            _position++;
            TakeDigits();
        }
        if (_position < _source.Length && _source[_position] is 'e' or 'E')
        {
            int mark = _position++;
            if (_position < _source.Length && _source[_position] is '+' or '-')
                _position++;
            bool hasDigits = _position < _source.Length && char.IsAsciiDigit(_source[_position]);
            isReal |= hasDigits;
            _position = hasDigits ? _position : mark;
            if (hasDigits)
                TakeDigits();
        }
        string text = _source[start.._position].Replace("_", "", StringComparison.Ordinal);
        if (isReal)
            Add(JinjaTokenKind.Number, text, double.Parse(text, CultureInfo.InvariantCulture));
        else if (long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out long number))
            Add(JinjaTokenKind.Number, text, number);
        else
            throw Fail($"the number {Texts.Shorten(text)} is too large");
    }

    private void TakeDigits()
    {
        while (_position < _source.Length && (char.IsAsciiDigit(_source[_position]) || _source[_position] == '_'))
            _position++;
    }

    private void LexName()
    {
        int start = _position;
        while (_position < _source.Length && (char.IsLetterOrDigit(_source[_position]) || _source[_position] == '_'))
            _position++;
        if (_position - start > MaximumNameLength)
            throw Fail($"the name {Texts.Shorten(_source[start.._position])} has more than {MaximumNameLength} characters");
        Add(JinjaTokenKind.Name, _source[start.._position]);
    }

    /// <returns>1 for an opening bracket, −1 for a closing one, otherwise 0.</returns>
    private int LexOperator()
    {
        string symbol = Array.Find(s_operators, o => At(o, _position)) ?? throw Fail($"unexpected character '{_source[_position]}'");
        Add(JinjaTokenKind.Operator, symbol);
        _position += symbol.Length;
        return symbol is "(" or "[" or "{" ? 1 : symbol is ")" or "]" or "}" ? -1 : 0;
    }

    /// <summary>Takes a word, with the white space around it, if it stands here.</summary>
    private bool TryWord(string word)
    {
        int before = _position;
        SkipSpace();
        int end = _position + word.Length;
        if (At(word, _position) && (end >= _source.Length || !(char.IsLetterOrDigit(_source[end]) || _source[end] == '_')))
        {
            _position = end;
            SkipSpace();
            return true;
        }
        _position = before;
        return false;
    }

    private bool TryTake(string text)
    {
        if (!At(text, _position))
            return false;
        _position += text.Length;
        return true;
    }

    private bool At(string text, int index) => string.CompareOrdinal(_source, index, text, 0, text.Length) == 0;

    private void SkipSpace()
    {
        while (_position < _source.Length && JinjaText.IsSpace(_source[_position]))
            _position++;
    }

    private void AddData(string data)
    {
        if (data.Length > 0)
            Add(JinjaTokenKind.Data, data);
    }

    private void Add(JinjaTokenKind kind, string text, object? number = null) => _tokens.Add(new(kind, text, LineOf(_position), number));

    private int LineOf(int index)
    {
        if (index < _lineCountedTo)
            return 1 + _source.AsSpan(0, index).Count('\n');
        _line += _source.AsSpan(_lineCountedTo, index - _lineCountedTo).Count('\n');
        _lineCountedTo = index;
        return _line;
    }

    private JinjaException Fail(string message, int? line = null) =>
        new(message, line ?? LineOf(Math.Min(_position, _source.Length)));
}
