"""Azure ML's backend for the tests: MLflow's real server behind a door that Azure's real plugin takes for a workspace.

    azureml://127.0.0.1:PORT/... ── plugin ──► https://127.0.0.1:PORT/mlflow/v2.0/subscriptions/... ── door ──► server

The door speaks TLS, asks for a job's token, and has the limits that Azure documents. What it has not is Azure's own store of
files: they go to MLflow's server, through the same door.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..mlflow.backend import prepare, server
from ..mlflow.gate import Gate, bearer
from ..mlflow.store import Store

EXPERIMENT = "the-job's-experiment"
WORKSPACE = (
    "/subscriptions/0123-4567/resourceGroups/a-group/providers/Microsoft.MachineLearningServices/workspaces/a-workspace"
)


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


TOKEN = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part({'exp': 4_000_000_000, 'jti': 'a-jobs-secret'})}.c2lnbmVk"
"""What a job gets: a JSON web token, of which the plugin reads how long it is good."""


class Limits:
    """What Azure ML refuses, by https://aka.ms/azure-machine-learning-limits and by what its users report."""

    def __init__(self) -> None:
        self._params: dict[str, set[str]] = {}
        self._tags: dict[str, set[str]] = {}
        self._files: set[str] = set()

    def __call__(self, method: str, path: str, body: bytes) -> str | None:
        if method == "PUT":
            known = path in self._files
            self._files.add(path)
            return f"UserError: Resource Conflict: ArtifactId {path} already exists." if known else None
        if method != "POST" or not body.startswith(b"{"):
            return None
        sent = json.loads(body)
        one = [{"key": sent["key"], "value": sent["value"]}] if {"key", "value"} <= sent.keys() else []
        run, last = str(sent.get("run_id")), path.rpartition("/")[2]
        params = sent.get("params", one if last == "log-parameter" else [])
        tags = sent.get("tags", one if last == "set-tag" else [])
        known_params, known_tags = self._params.setdefault(run, set()), self._tags.setdefault(run, set())
        known_params |= {param["key"] for param in params}
        known_tags |= {tag["key"] for tag in tags}
        return (
            _over("Parameters", 200, len(known_params))
            or _over("Parameter.Value/Length", 500, *(len(param["value"]) for param in params))
            or _over("Tags", 50, len(known_tags))
            or _over("Tags.Key/Length", 100, *(len(tag["key"]) for tag in tags))
            or _over("Tags.Value/Length", 1000, *(len(tag["value"]) for tag in tags))
            or _over("MetricV2Dto.Value/Count", 250, len(sent.get("metrics", [])))
        )


def _over(field: str, limit: int, *sizes: int) -> str | None:
    if (size := max(sizes, default=0)) <= limit:
        return None
    return f"A field of the entity is over the size limit. FieldName={field}, Limit={limit}, Size={size}."


class Azure:
    """A workspace.

    Attributes:
        gate: Its door.
        store: What is behind it.
    """

    def __init__(self, gate: Gate, store: Store, certificate: Path, address: str) -> None:
        self.gate, self.store = gate, store
        self._certificate, self._address = certificate, address

    @property
    def uri(self) -> str:
        """What MLflow calls it."""
        return f"azureml://127.0.0.1:{self.gate.port}/mlflow/v1.0{WORKSPACE}"

    @property
    def client(self) -> Any:
        """MLflow's own client, straight at the server behind the door."""
        from mlflow import MlflowClient

        return MlflowClient(self._address)

    def job(self) -> dict[str, str]:
        """Starts a job: its run, and the environment that Azure ML gives it."""
        client = self.client
        experiment = client.get_experiment_by_name(EXPERIMENT)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
        run = client.create_run(experiment_id, run_name="brave_tree_abc123", tags={"mlflow.user": "somebody"})
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_TOKEN": TOKEN,
            "MLFLOW_EXPERIMENT_ID": experiment_id,
            "MLFLOW_EXPERIMENT_NAME": EXPERIMENT,
            "MLFLOW_RUN_ID": run.info.run_id,
            "AZUREML_RUN_ID": run.info.run_id,
            "AZUREML_CURRENT_CLOUD": "AzureCloud",  # else the plugin asks the internet for the list of clouds
            "REQUESTS_CA_BUNDLE": str(self._certificate),
        }


@contextmanager
def azure(folder: Path) -> Iterator[Azure]:
    """A workspace of Azure ML.

    Args:
        folder: Where the server keeps its things.
    """
    certificate = folder / "certificate.pem"
    certificate.write_bytes(_self_signed())
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with Gate(0, bearer(TOKEN), f"/mlflow/v2.0{WORKSPACE}", Limits(), tls) as gate:
        root = f"{gate.url}/mlflow/v2.0{WORKSPACE}/api/2.0/mlflow-artifacts/artifacts"
        with server(prepare(folder), folder / "server", root) as address:
            gate.server_port = int(address.rpartition(":")[2])
            yield Azure(gate, Store(folder, "server/stored/*/{}/artifacts"), certificate, address)


def _self_signed() -> bytes:
    """Key and certificate of 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()) + certificate.public_bytes(encoding)
