"""Settings that can change while the demo runs; each logged row has their hash."""

import hashlib
import json

from pydantic import Field

from demo_app.stabilisation import StabiliserSettings
from fer_ml.bundles.bundle import Card


class Parameters(StabiliserSettings):
    """The stabiliser's settings, and n, if the detector runs on every n-th frame."""

    detect_every: int = Field(default=1, ge=1, le=30)

    def digest(self) -> str:
        """Return the sha256 of the canonical JSON of all fields."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


#: By key: the field that it turns and by how much; the keys are those of the first demo.
TURNS: dict[str, tuple[str, float]] = {
    "[": ("ema_tau_s", -0.05),
    "]": ("ema_tau_s", 0.05),
    "-": ("hysteresis_delta", -0.01),
    "=": ("hysteresis_delta", 0.01),
    "v": ("vote_s", -0.1),
    "b": ("vote_s", 0.1),
    "n": ("vote_share", -0.05),
    "m": ("vote_share", 0.05),
    "k": ("unsure_below", -0.05),
    "l": ("unsure_below", 0.05),
}


def parameters_for(card: Card) -> Parameters:
    """Return the defaults, with the abstention limit that was calibrated for this bundle."""
    return Parameters(unsure_below=card.unsure_below)


def turned(parameters: Parameters, key: str) -> Parameters:
    """Return the parameters after one press of ``key``; unchanged at the end of a field's range."""
    field, by = TURNS[key]
    values = parameters.model_dump() | {field: round(getattr(parameters, field) + by, 6)}
    try:
        return Parameters.model_validate(values)
    except ValueError:
        return parameters
