"""The table of programs whose adapters are converted: how their folders are known, and what converts them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from formats.peft import CONFIG_FILE, WEIGHTS_FILE
from formats.strict_json import parse_object
from registry.errors import AdapterConfigInvalid, InvalidAdapter, WeightsInvalid
from registry.files.json_text import as_json
from registry.files.safetensors_file import SafetensorsFile, opened_tensors
from registry.files.staging import Staging
from registry.intake.adapter_config import stage_config
from registry.intake.folders.adapter_names import MLX_WEIGHTS, WEIGHTS
from registry.intake.folders.pickles import pickle_refusal, refuse_other_content
from registry.intake.folders.places import AdapterPlace
from registry.intake.makers import adapterhub, kohya, mlx
from registry.intake.makers.conversion import Conversion, safetensors_of

Config = Mapping[str, Any]
#: The names of the modules of each base model that the adapter may be of.
ModulePaths = Callable[[], Sequence[Collection[str]]]

_SOURCE = "source.safetensors"


@dataclass(frozen=True, kw_only=True)
class Maker:
    """One program: how its folders are known, what its configuration alone refuses, the conversion."""

    name: str
    is_maker: Callable[[AdapterPlace, Config], bool]
    check: Callable[[Config], object]
    convert: Callable[[Config, SafetensorsFile, ModulePaths], Conversion]
    #: What else there is to say of a folder.
    note: Callable[[AdapterPlace], str | None] = lambda _: None


MAKERS: tuple[Maker, ...] = (
    Maker(
        name=mlx.NAME,
        is_maker=lambda place, config: (
            mlx.states_mlx(config) or (not config and place.weights in MLX_WEIGHTS)
        ),
        check=mlx.check_mlx,
        convert=lambda config, file, _: mlx.convert_mlx(config, file.entries),
    ),
    Maker(
        name=adapterhub.NAME,
        is_maker=lambda _, config: adapterhub.states_adapterhub(config),
        check=adapterhub.refuse_other_kinds,
        convert=lambda config, file, _: adapterhub.convert_adapterhub(config, file.entries),
        note=lambda place: adapterhub.head_note(place.files),
    ),
    Maker(
        name=kohya.NAME,
        is_maker=lambda place, config: (
            not config and place.weights is not None and place.weights not in WEIGHTS
        ),
        check=lambda _: None,
        convert=lambda _, file, paths: kohya.convert_kohya(file, module_paths=paths()),
    ),
)


def convert_foreign(place: AdapterPlace, staging: Staging, *, module_paths: ModulePaths) -> tuple[str, ...]:
    """Stage PEFT's two files, converted from those of another program; notes on that, none if it was PEFT.

    Raises:
        InvalidAdapter: it cannot be converted exactly; the message names the program and the way out.
        PickleRefused: its weights are a pickle.
    """
    config = _config_of(place, staging)
    maker = next((maker for maker in MAKERS if maker.is_maker(place, config)), None)
    if maker is None:
        return ()
    maker.check(config)
    weights = place.weights
    if weights is None:
        raise InvalidAdapter(f"{place.folder} is an adapter of {maker.name} without its weights")
    if WEIGHTS.get(weights):
        raise pickle_refusal(place.folder / weights)
    called = place.folder / weights
    copy = staging.copy(place.files[weights], _SOURCE, refusal=WeightsInvalid)
    refuse_other_content(copy.path, called=called)
    with opened_tensors(copy.path, called=called) as file:
        conversion = maker.convert(config, file, module_paths)
        staging.write(WEIGHTS_FILE, safetensors_of(conversion, file))
    staging.write(CONFIG_FILE, as_json(conversion.config).encode())
    made = f"converted from {maker.name}'s form to PEFT's, which computes the same"
    return tuple(filter(None, (made, maker.note(place))))


def _config_of(place: AdapterPlace, staging: Staging) -> Config:
    """What the copy of adapter_config.json states; as PEFT's where it cannot be read: refused later."""
    if CONFIG_FILE not in place.files:
        return {}
    try:
        copy = stage_config(place.files[CONFIG_FILE], staging)
        return parse_object(copy.read(), what=CONFIG_FILE, refusal=AdapterConfigInvalid)
    except AdapterConfigInvalid:
        return {"peft_type": None}
