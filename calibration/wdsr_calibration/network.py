"""A folded network in which every convolution and every residual add can be quantised, in PyTorch.

What is quantised is a tensor as one of its users sees it: an edge. A convolution has one, on its input; a residual add
has two, on its identity and on the branch's result. The edges of one tensor share its scale, as they share the Q in the
ONNX graph. An edge carries the name of its user, or of the convolution whose result it is; tensors carry the names
that they have in the deploy graph. What reads the picture itself (head and skip) has no edge: INT8 would round the
picture to steps of more than a level.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from wdsr_edge._errors import ExportError
from wdsr_edge.models import EDSR, WDSR, build, fold

LEVELS = 127
"""Symmetric INT8 uses -127 to 127: zero point 0, and no code that has no negative."""


def round_through(x: Tensor) -> Tensor:
    """``x.round()`` whose gradient is that of ``x`` (Bengio et al. 2013, arXiv:1308.3432)."""
    return x + (x.round() - x).detach()


def representable(scale: Tensor) -> Tensor:
    """The positive FP16 number next to ``scale``, so that both mixes compute with the same one."""
    return scale.clamp(torch.finfo(torch.float16).smallest_normal, 60000).half().float()


def finer(scale: Tensor, levels: int) -> Tensor:
    """The scale at which ``levels`` codes reach as far as LEVELS codes do at ``scale``."""
    return scale if levels == LEVELS else representable(scale * LEVELS / levels)


def kernel_scales(kernel: Tensor, levels: int) -> Tensor:
    """One scale for each output channel of ``kernel``, [O]: its largest weight has the code ``levels``."""
    largest = kernel.abs().flatten(1).amax(1)
    return representable(torch.where(largest > 0, largest, largest.max()) / levels)


class Quantiser(nn.Module):
    """Quantises one activation tensor: symmetric, one scale."""

    def __init__(self, name: str, *, signed: bool, levels: int = LEVELS) -> None:
        """``levels``: the largest code of a tensor that is not ``signed``; LEVELS is that of those that are."""
        super().__init__()
        self.name = name
        self.signed = signed
        self.levels = LEVELS if signed else levels
        self.exponent: Tensor = nn.Parameter(torch.zeros(()), requires_grad=False)
        """Base 2 logarithm of the scale: learned, it moves by shares (Jain et al. 2019, arXiv:1903.08066)."""

    @property
    def scale(self) -> Tensor:
        """A number that FP16 has: how far LEVELS codes reach, whatever ``levels`` is, divided by LEVELS."""
        return representable(self.exponent.exp2())

    @torch.no_grad()
    def set_scale(self, scale: float) -> None:
        """Quantise to multiples of ``scale``, or of the number next to it that FP16 has."""
        self.exponent.copy_(torch.tensor(scale).log2())

    def forward(self, x: Tensor) -> Tensor:
        """Multiples of the scale, whose gradient is that of LSQ (Esser et al. 2020, arXiv:1902.08153)."""
        scale = finer(self.scale, self.levels)
        levels = (x / scale).clamp(-LEVELS if self.signed else 0, self.levels)
        return round_through(levels) * scale


class Edge(nn.Module):
    """A tensor as one user sees it: quantised if ``quantised``."""

    def __init__(self, quantiser: Quantiser) -> None:
        super().__init__()
        self.quantiser = quantiser
        self.quantised = False

    def forward(self, x: Tensor) -> Tensor:
        """``x`` as this user sees it."""
        if not self.quantised:
            return x
        y: Tensor = self.quantiser(x)
        return y


class QuantConv(nn.Conv2d):
    """A plain convolution whose kernel is quantised if ``quantised``: symmetric, one scale for each output channel."""

    def __init__(self, conv: nn.Conv2d, levels: int) -> None:
        height, width = conv.kernel_size
        pads = (height // 2, width // 2)
        super().__init__(conv.in_channels, conv.out_channels, (height, width), padding=pads, groups=conv.groups)
        assert conv.bias is not None
        assert self.bias is not None
        self.weight = nn.Parameter(conv.weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
        self.levels = levels
        self.quantised = False
        self.outputs_by: Tensor | None = None
        """Divisors of output channels while these are learned, [O]; see ``divide_outputs``."""
        self.inputs_by: Tensor | None = None
        """Divisors of input channels while these are learned, [I]; see ``expect_divided``."""

    def forward(self, x: Tensor) -> Tensor:
        """The convolution with its kernel quantised or not."""
        weight, bias = self._divided()
        if self.quantised:
            scales = kernel_scales(weight.detach(), self.levels).view(-1, 1, 1, 1)
            weight = round_through((weight / scales).clamp(-LEVELS, LEVELS)) * scales
        return nn.functional.conv2d(x, weight, bias, padding=self.padding, groups=self.groups)

    def _divided(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias with the divisors that are being learned in them."""
        weight, bias = self.weight, self.bias
        assert bias is not None
        if self.inputs_by is not None:
            grouped = weight.view(self.groups, -1, *weight.shape[1:]) * self.inputs_by.view(self.groups, 1, -1, 1, 1)
            weight = grouped.view(weight.shape)
        if self.outputs_by is not None:
            weight, bias = weight / self.outputs_by.view(-1, 1, 1, 1), bias / self.outputs_by
        return weight, bias

    @torch.no_grad()
    def divide_outputs(self, d: Tensor) -> None:
        """Give output channel ``i`` divided by ``d[i]``."""
        self.outputs_by = d
        self.settle()

    @torch.no_grad()
    def expect_divided(self, d: Tensor) -> None:
        """Give the same as before of an input whose channel ``i`` is divided by ``d[i]``."""
        self.inputs_by = d
        self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Put the divisors into kernel and bias for good."""
        assert self.bias is not None
        weight, bias = self._divided()
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        self.inputs_by = self.outputs_by = None


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that may be scaled without a change of the result: by ``1/d`` in who makes them, ``d`` in who reads."""

    producers: tuple[str, ...]
    """Convolutions whose output channels these are."""
    consumers: tuple[str, ...]
    """Convolutions whose input channels these are."""


