"""`zoo compositions`: the commands it has already, and `rebuild`, which is imported when it is asked for."""

import click

from workers.commands.evaluation.compositions import command as registered

_REBUILD = "rebuild"


class Compositions(click.Group):
    """The same group with one command more, for listing must not wait for what composing imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, sorted."""
        return sorted([*super().list_commands(ctx), _REBUILD])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import `rebuild`; the others are there."""
        if cmd_name != _REBUILD:
            return super().get_command(ctx, cmd_name)
        from workers.rebuilding.command import command as rebuild

        return rebuild


command = Compositions(name=registered.name, help=registered.help, commands=registered.commands)
