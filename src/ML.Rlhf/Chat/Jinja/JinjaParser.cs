using System.Text;

namespace ML.Rlhf.Jinja;

/// <summary>
/// Recursive descent with Jinja's precedences: or, and, not, comparisons, + −, ~, * / // %, **, signs, filters and tests.
/// </summary>
internal sealed class JinjaParser
{
    private const int MaximumDepth = 100;

    // What follows a test and is not its argument.
    private static readonly string[] s_wordsAfterTests = ["else", "or", "and", "if", "is", "not", "in", "recursive"];

    private readonly List<JinjaToken> _tokens;
    private int _next;
    private int _depth;
    private int _loops;
    private bool _hasGeneration;

    private JinjaParser(List<JinjaToken> tokens) => _tokens = tokens;

    /// <returns>The statements, and whether a generation block is among them.</returns>
    /// <exception cref="JinjaException">The template is no Jinja, or uses what is not supported.</exception>
    public static (IReadOnlyList<JinjaStatement> Body, bool HasGeneration) Parse(string template)
    {
        var parser = new JinjaParser(JinjaLexer.Lex(template));
        return (parser.ParseBody([], out _), parser._hasGeneration);
    }

    // ---- Statements ----

    /// <summary>Statements up to a block that begins with one of some words; that word is taken.</summary>
    private List<JinjaStatement> ParseBody(string[] ends, out string end)
    {
        using var _ = Nest();
        var body = new List<JinjaStatement>();
        while (true)
        {
            var token = Take();
            switch (token.Kind)
            {
                case JinjaTokenKind.Data:
                    body.Add(new Data(new JinjaText(token.Text)));
                    break;
                case JinjaTokenKind.VariableBegin:
                    body.Add(new Output(ParseTuple()));
                    Expect(JinjaTokenKind.VariableEnd, "'}}'");
                    break;
                case JinjaTokenKind.BlockBegin:
                    string word = ExpectName();
                    if (ends.Contains(word))
                    {
                        end = word;
                        return body;
                    }
                    body.Add(ParseStatement(word));
                    break;
                default:
                    end = "";
                    return ends.Length == 0 ? body : throw Fail($"the template ends, but '{string.Join("' or '", ends)}' is missing");
            }
        }
    }

    private List<JinjaStatement> ParseBlockBody(string end)
    {
        EndBlock();
        var body = ParseBody([end], out _);
        EndBlock();
        return body;
    }

    private JinjaStatement ParseStatement(string word) => word switch
    {
        "if" => ParseIf(),
        "for" => ParseFor(),
        "set" => ParseSet(),
        "macro" => ParseMacro(ExpectName(), "endmacro"),
        "call" => ParseCall(),
        "filter" => new FilterBlock(ParseFilterChain(), ParseBlockBody("endfilter")),
        "with" => new With(ParseAssignments(), ParseBlockBody("endwith")),
        "generation" => ParseGeneration(),
        "break" or "continue" => ParseJump(word),
        "include" or "import" or "from" or "extends" or "block" => throw Fail(
            $"'{word}' is not supported: a chat template stands alone"),
        _ => throw Fail($"the statement '{word}' is unknown or stands where it has no meaning"),
    };

    private Generation ParseGeneration()
    {
        _hasGeneration = true;
        return new Generation(ParseBlockBody("endgeneration"));
    }

    private If ParseIf()
    {
        var branches = new List<(JinjaExpression, IReadOnlyList<JinjaStatement>)>();
        while (true)
        {
            var condition = ParseExpression();
            EndBlock();
            branches.Add((condition, ParseBody(["elif", "else", "endif"], out string end)));
            if (end == "elif")
                continue;
            EndBlock();
            IReadOnlyList<JinjaStatement> otherwise = [];
            if (end == "else")
            {
                otherwise = ParseBody(["endif"], out _);
                EndBlock();
            }
            return new If(branches, otherwise);
        }
    }

    private For ParseFor()
    {
        var targets = ParseTargets();
        ExpectSymbol("in");
        var items = ParseTuple(withConditional: false);
        var condition = TryTake("if") ? ParseExpression() : null;
        if (Peek.Is("recursive"))
            throw Fail("recursive loops are not supported");
        EndBlock();
        _loops++;
        var body = ParseBody(["else", "endfor"], out string end);
        _loops--;
        EndBlock();
        IReadOnlyList<JinjaStatement> otherwise = [];
        if (end == "else")
        {
            otherwise = ParseBody(["endfor"], out _);
            EndBlock();
        }
        return new For(targets, items, condition, body, otherwise);
    }

