"""An X-LoRA model apart from its base: what every format on disk is read into and written from."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from xlora_engine.config import XLoraConfig
from xlora_engine.errors import SavedFileUnreadable
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.saved.reload_check import ReloadCheck
from xlora_engine.sources.adapter_weights import Expert
from xlora_engine.sources.hub import looks_like_repository


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """Configuration, experts and scaling head, read and verified; what a format leaves out is None."""

    config: XLoraConfig
    experts: tuple[Expert, ...]
    #: `layers.0.weight`, `layers.0.bias`, … as `ScalingHead` names them.
    head: dict[str, Tensor]
    #: Paths of the wrapped modules, in the order of the head's layer axis.
    layers: tuple[str, ...] | None = None
    #: The base model's name on the hub.
    base_id: str | None = None
    #: The base model's folder, where a format is to write it beside the experts.
    base_folder: Path | None = None
    #: The name of the base model's class.
    architecture: str | None = None
    reload_check: ReloadCheck | None = None

    @classmethod
    def of(cls, model: Mixture, *, with_reload_check: bool = False) -> "SavedModel":
        """A model as it is now, its experts as trained since; tensors are shared with it.

        The reload check runs the model once on a few tokens.
        """
        return cls(
            config=model.config,
            experts=tuple(replace(expert, updates=model.updates_of(expert)) for expert in model.experts),
            head={name: tensor.detach() for name, tensor in model.head.state_dict().items()},
            layers=tuple(model.layers),
            base_id=_hub_name(model.base.name_or_path),
            architecture=type(model.base).__name__,
            reload_check=ReloadCheck.of(model) if with_reload_check else None,
        )

    def restore(self, model: Mixture, *, verify: bool) -> None:
        """Load the scaling head into a model built from `config` and `experts`.

        Raises:
            SavedFileUnreadable: the head's tensors are not those the configuration asks for.
            ReloadMismatch: with `verify`, the model's logits are not those saved.
        """
        if self.layers is not None and tuple(model.layers) != self.layers:
            raise SavedFileUnreadable(
                f"the saved model numbers {len(self.layers)} layers, this base model gives "
                f"{len(model.layers)} in that order; load it on the base model it was saved with"
            )
        try:
            model.head.load_state_dict(self.head, strict=True)
        except RuntimeError as error:
            raise SavedFileUnreadable(
                f"the scaling head does not fit the configuration, the experts and this base model: {error}"
            ) from error
        model.eval()
        if verify and self.reload_check is not None:
            self.reload_check.require_same(model)


def _hub_name(loaded_from: str | None) -> str | None:
    """A base model's name on the hub, unless it was loaded from a folder."""
    if loaded_from and looks_like_repository(loaded_from) and not Path(loaded_from).exists():
        return loaded_from
    return None
