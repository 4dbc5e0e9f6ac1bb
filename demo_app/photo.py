"""Classify the faces of a single photo."""

from pathlib import Path

from demo_app.detection import Detection, Detector
from demo_app.faces import Face, classify, doubts, prepare_faces
from demo_app.parameters import parameters_for
from demo_app.stabilisation import START, step
from fer_ml.bundles.bundle import Bundle
from fer_ml.images.pixels import prepare, read_image


def classify_photo(path: Path, bundle: Bundle, detector: Detector | None) -> list[Face]:
    """Find and classify every face of a photo, ordered by the detector's score.

    Without a detector the whole photo is one face, as training takes a cropped one. A face whose
    best probability is below the bundle's limit has ``state.status`` 'unsure', and one whose square
    is under the least side 'too_small'. An empty list means that no face was found; ``FerError`` if
    the photo cannot be read.
    """
    image = read_image(path)
    if detector is None:
        height, width = image.shape[:2]
        detections = [Detection((0, 0, width, height), 1.0)]
        faces = prepare(image, None, bundle.card.preprocess)[None]
    else:
        detections = detector.detect(image)
        if not detections:
            return []
        faces = prepare_faces(image, detections, bundle, detector.name)
    settings = parameters_for(bundle.card)
    probs, familiar = classify(faces, bundle)
    held = doubts(detections, familiar, bundle, None if detector is None else detector.name)
    return [
        Face(index, found.box_xyxy_px, found.score, seen, step(START, seen, 0.0, settings, doubt))
        for index, (found, seen, doubt) in enumerate(zip(detections, probs, held, strict=True))
    ]
