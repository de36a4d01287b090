"""Questions about amino acids: codes, spelling peptides, hydropathy, charge."""

from itertools import product

from Bio.Data.IUPACData import protein_letters_1to3
from Bio.SeqUtils.IsoelectricPoint import negative_pKs, positive_pKs
from Bio.SeqUtils.ProtParamData import kd

from examples.tasks import Fact, Recall, Skill, Task, pairs

PH = 7.0
NAMES = {
    "A": "alanine", "R": "arginine", "N": "asparagine", "D": "aspartate", "C": "cysteine",
    "Q": "glutamine", "E": "glutamate", "G": "glycine", "H": "histidine", "I": "isoleucine",
    "L": "leucine", "K": "lysine", "M": "methionine", "F": "phenylalanine", "P": "proline",
    "S": "serine", "T": "threonine", "W": "tryptophan", "Y": "tyrosine", "V": "valine",
}  # fmt: skip


def tasks() -> tuple[Task, ...]:
    """Return the tasks of the domain."""
    twos = [*product(NAMES, repeat=2)]
    return (
        Skill(
            name="abbreviate",
            instances=tuple(Fact(subject=named(p), answer=spelled(p)) for p in twos),
            wordings=("Abbreviate {}", "Peptide: {}"),
            train_examples=90,
            eval_examples=20,
        ),
        Skill(
            name="expand",
            instances=tuple(Fact(subject=spelled(p), answer=named(p)) for p in twos),
            wordings=("Expand {}", "Residues of {}?"),
            train_examples=60,
            eval_examples=20,
        ),
        Skill(
            name="letters",
            instances=tuple(Fact(subject=named(p), answer=" ".join(p)) for p in twos),
            wordings=("Letters: {}", "One-letter codes of {}?"),
            train_examples=90,
            eval_examples=20,
        ),
        Skill(
            name="spell out",
            instances=tuple(Fact(subject=" ".join(p), answer=spelled(p)) for p in twos),
            wordings=("Spell out {}", "Three-letter codes: {}"),
            train_examples=80,
            eval_examples=16,
        ),
        Recall(
            name="side chain",
            facts=tuple(Fact(subject=name, answer=side_chain(letter)) for letter, name in NAMES.items()),
            wordings=(
                "{} side chain",
                "Side chain of {}?",
                "Class of {}?",
                "{} class",
                "What class has {}?",
                "Which side chain has {}?",
            ),
            held_out_wording="What kind of side chain has {}?",
            eval_examples=20,
        ),
        Skill(
            name="two questions",
            instances=pairs(first_halves(), second_halves(), between="; "),
            wordings=("{}",),
            train_examples=50,
            eval_examples=10,
        ),
    )


def first_halves() -> list[Fact]:
    """Return what a question of two halves can ask first."""
    return [Fact(subject=f"Letter of {name}", answer=letter) for letter, name in NAMES.items()]


def second_halves() -> list[Fact]:
    """Return what it can ask second."""
    return [Fact(subject=f"class of {name}?", answer=side_chain(letter)) for letter, name in NAMES.items()]


def named(peptide: tuple[str, ...]) -> str:
    """Return the residues by name: "lysine, tryptophan"."""
    return ", ".join(NAMES[letter] for letter in peptide)


def side_chain(letter: str) -> str:
    """Return the class of the residue."""
    return {"+": "basic", "-": "acidic"}.get(charge(letter)) or ("hydrophobic" if kd[letter] > 0 else "polar")


def spelled(peptide: tuple[str, ...]) -> str:
    """Return the three-letter codes: "Lys-Trp-Met"."""
    return "-".join(protein_letters_1to3[letter] for letter in peptide)


def charge(letter: str) -> str:
    """Return +, - or 0."""
    if positive_pKs.get(letter, 0) > PH:
        return "+"
    return "-" if negative_pKs.get(letter, PH) < PH else "0"
