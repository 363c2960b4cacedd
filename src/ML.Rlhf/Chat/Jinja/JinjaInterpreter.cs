using System.Runtime.CompilerServices;

namespace ML.Rlhf.Jinja;

/// <summary>Walks a template. One for each rendering.</summary>
internal sealed class JinjaInterpreter(JinjaBudget budget, TimeProvider clock)
{
    private const int MaximumDepth = 200, MaximumRange = 100_000;

    private JinjaTextBuilder _output = new();
    private Origin _origin;
    private int _depth;
    private int _loops;
    private int _line = 1;

    private enum Flow
    {
        Next,
        Break,
        Continue,
    }

    public JinjaText Render(IReadOnlyList<JinjaStatement> body, IEnumerable<KeyValuePair<string, object?>> variables)
    {
        var globals = new Scope(null);
        globals.Set("range", new Callable(Range));
        globals.Set("namespace", new Callable(arguments => new Namespace(new Dictionary<string, object?>(arguments.Named))));
        globals.Set("dict", new Callable(arguments => new Mapping(
            new(arguments.Named.Select(pair => KeyValuePair.Create((object)new JinjaText(pair.Key), pair.Value))))));
        globals.Set("raise_exception", new Callable(arguments => throw new JinjaException(
            $"the template says: {Python.AsText(arguments.Get(0, "message")).Value}")));
        globals.Set("strftime_now", new Callable(Now));
        foreach (var (name, value) in variables)
            globals.Set(name, value);
        try
        {
            Run(body, new Scope(globals));
            return _output.ToText();
        }
        catch (JinjaException e) when (e.Line is null)
        {
            throw new JinjaException(e.Message, _line);
        }
    }

    // ---- Statements ----

    private Flow Run(IReadOnlyList<JinjaStatement> body, Scope scope)
    {
        foreach (var statement in body)
        {
            budget.Spend(1);
            var flow = Run(statement, scope);
            if (flow != Flow.Next)
                return flow;
        }
        return Flow.Next;
    }

    private Flow Run(JinjaStatement statement, Scope scope)
    {
        using var _ = Nest();
        switch (statement)
        {
            case Data data:
                Write(data.Text);
                break;
            case Output output:
                object? value = Evaluate(output.Expression, scope);
                budget.SpendOn(value);
                Write(Python.AsText(value));
                break;
            case If choice:
                var branch = choice.Branches.FirstOrDefault(branch => Python.IsTrue(Evaluate(branch.Condition, scope)));
                return Run(branch.Body ?? choice.Else, scope);
            case For loop:
                return RunLoop(loop, scope);
            case Jump jump:
                return jump.LeavesLoop ? Flow.Break : Flow.Continue;
            case SetNames set:
                Assign(set.Targets, Evaluate(set.Value, scope), scope);
                break;
            case SetAttribute set:
                if (Evaluate(set.Target, scope) is not Namespace space)
                    throw new JinjaException($"'{set.Target.Identifier}' is no namespace, so '{set.Attribute}' cannot be set");
                space.Attributes[set.Attribute] = Evaluate(set.Value, scope);
                break;
            case SetBlock set:
                scope.Set(set.Target, ApplyFilters(set.Filters, Capture(set.Body, scope), scope));
                break;
            case Macro macro:
                scope.Set(macro.MacroName, new Callable(arguments => Invoke(macro, arguments, scope)));
                break;
            case CallBlock block:
                var inner = new Scope(scope);
                inner.Set("caller", new Callable(arguments => Invoke(block.Caller, arguments, scope)));
                Write(Python.AsText(Evaluate(block.Call, inner, caller: inner.Find("caller"))));
                break;
            case FilterBlock block:
                Write(Python.AsText(ApplyFilters(block.Filters, Capture(block.Body, scope), scope)));
                break;
            case With with:
                var variables = new Scope(scope);
                foreach (var variable in with.Variables)
                    variables.Set(variable.Name, Evaluate(variable.Value, scope));
                return Run(with.Body, variables);
            case Generation generation:
                return RunGeneration(generation, scope);
        }
        return Flow.Next;
    }

