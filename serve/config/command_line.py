"""Build command lines from frozen dataclasses: flags, help, tab completion and exit statuses.

A command has options, which click passes on as text so that `read` can report all faults at once, and `run`,
which does the work. Their modules are imported when called, so --help loads no model runtime. click is
already a dependency of litestar; typer, cyclopts, jsonargparse and tyro would be further ones, and stop at
the first fault.

Exit status: 0 for success, 1 with a sentence for each fault on standard error, 2 for unknown words on the
command line, 130 when interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Generic, TypeVar

import click
from click.shell_completion import CompletionItem, get_completion_class

from serve.config.reader import Key, keys_of, nearest, shown_default
from serve.config.sources import flag_of, variable_of
from serve.errors import ConfigError, ShrotaError

T = TypeVar("T")

INTERRUPTED = 130
USAGE = 2
SHELLS = ("bash", "zsh", "fish")
COMPLETION_VARIABLE = "_SHROTA_COMPLETE"
WIDTH = 110
"""Longest line of a help text, in letters."""

_WORDS = "_words"  # no flag has this name: a setting may be called words
_DOT = "__"  # replaces the dot of a nested key in parameter names, which must be identifiers


class Text(click.ParamType[str]):
    """Text with tab completion for its kind of value; its check comes later."""

    name = "text"

    def __init__(self, choices: Sequence[str] = (), *, is_path: bool = False) -> None:
        self._choices, self._is_path = choices, is_path

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the choices with this beginning, or let the shell complete file names."""
        if self._is_path:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(choice) for choice in self._choices if choice.startswith(incomplete)]


