"""How fast links are where a description does not say: GB/s of one direction, nominal and as programs reach it.

Sources: NCCL ``src/graph/topo.h`` and RCCL's, for what programs reach; vendors' payload rates for the nominal ones.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Speed(NamedTuple):
    """GB/s of one link: payload by the vendor, and what collectives reach."""

    nominal: float
    effective: float


PCIE_LANE_GB_S: Final = {2.5: 0.25, 5.0: 0.5, 8.0: 0.985, 16.0: 1.97, 32.0: 3.94, 64.0: 7.88}  # by GT/s
PCIE_GENERATION_GT_S: Final = {1: 2.5, 2: 5.0, 3: 8.0, 4: 16.0, 5: 32.0, 6: 64.0}
PCIE_EFFICIENCY: Final = 0.76
PCIE_UNKNOWN: Final = Speed(12.0, 12.0)  # 16 lanes of the third generation, as NCCL takes them

NVLINK_BY_SM: Final = {
    60: Speed(20.0, 18.0),
    70: Speed(25.0, 20.0),
    80: Speed(25.0, 20.0),
    86: Speed(14.06, 12.0),
    90: Speed(25.0, 20.6),
    100: Speed(50.0, 40.1),
}
NVLINK_UNKNOWN: Final = Speed(25.0, 20.0)
XGMI_BY_GFX: Final = {
    906: Speed(46.0, 24.0),
    908: Speed(46.0, 24.0),
    910: Speed(50.0, 36.0),
    940: Speed(64.0, 48.0),
}
XGMI_UNKNOWN: Final = Speed(50.0, 36.0)
SMP_GB_S: Final = {"AuthenticAMD": 16.0, "GenuineIntel": 10.0, "CentaurHauls": 6.0, "ppc64": 32.0, "arm64": 6.0}  # NCCL
SMP_UNKNOWN_GB_S: Final = 10.0
NIC_GB_S: Final = 50.0  # 400 Gb/s
# Of one link, where only its kind is known.
BY_KIND: Final = {
    "nvlink": NVLINK_UNKNOWN.nominal,
    "xgmi": XGMI_UNKNOWN.nominal,
    "pcie": PCIE_UNKNOWN.nominal,
    "c2c": 450.0,
    "smp": SMP_UNKNOWN_GB_S,
    "ib": NIC_GB_S,
    "roce": NIC_GB_S,
    "ethernet": NIC_GB_S,
}
INFINIBAND_LANE_GB_S: Final = {
    "SDR": 0.25, "DDR": 0.5, "QDR": 1.0, "FDR10": 1.25, "FDR": 1.7, "EDR": 3.125, "HDR": 6.25, "NDR": 12.5, "XDR": 25.0,
}  # fmt: skip


class Product(NamedTuple):
    """NVLink of one GPU of a product: links, and the speed of each."""

    links: int
    speed: Speed


# By a word of the product's name, the first that fits.
PRODUCTS: Final = {
    "GB300": Product(18, NVLINK_BY_SM[100]),
    "GB200": Product(18, NVLINK_BY_SM[100]),
    "B300": Product(18, NVLINK_BY_SM[100]),
    "B200": Product(18, NVLINK_BY_SM[100]),
    "B100": Product(18, NVLINK_BY_SM[100]),
    "GH200": Product(18, NVLINK_BY_SM[90]),
    "H200": Product(18, NVLINK_BY_SM[90]),
    "H100": Product(18, NVLINK_BY_SM[90]),
    "H800": Product(8, NVLINK_BY_SM[90]),
    "H20": Product(18, NVLINK_BY_SM[90]),
    "A100": Product(12, NVLINK_BY_SM[80]),
    "A800": Product(8, NVLINK_BY_SM[80]),
    "V100": Product(6, NVLINK_BY_SM[70]),
    "P100": Product(4, NVLINK_BY_SM[60]),
}


def product_of(name: str) -> Product | None:
    """NVLink of the GPU with this product name, None if it is not in the table."""
    words = name.upper().replace("-", " ").split()
    return next((PRODUCTS[known] for known in PRODUCTS if known in words), None)


def nvlink_of_sm(sm: int) -> Speed | None:
    """One NVLink of a GPU of compute capability `sm`, such as 90, None for one that is older than NVLink."""
    known = [number for number in NVLINK_BY_SM if number <= sm]
    return NVLINK_BY_SM[80 if sm in (87, 89) else max(known)] if known else None


def pcie_of(gt_s: float | None, lanes: int | None) -> Speed | None:
    """A PCIe link of so many lanes at so many GT/s each, None where either is unknown."""
    lane = None if gt_s is None else PCIE_LANE_GB_S.get(gt_s)
    if lane is None or lanes is None or not 1 <= lanes <= 32:
        return None
    return Speed(lane * lanes, lane * lanes * PCIE_EFFICIENCY)