    private Jump ParseJump(string word)
    {
        if (_loops == 0)
            throw Fail($"'{word}' stands outside of a loop");
        EndBlock();
        return new Jump(word == "break");
    }

    private JinjaStatement ParseSet()
    {
        var target = Peek;
        var names = ParseTargets();
        if (names.Count == 1 && TryTake("."))
        {
            string attribute = ExpectName();
            ExpectSymbol("=");
            return Ended(new SetAttribute(new Name(names[0], target.Line), attribute, ParseTuple()));
        }
        if (TryTake("="))
            return Ended(new SetNames(names, ParseTuple()));
        if (names.Count > 1)
            throw Fail("expected '='");
        var filters = Peek.Is("|") ? ParseFilterChain(first: false) : [];
        return new SetBlock(names[0], filters, ParseBlockBody("endset"));
    }

    private Macro ParseMacro(string name, string end)
    {
        var parameters = Peek.Is("(") ? ParseParameters() : [];
        return new Macro(name, parameters, ParseMacroBody(end));
    }

    private CallBlock ParseCall()
    {
        var parameters = Peek.Is("(") ? ParseParameters() : [];
        if (ParseExpression() is not Call call)
            throw Fail("'call' must call a macro");
        return new CallBlock(call, new Macro("caller", parameters, ParseMacroBody("endcall")));
    }

    private List<JinjaStatement> ParseMacroBody(string end)
    {
        int loops = _loops; // a loop around a macro is not the macro's
        _loops = 0;
        var body = ParseBlockBody(end);
        _loops = loops;
        return body;
    }

    private List<(string, JinjaExpression?)> ParseParameters()
    {
        var parameters = new List<(string, JinjaExpression?)>();
        ExpectSymbol("(");
        while (!TryTake(")"))
        {
            if (parameters.Count > 0)
                ExpectSymbol(",");
            parameters.Add((ExpectName(), TryTake("=") ? ParseExpression() : null));
        }
        return parameters;
    }

    private List<(string, JinjaExpression)> ParseAssignments()
    {
        var assignments = new List<(string, JinjaExpression)>();
        while (Peek.Kind != JinjaTokenKind.BlockEnd)
        {
            if (assignments.Count > 0)
                ExpectSymbol(",");
            string name = ExpectName();
            ExpectSymbol("=");
            assignments.Add((name, ParseExpression()));
        }
        return assignments;
    }

    private List<string> ParseTargets()
    {
        bool parenthesized = TryTake("(");
        var names = new List<string> { ExpectName() };
        while (TryTake(","))
            names.Add(ExpectName());
        if (parenthesized)
            ExpectSymbol(")");
        return names;
    }

    private T Ended<T>(T statement)
    {
        EndBlock();
        return statement;
    }

    // ---- Expressions ----

    /// <summary>An expression, or several with commas between them, which are a tuple.</summary>
    private JinjaExpression ParseTuple(bool withConditional = true)
    {
        int line = Peek.Line;
        var first = Item();
        if (!Peek.Is(","))
            return first;
        var items = new List<JinjaExpression> { first };
        while (TryTake(","))
        {
            if (Peek.Kind is JinjaTokenKind.VariableEnd or JinjaTokenKind.BlockEnd || Peek.Is(")"))
                break;
            items.Add(Item());
        }
        return new ListLiteral(items, IsTuple: true, line);

        JinjaExpression Item() => withConditional ? ParseExpression() : ParseOr();
    }

    private JinjaExpression ParseExpression()
    {
        using var _ = Nest();
        int line = Peek.Line;
        var expression = ParseOr();
        while (TryTake("if"))
        {
            var condition = ParseOr();
            expression = new Conditional(condition, expression, TryTake("else") ? ParseExpression() : null, line);
        }
        return expression;
    }

    private JinjaExpression ParseOr() => ParseLeft(ParseAnd, "or");

    private JinjaExpression ParseAnd() => ParseLeft(ParseNot, "and");

    private JinjaExpression ParseNot()
    {
        using var _ = Nest();
        int line = Peek.Line;
        return TryTake("not") ? new Unary("not", ParseNot(), line) : ParseComparison();
    }

    private JinjaExpression ParseComparison()
    {
        int line = Peek.Line;
        var first = ParseSum();
        var rest = new List<(string, JinjaExpression)>();
        while (true)
        {
            var token = Peek;
            if (token.Kind == JinjaTokenKind.Operator && token.Text is "==" or "!=" or "<" or "<=" or ">" or ">=" || token.Is("in"))
                rest.Add((Take().Text, ParseSum()));
            else if (token.Is("not") && _tokens[_next + 1].Is("in"))
            {
                _next += 2;
                rest.Add(("not in", ParseSum()));
            }
            else
                return rest.Count == 0 ? first : new Comparison(first, rest, line);
        }
    }

