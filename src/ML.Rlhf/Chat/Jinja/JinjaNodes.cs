namespace ML.Rlhf.Jinja;

/// <summary>A parsed expression.</summary>
/// <param name="Line">Where it begins, from 1.</param>
internal abstract record JinjaExpression(int Line);

internal sealed record Literal(object? Value, int Line) : JinjaExpression(Line);

internal sealed record Name(string Identifier, int Line) : JinjaExpression(Line);

internal sealed record ListLiteral(IReadOnlyList<JinjaExpression> Items, bool IsTuple, int Line) : JinjaExpression(Line);

internal sealed record DictLiteral(IReadOnlyList<(JinjaExpression Key, JinjaExpression Value)> Items, int Line) : JinjaExpression(Line);

/// <summary>"-", "+" or "not" before an operand.</summary>
internal sealed record Unary(string Operator, JinjaExpression Operand, int Line) : JinjaExpression(Line);

/// <summary>An arithmetic operator, "~", "and" or "or" between two operands.</summary>
internal sealed record Binary(string Operator, JinjaExpression Left, JinjaExpression Right, int Line) : JinjaExpression(Line);

/// <summary>A chain: <c>a &lt; b &lt;= c</c>.</summary>
internal sealed record Comparison(
    JinjaExpression First, IReadOnlyList<(string Operator, JinjaExpression Operand)> Rest, int Line) : JinjaExpression(Line);

internal sealed record Conditional(JinjaExpression Condition, JinjaExpression Then, JinjaExpression? Else, int Line)
    : JinjaExpression(Line);

internal sealed record AttributeOf(JinjaExpression Target, string Attribute, int Line) : JinjaExpression(Line);

internal sealed record ItemOf(JinjaExpression Target, JinjaExpression Key, int Line) : JinjaExpression(Line);

internal sealed record SliceOf(
    JinjaExpression Target, JinjaExpression? Start, JinjaExpression? Stop, JinjaExpression? Step, int Line) : JinjaExpression(Line);

internal sealed record Call(JinjaExpression Target, CallArguments Arguments, int Line) : JinjaExpression(Line);

/// <summary>A filter on its target; that of a filter block is what the block writes, and null here.</summary>
internal sealed record Filter(JinjaExpression? Target, string FilterName, CallArguments Arguments, int Line) : JinjaExpression(Line);

internal sealed record Test(JinjaExpression Target, string TestName, CallArguments Arguments, int Line) : JinjaExpression(Line);

internal sealed record CallArguments(
    IReadOnlyList<JinjaExpression> Positional, IReadOnlyList<(string Name, JinjaExpression Value)> Named)
{
    public static readonly CallArguments None = new([], []);
}

/// <summary>A parsed statement.</summary>
internal abstract record JinjaStatement;

internal sealed record Data(JinjaText Text) : JinjaStatement;

internal sealed record Output(JinjaExpression Expression) : JinjaStatement;

internal sealed record If(
    IReadOnlyList<(JinjaExpression Condition, IReadOnlyList<JinjaStatement> Body)> Branches, IReadOnlyList<JinjaStatement> Else)
    : JinjaStatement;

internal sealed record For(
    IReadOnlyList<string> Targets, JinjaExpression Items, JinjaExpression? Condition, IReadOnlyList<JinjaStatement> Body,
    IReadOnlyList<JinjaStatement> Else) : JinjaStatement;

/// <summary>Leaves a loop, or goes on with its next item.</summary>
internal sealed record Jump(bool LeavesLoop) : JinjaStatement;

internal sealed record SetNames(IReadOnlyList<string> Targets, JinjaExpression Value) : JinjaStatement;

internal sealed record SetAttribute(Name Target, string Attribute, JinjaExpression Value) : JinjaStatement;

internal sealed record SetBlock(string Target, IReadOnlyList<Filter> Filters, IReadOnlyList<JinjaStatement> Body) : JinjaStatement;

internal sealed record Macro(
    string MacroName, IReadOnlyList<(string Name, JinjaExpression? Default)> Parameters, IReadOnlyList<JinjaStatement> Body)
    : JinjaStatement;

/// <summary>Calls a macro that can call the body back as <c>caller()</c>.</summary>
internal sealed record CallBlock(Call Call, Macro Caller) : JinjaStatement;

internal sealed record FilterBlock(IReadOnlyList<Filter> Filters, IReadOnlyList<JinjaStatement> Body) : JinjaStatement;

internal sealed record With(
    IReadOnlyList<(string Name, JinjaExpression Value)> Variables, IReadOnlyList<JinjaStatement> Body) : JinjaStatement;

/// <summary>What is rendered inside is what the assistant writes.</summary>
internal sealed record Generation(IReadOnlyList<JinjaStatement> Body) : JinjaStatement;
