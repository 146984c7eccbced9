"""Says in words why a GPU runs at lower clocks than it could, from the bit mask of the column throttle_reasons."""

_WORDS = {  # the bits of NVML's clocks event reasons
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x10: "clocks kept equal to those of other GPUs",
    0x20: "temperature, by the driver",
    0x40: "temperature, by the hardware",
    0x80: "power brake of the power supply",
    0x100: "clocks of the display",
    0x200: "limit of the board",
    0x400: "limit for reliability",
}

THROTTLED = sum(_WORDS)
"""The bits that mean slower than possible; 1 (idle) and 2 (clocks that somebody has set) are none of them."""


def throttle_words(mask: float) -> list[str]:
    """Return the reasons in a mask for which a GPU was slower than it could be; none where it was not."""
    return [words for bit, words in _WORDS.items() if int(mask) & bit]
