"""The gates of all manifests, in the order in which they are judged."""

from dataclasses import replace

from fer_ml.base.labels import CLASSES
from fer_ml.recipes.profile import SPLITS
from fer_ml.storage.gates import Gate

MANIFEST_GATES: tuple[Gate, ...] = (
    Gate(
        "malformed_rows",
        "every line is a row: UTF-8, as many fields as the header, quotes in order",
        "write the file again, or mend the named lines",
    ),
    Gate(
        "csv_dialect",
        "UTF-8 without a byte order mark, LF line ends, no empty lines",
        "save the file as plain UTF-8; it was read, but other readers may stumble",
        blocking=False,
    ),
    Gate(
        "schema",
        "required cells are filled and numbers are numbers",
        "fill the named cells or quarantine the rows",
    ),
    Gate("bad_labels", f"every label is one of {', '.join(CLASSES)}", "correct the label table"),
    Gate("bad_splits", f"every split is one of {', '.join(SPLITS)}", "correct the split mapping"),
    Gate(
        "escaping_paths",
        "every path stays below the root: relative, without '..', no link that leads out",
        "put the images below the root and name them relative to it",
    ),
    Gate("missing_paths", "every image exists below the root", "restore the files, clean again"),
    Gate(
        "case_collisions",
        "no two images have paths that differ only in case or accents",
        "rename one of each pair: on another disk they would be one file",
    ),
    Gate("undecodable", "every image decodes", "replace the files, clean again"),
    Gate(
        "oversized",
        "no image says that it is larger than is safe to decode",
        "replace the files: a face needs no such image, and a small file may fill the memory",
    ),
    Gate(
        "image_modes",
        "every image is 8-bit grey or 8-bit RGB, and a single picture",
        "convert the files: decoding would drop colours, depth or pictures without a word",
    ),
    Gate(
        "suffixes",
        "every suffix is one of the file's format",
        "rename the files; other tools go by the suffix",
        blocking=False,
    ),
    Gate(
        "image_sizes",
        "width and height are those of the image",
        "clean again: the image was replaced, or the columns belong to another one",
    ),
    Gate(
        "changed_pixels",
        "every image still is the one that its sample_id was computed from",
        "clean again: an image was edited or replaced after the manifest was written",
    ),
    Gate("bad_boxes", "every box lies inside its image", "correct the boxes' frame of reference"),
    Gate(
        "duplicates",
        "no source has a face twice",
        "decide which row to keep; curated manifests can keep one row a face",
        blocking=False,
    ),
    Gate("leakage", "no photo (group) lies in two splits", "split by group, quarantine the twins"),
    Gate(
        "near_leakage",
        "no two faces that are copies of one photo (by the profile's `near`) lie in two splits",
        "split by group, quarantine the twins",
    ),
    Gate(
        "label_conflicts",
        "no face carries two labels",
        "decide which source to believe; curated manifests can keep one row a face",
        blocking=False,
    ),
    Gate(
        "class_coverage",
        "every split has every class",
        "add rows, or know that a class cannot be measured there",
        blocking=False,
    ),
    Gate(
        "imbalance",
        "rows of the largest training class for each of the smallest",
        "collect more, weight the loss, or adjust the logits",
        blocking=False,
    ),
    Gate(
        "sources_present",
        "every source that the recipe names has rows",
        "materialize its manifest, or take it out of the recipe",
    ),
    Gate(
        "reconciled",
        "the rows are exactly those that inputs and recipe give: none lost, none added",
        "materialize the manifest again; it was edited, or a row was lost",
    ),
    Gate(
        "drift",
        "rows, class shares, brightness and size are near those of the last accepted manifest",
        "look at what changed in the sources; if it was meant, nothing is to be done",
        blocking=False,
    ),
)


#: A training manifest without one of the classes teaches that it does not exist.
TRAINING_MANIFEST_GATES: tuple[Gate, ...] = tuple(
    replace(
        gate,
        blocking=True,
        fix="add a source that has the named classes to hq_train.sources: a network of seven "
        "classes is not trained without one of them, and a source that lacks it can be evaluated "
        "on (eval_only). Where only val, calib or test lack a class, raise draw.val, draw.calib or "
        "draw.test, or collect more faces of it",
    )
    if gate.rule == "class_coverage"
    else gate
    for gate in MANIFEST_GATES
)


def manifest_gates(asset: str) -> tuple[Gate, ...]:
    """Return the gates of a manifest asset: the training manifest's, or those of all others."""
    return TRAINING_MANIFEST_GATES if asset == "hq_train_manifest" else MANIFEST_GATES
