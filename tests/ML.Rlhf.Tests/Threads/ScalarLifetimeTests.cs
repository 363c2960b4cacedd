using System.Buffers.Binary;
using System.Reflection;
using System.Reflection.Emit;
using ML.Rlhf.Bridge;
using ML.Rlhf.Torch;
using TorchSharp;

namespace ML.Rlhf.Tests.Threads;

/// <summary>TorchSharp forgets the scalars that it makes of numbers, and a collection frees them too early: TensorArithmetic.cs.</summary>
public sealed class ScalarLifetimeTests
{
    private static readonly Dictionary<short, OpCode> s_opCodes = typeof(OpCodes).GetFields()
        .Select(field => (OpCode)field.GetValue(null)!).ToDictionary(code => code.Value);

    private static readonly Lazy<HashSet<MethodBase>> s_unsafe = new(FindUnsafe);

    [Theory]
    [InlineData(typeof(TensorArithmetic))]
    [InlineData(typeof(TextGenerationTransformer))]
    [InlineData(typeof(ModelStore))]
    public void Nothing_but_TensorArithmetic_hands_a_number_to_libtorch(Type inAssembly)
    {
        var calls =
            from method in Methods(inAssembly.Assembly)
            where (method.DeclaringType!.DeclaringType ?? method.DeclaringType) != typeof(TensorArithmetic)
            from called in Calls(method)
            where s_unsafe.Value.Contains(called)
            select $"{method.DeclaringType}.{method.Name} calls {called.DeclaringType!.Name}.{called}";

        Assert.Empty(calls);
    }

    [Fact]
    public void TensorArithmetic_holds_all_scalars_that_it_makes()
    {
        var members = Methods(typeof(TensorArithmetic).Assembly)
            .Where(method => (method.DeclaringType!.DeclaringType ?? method.DeclaringType) == typeof(TensorArithmetic)).ToList();
        var calls = members.SelectMany(Calls).Where(s_unsafe.Value.Contains).Select(called => called.Name).Distinct();

        Assert.NotEmpty(members);
        Assert.Equal(["ToScalar"], calls);
    }

    [Fact]
    public void The_search_finds_what_TorchSharp_makes_scalars_in()
    {
        var names = s_unsafe.Value.Select(method => $"{method.DeclaringType!.Name}.{method}").ToList();

        Assert.Contains("Scalar.TorchSharp.Scalar op_Implicit(Double)", names);
        Assert.Contains("Tensor.Tensor op_Addition(Tensor, Tensor)", names); // by way of add(Tensor) and add(Tensor, Scalar)
        Assert.Contains("Tensor.Tensor square()", names);
        Assert.DoesNotContain("Tensor.Tensor op_Subtraction(Tensor, Tensor)", names);
    }

    /// <summary>What makes a scalar of a number or a tensor, or calls what does.</summary>
    private static HashSet<MethodBase> FindUnsafe()
    {
        var callers = (
            from method in Methods(typeof(Scalar).Assembly)
            from called in Calls(method)
            where called.DeclaringType?.Assembly == typeof(Scalar).Assembly
            select (Caller: method, Called: called)).ToLookup(call => call.Called, call => call.Caller);
        var found = new HashSet<MethodBase>(typeof(Scalar).GetConstructors(BindingFlags.Instance | BindingFlags.NonPublic));
        var queue = new Queue<MethodBase>(found);
        while (queue.TryDequeue(out var called))
        {
            foreach (var caller in callers[called].Where(found.Add))
                queue.Enqueue(caller);
        }
        return found;
    }

    private static IEnumerable<MethodBase> Methods(Assembly assembly)
    {
        const BindingFlags Declared =
            BindingFlags.Static | BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.DeclaredOnly;
        return assembly.GetTypes().SelectMany(type => type.GetMethods(Declared).Concat<MethodBase>(type.GetConstructors(Declared)));
    }

    /// <summary>The methods that a method's code names.</summary>
    private static IEnumerable<MethodBase> Calls(MethodBase method)
    {
        byte[] code = method.GetMethodBody()?.GetILAsByteArray() ?? [];
        for (int at = 0; at < code.Length;)
        {
            short value = code[at] == 0xFE ? (short)(0xFE00 | code[at + 1]) : code[at];
            var operation = s_opCodes[value];
            at += operation.Size;
            if (operation.OperandType is OperandType.InlineMethod or OperandType.InlineTok)
            {
                int token = BinaryPrimitives.ReadInt32LittleEndian(code.AsSpan(at));
                if (Resolve(method, token) is { } called)
                    yield return called;
            }
            at += operation.OperandType switch
            {
                OperandType.InlineNone => 0,
                OperandType.ShortInlineBrTarget or OperandType.ShortInlineI or OperandType.ShortInlineVar => 1,
                OperandType.InlineVar => 2,
                OperandType.InlineI8 or OperandType.InlineR => 8,
                OperandType.InlineSwitch => 4 + 4 * BinaryPrimitives.ReadInt32LittleEndian(code.AsSpan(at)),
                _ => 4,
            };
        }
    }

    private static MethodBase? Resolve(MethodBase method, int token)
    {
        var member = method.Module.ResolveMember(
            token, method.DeclaringType!.GetGenericArguments(), method.IsGenericMethod ? method.GetGenericArguments() : null);
        return member is MethodInfo { IsGenericMethod: true } generic ? generic.GetGenericMethodDefinition() : member as MethodBase;
    }
}
