using Microsoft.ML;
using Microsoft.ML.Runtime;
using ML.Rlhf.Bridge;

namespace ML.Rlhf.Tests.Bridge;

public sealed class HostInfoTests
{
    [Theory]
    [InlineData(7)]
    [InlineData(null)]
    public void The_seed_of_a_context_is_known_to_it_and_its_hosts(int? seed)
    {
        var ml = new MLContext(seed);

        Assert.Equal(seed, HostInfo.Seed(ml));
        Assert.Equal(seed, HostInfo.Seed(((IHostEnvironment)ml).Register("Trainer")));
        Assert.Equal(seed, HostInfo.Seed(HostInfo.Of(ml.Data)));
    }

    [Fact]
    public void Device_settings_reach_the_hosts_that_are_registered_after_them()
    {
        var ml = new MLContext();
        Assert.Null(HostInfo.GpuDeviceId(ml));
        Assert.False(HostInfo.FallbackToCpu(ml));

        ml.GpuDeviceId = 1;
        ml.FallbackToCpu = true;

        foreach (var env in new[] { ml, HostInfo.Of(ml.Data), ((IHostEnvironment)ml).Register("Trainer") })
        {
            Assert.Equal(1, HostInfo.GpuDeviceId(env));
            Assert.True(HostInfo.FallbackToCpu(env));
        }
    }

    [Fact]
    public void Cancelling_reaches_the_context_and_the_hosts_that_are_registered_before_it()
    {
        var ml = new MLContext();
        var host = ((IHostEnvironment)ml).Register("Trainer");
        var inner = host.Register("Optimizer");
        Assert.False(HostInfo.IsCanceled(ml));
        Assert.False(HostInfo.IsCanceled(inner));

        Cancel(ml);

        Assert.True(HostInfo.IsCanceled(ml));
        Assert.True(HostInfo.IsCanceled(HostInfo.Of(ml.Data)));
        Assert.True(HostInfo.IsCanceled(host));
        Assert.True(HostInfo.IsCanceled(inner));
    }

    [Fact]
    public void A_host_of_the_data_catalog_logs_through_the_context()
    {
        var ml = new MLContext();
        var messages = new List<string>();
        ml.Log += (_, e) => messages.Add(e.Message);

        using (var channel = HostInfo.Of(ml.Data).Register("JsonLines").Start("Reading"))
            channel.Warning(MessageSensitivity.None, "one bad line");

        Assert.Contains(messages, message => message.Contains("one bad line", StringComparison.Ordinal));
    }

    /// <summary>What AutoML calls when its time is over.</summary>
    private static void Cancel(MLContext ml) =>
        typeof(MLContext).GetMethod("CancelExecution", System.Reflection.BindingFlags.Instance | System.Reflection.BindingFlags.NonPublic)!
            .Invoke(ml, null);
}