    private JinjaExpression ParseSum() => ParseLeft(ParseConcatenation, "+", "-");

    private JinjaExpression ParseConcatenation() => ParseLeft(ParseProduct, "~");

    private JinjaExpression ParseProduct() => ParseLeft(ParsePower, "*", "/", "//", "%");

    private JinjaExpression ParsePower() => ParseLeft(() => ParseUnary(), "**");

    private JinjaExpression ParseLeft(Func<JinjaExpression> parseOperand, params ReadOnlySpan<string> operators)
    {
        int line = Peek.Line;
        var left = parseOperand();
        while (operators.Contains(Peek.Text) && Peek.Kind is JinjaTokenKind.Operator or JinjaTokenKind.Name)
            left = new Binary(Take().Text, left, parseOperand(), line);
        return left;
    }

    private JinjaExpression ParseUnary(bool withFilters = true)
    {
        using var _ = Nest();
        var token = Peek;
        var operand = token.Is("-") || token.Is("+")
            ? new Unary(Take().Text, ParseUnary(withFilters: false), token.Line)
            : ParsePrimary();
        operand = ParsePostfix(operand);
        return withFilters ? ParseFiltersAndTests(operand) : operand;
    }

    private JinjaExpression ParsePrimary()
    {
        var token = Take();
        switch (token.Kind)
        {
            case JinjaTokenKind.Name:
                return token.Text switch
                {
                    "true" or "True" => new Literal(true, token.Line),
                    "false" or "False" => new Literal(false, token.Line),
                    "none" or "None" => new Literal(null, token.Line),
                    _ => new Name(token.Text, token.Line),
                };
            case JinjaTokenKind.Number:
                return new Literal(token.Number, token.Line);
            case JinjaTokenKind.String:
                var text = new StringBuilder(token.Text);
                while (Peek.Kind == JinjaTokenKind.String)
                    text.Append(Take().Text);
                return new Literal(new JinjaText(text.ToString()), token.Line);
            case JinjaTokenKind.Operator when token.Text == "(":
                if (TryTake(")"))
                    return new ListLiteral([], IsTuple: true, token.Line);
                var inner = ParseTuple();
                ExpectSymbol(")");
                return inner;
            case JinjaTokenKind.Operator when token.Text == "[":
                return new ListLiteral(ParseItems(ParseExpression, "]"), IsTuple: false, token.Line);
            case JinjaTokenKind.Operator when token.Text == "{":
                return new DictLiteral(ParseItems(ParsePair, "}"), token.Line);
            default:
                _next--;
                throw Fail($"expected a value, but found {Describe(token)}");
        }
    }

    private (JinjaExpression, JinjaExpression) ParsePair()
    {
        var key = ParseExpression();
        ExpectSymbol(":");
        return (key, ParseExpression());
    }

    private List<T> ParseItems<T>(Func<T> parseItem, string end)
    {
        var items = new List<T>();
        while (!TryTake(end))
        {
            if (items.Count > 0)
            {
                ExpectSymbol(",");
                if (TryTake(end))
                    break;
            }
            items.Add(parseItem());
        }
        return items;
    }

    private JinjaExpression ParsePostfix(JinjaExpression target)
    {
        while (true)
        {
            var token = Peek;
            if (TryTake("."))
                target = Peek.Kind == JinjaTokenKind.Number
                    ? new ItemOf(target, new Literal(Take().Number, token.Line), token.Line)
                    : new AttributeOf(target, ExpectName(), token.Line);
            else if (TryTake("["))
                target = ParseSubscript(target, token.Line);
            else if (token.Is("("))
                target = new Call(target, ParseArguments(), token.Line);
            else
                return target;
        }
    }

    private JinjaExpression ParseSubscript(JinjaExpression target, int line)
    {
        JinjaExpression? start = Peek.Is(":") ? null : ParseExpression(), stop = null, step = null;
        if (TryTake("]"))
            return new ItemOf(target, start!, line);
        ExpectSymbol(":");
        if (!Peek.Is(":") && !Peek.Is("]"))
            stop = ParseExpression();
        if (TryTake(":") && !Peek.Is("]"))
            step = ParseExpression();
        ExpectSymbol("]");
        return new SliceOf(target, start, stop, step, line);
    }

