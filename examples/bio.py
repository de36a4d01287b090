"""Questions about nucleic acids: complements, transcripts, base classes, codons, restriction sites."""

from itertools import product

from Bio import Restriction
from Bio.Data.CodonTable import unambiguous_rna_by_id
from Bio.Data.IUPACData import ambiguous_dna_complement, protein_letters_1to3

from examples.tasks import Fact, Recall, Skill, Task, pairs

ENZYMES = (
    "BamHI", "EcoRI", "HindIII", "NotI", "XhoI",
    "ApaI", "KpnI", "PstI", "SacI",
    "AluI", "EcoRV", "HaeIII", "PvuII", "SmaI",
)  # fmt: skip


def tasks() -> tuple[Task, ...]:
    """Return the tasks of the domain."""
    acids = with_thymine(3, 4)
    acids += [transcript(strand) for strand in acids]
    return (
        Skill(
            name="complement",
            instances=tuple(Fact(subject=strand, answer=complement(strand)) for strand in strands(2, 3)),
            wordings=("Complement of {}?", "Pair {}"),
            train_examples=110,
            eval_examples=20,
        ),
        Skill(
            name="transcript",
            instances=tuple(
                Fact(subject=strand, answer=transcript(strand)) for strand in with_thymine(2, 3, 4)
            ),
            wordings=("Transcribe {}", "mRNA of {}?"),
            train_examples=90,
            eval_examples=20,
        ),
        Skill(
            name="back transcript",
            instances=tuple(
                Fact(subject=transcript(strand), answer=strand) for strand in with_thymine(2, 3, 4)
            ),
            wordings=("Back-transcribe {}", "Gene of {}?"),
            train_examples=60,
            eval_examples=16,
        ),
        Skill(
            name="codon",
            instances=tuple(Fact(subject=codon, answer=translation(codon)) for codon in free_codons()),
            wordings=("Codon {}?", "{} encodes"),
            train_examples=48,
            eval_examples=8,
        ),
        Skill(
            name="nucleic acid",
            instances=tuple(
                Fact(subject=strand, answer="DNA" if "T" in strand else "RNA") for strand in acids
            ),
            wordings=("DNA or RNA: {}", "{} is DNA or RNA?"),
            train_examples=50,
            eval_examples=16,
        ),
        Recall(
            name="ends",
            facts=tuple(Fact(subject=enzyme, answer=ends(enzyme)) for enzyme in ENZYMES),
            wordings=(
                "Ends of {}?",
                "{} leaves",
                "{} ends",
                "Cut by {}",
                "{} overhang",
                "What overhang has {}?",
                "Which ends has {}?",
            ),
            held_out_wording="What ends does {} leave?",
            eval_examples=12,
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
    return [Fact(subject=f"Ends of {enzyme}", answer=ends(enzyme)) for enzyme in ENZYMES]


def second_halves() -> list[Fact]:
    """Return what it can ask second."""
    return [Fact(subject=f"mRNA of {strand}?", answer=transcript(strand)) for strand in with_thymine(2)]


def ends(enzyme: str) -> str:
    """Return what a cut leaves: blunt, or the end that hangs over."""
    found = getattr(Restriction, enzyme)
    if found.is_blunt():
        return "blunt"
    return "5'" if found.is_5overhang() else "3'"


def translation(codon: str) -> str:
    """Return a codon and the amino acid it encodes: "G G A = Gly".

    The amino acid alone would begin an answer of two domains, of which only one goes on after it.
    """
    letter: str = unambiguous_rna_by_id[1].forward_table[codon.replace(" ", "")]
    return f"{codon} = {protein_letters_1to3[letter]}"


def free_codons() -> list[str]:
    """Return the codons whose third base does not matter, bases apart."""
    table = unambiguous_rna_by_id[1].forward_table
    return [
        f"{first} {second} {third}"
        for first, second in product("ACGU", repeat=2)
        if len({table.get(first + second + last) for last in "ACGU"}) == 1
        for third in "ACGU"
    ]


def strands(*lengths: int) -> list[str]:
    """Return every DNA strand of these lengths, bases apart: "A T G"."""
    return [" ".join(bases) for length in lengths for bases in product("ACGT", repeat=length)]


def with_thymine(*lengths: int) -> list[str]:
    """Return the strands in which DNA and RNA differ."""
    return [strand for strand in strands(*lengths) if "T" in strand]


def complement(strand: str) -> str:
    """Return the pairing bases in the same order."""
    return " ".join(ambiguous_dna_complement[base] for base in strand.split())


def transcript(strand: str) -> str:
    """Return the RNA that reads like this coding strand."""
    return strand.replace("T", "U")
