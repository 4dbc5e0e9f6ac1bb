"""OpenLineage run events, one JSON object a line (openlineage.io, spec 2-0-2).

Each artifact is a run of the job named after its asset: START, and COMPLETE with its inputs and its
output. Its gates are a run of ``<asset>/gates``, whose input carries the assertions.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    DatasetFacet,
    JobFacet,
    RunFacet,
    data_quality_assertions_dataset,
    dataset_version_dataset,
    execution_parameters_run,
    job_type_job,
    output_statistics_output_dataset,
    parent_run,
    processing_engine_run,
    tags_dataset,
    tags_run,
)
from openlineage.client.serde import Serde

from fer_ml.base.files import write_atomic
from fer_ml.claims.trace import Node
from fer_ml.exchange.facts import (
    PRODUCER,
    SOFTWARE,
    artifact_facts,
    path_of,
    portable,
    run_uuid,
    software_version,
    times,
)
from fer_ml.storage.artifact import Artifact


def write(nodes: Sequence[Node], profile: str, out: Path) -> None:
    """Write all events, each artifact's after those of its inputs."""
    lines = [Serde.to_json(event) for node in nodes for event in events(node, profile)]
    write_atomic(out, ("\n".join(lines) + "\n").encode())


def events(node: Node, profile: str) -> Iterator[RunEvent]:
    """Yield the events of one artifact; none for raw folders and for deleted artifacts."""
    artifact = node.artifact
    if artifact is None:
        return
    start, end = times(artifact)
    run = Run(runId=run_uuid(artifact), facets=_run_facets(artifact, node, profile))
    job = _job(path_of(node), profile, "ASSET")
    inputs = [InputDataset(**_dataset(below, profile)) for below in node.inputs]
    output = OutputDataset(
        **_dataset(node, profile), outputFacets={"outputStatistics": _size(artifact)}
    )
    yield _event(RunState.START, start.isoformat(), run, job, inputs)
    yield _event(RunState.COMPLETE, end.isoformat(), run, job, inputs, [output])
    checked = sorted(receipt.checked_at for receipt in artifact.receipts().values())
    if checked:
        judged = InputDataset(
            **_dataset(node, profile), inputFacets={"dataQualityAssertions": _assertions(artifact)}
        )
        run = Run(runId=run_uuid(artifact, "gates"))
        job = _job(f"{path_of(node)}/gates", profile, "TEST")
        yield _event(RunState.START, checked[0], run, job)
        yield _event(RunState.COMPLETE, checked[-1], run, job, [judged])


def _event(
    state: RunState,
    moment: str,
    run: Run,
    job: Job,
    inputs: Sequence[InputDataset] = (),
    outputs: Sequence[OutputDataset] = (),
) -> RunEvent:
    return RunEvent(
        eventTime=moment,
        eventType=state,
        run=run,
        job=job,
        inputs=list(inputs),
        outputs=list(outputs),
        producer=PRODUCER,
    )


def _job(name: str, profile: str, kind: str) -> Job:
    facet: dict[str, JobFacet] = {
        "jobType": job_type_job.JobTypeJobFacet(
            processingType="BATCH", integration="FER", jobType=kind, producer=PRODUCER
        )
    }
    return Job(namespace=f"fer/{profile}", name=name, facets=facet)


def _dataset(node: Node, profile: str) -> dict[str, Any]:
    """Return the arguments of a dataset: name, and content hash (a raw folder's fingerprint)."""
    facets: dict[str, DatasetFacet] = {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(
            datasetVersion=node.item.sha256, producer=PRODUCER
        )
    }
    facts = artifact_facts(node)
    if facts:
        facets["tags"] = tags_dataset.TagsDatasetFacet(
            tags=[
                tags_dataset.TagsDatasetFacetFields(key=key, value=value, source="FER")
                for key, value in facts.items()
            ],
            producer=PRODUCER,
        )
    if node.artifact is not None:
        files = {n: entry.model_dump() for n, entry in node.artifact.record.files.items()}
        facets["fer_files"] = DatasetFacet(producer=PRODUCER).with_additional_properties(
            files=files
        )  # type: ignore[assignment]
    return {"namespace": f"fer/{profile}", "name": path_of(node), "facets": facets}


def _size(
    artifact: Artifact,
) -> output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet:
    rows = artifact.record.summary.get("rows")
    return output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=rows if isinstance(rows, int) else None,
        size=sum(entry.bytes for entry in artifact.record.files.values()),
        fileCount=len(artifact.record.files),
        producer=PRODUCER,
    )


def _run_facets(artifact: Artifact, node: Node, profile: str) -> dict[str, RunFacet]:
    record = artifact.record
    facets: dict[str, RunFacet] = {
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
            version=software_version(), name=SOFTWARE, producer=PRODUCER
        ),
        "tags": tags_run.TagsRunFacet(
            tags=[
                tags_run.TagsRunFacetFields(key=key, value=value, source="FER")
                for key, value in artifact_facts(node).items()
            ],
            producer=PRODUCER,
        ),
    }
    if record.recipe:
        facets["executionParameters"] = execution_parameters_run.ExecutionParametersRunFacet(
            parameters=[
                execution_parameters_run.ExecutionParameter(
                    key=key,
                    name=key,
                    # The specification knows parameters as strings alone.
                    value=value if isinstance(value, str) else json.dumps(value),
                )
                for key, value in portable(record.recipe).items()
            ],
            producer=PRODUCER,
        )
    if record.run_id is not None:
        facets["parent"] = parent_run.ParentRunFacet(
            run=parent_run.Run(runId=record.run_id),
            job=parent_run.Job(namespace=f"fer/{profile}", name="dagster"),
            producer=PRODUCER,
        )
    return facets


def _assertions(
    artifact: Artifact,
) -> data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet:
    return data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(
        assertions=[
            data_quality_assertions_dataset.Assertion(
                assertion=receipt.rule,
                success=receipt.passed,
                severity="error" if receipt.blocking else "warn",
                expected=str(portable(receipt.limit)),
                actual=str(portable(receipt.value)),
            )
            for receipt in artifact.receipts().values()
            if receipt.passed is not None  # OpenLineage knows success and failure alone.
        ],
        producer=PRODUCER,
    )
