"""`zoo compositions`: the registry's commands, and an `alias` that moves only to what is no worse."""

from registry.commands import compositions
from workers.commands.evaluation.gated_alias import with_gate

command = with_gate(compositions.command, lambda registry: registry.compositions)
