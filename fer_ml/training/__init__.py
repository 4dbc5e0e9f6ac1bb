"""Training: one loop, several tasks, run folders whose metrics are those of the saved bytes."""

#: Checklist A.4 of the interim report.
RUN_FILES = (
    "best.pt",
    "history.json",
    "reliabilitymetrics.json",
    "calibration.json",
    "alignmentreport.json",
)
