"""Which base model carries an adapter: the one asked for, the one it names, or the only one it fits. Pure."""

from collections.abc import Sequence

from registry.entities import BaseModel
from registry.errors import BaseNotFound, Incompatible
from registry.intake.adapter_files import AdapterManifest
from registry.intake.compatibility import WARN, CompatibilityResult, compatibility_of, refused
from registry.intake.fitting.misfits import NAMED


def choose_base(
    manifest: AdapterManifest, *, bases: Sequence[BaseModel], asked: BaseModel | None
) -> tuple[BaseModel, tuple[CompatibilityResult, ...]]:
    """The base model, and what the compatibility check warns of.

    Raises:
        BaseNotFound: no base model is registered.
        Incompatible: none can carry the adapter, or several could and it names none of them.
    """
    stated = manifest.config.base_model_name_or_path
    if asked is None and not bases:
        raise BaseNotFound(
            stated or "of this adapter",
            detail="none is registered; register it first: zoo register base FOLDER --name NAME",
        )
    chosen = asked or _named(stated, bases)
    if chosen is not None:
        return chosen, _warnings(manifest, chosen)
    fitting = [base for base in bases if not refused(_compatibility(manifest, base))]
    if len(fitting) == 1:
        return fitting[0], _warnings(manifest, fitting[0])
    if fitting:
        raise _undecided(fitting, stated)
    raise _unfitting(manifest, bases)


def _named(stated: str | None, bases: Sequence[BaseModel]) -> BaseModel | None:
    """The base model that the adapter's configuration names; the name is never opened as a path."""
    return next((base for base in bases if stated in _names(base)), None)


def _names(base: BaseModel) -> set[str]:
    # `hub:HuggingFaceTB/SmolLM2-135M@<commit>` is what PEFT writes as HuggingFaceTB/SmolLM2-135M.
    repository = base.source.removeprefix("hub:").partition("@")[0]
    return {base.name, base.digest, base.source, repository}


def _compatibility(manifest: AdapterManifest, base: BaseModel) -> tuple[CompatibilityResult, ...]:
    return compatibility_of(manifest, base.modules, base.name, architecture=base.architecture)


def _warnings(manifest: AdapterManifest, base: BaseModel) -> tuple[CompatibilityResult, ...]:
    results = _compatibility(manifest, base)
    refusals = refused(results)
    if refusals:
        raise Incompatible(
            f"base model {base.name} cannot carry this adapter:", reasons=[_line(v) for v in refusals]
        )
    return (*_another_named(manifest, base), *(result for result in results if result.level == WARN))


def _another_named(manifest: AdapterManifest, base: BaseModel) -> tuple[CompatibilityResult, ...]:
    """A warning where the adapter states another base model; folders are compared by their last names."""
    stated = manifest.config.base_model_name_or_path
    if not stated or _last_name(stated) in map(_last_name, _names(base)):
        return ()
    message = (
        f"it was trained on {stated}, as its configuration says, and is registered for {base.name}, which has"
        f" the same shapes: if that is not the same model, score both with zoo eval before you rely on it"
    )
    return (CompatibilityResult(level=WARN, code="ZOO-W207", message=message),)


def _last_name(path: str) -> str:
    return path.rstrip("/\\").replace("\\", "/").rpartition("/")[2]


def _undecided(fitting: Sequence[BaseModel], stated: str | None) -> Incompatible:
    names = ", ".join(base.name for base in fitting)
    return Incompatible(
        f"the adapter fits several base models ({names}) and names {stated or 'none'};"
        f" say which it was trained on: --base {fitting[0].name}"
    )


def _unfitting(manifest: AdapterManifest, bases: Sequence[BaseModel]) -> Incompatible:
    shown = bases[:NAMED]
    reasons = [_line(result) for base in shown for result in refused(_compatibility(manifest, base))]
    if len(bases) > len(shown):
        reasons.append(f"nor can {len(bases) - len(shown)} others")
    stated = manifest.config.base_model_name_or_path
    return Incompatible(
        f"no registered base model can carry this adapter, which names {stated or 'none'};"
        " register its own: zoo register base FOLDER --name NAME",
        reasons=reasons,
    )


def _line(result: CompatibilityResult) -> str:
    return f"{result.code} {result.message}"
