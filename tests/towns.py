"""Passages about towns, each with facts of its own."""

from __future__ import annotations

BUILT = [
    "opera house",
    "water tower",
    "covered market",
    "railway station",
    "stone bridge",
    "old mill",
]
NAMES = [
    "Utzon",
    "Ferrari",
    "Lindqvist",
    "Okafor",
    "Moreau",
    "Tanaka",
    "Novak",
    "Haddad",
    "Silva",
    "Kowalski",
]
RIVERS = ["Angara", "Loire", "Vltava", "Paraná", "Niger", "Mekong", "Tagus"]
GOODS = ["barley", "copper", "amber", "salt", "timber", "wool", "paper", "glass"]


def document(number: int) -> dict[str, str]:
    """A passage of four sentences, each of which ends in a fact; no two passages are alike."""
    built, name = BUILT[number % 6], NAMES[number % 10]
    river, goods = RIVERS[number % 7], GOODS[number % 8]
    return {
        "id": f"town-{number}",
        "title": f"Town {number}",
        "text": (
            f"The {built} of this town was drawn by the architect {name}. "
            f"Its doors have been open since {1800 + 3 * number}. "
            f"Boats once carried {goods} down the river {river}. "
            f"In winter {50 + 7 * number} people still live near {goods} stores of Port{number}."
        ),
    }
