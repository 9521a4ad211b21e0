"""Which convolutions and identities are INT8."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .network import Network, result_of


@dataclass(frozen=True)
class Placement:
    """The part of a network that is quantised; everything else stays float."""

    convs: tuple[str, ...] = ()
    """Convolutions with INT8 kernel and input, in the order of the network."""
    identities: tuple[str, ...] = ()
    """Residual adds with an INT8 identity, which TensorRT fuses into the convolution before them."""
    results: tuple[str, ...] = ()
    """Convolutions with an INT8 result for a residual add, without which ONNX Runtime computes them in FP32."""

    def apply(self, network: Network) -> None:
        """Place ``network`` so."""
        network.place(self.convs, self.identities, self.results)

    @classmethod
    def of(cls, network: Network) -> Placement:
        """The current placement of ``network``."""
        placed = [name for name, edge in network.edges.items() if edge.quantised]
        return cls(
            tuple(name for name in network.quantisable if name in placed),
            tuple(name for name in network.identities if name in placed),
            tuple(name for name in network.results if result_of(name) in placed),
        )

    def share(self, macs: Mapping[str, int], prefix: str = "") -> float:
        """INT8 share of the multiply-accumulates, of the convolutions whose names begin with ``prefix``."""
        within = {name: count for name, count in macs.items() if name.startswith(prefix)}
        return sum(count for name, count in within.items() if name in self.convs) / sum(within.values())


def placed(network: Network, convs: Iterable[str], identities: Iterable[str] = (), *, results: bool) -> Placement:
    """These convolutions and identities, in the network's order; with ``results``, what the convolutions give, too."""
    convs, identities = set(convs), set(identities)
    return Placement(
        tuple(name for name in network.quantisable if name in convs),
        tuple(name for name in network.identities if name in identities),
        tuple(name for name in network.results if name in convs) if results else (),
    )


def body(network: Network, identities: bool = False, results: bool = False) -> Placement:
    """The body's convolutions, where the multiply-accumulates are and INT8 costs least, and perhaps its identities."""
    convs = (name for name in network.quantisable if name.startswith("body."))
    return placed(network, convs, network.identities if identities else (), results=results)
