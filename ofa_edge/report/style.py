"""How the page looks: palettes as data, and the style sheet made of them.

In: nothing. Out: CSS. Rules kept: colours are those of Okabe and Ito (2008), which readers with any colour vision can
tell apart, darkened on a light page until a line of them has a contrast of 3 to 1 or more; text has 4.5 to 1; nothing
is said by colour alone (series differ in the shape of their points and the dashes of their lines, kernels are written
in their blocks). Paper is light, whatever the screen is.
"""

from __future__ import annotations

SERIES = 6

# Name -> (on a light page, on a dark page).
PALETTE: dict[str, tuple[str, str]] = {
    "page": ("#ffffff", "#15181c"),
    "card": ("#f5f6f7", "#1e2228"),
    "ink": ("#1b1f24", "#e6e8eb"),
    "quiet": ("#565d66", "#a7aeb7"),
    "rule": ("#d5d9de", "#363c44"),
    "link": ("#0b5cad", "#7cc0f5"),
    "s0": ("#0072b2", "#56b4e9"),
    "s1": ("#c24f00", "#e69f00"),
    "s2": ("#00805c", "#12a67c"),
    "s3": ("#a0468a", "#e3a3c8"),
    "s4": ("#7a5c00", "#f0e442"),
    "s5": ("#4a4a4a", "#c8ccd1"),
}

# Fills of blocks by kernel, the same on both pages; what is written on them is BLOCK_INK.
KERNELS = {1: "#f0e442", 3: "#56b4e9", 5: "#e69f00", 7: "#009e73"}
OTHER_KERNEL = "#cc79a7"
FIXED_BLOCK = "#c8ccd1"
BLOCK_INK = "#14171a"

# Dashes of lines by series, so that they differ without colour.
DASHES = (None, "7 3", "2 3", "10 3 2 3", "1 2", "5 2 1 2 1 2")

