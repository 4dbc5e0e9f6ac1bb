"""Training: one loop for several tasks; metrics are computed from the saved weights."""

#: Checklist A.4 of the interim report.
RUN_FILES = (
    "best.pt",
    "history.json",
    "reliabilitymetrics.json",
    "calibration.json",
    "alignmentreport.json",
)