    private Flow RunLoop(For loop, Scope scope)
    {
        var items = JinjaOperators.Iterate(Evaluate(loop.Items, scope), budget);
        if (loop.Condition is { } condition)
            items = [.. items.Where(item => Python.IsTrue(Evaluate(condition, ScopeOf(item))))];
        _loops++;
        for (int i = 0; i < items.Count; i++)
        {
            budget.Spend(1);
            var body = ScopeOf(items[i]);
            body.Set("loop", new LoopState(items, i, _loops));
            if (Run(loop.Body, body) == Flow.Break)
                break;
        }
        _loops--;
        return items.Count == 0 ? Run(loop.Else, new Scope(scope)) : Flow.Next;

        Scope ScopeOf(object? item)
        {
            var body = new Scope(scope);
            Assign(loop.Targets, item, body);
            return body;
        }
    }

    /// <summary>What a block writes comes from the assistant.</summary>
    private Flow RunGeneration(Generation generation, Scope scope)
    {
        var outer = _origin;
        _origin |= Origin.Assistant;
        var flow = Run(generation.Body, new Scope(scope));
        _origin = outer;
        return flow;
    }

    private void Assign(IReadOnlyList<string> targets, object? value, Scope scope)
    {
        if (targets.Count == 1)
        {
            scope.Set(targets[0], value);
            return;
        }
        var items = JinjaOperators.Iterate(value, budget);
        if (items.Count != targets.Count)
            throw new JinjaException($"{items.Count} values cannot be given to {targets.Count} names");
        for (int i = 0; i < items.Count; i++)
            scope.Set(targets[i], items[i]);
    }

    private void Write(JinjaText text)
    {
        budget.Spend(text.Value.Length);
        _output.Append(text, _origin);
    }

    /// <summary>What statements write, kept for other use.</summary>
    private JinjaText Capture(IReadOnlyList<JinjaStatement> body, Scope scope)
    {
        var outer = _output;
        _output = new JinjaTextBuilder();
        Run(body, new Scope(scope));
        var captured = _output.ToText();
        _output = outer;
        return captured;
    }

    private JinjaText Invoke(Macro macro, JinjaArguments arguments, Scope definedIn)
    {
        if (arguments.Positional.Count > macro.Parameters.Count)
            throw new JinjaException($"the macro '{macro.MacroName}' takes {macro.Parameters.Count} arguments, not " +
                $"{arguments.Positional.Count}");
        var scope = new Scope(definedIn);
        if (arguments.Named.TryGetValue("caller", out object? caller))
            scope.Set("caller", caller);
        for (int i = 0; i < macro.Parameters.Count; i++)
        {
            var (name, otherwise) = macro.Parameters[i];
            scope.Set(name, arguments.TryGet(i, name, out object? value) ? value
                : otherwise is not null ? Evaluate(otherwise, scope)
                : new Undefined($"the parameter '{name}'"));
        }
        return Capture(macro.Body, scope);
    }

    // ---- Expressions ----

    private object? Evaluate(JinjaExpression expression, Scope scope, object? caller = null)
    {
        using var _ = Nest();
        budget.Spend(1);
        _line = expression.Line;
        switch (expression)
        {
            case Literal literal:
                return literal.Value;
            case Name name:
                return scope.Find(name.Identifier);
            case ListLiteral list:
                return new Sequence([.. list.Items.Select(item => Evaluate(item, scope))], list.IsTuple);
            case DictLiteral dictionary:
                return EvaluateDictionary(dictionary, scope);
            case Unary unary:
                return EvaluateUnary(unary, scope);
            case Binary binary:
                return EvaluateBinary(binary, scope);
            case Comparison comparison:
                return EvaluateComparison(comparison, scope);
            case Conditional conditional:
                return Python.IsTrue(Evaluate(conditional.Condition, scope)) ? Evaluate(conditional.Then, scope)
                    : conditional.Else is { } otherwise ? Evaluate(otherwise, scope)
                    : new Undefined("the value of an 'if' without 'else'");
            case AttributeOf attribute:
                return Attribute(Evaluate(attribute.Target, scope), attribute.Attribute);
            case ItemOf item:
                return EvaluateItem(Evaluate(item.Target, scope), Evaluate(item.Key, scope));
            case SliceOf slice:
                return EvaluateSlice(slice, scope);
            case Filter filter:
                return JinjaFilters.Apply(
                    filter.FilterName, Evaluate(filter.Target!, scope), EvaluateArguments(filter.Arguments, scope), budget);
            case Test test:
                object? subject = Evaluate(test.Target, scope);
                return JinjaTests.Apply(test.TestName, subject, EvaluateArguments(test.Arguments, scope), budget);
            case Call call:
                return EvaluateCall(call, scope, caller);
            default:
                throw new JinjaException("this expression is not supported");
        }
    }

