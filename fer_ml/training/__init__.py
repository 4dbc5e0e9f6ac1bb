"""Training: one loop, several tasks; the metrics are those of the saved weights."""

#: Checklist A.4 of the interim report.
RUN_FILES = (
    "best.pt",
    "history.json",
    "reliabilitymetrics.json",
    "calibration.json",
    "alignmentreport.json",
)