_LAYOUT = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
.wrap{max-width:72rem;margin:0 auto;padding:1rem}
a{color:var(--link)}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:.5rem;background:var(--page);padding:.5rem 1rem;z-index:1}
li,p,h1,h2,h3{overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0}
h2{font-size:1.3rem;margin:2.5rem 0 .5rem;border-top:1px solid var(--rule);padding-top:1.5rem}
h3{font-size:1.05rem;margin:1.5rem 0 .5rem}
h4{font-size:.95rem;margin:0 0 .25rem}
p,ul,ol,dl{max-width:46rem;margin:.5rem 0}
nav ol{columns:2 18rem;padding-left:1.5rem}
.quiet,figcaption,caption{color:var(--quiet)}
.missing{border-left:4px solid var(--rule);padding:.25rem .75rem;color:var(--quiet)}
ul.missing{padding-left:1.75rem}
.warn{border-left:4px solid var(--s1);padding:.25rem .75rem}
code{font:.875em ui-monospace,"Cascadia Mono",Menlo,monospace;overflow-wrap:anywhere}
figure{margin:1rem 0;break-inside:avoid}
figcaption{font-size:.9rem;max-width:46rem;margin:.25rem 0 .5rem}
.grid{display:grid;gap:1.25rem 1.5rem;align-items:start}
.grid{grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}
.grid>*,.columns>*{min-width:0}
.grid figure{margin:0}
.grid svg{max-width:29rem}
.grid .card{max-width:36rem}
.columns{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-end}
.columns figure{margin:0;flex:1 1 9.25rem;max-width:14rem}
.card{background:var(--card);border:1px solid var(--rule);border-radius:.5rem;padding:.75rem 1rem;break-inside:avoid}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;list-style:none;padding:0;font-size:.9rem;max-width:none}
.legend li{display:flex;align-items:center}
.legend svg{flex:none;width:2.25rem;height:1rem;vertical-align:-.15rem;margin-right:.35rem}
svg{display:block;width:100%;height:auto;overflow:visible}
.narrow{display:none;max-width:32rem}
dl{margin:.5rem 0;font-size:.9rem}
dl div{display:grid;grid-template-columns:minmax(6.5rem,9rem) 1fr;gap:.5rem;padding:.1rem 0}
dt{color:var(--quiet)}
dd{margin:0;overflow-wrap:anywhere}
details{margin:.5rem 0}
summary{cursor:pointer;color:var(--link);font-size:.9rem;padding:.25rem 0}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;margin:.25rem 0 1rem}
caption{text-align:left;padding:.25rem 0}
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--rule);white-space:nowrap}
th,td{vertical-align:top}
th{color:var(--quiet);font-weight:600;white-space:normal}
.n{text-align:right}
.verdict{display:inline-block;border:2px solid var(--ink);border-radius:1rem;padding:0 .6rem;font-weight:600}
footer{font-size:.85rem}
.card h3{margin-top:0}
td code{display:inline-block;white-space:normal;min-width:17rem;max-width:36rem}
svg text{fill:var(--ink);font:12px system-ui,-apple-system,"Segoe UI",sans-serif}
svg .t{fill:var(--quiet)}
svg .u{font-size:11px}
svg .e{text-anchor:end}
svg .m{text-anchor:middle}
svg .g{stroke:var(--rule);stroke-width:1;fill:none}
svg .a{stroke:var(--quiet);stroke-width:1;fill:none}
svg .l{fill:none;stroke-width:2;stroke-linejoin:round}
svg .w{fill:none;stroke-width:1.5}
svg .b{stroke:none;opacity:.2}
svg .d{fill:none;stroke-width:2.8;stroke-linecap:round;opacity:.5}
svg .o{fill:var(--page)}
svg .k{stroke:var(--ink);stroke-width:1}
svg .h{fill:transparent;stroke:none}
svg .no{fill:var(--page);stroke:var(--ink);stroke-width:1.5}
svg .bl{font-size:10.5px}
svg .i{fill:none;stroke:var(--ink);stroke-width:1.25}
.p{cursor:default;outline:none}
.p .tip{visibility:hidden;pointer-events:none}
.p:hover .tip,.p:focus .tip{visibility:visible}
.p:focus-visible .h{stroke:var(--ink);stroke-width:2.5}
.tip rect{fill:var(--page);stroke:var(--ink);stroke-width:1}
"""

_NARROW = "@media (max-width:46rem){.wide{display:none}.narrow{display:block}}"
_PRINT = (
    "@media print{.skip,nav{display:none}.wrap{max-width:none;padding:0}body{font-size:11pt}"
    ".wide{display:block!important}.narrow{display:none!important}a{color:inherit}.card{background:none}}"
)


def css() -> str:
    """The whole style sheet."""
    light, dark = (":root{" + "".join(f"--{k}:{v[i]};" for k, v in PALETTE.items()) + "}" for i in (0, 1))
    series = "".join(f".s{i} .l,.s{i} .w,.s{i} .d{{stroke:var(--s{i})}}" for i in range(SERIES))
    series += "".join(f".s{i} .b,.s{i} .f{{fill:var(--s{i})}}" for i in range(SERIES))
    series += "".join(f".s{i} .o{{stroke:var(--s{i});stroke-width:1.75}}" for i in range(SERIES))
    kernels = "".join(f"svg .k{k}{{fill:{colour}}}" for k, colour in KERNELS.items())
    kernels += f"svg .kx{{fill:{OTHER_KERNEL}}}svg .kf{{fill:{FIXED_BLOCK}}}svg .bl{{fill:{BLOCK_INK}}}"
    written = (
        f"{light}@media (prefers-color-scheme:dark){{{dark}}}{_LAYOUT}{series}{kernels}{_NARROW}{_PRINT}"
        f"@media print{{{light}}}"
    )
    return written.replace("\n", "")


def kernel_class(kernel: int) -> str:
    """The class of a block's fill."""
    return f"k{kernel}" if kernel in KERNELS else "kx"
