"""Which convolutions and identities are INT8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .network import Network


@dataclass(frozen=True)
class Placement:
    """What is quantised; everything else stays float."""

    convs: tuple[str, ...] = ()
    """Convolutions with INT8 kernel and input, in the order of the network."""
    identities: tuple[str, ...] = ()
    """Residual adds with an INT8 identity, which TensorRT fuses into the convolution before them."""

    def apply(self, network: Network) -> None:
        """Place ``network`` so."""
        network.place(self.convs, self.identities)

    @classmethod
    def of(cls, network: Network) -> Placement:
        """How ``network`` is placed now."""
        placed = [name for name, edge in network.edges.items() if edge.quantised]
        return cls(
            tuple(name for name in network.quantisable if name in placed),
            tuple(name for name in network.identities if name in placed),
        )

    def share(self, macs: Mapping[str, int], prefix: str = "") -> float:
        """INT8 share of the multiply-accumulates, of the convolutions whose names begin with ``prefix``."""
        within = {name: count for name, count in macs.items() if name.startswith(prefix)}
        return sum(count for name, count in within.items() if name in self.convs) / sum(within.values())


def body(network: Network, identities: bool = False) -> Placement:
    """The body's convolutions, where the multiply-accumulates are and INT8 costs least, and perhaps its identities."""
    convs = tuple(name for name in network.quantisable if name.startswith("body."))
    return Placement(convs, network.identities if identities else ())
