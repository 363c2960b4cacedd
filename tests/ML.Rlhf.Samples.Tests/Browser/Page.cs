using PuppeteerSharp;
using PuppeteerSharp.Media;

namespace ML.Rlhf.Samples.Tests.Browser;

/// <summary>A page in a real browser, and what a person would notice of its layout.</summary>
internal sealed class Page : IAsyncDisposable
{
    private readonly IBrowser _browser;
    private readonly IPage _page;

    private Page(IBrowser browser, IPage page) => (_browser, _page) = (browser, page);

    /// <summary>What the page asked for beside itself, and what the browser's console said.</summary>
    public List<string> Complaints { get; } = [];

    /// <summary>Opens a file. The test is skipped where no Chromium is installed.</summary>
    /// <param name="file">An HTML file.</param>
    /// <param name="isDark">The color scheme that the person prefers.</param>
    /// <param name="width">Width of the window in pixels.</param>
    public static async Task<Page> Open(string file, bool isDark, int width)
    {
        string? chromium = new[] { "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome" }.FirstOrDefault(File.Exists);
        Assert.SkipWhen(chromium is null, "No Chromium is installed: install the package chromium to run this test.");
        var browser = await Puppeteer.LaunchAsync(new LaunchOptions
        {
            ExecutablePath = chromium,
            Headless = true,
            Args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                "--disable-component-update", "--disable-sync"],
        });
        var page = new Page(browser, await browser.NewPageAsync());
        page._page.Console += (_, e) => page.Complaints.Add(e.Message.Text);
        page._page.PageError += (_, e) => page.Complaints.Add(e.Message);
        page._page.Request += (_, e) =>
        {
            if (!e.Request.Url.StartsWith("file:", StringComparison.Ordinal))
                page.Complaints.Add(e.Request.Url);
        };
        await page._page.EmulateMediaFeaturesAsync(
            [new MediaFeatureValue { MediaFeature = MediaFeature.PrefersColorScheme, Value = isDark ? "dark" : "light" }]);
        await page._page.SetViewportAsync(new ViewPortOptions { Width = width, Height = 900 });
        await page._page.GoToAsync(new Uri(file).AbsoluteUri);
        return page;
    }

    /// <summary>By how many pixels the page is wider than its window.</summary>
    public Task<int> Overflow() => _page.EvaluateExpressionAsync<int>("document.documentElement.scrollWidth - window.innerWidth");

    public Task<string[]> Texts(string selector) => _page.EvaluateFunctionAsync<string[]>(
        "selector => [...document.querySelectorAll(selector)].map(e => e.textContent)", selector);

    /// <summary>Labels of charts that are cut off, or stand on each other.</summary>
    public Task<string[]> BadLabels() => _page.EvaluateFunctionAsync<string[]>(
        """
        () => [...document.querySelectorAll('svg')].flatMap(svg => {
          const frame = svg.getBoundingClientRect();
          const labels = [...svg.querySelectorAll('text')].map(t => ({ name: t.textContent, box: t.getBoundingClientRect() }));
          const cut = labels.filter(l => l.box.left < frame.left - 1 || l.box.right > frame.right + 1 || l.box.top < frame.top - 1
            || l.box.bottom > frame.bottom + 1).map(l => `'${l.name}' is cut off`);
          const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2;
          const crossed = labels.flatMap((a, i) => labels.slice(i + 1).filter(b => meet(a.box, b.box))
            .map(b => `'${a.name}' stands on '${b.name}'`));
          return [...cut, ...crossed].map(problem => `${svg.getAttribute('aria-label')}: ${problem}`);
        })
        """);

    /// <summary>The least contrast of a text and what is behind it (WCAG 2.1: 4.5 is legible), with the text.</summary>
    public Task<string> LeastContrast() => _page.EvaluateFunctionAsync<string>(
        """
        () => {
          const rgb = color => (color.match(/[\d.]+/g) ?? []).map(Number);
          const luminance = c => { const [r, g, b] = c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b; };
          const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
            if (c.length === 3) return c; } return [255, 255, 255]; };
          const all = [...document.querySelectorAll('h1,h2,p,dt,dd,td,th,li,summary,text')].filter(e => e.textContent.trim()).map(e => {
            const style = getComputedStyle(e), back = behind(e), isLabel = e.tagName === 'text';
            const opacity = isLabel ? Number(style.fillOpacity) : 1;
            const front = rgb(isLabel ? style.fill : style.color).slice(0, 3).map((v, i) => v * opacity + back[i] * (1 - opacity));
            const [a, b] = [luminance(front), luminance(back)].sort((x, y) => y - x);
            return { contrast: (a + .05) / (b + .05), text: e.textContent };
          });
          const least = all.sort((a, b) => a.contrast - b.contrast)[0];
          return `${least.contrast.toFixed(2)} ${least.text}`;
        }
        """);

    /// <summary>A picture of the whole page.</summary>
    public Task Screenshot(string file) => _page.ScreenshotAsync(file, new ScreenshotOptions { FullPage = true });

    public async ValueTask DisposeAsync()
    {
        await _page.DisposeAsync();
        await _browser.DisposeAsync();
    }
}
