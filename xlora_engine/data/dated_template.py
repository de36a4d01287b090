"""A tokenizer whose chat template is told one fixed date, so that equal conversations have equal tokens.

Some templates (Llama 3.2's, for one) write today's date into the system message: `transformers` offers them a
`strftime_now` that reads the clock, and takes no function of another's. So a macro of that name is put before
such a template. One that is given no date and names one itself keeps that one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cached_property
from typing import Any

#: What a template asks for the date.
_CLOCK = "strftime_now"
#: Directives of `strftime`, those without leading zeros first.
_DIRECTIVES = (
    *(f"%-{letter}" for letter in "dmHIMSj"),
    *(f"%{letter}" for letter in "aAbBcdfGHIjmMpSuUVwWxXyYzZ"),
)
#: Stands for `%%` while directives are replaced.
_PERCENT = "\ue000"


@dataclass(frozen=True, kw_only=True)
class DatedTokenizer:
    """A tokenizer of `transformers` for which it is always the beginning of one day."""

    tokenizer: Any
    today: date

    @property
    def date_written(self) -> date | None:
        """The date that the chat template writes; None if it asks for none."""
        return self.today if _CLOCK in self._template else None

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> Any:
        """As the tokenizer does it on that day."""
        if self.date_written is not None:
            kwargs["chat_template"] = self._dated_template
        return self.tokenizer.apply_chat_template(conversation, **kwargs)

    def __call__(self, text: str, **kwargs: Any) -> Any:
        """Text as tokens."""
        return self.tokenizer(text, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """All else that is asked of a tokenizer: the tokenizer's."""
        return getattr(self.tokenizer, name)

    @property
    def _template(self) -> str:
        stated = self.tokenizer.chat_template
        return str(stated.get("default") if isinstance(stated, Mapping) else stated)

    @cached_property
    def _dated_template(self) -> str:
        now = datetime.combine(self.today, time())
        values = {"%%": _PERCENT, **{one: now.strftime(one) for one in _DIRECTIVES}, _PERCENT: "%"}
        replaced = "".join(f".replace({what!r}, {value!r})" for what, value in values.items())
        macro = f"{{% macro {_CLOCK}(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}"
        # Jinja drops the newline after a block, so the template's own beginning stays as it is.
        return f"{macro}\n{self._template}"
