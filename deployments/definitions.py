"""The deployments of prefect.yaml, as values: what `deploy.py` and `serve.py` both work from.

The file is in Prefect's format (https://docs.prefect.io/v3/how-to-guides/deployments/prefect-yaml),
in part: what is not listed here is refused, because Prefect ignores what it does not know.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pybak.errors import PlanError

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.actions import DeploymentScheduleCreate

FILE: Final = Path(__file__).with_name("prefect.yaml")
POOL_TYPE: Final = "process"
DESTINATION: Final = "backups"
"""The block that archives go to when nothing else is said."""
MAIL: Final = "PYBAK_DEPLOY_MAIL"
_TO: Final = "PYBAK_DEPLOY_TO"

_PLACEHOLDER: Final = re.compile(r"\{\{\s*\$(\w+)\s*\}\}")
_DEFAULTS: Final[Mapping[str, str]] = {
    "PYBAK_DEPLOY_SOURCE": "~/Documents",
    _TO: f"block:{DESTINATION}",
    "PYBAK_DEPLOY_JOB": "documents",
    "PYBAK_DEPLOY_INBOX": "~/pybak-inbox",
    "PYBAK_DEPLOY_MIRROR_TO": "~/Mirror",
    "PYBAK_DEPLOY_SCRATCH": "",
    "PYBAK_DEPLOY_OFFSITE": "block:offsite",
    "PYBAK_DEPLOY_PASSWORD_BLOCK": "",
    MAIL: "",
    "PYBAK_DEPLOY_WEBHOOK": "",
    "PYBAK_DEPLOY_PING": "",
}
_LOCAL_TIME: Final = Path("/etc/localtime")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limit(_Strict):
    """How many runs of a deployment work at once, and what becomes of more."""

    limit: int = Field(ge=1)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"]
    grace_period_seconds: int = Field(ge=60, le=86400)


class Timing(_Strict):
    """One schedule: an interval in seconds, or a cron line."""

    slug: str
    interval: int | None = Field(default=None, gt=0)
    anchor_date: str | None = None
    cron: str | None = None
    timezone: str | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> Timing:
        if (self.interval is None) == (self.cron is None):
            raise ValueError("give an interval or a cron line")
        if (self.interval is None) != (self.anchor_date is None):
            # Without one it would count from when it is deployed, so that it changed each time.
            raise ValueError("an interval needs an anchor_date, and nothing else has one")
        return self

    def schedule(self) -> DeploymentScheduleCreate:
        """Give it as Prefect's client takes it."""
        from prefect.client.schemas.actions import DeploymentScheduleCreate

        kept = self.model_dump(exclude_none=True, exclude={"slug"})
        return DeploymentScheduleCreate.model_validate({"schedule": kept, "slug": self.slug})


class WorkPool(_Strict):
    """Who works on the runs."""

    name: str
    job_variables: dict[str, Any] = Field(default_factory=dict)


class Definition(_Strict):
    """One deployment."""

    name: str
    description: str
    entrypoint: str = Field(pattern=r"^flows\.\w+:\w+$")
    pull: list[Any] = Field(max_length=0)
    tags: list[str]
    parameters: dict[str, Any]
    paused: bool = False
    schedules: list[Timing]
    concurrency_limit: Limit
    work_pool: WorkPool

    @property
    def flow_name(self) -> str:
        """The flow's name, which is that of its function."""
        return self.entrypoint.partition(":")[2]

    @property
    def full_name(self) -> str:
        """The name that Prefect's commands take."""
        return f"{self.flow_name}/{self.name}"

    @cached_property
    def flow(self) -> Flow[..., Any]:
        """The flow itself, imported now."""
        module, _, function = self.entrypoint.partition(":")
        found: Flow[..., Any] = getattr(import_module(module), function)
        return found

    @property
    def missing(self) -> list[str]:
        """The local folders and files that it reads and that are not on this machine."""
        given = self.parameters
        read = [*given.get("sources", []), *filter(None, [given.get("source")])]
        return [one for one in read if _is_local(one) and not os.path.lexists(one)]

    def check_parameters(self) -> None:
        """Raise PlanError if the flow would not take the parameters."""
        from prefect.exceptions import ParameterTypeError
        from prefect.utilities.callables import get_call_parameters

        try:
            get_call_parameters(self.flow.fn, (), self.parameters)
            self.flow.validate_parameters(self.parameters)
        except (ParameterTypeError, TypeError, ValueError) as error:
            raise PlanError(f"{self.name}: the flow takes no such parameters: {error}") from error