class Flag(click.Option):
    """An option of a command, and its heading in the help."""

    def __init__(self, *args: Any, heading: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


def flags_of(
    cls: type,
    only: Iterable[str] | None = None,
    *,
    heading: str = "Options",
    prefix: str | None = None,
    bare: bool = False,
    repeated: bool = False,
    choices: Mapping[str, Sequence[str]] | None = None,
) -> list[click.Option]:
    """Return a flag for each field of a dataclass; values stay text, which a reader checks later.

    Args:
        only: Keys that become flags; by default all.
        heading: The flags' heading in the help.
        prefix: Prefix of the environment variables that the help names; None where there are none.
        bare: Make switches take no value, for commands with words that a switch might swallow.
        repeated: Repeat the flag of a field with several values, instead of separating values by commas.
        choices: Values for help and tab completion, of keys whose type does not list them.
    """
    keys = keys_of(cls)
    flags: list[click.Option] = []
    for key in keys.values() if only is None else [keys[name] for name in only]:
        shown = shown_default(key)
        default = {"required": "required", "none": ""}.get(shown, f"default {shown}")
        told = ", ".join(filter(None, (variable_of(key.name, prefix) if prefix is not None else "", default)))
        listed = (choices or {}).get(key.name, ())
        about = f"{key.about} One of {', '.join(listed)}." if listed else key.about
        more: dict[str, Any] = {
            "type": Text(listed or key.choices, is_path=key.is_path),
            "metavar": "NAME" if listed else _metavar(key),
        }
        written = flag_of(key.name)
        if key.is_switch and bare:
            more, written = {}, f"{written}/--no-{written[2:]}"
        elif key.is_switch:
            more |= {"is_flag": False, "flag_value": "true", "type": Text(("true", "false"))}
        elif key.has_many and repeated:
            more["multiple"] = True
        text = f"{about} [{told}]" if told else about
        flags.append(
            Flag([written, key.name.replace(".", _DOT)], help=text, heading=heading, default=None, **more)
        )
    return flags


def config_flag(about: str, heading: str = "Options") -> click.Option:
    """Return the flag that names a file of settings."""
    return Flag(["--config", "config"], help=about, heading=heading, metavar="FILE", type=Text(is_path=True))


def _metavar(key: Key) -> str:
    if key.is_switch:
        return "[true|false]"
    if key.choices:
        return "|".join(key.choices) if not key.has_many else "NAME"
    if key.is_path:
        return "PATH"
    return "NUMBER" if "int" in str(key.kind) or "float" in str(key.kind) else "TEXT"


class Command(click.Command, Generic[T]):
    """A command: its words are parsed into flags, read into a `T`, and run; all faults are reported together.

    Args:
        name: The subcommand of `shrota`.
        read: Turns flags by name into the argument of `run`; raises `ConfigError`.
        examples: One per line, shown at the end of the help.
        words: Name of the field for words without a flag; None where there is none.
        many_words: Whether that field takes several words.
        leaves_at_once: Exit without waiting for threads that are still inside the engine.
        needs: Extra of the package that the command needs, such as `train`.
        on_faults: Called with all faults before they are printed.
    """

    def __init__(
        self,
        name: str,
        *,
        read: Callable[[Mapping[str, Any]], T],
        run: Callable[[T], int],
        about: str,
        examples: str,
        flags: Sequence[click.Option],
        words: str | None = None,
        many_words: bool = False,
        leaves_at_once: bool = False,
        needs: str = "",
        on_faults: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        several = "..." if many_words else ""
        metavar = f"{words.upper()}{several}" if words else ""
        argument = [click.Argument([_WORDS], nargs=-1, metavar=metavar, type=Text(is_path=True))]
        super().__init__(
            name,
            params=[*(argument if words else []), *flags],
            help=about,
            epilog=examples,
            context_settings={
                "allow_extra_args": True,
                "ignore_unknown_options": True,
                "help_option_names": ["-h", "--help"],
                "max_content_width": WIDTH,
                "token_normalize_func": lambda name: name.replace("_", "-"),
            },
        )
        self._read, self._run = read, run
        self._words, self._many_words = words, many_words
        self._leaves_at_once, self._needs, self._on_faults = leaves_at_once, needs, on_faults

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse words into flags; faults are collected and reported later, with all others."""
        rest, faults = list(args), []
        while True:
            try:
                super().parse_args(ctx, list(rest))
                break
            except click.BadOptionUsage as error:
                faults.append(f"{error.option_name} lacks its value")
                rest.pop()  # only the last word can lack one
        words, strays = self._sorted_words([*ctx.params.pop(_WORDS, ()), *ctx.args])
        flags = {
            name.replace(_DOT, "."): value for name, value in ctx.params.items() if value not in (None, ())
        }
        if self._words and words and self._many_words:
            flags.setdefault(self._words, tuple(words))
        elif self._words and words:
            flags.setdefault(self._words, words.pop(0))
            strays += [f"'{word}' is one word too many" for word in words]
        else:
            strays += [f"'{word}' is not an option; options are written --name value" for word in words]
        ctx.params, ctx.args = {"flags": flags, "faults": [*faults, *strays]}, []
        return []

    def _sorted_words(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the words that are not flags, and a fault for each unknown flag."""
        known = [opt for param in self.params for opt in param.opts if opt.startswith("--")]
        kept, faults, rest = [], [], list(words)
        while rest:
            word = rest.pop(0)
            if not word.startswith("-") or word == "-":
                kept.append(word)
                continue
            name, equals, _ = word.partition("=")
            faults.append(f"{name} is not an option{nearest(name, known, '--')}")
            if rest and not equals and not rest[0].startswith("-"):
                rest.pop(0)  # probably its value
        return kept, faults

    def invoke(self, ctx: click.Context) -> int:
        """Read the flags and run the command.

        Raises:
            ConfigError: Lists every fault.
            ShrotaError: The command failed.
        """
        flags, faults = ctx.params["flags"], ctx.params["faults"]
        kind = UsageFaults if faults else ConfigError
        if self._leaves_at_once and isinstance(ctx.obj, dict):
            ctx.obj["leaves_at_once"] = True
        try:
            try:
                options = self._read(flags)
            except ConfigError as error:
                faults += error.faults
            if not faults:
                return self._run(options)
        except ModuleNotFoundError as error:
            raise missing_extra(error, self.name or "", self._needs) from error
        if self._on_faults is not None:
            self._on_faults(faults)
        raise kind(faults)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        headings: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                headings.setdefault(getattr(param, "heading", "Options"), []).append(record)
        for heading, records in headings.items():
            with formatter.section(heading):
                formatter.write_dl(records, col_max=34)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self.epilog, formatter)


def _write_examples(examples: str | None, formatter: click.HelpFormatter) -> None:
    with formatter.section("Examples"):
        for line in (examples or "").strip().splitlines():
            formatter.write(f"  {line}\n")


class UsageFaults(ConfigError):
    """Faults, at least one of which is an unknown word."""


def missing_extra(error: ModuleNotFoundError, command: str, extra: str) -> ShrotaError:
    """Return an error that says which extra to install; raise `error` itself where none would help."""
    package = (error.name or "").partition(".")[0]
    if not extra or package in ("serve", "train", ""):
        raise error
    return ShrotaError(f"`shrota {command}` needs {package}: pip install 'shrota[{extra}]' brings it")


class Commands(click.Group):
    """A group of commands, each imported when it is called.

    Args:
        table: Name -> (`module:attribute`, what the command does, the extra it needs).
    """

    def __init__(self, table: Mapping[str, tuple[str, str, str]], *, about: str, examples: str) -> None:
        completion = click.Option(
            ["--completion"],
            type=click.Choice(SHELLS),
            help="Print the script that completes words at the Tab key.",
            is_eager=True,
            expose_value=False,
            callback=self._print_completion,
        )
        super().__init__(
            "shrota",
            help=about,
            epilog=examples,
            params=[completion],
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
        )
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of that name."""
        if cmd_name not in self._table:
            return None
        dotted, _, extra = self._table[cmd_name]
        module, _, attribute = dotted.partition(":")
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise missing_extra(error, cmd_name, extra) from error
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; the error for an unknown one suggests the nearest name."""
        if args and not args[0].startswith("-") and args[0] not in self._table:
            raise UsageFaults([f"'{args[0]}' is not a command of shrota{nearest(args[0], self._table)}"])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table's descriptions, without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about, _) in self._table.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self.epilog, formatter)

    def _print_completion(self, ctx: click.Context, param: click.Parameter, shell: str | None) -> None:
        kind = get_completion_class(shell) if shell else None
        if kind is not None:
            click.echo(kind(self, {}, "shrota", COMPLETION_VARIABLE).source())
            ctx.exit()


def run_command(command: click.Command, arguments: Sequence[str], state: dict[str, Any] | None = None) -> int:
    """Run a command and return the exit status; faults are printed, one per line."""
    name = command.name if isinstance(command, Commands) else f"shrota {command.name}"
    try:
        status = command.main(
            list(arguments),
            prog_name=name,
            complete_var=COMPLETION_VARIABLE,
            standalone_mode=False,
            obj={} if state is None else state,
        )
        return int(status or 0)
    except ConfigError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        return USAGE if isinstance(error, UsageFaults) else 1
    except ShrotaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.UsageError as error:
        print(f"error: {error.format_message()}", file=sys.stderr)
        return USAGE
    except click.Abort:
        return INTERRUPTED


def exit_with(command: click.Command) -> None:
    """Run a command with the process's arguments, and exit with its status."""
    state: dict[str, Any] = {}
    status = run_command(command, sys.argv[1:], state)
    sys.stdout.flush()
    sys.stderr.flush()
    if state.get("leaves_at_once"):
        # Not sys.exit, which would wait for threads inside a matrix product or an ffmpeg process.
        os._exit(status)
    sys.exit(status)
