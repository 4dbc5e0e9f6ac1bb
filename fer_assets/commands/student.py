"""Choose the student that a command runs."""

from pathlib import Path

from fer_ml.base.errors import FerError


def bundle_folder(bundle: Path | None, profile: str | None, precision: str | None = None) -> Path:
    """Return the given bundle, the student of the given profile, or the one that ships."""
    if profile is None:
        if precision is not None:
            raise FerError(
                "--precision needs --profile",
                code="missing-option",
                fix="name the profile: -p NAME",
            )
        from demo_app.shipped import SHIPPED

        return bundle or SHIPPED
    if bundle is not None:
        raise FerError(
            "--bundle and --profile exclude each other",
            code="options-conflict",
            fix="leave one of them out",
        )
    return _bundle_of_profile(profile, precision or "fp32")


def _bundle_of_profile(profile: str, precision: str) -> Path:
    from fer_assets.pipeline import Pipeline

    store = Pipeline.open(profile).store
    if precision == "fp32":
        return store.require("student_bundle").folder
    small = store.require("small_bundles")
    offered = [p for p in ("fp16", "int8") if f"{p}/card.json" in small.record.files]
    if precision not in offered:
        raise FerError(
            f"precision {precision!r} is not offered: macro-F1 lost "
            f"{small.record.summary.get(f'{precision}_macro_f1_lost')}, latency "
            f"{small.record.summary.get(f'{precision}_latency_ratio')} times that of fp32",
            code="precision-not-offered",
            where=small.folder,
            allowed=", ".join(("fp32", *offered)),
        )
    return small.folder / precision