    private Mapping EvaluateDictionary(DictLiteral dictionary, Scope scope)
    {
        var items = new OrderedDictionary<object, object?>();
        foreach (var (name, value) in dictionary.Items)
        {
            object key = Evaluate(name, scope) ?? throw new JinjaException("a key cannot be none");
            budget.SpendOn(key);
            items[key] = Evaluate(value, scope);
        }
        return new Mapping(items);
    }

    private object? EvaluateUnary(Unary unary, Scope scope)
    {
        object? operand = Evaluate(unary.Operand, scope);
        return unary.Operator == "not" ? !Python.IsTrue(operand) : JinjaOperators.Arithmetic(unary.Operator, 0L, operand, budget);
    }

    private object? EvaluateBinary(Binary binary, Scope scope)
    {
        object? left = Evaluate(binary.Left, scope);
        if (binary.Operator is "and" or "or")
            return Python.IsTrue(left) == (binary.Operator == "or") ? left : Evaluate(binary.Right, scope);
        object? right = Evaluate(binary.Right, scope);
        if (binary.Operator != "~")
            return JinjaOperators.Arithmetic(binary.Operator, left, right, budget);
        budget.SpendOn(left, right);
        return JinjaText.Concat(Python.AsText(left), Python.AsText(right));
    }

    private object EvaluateComparison(Comparison comparison, Scope scope)
    {
        object? left = Evaluate(comparison.First, scope);
        foreach (var (symbol, operand) in comparison.Rest)
        {
            object? right = Evaluate(operand, scope);
            budget.SpendOnSearch(left, right);
            bool holds = symbol switch
            {
                "==" => Python.AreEqual(left, right),
                "!=" => !Python.AreEqual(left, right),
                "in" => JinjaOperators.Contains(right, left),
                "not in" => !JinjaOperators.Contains(right, left),
                "<" => Python.Compare(left, right) < 0,
                "<=" => Python.Compare(left, right) <= 0,
                ">" => Python.Compare(left, right) > 0,
                _ => Python.Compare(left, right) >= 0,
            };
            if (!holds)
                return false;
            left = right;
        }
        return true;
    }

    /// <summary>Finding a character goes through the text, and finding a key through the key.</summary>
    private object? EvaluateItem(object? target, object? key)
    {
        foreach (object? value in new[] { target, key })
            budget.Spend(value is JinjaText text ? text.Value.Length : 0);
        return JinjaOperators.Item(target, key);
    }

    private object EvaluateSlice(SliceOf slice, Scope scope)
    {
        object? target = Evaluate(slice.Target, scope);
        budget.Spend(target switch { JinjaText text => text.Value.Length, Sequence list => list.Items.Count, _ => 1 });
        return JinjaOperators.Slice(target, Bound(slice.Start), Bound(slice.Stop), Bound(slice.Step));

        object? Bound(JinjaExpression? bound) => bound is null ? null : Evaluate(bound, scope);
    }

    private object? EvaluateCall(Call call, Scope scope, object? caller)
    {
        object? target = Evaluate(call.Target, scope);
        var arguments = EvaluateArguments(call.Arguments, scope);
        if (caller is not null)
            arguments = arguments with { Named = new Dictionary<string, object?>(arguments.Named) { ["caller"] = caller } };
        _line = call.Line;
        return target switch
        {
            Callable callable => callable.Invoke(arguments),
            Undefined undefined => throw new JinjaException($"{undefined.Description} is undefined, or not supported as a function"),
            _ => throw new JinjaException($"{Python.TypeName(target)} cannot be called"),
        };
    }

