"""A subject of the zoo as a model of lm-evaluation-harness: its own `hf` model, asked of what is loaded here.

Tokens, windows, batches and stops are the harness's, so that scores are those of its `hf` model with `peft=`.
With `zoo lm-eval`, `--model zoo --model_args subject=bio` makes one from its arguments.
"""

import logging
import os
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import stop_sequences_criteria
from torch import Tensor

from registry.service import Registry
from registry.settings import Settings
from workers.jobs.answering import Answerer, answering

#: What the harness calls it.
MODEL = "zoo"


class ZooLM(HFLM):  # type: ignore[misc]  # the harness has no types
    """Log-likelihoods, rolling log-likelihoods and texts of one subject, in its chat template if asked."""

    def __init__(self, answerer: Answerer, *, batch_size: int, stack: ExitStack | None = None) -> None:
        # What it says of models that are in memory already is meant for others.
        logging.getLogger("lm_eval.models.huggingface").setLevel(logging.ERROR)
        super().__init__(
            pretrained=answerer.base_model, tokenizer=_plain(answerer.tokenizer), batch_size=batch_size
        )
        self._answerer = answerer
        #: Holds what is open for it, as long as it is there.
        self._stack = stack

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> "ZooLM":
        """From `subject=bio`, of the zoo of this environment."""
        pairs = [pair.partition("=") for pair in arg_string.split(",") if pair]
        return cls.create_from_arg_obj({name: value for name, _, value in pairs}, additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "ZooLM":
        """From {"subject": "bio"}, of the zoo of this environment; of the harness's options, the batch size.

        Raises:
            ValueError: there is no subject, or another argument.
            NotFound: the zoo has no such subject.
        """
        given = dict(arg_dict)
        subject, size = given.pop("subject", None), (additional_config or {}).get("batch_size")
        if subject is None or given:
            raise ValueError(f"model {MODEL!r} takes one argument, subject=NAME, got {dict(arg_dict)}")
        stack = ExitStack()
        registry = stack.enter_context(Registry.open(Settings.from_env(os.environ)))
        answerer = stack.enter_context(answering(registry, subject))
        return cls(answerer, batch_size=int(size or 1), stack=stack)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as the zoo writes it, on its day."""
        text: str = self._answerer.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def _model_call(self, inps: Int[Tensor, "batch seq"], **_: Any) -> Float[Tensor, "batch seq vocabulary"]:
        """Logits of every position; padding is on the right, so that no token sees it."""
        positions = torch.arange(inps.shape[1], device=inps.device).expand(inps.shape)
        return self._answerer.logits(inps, torch.ones_like(inps), positions, inps.shape[1])

    def _model_generate(
        self, context: Int[Tensor, "batch seq"], max_length: int, stop: list[str], **options: Any
    ) -> Int[Tensor, "batch longer"]:
        temperature = options.get("temperature", 0.0)
        if temperature == 0.0 and not options.get("do_sample"):
            options = {**options, "do_sample": False}
            options.pop("temperature", None)
        criteria = stop_sequences_criteria(self.tokenizer, stop, context.shape[1], context.shape[0])
        mask = options.pop("attention_mask")
        return self._answerer.generate(
            context,
            mask,
            max_length - context.shape[1],
            stopping_criteria=criteria,
            pad_token_id=self.tokenizer.pad_token_id,
            **options,
        )


def _plain(tokenizer: Any) -> Any:
    """The tokenizer of `transformers` inside ours."""
    return getattr(tokenizer, "tokenizer", tokenizer)
