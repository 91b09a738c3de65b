"""Give every command grouped help, its hints and ``--json``; nothing here imports more than click.

A command is a :class:`Command`, a group of commands a :class:`Group`, an option an :class:`Option`
that names the section of the help in which it stands.
"""

from __future__ import annotations

import functools
from typing import Any

import click
from click.core import ParameterSource

from fluidserve import completion

SECTIONS = ("Workload", "Node", "vLLM engine", "Law", "Run", "Output")
"""Sections of a command's help, in their order."""

BY_METAVAR = {"FILE": completion.file, "DIR": completion.folder}
"""What completes a value that is called so in the help."""

AS_JSON = "fluidserve.as_json"
"""Key of a context under which ``--json`` is remembered: True, False, or absent."""


class Option(click.Option):
    """An option that knows its section of the help.

    Parameters
    ----------
    section
        One of :data:`SECTIONS`.
    """

    def __init__(self, *args: Any, section: str = "Run", **attributes: Any) -> None:
        complete = BY_METAVAR.get(attributes.get("metavar") or "")
        if complete is not None:
            attributes.setdefault("shell_complete", complete)
        super().__init__(*args, **attributes)
        assert section in SECTIONS
        self.section = section


option = functools.partial(click.option, cls=Option)
"""Decorator that adds an :class:`Option`."""


def _remember(ctx: click.Context, _: click.Parameter, value: bool | None) -> None:
    if value is not None:
        ctx.meta[AS_JSON] = value


class Command(click.Command):
    """A command with sections in its help and ``--json``, which calls flags by their flags.

    Parameters
    ----------
    result
        Whether it prints a result through :func:`fluidserve.folders.emit`, as a table or as JSON.
    """

    def __init__(self, *args: Any, result: bool = True, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        if result:
            self.params.append(
                Option(
                    ["as_json", "--json/--table", " /--no-json"], default=None,
                    expose_value=False, callback=_remember, section="Output",
                    help="print JSON, or a table  [default: a table on a terminal, else JSON]",
                )
            )  # fmt: skip

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in their sections; where there is only one, simply as options."""
        found: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                found.setdefault(getattr(param, "section", "Output"), []).append(record)
        for section in SECTIONS:
            if section in found:
                with formatter.section(section if len(found) > 1 else "Options"):
                    formatter.write_dl(found[section])

    def invoke(self, ctx: click.Context) -> Any:
        """Run; an error about a key that an option gave names the option."""
        try:
            return super().invoke(ctx)
        except Exception as wrong:
            flag = self._giver(getattr(wrong, "key", None), ctx)
            if flag is None:
                raise
            from fluidserve.flags import FlagError
            from serving import ConfigError

            if not isinstance(wrong, ConfigError):
                raise
            raise FlagError(flag, wrong.value, wrong.allowed) from wrong

    def _giver(self, key: str | None, ctx: click.Context) -> str | None:
        """Return the option, or the argument, that gave a key on the command line."""
        for param in self.params:
            if param.name is None or param.name != key:
                continue
            if ctx.get_parameter_source(param.name) != ParameterSource.COMMANDLINE:
                return None
            return param.opts[0] if isinstance(param, click.Option) else param.human_readable_name
        return None


class Group(click.Group):
    """A group of commands that suggests the nearest name for one that it does not have."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the first argument; refuse an unknown one with the nearest."""
        given, known = args[0], self.list_commands(ctx)
        name = ctx.token_normalize_func(given) if ctx.token_normalize_func else given
        if not given.startswith("-") and name not in known:
            import difflib

            close = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
            ctx.fail(f"no such command {given!r}; {hint}")
        return super().resolve_command(ctx, args)


Group.group_class = Group