class _File(_Strict):
    name: str
    definitions: dict[str, Any] = Field(default_factory=dict)
    deployments: list[Definition]


def load(environ: Mapping[str, str] = os.environ, file: Path = FILE) -> list[Definition]:
    """Read the deployments, with the variables of `environ` or their defaults filled in.

    Raises PlanError, which names each place that is wrong.
    """
    import yaml

    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        found = _File.model_validate(_filled(raw, variables(environ)))
    except OSError as error:
        raise PlanError(f"{file}: can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanError(f"{file}: is no YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise PlanError(f"{file}: {_said(error)}") from None
    names = [one.name for one in found.deployments]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PlanError(f"{file}: two deployments are called {', '.join(twice)}; rename one")
    return found.deployments


def choose(definitions: Sequence[Definition], words: Sequence[str]) -> list[Definition]:
    """Give those that the words name: a flow, a deployment, or FLOW/DEPLOYMENT. No words: all.

    Raises PlanError for a word that names none.
    """
    known = {
        word
        for one in definitions
        for word in (one.flow_name, one.name, one.full_name)
    }  # fmt: skip
    if unknown := [word for word in words if word not in known]:
        there = ", ".join(sorted(one.full_name for one in definitions))
        raise PlanError(f"{', '.join(unknown)}: no such deployment; there are {there}")
    return [
        one
        for one in definitions
        if not words or {one.flow_name, one.name, one.full_name} & set(words)
    ]


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Give the variables that the files may name, with their defaults; a leading ~ is expanded."""
    given = {name: value for name, value in environ.items() if value}
    archives = given.get(_TO, _DEFAULTS[_TO]).rstrip("/")
    known = {
        **_DEFAULTS, "PYBAK_DEPLOY_TIMEZONE": local_timezone(environ),
        "PYBAK_DEPLOY_INBOX_TO": f"{archives}/inbox",
    }  # fmt: skip
    values = {**known, **given}
    at_home = {
        name: str(Path(values[name]).expanduser()) for name in known if values[name][:1] == "~"
    }
    return {**values, **at_home}


def local_timezone(environ: Mapping[str, str], link: Path = _LOCAL_TIME) -> str:
    """Give this machine's time zone by its name, such as Europe/Berlin; UTC if it has none."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    candidates = [environ.get("TZ", "").removeprefix(":")]
    if link.is_symlink():
        candidates.append(os.fspath(link.readlink()).partition("zoneinfo/")[2])
    for name in filter(None, candidates):
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            continue
        return name
    return "UTC"


def filled(text: str, values: Mapping[str, str]) -> str:
    """Put the values of variables into a text; one that has none becomes nothing."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], ""), text)


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    """Fill in a whole document, and leave out what is empty only because its variable is."""
    if isinstance(value, str):
        return filled(value, values)
    if isinstance(value, dict):
        done = {key: (item, _filled(item, values)) for key, item in value.items()}
        return {key: new for key, (old, new) in done.items() if new != "" or old == ""}
    if isinstance(value, list):
        both = [(item, _filled(item, values)) for item in value]
        return [new for old, new in both if new != "" or old == ""]
    return value


def _is_local(place: str) -> bool:
    return ":" not in place.partition("/")[0]


def _said(error: ValidationError) -> str:
    """Tell what is wrong, by place, in one line; without the values."""
    parts = []
    for one in error.errors(include_url=False, include_input=False):
        where = ".".join(str(step) for step in one["loc"])
        unknown = one["type"] == "extra_forbidden"
        parts.append(f"{where}: {'unknown key' if unknown else one['msg'].lower()}")
    return "; ".join(parts)
