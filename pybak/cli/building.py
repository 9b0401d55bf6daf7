"""A click command made from settings: options, help in groups, and the merging of all layers.

click only cuts the line into words; every value is checked by the model, so that a wrong one is
told in the same words wherever it came from.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from pybak.cli.config_file import read_config
from pybak.cli.output import View, print_text
from pybak.cli.settings import Given, Setting, build_options, collect, settings_of

if TYPE_CHECKING:
    from pydantic import BaseModel

HELP_COLUMNS: Final = 80
_OPTION_COLUMNS: Final = 26
LAYERS: Final = """\
Most options, but none under "This command", can also come from the environment (PYBAK_LEVEL is
--level; lists are separated by colons or line ends, addresses of storages by line ends) or from the
--config file (level: 6). The command line beats the environment, which beats the file."""
_EPILOG: Final = f"""\
{LAYERS}

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partial (some files are missing, all are listed),
10 not found, 11 job is running, 12 wrong password or none, 130 interrupted."""


@dataclass(frozen=True)
class Parsed:
    """What a command line and its surroundings came to."""

    options: BaseModel | None
    given: Mapping[str, Given]
    view: View


class PyBakCommand(click.Command):
    """A command whose help shows its options in groups; `program` is how people call it."""

    def __init__(
        self,
        *args: Any,
        program: str,
        groups: Mapping[str, Sequence[str]],
        usage: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.program = program
        self.groups = groups
        self.usage = usage

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first line of the help."""
        formatter.write_usage(ctx.command_path, self.usage)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each group; what no group names stands in the last one."""
        params = {param.name: param for param in self.get_params(ctx)}
        named = {name for names in self.groups.values() for name in names}
        last = list(self.groups)[-1]
        for title, names in self.groups.items():
            rest = [name for name in params if title == last and name not in named]
            records = [
                # The same first column in all groups.
                (f"{record[0]:<{_OPTION_COLUMNS}}", record[1])
                for name in (*names, *rest)
                if name in params and (record := params[name].get_help_record(ctx)) is not None
            ]
            with formatter.section(title):
                formatter.write_dl(records, col_max=_OPTION_COLUMNS)


class _Argument(click.Argument):
    """The words that belong to no option; how many there may be is the command's to say."""

    def __init__(self, setting: Setting) -> None:
        super().__init__([setting.name], nargs=-1)
        self.setting = setting

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:  # noqa: ARG002
        """Give the two columns of the help."""
        return self.setting.metavar, self.setting.help


class _Option(click.Option):
    """An option that keeps quiet about its `--no-` form and shows the model's words."""

    def __init__(self, setting: Setting) -> None:
        declarations = list(setting.option_names)
        if setting.flag:
            declarations[-1] += f"/--no-{setting.label.removeprefix('--')}"
        more: dict[str, Any] = {"is_flag": True} if setting.flag else {"multiple": setting.many}
        if setting.bare is not None:
            more = {"is_flag": False, "flag_value": setting.bare}
        super().__init__([setting.name, *declarations], default=None, help=setting.help, **more)
        self.setting = setting

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:  # noqa: ARG002
        """Give the two columns of the help."""
        setting = self.setting
        names = ", ".join(setting.option_names)
        if all(name.startswith("--") for name in setting.option_names):
            names = "    " + names
        more = [f"default: {setting.default}"] if setting.default else []
        more += ["may be repeated"] if setting.many else []
        notes = f"  [{'; '.join(more)}]" if more else ""
        return f"{names} {setting.metavar}".rstrip(), setting.help + notes


def build_command(
    name: str,
    model: type[BaseModel] | None,
    *,
    about: str,
    usage: str,
    extras: Sequence[Setting],
    groups: Mapping[str, Sequence[str]],
    run: Callable[[Parsed], int],
    settle: Callable[[dict[str, Given], Sequence[str]], Mapping[str, Given]] | None = None,
    program: str = "",
    epilog: str = _EPILOG,
) -> PyBakCommand:
    """Make the command `name`: the fields of `model`, if any, and `extras`, which are its own.

    The one extra without option names is the command's argument. `groups` maps the help's
    headings to the names of settings; what none names stands under the last heading. `settle`
    gets what all layers gave together and the words of the line, before values are checked, and
    gives what counts. A command that no group offers `config` reads no configuration file.
    """
    settings = (*extras, *(settings_of(model) if model else ()))
    known = [setting.name for setting in settings if setting.in_file]
    has_config = any("config" in names for names in groups.values())

    def callback(**words: Any) -> int:
        path = words.pop("config", None)
        view = View(json=words.pop("json"), quiet=words.pop("quiet"), debug=words.pop("debug"))
        config = read_config(path, known) if path else {}
        given: Mapping[str, Given] = collect(settings, words, os.environ, config, path)
        if settle is not None:
            given = settle(dict(given), click.get_current_context().obj or ())
        return run(Parsed(build_options(model, given) if model else None, given, view))

    params: list[click.Parameter] = [
        _Option(setting) if setting.option_names else _Argument(setting) for setting in settings
    ]
    return PyBakCommand(
        name,
        callback=callback,
        params=[*params, *_common_options(has_config=has_config)],
        help=about,
        epilog=epilog,
        add_help_option=False,
        context_settings={"max_content_width": HELP_COLUMNS},
        program=program or f"python flows/{name}.py",
        groups=groups,
        usage=usage,
    )


def _common_options(*, has_config: bool) -> list[click.Parameter]:
    def show_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001
        if value:
            print_text(ctx.get_help() + "\n", sys.stdout)
            ctx.exit()

    def show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001
        if value:
            from pybak import __version__

            print_text(f"pybak {__version__}\n", sys.stdout)
            ctx.exit()

    config = Setting(
        "config",
        "Read settings from this YAML or JSON file.",
        ("--config",),
        metavar="FILE",
    )
    return [
        *([_Option(config)] if has_config else []),
        _Flag("json", "--json", about="Print one JSON object on stdout and nothing else."),
        _Flag("quiet", "--quiet", about="Say nothing unless something went wrong."),
        _Flag("debug", "--debug", about="Show all log lines, and a traceback on errors."),
        _Flag("version", "--version", about="Show the version.", callback=show_version),
        _Flag("help", "-h", "--help", about="Show this help.", callback=show_help),
    ]


class _Flag(click.Option):
    """A flag of every command; those with a callback act at once and give no value."""

    def __init__(
        self,
        name: str,
        *names: str,
        about: str,
        callback: Callable[..., None] | None = None,
    ) -> None:
        super().__init__(
            [name, *names],
            is_flag=True,
            help=about,
            callback=callback,
            is_eager=callback is not None,
            expose_value=callback is None,
        )

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:  # noqa: ARG002
        """Give the two columns of the help."""
        names = ", ".join(self.opts)
        return (names if len(self.opts) > 1 else "    " + names), self.help or ""
