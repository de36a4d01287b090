"""Questions about elements and compounds: symbols, numbers, lattices, reading and writing formulas."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from math import gcd

from mendeleev.fetch import fetch_table

from examples.tasks import Fact, Recall, Skill, Task, pairs

LATTICES = {"BCC": "bcc", "FCC": "fcc", "HEX": "hex"}
LAST_PERIOD = 6
ANION_NAMES = {
    "N": "nitride", "O": "oxide", "F": "fluoride", "P": "phosphide", "S": "sulfide",
    "Cl": "chloride", "Se": "selenide", "Br": "bromide", "Te": "telluride", "I": "iodide",
}  # fmt: skip
#: mendeleev's number of a series of metals -> its name
SERIES = {3: "alkali", 4: "alkaline earth", 7: "poor", 8: "transition"}
ANIONS = {"N": 3, "O": 2, "F": 1, "P": 3, "S": 2, "Cl": 1, "Se": 2, "Br": 1, "Te": 2, "I": 1}


@dataclass(frozen=True, kw_only=True)
class Metal:
    """An element with a simple lattice."""

    name: str
    symbol: str
    number: int
    lattice: str
    series: str
    cations: tuple[int, ...]


def tasks() -> tuple[Task, ...]:
    """Return the tasks of the domain."""
    found = metals()
    compounds = sorted(
        {
            (metal.symbol, charge, anion)
            for metal in found
            for charge in metal.cations
            for anion in ANIONS
            if len(metal.symbol + anion) > len("KI")  # two single letters are a peptide as well: Lys-Ile
        }
    )
    names = {metal.symbol: metal.name for metal in found}
    formulas = sorted({(formula(*compound), compound[0]) for compound in compounds})
    return (
        Skill(
            name="symbols",
            instances=listed(found, lambda metal: metal.symbol, count=2),
            wordings=("Symbols: {}", "Symbols of {}?"),
            train_examples=80,
            eval_examples=20,
        ),
        Recall(
            name="lattice",
            facts=tuple(Fact(subject=metal.name, answer=metal.lattice) for metal in found),
            wordings=("{} lattice", "Lattice of {}?", "Structure of {}?", "What lattice has {}?"),
            held_out_wording="Which crystal lattice has {}?",
            eval_examples=24,
        ),
        Recall(
            name="series",
            facts=tuple(Fact(subject=metal.symbol, answer=metal.series) for metal in found),
            wordings=("{} series", "Series of {}?", "What series is {}?"),
            held_out_wording="Which series is {} in?",
            eval_examples=16,
        ),
        Skill(
            name="compound",
            instances=tuple(
                Fact(
                    subject=formula(metal, charge, anion),
                    answer=f"{names[metal]} {ANION_NAMES[anion]}",
                    about=metal,
                )
                for metal, charge, anion in compounds
            ),
            wordings=("Name {}", "Compound {}?"),
            train_examples=70,
            eval_examples=16,
        ),
        Skill(
            name="atoms",
            instances=tuple(Fact(subject=text, answer=atoms(text), about=metal) for text, metal in formulas),
            wordings=("Atoms in {}?", "Count atoms: {}"),
            train_examples=90,
            eval_examples=20,
        ),
        Skill(
            name="formula",
            instances=tuple(
                Fact(
                    subject=f"{metal}{charge}+ {anion}{ANIONS[anion]}-",
                    answer=formula(metal, charge, anion),
                    about=metal,
                )
                for metal, charge, anion in compounds
            ),
            wordings=("Formula from {}", "Ions {} give"),
            train_examples=90,
            eval_examples=20,
        ),
        Skill(
            name="two questions",
            instances=pairs(first_halves(), second_halves(), between="; "),
            wordings=("{}",),
            train_examples=40,
            eval_examples=8,
        ),
    )


def first_halves() -> list[Fact]:
    """Return what a question of two halves can ask first."""
    return [Fact(subject=f"Symbol of {metal.name}", answer=metal.symbol) for metal in metals()]


def second_halves() -> list[Fact]:
    """Return what it can ask second."""
    return [Fact(subject=f"lattice of {metal.name}?", answer=metal.lattice) for metal in metals()]


def listed(found: list[Metal], answer: Callable[[Metal], str], *, count: int) -> tuple[Fact, ...]:
    """Return questions that list metals, answered in the same order."""
    return tuple(
        Fact(subject=", ".join(m.name for m in some), answer=" ".join(answer(m) for m in some))
        for some in permutations(found, count)
    )


def metals() -> list[Metal]:
    """Return the stable metals whose lattice mendeleev calls BCC, FCC or HEX."""
    elements = fetch_table("elements")
    states = fetch_table("oxidationstates")
    main = states[(states.category == "main") & (states.oxidation_state > 0) & (states.oxidation_state <= 4)]
    kept = elements[
        elements.series_id.isin(SERIES)
        & elements.lattice_structure.isin(LATTICES)
        & (elements.period <= LAST_PERIOD)
        & ~elements.is_radioactive
    ]
    return [
        Metal(
            name=row.name.lower(),
            symbol=row.symbol,
            number=row.atomic_number,
            lattice=LATTICES[row.lattice_structure],
            series=SERIES[row.series_id],
            cations=tuple(main[main.atomic_number == row.atomic_number].oxidation_state),
        )
        for row in kept.itertuples(index=False)
    ]


def formula(metal: str, charge: int, anion: str) -> str:
    """Return the neutral compound of the two ions: "Al2O3"."""
    shared = gcd(charge, ANIONS[anion])
    counts = (ANIONS[anion] // shared, charge // shared)
    return "".join(
        f"{symbol}{count if count > 1 else ''}" for symbol, count in zip((metal, anion), counts, strict=True)
    )


def atoms(text: str) -> str:
    """Return each element of a formula with its count: "Al:2 O:3"."""
    return " ".join(f"{symbol}:{count or 1}" for symbol, count in re.findall(r"([A-Z][a-z]?)(\d*)", text))