class Network(nn.Module):
    """``model``, folded, with edges to quantise; float32 NCHW RGB in [0, 1] in and out, nothing quantised at first."""

    def __init__(self, model: EDSR | WDSR, *, kernel_levels: int = LEVELS, relu_levels: int = LEVELS) -> None:
        """The largest code of a kernel, 127 for 8 bits; and that of a tensor behind a ReLU, 255 if it is unsigned."""
        super().__init__()
        folded = fold(model)
        self.config = folded.config
        self.kernel_levels = kernel_levels
        self.relu_levels = relu_levels
        self.traced = fx.GraphModule(folded, fx.Tracer().trace(folded))
        nodes = list(self.traced.graph.nodes)
        self.convs: Mapping[str, QuantConv] = {
            str(node.target): self._make_quantisable(str(node.target)) for node in nodes if self._is_conv(node)
        }
        self.tensors: dict[str, Quantiser] = {}
        self.edges: dict[str, Edge] = {}
        self.groups = tuple(self._channel_groups(nodes))
        for node in nodes:
            read = 0 if self._is_conv(node) else _identity_of(node)
            if read is None or not any(map(self._is_conv, _ancestors(node))):
                continue
            self._insert_edge(node, read, _name(node))
            if not self._is_conv(node) and self._is_conv(branch := _operands(node)[1 - read]):
                self._insert_edge(node, 1 - read, result_of(_name(branch)))
        self.traced.recompile()

    def forward(self, x: Tensor) -> Tensor:
        """RGB in [0, 1]; the output is not clipped."""
        y: Tensor = self.traced(x)
        return y

    @property
    def scales(self) -> Mapping[str, float]:
        """The scale of each tensor."""
        return {name: quantiser.scale.item() for name, quantiser in self.tensors.items()}

    @torch.no_grad()
    def plain(self) -> EDSR | WDSR:
        """The network as it is now, equalised and learned, as a plain model of float kernels."""
        model = build(self.config).eval().requires_grad_(False)
        for name, conv in self.convs.items():
            plain = model.get_submodule(name)
            assert isinstance(plain, nn.Conv2d)
            assert plain.bias is not None
            assert conv.bias is not None
            plain.weight.copy_(conv.weight)
            plain.bias.copy_(conv.bias)
        return model

    @property
    def macs(self) -> Mapping[str, int]:
        """Multiply-accumulates of each convolution for each LR pixel."""
        return {name: shape.macs for name, shape in zip(self.convs, self.config.convs, strict=True)}

    @property
    def quantisable(self) -> tuple[str, ...]:
        """The convolutions that can be quantised."""
        return tuple(name for name in self.edges if name in self.convs)

    @property
    def identities(self) -> tuple[str, ...]:
        """The residual adds."""
        return tuple(name for name in self.edges if name not in self.convs and name not in map(result_of, self.convs))

    @property
    def results(self) -> tuple[str, ...]:
        """The convolutions whose result a residual add takes."""
        return tuple(name for name in self.convs if result_of(name) in self.edges)

    def place(self, convs: Iterable[str], identities: Iterable[str] = (), results: Iterable[str] = ()) -> None:
        """Quantise these convolutions (kernel and input), these identities and these results, and nothing else."""
        convs, identities, results = set(convs), set(identities), set(results)
        assert convs <= set(self.quantisable), convs
        assert identities <= set(self.identities), identities
        assert results <= set(self.results), results
        placed = {*convs, *identities, *map(result_of, results)}
        for name, edge in self.edges.items():
            edge.quantised = name in placed
        for name, conv in self.convs.items():
            conv.quantised = name in convs

    @contextmanager
    def watching(self) -> Iterator[dict[str, Tensor]]:
        """A dict that gets each tensor in front of an edge, by name, whenever the network computes."""
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> object:
            return lambda module, inputs: seen.__setitem__(name, inputs[0].detach())

        hooks = [edge.register_forward_pre_hook(keep(edge.quantiser.name)) for edge in self.edges.values()]  # type: ignore[arg-type]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    def _is_conv(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self.traced.get_submodule(str(node.target)), nn.Conv2d)

    def _make_quantisable(self, name: str) -> QuantConv:
        conv = self.traced.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        made = QuantConv(conv, self.kernel_levels)
        self.traced.set_submodule(name, made)
        return made

    def _insert_edge(self, node: fx.Node, index: int, user: str) -> None:
        source = node.args[index]
        assert isinstance(source, fx.Node)
        tensor = _name(source)
        if tensor not in self.tensors:
            self.tensors[tensor] = Quantiser(tensor, signed=not self._is_relu(source), levels=self.relu_levels)
        self.edges[user] = Edge(self.tensors[tensor])
        module = f"edge_{len(self.edges)}"
        self.traced.add_submodule(module, self.edges[user])
        with self.traced.graph.inserting_before(node):
            seen = self.traced.graph.call_module(module, (source,))
        node.update_arg(index, seen)

    def _is_relu(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self.traced.get_submodule(str(node.target)), nn.ReLU)

    def _channel_groups(self, nodes: list[fx.Node]) -> Iterator[ChannelGroup]:
        """Tensors joined by ReLUs and adds have their channels in common, and so have who makes and who reads them."""
        group = {node: {node} for node in nodes}
        for node in nodes:
            joined = (
                _operands(node) if node.target is operator.add else node.all_input_nodes if self._is_relu(node) else []
            )
            for source in joined:
                union = group[node] | group[source]
                group.update(dict.fromkeys(union, union))
        for members in {id(union): union for union in group.values()}.values():
            passing = {node for node in members if node.target is operator.add or self._is_relu(node)}
            makers, users = members - passing, {user for node in members for user in node.users} - passing
            if users and all(map(self._is_conv, users | makers)):
                made, read = ([_name(node) for node in nodes if node in part] for part in (makers, users))
                yield ChannelGroup(tuple(made), tuple(read))


def result_of(conv: str) -> str:
    """The name of the edge from ``conv`` to a residual add."""
    return f"{conv}.result"


def _operands(node: fx.Node) -> list[fx.Node]:
    return [arg for arg in node.args if isinstance(arg, fx.Node)]


def _identity_of(node: fx.Node) -> int | None:
    """Which operand of a residual add is the identity: the one that the other was computed from."""
    if node.target is not operator.add or len(_operands(node)) != 2:
        return None
    first, second = _operands(node)
    if first in _ancestors(second):
        return 0
    return 1 if second in _ancestors(first) else None


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found, ahead = set(), list(node.all_input_nodes)
    while ahead:
        source = ahead.pop()
        if source not in found:
            found.add(source)
            ahead.extend(source.all_input_nodes)
    return found


def _name(node: fx.Node) -> str:
    """The name of a node's result in the deploy graph."""
    if node.op not in ("call_module", "call_function"):
        raise ExportError(f"{node.name} in the model's forward method cannot be quantised")
    return str(node.target) if node.op == "call_module" else node.name
