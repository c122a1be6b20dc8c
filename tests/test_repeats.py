"""Equal blocks are printed once, with a count, and nothing is lost."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import lrp_fx
from lrp_fx.errors import InputError
from lrp_fx.ir.graph import is_scalar, iter_nodes, op_name
from lrp_fx.ir.listing import listing, source
from lrp_fx.ir.repeats import Run, find_repeats, left_out
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.runtime.dump import graph_after
from testing.architectures import BY_NAME, without

F = 6
COUNTS = re.compile(r"# the same (\d+) times? more")


@lru_cache
def explained(name: str, depth: int, **changes: Any) -> lrp_fx.Explainer:
    """A tiny transformers model with random weights and so many layers (in encoder and decoder each)."""
    architecture = BY_NAME[name]
    layers = {key: depth for key in architecture.settings if key in ("num_hidden_layers", "num_layers")}
    settings = without(architecture.settings, **layers, **changes)
    model = dataclasses.replace(architecture, settings=settings).build("sdpa" if architecture.fused else "eager")
    return lrp_fx.convert(model, architecture.inputs())


def counts(text: str) -> list[int]:
    return [int(n) for n in COUNTS.findall(text)]


def calls(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.lstrip() and not line.lstrip().startswith("#")]


def note(rewritten: Rewritten) -> Callable[[fx.Node], str]:
    return lambda n: rewritten.applications[n].rule.name if n in rewritten.applications else ""


# ------------------------------------------------------------------------------------------------ whole models
@pytest.mark.parametrize(("name", "layers"), [("llama", "model.layers"), ("bert", "bert.encoder.layer")])
def test_six_equal_layers_are_one_and_a_count(name: str, layers: str) -> None:
    text = explained(name, 6).rewritten.print_readable(blocks="once")
    assert counts(text) == [5]
    assert "# 6 blocks of " in text and f"{layers}.0 ... {layers}.5; the first of them:" in text
    assert f"the same 5 times more: {layers}.1 ... {layers}.5, each with weights of its own" in text


def test_encoder_and_decoder_are_a_run_each() -> None:
    text = explained("t5", 6).rewritten.print_readable(blocks="once")
    assert counts(text) == [5, 5]
    assert "encoder.block.1 ... encoder.block.5" in text and "decoder.block.1 ... decoder.block.5" in text


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_the_length_does_not_depend_on_the_depth(name: str) -> None:
    few, many = explained(name, 4), explained(name, 6)
    for text in (
        lambda e: e.rewritten.print_readable(blocks="once"),
        lambda e: e.rewritten.program.print_readable(blocks="once"),
    ):
        short, long = text(few).splitlines(), text(many).splitlines()
        assert len(short) == len(long), "comments may only grow in their numbers"
    whole = many.rewritten.print_readable()
    assert whole == many.rewritten.print_readable(blocks="all") and not COUNTS.search(whole)
    assert len(whole.splitlines()) > 2 * len(many.rewritten.print_readable(blocks="once").splitlines())


@pytest.mark.parametrize(("name", "depth"), [("llama", 6), ("bert", 6), ("t5", 6), ("gemma2", 8)])
def test_nothing_is_lost(name: str, depth: int) -> None:
    """What is printed and what is counted is all, and every line is one of the whole text, in its order."""
    rewritten = explained(name, depth).rewritten
    nodes = list(rewritten.program.graph.nodes)
    runs = find_repeats(rewritten.program.graph, note(rewritten))
    printed = calls(rewritten.print_readable(blocks="once"))
    assert len(printed) + len(left_out(rewritten.program.graph, runs)) == len(nodes)
    whole = iter(calls(rewritten.print_readable()))
    assert all(line in whole for line in printed)
    counted = sum(len(p) for run in runs for p in run.periods[1:])
    assert 0 < counted <= len(nodes) - len(printed)


def check_reads(run: Run) -> None:
    """Raise unless every period reads what the first says that it does: its own, the one before, or the same."""
    offset = [{n: i for i, n in enumerate(period)} for period in run.periods]
    for i, node in enumerate(run.first):
        for j, period in enumerate(run.periods[1:], 1):
            for mine, other in zip(reads(node), reads(period[i]), strict=True):
                if mine in offset[0]:
                    assert offset[j].get(other) == offset[0][mine]
                elif other in offset[j - 1]:
                    assert run.carried[run.first[offset[j - 1][other]]] is mine
                elif other is not mine:
                    assert mine.op == other.op == "get_attr" or mine in run.paired
    assert len({n for period in run.periods for n in period}) == len(run.first) * len(run.periods)


def reads(node: fx.Node) -> list[fx.Node]:
    return [n for n in iter_nodes(node.args, node.kwargs) if not is_scalar(n)]


@pytest.mark.parametrize(("name", "depth"), [("llama", 6), ("bert", 6), ("t5", 6), ("gemma2", 8), ("gemma3", 8)])
def test_periods_read_what_the_comments_say(name: str, depth: int) -> None:
    explainer = explained(name, depth)
    for graph in (explainer.graph.graph, explainer.relevance_graph.graph):
        runs = find_repeats(graph)
        assert runs
        for run in runs:
            check_reads(run)


def test_what_flows_between_blocks_is_named() -> None:
    """All that the lines below a run read is a line above them, or is named in the comment on the run."""
    text = explained("llama", 6).rewritten.print_readable(blocks="once")
    seen: set[str] = set()
    for line in text.splitlines():
        if line.startswith("#"):
            seen |= set(re.findall(r"%(\w+) for %", line))
        else:
            read = set(re.findall(r"%(\w+)", line.split("  # ")[0]))
            name = re.match(r"%(\w+) :", line)
            assert read - seen <= ({name[1]} if name else set()), line
            seen |= read
    (run,) = find_repeats(explained("llama", 6).graph.graph)
    ((handed, entry),) = run.carried.items()
    assert op_name(handed) == "aten.add" and op_name(entry) == "aten.embedding"
    assert f"#   each reads %{handed} of the one before for %{entry}\n" in text


def test_alternating_windows_have_a_period_of_two_layers() -> None:
    """Long enough for the window to hide something, so that two masks take turns."""
    text = explained("gemma2", 8).rewritten.print_readable(blocks="once")
    assert counts(text) == [3]
    assert "# the same 3 times more: model.layers.2 ... model.layers.7" in text


def test_layers_of_two_kinds_are_runs_of_their_own() -> None:
    """Five layers with a window, one without, two with one."""
    text = explained("gemma3", 8).rewritten.print_readable(blocks="once")
    assert counts(text) == [4, 1]
    assert (
        "model.layers.0 ... model.layers.4; the first" in text and "model.layers.6, model.layers.7; the first" in text
    )


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_backward_pass_repeats_too(name: str) -> None:
    """Each block's transpose reads the values of that block, the last first, and so do the books of positions that
    every block rotates by. The last block is no equal: what reads one row only is computed for that row.
    """
    few, many = (source(explained(name, n).relevance_graph, "once") for n in (4, 6))
    assert counts(few)[0] == 3 and counts(many)[0] == 5
    assert [n - m for m, n in zip(counts(few), counts(many), strict=True)] == [2] * len(counts(few))
    assert len(calls(few)) == len(calls(many))
    assert "of the blocks above each reads its own: %" in many


def test_blocks_once_from_a_pass_and_for_the_source() -> None:
    architecture = BY_NAME["llama"]
    model = dataclasses.replace(architecture, settings=without(architecture.settings, num_hidden_layers=3)).build(
        "sdpa"
    )
    for until, runs in (("capture", 2), ("assign_rules", 2)):
        whole = graph_after(model, architecture.inputs(), until)
        once = graph_after(model, architecture.inputs(), until, blocks="once")
        assert runs in counts(once) and len(calls(once)) < 0.6 * len(calls(whole)), until
        assert set(calls(once)) <= set(calls(whole))
    program = explained("llama", 6).rewritten.program
    compile(program.print_readable(blocks="once"), "program", "exec")


@pytest.mark.parametrize("blocks", ["twice", "", "ONCE"])
def test_other_blocks_are_refused(blocks: str) -> None:
    explainer = explained("bert", 4)
    for call in (explainer.rewritten.print_readable, explainer.rewritten.program.print_readable):
        with pytest.raises(InputError, match="there are 'all' and 'once'"):
            call(blocks=blocks)
    with pytest.raises(InputError, match="there are 'all' and 'once'"):
        graph_after(explainer.model, BY_NAME["bert"].inputs(), "capture", blocks=blocks)


def test_many_blocks_take_no_time() -> None:
    graph, _ = stack(100, width=20)
    began = time.process_time()
    runs = find_repeats(graph)
    assert sizes(runs) == [(100, 23), (20, 1)]  # with the chain inside a block
    assert time.process_time() - began < 1.0


# ------------------------------------------------------------------------------------------------ graphs by hand
def stack(blocks: int, width: int = 3, factors: dict[int, float] | None = None) -> tuple[fx.Graph, list[fx.Node]]:
    """Blocks of a map and some pointwise operations in a residual stream; ``factors``: other numbers in some blocks."""
    root, graph = nn.Module(), fx.Graph()
    value = torch.empty(2, F, device="meta")

    def call(target: Any, *args: Any) -> fx.Node:
        node = graph.call_function(target, args)
        node.meta["val"] = value
        return node

    weights = []
    for i in range(blocks):
        setattr(root, f"w{i}", nn.Parameter(torch.empty(F, F)))
        weights.append(graph.get_attr(f"w{i}"))
        weights[-1].meta["val"] = torch.empty(F, F, device="meta")
    x = graph.placeholder("x")
    x.meta["val"] = value
    products, h = [], call(torch.ops.aten.sin.default, x)
    for i in range(blocks):
        y = call(torch.ops.aten.linear.default, h, weights[i])
        for _ in range(width):
            y = call(torch.ops.aten.tanh.default, y)
        products.append(call(torch.ops.aten.mul.Tensor, y, (factors or {}).get(i, 2.0)))
        h = call(torch.ops.aten.add.Tensor, h, products[-1])
    graph.output((call(torch.ops.aten.cos.default, h),))
    return graph, products


def sizes(runs: list[Run]) -> list[tuple[int, int]]:
    return [(len(run.periods), len(run.first)) for run in runs]


def test_one_odd_block_in_the_middle_stands_between_two_runs() -> None:
    graph, products = stack(9, factors={4: 3.0})
    assert sizes(find_repeats(graph)) == [(4, 6), (4, 6)]
    text = listing(graph, lambda n: str(n.format_node()), "once")
    assert counts(text) == [3, 3] and text.count(f"%{products[4]} : ") == 1
    assert text.count(" = call_function") == 2 + 3 * 6


def _other_number(graph: fx.Graph, product: fx.Node) -> None:
    product.update_arg(1, 2)  # 2, not 2.0


def _other_operation(graph: fx.Graph, product: fx.Node) -> None:
    product.target = torch.ops.aten.div.Tensor


def _other_size(graph: fx.Graph, product: fx.Node) -> None:
    product.meta["val"] = torch.empty(1, F, device="meta")


def _other_value(graph: fx.Graph, product: fx.Node) -> None:
    product.update_arg(0, product.args[0].args[0])  # one tanh fewer


def _weight_of_another(graph: fx.Graph, product: fx.Node) -> None:
    other = next(n for n in graph.nodes if n.target == "w1")
    mapped = product.args[0].args[0].args[0].args[0]
    assert op_name(mapped) == "aten.linear"
    mapped.update_arg(1, other)


@pytest.mark.parametrize("change", [_other_number, _other_operation, _other_size, _other_value, _weight_of_another])
def test_a_change_of_one_node_breaks_the_run(change: Callable[[fx.Graph, fx.Node], None]) -> None:
    graph, products = stack(9)
    assert sizes(find_repeats(graph)) == [(9, 6)]
    change(graph, products[4])
    runs = find_repeats(graph)
    assert sizes(runs)[:1] == [(4, 6)] and all(products[4] not in p for run in runs for p in run.periods[1:])
    assert products[4] not in left_out(graph, runs)


def test_another_rule_breaks_the_run() -> None:
    graph, products = stack(9)
    assert sizes(find_repeats(graph, lambda n: "gamma" if n is products[4] else "plain")) == [(4, 6), (4, 6)]


def test_a_weight_that_all_share_is_one() -> None:
    graph, _ = stack(5)
    first = next(n for n in graph.nodes if n.op == "get_attr")
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default):
        node.update_arg(1, first)
    text = listing(graph, lambda n: str(n.format_node()), "once")
    assert counts(text) == [4] and "weights" not in text


def test_a_block_reads_the_same_of_those_before_wherever_it_stands() -> None:
    """Blocks 1 to 3 read block 0, block 4 reads block 1, block 5 block 2, and so on: first nothing moves from block to
    block, then it does. Pairs of blocks from the third on read the pair before.
    """
    graph, products = stack(9)
    sums = [next(iter(p.users)) for p in products]
    for i, product in enumerate(products[1:], 1):
        product.update_arg(1, sums[max(0, i - 3)])
    runs = find_repeats(graph)
    for run in runs:
        check_reads(run)
    assert sizes(runs) == [(3, 12)] and products[1] not in runs[0].first
    text = " ".join(listing(graph, lambda n: None, "once").replace("#", "").split())
    assert f"%{sums[1]} of the one before for %{sums[0]} in %{products[2]}" in text
    assert f"%{sums[2]} of the one before for %{sums[0]} in %{sums[1]} and %{products[3]}," in text


def test_maps_side_by_side_are_no_blocks() -> None:
    """Nothing goes from one to the next: what they are for is told by who reads them."""
    graph, _ = stack(6)
    x = next(n for n in graph.nodes if n.op == "placeholder")
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default):
        node.update_arg(0, x)
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor):
        node.update_arg(0, x)
    assert find_repeats(graph) == []


def test_blocks_that_are_read_further_on_are_named() -> None:
    graph, products = stack(6)
    (output,) = graph.find_nodes(op="output")
    output.update_arg(0, (*output.args[0], products[1], products[3]))
    text = listing(graph, lambda n: str(n.format_node()), "once")
    assert f"#   read below, of number 2, 4: %{products[1]}, %{products[3]} for %{products[0]}\n" in text


class Scaled(nn.Module):
    """Layers in a loop, one of them with another number."""

    def __init__(self, depth: int, odd: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(F, F) for _ in range(depth))
        self.odd, self.head = odd, nn.Linear(F, 3)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = x + torch.tanh(layer(x)) * (0.25 if i == self.odd else 0.5)
        return self.head(x)


def test_one_odd_layer_of_a_model_is_shown() -> None:
    inputs = torch.randn(2, F)
    even, odd = (
        lrp_fx.convert(Scaled(9, at).eval(), (inputs,)).rewritten.print_readable(blocks="once") for at in (-1, 4)
    )
    assert counts(even) == [8] and counts(odd) == [3, 3]
    assert "0.25" in odd and len(calls(odd)) > len(calls(even))


def test_a_graph_is_only_read() -> None:
    graph, _ = stack(5)
    before = str(graph)
    listing(graph, str, "once")
    assert str(graph) == before
