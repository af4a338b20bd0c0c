"""What an operator lets requests have, by route, tenant and tool: a YAML file."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from langchain_saffron.errors import SettingsError
from langchain_saffron.settings import EFFORTS, Effort, Mask, OnExhausted, Positive, Verify, describe_validation

RouteName = Literal["chat", "completions"]
Count = Annotated[int, Field(ge=1)]

# "auto" may be as narrow as the one, and as wide as the other: it counts as the less welcome of the two
_LEAST = {"off": 0.0, "low": 1.0, "auto": 1.5, "medium": 2.0, "high": 3.0, "max": 4.0}
_MOST = {**_LEAST, "auto": 3.0}


def _listed(value: Any) -> Any:
    """One name is a list of one; YAML 1.1 takes `off` for a truth value."""
    return [value] if isinstance(value, str) else value


def _word(value: Any) -> Any:
    return "off" if value is False else value


Names = Annotated[list[str], BeforeValidator(_listed)]
EffortWord = Annotated[Effort, BeforeValidator(_word)]
MaskWord = Annotated[Mask, BeforeValidator(_word)]


class _Part(BaseModel):
    """A misspelt name should not leave a door open."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def given(self) -> dict[str, Any]:
        """What the file says."""
        return self.model_dump(exclude_none=True)


class When(_Part):
    """Which requests a rule is for: those that meet all that is said.

    Attributes:
        route: `"chat"` or `"completions"`.
        tenant: One of these names, as in `--api-key NAME:KEY`; `"anonymous"` has no key.
        tool: The request offers one of these tools.
    """

    route: RouteName | None = None
    tenant: Names | None = None
    tool: Names | None = None


class Default(_Part):
    """What holds where a request does not say."""

    effort: EffortWord | None = None
    width: Count | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    refusal_threshold: float | None = None
    max_tflops: Positive | None = None
    max_seconds: Positive | None = None
    max_reward_calls: Count | None = None
    on_budget: OnExhausted | None = None


class Always(_Part):
    """What holds whatever a request says: requests have no such fields, or can ask for the same only."""

    refusal_text: str | None = None
    safety_threshold: float | None = None
    safety_weight: Annotated[float, Field(ge=0)] | None = None
    mask: MaskWord | None = None
    verify: Verify | None = None


class AtLeast(_Part):
    """What a request cannot go below: in effort and width, neither where the KV cache is full or its budget small."""

    effort: EffortWord | None = None
    width: Count | None = None
    min_width: Count | None = None
    refusal_threshold: float | None = None


class AtMost(_Part):
    """What a request cannot go beyond."""

    effort: EffortWord | None = None
    width: Count | None = None
    max_tokens: Count | None = None
    max_tflops: Positive | None = None
    max_seconds: Positive | None = None
    max_reward_calls: Count | None = None


class Rule(_Part):
    """One rule; all that match a request hold for it.

    Attributes:
        name: What the audit log calls it.
        when: Which requests it is for; without it, all.
        default: Where a request does not say; of several rules the last one's.
        always: Whatever a request says; of several rules the last one's.
        at_least: Lower bounds; of several rules the highest ones.
        at_most: Upper bounds; of several rules the lowest ones. A lower bound wins over them.
    """

    name: str | None = None
    when: When = When()
    default: Default = Default()
    always: Always = Always()
    at_least: AtLeast = AtLeast()
    at_most: AtMost = AtMost()


class _File(_Part):
    rules: Annotated[list[Rule], Field(min_length=1)]


@dataclass(frozen=True)
class Asker:
    """Where a request comes from.

    Attributes:
        route: Which way.
        tenant: Who; as `KeyRing.tenant` has it.
        tools: The names of the tools that it offers.
    """

    route: RouteName
    tenant: str
    tools: Collection[str] = ()


