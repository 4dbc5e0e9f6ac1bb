"""A bundle's card as Markdown, for people."""

from collections.abc import Iterator
from typing import Any

from fer_ml.bundles.bundle import Card
from fer_ml.bundles.provenance import Chain
from fer_ml.metrics.comparability import look_note

#: The set that a reader looks at first, and the end of its name without near twins.
MIXED, ALONE = "test_all_sources", ".deduplicated"
_COLOURS = {"grey": "grey", "rgb": "colour"}


def as_markdown(card: Card, chain: Chain | None) -> str:
    """Return the card as Markdown: the model, its quality, its limits, and its chain if given."""
    return "\n".join([*_what(card), *_how_good(card), *_abstention(card), *_chain(chain)]) + "\n"


def _what(card: Card) -> Iterator[str]:
    spec = card.preprocess
    yield f"# {card.name}, profile {card.profile}, {card.precision}"
    yield ""
    yield "| field | value |"
    yield "| --- | --- |"
    yield f"| network | {card.architecture}, {len(card.classes)} classes |"
    yield f"| input | one face of {spec.size} x {spec.size} px, in {_COLOURS[spec.colour]} |"
    for name, frame in card.frames.items():
        yield (
            f"| square about a box of {name} | {frame.side:g} times as high as the box, its centre "
            f"{frame.down:+g} box heights lower |"
        )
    yield f"| trained on | {card.data} |"
    yield f"| licence | {card.licence} |"
    yield f"| intended use | {card.intended_use} |"
    yield f"| sha256 of the network | `{card.model_sha256}` |"
    yield f"| sha256 of the checkpoint | `{card.checkpoint_sha256}` |"


def _how_good(card: Card) -> Iterator[str]:
    sets = dict(_sets(card))
    if not sets:
        return
    yield ""
    yield "## How good it is"
    yield ""
    yield "Faces without a near twin in training come first. In brackets: 95% intervals, resampled"
    yield f"by group. ECE is after scaling with temperature {card.temperature:.3f}, which"
    yield "calib chose. By chance: the ECE of a model whose confidences are all true, and its 95th"
    yield "percentile."
    yield ""
    yield "| faces | n | accuracy | macro-F1 | ECE | by chance | role |"
    yield "| --- | ---: | --- | --- | --- | --- | --- |"
    for name, entry in sets.items():
        chosen = "chose the checkpoint" if entry["selection_split"] else "chose nothing"
        chosen = look_note(entry) or chosen
        yield (
            f"| {name} | {entry['n']:,} | {_with_interval(entry, 'accuracy')} "
            f"| {_with_interval(entry, 'macro_f1')} "
            f"| {_with_interval(entry, 'ece_scaled', 'ece')} | {_chance(entry)} | {chosen} |"
        )
    main = next((name for name in sets if name.startswith(MIXED)), None)
    if main is not None:
        entry = sets[main]
        yield ""
        yield f"By class, on {main}:"
        yield ""
        yield "| class | F1 |"
        yield "| --- | --- |"
        for name, f1 in entry["per_class_f1"].items():
            yield f"| {name} | {_bracketed(f1, entry['intervals'].get(f'f1_{name}'))} |"
    yield from _corrupted(card)
    against = card.metrics.get("against_fp32")
    if against:
        yield ""
        yield (
            f"These are figures of the full network. In {card.precision} it gives the same label "
            f"to {against['same_label']:.4f} of {against['n']:,} faces of {against['split']}, "
            f"and its macro-F1 there is {against['macro_f1_lost']:.4f} lower."
        )


def _corrupted(card: Card) -> Iterator[str]:
    held = card.metrics.get("robustness")
    if held is None:
        return
    yield ""
    yield "## On corrupted faces"
    yield ""
    yield f"{held['n']:,} of the {held['drawn_from']:,} faces of {held['set']}, corrupted in every"
    yield "way at five strengths (a mirror has one). ECE and the 95th percentile of chance are"
    yield "means over the strengths; the temperature holds where the ECE is no larger than that."
    if looked := look_note(held):
        yield f"The faces were {looked}."
    yield ""
    yield "| kind | accuracy | macro-F1 | ECE | by chance | temperature holds |"
    yield "| --- | --- | --- | ---: | ---: | --- |"
    for kind, cell in held["kinds"].items():
        accuracy, macro_f1 = (
            _bracketed(cell[name], [cell[f"{name}_low"], cell[f"{name}_high"]])
            for name in ("accuracy", "macro_f1")
        )
        yield (
            f"| {kind} | {accuracy} | {macro_f1} | {cell['ece_scaled']:.3f} "
            f"| {cell['ece_by_chance_high']:.3f} | {cell['temperature_holds']} |"
        )


