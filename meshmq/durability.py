"""What a receipt waits for, by its number and its name: see ``frames.REPLICATED``."""

from __future__ import annotations

from meshmq import limits
from meshmq.errors import InvalidArgument
from meshmq.frames import DURABILITY_NAMES, REPLICATED

MIRRORED = "mirrored:"


def mirrored(sites: int) -> int:
    """The number for so many other sites, 1..MIRRORED_SITES_MAX."""
    return REPLICATED + sites


def sites_of(durability: int) -> int:
    """How many other sites are waited for; 0: none."""
    return max(0, durability - REPLICATED)


def name_of(durability: int) -> str:
    """As programs say it."""
    sites = sites_of(durability)
    return f"{MIRRORED}{sites}" if sites else DURABILITY_NAMES[durability]


def durability_of(name: object) -> int:
    """The number for a name. Raises InvalidArgument."""
    if isinstance(name, str):
        if name in DURABILITY_NAMES:
            return DURABILITY_NAMES.index(name)
        digits = name.removeprefix(MIRRORED)
        if digits != name:
            is_number = digits.isascii() and digits.isdecimal() and len(digits) < 4
            if is_number and 1 <= int(digits) <= limits.MIRRORED_SITES_MAX:
                return mirrored(int(digits))
            raise InvalidArgument(
                f"durability {name!r}: behind 'mirrored:' stands how many other sites are waited "
                f"for, 1 to {limits.MIRRORED_SITES_MAX}"
            )
    known = ", ".join(map(repr, DURABILITY_NAMES))
    raise InvalidArgument(f"durability is {known} or 'mirrored:N', not {name!r}")