    private JinjaArguments EvaluateArguments(CallArguments arguments, Scope scope) => ReferenceEquals(arguments, CallArguments.None)
        ? JinjaArguments.None
        : new JinjaArguments(
            [.. arguments.Positional.Select(argument => Evaluate(argument, scope))],
            arguments.Named.ToDictionary(argument => argument.Name, argument => Evaluate(argument.Value, scope)));

    private object? ApplyFilters(IReadOnlyList<Filter> filters, JinjaText text, Scope scope) => filters.Aggregate(
        (object?)text,
        (value, filter) => JinjaFilters.Apply(filter.FilterName, value, EvaluateArguments(filter.Arguments, scope), budget));

    private object? Attribute(object? target, string name) => target switch
    {
        LoopState loop => LoopAttribute(loop, name),
        _ => JinjaMethods.Find(target, name, budget) ?? JinjaOperators.Item(target, new JinjaText(name)),
    };

    private object? LoopAttribute(LoopState loop, string name)
    {
        int count = loop.Items.Count;
        return name switch
        {
            "index" => loop.Index + 1L,
            "index0" => (long)loop.Index,
            "first" => loop.Index == 0,
            "last" => loop.Index == count - 1,
            "length" => (long)count,
            "revindex" => (long)count - loop.Index,
            "revindex0" => count - loop.Index - 1L,
            "depth" => (long)loop.Depth,
            "depth0" => loop.Depth - 1L,
            "previtem" => loop.Index > 0 ? loop.Items[loop.Index - 1] : new Undefined("the item before the first"),
            "nextitem" => loop.Index < count - 1 ? loop.Items[loop.Index + 1] : new Undefined("the item after the last"),
            "cycle" => new Callable(arguments => arguments.Positional.Count > 0
                ? arguments.Positional[loop.Index % arguments.Positional.Count]
                : throw new JinjaException("'cycle' needs items")),
            _ => throw new JinjaException($"'loop.{name}' is not supported"),
        };
    }

    private Sequence Range(JinjaArguments arguments)
    {
        bool single = arguments.Positional.Count == 1;
        long start = single ? 0 : arguments.Integer(0, "start", 0), stop = arguments.Integer(single ? 0 : 1, "stop", 0);
        long step = arguments.Integer(2, "step", 1);
        if (step == 0)
            throw new JinjaException("a range cannot have step 0");
        var count = Int128.Max(0, ((Int128)stop - start + step - Math.Sign(step)) / step);
        if (count > MaximumRange)
            throw new JinjaException($"a range has {count} items, more than {MaximumRange}");
        budget.Spend((double)count);
        return new Sequence([.. Enumerable.Range(0, (int)count).Select(i => (object?)(start + i * step))]);
    }

    private JinjaText Now(JinjaArguments arguments)
    {
        object? format = arguments.Get(0, "format");
        budget.SpendOn(format);
        return new JinjaText(JinjaFormat.Date(Python.AsText(format).Value, clock.GetLocalNow()));
    }

    /// <summary>Counts how deep the rendering is in the template and its macros, until disposed.</summary>
    private Nesting Nest()
    {
        if (++_depth > MaximumDepth || !RuntimeHelpers.TryEnsureSufficientExecutionStack())
            throw new JinjaException($"expressions, blocks and macros stand more than {MaximumDepth} deep in each other");
        return new Nesting(this);
    }

    private readonly struct Nesting(JinjaInterpreter interpreter) : IDisposable
    {
        public void Dispose() => interpreter._depth--;
    }

    /// <summary>Names and their values; what is set inside of a loop or macro is gone after it.</summary>
    private sealed class Scope(Scope? outer)
    {
        private readonly Dictionary<string, object?> _values = [];

        public void Set(string name, object? value) => _values[name] = value;

        public object? Find(string name)
        {
            for (Scope? scope = this; scope is not null; scope = scope._outer)
            {
                if (scope._values.TryGetValue(name, out object? value))
                    return value;
            }
            return new Undefined($"'{name}'");
        }

        private readonly Scope? _outer = outer;
    }
}
