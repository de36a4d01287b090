"""`zoo adapters`: the registry's commands, and an `alias` that moves only to what is no worse."""

from registry.commands import adapters
from workers.commands.evaluation.gated_alias import with_gate

command = with_gate(adapters.command, lambda registry: registry.adapters)
