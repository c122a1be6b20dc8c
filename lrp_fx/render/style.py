"""Style: the look of a page, with its own background, so that it is legible in light and dark surroundings alike."""

from __future__ import annotations

#: Of everything inside ``.lrp``, and of nothing else. Names repeated (``.lrp.lrp``) outweigh what notebooks say of
#: tables: light stripes of theirs, or light text, on our background.
STYLE = """
.lrp { --ink: #1a1a1a; --soft: #444; --paper: #fff; --line: #ccc; --faint: #e5e5e5; --warn: #8a4b00; --hatch: #ddd; }
.lrp { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); color-scheme: light;
    max-width: 68rem; margin: 0 auto; padding: 1rem clamp(.5rem, 3vw, 1.5rem); overflow-wrap: anywhere; }
.lrp.lrp * { box-sizing: border-box; }
.lrp.lrp h1 { font-size: 1.25rem; margin: 0 0 .25rem; color: inherit; }
.lrp.lrp h2 { font-size: 1.05rem; margin: 2rem 0 .25rem; border-top: 1px solid var(--line); padding-top: 1rem;
    color: inherit; }
.lrp.lrp h3 { font-size: .95rem; margin: 1.25rem 0 .25rem; color: inherit; }
.lrp.lrp p { margin: .2rem 0 .6rem; color: var(--soft); }
.lrp.lrp p.note { font-size: .85rem; }
.lrp .tokens { display: flex; flex-wrap: wrap; gap: 6px 1px; }
.lrp .tokens div { display: flex; flex-direction: column; border: 1px solid var(--line); max-width: 100%; }
.lrp .tokens .start { margin-left: 5px; }
.lrp .tokens b { font: 600 .9rem ui-monospace, monospace; padding: 1px 5px; text-align: center; white-space: pre-wrap; }
.lrp .tokens span { font-size: .68rem; padding: 0 4px; text-align: center; border-top: 1px solid var(--faint);
    font-variant-numeric: tabular-nums; }
.lrp .tokens .hidden { background: repeating-linear-gradient(135deg, var(--paper) 0 5px, var(--hatch) 5px 7px); }
.lrp .tokens .stands { border-width: 2px; border-color: var(--ink); }
.lrp .tokens .labels { border-color: transparent; }
.lrp .tokens .labels * { text-align: left; font-family: inherit; border-color: transparent; color: var(--soft); }
.lrp.lrp figure { display: inline-block; margin: 0 1rem .5rem 0; vertical-align: top; max-width: 100%; }
.lrp.lrp figure.wide { display: block; margin-right: 0; }
.lrp figcaption { font-size: .85rem; color: var(--soft); max-width: 240px; }
.lrp figure.wide figcaption { max-width: none; }
.lrp .frame { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 0 .3rem; font-size: .75rem;
    color: var(--soft); }
.lrp .frame .up { writing-mode: vertical-rl; transform: rotate(180deg); text-align: center; }
.lrp .frame .along { grid-column: 2; text-align: center; }
.lrp.lrp img { image-rendering: pixelated; border: 1px solid var(--line); display: block; max-width: 100%;
    height: auto; object-fit: fill; }
.lrp.lrp svg { display: block; width: 100%; height: 110px; background: var(--paper); }
.lrp.lrp.lrp table { border-collapse: collapse; font-size: .88rem; color: var(--ink); margin: 0; max-width: 100%; }
.lrp.lrp.lrp tr, .lrp.lrp.lrp thead, .lrp.lrp.lrp tbody { background: var(--paper); border: 0; }
.lrp.lrp.lrp th, .lrp.lrp.lrp td { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top;
    color: inherit; background: var(--paper); border: 0; border-bottom: 1px solid var(--faint); white-space: normal;
    max-width: none; }
.lrp.lrp.lrp th { font-weight: 600; }
.lrp.lrp.lrp td.n, .lrp.lrp.lrp th.n { text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
.lrp.lrp.lrp td.n { white-space: nowrap; }
.lrp.lrp.lrp tr.sum td { font-weight: 600; }
.lrp.lrp code { font-size: .8rem; color: inherit; background: none; }
.lrp.lrp .warn { color: var(--warn); font-weight: 600; }
.lrp .scale { display: inline-block; width: 8rem; height: .8rem; vertical-align: middle;
    border: 1px solid var(--line); }
@media (max-width: 480px) {
.lrp.lrp.lrp th, .lrp.lrp.lrp td { padding-right: .4rem; font-size: .78rem; }
}
"""
#: Of a page of its own: dark where its reader prefers that. A notebook does not say whether it is dark, so what it
#: embeds stays on its own light background.
PAGE = """
body { margin: 0; background: #fff; }
@media (prefers-color-scheme: dark) {
body { background: #15181c; }
body .lrp { --ink: #e8e8e8; --soft: #b4b9bf; --paper: #15181c; --line: #555b63; --faint: #30353b; --warn: #ffb454;
    --hatch: #4a5058; color-scheme: dark; }
}
"""
