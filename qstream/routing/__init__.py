"""Routing: where experts and their replicas live, and which replica serves each token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from qstream.routing.eplb import rebalance_experts as rebalance_experts
    from qstream.routing.options import RoutingOptions as RoutingOptions
    from qstream.routing.placement import PlaceOptions as PlaceOptions
    from qstream.routing.placement import place as place
    from qstream.routing.prefix import PrefixRouter as PrefixRouter
    from qstream.routing.requests import route_requests as route_requests
    from qstream.routing.shares import dispatch_shares as dispatch_shares
    from qstream.routing.tokens import route_tokens as route_tokens

__all__ = [
    "PlaceOptions",
    "PrefixRouter",
    "RoutingOptions",
    "dispatch_shares",
    "place",
    "rebalance_experts",
    "route_requests",
    "route_tokens",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "PlaceOptions": ".placement",
        "PrefixRouter": ".prefix",
        "RoutingOptions": ".options",
        "dispatch_shares": ".shares",
        "place": ".placement",
        "rebalance_experts": ".eplb",
        "route_requests": ".requests",
        "route_tokens": ".tokens",
    },
)