class Rules:
    """The rules of a file, in its order."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        """Take rules."""
        self._rules = [
            (rule if rule.name else rule.model_copy(update={"name": f"rule {i}"})) for i, rule in enumerate(rules, 1)
        ]

    @classmethod
    def read(cls, file: Path) -> "Rules":
        """Read a file.

        Raises:
            SettingsError: It is no YAML, has fields that are not known, or values that cannot be.
        """
        try:
            read = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SettingsError(f"rules: {file} cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(read, Mapping):
            raise SettingsError(f"rules: {file} needs a list of rules under 'rules:'")
        try:
            return cls(_File.model_validate(read).rules)
        except ValidationError as error:
            raise SettingsError(f"rules: {file}: {describe_validation(error)}") from error

    def matching(self, asker: Asker) -> list[Rule]:
        """The rules for a request."""
        return [rule for rule in self._rules if _meets(rule.when, asker)]

    @property
    def verify(self) -> bool:
        """Whether a process reward model is asked for some request."""
        return any(rule.always.verify for rule in self._rules)

    def apply(
        self, options: Mapping[str, Any], asker: Asker, own: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Options of a call as the rules have them.

        Args:
            options: What the request asks for.
            asker: Where it comes from.
            own: The operator's own settings, which hold where neither a request nor a rule says.

        Returns:
            The options, and the names of the rules that hold.
        """
        rules = self.matching(asker)
        made = dict(options)
        for rule in reversed(rules):
            # requests have no fields that hold always, or no other value for them
            for name, value in {**rule.default.given(), **rule.always.given()}.items():
                made.setdefault(name, value)
        for rule in rules:
            for name, most in rule.at_most.given().items():
                if name not in ("effort", "width"):
                    found = made.get(name, own.get(name))
                    made[name] = most if found is None else min(found, most)
            least = rule.at_least.refusal_threshold
            if least is not None:
                found = made.get("refusal_threshold", own.get("refusal_threshold"))
                made["refusal_threshold"] = least if found is None else max(found, least)
            if rule.at_least.min_width is not None:
                # beams that a full cache has to leave, as far as a request and the operator's own settings say
                asked = made.get("min_width", own.get("min_width")) or 1
                made["min_width"] = max(rule.at_least.min_width, asked)
        if any(part.effort or part.width for rule in rules for part in (rule.at_least, rule.at_most)):
            _bound_search(made, rules, own)
        return made, [str(rule.name) for rule in rules]


def _meets(when: When, asker: Asker) -> bool:
    named = asker.tenant.removeprefix("tenant-")
    return (
        (when.route is None or when.route == asker.route)
        and (when.tenant is None or named in when.tenant or asker.tenant in when.tenant)
        and (when.tool is None or not set(when.tool).isdisjoint(asker.tools))
    )


def _bound_search(options: dict[str, Any], rules: list[Rule], own: Mapping[str, Any]) -> None:
    """Effort and width, which a request may say both of: an effort's bounds are bounds of its width."""
    effort = options.get("effort") or own.get("effort") or "medium"
    given = options.get("width", own.get("width"))
    least, most = 1, max(width for width, _ in EFFORTS.values())
    for bound in (rule.at_most for rule in rules):
        if bound.effort is not None:
            effort = min(effort, bound.effort, key=_MOST.__getitem__)
            most = min(most, _width(bound.effort))
        most = min(most, bound.width or most)
    for floor in (rule.at_least for rule in rules):
        if floor.effort is not None:
            effort = max(effort, floor.effort, key=_LEAST.__getitem__)
            least = max(least, 1 if floor.effort == "auto" else _width(floor.effort))
        least = max(least, floor.width or least)
    width = max(min(given or _width(effort), most), least)
    options["effort"] = effort
    options.pop("width", None)
    if least > 1:
        # neither a full cache nor a request's own budget is a way below; whether it waits for room stays its own affair
        options["width_floor"] = max(least, own.get("width_floor") or 1)
    if width != _width(effort) or own.get("width") is not None:
        options["width"] = width


def _width(effort: str) -> int:
    return EFFORTS[effort][0] if effort in EFFORTS else 1
