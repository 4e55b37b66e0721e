"""The enforcement point in the agent's process: ask the sidecar, run the tool with the token, report what came of it.

Any failure of any kind means that the tool does not run. Needs only grpcio and protobuf.
"""

from authz_sidecar.client.aio import AsyncClient, AsyncTask
from authz_sidecar.client.call import CallOptions, Grant
from authz_sidecar.client.credentials import SvidFiles
from authz_sidecar.client.decision import ApprovalRequired, Decision, Denied, Permitted, Policy
from authz_sidecar.client.errors import (
    ApprovalPending,
    AuthzError,
    RequestRejected,
    SidecarUnavailable,
    TaskRefused,
    ToolDenied,
    Violation,
)
from authz_sidecar.client.outcomes import OutcomeStatus
from authz_sidecar.client.sync import Client, Task
from authz_sidecar.client.tasks import Initiator, TaskInfo

__all__ = [
    "ApprovalPending",
    "ApprovalRequired",
    "AsyncClient",
    "AsyncTask",
    "AuthzError",
    "CallOptions",
    "Client",
    "Decision",
    "Denied",
    "Grant",
    "Initiator",
    "OutcomeStatus",
    "Permitted",
    "Policy",
    "RequestRejected",
    "SidecarUnavailable",
    "SvidFiles",
    "Task",
    "TaskInfo",
    "TaskRefused",
    "ToolDenied",
    "Violation",
]