def _sets(card: Card) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each set's name for readers and its figures, without near twins before as published."""
    sets = {name: entry for name, entry in card.metrics.items() if "per_class_f1" in entry}
    for name in dict.fromkeys(name.removesuffix(ALONE) for name in sets):
        alone, published = sets.get(name + ALONE), sets.get(name)
        if alone is not None:
            yield f"{name} ({alone['split']}), no near twins", alone
        if published is not None and (alone is None or alone["n"] != published["n"]):
            yield (
                f"{name} ({published['split']})" + ", as published" * (alone is not None),
                published,
            )


def _chance(entry: dict[str, Any]) -> str:
    chance = entry.get("ece_by_chance")
    return "not known" if chance is None else f"{chance['mean']:.3f} ({chance['high']:.3f})"


def _with_interval(entry: dict[str, Any], metric: str, interval: str | None = None) -> str:
    return _bracketed(entry[metric], entry["intervals"].get(interval or metric))


def _bracketed(value: float, interval: list[float] | None) -> str:
    text = f"{value:.3f}"
    return text if interval is None else f"{text} ({interval[0]:.3f} to {interval[1]:.3f})"


def _abstention(card: Card) -> Iterator[str]:
    if not card.abstention:
        return
    yield ""
    yield "## When it says 'unsure'"
    yield ""
    yield f"The demo answers at a confidence of {card.unsure_below:.3f} and above."
    if card.least_px:
        yield f"A face whose square is under {card.least_px} px is 'too small'."
    if card.least_log_sum_exp is not None:
        yield "A face whose logits are unlike those of calib (log of the summed exponentials under"
        yield f"{card.least_log_sum_exp:.2f}) is 'unsure' too."
    reached = [threshold for threshold in card.abstention if threshold.threshold is not None]
    if not reached:
        yield "No confidence keeps any of these risks on calib, so every answer is 'unsure'."
    elif all(threshold.bound is None for threshold in reached):
        yield "Each confidence had no more wrong answers than wanted on calib; no bound is known."
    else:
        yield "Each confidence was chosen on calib so that, with 95% certainty, no more of the"
        yield "answers are wrong than wanted: on clean faces, and on corrupted ones where it holds"
        yield "on both."
    yield ""
    yield (
        "| wanted share of wrong answers | confidence | holds on | answered | wrong | bound "
        "| answered, corrupted | wrong | bound |"
    )
    yield "| ---: | ---: | --- | --- | --- | ---: | --- | --- | ---: |"
    for threshold in card.abstention:
        if threshold.threshold is None or threshold.coverage is None or threshold.risk is None:
            yield f"| {threshold.wanted_risk:g} | none reaches it | | | | | | | |"
            continue
        bound = "not known" if threshold.bound is None else f"{threshold.bound:.3f}"
        holds = "both" if threshold.holds_corrupted else "clean"
        hard, cells = threshold.corrupted, ("not known",) * 3
        if hard is not None:
            cells = (_share(hard.coverage), _share(hard.risk), f"{hard.bound:.3f}")
        yield (
            f"| {threshold.wanted_risk:g} | {threshold.threshold:.3f} "
            f"| {'not known' if threshold.bound is None else holds} "
            f"| {_share(threshold.coverage)} | {_share(threshold.risk)} | {bound} "
            f"| {' | '.join(cells)} |"
        )
    yield from _promise(card)


def _share(share: tuple[float, float, float] | None) -> str:
    return "no answer" if share is None else _bracketed(share[0], list(share[1:]))


def _promise(card: Card) -> Iterator[str]:
    """Say on which faces the promise was tested, what it gave there, and on which it was not."""
    held = card.metrics.get("robustness")
    yield ""
    if held is None:
        yield "The promise was tested on faces of calib alone"
    else:
        yield f"On {held['n']:,} test faces at {card.unsure_below:.3f}, by kind of corruption:"
        yield ""
        yield "| kind | answered | wrong of the answers |"
        yield "| --- | ---: | ---: |"
        for kind, cell in held["kinds"].items():
            wrong = "no answer" if cell["wrong"] is None else f"{cell['wrong']:.3f}"
            yield f"| {kind} | {cell['answered']:.3f} | {wrong} |"
        yield ""
        yield "The promise was tested on these kinds, one at a time, on faces of the sources above"
    yield "and on no others: not on faces of other sources or cameras, not on posed expressions,"
    yield "not on several corruptions at once, and not by age, sex or ethnicity."


def _chain(chain: Chain | None) -> Iterator[str]:
    if chain is None:
        return
    yield ""
    yield "## What it was made from"
    yield ""
    yield "From the raw folders up. Each hash covers all files of its artifact; `lineage.json` has"
    yield "the hash of each file, the recipes and the inputs."
    yield ""
    yield "| artifact | sha256 | made from |"
    yield "| --- | --- | --- |"
    for named in chain.raw:
        yield f"| `{named.label}` | `{named.sha256[:12]}` | |"
    for link in chain.links:
        inputs = ", ".join(f"`{named.label}`" for named in link.inputs)
        yield f"| `{link.label}` | `{link.sha256[:12]}` | {inputs} |"