    private CallArguments ParseArguments()
    {
        var positional = new List<JinjaExpression>();
        var named = new List<(string, JinjaExpression)>();
        ExpectSymbol("(");
        while (!TryTake(")"))
        {
            if (positional.Count + named.Count > 0)
            {
                ExpectSymbol(",");
                if (TryTake(")"))
                    break;
            }
            if (Peek.Is("*") || Peek.Is("**"))
                throw Fail("'*' before an argument is not supported");
            if (Peek.Kind == JinjaTokenKind.Name && _tokens[_next + 1].Is("="))
            {
                string name = Take().Text;
                if (named.Exists(argument => argument.Item1 == name))
                    throw Fail($"the argument '{name}' stands there twice");
                _next++;
                named.Add((name, ParseExpression()));
            }
            else if (named.Count > 0)
                throw Fail("an argument without a name stands after one with a name");
            else
                positional.Add(ParseExpression());
        }
        return new CallArguments(positional, named);
    }

    private JinjaExpression ParseFiltersAndTests(JinjaExpression target)
    {
        while (true)
        {
            if (TryTake("|"))
                target = ParseFilter(target);
            else if (TryTake("is"))
                target = ParseTest(target);
            else if (Peek.Is("("))
                target = new Call(target, ParseArguments(), Peek.Line);
            else
                return target;
        }
    }

    private Filter ParseFilter(JinjaExpression? target)
    {
        int line = Peek.Line;
        string name = ExpectName();
        if (!JinjaFilters.IsKnown(name))
            throw Fail($"the filter '{name}' is not supported");
        return new Filter(target, name, Peek.Is("(") ? ParseArguments() : CallArguments.None, line);
    }

    /// <param name="first">Whether the first filter stands without "|" before it.</param>
    private List<Filter> ParseFilterChain(bool first = true)
    {
        var filters = new List<Filter>();
        while (first || TryTake("|"))
        {
            filters.Add(ParseFilter(null));
            first = false;
        }
        return filters;
    }

    private JinjaExpression ParseTest(JinjaExpression target)
    {
        int line = Peek.Line;
        bool negated = TryTake("not");
        string name = ExpectName();
        if (!JinjaTests.IsKnown(name))
            throw Fail($"the test '{name}' is not supported");
        var arguments = CallArguments.None;
        if (Peek.Is("("))
            arguments = ParseArguments();
        else if (Peek.Kind is JinjaTokenKind.String or JinjaTokenKind.Number || Peek.Is("[") || Peek.Is("{")
            || Peek.Kind == JinjaTokenKind.Name && !s_wordsAfterTests.Contains(Peek.Text))
            arguments = new CallArguments([ParsePostfix(ParsePrimary())], []);
        var test = new Test(target, name, arguments, line);
        return negated ? new Unary("not", test, line) : test;
    }

    // ---- Tokens ----

    private JinjaToken Peek => _tokens[_next];

    private JinjaToken Take() => _tokens[_next < _tokens.Count - 1 ? _next++ : _next];

    private bool TryTake(string symbol)
    {
        if (!Peek.Is(symbol))
            return false;
        _next++;
        return true;
    }

    private void ExpectSymbol(string symbol)
    {
        if (!TryTake(symbol))
            throw Fail($"expected '{symbol}', but found {Describe(Peek)}");
    }

    private string ExpectName() => Expect(JinjaTokenKind.Name, "a name").Text;

    private void EndBlock() => Expect(JinjaTokenKind.BlockEnd, "'%}'");

    private JinjaToken Expect(JinjaTokenKind kind, string what) =>
        Peek.Kind == kind ? Take() : throw Fail($"expected {what}, but found {Describe(Peek)}");

    private static string Describe(JinjaToken token) => token.Kind switch
    {
        JinjaTokenKind.End => "the end of the template",
        JinjaTokenKind.BlockEnd => "'%}'",
        JinjaTokenKind.VariableEnd => "'}}'",
        JinjaTokenKind.String => $"the string '{Texts.Shorten(token.Text)}'",
        _ => $"'{Texts.Shorten(token.Text)}'",
    };

    private JinjaException Fail(string message) => new(message, Peek.Line);

    /// <summary>Counts how deep expressions and blocks stand in each other, until disposed.</summary>
    private Nesting Nest()
    {
        if (++_depth > 3 * MaximumDepth) // a pair of parentheses takes three
            throw Fail($"expressions and blocks stand more than {MaximumDepth} deep in each other");
        return new Nesting(this);
    }

    private readonly struct Nesting(JinjaParser parser) : IDisposable
    {
        public void Dispose() => parser._depth--;
    }
}
