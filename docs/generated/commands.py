"""The command line as one tree, each command by its name: `zoo` itself imports them when they are used."""

import copy

import click

import zoo


def _tree() -> click.Group:
    group = click.Group("zoo", help=zoo.cli.help, params=zoo.cli.params)
    context = click.Context(zoo.cli)
    for name in zoo.TABLE:
        command = copy.copy(zoo.cli.get_command(context, name))
        if command is None:
            raise LookupError(f"zoo has no command {name!r}")
        command.name = name
        group.add_command(command)
    return group


cli = _tree()
